"""The command, run as a shell would, and what it leaves."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from hedmlive.cli import main


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> dict[str, str]:
        """The lines of standard output by their first word."""
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in self.out.splitlines()}

    @property
    def digest(self) -> str:
        """What `reduce` and `replay` print as the digest of the science."""
        assert (self.code, self.err) == (0, ""), self
        return self.said["digest"].split()[0]


def hedmlive(*arguments: object) -> Ended:
    """Run the command in this process, where nothing is a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    code = ended.value.code
    return Ended(0 if code is None else int(code), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run() -> Callable[..., Ended]:
    """Run the command."""
    return hedmlive


@pytest.fixture
def frame_cache(tmp_path: Path) -> Path:
    """Four frames of 8 x 9 with one spot that stays for three of them."""
    spot = {"row": np.array([2, 2, 3]), "col": np.array([4, 5, 4])}
    frames = {f"{i}_{name}": each for i in range(3) for name, each in spot.items()}
    frames |= {f"{i}_data": np.array([90, 80, 70], np.uint16) for i in range(3)}
    frames |= {"3_row": np.zeros(0, int), "3_col": np.zeros(0, int), "3_data": np.zeros(0, np.uint16)}
    omega = np.array([[i, i + 1] for i in range(4)], float)
    path = tmp_path / "scan.npz"
    np.savez(path, shape=[8, 9], nframes=4, dtype="uint16", omega=omega, **frames)  # type: ignore[arg-type]
    return path

"""The command `watch`: what it prints, how it ends, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_scans as scans
import pytest
import yaml

Run = Callable[..., Any]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    said = scans.settings(tmp_path / "out", **scans.GE_PROFILE)
    said["watch"] |= {"finished": {"stable_seconds": 0.1}, "poll_seconds": 0.02}
    path = tmp_path / "hedmlive.yml"
    path.write_text(yaml.safe_dump(said))
    return path


def test_every_file_is_named_with_its_digest(run: Run, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    scans.whole(scans.write_ge, tmp_path / "in" / "scan.ge2")
    ended = run("watch", tmp_path / "in", "--settings", settings, "--out", tmp_path / "out", "--once")
    assert (ended.code, ended.err) == (0, "")
    assert ended.said["file"] == "scan.ge2"
    assert ended.said["digest"].split()[0] == scans.expected_digest()
    again = run("watch", tmp_path / "in", "--settings", settings, "--out", tmp_path / "out", "--once")
    assert (again.code, again.out, again.err) == (0, "", "")


def test_a_broken_file_is_one_line_and_the_exit_code(run: Run, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.h5").write_bytes(b"no hdf5")
    ended = run("watch", tmp_path / "in", "--settings", settings, "--out", tmp_path / "out", "--once")
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.err.splitlines()] == [f"! {tmp_path / 'in' / 'bad.h5'}", "hedmlive"]


def test_the_pattern_may_be_said_on_the_line(run: Run, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.h5").write_bytes(b"no hdf5")
    line = ("watch", tmp_path / "in", "--settings", settings, "--out", tmp_path / "out", "--once")
    assert run(*line, "--pattern", "*.ge2").code == 0
    assert run(*line, "--pattern", "*.ge1", "--pattern", "*.ge2").code == 2
    assert run("watch", tmp_path / "nowhere", *line[2:]).code == 2

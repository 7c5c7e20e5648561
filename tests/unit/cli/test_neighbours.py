"""The command that shows a trajectory: from settings alone, and from the archive of a run."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import yaml

from hedmlive.callbacks import load_settings, process

Run = Callable[..., Any]
AXES = {
    "omega": {"start": -180, "step": 30, "count": 12, "marks": "start"},
    "dty": {"start": 0, "step": 0.5, "count": 3},
    "L1": {"start": 5, "step": 2, "count": 2, "link": False},
}
NESTED = {"axes": AXES, "order": ["L1", "dty", "omega"], "snaked": ["omega"], "skip_first": 1, "links": [[1, 7]]}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(trajectory: dict[str, Any]) -> Path:
        path = tmp_path / "hedmlive.yml"
        path.write_text(yaml.safe_dump(hostile.settings(tmp_path) | {"trajectory": trajectory}))
        return path

    return write


def test_settings_alone_are_shown(run: Run, file: Any, tmp_path: Path) -> None:
    ended = run("neighbours", file(NESTED), "--csv", tmp_path / "pairs.csv")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["axis", "linked", "positions", "first", "last", "step", "lines", "rings", "pairs"],
        ["omega", "yes", "12", "-165", "-165", "30", "6", "6", "72"],
        ["L1", "no", "2", "5", "7", "2", "0", "0", "0"],
        ["dty", "yes", "3", "0", "1", "0.5", "24", "0", "48"],
        ["virtual", "yes", "-", "-", "-", "-", "1", "0", "1"],
        ["frames", "1", "to", "72,", "positions", "from", "settings"],
        ["121", "pairs", "in", str(tmp_path / "pairs.csv")],
    ]
    with (tmp_path / "pairs.csv").open() as pairs:
        rows = list(csv.DictReader(pairs))
    assert len(rows) == 121
    assert rows[0] == {
        "frame_a": "1",
        "frame_b": "2",
        "axis": "omega",
        "omega_a": "-165.0",
        "L1_a": "5.0",
        "dty_a": "0.0",
        "omega_b": "-135.0",
        "L1_b": "5.0",
        "dty_b": "0.0",
    }


def archived(folder: Path, trajectory: dict[str, Any], **start: Any) -> Path:
    docs = hostile.run()
    docs[0][1].update(start)
    made = load_settings(hostile.settings(folder) | {"trajectory": trajectory})
    result = process(docs, made, write_raw=True)
    assert result.raw is not None
    return result.raw


PLAN = {"motors": ["omega"], "shape": [hostile.N_FRAMES], "extents": [[0, 3.5]]}


@pytest.mark.parametrize(
    ("trajectory", "start", "source"),
    [({}, PLAN, "documents"), ({"source": "positions", "axes": {"omega": {}}}, {}, "positions")],
)
def test_an_archive_is_shown(
    trajectory: dict[str, Any], start: dict[str, Any], source: str, run: Run, tmp_path: Path
) -> None:
    ended = run("neighbours", archived(tmp_path, trajectory, **start))
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert (lines[1][:3], lines[1][-3:]) == (["omega", "yes", "8"], ["1", "0", "7"])
    assert lines[-1] == ["frames", "0", "to", "7,", "positions", "from", source]


@pytest.mark.parametrize(
    ("trajectory", "code", "says"),
    [
        ({}, 2, "needs the documents of a run"),
        ({"axes": {"omega": {"start": "pso", "step": 1, "count": 4}}}, 2, "start of omega is the data key 'pso'"),
        ({"axes": {"omega": {"start": 0, "count": 4}}}, 2, "step is missing"),
    ],
)
def test_settings_that_tell_nothing(trajectory: dict[str, Any], code: int, says: str, run: Run, file: Any) -> None:
    ended = run("neighbours", file(trajectory))
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_archives_that_tell_nothing(run: Run, tmp_path: Path) -> None:
    ended = run("neighbours", archived(tmp_path / "a", {}))
    assert (ended.code, ended.out) == (2, "")
    assert "frames are neighbours in their order" in ended.err
    unread = archived(tmp_path / "b", {"source": "positions", "axes": {"L2": {"motor": "det_z"}}})
    ended = run("neighbours", unread)
    assert (ended.code, ended.out) == (1, "")
    assert "no event holds a position of L2" in ended.err

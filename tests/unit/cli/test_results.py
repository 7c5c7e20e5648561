"""`hedmlive results`: what is added is listed and shown, and what cannot be is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hostile
import pytest
import yaml

from hedmlive.callbacks import ResultsArchiveReader, load_settings, process

Run = Callable[..., Any]
TABLE = "item,rank,q_w,q_x,q_y,q_z,completeness,mine\n0,1,1,0,0,0,0.9,5\n0,2,0.6,0.8,0,0,0.1,6\n1,1,0,0,1,0,1,7\n"


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    result = process(hostile.run("array"), load_settings(hostile.settings(folder)), stem="scan", write_raw=True)
    assert result.reduced is not None
    return result.reduced


@pytest.fixture
def archive(reduced: Path, tmp_path: Path) -> Path:
    """A reduced archive beside which there are no results yet."""
    for kind in ("raw", "reduced"):
        (tmp_path / f"scan_{kind}.h5").write_bytes(reduced.with_name(f"scan_{kind}.h5").read_bytes())
    return tmp_path / "scan_reduced.h5"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "grains.csv"
    path.write_text(TABLE)
    return path


def test_what_is_added_is_listed_and_shown(run: Run, archive: Path, table: Path, tmp_path: Path) -> None:
    said = ("--program", "ours", "--program-version", "3", "--parameter", "hkls=[1, 2]", "--parameter", "mode=fast")
    ended = run("results", "add", archive, table, *said, "--method", "by hand", "--author", "me", "--note", "a note")
    results = tmp_path / "scan_results.h5"
    assert (ended.code, ended.err) == (0, "")
    assert f"{results}  result_0000: 2 items, 3 solutions" in ended.out
    assert run("results", "add", tmp_path / "scan_raw.h5", table, "--program", "other").code == 0
    listed = run("results", "list", results)
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert lines[0] == f"run {hostile.UID}"
    assert lines[2].split()[:8] == ["0", "ours", "3", "by", "hand", "2", "items,", "3"]
    assert "scan_reduced.h5 reduction_0000" in lines[2]
    assert "scan_raw.h5" in lines[3]
    shown = run("results", "show", results, "--attempt", 0, "--rank", 1)
    assert (shown.code, shown.err) == (0, "")
    for text in ("parameter hkls     [1, 2]", 'parameter mode     "fast"', "note               a note", "sha256", "me"):
        assert text in shown.out
    assert shown.out.splitlines()[-1].split() == ["1", "1", "0", "0", "1", "0", "1"]
    assert len(run("results", "show", results, "--rows", 1).out.splitlines()[-1].split()) == 3  # ... 2 more


def test_what_is_written_as_a_table_is_the_same_when_it_is_added(
    run: Run, archive: Path, table: Path, tmp_path: Path
) -> None:
    run("results", "add", archive, table, "--program", "ours")
    written = tmp_path / "again.csv"
    assert run("results", "show", tmp_path / "scan_results.h5", "--csv", written).code == 0
    assert run("results", "add", archive, written, "--program", "ours").code == 0
    with ResultsArchiveReader(tmp_path / "scan_results.h5") as reader:
        first, second = (reader.attributes(each)["digest"] for each in (0, 1))
    assert first == second


def test_solutions_that_were_changed_are_told(run: Run, archive: Path, table: Path, tmp_path: Path) -> None:
    run("results", "add", archive, table, "--program", "ours")
    with h5py.File(tmp_path / "scan_results.h5", "r+") as file:
        values: Any = file["result_0000/solutions/completeness"]
        values[0] = 0.5
    ended = run("results", "show", tmp_path / "scan_results.h5")
    assert ended.code == 1
    assert "its solutions were changed since" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("add", "ARCHIVE", "TABLE"), 2, "does not say which program made it; give --program"),
        (("add", "ARCHIVE", "TABLE", "--program", "x", "--parameter", "a"), 2, "--parameter a: wanted NAME=VALUE"),
        (("add", "ARCHIVE", "TABLE", "--program", "x", "--cell", "1,2,3"), 2, "--cell 1,2,3: wanted a,b,c"),
        (("add", "ARCHIVE", "TABLE", "--program", "x", "--reduction", "3"), 1, "no reduction 3"),
        (("add", "ARCHIVE", "none.csv"), 2, "none.csv: cannot be read"),
        (("add", "TABLE", "TABLE", "--program", "x"), 2, "wanted an archive of a run"),
        (("add", "ARCHIVE", "TABLE", "--program", "x", "--settings", "SETTINGS"), 2, "has no block `tiled`"),
        (("list", "ARCHIVE"), 1, "not a results archive"),
        (("show", "none_results.h5"), 1, "no such file; wanted a results archive"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run: Run, archive: Path, table: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    settings = archive.with_name("hedmlive.yml")
    settings.write_text(yaml.safe_dump(hostile.settings(archive.parent)))
    named = {"ARCHIVE": archive, "TABLE": table, "SETTINGS": settings}
    ended = run("results", *(named.get(each, each) for each in arguments))
    assert ended.code == code
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not archive.with_name("scan_results.h5").exists()

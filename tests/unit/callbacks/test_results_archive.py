"""Results archives: what is written is read back, what is broken is named, what was there stays."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedmlive.callbacks import NewResult, ResultsArchiveReader, add_result, load_settings, process
from hedmlive.callbacks.results_archive import result_name
from hedmlive.callbacks.results_layout import COLUMNS, QUATERNION, solutions_of
from hedmlive.streaming import ArchiveError, SettingsError

SIMPLE = NewResult(program="test", solutions={"orientation": [[1.0, 0, 0, 0], [0, 1.0, 0, 0]], "x": [1.0, 2.0]})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reduced archive of a run, its raw one beside it."""
    folder = tmp_path_factory.mktemp("run")
    result = process(hostile.run("array"), load_settings(hostile.settings(folder)), stem="scan", write_raw=True)
    assert result.reduced is not None
    return result.reduced


@pytest.fixture
def archive(run: Path, tmp_path: Path) -> Path:
    """A results archive of two attempts."""
    for kind in ("raw", "reduced"):
        path = run.with_name(f"scan_{kind}.h5")
        (tmp_path / path.name).write_bytes(path.read_bytes())
    add_result(tmp_path / run.name, SIMPLE)
    return add_result(tmp_path / run.name, replace(SIMPLE, note="second"))[0]


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@st.composite
def results(draw: Any) -> NewResult:
    n_items, n_ranks = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    n_rows = n_items * n_ranks
    order = draw(st.permutations(range(n_rows)))
    turned = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(n_rows, 4))
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    turned[draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows))] = np.nan
    solutions: dict[str, Any] = {
        "item": np.repeat(np.arange(n_items), n_ranks)[order],
        "rank": np.tile(np.arange(1, n_ranks + 1), n_items)[order],
        "orientation": turned,
        "x": np.array(draw(st.lists(finite | st.just(np.nan), min_size=n_rows, max_size=n_rows)), np.float64),
        "completeness": np.array(draw(st.lists(st.floats(0, 1), min_size=n_rows, max_size=n_rows)), np.float64),
        draw(st.from_regex(r"[a-z]{9,12}_", fullmatch=True)): np.arange(n_rows),
        "of_ours": np.array(draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows)), np.bool_),
    }
    plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(max_size=5)
    parameters = draw(st.dictionaries(st.text(max_size=5), plain | st.lists(plain, max_size=3), max_size=3))
    return NewResult(program=draw(st.sampled_from(["a", "ü b"])), solutions=solutions, parameters=parameters)


@given(new=results())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(new: NewResult, run: Path) -> None:
    table, rows = solutions_of(new)
    path, attempt = add_result(run, new)
    with ResultsArchiveReader(path) as reader:
        said, again = reader.attributes(attempt), reader.read(attempt)
        assert reader.tables(attempt)["solutions"].columns == table.columns
        assert said["digest"] == reader.digest(attempt)
        assert reader.n_rows(attempt) == len(rows["item"])
        half = reader.read(attempt, "solutions", 1, 3)
    assert list(again) == list(rows)
    for name, values in rows.items():
        assert again[name].dtype == values.dtype
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_array_equal(half[name], values[1:3])
    assert (said["parameters"], said["program"]) == (dict(new.parameters), new.program)


def test_what_it_was_made_of_is_written(archive: Path, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "grains.csv"
    file.write_bytes(b"q_w,q_x,q_y,q_z\n1,0,0,0\n")
    new = replace(SIMPLE, files=(file,), space_group=225, lattice_parameters=np.array([4, 4, 4, 90, 90, 90.0]))
    assert add_result(archive.with_name(run.name), new, author="somebody") == (archive, 2)
    with ResultsArchiveReader(archive) as reader:
        assert (reader.attempts, reader.run_uid) == ((0, 1, 2), hostile.UID)
        said = reader.attributes(2)
        assert reader.file(2, "grains.csv") == file.read_bytes()
        assert [reader.attributes(each)["note"] for each in (0, 1)] == ["", "second"]
    assert (said["reduction"], said["reduction_digest"], said["detector"]) == (0, hostile.expected_digest(), "det0")
    assert (said["raw_archive"], said["reduced_archive"]) == ("scan_raw.h5", "scan_reduced.h5")
    assert said["frames"] == ["/entry/instrument/det0/data"]
    assert (said["author"], said["space_group"], said["lattice_parameters"][5]) == ("somebody", 225, 90.0)
    assert said["files"][0]["name"] == "grains.csv"
    assert len(said["files"][0]["sha256"]) == 64
    with h5py.File(archive.with_name(said["raw_archive"])) as raw:
        assert said["frames"][0] in raw


def test_of_a_killed_or_wrong_archive_it_is_told(archive: Path, run: Path, tmp_path: Path) -> None:
    assert add_result(archive, SIMPLE) == (archive, 2)  # the reduction is not known then
    with ResultsArchiveReader(archive) as reader:
        assert (reader.attributes(2)["reduction"], reader.attributes(2)["reduction_uid"]) == (-1, "")
    with pytest.raises(SettingsError, match="wanted an archive of a run"):
        add_result(tmp_path / "x.h5", SIMPLE)
    with pytest.raises(ArchiveError, match="no such file"):
        add_result(tmp_path / "x_reduced.h5", SIMPLE)
    with pytest.raises(ArchiveError, match="no reduction 7"):
        add_result(tmp_path / run.name, SIMPLE, reduction=7)
    with h5py.File(tmp_path / run.name, "r+") as file:
        file["reduction_0000"].attrs["digest"] = ""
    with pytest.raises(ArchiveError, match="reduction 0 is not finished"):
        add_result(tmp_path / run.name, SIMPLE)
    with h5py.File(archive, "r+") as file:
        file.attrs["run_uid"] = "another"
    with pytest.raises(ArchiveError, match="holds results of run another"):
        add_result(tmp_path / "scan_raw.h5", SIMPLE)


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_parameters_that_json_cannot_say_are_refused(value: object, run: Path) -> None:
    with pytest.raises(SettingsError, match="wanted what JSON can say"):
        add_result(run, replace(SIMPLE, parameters={"a": value}))


def _unlink(file: Any, name: str) -> None:
    del file[name]


def _retyped(file: Any) -> None:
    del file["result_0001/solutions/x"]
    file["result_0001/solutions/x"] = [b"a", b"b"]


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no format": (lambda file: file.attrs.__delitem__("format"), "not a results archive"),
    "foreign group": (lambda file: file.create_group("something"), "not a results archive"),
    "no column": (lambda file: _unlink(file, "result_0001/solutions/rank"), "result_0001: is not whole"),
    "short column": (lambda file: file["result_0001/solutions/x"].resize((1,)), "columns of [1, 2] rows"),
    "text": (_retyped, "column x is 1-D of"),
    "no solutions": (lambda file: _unlink(file, "result_0001/solutions"), "result_0001: is not whole"),
    "no parameters": (lambda file: file["result_0001"].attrs.__delitem__("parameters"), "result_0001: is not whole"),
    "no json": (lambda file: file["result_0001"].attrs.__setitem__("parameters", "{"), "result_0001: is not whole"),
    "columns": (lambda file: file["result_0001/solutions"].attrs.__setitem__("columns", "[]"), "no column"),
    "number": (lambda file: file["result_0001/solutions"].attrs.__setitem__("columns", "3"), "is not whole"),
    "dataset": (
        lambda file: (_unlink(file, "result_0001"), file.__setitem__("result_0001", 1)),
        "result_0001: is not whole",
    ),
    "other run": (lambda file: file["result_0001"].attrs.__setitem__("raw_run_uid", "x"), "it is of run x"),
}


def read_both(archive: Path) -> None:
    with ResultsArchiveReader(archive) as reader:
        assert reader.digest(0) == reader.attributes(0)["digest"]
        reader.attributes(1)
        reader.digest(1)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named_and_the_rest_is_read(kind: str, archive: Path) -> None:
    change, says = BROKEN[kind]
    with h5py.File(archive, "r+") as file:
        solutions = file["result_0001/solutions"]
        # Written in one piece, they cannot be cut.
        values = solutions["x"][()]
        del solutions["x"]
        solutions.create_dataset("x", data=values, maxshape=(None,))
        change(file)
    with pytest.raises(ArchiveError) as error:
        read_both(archive)
    assert says in str(error.value)
    assert str(archive) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_named_and_left_as_they_are(archive: Path, run: Path) -> None:
    archive.write_bytes(b"something else")
    with pytest.raises(ArchiveError, match="not a results archive that can be read"):
        add_result(archive.with_name(run.name), SIMPLE)
    assert archive.read_bytes() == b"something else"
    with pytest.raises(ArchiveError, match="no such file"):
        ResultsArchiveReader(archive.with_name("none_results.h5"))


def test_a_disk_that_refuses_leaves_the_older_attempts(
    archive: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    whole = archive.read_bytes()
    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(ArchiveError, match=r"cannot be written: .*No space left"):
        add_result(archive.with_name(run.name), SIMPLE)
    assert archive.read_bytes() == whole
    assert [path.suffix for path in archive.parent.glob("*.part")] == []


def _add(path: Path, n: int) -> None:
    for _ in range(n):
        add_result(path, SIMPLE)


def test_two_processes_add_at_once(archive: Path, run: Path) -> None:
    context = multiprocessing.get_context("spawn")
    adding = [context.Process(target=_add, args=(archive.with_name(run.name), 5)) for _ in range(2)]
    for each in adding:
        each.start()
    for each in adding:
        each.join(60)
        assert each.exitcode == 0
    with ResultsArchiveReader(archive) as reader:
        assert reader.attempts == tuple(range(12))
        assert len({reader.attributes(each)["result_uid"] for each in reader.attempts}) == 12


def test_an_orientation_is_written_in_one_way_and_stays_so() -> None:
    turned = np.random.default_rng(1).normal(size=(50, 4))
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    first, second = (
        np.stack([rows[name] for name in QUATERNION], axis=1)
        for rows in (
            solutions_of(NewResult(program="", solutions={"orientation": sign * turned}))[1] for sign in (1, -1)
        )
    )
    np.testing.assert_array_equal(first, second)
    assert (first[:, 0] >= 0).all()
    again = solutions_of(NewResult(program="", solutions={"orientation": first}))[1]
    np.testing.assert_array_equal(np.stack([again[name] for name in QUATERNION], axis=1), first)


def test_columns_have_units_and_meanings(archive: Path) -> None:
    with h5py.File(archive) as file:
        rows: Any = file[f"{result_name(0)}/solutions"]
        for column in COLUMNS:
            assert rows[column.name].attrs["meaning"]
            assert rows[column.name].attrs.get("units", "") == column.unit

"""What every command does with good and with bad input: exit codes, one line, no traceback."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hostile
import pytest
import yaml

from hedmlive.callbacks import ReducedArchiveReader
from hedmlive.cli import main
from hedmlive.streaming import ArchiveError

Run = Callable[..., Any]
COMMANDS = (
    *("demo", "simulate", "serve", "key", "publish", "results", "reduce", "watch", "replay"),
    *("digest", "doctor", "neighbours", "bench"),
)


@pytest.fixture
def reduced(run: Run, frame_cache: Path, tmp_path: Path) -> Path:
    """The folder of a reduction of the small frame-cache."""
    folder = tmp_path / "reduced"
    assert run("reduce", frame_cache, "--threshold", 20, "--out", folder).code == 0
    return folder


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_a_command_does(run: Run, command: str) -> None:
    ended = run(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"hedmlive {command}" in ended.out


def test_help_names_every_command(run: Run) -> None:
    ended = run("-h")
    assert ended.code == 0
    assert all(f" {command} " in ended.out for command in COMMANDS)


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    assert run("--version").out.startswith("hedmlive 0.")


def test_the_installed_command_ends_with_the_exit_code() -> None:
    command = [sys.executable, "-c", "from hedmlive.cli import main; main()", "digest", "nowhere.h5"]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=paths)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "hedmlive: nowhere.h5: no such file; wanted a reduced archive\n"


# ---------------------------------------------------------------- what cannot be done


def one_line(ended: Any, code: int, *wanted: str) -> None:
    assert ended.code == code, ended
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    assert ended.err.startswith("hedmlive: ")
    assert "Traceback" not in ended.err
    assert not [each for each in wanted if each not in ended.err], ended.err


def test_a_missing_file_is_named(run: Run, tmp_path: Path) -> None:
    for command in ("reduce", "replay"):
        ended = run(command, "nowhere.npz", "--threshold", 1, "--out", tmp_path)
        one_line(ended, 1, "nowhere.npz: no such file")
    one_line(run("digest", "nowhere.h5"), 1, "nowhere.h5: no such file")


def test_what_is_no_archive_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.h5"
    file.write_text("not HDF5")
    one_line(run("replay", file, "--out", tmp_path), 1, "notes.h5: not a raw archive")
    one_line(run("digest", file), 1, "notes.h5: not a reduced archive")
    file = tmp_path / "notes.npz"
    file.write_text("not a zip")
    one_line(run("reduce", file, "--threshold", 1, "--out", tmp_path), 1, "notes.npz: not a HEXRD frame-cache")
    file = tmp_path / "notes.jsonl"
    file.write_text("{")
    one_line(run("replay", file, "--out", tmp_path), 1, "notes.jsonl: not documents")


def test_the_wrong_archive_is_named(run: Run, reduced: Path, tmp_path: Path) -> None:
    ended = run("replay", reduced / "scan_reduced.h5", "--out", tmp_path)
    one_line(ended, 1, "is a reduced archive", str(reduced / "scan_raw.h5"))
    one_line(run("digest", reduced / "scan_raw.h5"), 1, "not a reduced archive")
    one_line(run("reduce", reduced / "scan_raw.h5", "--threshold", 1, "--out", tmp_path), 1, "`hedmlive replay`")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("roles: [", "not YAML"),
        ("- a\n- b\n", "holds list"),
        ({"recipe": {"treshold": 3}}, "treshold"),
        ({"recepie": {}}, "recepie"),
    ],
)
def test_settings_that_are_wrong_are_usage(
    run: Run, frame_cache: Path, tmp_path: Path, content: Any, wanted: str
) -> None:
    file = tmp_path / "hedmlive.yml"
    good = {"detectors": [{"name": "a", "image": "image"}], "archive": {"folder": "x"}, "recipe": {"threshold": 1}}
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(good | content))
    one_line(run("reduce", frame_cache, "--settings", file, "--out", tmp_path / "out"), 2, str(file), wanted)
    assert not (tmp_path / "out").exists()


def test_settings_that_are_not_there_are_usage(run: Run, frame_cache: Path, tmp_path: Path) -> None:
    one_line(run("reduce", frame_cache, "--settings", "no.yml", "--out", tmp_path), 2, "no.yml: cannot be read")
    one_line(run("serve", tmp_path / "no.yml"), 2, "no.yml: cannot be read")


def test_a_threshold_must_be_said(run: Run, frame_cache: Path, tmp_path: Path) -> None:
    one_line(run("reduce", frame_cache, "--out", tmp_path), 2, "--threshold", "--settings")


def test_a_number_out_of_range_is_usage(run: Run, frame_cache: Path, tmp_path: Path) -> None:
    ended = run("reduce", frame_cache, "--threshold", 1, "--max-distance", -2, "--out", tmp_path)
    one_line(ended, 2, "max_distance is -2.0; wanted more than 0")
    assert run("reduce", frame_cache, "--threshold=-3", "--out", tmp_path).code == 2
    assert run("reduce", frame_cache, "--treshold", 3, "--out", tmp_path).code == 2
    assert run("reduce", frame_cache, "--threshold", 3).code == 2


def test_documents_need_settings(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(json.dumps(["start", {"uid": "a"}]) + "\n")
    one_line(run("reduce", file, "--threshold", 3, "--out", tmp_path), 2, "run.jsonl", "--settings")
    one_line(run("replay", file, "--out", tmp_path), 2, "run.jsonl", "--settings")


def test_a_raw_archive_is_never_written_over(run: Run, frame_cache: Path, reduced: Path) -> None:
    before = (reduced / "scan_raw.h5").read_bytes()
    one_line(run("reduce", frame_cache, "--threshold", 20, "--out", reduced), 1, "scan_raw.h5: exists already")
    assert (reduced / "scan_raw.h5").read_bytes() == before


def test_a_file_is_no_folder(run: Run, frame_cache: Path, reduced: Path) -> None:
    ended = run("reduce", frame_cache, "--threshold", 20, "--out", frame_cache)
    one_line(ended, 2, f"--out {frame_cache}: is a file")
    one_line(run("replay", reduced / "scan_raw.h5", "--out", frame_cache), 2, "is a file")


def test_a_scheme_that_nobody_knows_is_usage(run: Run, tmp_path: Path) -> None:
    one_line(run("replay", "ftp://a/b", "--out", tmp_path), 2, "ftp:// is unknown", "tiled://", "databroker://")


def test_a_catalogue_or_server_that_is_not_there(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("databroker", reason="install hedmlive[databroker]")
    one_line(run("replay", "databroker://nowhere/uid", "--out", tmp_path), 1, "databroker://nowhere/uid: no such run")


@pytest.fixture
def public(run: Run, frame_cache: Path, reduced: Path) -> Iterator[Path]:
    """A folder with a frame-cache that everybody may read, as no folder of pytest is."""
    # What a failure imports is imported now: the packages themselves may be for root alone.
    assert run("reduce", frame_cache, "--threshold", 20, "--out", reduced).code == 1
    folder = Path(tempfile.mkdtemp(prefix="hedmlive-test-"))
    shutil.copy(frame_cache, folder)
    (folder / "scan.npz").chmod(0o644)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def as_nobody() -> Generator[None]:
    """Give up root's right to read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_to_write(run: Run, public: Path) -> None:
    with as_nobody():
        ended = run("reduce", public / "scan.npz", "--threshold", 20, "--out", public / "out")
    one_line(ended, 1, str(public / "out"), "ermission denied")


def test_no_permission_to_read(run: Run, public: Path, tmp_path: Path) -> None:
    (public / "scan.npz").chmod(0)
    with as_nobody():
        ended = run("reduce", public / "scan.npz", "--threshold", 20, "--out", public / "out")
        inside = run("replay", tmp_path / "run_raw.h5", "--out", public / "out")
    one_line(ended, 1, "scan.npz", "ermission denied")
    one_line(inside, 1, "run_raw.h5")


def test_debug_shows_where_an_error_came_from(frame_cache: Path, tmp_path: Path) -> None:
    for arguments in (["--debug", "digest", "nowhere.h5"], ["digest", "nowhere.h5", "--debug"]):
        with pytest.raises(ArchiveError, match=r"nowhere\.h5: no such file"):
            main(arguments)


def test_an_error_that_nobody_foresaw_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> Any:
        raise ZeroDivisionError("of\nall things")

    monkeypatch.setattr("hedmlive.cli.app.ReducedArchiveReader", fail)
    one_line(run("digest", "any.h5"), 1, "unexpected ZeroDivisionError: of all things (--debug shows where)")


# ---------------------------------------------------------------- what is done


def test_another_recipe_is_another_reduction_beside(run: Run, reduced: Path, tmp_path: Path) -> None:
    first = run("replay", reduced / "scan_raw.h5", "--out", reduced)
    other = run("replay", reduced / "scan_raw.h5", "--threshold", 85, "--out", reduced)
    assert [ended.said["digest"].split()[1] for ended in (first, other)] == ["reduction_0001", "reduction_0002"]
    digests = [line.split()[0] for line in run("digest", reduced / "scan_reduced.h5").out.splitlines()]
    assert digests[0] == digests[1] == first.digest
    assert digests[2] == other.digest != first.digest


def test_any_number_of_a_recipe_on_the_command_line(run: Run, reduced: Path) -> None:
    raw = next(reduced.glob("*_raw.h5"))
    splits = ("--set", "split=local-maximum", "--set", "smooth=true", "--set", "min_pixels=1000")
    assert run("replay", raw, "--out", reduced, *splits).code == 0
    assert run("replay", raw, "--out", reduced, "--set", "like=plain").code == 0
    with ReducedArchiveReader(next(reduced.glob("*_reduced.h5"))) as archive:
        recipes = [archive.attributes(attempt)["recipe"] for attempt in archive.attempts]
        assert archive.digest(2) == archive.digest(0) != archive.digest(1)
    assert [recipe["split"] for recipe in recipes] == ["none", "local-maximum", "none"]
    assert [recipe["smooth"] for recipe in recipes] == [False, True, False]
    # A named recipe keeps what belongs to the detector.
    assert {recipe["threshold"] for recipe in recipes} == {20}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("split", "wanted NAME=VALUE"),
        ("split=[", "wanted NAME=VALUE"),
        ("split=watershed", "split is 'watershed'; wanted none or"),
        ("colour=blue", "unknown keys ['colour']"),
        ("like=nothing", "like is 'nothing'; wanted plain or ff or"),
        ("finder=neural", "finder is 'neural'; installed are"),
    ],
)
def test_a_wrong_number_of_a_recipe_is_usage(run: Run, reduced: Path, pair: str, message: str) -> None:
    ended = run("replay", next(reduced.glob("*_raw.h5")), "--out", reduced, "--set", pair)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_changed_column_is_found(run: Run, reduced: Path) -> None:
    file = reduced / "scan_reduced.h5"
    written = run("digest", file).out.split()[0]
    with h5py.File(file, "r+") as archive:
        archive["reduction_0000/peaks/row"][1] += 1e-9
    ended = run("digest", file)
    assert ended.code == 1
    assert ended.out.split()[1:] == [str(file), "reduction_0000", "CHANGED"]
    assert ended.out.split()[0] != written
    assert ended.err.splitlines() == [
        f"hedmlive: {file}: reduction 0 was written with {written}: its tables were changed since"
    ]


def test_no_progress_where_there_is_no_terminal(run: Run, frame_cache: Path, tmp_path: Path) -> None:
    ended = run("reduce", frame_cache, "--threshold", 20, "--out", tmp_path / "out")
    assert ended.err == ""
    assert "\x1b" not in ended.out
    assert ended.said["frames"] == "4"
    assert ended.said["tracks"] == "1"


def test_settings_decide_and_options_overrule_them(run: Run, frame_cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "hedmlive.yml"
    settings = {
        "roles": {"omega_start": "omega_start", "omega_end": "omega_end"},
        "detectors": [{"name": "mine", "image": "image"}],
        "recipe": {"threshold": 20},
        "archive": {"folder": str(tmp_path / "not-here")},
        "tiled": {"uri": "http://127.0.0.1:9"},
    }
    file.write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    assert run("reduce", frame_cache, "--settings", file, "--threshold", 75, "--out", out).code == 0
    with h5py.File(out / "scan_reduced.h5") as archive:
        attributes = archive["reduction_0000"].attrs
        recipe, detector = json.loads(attributes["recipe"]), attributes["detector"]
        assert (recipe["threshold"], detector) == (75, "mine")
        assert archive["reduction_0000/peaks/n_pixels"][:].tolist() == [2, 2, 2]
    assert not (tmp_path / "not-here").exists()


@pytest.mark.parametrize("way", hostile.WAYS)
def test_documents_in_a_file_are_reduced(run: Run, tmp_path: Path, way: str) -> None:
    """JSON lines of a run, with its frames inside the events or in an HDF5 file beside."""
    documents = hostile.run(way, tmp_path)
    text = [json.dumps([name, doc], default=lambda array: array.tolist()) for name, doc in documents]
    file = tmp_path / "run.jsonl"
    file.write_text("\n".join(text))
    settings = tmp_path / "hedmlive.yml"
    settings.write_text(yaml.safe_dump(hostile.settings(tmp_path / "unused")))
    ended = run("reduce", file, "--settings", settings, "--out", tmp_path / "out")
    assert ended.said["frames"] == str(hostile.N_FRAMES)
    assert run("replay", tmp_path / "out" / "run_raw.h5", "--out", tmp_path / "again").digest == ended.digest
    assert run("replay", file, "--settings", settings, "--out", tmp_path / "b").digest == ended.digest

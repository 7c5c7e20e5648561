"""Results and projections: added by the command, published, served from files, asked for by clients, never lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import (
    NewResult,
    ReducedArchiveReader,
    ResultsArchiveReader,
    add_result,
    load_settings,
    make_sink,
    process,
)
from hedmlive.cli import main
from hedmlive.cli.publish import ArchiveReaders, run_publish
from hedmlive.streaming import ArchiveError, SettingsError, digest
from hedmlive.tiled_config import EmbeddedServer, Runs, connect, disconnect, read_table
from hedmlive.tiled_config.archives import Archives
from hedmlive.tiled_config.archives_nodes import is_archived
from hedmlive.tiled_config.runs_results import Result

KEY = "0123456789abcdef0123456789abcdef"
CELL = np.array([4.08, 4.08, 4.08, 90.0, 90.0, 90.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results").resolve()
    (made / "data").mkdir()
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Generator[EmbeddedServer]:
    with EmbeddedServer(folder / "store", readable=[folder / "data"], api_key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def runs(server: EmbeddedServer) -> Generator[Runs]:
    made = connect(server.uri, KEY)
    yield made
    disconnect(made)


@pytest.fixture
def data(folder: Path, request: pytest.FixtureRequest) -> Path:
    made = folder / "data" / request.node.name.strip("]").replace("[", "-")[-50:]
    made.mkdir()
    return made


def reduced(folder: Path, uid: str, *, uri: str | None = None, raw: bool = True, **changes: Any) -> Path:
    """Make the archives of a run, published live if a server is given; return the reduced one."""
    tiled = None if uri is None else {"uri": uri, "latency": 0.01}
    settings = load_settings(hostile.settings(folder, tiled=tiled, **changes))
    sink = None if uri is None else partial(make_sink, "tiled", uri, KEY)
    result = process(hostile.run("array", uid=uid), settings, stem=uid, write_raw=raw, sink=sink)
    assert result.problems == ()
    assert result.reduced is not None
    return result.reduced


def result(n_items: int = 4, n_ranks: int = 3, **more: Any) -> NewResult:
    """A result of so many items with so many ranked solutions each."""
    draws = np.random.default_rng(n_items)
    turned = draws.normal(size=(n_items * n_ranks, 4))
    said: dict[str, Any] = {
        "program": "test",
        "program_version": "1.2",
        "method": "made up",
        "parameters": {"max_distance": 1.5, "rings": [1, 2], "seed": np.int64(3)},
        "lattice_parameters": CELL,
        "space_group": 225,
        "solutions": {
            "item": np.tile(np.arange(n_items), n_ranks),
            "rank": np.repeat(np.arange(1, n_ranks + 1), n_items),
            "orientation": turned / np.linalg.norm(turned, axis=1, keepdims=True),
            "x": draws.normal(size=n_items * n_ranks),
            "completeness": np.repeat(np.linspace(0.9, 0.3, n_ranks), n_items),
            "n_spots": np.arange(n_items * n_ranks),
        },
    }
    return NewResult(**(said | more))


def served_digest(node: Result, path: Path, attempt: int) -> str:
    with ResultsArchiveReader(path) as archive:
        tables = archive.tables(attempt)
    frame = read_table(node["solutions"])
    columns = {column.name: frame[column.name].to_numpy(column.dtype) for column in tables["solutions"].columns}
    return digest(tables, lambda _: [columns])


def found(looking: Archives) -> None:
    assert looking.scan() == ()


def archives(runs: Runs, folder: Path) -> Archives:
    return Archives(runs.root, [folder], ArchiveReaders())


def attributes(path: Path) -> list[Mapping[str, Any]]:
    with ResultsArchiveReader(path) as reader:
        return [reader.attributes(attempt) for attempt in reader.attempts]


def test_results_of_a_folder_are_served_and_lead_back_to_the_frames(runs: Runs, data: Path) -> None:
    path = reduced(data, "found-run")
    file, first = add_result(path, result())
    _, second = add_result(path.with_name("found-run_raw.h5"), result(2, 1, note="from the frames"))
    assert (file.name, first, second) == ("found-run_results.h5", 0, 1)
    looking = archives(runs, data)
    found(looking)
    assert (looking.n_reductions, looking.n_results) == (1, 2)
    found(archives(runs, data))  # a second look adds nothing

    run = runs["found-run"]
    best, other = run.results
    assert isinstance(best, Result)
    assert best.digest == served_digest(best, file, 0) == attributes(file)[0]["digest"]
    assert other.digest == served_digest(other, file, 1)
    assert best.status == "complete"
    assert best.parameters == {"max_distance": 1.5, "rings": [1, 2], "seed": 3}
    assert (best.program, best.metadata["space_group"], other.metadata["note"]) == ("test 1.2", 225, "from the frames")
    assert "by test 1.2" in repr(run.results)
    assert repr(run.results).startswith("<2 results>")

    assert len(best.solutions()) == 12
    assert best.solutions(["item"], rank=1)["item"].to_pylist() == [0, 1, 2, 3]
    assert set(best.solutions(min_completeness=0.5)["rank"].to_pylist()) == {1, 2}
    assert best.solutions(["rank", "n_spots"], item=2).to_pydict() == {"rank": [1, 2, 3], "n_spots": [2, 6, 10]}
    with pytest.raises(SettingsError, match="nothing"):
        best.solutions(nothing=1)

    assert best.reduction.metadata["reduction_uid"] == run.reduction.metadata["reduction_uid"]
    assert [each.attempt_number for each in best.reduction.results] == [0]
    assert best.run.uid == best.uid == "found-run"
    assert best.raw.metadata["stop"]["exit_status"] == "success"
    np.testing.assert_array_equal(np.squeeze(best.frames[3]), hostile.image(3))
    with pytest.raises(SettingsError, match="does not say which reduction"):
        _ = other.reduction


def test_results_of_reductions_are_compared(runs: Runs, data: Path) -> None:
    path = reduced(data, "twice-run")
    # The same frames with another recipe are another reduction of the same run.
    reduced(data, "twice-run", raw=False, recipe={"threshold": 60.0})
    with pytest.raises(SettingsError, match=r"holds reductions \[0, 1\]; say which"):
        add_result(path, result())
    add_result(path, result(), reduction=0)
    add_result(path, result(5, 1), reduction=1)
    found(archives(runs, data))
    run = runs["twice-run"]
    first, second = run.results
    compared = first.compare(second)
    assert compared.recipe["threshold"] == (10.0, 60.0)
    assert str(run.attempt(0).compare(second)) == str(compared)
    assert compared.same_digest is False


def test_the_command_publishes_once_and_the_files_take_over(
    server: EmbeddedServer, runs: Runs, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)
    path = reduced(data, "command-run", uri=server.uri)
    table = data / "grains.csv"
    table.write_text("item,rank,q_w,q_x,q_y,q_z,completeness\n0,1,1,0,0,0,0.9\n0,2,0,1,0,0,0.5\n1,1,0,0,1,0,1\n")
    said = [str(path), str(table), "--program", "ours", "--parameter", "tolerance=0.5", "--tiled", server.uri]
    assert exit_code("results", "add", *said) == 0
    assert "2 items, 3 solutions" in capsys.readouterr().out
    file = path.with_name("command-run_results.h5")
    (node,) = runs["command-run"].results
    assert node.parameters == {"tolerance": 0.5}
    assert not is_archived(node.include_data_sources()["solutions"])
    assert node.digest == served_digest(node, file, 0) == attributes(file)[0]["digest"]
    before = node["solutions"].read()

    run_publish([data], server.uri, raw=False)
    assert "result_0000: is there already" in capsys.readouterr().out
    assert runs["command-run"].results[0]["solutions"].read().equals(before)

    image = runs["command-run"].max_projection()
    found(archives(runs, data))
    (node,) = runs["command-run"].results
    assert is_archived(node.include_data_sources()["solutions"])
    assert node["solutions"].read().equals(before)  # the switch is not seen
    reduction = runs["command-run"].reduction
    assert is_archived(reduction.include_data_sources()["max_projection"])
    np.testing.assert_array_equal(runs["command-run"].max_projection(), image)
    np.testing.assert_array_equal(image, expected_projection())
    assert len(reduction.pixels(frame=2)) == np.count_nonzero(hostile.image(2) > 13)


def exit_code(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def expected_projection() -> np.ndarray:
    """The largest count of each pixel that is lit: the background is 3, taken as 0, the threshold 10."""
    stack = np.stack([hostile.image(frame) for frame in range(hostile.N_FRAMES)])
    return np.where(stack > hostile.RECIPE["threshold"], stack, 0).max(axis=0).astype(np.float32)


def test_what_was_changed_or_swapped_is_not_served(
    server: EmbeddedServer, runs: Runs, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)
    path = reduced(data, "changed-run")
    file, _ = add_result(path, result())
    found(archives(runs, data))
    (node,) = runs["changed-run"].results
    whole = file.read_bytes()
    with h5py.File(file, "r+") as opened:
        opened["result_0000"].attrs["result_uid"] = "another"
    with pytest.raises(Exception, match="409"):
        node["solutions"].read()
    file.write_bytes(whole)
    with h5py.File(file, "r+") as opened:
        opened["result_0000/solutions/x"][0] = 1e6
    with pytest.raises(ArchiveError, match="1 of 1 archives"):
        run_publish([file], server.uri, raw=False)
    assert exit_code("results", "show", str(file)) == 1


@pytest.mark.parametrize("what", ["attempt", "column", "storage", "broken", "link"])
def test_what_leads_out_or_is_broken_is_named_and_not_served(runs: Runs, folder: Path, data: Path, what: str) -> None:
    uid = f"stolen-{what}"
    secret, _ = add_result(reduced(folder / f"outside-{what}", uid), result())
    file = data / "mine_results.h5"
    file.write_bytes(secret.read_bytes())
    if what == "broken":
        file.write_bytes(b"no HDF5")
    elif what == "link":
        file.unlink()
        file.symlink_to(secret)
    else:
        with h5py.File(file, "r+") as opened:
            place = {"attempt": "result_0000"}.get(what, "result_0000/solutions/x")
            del opened[place]
            if what == "storage":
                opened.create_dataset(place, (12,), "f8", external=[("/etc/hostname", 0, 96)])
            else:
                opened[place] = h5py.ExternalLink(str(secret), f"/{place}")
    (line,) = archives(runs, data).scan()
    assert "mine_results.h5" in line
    assert uid not in runs["results"]


def test_of_the_live_run_and_its_replay_the_projection_is_the_same(data: Path) -> None:
    path = reduced(data, "again-run")
    again = process(hostile.run("array", uid="again-run"), load_settings(hostile.settings(data)), stem="again-run")
    with ReducedArchiveReader(path) as archive:
        live, replayed = (archive.max_projection(attempt) for attempt in (0, 1))
        assert archive.digest(0) == archive.digest(1) == hostile.expected_digest() == again.digests[1]
    assert live is not None
    assert replayed is not None
    np.testing.assert_array_equal(live, expected_projection())
    np.testing.assert_array_equal(live, replayed)


ADDING = """
import sys
from pathlib import Path
import numpy as np
from hedmlive.callbacks import NewResult, add_result
solutions = {"orientation": np.tile([1.0, 0, 0, 0], (200_000, 1)), "x": np.random.default_rng(1).normal(size=200_000)}
while True:
    print(add_result(Path(sys.argv[1]), NewResult(program="endless", solutions=solutions))[1], flush=True)
"""


def test_killed_in_mid_write_the_older_attempts_are_whole(data: Path) -> None:
    path = reduced(data, "killed-run")
    file, _ = add_result(path, result())
    adding = subprocess.Popen([sys.executable, "-c", ADDING, str(path)], stdout=subprocess.PIPE, text=True)
    assert adding.stdout is not None
    try:
        n_added = int(adding.stdout.readline())
        part = file.with_suffix(".part")
        deadline = time.monotonic() + 60
        while not part.exists():
            assert time.monotonic() < deadline, "nothing was written"
    finally:
        os.kill(adding.pid, signal.SIGKILL)
        adding.wait()
        adding.stdout.close()
    with ResultsArchiveReader(file) as reader:
        assert len(reader.attempts) >= n_added + 1
        assert all(reader.digest(each) == reader.attributes(each)["digest"] for each in reader.attempts)
        last = reader.attempts[-1]
    assert add_result(path, result())[1] == last + 1
    assert not part.exists()

"""Archives behind a real server: found in a folder, handed over after a live run, published afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import hostile
import httpx
import numpy as np
import pytest

from hedmlive.callbacks import ReducedArchive, ReducedArchiveReader, load_settings, make_sink, process
from hedmlive.cli.publish import ArchiveReaders, run_publish
from hedmlive.streaming import ArchiveError, digest
from hedmlive.tiled_config import EmbeddedServer, TiledSink, disconnect, read_table, tables_of
from hedmlive.tiled_config.adapters import drop_rows
from hedmlive.tiled_config.archives import Archives
from hedmlive.tiled_config.archives_nodes import is_archived, rows_to_drop
from hedmlive.tiled_config.client import catalogue

KEY = "0123456789abcdef0123456789abcdef"
LATER = 1e5
"Seconds after which a file counts as left."


class Clock:
    """The time, and as much more as a test says."""

    def __init__(self) -> None:
        self.more = 0.0

    def __call__(self) -> float:
        return time.time() + self.more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("archives").resolve()


@pytest.fixture(scope="module")
def server(folder):
    (folder / "data").mkdir()
    with EmbeddedServer(folder / "store", readable=[folder / "data"], api_key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> Iterator[Any]:
    client = catalogue(server.uri, KEY)
    yield client
    disconnect(client)


@pytest.fixture
def data(folder, request) -> Path:
    made = folder / "data" / request.node.name[:60].replace("[", "-").replace("]", "")
    made.mkdir()
    return made


def archives(client, folder, clock=None, **options) -> Archives:
    return Archives(client, [folder], ArchiveReaders(), drop=drop_rows, clock=clock or Clock(), **options)


def make(folder: Path, uid: str, *, way: str = "array", uri: str | None = None) -> Path:
    """Make the archives of a run, published live if a server is given; return the reduced one."""
    tiled = None if uri is None else {"uri": uri, "latency": 0.01, "rows": 3}
    settings = load_settings(hostile.settings(folder, tiled=tiled))
    sink = None if uri is None else partial(make_sink, "tiled", uri, KEY)
    result = process(hostile.run(way, folder, uid=uid), settings, stem=uid, write_raw=True, sink=sink)
    assert (dict(result.digests), result.problems) == ({0: hostile.expected_digest()}, ())
    assert result.reduced is not None
    return result.reduced


def served_digest(node: Any, path: Path) -> str:
    """The digest of what is served, its pixels from the archive if they are not served."""
    with ReducedArchiveReader(path) as archive:
        tables = archive.tables(0)

        def read(name: str) -> list[dict[str, np.ndarray]]:
            if name not in node:
                return [dict(archive.read(0, name))]
            frame = read_table(node[name])
            return [{column.name: frame[column.name].to_numpy(column.dtype) for column in tables[name].columns}]

        return digest(tables, read)


def sources(node: Any) -> dict[str, bool]:
    return {name: is_archived(child) for name, child in tables_of(node.include_data_sources()).items()}


# ---------------------------------------------------------------- found in a folder


@pytest.mark.parametrize("way", ["array", "stream"])
def test_archives_of_a_folder_are_served_as_live_ones_are(client, data, way):
    path = make(data, f"found-{way}", way=way)
    assert archives(client, data).scan() == ()
    node = client["reduced"][f"found-{way}"]["attempt-0000"]
    assert served_digest(node, path) == node.metadata["digest"] == hostile.expected_digest()
    assert (node.metadata["status"], node.metadata["start"]["scan_id"]) == ("complete", 7)
    assert node.metadata["recipe"]["threshold"] == hostile.RECIPE["threshold"]
    assert node.metadata["summary"]["n_frames"] == hostile.N_FRAMES
    assert set(sources(node)) == {"frames", "peaks", "links", "tracks", "members", "pixels"}
    assert all(sources(node).values())
    some = node["peaks"].read(["row", "frame"])
    assert list(some) == ["frame", "row"] or list(some) == ["row", "frame"]
    assert node["peaks"]["row"][:].tolist() == some["row"].tolist()

    run = client["raw"][f"found-{way}"]
    assert run.metadata["stop"]["exit_status"] == "success"
    np.testing.assert_array_equal(run["primary"]["det0_image"][3].squeeze(), hostile.image(3))
    assert {"start", "event_page", "stream_resource", "stop"} <= {name for name, _ in run.documents()} | {"event_page"}


def test_a_second_look_adds_nothing(client, data):
    make(data, "twice")
    first = archives(client, data)
    first.scan()
    assert (first.n_reductions, first.n_runs) == (1, 1)
    for again in (first, archives(client, data)):
        before = (again.n_reductions, again.n_runs)
        assert again.scan() == ()
        assert (again.n_reductions, again.n_runs) == before
    assert list(client["reduced"]["twice"]) == ["attempt-0000"]


def test_an_archive_that_is_written_grows_for_its_reader(client, data):
    template = make(data / "done", "template")
    with ReducedArchiveReader(template) as reader:
        columns = {name: reader.read(0, name) for name in reader.tables(0)}
    from hedmlive.streaming import Recipe

    growing = ReducedArchive(data / "grows_reduced.h5", "grows", Recipe(**hostile.RECIPE), ("det0",), {})
    rows = {name: {c: columns[name][c] for c in growing.tables[name].names} for name in ("peaks", "members")}
    n = len(rows["peaks"]["frame"])
    half = {name: {c: v[: n // 2] for c, v in rows["peaks"].items()} for name in ("peaks",)}
    growing.write(0, half)
    growing.flush()
    looking = archives(client, data)
    assert looking.scan() == ()
    node = client["reduced"]["grows"]["attempt-0000"]
    assert node.metadata["status"] == "running"
    assert len(read_table(node["peaks"])) == n // 2
    growing.write(0, {"peaks": {c: v[n // 2 :] for c, v in rows["peaks"].items()}})
    growing.flush()
    assert len(read_table(node["peaks"])) == n
    digests = growing.finish("complete", {})
    assert len(read_table(node["peaks"])) == n
    assert looking.scan() == ()
    node = client["reduced"]["grows"]["attempt-0000"]
    assert (node.metadata["status"], node.metadata["digest"]) == ("complete", digests[0])
    growing.release()


def test_broken_files_are_named_once_and_the_others_are_served(client, data):
    (data / "a_reduced.h5").write_bytes(b"no HDF5")
    with h5py.File(data / "b_reduced.h5", "w") as file:
        file.attrs["format"] = "something else"
    (data / "c_raw.h5").write_bytes(b"")
    make(data, "good-run")
    looking = archives(client, data)
    lines = looking.scan()
    assert [Path(line.split(":")[0]).name for line in lines] == ["a_reduced.h5", "b_reduced.h5", "c_raw.h5"]
    assert looking.scan() == ()
    assert "attempt-0000" in client["reduced"]["good-run"]


# ---------------------------------------------------------------- nothing outside the folders


@pytest.fixture
def secret(folder, data) -> Path:
    """A real archive that lies outside."""
    made = folder / f"outside-{data.name}"
    made.mkdir()
    return make(made, data.name[:30])


def test_a_symlink_that_leads_out_is_not_served(client, data, secret):
    (data / "link_reduced.h5").symlink_to(secret)
    (data / "below").symlink_to(secret.parent)
    (line,) = archives(client, data).scan()
    assert "link_reduced.h5: is a link that leads out of the folders" in line
    assert data.name[:30] not in client["reduced"]


@pytest.mark.parametrize("what", ["reduction", "column", "virtual", "storage", "documents"])
def test_an_archive_that_takes_from_outside_is_not_served(client, data, secret, what):
    path = data / "mine_reduced.h5"
    shutil.copy(secret, path)
    with h5py.File(path, "r+") as file:
        file.attrs["run_uid"] = uid = f"stolen-{what}"
        peaks = file["reduction_0000/peaks"]
        if what == "reduction":
            del file["reduction_0000"]
            file["reduction_0000"] = h5py.ExternalLink(str(secret), "/reduction_0000")
        elif what == "column":
            del peaks["row"]
            peaks["row"] = h5py.ExternalLink(os.path.relpath(secret, data), "/reduction_0000/peaks/row")
        elif what == "virtual":
            n = len(peaks["row"])
            del peaks["row"]
            layout = h5py.VirtualLayout((n,), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "/reduction_0000/peaks/row", shape=(n,))
            peaks.create_virtual_dataset("row", layout)
        elif what == "storage":
            del peaks["row"]
            peaks.create_dataset("row", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        else:
            path.unlink(missing_ok=True)
            path = data / "mine_raw.h5"
            with h5py.File(path, "w") as raw:
                raw["entry"] = h5py.ExternalLink(str(secret).replace("_reduced", "_raw"), "/entry")
    (line,) = archives(client, data).scan()
    assert path.name in line
    assert "outside the folders" in line or "foreign files" in line
    assert uid not in client["reduced"]
    assert data.name[:30] not in client["raw"]


def test_what_becomes_a_link_after_it_was_registered_is_refused(server, client, data, secret):
    path = make(data, "swapped")
    archives(client, data).scan()
    assert len(read_table(client["reduced"]["swapped"]["attempt-0000"]["peaks"]))

    def status() -> int:
        place = f"{server.uri}/table/full/reduced/swapped/attempt-0000/peaks"
        return httpx.get(place, params={"api_key": KEY, "format": "application/json-seq"}).status_code

    kept = path.with_suffix(".kept")
    path.rename(kept)
    path.symlink_to(secret)
    assert status() == 403
    path.unlink()
    shutil.copy(secret, path)  # another reduction in the same place
    assert status() == 409
    path.unlink()
    kept.rename(path)
    assert status() == 200


def test_frames_that_lead_out_are_refused(server, client, data, secret):
    path = data / "frames.h5"
    with h5py.File(secret.with_name("image.h5"), "w") as file:
        file["frames"] = np.arange(24).reshape(2, 3, 4)
    with h5py.File(path, "w") as file:
        file["inside"] = np.arange(24).reshape(2, 3, 4)
        file["outside"] = h5py.ExternalLink(str(secret.with_name("image.h5")), "/frames")
        file["soft"] = h5py.SoftLink("/outside")
    from tiled.structures.array import ArrayStructure
    from tiled.structures.core import StructureFamily
    from tiled.structures.data_source import Asset, DataSource, Management

    answers = {}
    for name in ("inside", "outside", "soft"):
        asset = Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=0)
        source = DataSource(
            structure_family=StructureFamily.array,
            structure=ArrayStructure.from_array(np.arange(24).reshape(2, 3, 4)),
            mimetype="application/x-hdf5",
            parameters={"dataset": name},
            management=Management.external,
            assets=[asset],
        )
        client.new(StructureFamily.array, [source], key=f"frames-{name}")
        place = f"{server.uri}/array/full/frames-{name}"
        answers[name] = httpx.get(place, params={"api_key": KEY, "format": "application/json"}).status_code
    assert answers == {"inside": 200, "outside": 403, "soft": 403}


# ---------------------------------------------------------------- hand-over


def test_a_live_run_is_handed_over_unseen(server, client, data, folder):
    path = make(data, "a-live-run", uri=server.uri)
    node = client["reduced"]["a-live-run"]["attempt-0000"]
    assert set(sources(node).values()) == {False}
    before = {name: child.read() for name, child in tables_of(node).items()}
    structures = {name: child.structure() for name, child in tables_of(node).items()}
    peaks = node["peaks"]  # a reader that has its client already
    clock = Clock()
    looking = archives(client, data, clock)
    assert looking.scan() == ()
    assert looking.n_handed_over == 1
    assert sources(node) == dict.fromkeys((*before, "pixels"), True)
    for name, frame in before.items():
        again = client["reduced"]["a-live-run"]["attempt-0000"][name]
        assert again.structure() == structures[name]
        after = again.read()
        assert after.dtypes.equals(frame.dtypes)
        assert after.equals(frame)  # the numbers of the batches, too
    assert peaks.read().equals(before["peaks"])
    assert served_digest(node, path) == hostile.expected_digest()

    # The rows are kept for those who were reading, and then dropped.
    rows = {name: rows_to_drop(child) for name, child in tables_of(node.include_data_sources()).items()}
    assert count_rows(folder, rows["peaks"]) == len(before["peaks"])
    assert looking.scan() == ()
    assert looking.n_dropped == 0
    clock.more = LATER
    assert looking.scan() == ()
    assert looking.n_dropped == 1
    assert count_rows(folder, rows["peaks"]) == 0
    assert peaks.read().equals(before["peaks"])
    assert archives(client, data, clock).scan() == ()
    assert served_digest(node, path) == hostile.expected_digest()


def count_rows(folder: Path, rows: Any) -> int:
    import sqlite3

    connection = sqlite3.connect(folder / "store" / "tables.db")
    try:
        asked = f'SELECT COUNT(*) FROM "{rows.table_name}" WHERE _dataset_id = ?'
        return connection.execute(asked, (rows.dataset_id,)).fetchone()[0]
    finally:
        connection.close()


def test_readers_meanwhile_see_every_row_each_time(server, client, data):
    make(data, "meanwhile", uri=server.uri)
    whole = client["reduced"]["meanwhile"]["attempt-0000"]["peaks"].read()
    seen, done = [], threading.Event()

    def read() -> None:
        mine = catalogue(server.uri, KEY)
        node = mine["reduced"]["meanwhile"]["attempt-0000"]["peaks"]
        while not done.is_set():
            seen.append(node.read().equals(whole))
        disconnect(mine)

    reader = threading.Thread(target=read)
    reader.start()
    clock = Clock()
    looking = archives(client, data, clock)
    looking.scan()
    clock.more = LATER
    looking.scan()
    done.set()
    reader.join()
    assert (looking.n_handed_over, looking.n_dropped) == (1, 1)
    assert seen
    assert all(seen)


def test_what_differs_from_its_archive_is_not_handed_over(server, client, data):
    path = make(data, "differs", uri=server.uri)
    with h5py.File(path, "r+") as file:
        file["reduction_0000/peaks/sum_intensity"][0] += 1
    (line,) = archives(client, data).scan()
    assert "its tables were changed since" in line
    assert set(sources(client["reduced"]["differs"]["attempt-0000"]).values()) == {False}


def test_it_is_not_handed_over_if_nobody_wants_it(server, client, data):
    make(data, "stays", uri=server.uri)
    looking = archives(client, data, hand_over=False)
    assert looking.scan() == ()
    assert set(sources(client["reduced"]["stays"]["attempt-0000"]).values()) == {False}


def test_what_a_publisher_may_still_send_is_left_to_it(server, client, data):
    path = make(data, "awaited", uri=server.uri)
    client["reduced"].delete_contents(["awaited"], recursive=True, external_only=False)
    clock = Clock()
    looking = archives(client, data, clock)
    assert looking.scan() == ()
    assert "awaited" not in client["reduced"]
    clock.more = LATER
    looking.scan()
    node = client["reduced"]["awaited"]["attempt-0000"]
    # A publisher that comes later finds that nothing is to be sent.
    sink = TiledSink(catalogue(server.uri, KEY))
    with ReducedArchiveReader(path) as reader:
        tables = {name: table for name, table in reader.tables(0).items() if name != "pixels"}
        metadata = {**reader.attributes(0), "status": "running"}
        sink.open_reduction("awaited", 0, start={"uid": "awaited"}, metadata=metadata, tables=tables)
        assert sink.stored("peaks")[1] == reader.n_rows(0, "peaks")
        sink.append("peaks", 7, dict(reader.read(0, "peaks")))
        sink.close_reduction(reader.attributes(0))
    sink.close()
    assert served_digest(node, path) == hostile.expected_digest()


# ---------------------------------------------------------------- publish


def test_publish_sends_once_and_completes_what_was_begun(server, client, data, monkeypatch, capsys):
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)
    path = make(data, "later")
    run_publish([path], server.uri, raw=True)
    node = client["reduced"]["later"]["attempt-0000"]
    assert served_digest(node, path) == node.metadata["digest"] == hostile.expected_digest()
    assert node.metadata["status"] == "complete"
    before = {name: child.read() for name, child in tables_of(node).items()}
    assert sorted(before) == ["frames", "links", "members", "peaks", "tracks"]
    run_publish([data], server.uri, raw=True)
    assert "there already" in capsys.readouterr().out
    for name, frame in before.items():
        assert node[name].read().equals(frame)
    assert list(client["reduced"]["later"]) == ["attempt-0000"]

    # One that was published in part.
    half = make(data / "half", "half-run")
    sink = TiledSink(catalogue(server.uri, KEY))
    with ReducedArchiveReader(half) as reader:
        tables = {name: table for name, table in reader.tables(0).items() if name != "pixels"}
        metadata = {**reader.attributes(0), "status": "running"}
        sink.open_reduction("half-run", 0, start={"uid": "half-run"}, metadata=metadata, tables=tables)
        sink.append("peaks", 1, dict(reader.read(0, "peaks", 0, 2)))
    sink.raw_document("start", {"uid": "half-run", "time": 1.0})
    sink.close()
    run_publish([half], server.uri, raw=True)
    node = client["reduced"]["half-run"]["attempt-0000"]
    assert served_digest(node, half) == hostile.expected_digest()
    assert node.metadata["status"] == "complete"
    assert node["peaks"].read(["batch"])["batch"].tolist()[:3] == [1, 1, 2]
    assert "stop" in client["raw"]["half-run"].metadata


def test_publish_refuses_what_was_changed_and_sends_the_rest(server, client, data, monkeypatch, capsys):
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)
    bad, good = make(data / "bad", "pub-bad"), make(data / "good", "pub-good")
    with h5py.File(bad, "r+") as file:
        file["reduction_0000/peaks/sum_intensity"][0] += 1
    with pytest.raises(ArchiveError, match="1 of 2 archives"):
        run_publish([bad, good], server.uri, raw=False)
    assert "were changed since" in capsys.readouterr().err
    assert "pub-bad" not in client["reduced"]
    assert client["reduced"]["pub-good"]["attempt-0000"].metadata["status"] == "complete"
    with pytest.raises(ArchiveError, match="no such file"):
        run_publish([data / "none_reduced.h5"], server.uri, raw=True)


# ---------------------------------------------------------------- the command


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)
    return found


def test_the_command_serves_a_folder_and_what_comes_to_it(tmp_path):
    path = make(tmp_path, "first")
    call = "import sys; from hedmlive.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", call, "serve", "--archives", str(tmp_path), "--port", "0"]
    process_ = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process_.stdout is not None
    try:
        line = process_.stdout.readline()
        uri, keyfile = line.split()[0], Path(line.split("in ")[-1].strip().rstrip(")"))
        assert httpx.get(f"{uri}/metadata/").status_code == 401
        client = catalogue(uri, keyfile.read_text().strip())
        wait_for(lambda: "reduced" in client and "first" in client["reduced"] and "first" in client["raw"])
        node = client["reduced"]["first"]["attempt-0000"]
        wait_for(lambda: "pixels" in node)
        assert served_digest(node, path) == hostile.expected_digest()
        make(tmp_path / "more", "second")
        process_.send_signal(signal.SIGHUP)
        wait_for(lambda: "second" in client["reduced"])
        disconnect(client)
    finally:
        process_.send_signal(signal.SIGINT)
        _, said = process_.communicate(timeout=60)
    assert process_.returncode == 0, said
    assert not keyfile.exists()
    # The catalogue was for the time being: nothing of it lies among the archives.
    assert sorted(each.name for each in tmp_path.glob("*")) == ["first_raw.h5", "first_reduced.h5", "more"]

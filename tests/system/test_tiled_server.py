"""The real Tiled server, in this process and in another one: who may come in, what is kept, what arrives once."""

import gc
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from event_model import compose_run
from typer.testing import CliRunner

from hedmlive.cli.app import app
from hedmlive.streaming import TABLES, PublishError, SettingsError
from hedmlive.tiled_config import (
    SPARSE_FRAMES,
    EmbeddedServer,
    TiledSink,
    connect,
    disconnect,
    ensure_root,
    latest_reduction,
    read_table,
    serve,
    tables_of,
)
from hedmlive.tiled_config.preflight import check_server

KEY = "0123456789abcdef0123456789abcdef"
LIVE_TABLES = {name: table for name, table in TABLES.items() if name != "pixels"}
MEMBERS = TABLES["members"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder):
    (folder / "raw").mkdir()
    with EmbeddedServer(folder / "store", readable=[folder / "raw"]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    client = server.client()
    yield client
    disconnect(client)


@pytest.fixture
def sink(client):
    return TiledSink(client, sleep=lambda _: None)


def open_run(sink, uid, attempt=0, tables=LIVE_TABLES):
    sink.open_reduction(uid, attempt, start={"uid": uid, "scan_id": 7}, metadata={"status": "running"}, tables=tables)


def rows(table, batch, n=10):
    """A batch of a table: as many rows, whose first column counts on from batch to batch."""
    columns = {column.name: np.zeros(n, column.dtype) for column in table.columns}
    columns[table.key[0]] = np.arange(n) + n * (batch - 1)
    return columns


# ---------------------------------------------------------------- who may come in


@pytest.mark.parametrize("query", [{}, {"api_key": "f" * 64}], ids=["no key", "wrong key"])
@pytest.mark.parametrize("path", ["/metadata/", "/search/", "/table/full/reduced/a/attempt-0000/peaks"])
def test_without_the_key_nobody_comes_in(server, path, query):
    assert httpx.get(server.uri + path, params=query).status_code == 401
    assert httpx.post(server.uri + "/metadata/", params=query, json={}).status_code == 401


OPEN = {"/", "/healthz", "/ui/{path}", "/tiled-ui-settings", "/api/v1/"}
"""What anybody may see: that it lives, the web pages, and which formats there are."""


def test_no_route_at_all_shows_anything_without_a_key(server, client):
    ensure_root(client)
    base = server.uri.removesuffix("/api/v1")
    routes = httpx.get(f"{base}/openapi.json").json()["paths"]
    assert len(routes) > 40
    shown = set()
    for path, methods in routes.items():
        for method, code in itertools.product(methods, ("raw", "")):
            answer = httpx.request(method, base + re.sub(r"\{[^}]*\}", code, path), follow_redirects=True)
            if answer.status_code < 400:
                shown.add(path)
    assert shown <= OPEN


def test_a_client_with_a_wrong_key_is_told_so(server):
    with warnings.catch_warnings():
        # Tiled keeps the socket of a client that it refuses to make, and nobody has it to close.
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            connect(server.uri, "f" * 64)
        gc.collect()


def test_the_preflight_of_a_server_that_runs(server, monkeypatch):
    checks = check_server(server.uri, server.api_key)
    # The server stamps its answers once a second, when it has time to.
    assert [each for each in checks if each.state != "ok" and each.item != "clock"] == []
    found = {each.item for each in checks}
    assert found == {"server", "ready", "transport", "clock", "without a key", "tiled", "documents", "key", "links"}
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", "f" * 64)
    said = CliRunner().invoke(app, ["doctor", "--tiled", server.uri])
    assert (said.exit_code, "refused with 401" in said.stdout) == (1, True)


def test_it_listens_on_this_machine_only(server):
    port = httpx.URL(server.uri).port
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {line[1] for line in lines if line[3] == "0A"}
    assert {place for place in listening if place.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} of 127.0.0.1 is not free"):
            EmbeddedServer(tmp_path, port=port)


def register(client, path, key):
    from tiled.structures.core import StructureFamily
    from tiled.structures.data_source import Asset, DataSource, Management

    asset = Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=0)
    source = DataSource(
        structure_family=StructureFamily.container,
        structure=None,
        mimetype="application/x-hdf5",
        management=Management.external,
        assets=[asset],
    )
    client.new(StructureFamily.container, [source], key=key)


def test_no_file_outside_the_folders_is_served(server, client, folder):
    (folder / "secret").mkdir()
    for path in (folder / "raw" / "open.h5", folder / "secret" / "a.h5"):
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(5)
    (folder / "raw" / "link.h5").symlink_to(folder / "secret" / "a.h5")

    def read(key, path=""):
        return httpx.get(
            f"{server.uri}/array/full/{key}/x", params={"api_key": server.api_key, "format": "application/json"}
        )

    register(client, folder / "raw" / "open.h5", "open")
    assert read("open").json() == [0, 1, 2, 3, 4]
    register(client, folder / "secret" / "a.h5", "outside")
    assert read("outside").status_code == 500
    for key, path in (("dots", "raw/../secret/a.h5"), ("link", "raw/link.h5")):
        with pytest.raises(httpx.HTTPStatusError, match="lies outside the folders"):
            register(client, f"{folder}/{path}", key)
    for asset in range(1, 4):
        place = f"{server.uri}/asset/bytes/outside"
        assert httpx.get(place, params={"api_key": server.api_key, "id": asset}).status_code == 403


# ---------------------------------------------------------------- reductions


def test_a_reduction_is_made_filled_found_and_closed(client, sink):
    open_run(sink, "run-a")
    for batch in (1, 2, 3):
        for name, table in LIVE_TABLES.items():
            sink.append(name, batch, rows(table, batch))
    sink.update({"progress": {"frames": 30}})
    sink.close_reduction({"status": "complete", "digest": "abc"})

    reduction = latest_reduction(client, "run-a")
    assert reduction.metadata["raw_run_uid"] == "run-a"
    assert reduction.metadata["start"] == {"uid": "run-a", "scan_id": 7}
    assert (reduction.metadata["status"], reduction.metadata["digest"]) == ("complete", "abc")
    assert reduction.metadata["progress"] == {"frames": 30}
    assert sorted(tables_of(reduction)) == sorted(LIVE_TABLES)
    for name, node in tables_of(reduction).items():
        assert sink.stored(name) == (3, 30)
        frame = read_table(node)
        assert list(frame) == list(TABLES[name].names)
        assert frame[TABLES[name].key[0]].tolist() == list(range(30))
        assert {c: frame[c].dtype for c in frame} == {c.name: np.dtype(c.dtype) for c in TABLES[name].columns}


def test_opening_again_finds_what_is_there(client, sink):
    open_run(sink, "run-b")
    sink.append("members", 1, rows(MEMBERS, 1))
    again = TiledSink(client)
    open_run(again, "run-b")
    assert again.stored("members") == (1, 10)
    assert again.stored("links") == (0, 0)
    open_run(again, "run-b", attempt=1)
    assert again.stored("members") == (0, 0)
    assert latest_reduction(client, "run-b").metadata["attempt"] == 1


def test_numbers_come_back_exactly(client, sink):
    open_run(sink, "run-c")
    columns = rows(TABLES["peaks"], 1, 4)
    columns["row"] = np.array([np.nan, np.inf, -0.0, 0.1 + 0.2])
    columns["frame"] = np.array([-(2**63), 2**63 - 1, 0, 1])
    columns["on_edge"] = np.array([True, False, True, False])
    sink.append("peaks", 1, columns)
    frame = read_table(latest_reduction(client, "run-c")["peaks"])
    for name in ("row", "frame", "on_edge"):
        np.testing.assert_array_equal(frame[name].to_numpy(), columns[name])


def test_the_database_refuses_a_late_copy(sink, client):
    """A copy that passes the read-back, because it lands after it, meets the unique index."""
    for uid in ("run-d", "run-e"):  # the second run shares the first one's SQL table, and its index
        open_run(sink, uid)
        for name in ("peaks", "links"):
            table = TABLES[name]
            sink.append(name, 1, rows(table, 1))
            with pytest.raises(PublishError, match=r"batch 2 .*refused 4 times"):
                sink.append(name, 2, rows(table, 1))
            sink.append(name, 3, rows(table, 3))
            assert sink.stored(name) == (3, 20)


def test_two_writers_and_a_reader_at_once_lose_nothing(server):
    errors, done = [], threading.Event()

    def work(function, *arguments):
        client = server.client()
        try:
            function(client, *arguments)
        except Exception as error:
            errors.append(error)
        finally:
            disconnect(client)

    def write(client, uid):
        sink = TiledSink(client)
        open_run(sink, uid, tables={"members": MEMBERS})
        for batch in range(1, 21):
            sink.append("members", batch, rows(MEMBERS, batch))

    def read(client):
        while not done.is_set():
            try:
                table = latest_reduction(client, "busy-1")["members"]
            except KeyError:
                continue  # its nodes are made one by one
            read_table(table)

    writers = [threading.Thread(target=work, args=(write, f"busy-{i}")) for i in (1, 2)]
    reader = threading.Thread(target=work, args=(read,))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    client = server.client()
    for uid in ("busy-1", "busy-2"):
        assert read_table(latest_reduction(client, uid)["members"])["track"].tolist() == list(range(200))
    disconnect(client)


def test_what_is_not_open_is_named(sink):
    with pytest.raises(PublishError, match="table members is not open"):
        sink.append("members", 1, rows(MEMBERS, 1))
    with pytest.raises(PublishError, match="open_reduction first"):
        sink.update({})


def test_a_table_can_be_shown_by_the_web_interface(server, sink):
    open_run(sink, "run-w")
    sink.append("members", 1, rows(MEMBERS, 1, 2))
    place = f"{server.uri}/table/full/reduced/run-w/attempt-0000/members"
    answer = httpx.get(place, params={"api_key": server.api_key, "format": "application/json-seq"})
    assert [line["track"] for line in map(json.loads, answer.text.splitlines())] == [0, 1]


# ---------------------------------------------------------------- runs


def run_documents(path, n=3) -> Iterator[tuple[str, Any]]:
    """The documents of a run with a scalar, a small array, and sparse frames in a file."""
    run: Any = compose_run(metadata={"sample": "ruby"})
    yield "start", run.start_doc
    keys = {
        "omega": {"source": "sim", "dtype": "number", "shape": []},
        "matrix": {"source": "sim", "dtype": "array", "shape": [3]},
        "det": {"source": "sim", "dtype": "array", "shape": [1, 5, 7], "dtype_numpy": "<u2", "external": "STREAM:"},
    }
    stream = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", stream.descriptor_doc
    parameters = {"dataset": "/entry/sparse", "chunk_shape": [1]}
    resource, datum = run.compose_stream_resource(
        mimetype=SPARSE_FRAMES, uri=f"file://localhost{path}", data_key="det", parameters=parameters
    )
    yield "stream_resource", resource
    for i in range(n):
        yield "stream_datum", datum({"start": i, "stop": i + 1}, descriptor=stream.descriptor_doc)
        data = {"omega": 0.25 * i, "matrix": [1.0, 2.0, float(i)]}
        yield "event", stream.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), filled={})
    yield "stop", run.compose_stop()


@pytest.fixture
def sparse_file(folder):
    path = folder / "raw" / "run_raw.h5"
    if not path.exists():
        with h5py.File(path, "w", libver="latest") as file:
            group = file.create_group("entry/sparse")
            group.attrs["shape"], group.attrs["dtype"] = (5, 7), "<u2"
            group["frame_start"] = [0, 1, 2, 4]
            group["row"], group["col"], group["value"] = [0, 1, 2, 4], [0, 1, 2, 6], [10, 11, 12, 13]
    return path


def test_a_run_is_stored_with_arrays_and_sparse_frames_and_sent_again_after_a_reset(client, sink, sparse_file):
    documents = list(run_documents(sparse_file))
    uid = documents[0][1]["uid"]
    for name, doc in documents[:5]:
        sink.raw_document(name, doc)
    with pytest.raises(PublishError, match="document start"):
        TiledSink(client).raw_document("start", documents[0][1])
    sink.raw_reset(uid)
    for name, doc in documents:
        sink.raw_document(name, doc)

    run = client["raw"][uid]
    assert run.metadata["start"]["sample"] == "ruby"
    assert run.metadata["stop"]["num_events"] == {"primary": 3}
    assert run["primary"]["omega"].read().tolist() == [0.0, 0.25, 0.5]
    assert run["primary"]["matrix"].read()[:, 2].tolist() == [0.0, 1.0, 2.0]
    frames = run["primary"]["det"]
    assert frames.shape == (3, 5, 7)
    assert frames[2][2, 2] == 12
    assert int(frames.read().sum()) == 46
    names = [name for name, _ in run.documents()]
    assert sorted(set(names)) == sorted({name for name, _ in documents})


# ---------------------------------------------------------------- starting and ending


def test_it_starts_and_ends_leaving_its_folder_and_nothing_else(tmp_path):
    before = set(threading.enumerate())
    with EmbeddedServer(tmp_path / "store") as server:
        uri = server.uri
        assert server.alive
        assert httpx.get(uri.removesuffix("/api/v1") + "/healthz").status_code == 200
    server.close()
    assert not server.alive
    assert [thread for thread in set(threading.enumerate()) - before if "hedmlive" in thread.name] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir() if path.suffix != ".log") == [
        "catalog.db",
        "data",
    ]


def test_serving_in_the_foreground_ends_when_told(tmp_path):
    stop, seen = threading.Event(), []

    def ready(uri, key):
        seen.append((httpx.get(uri + "/metadata/", params={"api_key": key}).status_code, key))
        stop.set()

    before = signal.getsignal(signal.SIGINT)
    serve({"folder": tmp_path, "port": 0, "api_key": KEY}, ready=ready, stop=stop)
    assert seen == [(200, KEY)]
    assert signal.getsignal(signal.SIGINT) is before


class OtherProcess:
    """A server in another process, on one port, that can be killed and started again."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.file = folder / "serve.yml"
        self.file.write_text(f"folder: store\nport: {port}\n")
        (folder / "store").mkdir()
        (folder / "store" / "api_key").touch(0o600)
        (folder / "store" / "api_key").write_text(KEY)
        self.start()

    def start(self):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "hedmlive.tiled_config", str(self.file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.uri = lines.readline().strip()

    def kill_and_start(self):
        self.end(signal.SIGKILL)
        self.start()

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait(30)
        return self.process.returncode


@pytest.fixture
def other(tmp_path):
    other = OtherProcess(tmp_path)
    yield other
    if other.process.poll() is None:
        other.end(signal.SIGKILL)


def test_killed_while_appending_no_row_is_lost_or_doubled(other):
    client = connect(other.uri, KEY)
    sink = TiledSink(client)
    open_run(sink, "run-k")
    n_batches, killers = 30, []
    for batch in range(1, n_batches + 1):
        if batch in (10, 20):
            # Beside the appends that follow, so that it hits one of them somewhere in the middle.
            killers.append(threading.Thread(target=other.kill_and_start))
            killers[-1].start()
        deadline = time.monotonic() + 120
        while True:
            try:
                sink.append("peaks", batch, rows(TABLES["peaks"], batch, 200))
                break
            except ConnectionError:
                assert time.monotonic() < deadline
    for killer in killers:
        killer.join()
    assert sink.stored("peaks") == (n_batches, 200 * n_batches)
    frame = latest_reduction(client, "run-k")["peaks"].read()
    assert sorted(frame["frame"]) == list(range(200 * n_batches))
    disconnect(client)
    assert other.end(signal.SIGTERM) == 0


def test_interrupted_it_ends_in_order(other):
    assert httpx.get(other.uri.removesuffix("/api/v1") + "/healthz").status_code == 200
    assert other.end(signal.SIGINT) == 0


def test_bad_settings_end_the_process_with_one_line(tmp_path):
    file = tmp_path / "serve.yml"
    file.write_text("folder: a\nhost: 0.0.0.0\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "hedmlive.tiled_config"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}: ")
    assert len(done.stderr.splitlines()) == 1
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 2

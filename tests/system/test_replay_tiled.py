"""Runs of a real Tiled server, replayed over HTTP: images in blocks, whatever file they lie in, to the same digest."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hostile
import httpx
import numpy as np
import pytest
import tifffile

from hedmlive.callbacks import load_settings, make_sink, open_source, process
from hedmlive.callbacks.replay_tiled import open_tiled, tiled_documents
from hedmlive.cli import main
from hedmlive.cli.publish import ArchiveReaders, run_publish
from hedmlive.streaming import ReplayError
from hedmlive.tiled_config import EmbeddedServer, TiledSink, catalogue, connect, disconnect
from hedmlive.tiled_config.archives import Archives

KEY = "0123456789abcdef0123456789abcdef"
HEADER = 8192
PER_EVENT = 4
"Frames of an event, where it holds several."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replayed").resolve()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(folder / "store", readable=[folder], api_key=KEY) as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)


def address(server: EmbeddedServer, path: str) -> str:
    return f"tiled://{server.uri.removeprefix('http://').split('/')[0]}/{path}"


def write_ge(path: Path, frames: list[np.ndarray]) -> Path:
    path.write_bytes(b"\0" * HEADER + np.stack(frames).astype("<u2").tobytes())
    return path


def ge_parameters(**more: Any) -> dict[str, Any]:
    return {"shape": list(hostile.SHAPE), "dtype": "<u2", "header_bytes": HEADER, **more}


def _ge(docs: hostile.Documents, folder: Path) -> hostile.Documents:
    """As the area detector announces GE files: Resource of spec AD_GE."""
    path = write_ge(folder / "scan.ge2", [hostile.image(i) for i in range(hostile.N_FRAMES)])
    about = {"spec": "AD_GE", "resource_path": path.name, "resource_kwargs": ge_parameters(frame_per_point=1)}
    return [(name, {**doc, **about} if name == "resource" else doc) for name, doc in docs]


def _ge_stream(docs: hostile.Documents, folder: Path) -> hostile.Documents:
    """As the reader of foreign files announces them."""
    path = write_ge(folder / "scan.ge3", [hostile.image(i) for i in range(hostile.N_FRAMES)])
    uri = f"file://localhost{path}"
    about = {"mimetype": "application/x-ge-raw", "uri": uri, "parameters": ge_parameters(chunk_shape=[1])}
    return [(name, {**doc, **about} if name == "stream_resource" else doc) for name, doc in docs]


def _tiff(docs: hostile.Documents, folder: Path) -> hostile.Documents:
    for i in range(hostile.N_FRAMES):
        tifffile.imwrite(folder / f"scan_{i:05d}.tif", hostile.image(i))
    parameters = {"template": "scan_{:05d}.tif", "chunk_shape": [1, *hostile.SHAPE]}
    uri = f"file://localhost{folder}/"
    about = {"mimetype": "multipart/related;type=image/tiff", "uri": uri, "parameters": parameters}
    return [(name, {**doc, **about} if name == "stream_resource" else doc) for name, doc in docs]


def _several(docs: hostile.Documents, folder: Path) -> hostile.Documents:
    """Events of several frames each: of the eight events the first two are left, with four frames each."""
    many = [(name, doc) for name, doc in docs if not (name in ("event", "stream_datum") and _number(name, doc) > 2)]
    shape = [PER_EVENT, *hostile.SHAPE]

    def changed(name: str, doc: dict[str, Any]) -> dict[str, Any]:
        if name == "descriptor" and "det0_image" in doc["data_keys"]:
            key = doc["data_keys"]["det0_image"] | {"shape": shape}
            return {**doc, "data_keys": doc["data_keys"] | {"det0_image": key}}
        if name == "stop":
            return {**doc, "num_events": {"primary": 2, "baseline": 1}}
        return doc

    return [(name, changed(name, doc)) for name, doc in many]


def _stacks(docs: hostile.Documents, folder: Path) -> hostile.Documents:
    """The same with the frames in the events."""
    stacks = [np.stack([hostile.image(PER_EVENT * e + j) for j in range(PER_EVENT)]) for e in range(2)]
    return [
        (name, {**doc, "data": doc["data"] | {"det0_image": stacks[doc["seq_num"] - 1]}})
        if name == "event" and "det0_image" in doc["data"]
        else (name, doc)
        for name, doc in _several(docs, folder)
    ]


def _number(name: str, doc: dict[str, Any]) -> int:
    if name == "stream_datum":
        return doc["seq_nums"]["start"]
    return doc["seq_num"] if doc["descriptor"].endswith("primary") else 0


RUNS: dict[str, tuple[str, Callable[[hostile.Documents, Path], hostile.Documents]]] = {
    "array": ("array", lambda docs, folder: docs),
    "datum": ("datum", lambda docs, folder: docs),
    "stream": ("stream", lambda docs, folder: docs),
    "tiff": ("stream", _tiff),
    "ge": ("datum", _ge),
    "ge-stream": ("stream", _ge_stream),
    "several": ("stream", _several),
    "stacks": ("array", _stacks),
}


def store(server: EmbeddedServer, folder: Path, kind: str, uid: str) -> hostile.Documents:
    """Write a run into the catalogue; return its documents."""
    (folder / uid).mkdir()
    way, change = RUNS[kind]
    docs = change(hostile.run(way, folder / uid, uid=uid), folder / uid)
    sink = TiledSink(catalogue(server.uri, KEY), batch_size=100)
    for name, doc in docs:
        assert sink.raw_document(name, doc) is None
    sink.close()
    return docs


def counted(where: str) -> tuple[Any, list[str]]:
    """Open a run; what it asks for images with is listed."""
    run = open_tiled(where, KEY).run
    asked: list[str] = []

    def note(request: httpx.Request) -> None:
        if "/array/full/" in request.url.path:
            asked.append(request.url.params["slice"])

    run.context.http_client.event_hooks["request"].append(note)
    return run, asked


@pytest.mark.parametrize("kind", RUNS)
def test_images_come_in_blocks_whatever_file_they_lie_in(server, folder, tmp_path, kind):
    docs = store(server, folder, kind, f"run-{kind}")
    settings = load_settings(hostile.settings(tmp_path))
    live = process(docs, settings, stem="live")
    assert live.problems == ()
    assert live.progress.n_frames == hostile.N_FRAMES
    run, asked = counted(address(server, f"run-{kind}"))
    again = process(tiled_documents(run), settings, stem="again")
    assert (again.digests, again.problems) == (live.digests, ())
    rows = 2 if kind == "stacks" else hostile.N_FRAMES
    assert asked in ([f"0:{rows}"], [f"0:{rows // PER_EVENT}"])
    if kind not in ("several", "stacks"):
        assert live.digests == {0: hostile.expected_digest()}
        run, asked = counted(address(server, f"raw/run-{kind}"))
        size = 2 * np.prod(hostile.SHAPE)
        small = process(tiled_documents(run, block_bytes=3 * int(size)), settings, stem="small")
        assert small.digests == live.digests
        assert sorted(asked) == ["0:3", "3:6", "6:8"]


def test_files_of_this_machine_are_read_if_asked_for(server, folder, tmp_path):
    store(server, folder, "stream", "files")
    source = open_source(address(server, "files?frames=files"))
    uris = [doc["uri"] for name, doc in source.documents if name == "stream_resource"]
    assert uris == [f"file://localhost{folder}/files/det0_image.h5"]
    source = open_source(address(server, "files?frames=files"))
    result = process(source.documents, load_settings(hostile.settings(tmp_path)))
    assert result.digests == {0: hostile.expected_digest()}


def test_a_raw_archive_that_is_served_is_replayed(server, folder, tmp_path, capsys):
    made = folder / "served"
    made.mkdir()
    live = process(hostile.run(uid="served"), load_settings(hostile.settings(made)), stem="served", write_raw=True)
    client = catalogue(server.uri, KEY)
    assert Archives(client, [made], ArchiveReaders()).scan() == ()
    disconnect(client)
    # Settings come from the reduction.
    assert live.digests[0] in command(capsys, "replay", address(server, "reduced/served/attempt-0000"), tmp_path)


def command(capsys: Any, *arguments: Any) -> str:
    """Run the command; the last argument is the folder of its archives."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments[:-1]), "--out", str(arguments[-1])])
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    return said.out


def test_documents_alone_cost_no_image(server, folder):
    store(server, folder, "array", "documents")
    run, asked = counted(address(server, "documents"))
    assert [name for name, _ in tiled_documents(run)].count("event") == hostile.N_FRAMES + 1
    assert asked == []


def test_a_server_that_is_started_again_costs_nothing(folder, tmp_path):
    # Of its own, for it is killed.
    store_folder = tmp_path / "store"
    with EmbeddedServer(store_folder, readable=[folder], api_key=KEY) as first:
        store(first, folder, "stream", "restarted")
        where, port = address(first, "restarted"), int(first.uri.split(":")[2].split("/")[0])
        run, asked = counted(where)
        servers: list[EmbeddedServer] = []

        def documents() -> Iterator[Any]:
            for name, doc in tiled_documents(run, block_bytes=1):
                if name == "event" and doc["seq_num"] == 4 and "omega" in doc["data"]:
                    first.close()
                    servers.append(EmbeddedServer(store_folder, readable=[folder], api_key=KEY, port=port))
                yield name, doc

        try:
            result = process(documents(), load_settings(hostile.settings(tmp_path)))
        finally:
            for server in servers:
                server.close()
    assert (result.digests, result.problems) == ({0: hostile.expected_digest()}, ())
    assert len(asked) >= hostile.N_FRAMES


def test_another_recipe_is_another_attempt_beside_the_first(server, folder, tmp_path, capsys):
    settings = hostile.settings(tmp_path, tiled={"uri": server.uri, "latency": 0.01})
    sink = partial(make_sink, "tiled", server.uri, KEY)
    docs = hostile.run("stream", tmp_path, uid="attempts")
    # Frames where the server may read them.
    docs = [
        (name, {**doc, "uri": f"file://localhost{folder}/attempts/det0_image.h5"} if name == "stream_resource" else doc)
        for name, doc in docs
    ]
    store(server, folder, "stream", "attempts")
    live = process(docs, load_settings(settings), sink=sink)
    assert live.problems == ()
    change = ("--set", "threshold=60", "--tiled", server.uri)
    assert "reduction_0001" in command(capsys, "replay", address(server, "attempts"), *change, tmp_path)
    runs = connect(server.uri, KEY)
    run = runs["attempts"]
    assert run.attempts == [0, 1]
    changed = run.attempt(0).compare(run.attempt(1))
    assert changed.recipe == {"threshold": (10.0, 60.0)}
    assert changed.same_digest is False
    assert run.attempt(0).digest == live.digests[0] == hostile.expected_digest()
    before, after = changed.counts["tracks"]
    assert (before, after) == (len(run.attempt(0).tracks()), len(run.attempt(1).tracks()))
    assert before > after > 0
    disconnect(runs)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nosuchrun", "cannot be read"),
        ("run-stream?api_key=secret", "a key stands in the address"),
        ("run-stream?frames=mine", "came after it; wanted tiled://"),
        ("", "no run is named"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_one_line(server, path, message):
    with pytest.raises(ReplayError, match=message) as caught:
        open_source(address(server, path))
    assert len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value)


def test_a_wrong_key_is_told_without_it(server, monkeypatch):
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", "f" * 32)
    with pytest.raises(ReplayError, match="and a valid key by --key-file") as caught:
        open_source(address(server, "run-stream"))
    assert "f" * 32 not in str(caught.value)


def test_frames_that_the_server_does_not_have_are_named_once(server, folder, tmp_path):
    docs = hostile.run("stream", folder, uid="left-out")
    sink = TiledSink(catalogue(server.uri, KEY), batch_size=100)
    for name, doc in docs:
        sink.raw_document(name, {**doc, "mimetype": "application/x-unknown"} if name == "stream_resource" else doc)
    sink.close()
    result = process(open_source(address(server, "left-out")).documents, load_settings(hostile.settings(tmp_path)))
    assert result.progress.n_frames == 0
    (line, more) = result.problems
    assert "Tiled serves no frames of it; replay the raw archive" in line
    assert more == f"and {hostile.N_FRAMES - 1} more"


def test_a_file_that_is_gone_costs_its_frames(server, folder, tmp_path):
    store(server, folder, "stream", "gone-file")
    (folder / "gone-file" / "det0_image.h5").unlink()
    run, asked = counted(address(server, "gone-file"))
    result = process(tiled_documents(run), load_settings(hostile.settings(tmp_path)))
    assert result.progress.n_rejected == hostile.N_FRAMES
    assert any("did not come" in line for line in result.problems)
    assert len(asked) < 5


def test_archives_that_were_moved_are_said_and_led_to_their_place(server, folder, tmp_path, capsys):
    before, after = folder / "before", folder / "after"
    before.mkdir()
    live = process(hostile.run(uid="moved"), load_settings(hostile.settings(before)), stem="moved", write_raw=True)
    client = catalogue(server.uri, KEY)
    assert Archives(client, [before], ArchiveReaders()).scan() == ()
    table = client["reduced/moved/attempt-0000/peaks"]
    image = client["reduced/moved/attempt-0000/max_projection"].read()
    whole = table.query()
    before.rename(after)
    with pytest.raises(
        httpx.HTTPStatusError, match=r"moved_reduced.h5 is not there any more; if it was moved, `hedmlive"
    ):
        table.query()
    run_publish([after], server.uri, raw=True)
    assert "is served from its new place" in capsys.readouterr().out
    assert table.query().equals(whole)
    np.testing.assert_array_equal(client["reduced/moved/attempt-0000/max_projection"].read(), image)
    assert list(client["reduced/moved"]) == ["attempt-0000"]
    again = process(open_source(address(server, "moved")).documents, load_settings(hostile.settings(tmp_path)))
    assert (again.digests, again.problems) == (live.digests, ())
    run_publish([after], server.uri, raw=True)
    assert "new place" not in capsys.readouterr().out
    disconnect(client)


def test_raw_pixels_of_events_that_hold_several_frames(server, folder, tmp_path):
    uid = "cut-several"
    docs = store(server, folder, "several", uid)
    settings = load_settings(hostile.settings(tmp_path, tiled={"uri": server.uri, "latency": 0.01}))
    live = process(docs, settings, stem=uid, sink=partial(make_sink, "tiled", server.uri, KEY))
    assert live.problems == ()
    runs = connect(server.uri, KEY)
    run = runs[uid]
    tracks = run.tracks().to_pylist()
    # One that begins in the middle of an event, one that goes over from an event to the next, and a whole one.
    assert {each["first_frame"] % PER_EVENT > 0 for each in tracks} == {True, False}
    for each in tracks:
        found = run.track(each["track"]).frames(margin=1)
        assert found.frame.tolist() == list(range(each["first_frame"], each["last_frame"] + 1))
        box = np.s_[found.row[0] : found.row[-1] + 1, found.col[0] : found.col[-1] + 1]
        np.testing.assert_array_equal(found.images, [hostile.image(i)[box] for i in found.frame])
    disconnect(runs)

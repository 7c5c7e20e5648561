"""Frames that a file writer lost, told from the numbers in its file: which frames are shifted, and what is no loss."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faulty_scans
import h5py
import numpy as np
import pytest

from hedmlive.callbacks import HedmLive, RunResult, load_settings, process
from hedmlive.callbacks.guards_lost import LostFrames
from hedmlive.callbacks.pending import Described, InFile, Pending
from hedmlive.callbacks.readers import HDF5Reader

PLACE = "/entry/instrument/NDAttributes/NDArrayUniqueId"
N = faulty_scans.N


def write(
    path: Path, ids: Sequence[float], *, place: str = PLACE, n_frames: int | None = None, libver: str = "latest"
) -> Path:
    with h5py.File(path, "w", libver=libver) as file:
        file[place] = np.asarray(ids)
        frames = [faulty_scans.image(i) for i in range(len(ids) if n_frames is None else n_frames)]
        file.create_dataset("/entry/data/data", data=np.asarray(frames), maxshape=(None, *faulty_scans.SHAPE))
    return path


def watch(
    path: Path, n: int, *, place: str | None = None, per_event: int = 1, dataset: str = "/entry/data/data"
) -> list[tuple[int | None, str]]:
    """Announce n frames one by one, look after each, and return frames and causes."""
    guard, reader = LostFrames("det", place), HDF5Reader(path, {"dataset": dataset}, per_event)
    said = []
    for i in range(n):
        source = InFile(reader=reader, index=i // per_event, part=i % per_event)
        pending = Pending(
            detector=0,
            frame=i,
            point=i // per_event,
            seq_num=1 + i // per_event,
            source=source,
            described=Described(per_event=per_event),
        )
        said += [*guard.push(pending), *guard.look()]
    said += guard.look(final=True)
    reader.close()
    return [(each.frame, each.cause) for each in said]


def shifted(first: int, end: int, gap: int = 1) -> list[tuple[int | None, str]]:
    return [(frame, f"det {gap}") for frame in range(first, end)]


@pytest.mark.parametrize(
    ("ids", "n", "wanted"),
    [
        ([1, 2, 3, 4, 5, 6], 6, []),
        ([7, 8, 9, 10], 4, []),
        ([0, 1, 2, 4, 5, 6], 7, shifted(3, 7)),
        ([0, 1, 2, 4, 5, 8], 9, [*shifted(3, 5), *shifted(5, 9, 2)]),
        ([1, 3, 4, 5], 4, shifted(1, 4)),
        ([1, 3], 2, []),
        # Every other frame is wanted, and one of those is lost.
        ([2, 4, 6, 10, 12], 5, shifted(3, 5)),
        # Counted anew, or twice.
        ([1, 2, 3, 1, 2, 3], 6, []),
        ([1, 2, 2, 3, 4], 5, []),
        # Room that the writer has made, and not filled.
        ([1, 2, 3, -1, -1], 5, []),
        ([1, 2, 3, 0, 0], 5, []),
        # More frames do not come than were lost: the others are late.
        ([1, 2, 3, 5], 9, shifted(3, 5)),
    ],
)
def test_gaps(ids: list[int], n: int, wanted: list[tuple[int, str]], tmp_path: Path) -> None:
    assert watch(write(tmp_path / "f.h5", ids), n) == wanted


def test_a_file_of_an_older_kind(tmp_path: Path) -> None:
    assert watch(write(tmp_path / "f.h5", [0, 1, 2, 4, 5, 6], libver="earliest"), 7) == shifted(3, 7)


def test_gaps_are_named_until_there_are_many(tmp_path: Path) -> None:
    ids = np.cumsum(np.r_[1, 1, 1, np.tile([2, 1], 20)])
    causes = [cause for _, cause in watch(write(tmp_path / "f.h5", ids.tolist()), len(ids))]
    assert sorted(set(causes)) == [f"det {i}" for i in range(1, 9)]
    assert len(causes) == 40


@pytest.mark.parametrize(
    "place", ["/defaults/NDArrayUniqueId", "/WM/NDArrayUniqueId", "/entry/NDAttributes/NDArrayUniqueId"]
)
def test_places_that_are_known(place: str, tmp_path: Path) -> None:
    assert watch(write(tmp_path / "f.h5", [1, 2, 3, 5], place=place), 4) == shifted(3, 4)


def test_a_place_of_the_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", [1, 2, 3, 5], place="/odd/number")
    assert watch(path, 4) == []
    assert watch(path, 4, place="/odd/number") == shifted(3, 4)
    assert watch(path, 4, place="/odd/nothing") == [(None, "frame_ids")]


def test_frames_that_lie_in_no_group(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", [1, 2, 3, 5])
    with h5py.File(path, "r+") as file:
        file.move("/entry/data/data", "/frames")
    assert watch(path, 4, dataset="frames") == shifted(3, 4)


def test_several_frames_an_event(tmp_path: Path) -> None:
    assert watch(write(tmp_path / "f.h5", [1, 2, 3, 4, 6, 7]), 6, per_event=2) == shifted(4, 6)


def test_a_file_that_holds_darks_too_is_not_judged(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", [1, 2, 3, 5, 6, 7], n_frames=4)
    with h5py.File(path, "r+") as file:
        file["/entry/data/dark"] = np.zeros((2, *faulty_scans.SHAPE), np.uint16)
    assert watch(path, 4) == []


def stream_documents(path: Path, n: int) -> faulty_scans.Documents:
    """The documents of a planned sweep whose frames lie in a file."""
    docs: faulty_scans.Documents = []
    for name, doc in faulty_scans.documents(faulty_scans.planned_sweep(n)):
        if name == "descriptor":
            key = {**doc["data_keys"]["det_image"], "external": "STREAM:", "shape": [1, *faulty_scans.SHAPE]}
            docs.append((name, {**doc, "data_keys": {**doc["data_keys"], "det_image": key}}))
            docs.append(("stream_resource", _resource(path)))
        elif name == "event":
            docs.append(("stream_datum", _datum(doc)))
            docs.append((name, {**doc, "data": {"omega": doc["data"]["omega"]}, "timestamps": {}}))
        else:
            docs.append((name, doc))
    return docs


def _resource(path: Path) -> dict[str, Any]:
    return {
        "uid": "frames",
        "data_key": "det_image",
        "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{path}",
        "parameters": {"dataset": "/entry/data/data", "chunk_shape": [1]},
        "run_start": faulty_scans.UID,
    }


def _datum(event: dict[str, Any]) -> dict[str, Any]:
    n = event["seq_num"]
    return {
        "uid": f"frames/{n - 1}",
        "stream_resource": "frames",
        "descriptor": event["descriptor"],
        "indices": {"start": n - 1, "stop": n},
        "seq_nums": {"start": n, "stop": n + 1},
    }


def reduced(path: Path, folder: Path, **guards: Any) -> RunResult:
    plain = faulty_scans.settings(faulty_scans.planned_sweep(), folder)
    plain |= {"guards": guards, "worker": {"file_seconds": 0.1}}
    return process(stream_documents(path, N), load_settings(plain), stem="run")


def test_one_warning_says_what_is_shifted_and_what_has_no_image(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", [*range(10), *range(11, N)])
    result = reduced(path, tmp_path)
    [warning] = result.warnings
    assert (warning.kind, warning.frame, warning.last, warning.times) == ("frame-lost", 10, N - 1, N - 10)
    assert "1 frame lost before this one: numbers in f.h5 go from 9 to 11" in warning.message
    assert "taken 1 point later" in warning.message
    # The last frame has no image, which is the same fault.
    assert len(result.problems) == 1
    assert (result.progress.n_frames, result.progress.n_rejected) == (N - 1, 1)
    quiet = reduced(path, tmp_path / "quiet", ignore=["frame-lost"])
    assert quiet.digests == result.digests
    [line] = quiet.problems
    assert "image 23 is not in its file after 0.1 s" in line


def test_it_is_said_while_no_further_document_comes(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", [*range(5), *range(6, N + 1)])
    plain = faulty_scans.settings(faulty_scans.planned_sweep(), tmp_path)
    live = HedmLive(plain)
    heard: list[int | None] = []
    live.on_warning(lambda problem: heard.append(problem.frame))
    docs = stream_documents(path, N)
    upto = next(i for i, (name, doc) in enumerate(docs) if name == "event" and doc["seq_num"] == 7)
    try:
        for name, doc in docs[: upto + 1]:
            live(name, doc)
        deadline = time.monotonic() + 20
        while not heard and time.monotonic() < deadline:
            time.sleep(0.01)
        assert heard == [5]
        for name, doc in docs[upto + 1 :]:
            live(name, doc)
        [result] = live.wait(120).values()
    finally:
        live.close()
    assert [(each.kind, each.frame, each.times) for each in result.warnings] == [("frame-lost", 5, N - 5)]
    assert result.progress.n_frames == N

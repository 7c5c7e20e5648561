"""Files that lag behind, that fill up, and what is read from them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import HedmLive, Parts, RawArchive, RawArchiveReader, load_settings, open_source, process
from hedmlive.callbacks.encoding import decode, encode
from hedmlive.callbacks.hdf5 import open_to_write
from hedmlive.callbacks.pending import cast_exactly
from hedmlive.streaming import ArchiveError, DocumentError, FrameError


class Growing:
    """A clock whose sleep lets a detector write the next frame."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.written = path, 0.0, 0
        self.file: Any = None

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.file is None:
            self.file = h5py.File(self.path, "w", libver="latest")
            maxshape, chunks = (None, *hostile.SHAPE), (1, *hostile.SHAPE)
            self.file.create_dataset("entry/data/data", (0, *hostile.SHAPE), "u2", maxshape=maxshape, chunks=chunks)
            self.file.swmr_mode = True
        data = self.file["entry/data/data"]
        data.resize(self.written + 1, axis=0)
        data[self.written] = hostile.image(self.written)
        data.flush()
        self.written += 1


def test_a_file_that_grows_late(tmp_path: Path) -> None:
    docs = hostile.run("stream", tmp_path)
    (tmp_path / "det0_image.h5").unlink()
    late = Growing(tmp_path / "det0_image.h5")
    settings = load_settings(hostile.settings(tmp_path, worker={"file_seconds": 10}))
    result = process(docs, settings, parts=Parts(clock=late.clock, sleep=late.sleep))
    assert (dict(result.digests), result.problems) == ({0: hostile.expected_digest()}, ())
    assert late.written == hostile.N_FRAMES
    late.file.close()


def test_a_file_that_never_comes_is_waited_for_once(tmp_path: Path) -> None:
    docs = hostile.run("stream", tmp_path)
    (tmp_path / "det0_image.h5").unlink()
    slept: list[float] = []
    parts = Parts(clock=lambda: sum(slept), sleep=slept.append)
    result = process(docs, load_settings(hostile.settings(tmp_path, worker={"file_seconds": 10})), parts=parts)
    assert sum(slept) == pytest.approx(10, abs=0.1)
    assert result.progress.n_rejected == hostile.N_FRAMES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 18 megabytes, 16 of which are the reserve."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    options = ["-t", "tmpfs", "-o", "size=18m", "tmpfs", str(folder)]
    if subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("critical", [True, False])
def test_a_disk_that_is_really_full(critical: bool, small_disk: Path, tmp_path: Path) -> None:
    archive = {"critical": critical, "flush_seconds": 1e-9}
    live = HedmLive(hostile.settings(small_disk, archive=archive))
    docs = hostile.run("array", n_frames=200)
    noise = np.random.default_rng(0)
    failures: list[str] = []
    for name, doc in docs[:-1]:
        if name == "event" and "det0_image" in doc["data"]:
            doc = {**doc, "comment": noise.integers(0, 255, 50_000, np.uint8)}
        try:
            live(name, doc)
        except ArchiveError as error:
            failures.append(str(error))
            break
    live("stop", docs[-1][1])
    try:
        result = live.wait(120)[hostile.UID]
    finally:
        live.close()
    assert ["No space left" in failure for failure in failures] == [True] * critical
    assert any("raw.h5" in problem and "No space left" in problem for problem in result.problems)
    if not critical:
        assert result.progress.n_frames == 200
    with RawArchiveReader(small_disk / "7_11111111_raw.h5") as reader:
        assert len(reader) > 10
        assert sum(1 for _ in reader.documents()) == len(reader)


def test_encoding_gives_back_what_came() -> None:
    doc: dict[str, Any] = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.float32(0.5),
        "c": [1, 2.5, None, True, "text", float("nan")],
        "d": {"e": (1, 2)},
        "f": np.array("text"),
    }
    line, lost = encode("event", doc)
    name, back = decode(line, lambda stored: stored)
    assert (name, lost, back["b"], back["d"], back["c"][:5]) == ("event", [], 0.5, {"e": [1, 2]}, doc["c"][:5])
    assert back["a"].dtype == np.int16
    np.testing.assert_array_equal(back["a"], doc["a"])


def test_encoding_never_fails() -> None:
    inside: dict[Any, Any] = {}
    inside["itself"] = inside
    for doc in (
        {"x": object()},
        {(1, 2): 3},
        inside,
        {"x": np.array([None])},
        {"x": b"bytes"},
        {"x": {1, 2}},
        {"\ud800": 1},
    ):
        name, _ = decode(encode("event", doc)[0], lambda stored: stored)
        assert name == "event"


@pytest.mark.parametrize(
    ("values", "dtype", "fits"),
    [
        (np.array([0, 65535]), "<u2", True),
        (np.array([65536]), "<u2", False),
        (np.array([-1]), "<u2", False),
        (np.array([2**63], np.uint64), "<i8", False),
        (np.array([1.0, 2.0]), "<u2", True),
        (np.array([1.5]), "<u2", False),
        (np.array([1.0, np.nan]), "<u2", False),
        (np.array([1.0, np.nan]), "<f4", True),
        (np.array([2**24 + 1]), "<f4", False),
        (np.array(["1"]), "<u2", False),
    ],
)
def test_cast(values: np.ndarray, dtype: str, fits: bool) -> None:
    if fits:
        np.testing.assert_array_equal(cast_exactly(values, np.dtype(dtype)), values.astype(dtype))
    else:
        with pytest.raises(FrameError):
            cast_exactly(values, np.dtype(dtype))


def test_documents_stay_aligned_with_what_was_handed_over(tmp_path: Path) -> None:
    docs = hostile.run("array")
    docs[3] = (docs[3][0], {**docs[3][1], "strange": object()})
    archive = RawArchive(tmp_path / "x_raw.h5", load_settings(hostile.settings(tmp_path)), docs[0][1])
    for name, doc in docs:
        if "strange" in doc:
            with pytest.raises(DocumentError, match="type object"):
                archive.append(name, doc)
        else:
            archive.append(name, doc)
    for index, (name, doc) in enumerate(docs):
        assert archive.document(index)[0] == name
        assert archive.document(index)[1].get("uid") == doc.get("uid")
    archive.close()


def test_a_copied_frame_cache_leads_to_the_archive(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "shape": hostile.SHAPE,
        "nframes": 4,
        "dtype": "<u2",
        "omega": [[i, i + 1] for i in range(4)],
    }
    for i in range(4):
        row, col = np.nonzero(hostile.image(i))
        arrays |= {f"{i}_row": row, f"{i}_col": col, f"{i}_data": hostile.image(i)[row, col]}
    np.savez(tmp_path / "scan.npz", **arrays)
    source = open_source(str(tmp_path / "scan.npz"))
    changes = {"recipe": {"threshold": 10}, "archive": {"folder": str(tmp_path)}}
    first = process(
        source.documents, load_settings({**(source.settings or {}), **changes}), stem="scan", write_raw=True
    )
    (tmp_path / "scan.npz").unlink()
    source = open_source(str(tmp_path / "scan_raw.h5"))
    changes["archive"] = {"folder": str(tmp_path / "again")}
    again = process(source.documents, load_settings({**(source.settings or {}), **changes}))
    assert (again.digests, again.problems, first.problems) == (first.digests, (), ())
    with h5py.File(tmp_path / "scan_raw.h5") as file:
        assert file["entry/instrument/detector/sparse"].attrs["shape"].tolist() == list(hostile.SHAPE)


HOLD = """
import sys
import h5py

with h5py.File(sys.argv[1], "r", libver="latest"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_file_that_another_program_reads_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    h5py.File(path, "w", libver="latest").close()
    reader = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError):
        h5py.File(path, "r+", libver="latest")
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(open_to_write, path, "r+")
        assert not opened.done()
        reader.communicate("")
        opened.result(timeout=30).close()

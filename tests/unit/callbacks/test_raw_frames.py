"""Frames of the detector's own files in the raw archive: linked, joined, copied; several detectors; other formats."""

import json
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import RawArchive, RawArchiveReader, RunResult, load_settings, open_source, process

HOW = ("link", "virtual", "copy")
each_way = pytest.mark.parametrize("how", HOW)


def archived(docs: hostile.Documents, folder: Path, how: str = "link", **changes: Any) -> RunResult:
    said = hostile.settings(folder, hedm={"frames": how, **changes.pop("hedm", {})}, **changes)
    return process(docs, load_settings(said), stem="scan", write_raw=True)


def again(result: RunResult, folder: Path) -> RunResult:
    source = open_source(str(result.raw))
    return process(source.documents, load_settings({**(source.settings or {}), "archive": {"folder": str(folder)}}))


def frames_of(result: RunResult, detector: str = "det0", name: str = "data") -> tuple[np.ndarray, Any]:
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        group: Any = file[f"entry/instrument/{detector}"]
        return group[name][()], (group.get(name, getlink=True), group[name].is_virtual)


def expected(numbers: Any = range(hostile.N_FRAMES), detector: int = 0) -> np.ndarray:
    return np.stack([hostile.image(i, detector) for i in numbers])


@pytest.mark.parametrize(
    ("way", "how"),
    [("datum", "link"), ("datum", "copy"), ("stream", "link"), ("stream", "virtual"), ("stream", "copy")],
)
def test_frames_are_the_detectors_and_replay_alike(way: str, how: str, tmp_path: Path) -> None:
    result = archived(hostile.run(way, tmp_path), tmp_path, how)
    assert result.problems == ()
    frames, (link, virtual) = frames_of(result)
    np.testing.assert_array_equal(frames, expected())
    assert (isinstance(link, h5py.ExternalLink), virtual) == (how == "link", how == "virtual")
    assert again(result, tmp_path / "again").digests == result.digests == {0: hostile.expected_digest()}


@pytest.mark.parametrize("way", ["datum", "stream"])
def test_a_copy_is_whole_without_the_detectors_files(way: str, tmp_path: Path) -> None:
    result = archived(hostile.run(way, tmp_path), tmp_path, "copy")
    (tmp_path / "det0_image.h5").unlink()
    assert result.raw is not None
    moved = result.raw.rename(tmp_path / "elsewhere_raw.h5")
    source = open_source(str(moved))
    made = process(source.documents, load_settings({**(source.settings or {}), "archive": {"folder": str(tmp_path)}}))
    assert (made.digests, made.problems) == (result.digests, ())


def with_leading_rows(docs: hostile.Documents, folder: Path, extra: int) -> hostile.Documents:
    """The file begins with rows that belong to no frame: every index is shifted."""
    frames = [np.full(hostile.SHAPE, 9, np.uint16)] * extra + [hostile.image(i) for i in range(hostile.N_FRAMES)]
    hostile.write_frames(folder / "det0_image.h5", frames)

    def shifted(doc: dict[str, Any]) -> dict[str, Any]:
        return doc | {"indices": {name: value + extra for name, value in doc["indices"].items()}}

    return [(name, shifted(doc) if name == "stream_datum" else doc) for name, doc in docs]


@each_way
def test_rows_that_are_no_frames_are_left_out(how: str, tmp_path: Path) -> None:
    result = archived(with_leading_rows(hostile.run("stream", tmp_path), tmp_path, 3), tmp_path, how)
    frames, (link, virtual) = frames_of(result)
    np.testing.assert_array_equal(frames, expected())
    assert not isinstance(link, h5py.ExternalLink)
    assert virtual == (how != "copy")
    if how == "copy":
        (tmp_path / "det0_image.h5").unlink()
    assert again(result, tmp_path / "again").digests == result.digests == {0: hostile.expected_digest()}


@each_way
def test_a_frame_that_never_came_has_no_row(how: str, tmp_path: Path) -> None:
    docs = [each for each in hostile.run("stream", tmp_path) if each[1].get("uid") != f"{hostile.UID}-det0_image/3"]
    result = archived(docs, tmp_path, how)
    came = [i for i in range(hostile.N_FRAMES) if i != 3]
    np.testing.assert_array_equal(frames_of(result)[0], expected(came))
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        entry: Any = file["entry"]
        assert entry["instrument/det0/frame"][()].tolist() == entry["scan/frame"][()].tolist() == came
        np.testing.assert_allclose(entry["data/omega"], hostile.STEP * (np.array(came) + 0.5))


@pytest.mark.parametrize("how", ["link", "virtual"])
def test_frames_that_their_file_lacks_have_no_row(how: str, tmp_path: Path) -> None:
    docs = list(hostile.run("stream", tmp_path))
    hostile.write_frames(tmp_path / "det0_image.h5", [hostile.image(i) for i in range(6)])
    result = archived(docs, tmp_path, how, worker={"file_seconds": 0})
    np.testing.assert_array_equal(frames_of(result)[0], expected(range(6)))
    assert not [line for line in result.problems if "raw archive" in line]
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        numbers: Any = file["entry/instrument/det0/frame"]
        assert numbers[()].tolist() == list(range(6))


@pytest.mark.parametrize(
    ("way", "how"), [("array", "link"), ("datum", "link"), ("datum", "copy"), ("stream", "link"), ("stream", "virtual")]
)
def test_detectors_of_one_kind_are_also_one_stack_of_modules(way: str, how: str, tmp_path: Path) -> None:
    result = archived(hostile.run(way, tmp_path, n_detectors=2), tmp_path, how, n_detectors=2)
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        modules: Any = file["entry/modules"]
        assert modules["module"].asstr()[()].tolist() == ["det0", "det1"]
        for number in (0, 1):
            np.testing.assert_array_equal(modules["data"][:, number], expected(detector=number))
        assert {"data", "data_det1"} <= set(file["entry"])


@pytest.mark.parametrize("way", ["datum", "stream"])
def test_the_detectors_file_is_linked_while_the_run_goes_on(way: str, tmp_path: Path) -> None:
    docs = hostile.run(way, tmp_path)
    raw = RawArchive(tmp_path / "scan_raw.h5", load_settings(hostile.settings(tmp_path)), docs[0][1])
    for name, doc in docs[:-1]:
        raw.append(name, doc)
    raw.flush()
    with h5py.File(raw.path, "r", libver="latest", swmr=True) as file:
        np.testing.assert_array_equal(file["entry/instrument/det0/data"], expected())  # type: ignore[arg-type]
    raw.close()


def test_archives_of_the_first_format_replay(tmp_path: Path) -> None:
    result = archived(hostile.run("array"), tmp_path)
    assert result.raw is not None
    with h5py.File(result.raw, "r+") as file:
        file["entry"].attrs["format"] = "hedmlive-raw-1"
        said = json.loads(str(file["entry"].attrs["settings"]))
        del said["hedm"]
        file["entry"].attrs["settings"] = json.dumps(said)
        for name in ("entry/scan", "entry/hedm", "exchange", "entry/instrument/det0/frame"):
            del file[name]
    made = again(result, tmp_path / "again")
    assert (made.digests, made.problems) == (result.digests, ())
    with h5py.File(result.raw, "r+") as file:
        file["entry"].attrs["format"] = "hedmlive-raw-3"
    with pytest.raises(OSError, match="not a raw archive"):
        RawArchiveReader(result.raw)


def test_what_cannot_be_linked_is_named_and_copied_on_request(tmp_path: Path) -> None:
    docs = hostile.run("stream", tmp_path)
    folder = tmp_path / "series"
    folder.mkdir()
    for i in range(hostile.N_FRAMES):
        np.save(folder / f"scan_{i}.npy", hostile.image(i))
    parameters = {"template": "scan_{:d}.npy", "chunk_shape": [1]}
    changed = {"mimetype": "multipart/related;type=application/x-npy", "uri": f"file://localhost{folder}/"}
    docs = [
        (name, doc | changed | {"parameters": parameters} if name == "stream_resource" else doc) for name, doc in docs
    ]
    linked = archived(docs, tmp_path / "linked", "link")
    [problem] = linked.problems
    assert "no HDF5" in problem
    assert "frames: copy" in problem
    assert linked.digests == {0: hostile.expected_digest()}
    copied = archived(docs, tmp_path / "copied", "copy")
    assert copied.problems == ()
    for path in folder.iterdir():
        path.unlink()
    assert again(copied, tmp_path / "again").digests == linked.digests

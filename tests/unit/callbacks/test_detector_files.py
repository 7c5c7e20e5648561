"""Darks, flat fields and masks of the settings' files: kept in the raw archive, and used when the files are gone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import RunResult, load_settings, open_source, process
from hedmlive.callbacks.doctor import examine

SIDE = hostile.SHAPE
DARKS = np.stack([np.full(SIDE, n, np.uint16) for n in (2, 5)])
FLAT = np.linspace(0.9, 1.1, SIDE[0] * SIDE[1]).reshape(SIDE).astype(np.float32)
MASK = np.zeros(SIDE, np.uint8)
MASK[4, 5] = 1


def files(folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("dark", DARKS), ("flat", FLAT), ("mask", MASK)):
        np.save(folder / f"{name}.npy", image)
    return {name: str(folder / f"{name}.npy") for name in ("dark", "flat", "mask")}


def reduced(folder: Path, detector: dict[str, Any], docs: hostile.Documents | None = None) -> RunResult:
    said = hostile.settings(folder, recipe={"threshold": 10.0, "background": "dark"})
    said["detectors"][0] |= detector
    return process(docs or hostile.run("array"), load_settings(said), stem="scan", write_raw=True)


def again(result: RunResult, folder: Path) -> RunResult:
    source = open_source(str(result.raw))
    return process(source.documents, load_settings({**(source.settings or {}), "archive": {"folder": str(folder)}}))


def test_archive_holds_what_the_files_held(tmp_path: Path) -> None:
    result = reduced(tmp_path, files(tmp_path / "files"))
    assert result.problems == ()
    with h5py.File(str(result.raw)) as file:
        det: Any = file["entry/instrument/det0"]
        np.testing.assert_array_equal(det["dark"], DARKS.mean(axis=0)[np.newaxis])
        np.testing.assert_array_equal(det["flatfield"], FLAT)
        np.testing.assert_array_equal(det["pixel_mask"], MASK.astype(np.uint32) * 256)
        assert det["pixel_mask"].dtype == np.uint32
        assert det["dark"].attrs["source"] == str(tmp_path / "files" / "dark.npy")
        np.testing.assert_array_equal(file["exchange/dark"], det["dark"])
    found = {each.item: each for each in examine(tmp_path / "scan_raw.h5")}
    assert found["det0 mask file"].value == "1 of 42 pixels masked, in the archive"
    assert (found["det0 dark file"].state, found["det0 darks"].state) == ("ok", "ok")
    assert found["det0 flat file"].source == str(tmp_path / "files" / "flat.npy")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: [path.unlink() for path in folder.iterdir()],
        lambda folder: (folder / "mask.npy").unlink(),
        lambda folder: np.save(folder / "dark.npy", DARKS + 1),
        lambda folder: np.save(folder / "flat.npy", FLAT * 2),
    ],
    ids=["all gone", "mask gone", "dark overwritten", "flat overwritten"],
)
def test_a_replay_without_the_files_is_the_same(change: Callable[[Path], object], tmp_path: Path) -> None:
    result = reduced(tmp_path, files(tmp_path / "files"))
    unchanged = again(result, tmp_path / "unchanged")
    assert (unchanged.digests, unchanged.problems) == (result.digests, ())
    change(tmp_path / "files")
    assert result.raw is not None
    (tmp_path / "elsewhere").mkdir()
    moved = replace(result, raw=result.raw.rename(tmp_path / "elsewhere" / "other.h5"))
    made = again(moved, tmp_path / "again")
    assert made.digests == result.digests
    assert len(made.problems) == 3
    assert all("is gone, or a file of this detector has changed" in line for line in made.problems)
    assert str(tmp_path / "files" / "mask.npy") in made.problems[2]


def test_marks_of_the_dark_are_in_the_mask(tmp_path: Path) -> None:
    darks = DARKS.copy()
    darks[0, 5, 1] = 77
    darks[:, 0, 0] = 76, 78  # their mean is the mark, and neither is
    np.save(tmp_path / "dark.npy", darks)
    result = reduced(tmp_path, {"dark": str(tmp_path / "dark.npy"), "bad_intensity": 77, "gap_intensity": 0})
    (tmp_path / "dark.npy").unlink()
    with h5py.File(str(result.raw)) as file:
        mask: Any = file["entry/instrument/det0/pixel_mask"]
        assert np.argwhere(mask[()]).tolist() == [[5, 1]]
    made = again(result, tmp_path / "again")
    assert made.digests == result.digests
    assert len(made.problems) == 2


def test_a_mask_of_the_convention_keeps_its_bits(tmp_path: Path) -> None:
    bits = np.zeros(SIDE, np.uint32)
    bits[0, 0], bits[5, 1] = 1, 1 << 4
    said = files(tmp_path) | {"mask": str(tmp_path / "bits.npy")}
    np.save(tmp_path / "bits.npy", bits)
    with h5py.File(str(reduced(tmp_path, said).raw)) as file:
        np.testing.assert_array_equal(file["entry/instrument/det0/pixel_mask"], bits)  # type: ignore[arg-type]


def test_dark_frames_and_a_dark_file_stand_side_by_side(tmp_path: Path) -> None:
    docs = hostile.run("array")
    primary = next(doc for name, doc in docs if name == "descriptor" and doc["name"] == "primary")
    keys = {"det0_image": primary["data_keys"]["det0_image"]}
    dark = primary | {"uid": "dark", "name": "dark", "data_keys": keys, "configuration": {}}
    event = hostile.event(hostile.UID, 0, {"det0_image": np.full(SIDE, 1, np.uint16)})
    at = next(i for i, (_, doc) in enumerate(docs) if doc is primary)
    docs[at:at] = [("descriptor", dark), ("event", event | {"uid": "dark-0", "descriptor": "dark"})]
    docs[-1][1]["num_events"]["dark"] = 1
    said = files(tmp_path / "files")
    result = reduced(tmp_path, said, docs)
    assert result.problems == ()
    with h5py.File(str(result.raw)) as file:
        det: Any = file["entry/instrument/det0"]
        assert (det["dark"][0, 0, 0], det["dark_file"][0, 0, 0]) == (1, 3.5)
        # What was subtracted is what others are shown.
        np.testing.assert_array_equal(file["exchange/dark"], det["dark_file"])
    Path(said["dark"]).unlink()
    assert again(result, tmp_path / "again").digests == result.digests


def test_doctor_of_a_killed_run_says_where_the_files_are(tmp_path: Path) -> None:
    said = files(tmp_path / "files")
    result = reduced(tmp_path, said)
    with h5py.File(str(result.raw), "r+") as file:
        file["entry"].attrs["finished"] = False
        for name in ("entry/scan", "entry/hedm", "entry/instrument/det0/pixel_mask"):
            del file[name]
    assert result.raw is not None
    found = {each.item: each for each in examine(result.raw)}["det0 mask file"]
    assert (found.state, found.source) == ("doubtful", said["mask"])
    Path(said["mask"]).unlink()
    assert {each.item: each for each in examine(result.raw)}["det0 mask file"].state == "missing"

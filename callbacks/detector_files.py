"""Dark, flat field and mask from the files that the settings name: read for a reduction, and kept in the raw archive.

A dark is overwritten by the next scan, and a mask left behind when the archive goes elsewhere. So the archive keeps
what the run was reduced with, as NXdetector has it: ``dark``, ``flatfield`` and ``pixel_mask``, in the detector's own
orientation, each with its file in ``@source``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import SettingsError, bad_pixels
from .hdf5 import BITSHUFFLE, NotYet, dataset, open_growing, subgroup
from .images import load_image, load_stack
from .settings import DetectorSettings, Settings

PLACES: Mapping[str, tuple[str, ...]] = {
    "dark": ("dark_file", "dark"),
    "flat": ("flatfield",),
    "mask": ("pixel_mask",),
}
"""Key of the settings to where its copy is: a dark stands aside where the run took dark frames itself."""

_USER_DEFINED = 1 << 8
"Bit of NXdetector's `pixel_mask` for a mask of the user's; which of the reasons it has a file of 0 and 1 does not say."


def read_detector_files(detector: DetectorSettings) -> dict[str, np.ndarray]:
    """Return what the files that a detector's settings name hold.

    Returns
    -------
    Those of `dark`, `flat` and `mask` that are known, in the detector's own orientation, shape (rows, columns). The
    mask holds what dark and mask mark by the counts of `bad_intensity` and `gap_intensity` too.

    Raises
    ------
    SettingsError
        A file cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    if detector.dark is not None:
        found["dark"] = load_image(detector.dark, reduce="mean")
    if detector.flat is not None:
        found["flat"] = load_image(detector.flat, reduce="mean")
    if detector.mask is not None:
        found["mask"] = load_image(detector.mask)
    marks = {"bad_intensity": detector.bad_intensity, "gap_intensity": detector.gap_intensity}
    if any(mark is not None for mark in marks.values()):
        for spec in (detector.dark, detector.mask):
            # A copy in an archive is a mean, or our own numbers; what was marked is in the mask beside it.
            if spec is not None and _copied_from(spec) is None:
                marked, mask = bad_pixels(load_stack(spec), **marks), found.get("mask")
                found["mask"] = marked if mask is None else marked | (mask != 0)
    return found


def write_detector_files(group: h5py.Group, detector: DetectorSettings, files: Mapping[str, np.ndarray]) -> None:
    """Write what the files held into the group of the detector, whose dark frames are there already."""
    for key, image in files.items():
        name = _free_place(group, key)
        values = _pixel_mask(image) if key == "mask" else image[np.newaxis] if key == "dark" else image
        chunks = (1,) * (values.ndim - 2) + image.shape
        made = group.create_dataset(name, data=values, chunks=chunks, **BITSHUFFLE)
        spec = getattr(detector, key)
        made.attrs["source"] = _marked_in(detector) if spec is None else _copied_from(spec) or str(spec.absolute())
        made.attrs["settings_key"] = f"detectors.{detector.name}.{key}"
        made.attrs["units"] = "counts" if key == "dark" else ""
        if key == "mask":
            made.attrs["meaning"] = "0 where a pixel is valid; bit 8: masked by the user, and why is not said"
        elif key == "dark":
            made.attrs["meaning"] = "mean of the dark frames in the file"


def settings_of_copies(archive: h5py.File, path: Path, settings: Settings) -> dict[str, Any]:
    """Return settings as plain values, with copies in the archive for files that are gone, or hold something else now.

    Parameters
    ----------
    archive, path
        The raw archive, and where it lies.
    settings
        With which it was written.
    """
    plain: dict[str, Any] = json.loads(settings.to_json())
    for detector, values in zip(settings.detectors, plain["detectors"], strict=True):
        copies = _copies(archive, detector.name)
        if copies and not _unchanged(detector, copies):
            # All or none: the marks of a dark are in the copy of the mask.
            values |= {key: f"{path.absolute()}:{copy.name}" for key, copy in copies.items()}
    return plain


def copies_used(settings: Settings, run_uid: str) -> Iterator[str]:
    """Say of each file in whose place stands the copy in the run's own archive."""
    for detector in settings.detectors:
        for key in PLACES:
            spec = getattr(detector, key)
            source = None if spec is None else _copied_from(spec, run_uid)
            if source is not None:
                yield (
                    f"{key} of {detector.name}: {source} is gone, or a file of this detector has changed since the "
                    f"run; the copy {spec} is used; name files in other settings to use those"
                )


def copy_of(group: h5py.Group, key: str) -> h5py.Dataset | None:
    """Return the copy of a file in the group of a detector; None if it has none."""
    for name in PLACES[key]:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        found = dataset(group, name)
        if "settings_key" in found.attrs:
            return found
    return None


def _copies(archive: h5py.File, name: str) -> dict[str, h5py.Dataset]:
    try:
        group = subgroup(archive, f"entry/instrument/{name}")
    except KeyError:
        return {}
    found = {key: copy_of(group, key) for key in PLACES}
    return {key: copy for key, copy in found.items() if copy is not None}


def _unchanged(detector: DetectorSettings, copies: Mapping[str, h5py.Dataset]) -> bool:
    try:
        files = read_detector_files(detector)
    except SettingsError:
        return False
    return files.keys() == copies.keys() and all(_same(key, image, copies[key]) for key, image in files.items())


def _same(key: str, image: np.ndarray, copy: h5py.Dataset) -> bool:
    kept = np.asarray(copy)
    if key == "mask":
        return np.array_equal(image != 0, kept != 0)
    return np.array_equal(image, kept[0] if key == "dark" else kept, equal_nan=image.dtype.kind == "f")


def _copied_from(spec: Path, run_uid: str | None = None) -> str | None:
    """Return the file whose copy in a raw archive, that of one run or of any, is named; None if it is no such copy."""
    file, _, place = str(spec).rpartition(":/entry/instrument/")
    if not place or not h5py.is_hdf5(file):
        return None
    try:
        with open_growing(Path(file)) as archive:
            entry, copy = subgroup(archive, "entry"), dataset(archive, f"entry/instrument/{place}")
            mine = run_uid is None or entry.attrs.get("run_uid") == run_uid
            return str(copy.attrs["source"]) if mine and "settings_key" in copy.attrs else None
    except (NotYet, KeyError):
        return None


def _free_place(group: h5py.Group, key: str) -> str:
    aside, *usual = PLACES[key]
    return usual[0] if usual and group.get(usual[0], getlink=True) is None else aside


def _pixel_mask(mask: np.ndarray) -> np.ndarray:
    # NXdetector's own type: then its bits say why.
    if mask.dtype == np.uint32:
        return mask
    return np.where(mask != 0, _USER_DEFINED, 0).astype(np.uint32)


def _marked_in(detector: DetectorSettings) -> str:
    return "" if detector.dark is None else str(detector.dark.absolute())

"""The frames of a scan with several detector distances, taken apart: a stack for each distance and layer.

Programs for the near field read one stack of frames a distance, and reconstruct layer by layer.
"""

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from .hdf5 import dataset, nexus_group, subgroup
from .raw_frames import source_of, write_pixel_axes
from .settings import Settings

_PLACE = "hedm/near_field"


def write_near_field(entry: h5py.Group, path: Path, settings: Settings) -> None:
    """Write ``hedm/near_field/distance_<i>_layer_<j>``: `data` as a virtual dataset, its omega, and where it was taken.

    Scans of one distance have their frames in one stack already, and get nothing.

    Parameters
    ----------
    entry
        The entry of a raw archive, with the scan and its frames.
    path
        Where the archive will lie.
    settings
        Detectors.
    """
    scan = subgroup(entry, "scan")
    if "distances" not in scan or len(dataset(scan, "distances")) < 2:
        return
    distance = np.asarray(dataset(scan, "distance_index"))
    layer = np.asarray(dataset(scan, "layer_index")) if "layer_index" in scan else np.zeros_like(distance)
    for i, j in np.unique(np.stack([distance, layer], axis=1), axis=0).tolist():
        rows = np.flatnonzero((distance == i) & (layer == j))
        group = nexus_group(entry, f"{_PLACE}/distance_{i}_layer_{j}", "NXdata")
        _write_place(group, scan, rows)
        for number, detector in enumerate(settings.detectors):
            _write_stack(group, entry, path, detector.name, "data" if not number else f"data_{detector.name}")
    if _PLACE in entry:
        nexus_group(entry, _PLACE, "NXcollection")


def _write_place(group: h5py.Group, scan: h5py.Group, rows: np.ndarray) -> None:
    """Write frame numbers and omega of these rows of the scan, and every role that is one value in all of them."""
    group["frame"] = np.asarray(dataset(scan, "frame"))[rows]
    group["frame"].attrs["meaning"] = "number of each frame in /entry/scan"
    if "omega_start" in scan and "omega_end" in scan:
        both = np.stack([np.asarray(dataset(scan, name))[rows] for name in ("omega_start", "omega_end")], axis=1)
        group["omega_per_frame"], group["omega"] = both, both.mean(axis=1)
        group["omega"].attrs["meaning"] = "middle of each frame"
        for name in ("omega", "omega_per_frame"):
            group[name].attrs["units"] = "degree"
        group["omega_per_frame"].attrs["meaning"] = "start and end of each frame"
        # hexrd takes it from here.
        group.attrs["omega"] = both
    for name in ("distance", "L1", "L2", "layer", "energy"):
        if name in scan:
            column = dataset(scan, name)
            values = np.asarray(column)[rows]
            made = group.create_dataset(name, data=np.median(values) if np.ptp(values) == 0 else values)
            made.attrs.update(column.attrs)


def _write_stack(group: h5py.Group, entry: h5py.Group, path: Path, detector: str, name: str) -> None:
    frames = entry.get(f"instrument/{detector}")
    source = source_of(frames, path.absolute().parent) if isinstance(frames, h5py.Group) else None
    if not isinstance(frames, h5py.Group) or source is None or "frame" not in frames:
        return
    numbers, wanted = np.asarray(dataset(frames, "frame")), np.asarray(dataset(group, "frame"))
    rows = np.flatnonzero(np.isin(numbers, wanted))
    # A detector that lost a frame has no row for it, and its omegas would be another frame's.
    if not np.array_equal(numbers[rows], wanted):
        return
    layout = h5py.VirtualLayout((len(rows), *source.shape[1:]), source.dtype)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for first, end in pairwise([0, *breaks.tolist(), len(rows)]):
        layout[first:end] = source[int(rows[first]) : int(rows[end - 1]) + 1]
    group.create_virtual_dataset(name, layout).attrs["units"] = "counts"
    group.attrs["signal"] = "data"
    if "axes" not in group.attrs:
        pixels = write_pixel_axes(group, source.shape)
        group.attrs["axes"] = ["omega" if "omega" in group else ".", *pixels]

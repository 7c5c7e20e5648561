"""MIDAS: the merged spots of its Python port (midas-transforms), from the peaks of each frame.

Usage: python midas_merge.py PEAKS.npz [PEAKS.npz ...]

with the interpreter of an environment that has midas-transforms. A file holds, of each peak, ``frame`` (from 0,
rising), ``row``, ``col``, ``radius`` (pixels), ``eta`` (degrees) and ``intensity``; ``margin`` (pixels); and to link by
common pixels ``n_pixels`` of each peak and ``pixel_row``, ``pixel_col``, one peak's after the other's. Printed is one
line of JSON for each: of each spot [frame, peak] of its members, peaks numbered from 0 in their frame.
"""

import contextlib
import json
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from midas_transforms.merge import core  # pyright: ignore[reportMissingImports]

Array = Any
torch.set_num_threads(1)


def spots(peaks: dict[str, Array]) -> list[list[tuple[int, int]]]:
    """Let MIDAS merge."""
    frame = peaks["frame"]
    rows = np.zeros((len(frame), core.N_PEAK_COLS))
    columns = (
        (core.COL_II, "intensity"),
        (core.COL_YCEN, "col"),
        (core.COL_ZCEN, "row"),
        (core.COL_RADIUS, "radius"),
        (core.COL_ETA, "eta"),
    )
    for column, name in columns:
        rows[:, column] = peaks[name]
    starts = np.searchsorted(frame, np.arange(frame.max() + 2))
    rows[:, core.COL_SPOTID] = np.arange(len(frame)) - starts[frame] + 1
    options: dict[str, Any] = {"frames": np.split(rows, starts[1:-1])}
    if "n_pixels" in peaks:
        pixels = np.stack([peaks["pixel_col"], peaks["pixel_row"]], 1).astype(np.int16)
        of_peak = np.split(pixels, np.cumsum(peaks["n_pixels"])[:-1])
        of_frame = [of_peak[a:b] for a, b in pairwise(starts)]
        # 2 compares pixels; 1 stands for what the program in C makes of it, and compares distances.
        options |= {"use_pixel_overlap": 2, "pixel_frames": of_frame, "nr_pixels": int(pixels.max()) + 1}
    merged = core.merge_overlapping_peaks(overlap_length=float(peaks["margin"]), write=False, **options)
    found: dict[int, list[tuple[int, int]]] = {}
    for spot, number, peak in merged.merge_map:
        found.setdefault(spot, []).append((int(number) - 1, int(peak) - 1))
    return list(found.values())


if __name__ == "__main__":
    for path in sys.argv[1:]:
        with np.load(path) as file, contextlib.redirect_stdout(sys.stderr):
            answer = spots(dict(file))
        sys.stdout.write(json.dumps(answer) + "\n")

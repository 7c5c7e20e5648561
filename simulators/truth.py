"""What a perfect reduction of a simulated scan would find."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .crystal import Array, Integers
from .forward import Spots


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A table of the spots a scan shows, one a row, in the order of `Spots`; every column has the same length."""

    spot: Integers
    "row of the table of spots"
    grain: Integers
    "index of the grain, from 0"
    h: Integers
    "Miller index h"
    k: Integers
    "Miller index k"
    l: Integers  # noqa: E741
    "Miller index l"
    row: Array
    "centroid [pixels]"
    col: Array
    "centroid [pixels]"
    omega: Array
    """mean of the frames' centres, weighted with the spot's counts in each, on the turn nearest the scan's middle
    [degrees]; a spot that lies over both ends of a full turn lies at one of them"""
    intensity: Array
    "counts within the scan"
    height: Array
    "expected counts of the brightest pixel of the brightest frame"
    first_frame: Integers
    "lowest index of a touched frame"
    last_frame: Integers
    "highest index of a touched frame"
    n_frames: Integers
    "number of touched frames"

    def __len__(self) -> int:
        """Count the spots."""
        return int(self.spot.size)

    def columns(self) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
        """The table as a dictionary of columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def make_truth(spots: Spots, intervals: Array, fractions: Array, brightest: Array, min_height: float) -> Truth:
    """Sum up what each spot leaves in a scan.

    Parameters
    ----------
    spots
        The table of spots, n rows.
    intervals
        Start and end of omega of each frame [degrees], shape (frames, 2).
    fractions
        Part of each spot in each frame, shape (n, frames).
    brightest
        Counts of each spot's brightest pixel were it all in one frame, shape (n,).
    min_height
        A spot counts, and a frame counts as touched, from this height on [counts].
    """
    heights = fractions * brightest[:, None]
    # Far in the tails erf leaves an exact zero: such a frame is never touched, even from a height of 0 on.
    touched = (heights >= min_height) & (heights > 0)
    kept = np.flatnonzero(touched.any(axis=1))
    heights, touched, fractions = heights[kept], touched[kept], fractions[kept]
    centres = intervals.mean(axis=1)
    away = (centres[None, :] - spots.omega[kept, None] + 180.0) % 360.0 - 180.0
    total = fractions.sum(axis=1)
    omega = spots.omega[kept] + (away * fractions).sum(axis=1) / total
    middle = (intervals.min() + intervals.max()) / 2 if intervals.size else 0.0
    return Truth(
        spot=kept.astype(np.int64),
        grain=spots.grain[kept],
        h=spots.h[kept],
        k=spots.k[kept],
        l=spots.l[kept],
        row=spots.row[kept],
        col=spots.col[kept],
        omega=middle + (omega - middle + 180.0) % 360.0 - 180.0,
        intensity=spots.intensity[kept] * total,
        height=heights.max(axis=1, initial=0.0),
        first_frame=touched.argmax(axis=1).astype(np.int64),
        last_frame=(touched.shape[1] - 1 - touched[:, ::-1].argmax(axis=1)).astype(np.int64),
        n_frames=touched.sum(axis=1).astype(np.int64),
    )

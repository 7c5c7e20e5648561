"""How well found peaks agree with the truth of a simulated frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rotation_scan import MUST_FIND, Truth
from scipy.spatial import KDTree

Array = NDArray[Any]

REACH = 2.5
"A peak is that of a spot no further away than this, px."
ALONE = 14.0
"Positions and intensities are compared for spots without a neighbour within this, px."


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Peaks of one frame."""

    row: Array
    "Centroid, px, shape (n,)."
    col: Array
    "Centroid, px, shape (n,)."
    intensity: Array
    "Sum of the counts, shape (n,)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Agreement over some frames."""

    recall: float
    "Part of the spots above `MUST_FIND` that were found."
    precision: float
    "Part of the peaks that are a spot, one above `MAY_FIND`."
    position: float
    "Root of the mean squared distance of peak and spot, px; spots that stand alone."
    intensity: float
    "Median of sum / truth - 1; spots that stand alone."
    intensity_rms: float
    "Root of the mean squared sum / truth - 1; spots that stand alone."
    n_frames: int
    "Frames it was measured on."


def score(truth: Sequence[Truth], found: Sequence[Found]) -> Score:
    """Compare the peaks of frames with their spots, one to one, the nearest first."""
    wanted, hits, good, peaks = 0, 0, 0, 0
    squared: list[Array] = []
    ratios: list[Array] = []
    for spots, mine in zip(truth, found, strict=True):
        place = np.column_stack([spots.row, spots.col])
        centre = np.column_stack([mine.row, mine.col])
        must = np.flatnonzero(spots.height > MUST_FIND)
        spot, peak = _pairs(place[must], centre)
        spot = must[spot]
        # What is left over may be a spot that is too faint to be asked for.
        rest = np.setdiff1d(np.arange(len(centre)), peak)
        faint, _ = _pairs(place[spots.height <= MUST_FIND], centre[rest])
        wanted, hits = wanted + len(must), hits + len(spot)
        good, peaks = good + len(spot) + len(faint), peaks + len(centre)
        alone = _nearest(place)[spot] > ALONE
        spot, peak = spot[alone], peak[alone]
        squared.append(((place[spot] - centre[peak]) ** 2).sum(axis=1))
        ratios.append(mine.intensity[peak] / spots.intensity[spot] - 1)
    error = np.concatenate(ratios)
    return Score(
        recall=hits / wanted,
        precision=good / max(1, peaks),
        position=float(np.sqrt(np.concatenate(squared).mean())),
        intensity=float(np.median(error)),
        intensity_rms=float(np.sqrt((error**2).mean())),
        n_frames=len(truth),
    )


def _pairs(place: Array, centre: Array) -> tuple[Array, Array]:
    """Return indices of the places and centres that belong together."""
    if not len(place) or not len(centre):
        return np.zeros(0, int), np.zeros(0, int)
    near = KDTree(place).sparse_distance_matrix(KDTree(centre), REACH, output_type="ndarray")
    near = near[np.lexsort((near["j"], near["i"], near["v"]))]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for i, j in zip(near["i"].tolist(), near["j"].tolist(), strict=True):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return np.array(list(pairs), int), np.array(list(pairs.values()), int)


def _nearest(place: Array) -> Array:
    """Return the distance of each place from its nearest neighbour, infinity if there is none."""
    if len(place) < 2:
        return np.full(len(place), np.inf)
    return KDTree(place).query(place, k=2)[0][:, 1]

"""Rules by which peaks of two neighbouring frames are linked.

Candidates are pairs of peaks that share lit pixels, or whose centroids are near each other. A rule says which of them
are links, and why the others are not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np

from . import link_kernels
from .peaks import PeaksOfFrame
from .recipe import LinkRule, Recipe

_COLUMNS = ("row", "col", "n_pixels", "sum_intensity", "max_intensity", "var_row", "var_col")


class Reason(IntEnum):
    """Why a candidate is not a link."""

    LINKED = 0
    "It is one."
    FEW_SHARED = 1
    "Fewer common pixels than `min_shared_pixels`."
    FAR = 2
    "Centroids further apart than `max_distance`."
    LOW_SCORE = 3
    "A score below `min_score`."
    BETTER_PARTNER = 4
    "One of both peaks has a better partner."


@dataclass(frozen=True, slots=True, kw_only=True)
class Linkable:
    """What of a frame's peaks links are made from: it is kept until all its neighbours have come."""

    frame: int
    "Number of the frame."
    columns: dict[str, np.ndarray]
    "Centroid, shape and size of each peak."
    runs: np.ndarray
    "Row, first column, end and peak of each run of lit pixels, int32, shape (4, runs)."

    @classmethod
    def of(cls, found: PeaksOfFrame) -> Self:
        """Return what is to be kept of a frame."""
        pixels = found.pixels
        runs = np.empty((4, len(pixels["row"])), np.int32)
        n = link_kernels.runs_of_peaks(pixels["row"], pixels["col"], pixels["peak"], runs)
        columns = {name: found.peaks[name] for name in _COLUMNS}
        return cls(frame=found.frame, columns=columns, runs=runs[:, :n].copy())

    @property
    def n_peaks(self) -> int:
        """How many peaks it has."""
        return len(self.columns["row"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Pairs of peaks of two frames, in the order of (peak_a, peak_b)."""

    peak_a: np.ndarray
    "Peak of the frame that comes first along the axis."
    peak_b: np.ndarray
    "Peak of the frame that comes next."
    n_shared_pixels: np.ndarray
    "Pixels lit in both."
    score: np.ndarray
    "Shared pixels over the pixels of the smaller peak."
    distance: np.ndarray
    "Distance of the centroids, pixels."
    reason: np.ndarray
    "`Reason`, int16."

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self.peak_a)


def link_peaks(a: Linkable, b: Linkable, recipe: Recipe) -> Candidates:
    """Return the candidates between two frames, with the recipe's word on each of them.

    Parameters
    ----------
    a, b
        The frames, a before b along the axis.
    recipe
        Says the rule and its numbers.
    """
    if recipe.link == "distance":
        pairs, shared = _near(a, b, recipe.max_distance or 0.0)
    else:
        pairs, shared = _overlapping(a, b)
    peak_a, peak_b = pairs
    p, q = a.columns, b.columns
    distance = np.hypot(p["row"][peak_a] - q["row"][peak_b], p["col"][peak_a] - q["col"][peak_b])
    score = shared / np.minimum(p["n_pixels"][peak_a], q["n_pixels"][peak_b])
    reason = np.zeros(len(peak_a), np.int16)
    if recipe.link != "distance":
        reason[shared < recipe.min_shared_pixels] = Reason.FEW_SHARED
    if recipe.max_distance is not None:
        reason[(distance > recipe.max_distance) & (reason == 0)] = Reason.FAR
    reason[(score < recipe.min_score) & (reason == 0)] = Reason.LOW_SCORE
    found = Candidates(
        peak_a=peak_a, peak_b=peak_b, n_shared_pixels=shared, score=score, distance=distance, reason=reason
    )
    _PARTNERS[recipe.link](found, a, b)
    return found


def _overlapping(a: Linkable, b: Linkable) -> tuple[np.ndarray, np.ndarray]:
    room = a.runs.shape[1] + b.runs.shape[1]
    pairs, chain = np.empty((2, 3, room), np.int32)
    n = link_kernels.shared_pixels(a.runs, b.runs, np.full(a.n_peaks, -1, np.int32), chain, pairs)
    return pairs[:2, :n], pairs[2, :n]


def _near(a: Linkable, b: Linkable, reach: float) -> tuple[np.ndarray, np.ndarray]:
    by_row = np.argsort(b.columns["row"], kind="stable")
    places = (a.columns["row"], a.columns["col"], b.columns["row"], b.columns["col"])
    room = 16 * (a.n_peaks + b.n_peaks)
    while True:
        pairs = np.empty((2, room), np.int32)
        n = link_kernels.near_pairs(*places, by_row, reach, pairs)
        if n <= room:
            break
        room *= 4
    pairs = pairs[:, :n]
    # Most that are near each other share pixels; a pair of which none is listed shares none.
    listed, counts = _overlapping(a, b)
    keys = listed[0].astype(np.int64) * b.n_peaks + listed[1]
    wanted = pairs[0].astype(np.int64) * b.n_peaks + pairs[1]
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    shared = np.zeros(n, np.int32)
    if len(keys):
        found = keys[place] == wanted
        shared[found] = counts[place[found]]
    return pairs, shared


def _all(found: Candidates, a: Linkable, b: Linkable) -> None:
    """Leave every candidate that is good enough."""


def _mutual_best(found: Candidates, a: Linkable, b: Linkable) -> None:
    """Leave those in which each is the other's partner with most common pixels, then the nearest, then the first."""
    order = np.lexsort((found.peak_b, found.peak_a, found.distance, -found.n_shared_pixels))
    _mutual(found, a, b, order)


def _mutual_nearest(found: Candidates, a: Linkable, b: Linkable) -> None:
    """Leave those in which each is the other's nearest partner; of equals the lower indices."""
    _mutual(found, a, b, np.lexsort((found.peak_b, found.peak_a, found.distance)))


def _mutual(found: Candidates, a: Linkable, b: Linkable, order: np.ndarray) -> None:
    better = np.empty(len(order))
    better[order] = -np.arange(len(order))
    usable = found.reason == 0
    best_a, best_b = np.empty(a.n_peaks, np.int64), np.empty(b.n_peaks, np.int64)
    link_kernels.best_of_each(found.peak_a, better, usable, best_a)
    link_kernels.best_of_each(found.peak_b, better, usable, best_b)
    number = np.arange(len(order))
    mutual = (best_a[found.peak_a] == number) & (best_b[found.peak_b] == number)
    found.reason[usable & ~mutual] = Reason.BETTER_PARTNER


_PARTNERS: dict[LinkRule, Callable[[Candidates, Linkable, Linkable], None]] = {
    "overlap": _all,
    "mutual-best-overlap": _mutual_best,
    "distance": _mutual_nearest,
}

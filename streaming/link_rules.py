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
from .limit_kernels import distance_limits
from .midas_links import RingPeaks, midas_distance, midas_overlap
from .peaks import PeaksOfFrame
from .recipe import LinkRule, Recipe

_COLUMNS = ("row", "col", "n_pixels", "var_row", "var_col", "cov_row_col", "sum_intensity")
_OF_LIMITS = _COLUMNS[:6]


class Reason(IntEnum):
    """Why a candidate is not a link."""

    LINKED = 0
    "It is one."
    FEW_SHARED = 1
    "Fewer common pixels than `min_shared_pixels`."
    FAR = 2
    "Centroids further apart than `max_distance`, or than the limit by size and width."
    LOW_SCORE = 3
    "A score below `min_score`."
    BETTER_PARTNER = 4
    "One of both peaks has a better partner."
    VALLEY = 5
    "The track is cut there, at a valley of its intensity."


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
        runs = found.runs
        if runs is None:
            pixels = found.pixels
            runs = np.empty((4, len(pixels["row"])), np.int32)
            n = link_kernels.runs_of_peaks(pixels["row"], pixels["col"], pixels["peak"], runs)
            runs = runs[:, :n].copy()
        return cls(frame=found.frame, columns={name: found.peaks[name] for name in _COLUMNS}, runs=runs)

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
    found = _weighed(a, b, pairs, shared)
    reason = found.reason
    if recipe.link != "distance" and recipe.min_shared_pixels > 1:
        reason[shared < recipe.min_shared_pixels] = Reason.FEW_SHARED
    if recipe.max_distance is not None:
        reason[(found.distance > recipe.max_distance) & (reason == 0)] = Reason.FAR
    if recipe.max_distance_by_size is not None:
        limit = np.empty(len(found))
        of_a, of_b = (tuple(each.columns[name] for name in _OF_LIMITS) for each in (a, b))
        by_size, by_width = float(recipe.max_distance_by_size), float(recipe.max_distance_by_width)
        distance_limits(found.peak_a, found.peak_b, of_a, of_b, by_size, by_width, limit)
        reason[(found.distance > limit) & (reason == 0)] = Reason.FAR
    if recipe.min_score > 0:
        reason[(found.score < recipe.min_score) & (reason == 0)] = Reason.LOW_SCORE
    _PARTNERS[recipe.link](found, a, b)
    return found


IN_TURN = ("midas-distance", "midas-overlap")
"Rules by which who gets whom depends on the pair of frames before: along a line, one pair is linked after the other."


def first_order(frame: Linkable, recipe: Recipe) -> np.ndarray:
    """Return the order in which the peaks of the first frame of a line are asked."""
    return _ring_peaks(frame, recipe).by_angle()


def link_in_turn(a: Linkable, b: Linkable, recipe: Recipe, order: np.ndarray) -> tuple[Candidates, np.ndarray]:
    """Return the links between two frames, and the order of b's peaks for the next pair.

    Parameters
    ----------
    a, b
        The frames, a before b along the axis.
    recipe
        Says the rule, one of `IN_TURN`, and its numbers.
    order
        Order of a's peaks: `first_order`, or what the pair before gave.
    """
    rings = _ring_peaks(a, recipe), _ring_peaks(b, recipe)
    if recipe.link == "midas-distance":
        peak_a, peak_b, order = midas_distance(rings[0], order, rings[1], recipe.max_distance or 0.0)
    else:
        peak_a, peak_b, order = midas_overlap(rings[0], a.runs, order, rings[1], b.runs)
    pairs = np.stack([peak_a, peak_b]).astype(np.int32)
    return _weighed(a, b, pairs, _shared(a, b, pairs)), order


def _ring_peaks(frame: Linkable, recipe: Recipe) -> RingPeaks:
    row, col = recipe.link_options["beam_centre"]
    return RingPeaks.of(frame.columns, (float(row), float(col)))


def _weighed(a: Linkable, b: Linkable, pairs: np.ndarray, shared: np.ndarray) -> Candidates:
    peak_a, peak_b = pairs
    p, q = a.columns, b.columns
    n = len(peak_a)
    score, distance = np.empty((2, n))
    link_kernels.weigh(
        peak_a, peak_b, shared, p["row"], p["col"], p["n_pixels"], q["row"], q["col"], q["n_pixels"], score, distance
    )
    return Candidates(
        peak_a=peak_a,
        peak_b=peak_b,
        n_shared_pixels=shared,
        score=score,
        distance=distance,
        reason=np.zeros(n, np.int16),
    )


def _overlapping(a: Linkable, b: Linkable) -> tuple[np.ndarray, np.ndarray]:
    common, chain, pairs = np.empty((3, 3, a.runs.shape[1] + b.runs.shape[1] + 2), np.int32)
    n = link_kernels.shared_pixels(a.runs, b.runs, np.full(a.n_peaks, -1, np.int32), common, chain, pairs)
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
    return pairs, _shared(a, b, pairs)


def _shared(a: Linkable, b: Linkable, pairs: np.ndarray) -> np.ndarray:
    """Return how many pixels each of these pairs shares."""
    listed, counts = _overlapping(a, b)
    keys = listed[0].astype(np.int64) * b.n_peaks + listed[1]
    wanted = pairs[0].astype(np.int64) * b.n_peaks + pairs[1]
    shared = np.zeros(len(wanted), np.int32)
    if len(keys):
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[place] == wanted
        shared[found] = counts[place[found]]
    return shared


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

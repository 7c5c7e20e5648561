"""Rules by which peaks of two neighbouring frames are linked.

Candidates are pairs of peaks that share lit pixels, or whose centroids are near each other. A rule says which of them
are links, and why the others are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np

from . import link_kernels
from .errors import FrameError
from .midas_links import RingPeaks, midas_distance, midas_overlap
from .peaks import PeaksOfFrame
from .recipe import LinkRule, Recipe

_COLUMNS = ("row", "col", "var_row", "var_col", "cov_row_col", "sum_intensity")
_NO_LIMITS = (0.0, math.inf, math.inf, 0.0, 0.0)


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
    peaks: np.ndarray
    "row, col, n_pixels, var_row, var_col, cov_row_col and sum_intensity of each peak, shape (peaks, 7)."
    spans: np.ndarray
    "Where each run of lit pixels begins and ends (`link_kernels.spans_of_runs`), uint32, shape (2, runs + 1)."
    owner: np.ndarray
    "Peak of each run, int32."

    @classmethod
    def of(cls, found: PeaksOfFrame) -> Self:
        """Return what is to be kept of a frame.

        Raises
        ------
        FrameError
            A peak lies beyond the largest frame that can be linked.
        """
        runs = found.runs
        if runs is None:
            pixels = found.pixels
            runs = np.empty((4, len(pixels["row"])), np.int32)
            n = link_kernels.runs_of_peaks(pixels["row"], pixels["col"], pixels["peak"], runs)
            runs = runs[:, :n]
        n, columns = runs.shape[1], found.peaks
        peaks = np.empty((len(columns["row"]), 7))
        spans, owner = np.empty((2, n + 1), np.uint32), np.empty(n, np.int32)
        sums = tuple([columns[name] for name in _COLUMNS])
        if not link_kernels.take_in(sums, columns["n_pixels"], runs, peaks, spans, owner):
            raise FrameError(
                f"frame {found.frame} is too large; wanted {link_kernels.LONGEST} rows and columns at most"
            )
        return cls(frame=found.frame, peaks=peaks, spans=spans, owner=owner)

    @property
    def n_peaks(self) -> int:
        """How many peaks it has."""
        return len(self.peaks)

    @property
    def runs(self) -> np.ndarray:
        """Row, first column, end and peak of each run of lit pixels, int32, shape (4, runs)."""
        row, col = np.divmod(self.spans[:, :-1], 1 << 16)
        return np.stack([row[0], *col, self.owner]).astype(np.int32)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Centroid and intensity of each peak."""
        return {"row": self.peaks[:, 0], "col": self.peaks[:, 1], "sum_intensity": self.peaks[:, 6]}


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs of peaks of two frames, in the order of (peak_a, peak_b)."""

    whole: np.ndarray
    "peak_a, peak_b, n_shared_pixels and reason of each pair, int32, shape (4, pairs)."
    weights: np.ndarray
    "score and distance of each pair, shape (2, pairs)."

    def __len__(self) -> int:
        """Return how many they are."""
        return self.whole.shape[1]

    @property
    def peak_a(self) -> np.ndarray:
        """Peak of the frame that comes first along the axis."""
        return self.whole[0]

    @property
    def peak_b(self) -> np.ndarray:
        """Peak of the frame that comes next."""
        return self.whole[1]

    @property
    def n_shared_pixels(self) -> np.ndarray:
        """Pixels lit in both."""
        return self.whole[2]

    @property
    def reason(self) -> np.ndarray:
        """`Reason`."""
        return self.whole[3]

    @property
    def score(self) -> np.ndarray:
        """Shared pixels over the pixels of the smaller peak."""
        return self.weights[0]

    @property
    def distance(self) -> np.ndarray:
        """Distance of the centroids, pixels."""
        return self.weights[1]

    def only(self, which: np.ndarray) -> "Candidates":
        """Return some of them, by a flag for each."""
        return Candidates(np.compress(which, self.whole, axis=1), np.compress(which, self.weights, axis=1))


class _Room:
    """Memory to work in, kept from pair to pair of frames."""

    def __init__(self, n_runs: int, n_peaks: int) -> None:
        self.n_runs, self.n_peaks = n_runs, n_peaks
        self.met, self._of_a = np.empty(n_runs, np.uint64), np.empty(3 * n_peaks, np.int32)
        self.chain, self.pairs = np.empty((2, 3, n_runs), np.int32)
        self.whole, self.weights = np.empty((4, n_runs), np.int32), np.empty((2, n_runs))

    @classmethod
    def of(cls, a: Linkable, b: Linkable) -> Self:
        """Return room for a pair of frames."""
        return cls(len(a.owner) + len(b.owner), a.n_peaks)

    def of_a(self, n_peaks: int) -> np.ndarray:
        """Return three lists of the peaks of one frame, contiguous whatever the room: others are compiled for anew."""
        return self._of_a[: 3 * n_peaks].reshape(3, n_peaks)

    def for_pair(self, a: Linkable, b: Linkable) -> "_Room":
        """Return room for another pair."""
        n_runs, n_peaks = len(a.owner) + len(b.owner), a.n_peaks
        if n_runs <= self.n_runs and n_peaks <= self.n_peaks:
            return self
        return _Room(max(n_runs + n_runs // 2, self.n_runs), max(n_peaks + n_peaks // 2, self.n_peaks))


class Rule:
    """The rule of a recipe, with its numbers as kernels take them: they are asked for with each pair of frames.

    Parameters
    ----------
    recipe
        Says the rule, none of `IN_TURN`, and its numbers.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._partners = _PARTNERS[recipe.link]
        self._near = (recipe.max_distance or 0.0) if recipe.link == "distance" else None
        # Who has the best partner is asked of all.
        self.every = recipe.keep_candidates or recipe.link != "overlap"
        "Whether candidates that are no links are among what it gives."
        self._limits = (
            0.0 if recipe.link == "distance" else float(recipe.min_shared_pixels),
            math.inf if recipe.max_distance is None else float(recipe.max_distance),
            math.inf if recipe.max_distance_by_size is None else float(recipe.max_distance_by_size),
            float(recipe.max_distance_by_width),
            float(recipe.min_score),
        )
        self._room = _Room(0, 0)

    def candidates(self, a: Linkable, b: Linkable) -> Candidates:
        """Return the candidates between two frames, a before b along the axis, with its word on each of them."""
        if self._near is None:
            found = self._overlapping(a, b)
        else:
            found = _weighed(a, b, *_near(a, b, self._near), self._limits, every=self.every)
        if self._partners is not None:
            self._partners(found, a, b)
        return found

    def _overlapping(self, a: Linkable, b: Linkable) -> Candidates:
        self._room = room = self._room.for_pair(a, b)
        frames = (a.spans, b.spans, a.owner, b.owner, a.peaks, b.peaks)
        work = (room.met, room.of_a(a.n_peaks), room.chain, room.pairs)
        n = link_kernels.overlapping(*frames, *work, self._limits, self.every, room.whole, room.weights)
        return Candidates(room.whole[:, :n].copy(), room.weights[:, :n].copy())


def link_peaks(a: Linkable, b: Linkable, recipe: Recipe) -> Candidates:
    """Return the candidates between two frames, with the recipe's word on each of them.

    With the rule `overlap` those that are no links are left out, unless the recipe keeps them.

    Parameters
    ----------
    a, b
        The frames, a before b along the axis.
    recipe
        Says the rule and its numbers.
    """
    return Rule(recipe).candidates(a, b)


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
    pairs = np.stack([peak_a, peak_b, np.empty_like(peak_a)]).astype(np.int32)
    _count_shared(a, b, pairs)
    return _weighed(a, b, pairs, len(peak_a), _NO_LIMITS, every=True), order


def _ring_peaks(frame: Linkable, recipe: Recipe) -> RingPeaks:
    row, col = recipe.link_options["beam_centre"]
    return RingPeaks.of(frame.columns, (float(row), float(col)))


def _weighed(
    a: Linkable, b: Linkable, pairs: np.ndarray, n: int, limits: tuple[float, ...], *, every: bool
) -> Candidates:
    whole, weights = np.empty((4, n), np.int32), np.empty((2, n))
    kept = link_kernels.weigh(pairs, n, a.peaks, b.peaks, limits, every, whole, weights)
    return Candidates(whole[:, :kept], weights[:, :kept])


def _near(a: Linkable, b: Linkable, reach: float) -> tuple[np.ndarray, int]:
    by_row = np.argsort(b.peaks[:, 0], kind="stable")
    room = 16 * (a.n_peaks + b.n_peaks)
    while True:
        pairs = np.empty((3, room), np.int32)
        n = link_kernels.near_pairs(a.peaks, b.peaks, by_row, reach, pairs)
        if n <= room:
            break
        room *= 4
    _count_shared(a, b, pairs[:, :n])
    return pairs, n


def _count_shared(a: Linkable, b: Linkable, pairs: np.ndarray) -> None:
    """Write how many pixels each of these pairs shares to the third row."""
    room = _Room.of(a, b)
    listed, frames = room.pairs, (a.spans, b.spans, a.owner, b.owner)
    n = link_kernels.shared_pixels(*frames, room.met, room.of_a(a.n_peaks), room.chain, listed)
    keys = listed[0, :n].astype(np.int64) * b.n_peaks + listed[1, :n]
    wanted = pairs[0].astype(np.int64) * b.n_peaks + pairs[1]
    pairs[2] = 0
    if n:
        place = np.minimum(np.searchsorted(keys, wanted), n - 1)
        found = keys[place] == wanted
        pairs[2, found] = listed[2, place[found]]


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


_PARTNERS: dict[LinkRule, Callable[[Candidates, Linkable, Linkable], None] | None] = {
    "overlap": None,
    "mutual-best-overlap": _mutual_best,
    "distance": _mutual_nearest,
}

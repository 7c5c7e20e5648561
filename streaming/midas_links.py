"""MIDAS's two rules by which peaks of neighbouring frames are linked (``MergeOverlappingPeaksAllZarr.c``).

Each peak has one partner in the next frame at most, and who gets it depends on the order in which peaks are asked. That
order is inherited: peaks that were linked with the frame before come first, in the order of their partners, then the
others by their angle on the detector. So a line of frames is linked one pair after the other, and the order handed on.

What differs from MIDAS, and why, stands in docs/explanations/parity.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .errors import FrameError, SettingsError

Array = NDArray[Any]
Linked = tuple[Array, Array, Array]
"Linked peaks of the first and of the second frame, by the first; and the second frame's order."

LEAST_INTENSITY = 1.0
"MIDAS drops peaks of fewer counts before it links: they are in no order and have no partner."
NO_PEAKS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingPeaks:
    """The peaks of one frame around the beam, each array of shape (peaks,)."""

    row: Array
    "Row of the centroid, pixels: MIDAS's ZCen."
    col: Array
    "Column, pixels: MIDAS's YCen."
    radius: Array
    "Distance from the beam, pixels."
    eta: Array
    "Angle on the detector, degrees, 0 towards higher rows and 90 towards higher columns."
    intensity: Array
    "Summed intensity, counts."

    @classmethod
    def of(cls, columns: Mapping[str, Array], beam_centre: tuple[float, float]) -> Self:
        """Return the peaks of a table with the columns row, col and sum_intensity.

        Radius and angle are those of the plane of the detector, without tilt or distortion, as MIDAS computes them
        (``PeaksFittingOMPZarrRefactor.c:322``); its eta grows clockwise or not depending on how the image was turned,
        and only the order that it gives counts here.
        """
        row, col = (np.ascontiguousarray(columns[name], np.float64) for name in ("row", "col"))
        up, left = row - beam_centre[0], beam_centre[1] - col
        radius = np.sqrt(up * up + left * left)
        # A peak on the beam has no angle; it comes last, as if it were NaN.
        cosine = np.divide(up, radius, out=np.full(len(row), np.nan), where=radius > 0)
        eta = np.degrees(np.arccos(cosine))
        return cls(
            row=row,
            col=col,
            radius=radius,
            eta=np.where(left > 0, -eta, eta),
            intensity=np.asarray(columns["sum_intensity"], np.float64),
        )

    def by_angle(self) -> Array:
        """Return the peaks that MIDAS keeps, by their angle: the order of a frame before which there is none."""
        # Of equal angles the first comes first, as in MIDAS's Python port; qsort in its C program promises nothing.
        order = np.argsort(self.eta, kind="stable")
        return order[self.intensity[order] >= LEAST_INTENSITY]


def midas_distance(a: RingPeaks, order_a: Array, b: RingPeaks, margin: float) -> Linked:
    """Link by distance, MIDAS's default.

    Each peak of a, in its order, takes the nearest peak of b that is free and nearer than margin, unless another peak
    of a that is still free is strictly nearer to it: then it gets none. Radii may not differ by more than margin. Of
    equally near ones it is the one in the lowest column of squares of the size of margin, then the lowest row of
    squares, and in a square the one with the largest angle.

    Parameters
    ----------
    a, b
        Peaks of two frames, a the first.
    order_a
        What was returned as order of a by the pair before, or `RingPeaks.by_angle`; each peak once at most.
    margin
        MIDAS's ``OverlapLength``, pixels, above 0; 2 by default.

    Raises
    ------
    SettingsError
        margin is not above 0.
    FrameError
        order_a is not an order of the peaks of a.
    """
    if not 0 < margin < np.inf:
        raise SettingsError(f"recipe: max_distance is {margin!r}; link midas-distance wants a number above 0")
    order_a = _order(order_a, len(a.row))
    by_angle = b.by_angle()
    partner = np.full(len(a.row), -1, np.int64)
    free_a, free_b = np.ones(len(a.row), np.bool_), np.ones(len(b.row), np.bool_)
    grid_a, grid_b = _Grid.of(a, order_a, margin), _Grid.of(b, by_angle, margin)
    places = (a.row, a.col, a.radius, b.row, b.col, b.radius)
    _take_nearest(
        *places, order_a, float(margin), grid_a.first, grid_a.after, grid_b.first, grid_b.after, free_a, free_b, partner
    )
    return _linked(partner, order_a, by_angle)


def midas_overlap(a: RingPeaks, runs_a: Array, order_a: Array, b: RingPeaks, runs_b: Array) -> Linked:
    """Link by common pixels, as MIDAS's ``UsePixelOverlap 1`` means it.

    Each peak of b asks for the peak of a with which it shares most pixels: of several the one that reaches that number
    first, in raster order. Each peak of a takes, of those that ask for it, the one that shares most: of several the one
    of lower angle. Who is not taken gets none.

    Parameters
    ----------
    a, b
        Peaks of two frames, a the first.
    runs_a, runs_b
        Row, first column, end and peak of each run of their pixels in raster order, int32, shape (4, runs), as
        `link_kernels.runs_of_peaks` writes them.
    order_a
        See `midas_distance`. It decides nothing but the order that is handed on.

    Raises
    ------
    FrameError
        order_a is not an order of the peaks of a.
    """
    order_a = _order(order_a, len(a.row))
    by_angle = b.by_angle()
    is_open, asks = np.zeros(len(a.row), np.bool_), np.zeros(len(b.row), np.bool_)
    is_open[order_a] = asks[by_angle] = True
    wanted, shared, first = np.full((3, len(b.row)), -1, np.int64)
    chain = np.empty((3, runs_a.shape[1] + runs_b.shape[1]), np.int64)
    _ask(runs_a, runs_b, is_open, asks, first, chain, wanted, shared)
    partner, most = np.full((2, len(a.row)), -1, np.int64)
    _take_most(by_angle, wanted, shared, most, partner)
    return _linked(partner, order_a, by_angle)


def _order(order: Array, n: int) -> Array:
    order = np.ascontiguousarray(order, np.int64)
    if len(order) and (order.min() < 0 or order.max() >= n or np.bincount(order).max() > 1):
        raise FrameError(f"the order of {n} peaks names one that is not there, or one twice; hand on what was returned")
    return order


def _linked(partner: Array, order_a: Array, by_angle: Array) -> Linked:
    peak_a = np.flatnonzero(partner >= 0)
    peak_b = partner[peak_a]
    taken = partner[order_a]
    others = ~np.isin(by_angle, peak_b)
    return peak_a, peak_b, np.concatenate([taken[taken >= 0], by_angle[others]])


@dataclass(frozen=True, slots=True)
class _Grid:
    """Peaks in squares of the size of the margin: who is near a place lies in nine. A square's last comes first."""

    first: Array
    "The last peak of each bucket of squares, or -1."
    after: Array
    "The one before it in its bucket, or -1."

    @classmethod
    def of(cls, peaks: RingPeaks, order: Array, margin: float) -> Self:
        size = 2 << max(4, len(order).bit_length())
        grid = cls(np.full(size, -1, np.int64), np.empty(len(peaks.row), np.int64))
        _fill_grid(peaks.row, peaks.col, order, float(margin), grid.first, grid.after)
        return grid


@compiled(forceinline=True)
def _bucket(row_cell: Any, col_cell: Any, size: int) -> Any:
    """Return where a square is listed; size is a power of 2."""
    return (np.int64(row_cell) * 0x9E3779B1 ^ np.int64(col_cell) * 0x85EBCA77) & (size - 1)


@compiled()
def _fill_grid(row: Array, col: Array, order: Array, margin: float, first: Array, after: Array) -> None:
    for i in order:
        k = _bucket(np.floor(row[i] / margin), np.floor(col[i] / margin), len(first))
        after[i] = first[k]
        first[k] = i


@compiled()
def _nearest(
    r: Any,
    c: Any,
    ring: Any,
    reach: Any,
    margin: float,
    row: Array,
    col: Array,
    radius: Array,
    first: Array,
    after: Array,
    free: Array,
) -> tuple[Any, Any]:
    """Return the free peak that is nearest to a place and nearer than reach, or -1, and its distance."""
    best, least = -1, reach
    row_cell, col_cell = np.floor(r / margin), np.floor(c / margin)
    for dc in range(-1, 2):
        for dr in range(-1, 2):
            i = first[_bucket(row_cell + dr, col_cell + dc, len(first))]
            while i >= 0:
                y, z = col[i] - c, row[i] - r
                distance = np.sqrt(y * y + z * z)
                if (
                    distance < least
                    and free[i]
                    and abs(radius[i] - ring) <= margin
                    # One of another square in the same bucket has its own turn.
                    and np.floor(row[i] / margin) == row_cell + dr
                    and np.floor(col[i] / margin) == col_cell + dc
                ):
                    best, least = i, distance
                i = after[i]
    return best, least


@compiled()
def _take_nearest(
    row_a: Array,
    col_a: Array,
    radius_a: Array,
    row_b: Array,
    col_b: Array,
    radius_b: Array,
    order_a: Array,
    margin: float,
    first_a: Array,
    after_a: Array,
    first_b: Array,
    after_b: Array,
    free_a: Array,
    free_b: Array,
    partner: Array,
) -> None:
    for i in order_a:
        j, distance = _nearest(
            row_a[i], col_a[i], radius_a[i], margin, margin, row_b, col_b, radius_b, first_b, after_b, free_b
        )
        if j < 0:
            continue
        nearer, _ = _nearest(
            row_b[j], col_b[j], radius_b[j], distance, margin, row_a, col_a, radius_a, first_a, after_a, free_a
        )
        if nearer < 0:
            partner[i] = j
            free_a[i] = free_b[j] = False


@compiled()
def _ask(
    a: Array, b: Array, is_open: Array, asks: Array, first: Array, chain: Array, wanted: Array, shared: Array
) -> None:
    """Write whom each peak of b asks for, or -1, and how many pixels they share."""
    # A chain for each peak of b counts its pixels in the peaks of a that it meets.
    other, counts, after = chain[0], chain[1], chain[2]
    n = i = j = 0
    while i < a.shape[1] and j < b.shape[1]:
        if a[0, i] != b[0, j]:
            if a[0, i] < b[0, j]:
                i += 1
            else:
                j += 1
            continue
        common = min(a[2, i], b[2, j]) - max(a[1, i], b[1, j])
        p, q = a[3, i], b[3, j]
        if common > 0 and is_open[p] and asks[q]:
            pair = first[q]
            while pair >= 0 and other[pair] != p:
                pair = after[pair]
            if pair < 0:
                pair = n
                n += 1
                other[pair], counts[pair], after[pair] = p, 0, first[q]
                first[q] = pair
            counts[pair] += common
            if counts[pair] > shared[q]:
                wanted[q], shared[q] = p, counts[pair]
        if a[2, i] <= b[2, j]:
            i += 1
        else:
            j += 1


@compiled()
def _take_most(by_angle: Array, wanted: Array, shared: Array, most: Array, partner: Array) -> None:
    for q in by_angle:
        p = wanted[q]
        if p >= 0 and shared[q] > most[p]:
            partner[p], most[p] = q, shared[q]

"""Links: peaks of neighbouring frames that share lit pixels."""

import math
from dataclasses import dataclass

import numpy as np

from . import kernels
from .frame import Frame
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import LINKS, Columns

_PLACE_ROLES = ("dty", "L1", "L2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a frame lies in the scan."""

    frame: int
    "Number of the frame."
    omega_start: float
    "Rotation when it began, degrees; NaN if it never came."
    omega_end: float
    "Rotation when it ended, degrees."
    place: tuple[float, ...]
    "dty, L1, L2; NaN where they never came."

    @classmethod
    def of(cls, frame: Frame) -> "Position":
        """Return the position of a frame."""
        place = tuple(frame.roles.get(role, math.nan) for role in _PLACE_ROLES)
        return cls(frame=frame.frame, omega_start=frame.omega_start, omega_end=frame.omega_end, place=place)

    @property
    def omega(self) -> float:
        """Rotation at the middle of the frame, degrees."""
        return 0.5 * (self.omega_start + self.omega_end)

    @property
    def width(self) -> float:
        """Rotation during the frame, degrees, 0 or more."""
        return abs(self.omega_end - self.omega_start)

    def same_place(self, other: "Position", tolerance: float) -> bool:
        """Tell whether all motors but omega agree; a motor that never came agrees with one that never came."""
        return all(
            abs(a - b) <= tolerance or (math.isnan(a) and math.isnan(b))
            for a, b in zip(self.place, other.place, strict=True)
        )


class OverlapLinker:
    """Links the peaks of each frame with those of the frame before it in a sweep along omega.

    Frames are neighbours when no frame lies between them, at most `Recipe.max_gap` are missing, all other motors
    agree, and their middles are no further apart than one and a half of their width for each step (frames without a
    width, known by one reading of the rotation each, are taken as neighbours in the order of acquisition). Frames
    must come in the order of their numbers. On `flush`, the last and first frame of a full turn are linked.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._first: tuple[Position, PeaksOfFrame] | None = None
        self._last: tuple[Position, PeaksOfFrame] | None = None

    def push(self, position: Position, found: PeaksOfFrame) -> Columns:
        """Return the links of one frame with the one before it."""
        before, self._last = self._last, (position, found)
        if self._first is None:
            self._first = self._last
        if before is None or not self._neighbours(before[0], position):
            return LINKS.empty()
        return self._link(before[1], found)

    def flush(self) -> Columns:
        """Return the links of the last frame with the first, if they are neighbours on the circle; then start anew."""
        first, last, closed = self._first, self._last, self._recipe.wrap and self.closes_circle()
        self._first = self._last = None
        if first is None or last is None or not closed:
            return LINKS.empty()
        return self._link(last[1], first[1])

    def closes_circle(self) -> bool:
        """Tell whether the frames so far are one full turn, so that the last is a neighbour of the first.

        The gap that is left of the turn must be one step wide, or up to `Recipe.max_gap` steps more; a step is the
        width of a frame, or where frames have no width, the mean distance of their middles.
        """
        if self._first is None or self._last is None:
            return False
        first, last = self._first[0], self._last[0]
        steps = last.frame - first.frame
        if steps < 2 or not first.same_place(last, self._recipe.place_tolerance):
            return False
        swept = abs(last.omega - first.omega)
        step = max(first.width, last.width) or swept / steps
        return 0.5 * step <= 360.0 - swept <= (1.5 + self._recipe.max_gap) * step

    @property
    def direction(self) -> float:
        """Sense of the sweep so far: 1 for rising omega, -1 for falling, 0 if there is none."""
        if self._first is None or self._last is None:
            return 0.0
        return float(np.sign(self._last[0].omega - self._first[0].omega))

    def _neighbours(self, a: Position, b: Position) -> bool:
        steps = b.frame - a.frame
        if steps > 1 + self._recipe.max_gap or not a.same_place(b, self._recipe.place_tolerance):
            return False
        if math.isnan(a.omega) or math.isnan(b.omega):
            return False
        width = max(a.width, b.width)
        return width == 0 or abs(b.omega - a.omega) <= (steps + 0.5) * width

    def _link(self, a: PeaksOfFrame, b: PeaksOfFrame) -> Columns:
        pairs = np.empty(min(len(a.pixels["row"]), len(b.pixels["row"])), np.int64)
        n_b = len(b.peaks["peak"])
        p, q = a.pixels, b.pixels
        n = kernels.shared_pixels(p["row"], p["col"], p["peak"], q["row"], q["col"], q["peak"], n_b, pairs)
        if n == 0:
            return LINKS.empty()
        linked, shared = np.unique(pairs[:n], return_counts=True)
        peak_a, peak_b = np.divmod(linked, n_b)
        distance = np.hypot(
            a.peaks["row"][peak_a] - b.peaks["row"][peak_b], a.peaks["col"][peak_a] - b.peaks["col"][peak_b]
        )
        keep = shared >= self._recipe.min_shared_pixels
        if self._recipe.max_distance is not None:
            keep &= distance <= self._recipe.max_distance
        smaller = np.minimum(a.peaks["n_pixels"][peak_a], b.peaks["n_pixels"][peak_b])
        count = int(keep.sum())
        return LINKS.batch(
            {
                "frame_a": np.full(count, a.frame),
                "peak_a": peak_a[keep],
                "frame_b": np.full(count, b.frame),
                "peak_b": peak_b[keep],
                "axis": np.zeros(count),
                "n_shared_pixels": shared[keep],
                "score": (shared / smaller)[keep],
                "distance": distance[keep],
            }
        )

"""The linker: which peaks of neighbouring frames belong together, whatever the order in which the frames come."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Self

import numpy as np

from .errors import FrameError
from .frame import Frame
from .link_rules import IN_TURN, Candidates, Linkable, Rule, first_order, link_in_turn
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import Columns
from .trajectory import VIRTUAL, InOrder, Line, Trajectory

_PLACE_ROLES = ("dty", "L1", "L2")


_NOBODY = -1
_UNKNOWN = -2


class Ending(IntFlag):
    """What a frame misses of its neighbours."""

    SCAN_END = 1
    "The scan ends beside it."
    MISSING = 2
    "A frame beside it is missing."


# Made once: numbers of an enumeration take a microsecond each to be put together.
_ENDINGS = tuple(Ending(flags) for flags in range(4))
_SCAN_END, _MISSING = int(Ending.SCAN_END), int(Ending.MISSING)


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
    roles: Mapping[str, float] = field(default_factory=dict[str, float])
    "Every other scalar role's value."

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Return the position of a frame."""
        place = tuple(frame.roles.get(role, math.nan) for role in _PLACE_ROLES)
        return cls(
            frame=frame.frame,
            omega_start=frame.omega_start,
            omega_end=frame.omega_end,
            place=place,
            roles=frame.roles,
        )

    @property
    def omega(self) -> float:
        """Rotation at the middle of the frame, degrees."""
        return 0.5 * (self.omega_start + self.omega_end)

    @property
    def width(self) -> float:
        """Rotation during the frame, degrees, 0 or more."""
        return abs(self.omega_end - self.omega_start)

    def motors(self) -> dict[str, float]:
        """Return the position of each motor by its role, the middle of the frame for ``omega``."""
        return {**self.roles, "omega": self.omega}

    def same_place(self, other: "Position", tolerance: float) -> bool:
        """Tell whether all motors but omega agree; a motor that never came agrees with one that never came."""
        return all(
            abs(a - b) <= tolerance or (math.isnan(a) and math.isnan(b))
            for a, b in zip(self.place, other.place, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedFrames:
    """The links of one frame with the next one along an axis."""

    frame_a: int
    "The frame that comes first along the axis."
    frame_b: int
    "The next one."
    axis: int
    "The axis."
    candidates: Candidates
    "The links."
    wraps: bool
    "Whether the way leads over the end of the turn."


@dataclass(slots=True, kw_only=True)
class Linked:
    """What one step of the linker gives."""

    joined: list[JoinedFrames] = field(default_factory=list[JoinedFrames])
    "New links."
    others: list[JoinedFrames] = field(default_factory=list[JoinedFrames])
    "Candidates that are no links, where the recipe keeps them."
    resolved: list[tuple[int, Ending]] = field(default_factory=list[tuple[int, Ending]])
    "Frames of which every neighbour has come or never will, and what they miss; each is named once."

    def add(self, more: "Linked") -> None:
        """Take over what another step gave."""
        self.joined += more.joined
        self.others += more.others
        self.resolved += more.resolved


class Linker:
    """Links the peaks of neighbouring frames.

    Two frames are linked as soon as both are here and every frame between them on their line is known to be missing, at
    most `Recipe.max_gap` of them. So each pair is linked exactly once, and which pairs are does not depend on the order
    in which frames come. What links are made from is kept until a frame is resolved: memory follows the frontier of the
    scan, not its length.

    Parameters
    ----------
    recipe
        Says how peaks are linked.
    trajectory
        Says which frames are neighbours. Without one, frames follow each other along omega in the order of their
        numbers: those next to each other are neighbours if all other motors agree and their middles are no further
        apart than one and a half of their width for each step (frames without a width, known by one reading of the
        rotation each, if they follow each other); and on `flush`, the last and first frame of a full turn are.
    """

    def __init__(self, recipe: Recipe, trajectory: Trajectory | None = None) -> None:
        self._trajectory: Trajectory = InOrder() if trajectory is None else trajectory
        self._recipe = recipe
        axes = self._trajectory.axes
        self._recipes = [replace(recipe, **recipe.along.get(axis, {}), along={}) for axis in axes]
        self._rules = [None if each.link in IN_TURN else Rule(each) for each in self._recipes]
        self._reach = 1 + max((each.max_gap for each in self._recipes), default=0)
        self._virtual = axes.index(VIRTUAL) if VIRTUAL in axes else -1
        self._is_in_order = isinstance(self._trajectory, InOrder)
        # The first frame waits for the last one, which may be its neighbour on the circle.
        self._may_close = recipe.wrap and self._is_in_order
        # Whether a frame came, or is known to be missing. Nothing is known of the others, before the end.
        self._came: dict[int, bool] = {}
        self._flushed = False
        self._newest = -1
        # Of each frame that is here and not resolved; and on how many sides of it nobody knows who comes next.
        self._held: dict[int, tuple[Position, Linkable]] = {}
        self._unknown: dict[int, int] = {}
        self._apart: set[int] = set()
        # Where who gets whom depends on the pair before: by axis and frame, the order in which its peaks are asked, and
        # the next frame that waits for that.
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._later: dict[tuple[int, int], int] = {}
        self._held_back: Counter[int] = Counter()
        self._touched: list[int] = []
        self._first: Position | None = None
        self._last: Position | None = None

    @property
    def trajectory(self) -> Trajectory:
        """Which frames are neighbours."""
        return self._trajectory

    @property
    def n_held(self) -> int:
        """Frames whose lit pixels wait for a neighbour."""
        return len(self._held)

    def push(self, position: Position, found: PeaksOfFrame) -> Linked:
        """Take in the peaks of a frame that is part of the scan, and link them with those of its neighbours.

        Raises
        ------
        FrameError
            The frame came before, or was said to be missing.
        """
        frame = position.frame
        self.check(frame)
        self._held[frame] = (position, Linkable.of(found))
        self._came[frame] = True
        self._newest = max(self._newest, frame)
        first = self._first
        if first is None or frame < first.frame:
            self._first = position
        if self._last is None or frame > self._last.frame:
            self._last = position
        linked = Linked()
        touched = [frame]
        unknown = 0
        for line, place in self._trajectory.lines(frame):
            before, _ = self._walk(line, place, -1)
            after, _ = self._walk(line, place, 1)
            if before >= 0:
                self._unknown[before] -= 1
                touched.append(before)
                self._link(linked, line.axis, before, frame)
            if after >= 0:
                self._unknown[after] -= 1
                touched.append(after)
                self._link(linked, line.axis, frame, after)
            unknown += (before == _UNKNOWN) + (after == _UNKNOWN)
        self._unknown[frame] = unknown
        if first is not None and self._first is position:
            touched.append(first.frame)
        self._resolve(linked, touched)
        return linked

    def check(self, frame: int) -> None:
        """Refuse a frame that came before.

        Raises
        ------
        FrameError
            It did, or it was said to be missing.
        """
        came = self._came.get(frame)
        if came is not None or self._flushed:
            what = "came twice; the first counts" if came else "came after it was counted as missing"
            raise FrameError(f"frame {frame} {what}")

    def set_aside(self, frame: int) -> None:
        """Take in a frame that is not part of the scan: it has no neighbours, but it must not come twice.

        Raises
        ------
        FrameError
            The frame came before.
        """
        self.check(frame)
        self._came[frame] = True

    def missing(self, frame: int) -> Linked:
        """Take in that a frame will never come; its neighbours may be linked over the gap.

        Raises
        ------
        FrameError
            The frame came before, or was said to be missing.
        """
        self.check(frame)
        self._came[frame] = False
        linked = Linked()
        for line, place in self._trajectory.lines(frame):
            before, gap_before = self._walk(line, place, -1)
            after, gap_after = self._walk(line, place, 1)
            bridged = gap_before + gap_after + 1 <= self._recipes[line.axis].max_gap
            if before >= 0 and after >= 0 and before != after and bridged:
                self._link(linked, line.axis, before, after)
            elif after >= 0:
                self._go_on(linked, line.axis, after)
        near = self._near(frame)
        for each in near:
            if each in self._held:
                self._unknown[each] = sum(
                    self._walk(line, place, sense)[0] == _UNKNOWN
                    for line, place in self._trajectory.lines(each)
                    for sense in (-1, 1)
                )
        self._resolve(linked, near)
        return linked

    def flush(self) -> Linked:
        """Take in that no further frame will come."""
        linked = Linked()
        # All that is left is with the frames that wait: nobody goes through the numbers of those that never came.
        waits = [
            (line, place, frame)
            for frame in sorted(self._held)
            for line, place in self._trajectory.lines(frame)
            if self._walk(line, place, 1)[0] == _UNKNOWN
        ]
        self._flushed = True
        for line, place, frame in waits:
            after, _ = self._walk(line, place, 1)
            if after >= 0:
                self._link(linked, line.axis, frame, after)
        first, last = self._first, self._last
        closes = False
        if isinstance(self._trajectory, InOrder) and first is not None and last is not None:
            sense = float(np.nan_to_num(np.sign(last.omega - first.omega)))
            self._trajectory.finish(self._newest + 1, sense)
            closes = self._may_close and self._closes_circle(first, last)
            if closes:
                self._link(linked, 0, last.frame, first.frame)
        for axis, frame in list(self._later):
            self._go_on(linked, axis, frame)
        for frame in sorted(self._held):
            ending = self._ending(frame)
            if closes and first is not None and last is not None and frame in (first.frame, last.frame):
                ending &= ~Ending.SCAN_END
            linked.resolved.append((frame, ending))
        self._held.clear()
        self._unknown.clear()
        return linked

    def _walk(self, line: Line, place: int, sense: int) -> tuple[int, int]:
        """Return the next frame along a line that is here, `_NOBODY` or `_UNKNOWN`; and how many are missing before."""
        start = place
        for gap in range(1 + self._recipes[line.axis].max_gap):
            place = line.step(place, sense)
            if place < 0:
                return _NOBODY, gap
            if place == start:
                return _NOBODY, gap
            frame = line.frame(place)
            came = self._came.get(frame)
            if came:
                return frame, gap
            if came is None and not self._flushed:
                return _UNKNOWN, gap
        return _NOBODY, self._reach

    def _link(self, linked: Linked, axis: int, frame_a: int, frame_b: int) -> None:
        """Link two frames, or remember to, where that depends on a pair that is not linked yet."""
        if self._recipes[axis].link not in IN_TURN or self._order(axis, frame_a) is not None:
            self._link_now(linked, axis, frame_a, frame_b)
            if self._later:
                self._go_on(linked, axis, frame_b)
        else:
            self._later[axis, frame_a] = frame_b
            self._held_back.update((frame_a, frame_b))

    def _go_on(self, linked: Linked, axis: int, frame: int) -> None:
        """Link a frame with the next one, if that waited for the order of its peaks and that is known."""
        while (axis, frame) in self._later and self._order(axis, frame) is not None:
            frame_b = self._later.pop((axis, frame))
            self._held_back.subtract((frame, frame_b))
            self._link_now(linked, axis, frame, frame_b)
            self._touched += [frame, frame_b]
            frame = frame_b

    def _order(self, axis: int, frame: int) -> np.ndarray | None:
        """Return the order in which the peaks of a frame are asked along an axis; None if it is not known yet."""
        if (axis, frame) not in self._orders:
            (line, place) = next(each for each in self._trajectory.lines(frame) if each[0].axis == axis)
            before, _ = self._walk(line, place, -1)
            # These programs know no circle: after its end the order begins anew.
            if before == _NOBODY or (before >= 0 and self._trajectory.wraps(before, frame)):
                self._orders[axis, frame] = first_order(self._held[frame][1], self._recipes[axis])
        return self._orders.get((axis, frame))

    def _link_now(self, linked: Linked, axis: int, frame_a: int, frame_b: int) -> None:
        (at_a, a), (at_b, b) = self._held[frame_a], self._held[frame_b]
        recipe = self._recipes[axis]
        wraps = axis != self._virtual and self._trajectory.wraps(frame_a, frame_b)
        apart = self._is_in_order and axis == 0 and not wraps and not _next_along(at_a, at_b, recipe)
        if apart:
            self._apart |= {frame_a, frame_b}
        rule = self._rules[axis]
        if rule is None:
            if apart or wraps:
                self._orders.setdefault((axis, frame_b), first_order(b, recipe))
                return
            candidates, order = link_in_turn(a, b, recipe, self._orders[axis, frame_a])
            self._orders[axis, frame_b] = order
        elif apart:
            return
        else:
            candidates = rule.candidates(a, b)
        links = candidates
        if rule is not None and rule.every:
            linking = candidates.reason == 0
            links = candidates.only(linking)
            if recipe.keep_candidates and len(links) < len(candidates):
                others = candidates.only(~linking)
                linked.others.append(
                    JoinedFrames(frame_a=frame_a, frame_b=frame_b, axis=axis, candidates=others, wraps=wraps)
                )
        if len(links):
            linked.joined.append(
                JoinedFrames(frame_a=frame_a, frame_b=frame_b, axis=axis, candidates=links, wraps=wraps)
            )

    def _near(self, frame: int) -> list[int]:
        """Return the frames, here or not, for which it matters that a frame is missing."""
        near: list[int] = []
        for line, place in self._trajectory.lines(frame):
            for sense in (-1, 1):
                at = place
                for _ in range(self._reach):
                    at = line.step(at, sense)
                    if at < 0:
                        break
                    near.append(line.frame(at))
        return near

    def _resolve(self, linked: Linked, touched: list[int]) -> None:
        """Name those of some frames that wait for nothing any more."""
        for each in sorted({*touched, *self._touched}):
            if each in self._held and self._is_resolved(each):
                linked.resolved.append((each, self._ending(each)))
                del self._held[each], self._unknown[each]
                if self._orders:
                    for axis in range(len(self._recipes)):
                        self._orders.pop((axis, each), None)
        self._touched.clear()

    def _is_resolved(self, frame: int) -> bool:
        if self._unknown[frame] or self._held_back[frame]:
            return False
        return not (self._may_close and self._first is not None and frame == self._first.frame)

    def _ending(self, frame: int) -> Ending:
        lines = self._trajectory.lines(frame)
        ending = 0 if lines and frame not in self._apart else _SCAN_END
        self._apart.discard(frame)
        for line, place in lines:
            if line.axis == self._virtual:
                continue
            for sense in (-1, 1):
                at = line.step(place, sense)
                if at < 0:
                    ending |= _SCAN_END
                elif not self._came.get(line.frame(at)):
                    ending |= _MISSING
        return _ENDINGS[ending]

    def _closes_circle(self, first: Position, last: Position) -> bool:
        """Tell whether the frames so far are one full turn, so that the last is a neighbour of the first.

        The gap that is left of the turn must be one step wide, or up to `Recipe.max_gap` steps more; a step is the
        width of a frame, or where frames have no width, the mean distance of their middles.
        """
        steps = last.frame - first.frame
        if steps < 2 or not first.same_place(last, self._recipe.place_tolerance):
            return False
        swept = abs(last.omega - first.omega)
        step = max(first.width, last.width) or swept / steps
        return 0.5 * step <= 360.0 - swept <= (1.5 + self._recipes[0].max_gap) * step


def rows_of_links(joined: Sequence[JoinedFrames], *, reasons: bool) -> Columns:
    """Return the links of one pair of frames or more as the table ``links`` has them: columns, order and types."""
    whole, weights = joined[0].candidates.whole, joined[0].candidates.weights
    if len(joined) > 1:
        whole = np.concatenate([each.candidates.whole for each in joined], axis=1)
        weights = np.concatenate([each.candidates.weights for each in joined], axis=1)
    n = whole.shape[1]
    (frame_a, frame_b), axis = np.empty((2, n), np.int64), np.empty(n, np.int16)
    end = 0
    for each in joined:
        start, end = end, end + len(each.candidates)
        frame_a[start:end] = each.frame_a
        frame_b[start:end] = each.frame_b
        axis[start:end] = each.axis
    columns = {
        "frame_a": frame_a,
        "peak_a": whole[0],
        "frame_b": frame_b,
        "peak_b": whole[1],
        "axis": axis,
        "n_shared_pixels": whole[2],
        "score": weights[0],
        "distance": weights[1],
    }
    if reasons:
        columns["reason"] = whole[3].astype(np.int16)
    return columns


def _next_along(a: Position, b: Position, recipe: Recipe) -> bool:
    """Tell whether b is the neighbour of a in a sweep along omega, as no frame between them came."""
    if not a.same_place(b, recipe.place_tolerance) or math.isnan(a.omega) or math.isnan(b.omega):
        return False
    width = max(a.width, b.width)
    return width == 0 or abs(b.omega - a.omega) <= (b.frame - a.frame + 0.5) * width

"""The trajectory: which frames are neighbours, along which motor.

Frames lie on lines. A line follows one motor, ordered by its position, while the other motors stay where they are; a
line that goes all the way round is a ring. Two frames are neighbours when no frame that came lies between them on a
line. `Planned` knows all positions before the first frame, `InOrder` takes frames as neighbours in the order in which
they were recorded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from .errors import SettingsError
from .tables import Columns

BEYOND = -1
"A place on a line behind its end."

VIRTUAL = "virtual"
"Name of the axis of the pairs that a user gives."


class Line(Protocol):
    """Frames that follow each other."""

    @property
    def axis(self) -> int:
        """Number of the axis it follows."""
        ...

    def frame(self, place: int) -> int:
        """Return the number of the frame at a place, from 0."""
        ...

    def step(self, place: int, sense: int) -> int:
        """Return the place after (1) or before (-1) a place; `BEYOND` behind its end."""
        ...


class Trajectory(Protocol):
    """Which frames are neighbours."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes along which peaks are linked, by number."""
        ...

    @property
    def n_frames(self) -> int | None:
        """How many frames there will be; None if nobody knows."""
        ...

    def contains(self, frame: int, /) -> bool:
        """Tell whether a frame is part of the scan; what is not, such as a settling frame, is in no track."""
        ...

    def lines(self, frame: int) -> Sequence[tuple[Line, int]]:
        """Return the lines that a frame lies on, with its place there."""
        ...

    def level(self, frame: int) -> int:
        """Return the rank of its rotation on the circle."""
        ...

    def turn(self, frame: int) -> float:
        """Return the whole turns that its rotation is beyond the first one, degrees; never a part of a turn."""
        ...

    def wraps(self, frame_a: int, frame_b: int) -> bool:
        """Tell whether the way from a to the next frame b leads over the end of the turn."""
        ...

    @property
    def sense(self) -> float:
        """1 where the turn goes to higher omega, -1 to lower, 0 where nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class _Listed:
    """A line of known frames."""

    axis: int
    frames: list[int]
    ring: bool

    def frame(self, place: int) -> int:
        return self.frames[place]

    def step(self, place: int, sense: int) -> int:
        place += sense
        if 0 <= place < len(self.frames):
            return place
        return place % len(self.frames) if self.ring else BEYOND


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axis:
    """One motor of a planned scan."""

    name: str
    "Its role, such as `omega`."
    positions: np.ndarray = field(default_factory=lambda: np.empty(0))
    "Its position at the middle of each frame, in its own unit, shape (frames,)."
    linked: bool = True
    "Whether peaks are linked along it. Frames at different positions of a motor that is not are never neighbours."
    tolerance: float = 1e-3
    "Positions that differ by no more than this are one. Infinite for a motor that follows others and decides nothing."
    reach: float | None = None
    "Neighbours are no further apart than this; absent, one and a half of the motor's median move."
    period: float | None = None
    "360 where positions a turn apart are one and the last is a neighbour of the first; absent, turns are apart."

    def __post_init__(self) -> None:
        if self.positions.ndim != 1 or not np.isfinite(self.positions).all():
            raise SettingsError(f"trajectory: {self.name} has positions that are not a list of finite numbers")
        for key, value in (("tolerance", self.tolerance), ("reach", self.reach), ("period", self.period)):
            if value is not None and (math.isnan(value) or value < 0):
                raise SettingsError(f"trajectory: {key} of {self.name} is {value!r}; wanted 0 or more")


class _Folded:
    """Positions of one axis as places on its line or circle."""

    def __init__(self, axis: Axis) -> None:
        positions = axis.positions.astype(np.float64)
        n = len(positions)
        moves = np.diff(positions)
        if axis.period is not None:
            moves = moves - axis.period * np.round(moves / axis.period)
        moves = moves[np.abs(moves) > axis.tolerance]
        # The sense of most moves: a few lead back to where a pass begins.
        self.sense = float(np.sign(np.median(moves))) if len(moves) else 1.0
        self.sense = self.sense or 1.0
        self.step = float(np.median(np.abs(moves))) if len(moves) else 0.0
        self.reach = 1.5 * self.step if axis.reach is None else axis.reach
        self.turn = np.zeros(n)
        ahead = self.sense * (positions - positions[0]) if n else positions
        if axis.period is not None and n:
            fold = np.mod(ahead, axis.period)
            # What lies a hair before the first position is there, not a turn away.
            fold[fold >= axis.period - min(axis.tolerance, axis.period / 4)] -= axis.period
            self.turn = self.sense * np.round((ahead - fold) / axis.period) * axis.period
            ahead = fold
        self.ahead = ahead
        self.level = np.zeros(n, np.int64)
        if math.isfinite(axis.tolerance) and n:
            order = np.argsort(ahead, kind="stable")
            self.level[order] = np.concatenate([[0], np.cumsum(np.diff(ahead[order]) > axis.tolerance)])


class Planned:
    """The trajectory of a scan whose positions are known before it begins.

    Along each linked axis, the frames at one position of all other axes form a line, in the order of their position;
    frames at the same position follow each other in the order of their numbers. A line is cut where two positions are
    further apart than the axis reaches.

    Parameters
    ----------
    axes
        The motors, all with as many positions. A motor named ``omega`` is the rotation.
    numbers
        Number of the frame that each position belongs to, ascending; absent, from 0 on. Frames that are not named, such
        as a settling frame before the first, are not part of the scan.
    alone
        Further frames that are part of it and have no neighbours, for their position is not known.
    pairs
        Further neighbours (a, b), by the numbers of their frames.

    Raises
    ------
    SettingsError
        The axes differ in length, or a pair names a frame that is not part of the scan, or one frame twice.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        *,
        numbers: Sequence[int] | None = None,
        alone: Sequence[int] = (),
        pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        lengths = {axis.name: len(axis.positions) for axis in axes}
        self._n = len(axes[0].positions) if axes else 0
        self._numbers = np.arange(self._n) if numbers is None else np.asarray(numbers, np.int64)
        if not axes or set(lengths.values()) != {len(self._numbers)}:
            raise SettingsError(
                f"trajectory: the axes have {lengths or 'no'} positions; wanted {len(self._numbers)} for each"
            )
        self._place = {number: place for place, number in enumerate(self._numbers.tolist())}
        self._alone = frozenset(alone)
        linked = [axis for axis in axes if axis.linked]
        self.axes = tuple(axis.name for axis in linked) + ((VIRTUAL,) if pairs else ())
        self.n_frames = max([-1, *self._place, *self._alone]) + 1
        folded = {axis.name: _Folded(axis) for axis in axes}
        rotation = folded.get("omega", _Folded(Axis(name="none", positions=np.zeros(self._n), linked=False)))
        self.sense = rotation.sense
        self._level: list[int] = rotation.level.tolist()
        self._turn: list[float] = rotation.turn.tolist()
        self._lines: list[list[tuple[Line, int]]] = [[] for _ in range(self._n)]
        for number, axis in enumerate(linked):
            others = [folded[each.name].level for each in axes if each is not axis]
            for line in self._along(number, folded[axis.name], others, axis.period):
                self._add(line)
        for a, b in checked_pairs(pairs, self._place.__contains__):
            self._add(_Listed(len(linked), [a, b], ring=False))

    def contains(self, frame: int, /) -> bool:
        """Tell whether a frame is part of the scan."""
        return frame in self._place or frame in self._alone

    def lines(self, frame: int) -> Sequence[tuple[Line, int]]:
        """Return the lines that a frame lies on, with its place there."""
        place = self._place.get(frame)
        return () if place is None else self._lines[place]

    def level(self, frame: int) -> int:
        """Return the rank of its rotation on the circle, from 0 at the start of the scan."""
        place = self._place.get(frame)
        return 0 if place is None else self._level[place]

    def turn(self, frame: int) -> float:
        """Return the whole turns that its rotation is beyond the first one, degrees."""
        place = self._place.get(frame)
        return 0.0 if place is None else self._turn[place]

    def wraps(self, frame_a: int, frame_b: int) -> bool:
        """Tell whether the way from a to the next frame b leads over the end of the turn."""
        return self.level(frame_b) < self.level(frame_a)

    def neighbours(self) -> Columns:
        """Return every pair of neighbours when no frame is missing: frame_a, frame_b, axis."""
        pairs: list[tuple[int, int, int]] = []
        for number, lines in zip(self._numbers.tolist(), self._lines, strict=True):
            for line, place in lines:
                after = line.step(place, 1)
                if after >= 0:
                    pairs.append((number, line.frame(after), line.axis))
        columns = np.array(pairs, np.int64).reshape(-1, 3).T
        return dict(zip(("frame_a", "frame_b", "axis"), columns, strict=True))

    def _add(self, line: _Listed) -> None:
        for place, frame in enumerate(line.frames):
            self._lines[self._place[frame]].append((line, place))

    def _along(self, axis: int, folded: _Folded, others: Sequence[np.ndarray], period: float | None) -> list[_Listed]:
        """Return the lines along one axis."""
        order = np.lexsort((np.arange(self._n), folded.level, *others))
        same = np.ones(self._n, np.bool_)
        same[:1] = False
        for level in others:
            same[1:] &= level[order][1:] == level[order][:-1]
        lines: list[_Listed] = []
        for part in np.split(order, np.flatnonzero(~same)[1:]):
            ahead = folded.ahead[part]
            cuts = np.flatnonzero(np.diff(ahead) > folded.reach) + 1
            pieces = np.split(part, cuts)
            # Fewer than three frames are neighbours one way round only.
            closes = period is not None and len(part) > 2 and period - ahead[-1] + ahead[0] <= folded.reach
            if closes and len(pieces) > 1:
                pieces = [*pieces[1:-1], np.concatenate([pieces[-1], pieces[0]])]
                closes = False
            lines += [_Listed(axis, self._numbers[piece].tolist(), ring=closes) for piece in pieces if len(piece) > 1]
        return lines


class _Endless:
    """The line of all frames in the order of their numbers."""

    axis = 0

    def __init__(self) -> None:
        self._end: int | None = None

    def finish(self, n_frames: int) -> None:
        self._end = n_frames

    def frame(self, place: int) -> int:
        return place

    def step(self, place: int, sense: int) -> int:
        place += sense
        return place if place >= 0 and (self._end is None or place < self._end) else BEYOND


class InOrder:
    """The trajectory of frames of which nothing is known beforehand: each is the neighbour of the next one.

    Whether two such frames are neighbours after all is for their positions to say (`linking.Position`); at the end they
    may turn out to be a full turn.

    Parameters
    ----------
    pairs
        Further neighbours (a, b), by the numbers of their frames.
    """

    n_frames = None

    def __init__(self, *, pairs: Sequence[tuple[int, int]] = ()) -> None:
        self.axes = ("omega", VIRTUAL) if pairs else ("omega",)
        self.sense = 0.0
        self._line = _Endless()
        self._pairs: dict[int, list[tuple[Line, int]]] = {}
        for a, b in checked_pairs(pairs, self.contains):
            line = _Listed(1, [a, b], ring=False)
            self._pairs.setdefault(a, []).append((line, 0))
            self._pairs.setdefault(b, []).append((line, 1))

    def finish(self, n_frames: int, sense: float) -> None:
        """Say that no frame from n_frames on will come, and in which sense omega went."""
        self._line.finish(n_frames)
        self.sense = sense

    def contains(self, frame: int, /) -> bool:
        """Tell whether a frame is part of the scan; every frame is."""
        return frame >= 0

    def lines(self, frame: int) -> Sequence[tuple[Line, int]]:
        """Return the lines that a frame lies on, with its place there."""
        return ((self._line, frame), *self._pairs.get(frame, ()))

    def level(self, frame: int) -> int:
        """Return its number."""
        return frame

    def turn(self, frame: int) -> float:
        """Return 0: omega is taken as it is."""
        return 0.0

    def wraps(self, frame_a: int, frame_b: int) -> bool:
        """Tell whether b came before a."""
        return frame_b < frame_a


def checked_pairs(pairs: Sequence[tuple[int, int]], contains: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Return pairs of frames, each once.

    Raises
    ------
    SettingsError
        A pair names a frame that is not part of the scan, or one frame twice.
    """
    for a, b in pairs:
        if a == b or not contains(a) or not contains(b):
            raise SettingsError(f"trajectory: pair [{a}, {b}] is not of two different frames of the scan")
    return list(dict.fromkeys((int(a), int(b)) for a, b in pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class FromPositions:
    """A trajectory that is known when the last frame has come: its axes are, their positions come with the frames.

    Nothing can be linked before the end, so the lit pixels of the whole scan wait for it.
    """

    axes: tuple[Axis, ...]
    "The motors, without positions."
    pairs: tuple[tuple[int, int], ...] = ()
    "Further neighbours (a, b), by the numbers of their frames."

    def planned(self, positions: Mapping[int, Mapping[str, float]]) -> Planned:
        """Return the trajectory of these frames.

        Parameters
        ----------
        positions
            Position of each motor, by its name, by the number of the frame. A frame that lacks one has no neighbours.
        """
        names = [axis.name for axis in self.axes]
        known = [
            number
            for number in sorted(positions)
            if all(math.isfinite(positions[number].get(name, math.nan)) for name in names)
        ]
        axes = [
            replace(axis, positions=np.array([positions[number][axis.name] for number in known], np.float64))
            for axis in self.axes
        ]
        here = set(known)
        pairs = [pair for pair in self.pairs if set(pair) <= here]
        return Planned(axes, numbers=known, alone=sorted(set(positions) - here), pairs=pairs)

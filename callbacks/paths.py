"""Where the motors of a run are, frame after frame, before the first frame has come."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..streaming import DocumentError, SettingsError
from .plans import Motor, grid, motors_of, moves_of
from .settings import MOST_FRAMES, AxisSettings, Settings

_ROTATION = ("omega", "omega_start", "omega_end")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Path:
    """Where the motors are in each frame, in acquisition order."""

    source: str
    "`documents` or `settings`."
    positions: Mapping[str, np.ndarray]
    "Role, or name of a motor without one, to the positions, each of shape (frames,); omega with its sign."
    first: int = 0
    "Number of the frame that the first position belongs to."
    relative: bool = False
    "Whether they count from where the motors were."
    mark: float = 0.5
    "What a position of omega is within its frame: 0 its start, 0.5 its middle, 1 its end."
    width: np.ndarray | None = None
    "Way of omega during each frame, degrees, shape (frames,); None where nobody said."

    def __len__(self) -> int:
        """Return how many frames have a position."""
        return len(next(iter(self.positions.values())))

    def __contains__(self, frame: int) -> bool:
        return self.first <= frame < self.first + len(self)

    def omega(self, frame: int) -> float:
        """Return the position of omega in a frame; NaN if it has none."""
        if frame not in self or "omega" not in self.positions:
            return math.nan
        return float(self.positions["omega"][frame - self.first])

    def interval(self, frame: int) -> tuple[float, float]:
        """Return omega at the start and the end of a frame, degrees; NaN if nobody said."""
        if self.width is None or frame not in self:
            return math.nan, math.nan
        middle, half = self.omega(frame), 0.5 * float(self.width[frame - self.first])
        return middle - half, middle + half

    def step(self, tolerance: float) -> float:
        """Return the usual distance of neighbouring positions of omega on the circle; 0 if it does not move."""
        places = np.sort(np.mod(self.positions.get("omega", np.empty(0)), 360.0))
        moves = np.diff(places)
        moves = moves[moves > tolerance]
        return float(np.median(moves)) if len(moves) else 0.0

    def after(self, skip: int, *, dropped: bool) -> "Path":
        """Return the path of a scan that begins with frame number `skip`.

        Parameters
        ----------
        skip
            Frames before it.
        dropped
            Whether they have a position here, which is not theirs to keep.

        Raises
        ------
        SettingsError
            Nothing is left.
        """
        if not dropped:
            return replace(self, first=skip)
        if skip >= len(self):
            raise SettingsError(f"trajectory: skip_first is {skip}, and there are only {len(self)} positions")
        positions = {role: each[skip:] for role, each in self.positions.items()}
        return replace(self, first=skip, positions=positions, width=None if self.width is None else self.width[skip:])


def role_of(motor: Motor, settings: Settings) -> str:
    """Return the role that a motor of a plan has, or a name of its own."""
    for role, axis in settings.trajectory.axes.items():
        if axis.motor == motor.name:
            return role
    for role, key in settings.roles.items():
        if role != "omega_step" and motor.gives(key):
            return "omega" if role in _ROTATION else role
    taken = {*settings.roles, *settings.trajectory.axes, *_ROTATION}
    return f"motor {motor.name}" if motor.name in taken else motor.name


def path_of_documents(start: Mapping[str, Any], settings: Settings, per_event: int) -> Path | None:
    """Return the path that a run's plan tells; None if it tells none, or nothing would be linked along it.

    Parameters
    ----------
    start
        The start document.
    settings
        Roles and axes.
    per_event
        Images that the detector takes at each scan point: all of them lie at one position.

    Raises
    ------
    DocumentError
        The plan tells positions that make no sense, or in a way that is not known.
    """
    motors = {motor.name: motor for motor in motors_of(start)}
    roles = {name: role_of(motor, settings) for name, motor in motors.items()}
    asked_for = [role for role, axis in settings.trajectory.axes.items() if axis.link]
    if {"omega", *asked_for}.isdisjoint(roles.values()):
        return None
    moves = moves_of(start)
    if moves is None:
        return None
    n = per_event * len(next(iter(moves.positions.values())))
    if n > MOST_FRAMES:
        raise DocumentError(f"the plan has {n} frames; wanted {MOST_FRAMES} at most")
    positions = {roles[name]: np.repeat(each, per_event) for name, each in moves.positions.items()}
    if "omega" in positions:
        positions["omega"] = settings.omega_sign * positions["omega"]
    rotation = next((motors[name] for name, role in roles.items() if role == "omega"), None)
    mark = _mark(rotation, settings)
    return Path(source="documents", positions=positions, relative=moves.relative, mark=mark)


def _mark(rotation: Motor | None, settings: Settings) -> float:
    """Return what the position of the plan's rotation is within a frame."""
    for role, mark in (("omega_start", 0.0), ("omega_end", 1.0)):
        if role in settings.roles and rotation is not None and rotation.gives(settings.roles[role]):
            return mark
    return {"start": 0.0, "end": 1.0}.get(settings.omega_marks or "centre", 0.5)


def path_of_settings(settings: Settings, value_of: Callable[[str], Any]) -> Path:
    """Return the path that the settings tell: the middles of the frames.

    Parameters
    ----------
    settings
        Axes, their nesting and passes.
    value_of
        Gives what the documents hold under a data key, None if they do not have it.

    Raises
    ------
    SettingsError
        A data key holds no such number, or the numbers do not fit each other.
    """
    said = settings.trajectory
    lists = {role: _listed(role, axis, value_of) for role, axis in said.axes.items() if axis.has_positions}
    for group in said.nesting:
        counts = {role: len(lists[role][0]) for role in group}
        if len(set(counts.values())) > 1:
            raise SettingsError(f"trajectory: {counts} positions move together; wanted as many of each")
    lengths = [len(lists[group[0]][0]) for group in said.nesting]
    places, back = grid([np.arange(length) for length in lengths], _snaked(settings))
    order, turned = _interlaced(lengths[-1], said.passes, flip=said.flip)
    back[-1] = back[-1] ^ turned[places[-1]]
    places[-1] = order[places[-1]]
    positions: dict[str, np.ndarray] = {}
    for at, group in enumerate(said.nesting):
        for role in group:
            values, way = lists[role]
            to_middle = {"start": 0.5, "centre": 0.0, "end": -0.5}[said.axes[role].marks] * way
            positions[role] = (values + to_middle)[places[at]]
    width: np.ndarray | None = None
    if "omega" in positions:
        positions["omega"] = settings.omega_sign * positions["omega"]
        at = next(at for at, group in enumerate(said.nesting) if "omega" in group)
        # On the way back the same bins are swept the other way.
        width = settings.omega_sign * lists["omega"][1] * np.where(back[at], -1.0, 1.0)
    return Path(source="settings", positions=positions, width=width)


def _listed(role: str, axis: AxisSettings, value_of: Callable[[str], Any]) -> tuple[np.ndarray, float]:
    """Return the positions of an axis, and its signed way during one frame."""
    if axis.positions:
        return np.array(axis.positions, np.float64), axis.width or 0.0
    said = {"start": axis.start, "step": axis.step, "count": axis.count}
    start, step, count = (_number(f"{name} of {role}", value, value_of) for name, value in said.items())
    if step == 0 or count != math.floor(count) or not 1 <= count <= MOST_FRAMES:
        raise SettingsError(
            f"trajectory: {role} has {count:g} positions {step:g} apart; wanted a whole number, 1 to {MOST_FRAMES}, "
            "and a distance"
        )
    width = step if axis.width is None else math.copysign(axis.width, step)
    return start + step * np.arange(int(count)), width


def _number(what: str, value: float | str | None, value_of: Callable[[str], Any]) -> float:
    """Return a number of the settings, or that of the data key which they name."""
    if not isinstance(value, str):
        return math.nan if value is None else float(value)
    found = value_of(value)
    try:
        number = float(np.asarray(found, np.float64).reshape(()))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(
            f"trajectory: {what} is the data key {value!r}, which holds {found!r:.40}; wanted a number in the "
            "configuration of a device or in the start document"
        )
    return number


def _snaked(settings: Settings) -> Sequence[bool]:
    """Return which groups of axes go back in every second pass."""
    snaked, nesting = settings.trajectory.snaked, settings.trajectory.nesting
    if isinstance(snaked, bool):
        return [snaked and at > 0 for at in range(len(nesting))]
    return [not set(group).isdisjoint(snaked) for group in nesting]


def _interlaced(n: int, passes: int, *, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of n positions in interlaced passes, and which of them are passed on the way back."""
    parts: list[np.ndarray] = []
    turned: list[np.ndarray] = []
    for number in range(min(passes, n)):
        part = np.arange(number, n, passes)
        back = flip and number % 2 == 1
        parts.append(part[::-1] if back else part)
        turned.append(np.full(len(part), back))
    return np.concatenate(parts), np.concatenate(turned)

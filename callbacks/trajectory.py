"""The trajectory of a run: which frames are neighbours, as its settings and documents tell."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..streaming import Axis, FromPositions, HedmLiveError, InOrder, Planned, Trajectory
from ..streaming.trajectory import BEYOND, Line
from .paths import Path, path_of_documents, path_of_settings, role_of
from .pending import Pending
from .plans import motors_of
from .problems import Problems
from .roles import RoleSource
from .settings import AxisSettings, Settings

_PLACES = ("dty", "L1", "L2", "layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What the frames of one detector follow."""

    trajectory: Trajectory | FromPositions | None
    "Which frames are neighbours; None for the order of their numbers."
    path: Path | None = None
    "Where the motors are, if that is known beforehand."
    axes: tuple[Axis, ...] = ()
    "The motors, with their positions if those are known beforehand."
    step: float = 0.0
    "Usual distance of neighbouring positions of omega, degrees."
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    "What is written about it with the reduction."


class RunTrajectory:
    """Makes the trajectory of one run.

    What cannot be understood is named as a problem, once, and frames are neighbours in the order of their numbers.

    Parameters
    ----------
    settings
        Roles, recipe and `TrajectorySettings`.
    start
        The start document.
    problems
        Where to say what went wrong.
    """

    def __init__(self, settings: Settings, start: Mapping[str, Any], problems: Problems) -> None:
        self._settings = settings
        self._said = settings.trajectory
        self._start = start
        self._problems = problems
        self._configuration: dict[str, Any] = {}
        self._made: dict[int, Followed] = {}
        self._offset: float | None = None
        self._told = False

    @property
    def motors(self) -> tuple[str, ...]:
        """Scalar roles beside omega that the scan may move, as far as settings and start document tell."""
        moved = [] if self._said.source == "order" else list(self._said.axes)
        if self._said.source == "documents":
            moved += [role_of(motor, self._settings) for motor in motors_of(self._start)]
        roles = self._settings.roles
        return tuple(role for role in dict.fromkeys(moved) if role in roles and not role.startswith("omega"))

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Learn the configuration of the devices of a stream; that of the frames' own stream goes before others."""
        data = [device.get("data", {}) for device in doc.get("configuration", {}).values()]
        said = {key: value for each in data for key, value in each.items()}
        ours = doc.get("name") == self._settings.stream
        self._configuration = self._configuration | said if ours else said | self._configuration

    def follow(self, per_event: int, known: Sequence[str] = ()) -> Followed:
        """Return what the frames of a detector follow.

        Parameters
        ----------
        per_event
            Images that it takes in an event.
        known
            Roles of which something has come.
        """
        if self._said.source == "positions":
            return self._from_positions(per_event, known)
        if per_event in self._made:
            return self._made[per_event]
        try:
            path = self._path(per_event)
            if path is not None:
                self._made[per_event] = self._planned(path, per_event)
                return self._made[per_event]
        except Exception as error:
            if not self._told:
                self._told = True
                why = str(error) if isinstance(error, HedmLiveError) else f"{type(error).__name__}: {error}"
                self._problems.add("trajectory", f"{why}; frames are taken as neighbours in their order")
        first = self._said.skip_first
        pairs = self._pairs(per_event, lambda frame: frame >= first)
        record = {"source": "order", "skip_first": first, "linked": ["omega"], "links": len(pairs)}
        return Followed(trajectory=_InOrderFrom(first, pairs) if first or pairs else None, record=record)

    def omega(
        self, pending: Pending, followed: Followed, sources: Mapping[str, RoleSource], *, check: bool = True
    ) -> tuple[float, float]:
        """Return omega at the start and the end of a frame: what its event said, or else what the settings say.

        A frame that is not part of the scan, or is not where its plan put it, is named.

        Parameters
        ----------
        pending, followed
            The frame, and what it follows.
        sources
            Where each role comes from.
        check
            Whether to compare what was read with the plan; a guard may do that, and tell more.
        """
        path, frame = followed.path, pending.frame
        if path is None:
            return pending.omega
        if frame not in path:
            self._name_outside(frame, path)
        if self.source_of_omega(followed, sources) is not None:
            return path.interval(frame)
        if check:
            self._check_place(pending, path, followed.step)
        return pending.omega

    def source_of_omega(self, followed: Followed, sources: Mapping[str, RoleSource]) -> RoleSource | None:
        """Return where omega comes from if that is the settings: what events hold always goes before them."""
        read = any(role in sources and sources[role].where == "event" for role in ("omega", "omega_start"))
        if read or followed.path is None or followed.path.width is None:
            return None
        axis = self._said.axes["omega"]
        keys = [key for key in (axis.start, axis.step, axis.count) if isinstance(key, str)]
        return RoleSource(key=" ".join(keys) or "omega", where="trajectory", unit="degree", pv="")

    # Trajectories

    def _path(self, per_event: int) -> Path | None:
        if self._said.source == "settings":
            path = path_of_settings(self._settings, lambda key: self._configuration.get(key, self._start.get(key)))
        elif self._said.source == "documents":
            path = path_of_documents(self._start, self._settings, per_event)
        else:
            return None
        return None if path is None else path.after(self._said.skip_first, dropped=self._said.skipped_in_positions)

    def _planned(self, path: Path, per_event: int) -> Followed:
        axes = tuple(self._axis(role, path.positions[role]) for role in _omega_first(path.positions))
        pairs = self._pairs(per_event, path.__contains__)
        numbers = range(path.first, path.first + len(path))
        trajectory = Planned(axes, numbers=numbers, pairs=pairs)
        record = {
            "source": path.source,
            "skip_first": path.first,
            "frames": len(path),
            "relative": path.relative,
            "linked": list(trajectory.axes),
            "links": len(pairs),
            "axes": [_about(axis) for axis in axes],
        }
        return Followed(trajectory=trajectory, path=path, axes=axes, step=path.step(1e-3), record=record)

    def _from_positions(self, per_event: int, known: Sequence[str]) -> Followed:
        # A role that never comes would leave every frame without a neighbour.
        usual = ["omega"] if {"omega", "omega_start"} & set(known) else []
        roles = list(self._said.axes) or usual + [role for role in _PLACES if role in known]
        axes = tuple(self._axis(role) for role in _omega_first(roles))
        pairs = tuple(self._pairs(per_event, lambda frame: True))
        linked = [axis.name for axis in axes if axis.linked]
        record = {
            "source": "positions",
            "skip_first": 0,
            "linked": linked,
            "links": len(pairs),
            "axes": [_about(axis) for axis in axes],
        }
        return Followed(trajectory=FromPositions(axes=axes, pairs=pairs), axes=axes, record=record)

    def _axis(self, role: str, positions: np.ndarray | None = None) -> Axis:
        said, recipe = self._said.axes.get(role, AxisSettings()), self._settings.recipe
        usual = 1e-3 if role == "omega" else recipe.place_tolerance
        tolerance = usual if said.tolerance is None else said.tolerance
        turn = 360.0 if role == "omega" and recipe.wrap else 0.0
        follows_others = math.isinf(tolerance)
        return Axis(
            name=role,
            positions=np.empty(0) if positions is None else positions,
            linked=role in ("omega", "dty") and not follows_others if said.link is None else said.link,
            tolerance=tolerance,
            reach=said.reach,
            period=(turn if said.period is None else said.period) or None,
        )

    def _pairs(self, per_event: int, contains: Callable[[int], bool]) -> list[tuple[int, int]]:
        """Return the pairs of frames that the settings link, and name those that are not part of the scan."""
        found: list[tuple[int, int]] = []
        for a, b in self._said.links:
            frames = [(a * per_event + part, b * per_event + part) for part in range(per_event)]
            inside = [pair for pair in frames if all(map(contains, pair))]
            found += inside
            if not inside:
                message = f"links holds [{a}, {b}], and not both are points of the scan; this pair is left out"
                self._problems.add("trajectory", message)
        return found

    # Frames

    def _name_outside(self, frame: int, path: Path) -> None:
        if frame < path.first:
            return
        if self._problems.counts["outside-trajectory"]:
            self._problems.repeat("outside-trajectory")
            return
        last = path.first + len(path) - 1
        message = f"the trajectory ends with frame {last}; later frames are reduced, but are in no track"
        self._problems.add("outside-trajectory", message, frame)

    def _check_place(self, pending: Pending, path: Path, step: float) -> None:
        start, end = pending.omega
        away = start + path.mark * (end - start) - path.omega(pending.frame)
        if math.isnan(away):
            return
        if path.relative:
            self._offset = away if self._offset is None else self._offset
            away -= self._offset
        away -= 360.0 * round(away / 360.0)
        if abs(away) <= 0.5 * step + 1e-3:
            return
        if self._problems.counts["off-plan"]:
            self._problems.repeat("off-plan")
            return
        self._problems.add("off-plan", off_plan(f"{away:.4g}", path.source), pending.frame)


def off_plan(away: str, source: str) -> str:
    """Say that a frame is not where its plan put it, and what to do."""
    return (
        f"omega is {away} degrees away from where the {source} put this frame, more than half a step; "
        "frames are linked as planned: look at skip_first, omega_sign and the plan, or use source: positions"
    )


@dataclass(frozen=True, slots=True)
class _LineFrom:
    """A line without its frames before a number."""

    line: Line
    first: int

    @property
    def axis(self) -> int:
        return self.line.axis

    def frame(self, place: int) -> int:
        return self.line.frame(place)

    def step(self, place: int, sense: int) -> int:
        after = self.line.step(place, sense)
        return after if after >= 0 and self.line.frame(after) >= self.first else BEYOND


class _InOrderFrom(InOrder):
    """Frames in the order of their numbers, but for those before a number."""

    def __init__(self, first: int, pairs: Sequence[tuple[int, int]]) -> None:
        self._begins = first
        super().__init__(pairs=pairs)

    def contains(self, frame: int, /) -> bool:
        return frame >= self._begins

    def lines(self, frame: int) -> Sequence[tuple[Line, int]]:
        return [(_LineFrom(line, self._begins), place) for line, place in super().lines(frame)]


def _omega_first(roles: Iterable[str]) -> list[str]:
    """Return roles in the order in which the column ``axis`` of ``links`` counts them."""
    return sorted(roles, key=lambda role: role != "omega")


def _about(axis: Axis) -> dict[str, Any]:
    said = {
        "name": axis.name,
        "linked": axis.linked,
        # JSON knows no infinity.
        "tolerance": axis.tolerance if math.isfinite(axis.tolerance) else None,
        "reach": axis.reach,
        "period": axis.period,
    }
    if len(axis.positions):
        said |= {"first": float(axis.positions[0]), "last": float(axis.positions[-1])}
    return said

"""The neighbours that a trajectory has, to be looked at before a scan or after it."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import VIRTUAL, Axis, Columns, FromPositions, Planned, ReplayError, SettingsError
from .assembler import FrameAssembler
from .pending import Pending
from .problems import Problems
from .settings import Settings
from .trajectory import Followed, RunTrajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisOverview:
    """What lies along one axis."""

    name: str
    "Role of the motor, or `virtual` for the pairs of the settings."
    linked: bool = True
    "Whether peaks are linked along it."
    n_positions: int = 0
    "Different positions."
    first: float = math.nan
    "Position of the first frame."
    last: float = math.nan
    "Position of the last frame."
    step: float = math.nan
    "Usual distance of positions next to each other; NaN if there is only one."
    n_lines: int = 0
    "Lines of frames along it, rings among them."
    n_rings: int = 0
    "Those of them that go all the way round."
    n_pairs: int = 0
    "Pairs of neighbours."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbours:
    """The neighbours along each axis of a trajectory."""

    source: str
    "Where the positions come from."
    trajectory: Planned
    "Which frames are neighbours."
    axes: tuple[Axis, ...]
    "The motors with their positions."
    numbers: np.ndarray
    "Number of the frame that each position belongs to, ascending."

    def overview(self) -> list[AxisOverview]:
        """Return what lies along each axis."""
        names = self.trajectory.axes
        pairs = np.bincount(self.trajectory.neighbours()["axis"], minlength=len(names)).tolist()
        rings = self._rings()
        made: list[AxisOverview] = []
        for axis in self.axes:
            at = names.index(axis.name) if axis.linked else -1
            places = _distinct(axis)
            made.append(
                AxisOverview(
                    name=axis.name,
                    linked=axis.linked,
                    n_positions=len(places),
                    first=float(axis.positions[0]),
                    last=float(axis.positions[-1]),
                    step=float(np.median(np.diff(places))) if len(places) > 1 else math.nan,
                    n_lines=len(rings.get(at, {})),
                    n_rings=sum(rings.get(at, {}).values()),
                    n_pairs=pairs[at] if axis.linked else 0,
                )
            )
        if VIRTUAL in names:
            made.append(AxisOverview(name=VIRTUAL, n_lines=pairs[-1], n_pairs=pairs[-1]))
        return made

    def write_csv(self, path: Path) -> int:
        """Write a line for each pair of neighbours: both frames, the axis, and the positions of both; return how many.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        pairs: Columns = self.trajectory.neighbours()
        columns: dict[str, Iterable[Any]] = {name: pairs[name].tolist() for name in ("frame_a", "frame_b")}
        columns["axis"] = [self.trajectory.axes[axis] for axis in pairs["axis"].tolist()]
        for end in ("a", "b"):
            at = np.searchsorted(self.numbers, pairs[f"frame_{end}"])
            columns |= {f"{axis.name}_{end}": axis.positions[at].tolist() for axis in self.axes}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return len(pairs["axis"])

    def _rings(self) -> dict[int, dict[int, bool]]:
        """Return axis to its lines, by their identity, and whether each of them is a ring."""
        made: dict[int, dict[int, bool]] = {}
        for number in self.numbers.tolist():
            for line, _ in self.trajectory.lines(number):
                made.setdefault(line.axis, {})[id(line)] = line.step(0, -1) >= 0
        return made


def neighbours_of(settings: Settings, documents: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> Neighbours:
    """Return the neighbours of a run's first detector, or without documents those that the settings alone tell.

    No image is read. Documents are read until the first frame, or where positions come from the events, all.

    Raises
    ------
    SettingsError
        Settings and documents do not tell the positions.
    ReplayError
        There is no frame among the documents.
    """
    problems = Problems()
    if settings.trajectory.source == "settings" and not documents:
        return _neighbours(RunTrajectory(settings, {}, problems).follow(1), problems)
    iterator = iter(documents)
    name, start = next(iterator, ("nothing", {}))
    if name != "start":
        raise SettingsError(
            f"trajectory: source {settings.trajectory.source} needs the documents of a run, came {name}; give its raw "
            "archive, or axes with positions"
        )
    run, assembler = RunTrajectory(settings, start, problems), FrameAssembler(settings, start, problems)
    followed: Followed | None = None
    positions: dict[int, dict[str, float]] = {}
    try:
        for name, doc in iterator:
            if name == "descriptor":
                run.descriptor(doc)
            for pending in _frames(assembler.push(name, doc)):
                if followed is None:
                    followed = run.follow(pending.described.per_event, tuple(assembler.roles.sources))
                    if not isinstance(followed.trajectory, FromPositions):
                        return _neighbours(followed, problems)
                positions[pending.frame] = _motors(pending)
        positions |= {pending.frame: _motors(pending) for pending in _frames(assembler.flush())}
    finally:
        assembler.close()
    if followed is None or not isinstance(followed.trajectory, FromPositions):
        raise ReplayError("no frame of the first detector is among the documents")
    return _from_positions(followed.trajectory, positions)


def _frames(pending: Iterable[Pending]) -> list[Pending]:
    return [each for each in pending if not each.is_dark and each.detector == 0]


def _motors(pending: Pending) -> dict[str, float]:
    return {**pending.roles, "omega": 0.5 * (pending.omega[0] + pending.omega[1])}


def _neighbours(followed: Followed, problems: Problems) -> Neighbours:
    if not isinstance(followed.trajectory, Planned) or followed.path is None:
        why = "; ".join(problem.message for problem in problems.kept)
        raise SettingsError(why or "the plan does not tell where omega is: frames are neighbours in their order")
    path = followed.path
    return Neighbours(
        source=path.source,
        trajectory=followed.trajectory,
        axes=followed.axes,
        numbers=np.arange(path.first, path.first + len(path)),
    )


def _from_positions(trajectory: FromPositions, positions: Mapping[int, Mapping[str, float]]) -> Neighbours:
    wanted = [axis.name for axis in trajectory.axes]
    whole = {n: at for n, at in positions.items() if all(math.isfinite(at.get(name, math.nan)) for name in wanted)}
    if not whole:
        raise ReplayError(f"no event holds a position of {' and '.join(wanted) or 'any motor'}")
    numbers = sorted(whole)
    axes = tuple(
        replace(axis, positions=np.array([whole[number][axis.name] for number in numbers])) for axis in trajectory.axes
    )
    planned = trajectory.planned(positions)
    return Neighbours(source="positions", trajectory=planned, axes=axes, numbers=np.array(numbers))


def _distinct(axis: Axis) -> np.ndarray:
    """Return the different positions of an axis, ascending."""
    places = np.sort(axis.positions if axis.period is None else np.mod(axis.positions, axis.period))
    return places[np.concatenate([[True], np.diff(places) > axis.tolerance])]

"""Guards of metadata: what documents and frames say of a run is compared, and what cannot be true is named at once.

They look on, and change nothing: tables and digest are the same with them and without. What they say depends on
documents and frames alone, so that a replay says the same. State does not grow with the run.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..streaming import Batches, CompressedImage
from .guard_settings import KINDS
from .guards_base import Warned
from .guards_images import ImageGuard
from .guards_lost import LostFrames
from .guards_omega import OmegaGuard, Plan
from .guards_values import CountGuard, DistanceGuard, EnergyGuard, StaleGuard, Usual, lacking
from .paths import Path
from .pending import Pending
from .readers import Image
from .roles import RoleSource
from .settings import Settings
from .trajectory import Followed, off_plan

_LOOK_SECONDS = 0.25
"""Between two looks at the detectors' files."""
_LINES = ("dty", "L1", "L2", "layer")
"""Roles that begin another line of omega when they move, beside those of the trajectory."""

Sources = Mapping[str, RoleSource]


class Guards:
    """Watches one run; each method gives what it has just seen, one for each frame that shows it.

    Parameters
    ----------
    settings
        Everything that the settings say.
    start
        The start document.
    motors
        Scalar roles beside omega that the scan may move.
    """

    def __init__(self, settings: Settings, start: Mapping[str, Any], *, motors: tuple[str, ...] = ()) -> None:
        said = settings.guards
        self._settings = settings
        self._said = said
        self._start = start
        self._motors = tuple(dict.fromkeys((*_LINES, said.distance_stage, *motors)))
        axis = settings.trajectory.axes.get("omega")
        period = 360.0 if axis is None or axis.period is None else axis.period
        self._omega = OmegaGuard(said.omega_tolerance, period or math.inf)
        self._energy = EnergyGuard(said, drifts="energy" in motors)
        self._distance = DistanceGuard(said)
        self._stale = StaleGuard(said)
        self._monitor = Usual()
        points = start.get("num_points")
        counts = isinstance(points, int) and not isinstance(points, bool) and points > 0
        self._count = CountGuard(points if counts else None, settings.trajectory.skip_first)
        self._images = [ImageGuard(each.name, said, settings.recipe.saturation) for each in settings.detectors]
        self._files = [LostFrames(each.name, said.frame_ids) for each in settings.detectors]
        self._look_at = -math.inf
        self._point = -1
        self._places: dict[str, float] = {}
        self._plan: Plan | None = None
        self._source = ""
        self._from_events: frozenset[str] = frozenset()
        self._n_sources = -1
        self._exit_status = self._reason = ""
        # Where the sample moves across the beam, frames without a peak are no fault.
        along_beam = ("L1", "L2", said.distance_stage)
        self._leaves_beam = "dty" in settings.roles or any(role not in along_beam for role in motors)

    @property
    def enabled(self) -> bool:
        """Whether anything is watched."""
        return self._said.enabled

    # What comes

    def document(self, name: str, doc: Mapping[str, Any]) -> None:
        """Learn what a descriptor or the stop document says."""
        key = self._said.frame_period
        if name == "descriptor" and key is not None and self._stale.period is None:
            devices = [device.get("data", {}) for device in doc.get("configuration", {}).values()]
            found = next((data[key] for data in devices if key in data), self._start.get(key))
            if isinstance(found, int | float) and found > 0:
                self._stale.period = float(found)
        elif name == "stop":
            self._exit_status = str(doc.get("exit_status"))
            self._reason = str(doc.get("reason") or "no reason is given")

    def dark(self, detector: int, image: Image, frame: int | None) -> Iterator[Warned]:
        """Look at a dark; `frame` is its number in the dark stream, None for that of a file."""
        return self._wanted(self._images[detector].dark(image, frame))

    def frame(self, pending: Pending, followed: Followed, sources: Sources, *, reads_omega: bool) -> Iterator[Warned]:
        """Look at a frame before it is read; further frames of a point, of whatever detector, say nothing new.

        Parameters
        ----------
        pending
            The frame, with omega as its event says it.
        followed
            What the frames of its detector follow.
        sources
            Where each role comes from.
        reads_omega
            Whether omega was read, and not taken from the plan.
        """
        if pending.point <= self._point:
            return iter(())
        self._point = pending.point
        return self._wanted(self._of_point(pending, followed, sources, reads_omega=reads_omega))

    def announced(self, pending: Pending) -> Iterator[Warned]:
        """Note a frame whose image lies in a file."""
        return self._wanted(self._files[pending.detector].push(pending))

    def files(self, now: float = math.inf) -> Iterator[Warned]:
        """Look at what the detectors' files say of their frames, if that was not done just before `now`."""
        if now < self._look_at:
            return
        if now < math.inf:
            self._look_at = now + _LOOK_SECONDS
        for each in self._files:
            yield from self._wanted(each.look())

    def explains(self, pending: Pending) -> bool:
        """Tell whether it is said anyway why a frame's file does not hold it."""
        return "frame-lost" not in self._said.ignore and self._files[pending.detector].explains(pending)

    def reduced(self, pending: Pending, image: Image | CompressedImage, batches: Batches) -> Iterator[Warned]:
        """Look at a frame that is reduced."""
        guard = self._images[pending.detector]
        if isinstance(image, CompressedImage) and guard.wants_dense:
            image = image.dense()
        dense = image if isinstance(image, np.ndarray) else None
        monitored = not math.isnan(pending.roles.get("monitor", math.nan))
        return self._wanted(guard.reduced(pending.frame, dense, batches, beam=not monitored and not self._leaves_beam))

    def finish(
        self, came: Mapping[int, tuple[int, int]], followed: Mapping[int, Followed], *, counted: bool
    ) -> Iterator[Warned]:
        """Look at the run as a whole.

        Parameters
        ----------
        came
            Detector to how many of its frames and points came, or were announced.
        followed
            Detector to what its frames followed.
        counted
            Whether it was said already that points are lacking.
        """
        yield from self._wanted(self._named(self._omega.finish()))
        for each in self._files:
            yield from self._wanted(each.look(final=True))
        if self._exit_status == "fail":
            points = max((n_points for _, n_points in came.values()), default=0)
            text = f"the plan failed after {points} points: {self._reason:.200}"
            yield from self._wanted([Warned(kind="run-failed", text=text)])
        # A run that somebody aborted is short, and he knows.
        if counted or self._exit_status != "success":
            return
        for detector, (n_frames, n_points) in came.items():
            path = followed[detector].path if detector in followed else None
            if path is not None:
                found = lacking(path.first + len(path), n_frames, "frames")
            else:
                found = self._count.finish(n_points)
            yield from self._wanted(found)

    def _of_point(
        self, pending: Pending, followed: Followed, sources: Sources, *, reads_omega: bool
    ) -> Iterator[Warned]:
        frame, roles, path = pending.frame, pending.roles, followed.path
        omega = 0.5 * (pending.omega[0] + pending.omega[1])
        # Before omega, which asks whether its time stamp moves.
        values = {**roles, "omega": omega, "omega_start": omega}
        yield from self._stale.push(frame, pending.time, values, pending.stamps)
        yield from self._energy.push(frame, roles, lambda role: sources[role].unit if role in sources else "")
        monitor = roles.get("monitor", math.nan)
        if not math.isnan(monitor) and self._monitor.lost(monitor, self._said.lost_beam):
            text = f"the monitor is at {monitor:.6g}, and usually at {self._monitor.mean:.6g}"
            yield Warned(kind="frame-dark", text=text, frame=frame, cause="beam")
        sweeps = path is not None and frame in path
        sweeps = sweeps or (reads_omega and self._omega.on_course(pending.point, omega))
        plan = _planned(path, frame, self._distance.names)
        yield from self._distance.push(frame, roles, self._read(sources), plan, sweeps=sweeps)
        if reads_omega and not math.isnan(omega) and frame >= self._settings.trajectory.skip_first:
            yield from self._named(self._of_omega(pending, followed, omega))
        if path is None:
            yield from self._count.push(pending.point, frame, omega)

    def _of_omega(self, pending: Pending, followed: Followed, omega: float) -> list[Warned]:
        path, (start, end) = followed.path, pending.omega
        if path is None or "omega" not in path.positions:
            if self._begins_line(pending.roles):
                self._omega.begin_line()
            return self._omega.followed(pending.point, pending.frame, omega, end - start)
        if pending.frame not in path:
            return []
        self._source = path.source
        plan = self._plan = self._plan or Plan(position=path.omega, step=followed.step, relative=path.relative)
        return self._omega.planned(pending.point, pending.frame, start + path.mark * (end - start), plan)

    def _named(self, found: Iterable[Warned]) -> Iterator[Warned]:
        """Say more of what omega does: whether its time stands still too, and what a frame off its plan means."""
        for each in found:
            if each.kind == "off-plan":
                yield replace(each, text=off_plan(each.text, self._source))
            elif each.kind == "omega-stuck" and self._stale.frozen("omega"):
                yield replace(each, text=f"{each.text}, with its time stamp: the motor stands, or its PV is dead")
            else:
                yield each

    def _begins_line(self, roles: Mapping[str, float]) -> bool:
        """Tell whether a motor beside omega has moved since the point before."""
        before, self._places = self._places, {role: roles[role] for role in self._motors if role in roles}
        allowed = self._settings.recipe.place_tolerance
        return any(abs(place - before.get(role, math.nan)) > allowed for role, place in self._places.items())

    def _read(self, sources: Sources) -> frozenset[str]:
        """Return the roles that are read with every frame."""
        if len(sources) != self._n_sources:
            self._n_sources = len(sources)
            self._from_events = frozenset(role for role, source in sources.items() if source.where == "event")
        return self._from_events

    def _wanted(self, found: Iterable[Warned]) -> Iterator[Warned]:
        return (each for each in found if each.kind not in self._said.ignore)


def message(warned: Warned) -> str:
    """Return one line: the kind, what came, and what to do."""
    do = KINDS.get(warned.kind)
    return warned.text if do is None else f"{warned.kind}: {warned.text}; {do}"


def _planned(path: Path | None, frame: int, roles: Iterable[str]) -> dict[str, float]:
    """Return where the plan puts those of some roles that it moves in a frame."""
    if path is None or frame not in path:
        return {}
    return {role: float(path.positions[role][frame - path.first]) for role in roles if role in path.positions}

"""What the scans have in common: where the frames of a run lie, and the run around its sweeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import new_uid

from ..streaming.errors import SettingsError
from .darks import Darks, Plan
from .fly import PositionedFlyer
from .sweeps import PRIMARY, Collector, fly_sweep, step_sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One sweep of the rotation."""

    start: float
    "Where its first frame starts, without those that lead [degrees]."
    step: float
    "Sweep of a frame, with its sign [degrees]."
    n_frames: int
    "Frames, without those that lead and wrap."
    lead: int = 0
    "Frames before the first."
    wrap: int = 0
    "Frames behind the last."
    fly: Any | None = None
    "The fly controller, or None."
    frame_time: float | None = None
    "From pulse to pulse [s]."

    @property
    def first(self) -> float:
        """Where the first of all frames starts."""
        return self.start - self.lead * self.step

    @property
    def n(self) -> int:
        """All frames."""
        return self.lead + self.n_frames + self.wrap

    def positions(self, *, back: bool) -> list[float]:
        """Return where each frame starts: multiplied, not added up, so that the last is as exact as the first."""
        places = [self.first + i * self.step for i in range(self.n)]
        return places[::-1] if back else places

    def check(self, rotation: Any) -> None:
        """Refuse what makes no sweep."""
        if not 0 < abs(self.step) <= 360:
            raise SettingsError(
                f"step {self.step} degrees makes no scan: more than 0 and at most 360, of either sign, is wanted"
            )
        if self.n_frames < 1:
            raise SettingsError(f"{self.n_frames} points make no scan: at least 1 is wanted")
        if self.lead < 0 or self.wrap < 0:
            raise SettingsError(f"{self.lead} frames before and {self.wrap} behind a scan: at least 0 are wanted")
        if not hasattr(rotation, "step"):
            raise SettingsError(f"rotation {rotation.name!r} has no signal 'step': use RotationStage or SimRotation")
        if self.fly is not None and not (self.frame_time and self.frame_time > 0):
            raise SettingsError(
                f"frame_time is {self.frame_time!r}: a fly scan wants the time from pulse to pulse, readout included"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where sweeps are taken: motors from slow to fast, which rest in each sweep."""

    motors: tuple[Any, ...] = ()
    "They are outside of the rotation."
    ends: tuple[tuple[float, float], ...] = ()
    "First and last position of each."
    shape: tuple[int, ...] = ()
    "Positions of each."
    snake: bool = False
    "Whether every second sweep goes back."

    def places(self) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Return number and position of each motor, for one sweep after the other."""
        lines = [np.linspace(first, last, n) for (first, last), n in zip(self.ends, self.shape, strict=True)]
        return [
            (at, tuple(float(line[i]) for line, i in zip(lines, at, strict=True))) for at in np.ndindex(*self.shape)
        ]

    def move(self, places: Sequence[float]) -> Plan:
        """Move the motors there."""
        for motor, place in zip(self.motors, places, strict=True):
            yield from bps.mv(motor, place)


NO_GRID = Grid()


class Scan:
    """A scan: metadata, darks, the shutter, the baseline, and a run around the sweeps.

    Parameters
    ----------
    name, arguments
        Of the plan, for the start document.
    detectors, rotation, darks, baseline, md
        As the plans have them.
    """

    def __init__(
        self,
        name: str,
        detectors: Sequence[Any],
        rotation: Any,
        arguments: Mapping[str, Any],
        darks: Darks,
        baseline: Sequence[Any],
        md: Mapping[str, Any] | None,
    ) -> None:
        self._name = name
        self._detectors = list(detectors)
        self._rotation = rotation
        self._arguments = arguments
        self._darks = darks
        # A motor may be a part of a device that is there already.
        self._baseline = [
            device
            for at, device in enumerate(baseline)
            if not _among(device, [*baseline[:at], *baseline[at + 1 :]], at)
        ]
        self._md = dict(md or {})

    def run(self, sweep: Sweep, grid: Grid = NO_GRID, md: Mapping[str, Any] | None = None) -> Plan:
        """Take all sweeps in one run; return its uid."""
        sweep.check(self._rotation)
        metadata = self._metadata(sweep, grid) | dict(md or {}) | self._md
        make = partial(self._fly_sweeps, sweep, grid) if sweep.fly is not None else partial(self._steps, sweep, grid)
        return (yield from self._one_run(metadata, make, sweep.step))

    def runs(self, sweep: Sweep, grid: Grid) -> Plan:
        """Take each sweep in a run of its own; return their uids."""
        sweep.check(self._rotation)
        group, uids = new_uid(), list[str]()
        for number, (at, places) in enumerate(grid.places()):
            yield from grid.move(places)
            # The rotation of one run always goes there; what goes back is a scan that begins at the other end.
            each = sweep
            if grid.snake and number % 2:
                last = sweep.first + (sweep.n - 1) * sweep.step
                each = Sweep(
                    start=last + sweep.step if sweep.fly is not None else last,
                    step=-sweep.step,
                    n_frames=sweep.n,
                    fly=sweep.fly,
                    frame_time=sweep.frame_time,
                )
            md = {
                "scan_group": group,
                "grid_index": list(at),
                "grid_shape": list(grid.shape),
                "grid_motors": [motor.name for motor in grid.motors],
                "grid_positions": list(places),
            }
            uids.append((yield from self.run(each, md=md)))
        return uids

    def _one_run(self, metadata: Mapping[str, Any], sweeps: Callable[[], Plan], step: float) -> Plan:
        @bpp.baseline_decorator(self._baseline or None)
        @bpp.run_decorator(md=dict(metadata))
        def inner() -> Plan:
            yield from self._darks.around(sweeps(), self._detectors)

        # Before the run, so that the first descriptor already carries the step.
        yield from bps.mv(self._rotation.step, step)
        return (yield from bpp.finalize_wrapper(inner(), self._darks.close))

    def _steps(self, sweep: Sweep, grid: Grid) -> Plan:
        @bpp.stage_decorator([*self._detectors, self._rotation])
        def inner() -> Plan:
            for number, (_, places) in enumerate(grid.places()):
                yield from bps.checkpoint()
                yield from grid.move(places)
                positions = sweep.positions(back=grid.snake and number % 2 == 1)
                yield from step_sweep(self._detectors, self._rotation, positions, grid.motors)

        yield from inner()

    def _fly_sweeps(self, sweep: Sweep, grid: Grid) -> Plan:
        flyer = PositionedFlyer(sweep.fly, self._detectors, rotation=self._rotation, resting=grid.motors)
        collector = Collector(flyer, PRIMARY)
        for number, (_, places) in enumerate(grid.places()):
            yield from bps.checkpoint()
            yield from grid.move(places)
            back = grid.snake and number % 2 == 1
            values = {"start": sweep.first, "step": sweep.step, "n_frames": sweep.n, "back": back, "lead": sweep.lead}
            yield from fly_sweep(flyer, collector, values, sweep.frame_time or 0.0)

    def _metadata(self, sweep: Sweep, grid: Grid) -> dict[str, Any]:
        names = [detector.name for detector in self._detectors]
        motors = [*(motor.name for motor in grid.motors), self._rotation.name]
        n_points = int(np.prod((*grid.shape, sweep.n)))
        return {
            "plan_name": self._name,
            "plan_args": {"detectors": names, "rotation": self._rotation.name, **self._arguments},
            "detectors": names,
            "motors": motors,
            "num_points": n_points,
            "num_intervals": n_points - 1,
            "num_dark_frames": self._darks.before,
            "omega_step": sweep.step,
            "omega_marks": "start",
            "shape": [*grid.shape, sweep.n],
            "extents": [*map(list, grid.ends), [sweep.first, sweep.first + (sweep.n - 1) * sweep.step]],
            "snaking": [*(False for _ in grid.motors), grid.snake],
            "hints": {"dimensions": [[[motor], PRIMARY] for motor in motors]},
        }


def _among(device: Any, others: Sequence[Any], at: int) -> bool:
    """Return whether a device comes earlier among others, or is a part of one of them."""
    if any(device is other for other in others[:at]):
        return True
    parent = getattr(device, "parent", None)
    return parent is not None and any(parent is other for other in others)

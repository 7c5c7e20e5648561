"""Guards of what the events say: energy, distances, time stamps, monitor, and how many frames there are."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping

from .guard_settings import GuardSettings
from .guards_base import Warned

Roles = Mapping[str, float]

_DISTANCES = ("L1", "L2")
_CLOCK = 0.01
"""Seconds by which the clock of the documents may be set back."""
_PERIODS = 8
_USUAL = 8
"""Values after which it is known what is usual."""


class EnergyGuard:
    """Compares the energy with the edge, the set-point and the value that is wanted, and with how it began.

    Parameters
    ----------
    settings
        Energies and tolerances.
    drifts
        Whether it may change because the scan moves it.
    """

    def __init__(self, settings: GuardSettings, *, drifts: bool) -> None:
        self._settings = settings
        self._drifts = drifts
        self._wanted = settings.energies
        self._first = math.nan
        self._before: tuple[float, float] = (math.nan, math.nan)
        self._was_right = False

    def push(self, frame: int, roles: Roles, units: Callable[[str], str]) -> Iterator[Warned]:
        """Look at the energy of a frame; `units` gives the unit of a role as its document says it."""
        read, set_to = roles.get("energy", math.nan), roles.get(self._settings.energy_setpoint, math.nan)
        if math.isnan(read) or ((read, set_to) == self._before and self._was_right):
            return
        setpoint = _kev(set_to, units(self._settings.energy_setpoint))
        found = list(self._compared(frame, _kev(read, units("energy")), setpoint))
        self._before, self._was_right = (read, set_to), not found
        yield from found

    def _compared(self, frame: int, energy: float, set_to: float) -> Iterator[Warned]:
        allowed = self._settings.energy_tolerance
        wanted = self._wanted if math.isnan(set_to) else {**self._wanted, "the set-point": set_to}
        wrong = {name: value for name, value in wanted.items() if abs(energy - value) > allowed * value}
        for name, value in wrong.items():
            text = f"energy is {energy:.6g} keV, and {name} says {value:.6g}, {100 * (energy / value - 1):+.3g} %"
            yield Warned(kind="energy-mismatch", text=text, frame=frame, cause=name)
        if math.isnan(self._first):
            self._first = energy
        moved = energy / self._first - 1 if self._first else 0.0
        if not wrong and not self._drifts and math.isnan(set_to) and abs(moved) > self._settings.energy_drift:
            text = f"energy is {energy:.6g} keV, and was {self._first:.6g} at the beginning, {100 * moved:+.3g} %"
            yield Warned(kind="energy-mismatch", text=text, frame=frame, cause="drift")


class DistanceGuard:
    """Compares differences of distances: how far a stage stands from the sample is never what it reads.

    Parameters
    ----------
    settings
        Role of the stage, and tolerance.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._stage = settings.distance_stage
        self._tolerance = settings.distance_tolerance
        self._first: dict[str, tuple[float, float]] = {}
        self._last: dict[str, float] = {}
        self.names = (*_DISTANCES, self._stage)
        "Roles that are looked at."

    def push(self, frame: int, roles: Roles, read: Collection[str], plan: Roles, *, sweeps: bool) -> Iterator[Warned]:
        """Look at the distances of a frame.

        Parameters
        ----------
        frame, roles
            The frame, and its roles.
        read
            Roles that are read with every frame.
        plan
            Where the plan puts those roles in this frame that it moves.
        sweeps
            Whether omega goes on as in the frames before.
        """
        values = {name: roles[name] for name in self.names if name in read and not math.isnan(roles[name])}
        if values == self._last and not plan:
            return
        known = [abs(roles[name]) for name in self.names if not math.isnan(roles.get(name, math.nan))]
        allowed = self._tolerance or 1e-3 * max(known, default=0.0)
        for name, value in values.items():
            # Where the plan moves a distance, the stage has to move with it.
            yield from self._own(frame, name, value, plan.get(name, math.nan), allowed, sweeps=sweeps and not plan)
        if self._stage in values:
            yield from self._between(frame, values, roles, allowed)
        self._last = values

    def _own(
        self, frame: int, name: str, value: float, plan: float, allowed: float, *, sweeps: bool
    ) -> Iterator[Warned]:
        first, began = self._first.setdefault(name, (value, plan))
        if not math.isnan(plan):
            off = (value - first) - (plan - began)
            if abs(off) > allowed:
                text = f"{name} is {value:.6g}, and the plan moves it by {plan - began:.6g} from {first:.6g}"
                yield Warned(kind="distance-mismatch", text=text, frame=frame, cause=name)
            return
        moved = value - self._last.get(name, value)
        if abs(moved) > allowed and sweeps:
            text = f"{name} jumps by {moved:.6g} to {value:.6g} within a sweep of omega"
            yield Warned(kind="distance-mismatch", text=text, frame=frame, cause=name)

    def _between(self, frame: int, values: Roles, roles: Roles, allowed: float) -> Iterator[Warned]:
        """Compare how far the stage has gone with how far the distances have, or are apart."""
        stage, ends = self._stage, [roles.get(name, math.nan) for name in _DISTANCES]
        went = abs(values[stage] - self._first[stage][0])
        moving = [name for name in _DISTANCES if name in values]
        for name in moving:
            wanted = abs(values[name] - self._first[name][0])
            if abs(went - wanted) > allowed:
                text = f"{stage} has gone {went:.6g}, and {name} has gone {wanted:.6g}"
                yield Warned(kind="distance-mismatch", text=text, frame=frame, cause=f"{stage} {name}")
        apart = abs(ends[1] - ends[0])
        if not moving and apart > allowed and went > allowed:
            steps = max(1, round(went / apart))
            if abs(went - steps * apart) > allowed:
                text = f"{stage} has gone {went:.6g}, and L1 and L2 are {apart:.6g} apart"
                yield Warned(kind="distance-mismatch", text=text, frame=frame, cause="L1 L2")


class StaleGuard:
    """Looks whether time stamps and the clock of the documents move.

    Parameters
    ----------
    settings
        Roles, frames and seconds.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._last: dict[str, tuple[float, float]] = {}
        self._still: dict[str, int] = {}
        self._same: set[str] = set()
        self._time = math.nan
        self._gaps: list[float] = []
        self.period: float | None = None
        "Acquisition period that the detector says, seconds."

    def push(self, frame: int, time: float, roles: Roles, stamps: Roles) -> Iterator[Warned]:
        """Look at the time of a frame's event, and at those of its readings."""
        settings = self._settings
        for role, stamp in stamps.items():
            if stamp == 0:  # what a flyer writes that has none
                continue
            value = roles[role]
            before = self._last.get(role)
            self._last[role] = (value, stamp)
            if before is None or stamp != before[1]:
                self._still[role] = 0
                self._same.discard(role)
                continue
            self._same.add(role)
            # A motor that rests is not read anew; but what changes, or never rests, must have been.
            if role in settings.stale_roles or abs(value - before[0]) > 0:
                self._still[role] += 1
                if self._still[role] >= settings.stale_frames:
                    text = f"the time stamp of {role} stands still at {stamp:.3f} s while frames come"
                    yield Warned(kind="stale-timestamp", text=text, frame=frame, cause=role)
        if settings.stale_seconds is not None:
            yield from self._old(frame, time, stamps, settings.stale_seconds)
        if not math.isnan(time):
            yield from self._clock(frame, time)

    def _old(self, frame: int, time: float, stamps: Roles, allowed: float) -> Iterator[Warned]:
        for role, stamp in stamps.items():
            if stamp != 0 and time - stamp > allowed:
                text = f"{role} was read {time - stamp:.4g} s before its event; wanted {allowed:g} at most"
                yield Warned(kind="stale-timestamp", text=text, frame=frame, cause=f"age of {role}")

    def frozen(self, role: str) -> bool:
        """Tell whether the time stamp of a role was the same in the last two frames."""
        return role in self._same

    def _clock(self, frame: int, time: float) -> Iterator[Warned]:
        gap, self._time = time - self._time, time
        if gap < -_CLOCK:
            text = f"the event's time is {-gap:.4g} s before that of the frame before"
            yield Warned(kind="stale-timestamp", text=text, frame=frame, cause="clock")
        if self.period is None or math.isnan(gap) or len(self._gaps) >= _PERIODS:
            return
        self._gaps.append(gap)
        if len(self._gaps) == _PERIODS:
            usual = sorted(self._gaps)[_PERIODS // 2]
            if abs(usual - self.period) > self._settings.period_tolerance * self.period:
                text = f"the detector says a period of {self.period:.4g} s, and frames come every {usual:.4g} s"
                yield Warned(kind="stale-timestamp", text=text, frame=frame, cause="period")


class Usual:
    """Mean and scatter of what is usual, updated with each value (Welford 1962)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take one more value."""
        self.n += 1
        away = value - self.mean
        self.mean += away / self.n
        self._squares += away * (value - self.mean)

    @property
    def scatter(self) -> float:
        """Standard deviation of a value; 0 before there are two."""
        return math.sqrt(self._squares / (self.n - 1)) if self.n > 1 else 0.0

    def lost(self, value: float, fraction: float) -> bool:
        """Tell whether a value is hardly anything of the usual, and far outside of its scatter; else take it in."""
        if self.n >= _USUAL and self.mean > 4 * self.scatter and value < fraction * self.mean:
            return True
        self.add(value)
        return False


class CountGuard:
    """Counts the points against the plan.

    Parameters
    ----------
    points
        How many the start document says; None if it does not.
    skipped
        Further ones before them that are no fault.
    """

    def __init__(self, points: int | None, skipped: int) -> None:
        self._points = points
        self._skipped = skipped
        self._begin: list[float] = []

    def push(self, point: int, frame: int, omega: float) -> Iterator[Warned]:
        """Look whether a point is one too many; the last ones may be the first ones again, a turn later."""
        if self._points is None:
            return
        if len(self._begin) < 4:
            self._begin.append(omega)
        extra = point - self._points - self._skipped
        if extra < 0:
            return
        if extra < len(self._begin) and abs(math.remainder(omega - self._begin[extra], 360.0)) < 1e-2:
            return
        text = f"the plan has {self._points} points, and this is one more"
        yield Warned(kind="frame-count", text=text, frame=frame, cause="more")

    def finish(self, came: int) -> Iterator[Warned]:
        """Look whether any of the points did not come."""
        return iter(()) if self._points is None else lacking(self._points, came, "points")


def lacking(planned: int, came: int, what: str) -> Iterator[Warned]:
    """Compare how many came with how many were planned."""
    if came < planned:
        yield Warned(kind="frame-count", text=f"the plan has {planned} {what}, and {came} came", cause="fewer")


def _kev(value: float, unit: str) -> float:
    """Return an energy in keV; one without a unit is taken to be in keV, as the archives say."""
    return value / 1000 if unit.lower() == "ev" else value

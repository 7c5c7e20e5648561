"""The beamline behind the PVs: it makes every PV that a station needs, and what happens when they are written."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..frames import Frame, FrameSimulator
from ..station import simulated_station
from .camera import Camera, Pulse, Surroundings
from .files import ScanParameters
from .fly import FlyController
from .motors import Motor
from .pvs import AnyPv, choice, integer, number, text
from .settings import IocSettings

_FIRST_DISTANCE, _NEXT_DISTANCE = 600.0, 200.0  # mm; the first is what the frames are simulated for
_RING_CURRENT = 150.0  # mA
_MONITOR = 50_000.0  # counts


@dataclass
class Switch:
    """Takes the server off the net and brings it back; set by who runs it."""

    disconnect: Callable[[float], Coroutine[Any, Any, None]] | None = None
    "waits that many seconds in between"


class Beamline:
    """All PVs of a station, by name, and the tasks that keep them alive.

    Parameters
    ----------
    settings
        What to simulate.
    """

    def __init__(self, settings: IocSettings) -> None:
        self._settings, self._station = settings, settings.station
        sample = simulated_station("/", shape=settings.shape, n_grains=settings.n_grains, seed=settings.seed)
        self._crystal, self._energy = sample.crystal, sample.geometry.energy
        self._simulators = [self._simulator(sample.simulator, i) for i in range(len(self._station.all_detectors))]
        for simulator in self._simulators:
            simulator.frame(0.0, 1.0, 0)  # compiles: the first frame of a scan is then as fast as the others
        self._faults = self._fault_pvs()
        self.motors = self._make_motors()
        "Motors by PV."
        self._rotation = self.motors[self._station.rotation.pv]
        self._step = number(0.0, "degree")
        self._shutter = choice(self._station.shutter.values) if self._station.shutter is not None else None
        self.cameras = [self._camera(i) for i in range(len(self._simulators))]
        "The detectors."
        self._fly = self._fly_controller()
        self.switch = Switch()
        "Filled in by the server."
        self._readings = self._reading_pvs()
        self.pvs: dict[str, Any] = self._all_pvs()
        "Every PV by name."

    async def run(self, _: Any = None) -> None:
        """Give the records their values, then keep what is only read alive."""
        for motor in self.motors.values():
            await motor.begin()
        self._apply_stale(self._faults["stale"].value)
        self._apply_stuck(self._faults["stuck"].value)
        while True:
            await asyncio.sleep(self._settings.reading_period)
            await self._refresh()

    async def close(self) -> None:
        """End acquisitions and close files."""
        for camera in self.cameras:
            await camera.close()

    # What there is

    def _simulator(self, first: FrameSimulator, i: int) -> FrameSimulator:
        if i == 0:
            return first
        return FrameSimulator(first.shape, first.spots, noise=first.noise, seed=self._settings.seed + i)

    def _make_motors(self) -> dict[str, Motor]:
        station, velocity = self._station, self._settings.velocity
        motors = {station.rotation.pv: Motor(station.rotation.pv, 0.0, velocity, "degree")}
        pvs = [] if station.translation is None else list(station.translation.pvs.values())
        for i, pv in enumerate(pvs):
            motors.setdefault(pv, Motor(pv, _FIRST_DISTANCE + i * _NEXT_DISTANCE, velocity, "mm"))
        for pv in station.motors.values():
            motors.setdefault(pv, Motor(pv, 0.0, velocity, "mm"))
        return motors

    def _camera(self, i: int) -> Camera:
        simulator = self._simulators[i]

        def render(pulse: Pulse, index: int, lit: bool) -> Frame:
            # A stage that does not sweep takes a still, which no crystal is thin enough to show: as dark.
            if not lit or pulse.start == pulse.end:
                return simulator.dark_frame(index)
            return simulator.frame(pulse.start, pulse.end, index)

        def standing() -> Pulse:
            position = self._rotation.position
            return Pulse(start=position, end=position + float(self._step.value))

        around = Surroundings(
            render=render,
            standing=standing,
            lit=self._is_lit,
            stages=self._positions,
            parameters=self._parameters,
            rotation=self._station.rotation.name,
            drops=lambda frame: frame == int(self._faults["drop_frame"].value),
            file_late=lambda: float(self._faults["file_late"].value),
        )
        return Camera(
            self._station.all_detectors[i],
            self._settings.shape,
            around,
            frames_per_second=self._settings.frames_per_second,
            compress=self._settings.compress,
        )

    def _fly_controller(self) -> FlyController | None:
        fly = self._station.fly_controller
        if fly is None:
            return None
        return FlyController(fly.prefix, self._rotation, self.cameras, self._settings.frames_per_second)

    def _reading_pvs(self) -> dict[str, AnyPv]:
        station, lattice = self._station, self._crystal.lattice
        pvs: dict[str, AnyPv] = {}
        if station.energy is not None:
            pvs[station.energy.pv] = number(self._energy, station.energy.units)
            if station.energy.setpoint_pv is not None:
                pvs[station.energy.setpoint_pv] = number(self._energy, station.energy.units)
        if station.monitor is not None:
            pvs[station.monitor.pv] = number(0.0, station.monitor.units)
        if station.ring_current is not None:
            pvs[station.ring_current.pv] = number(_RING_CURRENT, station.ring_current.units)
        if station.sample is not None:
            pvs[station.sample.space_group_pv] = integer(self._crystal.space_group or 0)
            if station.sample.lattice_pv is not None:
                pvs[station.sample.lattice_pv] = number(lattice)
            else:
                pvs |= {pv: number(value) for pv, value in zip(station.sample.lattice_pvs or (), lattice, strict=True)}
        return pvs

    def _fault_pvs(self) -> dict[str, AnyPv]:
        given = self._settings.faults
        pvs: dict[str, AnyPv] = {
            "drop_frame": integer(given.drop_frame),
            "stuck": text(given.stuck),
            "stale": text(given.stale),
            "file_late": number(given.file_late, "s"),
            "disconnect": number(0.0, "s"),
        }
        pvs["stuck"].on_put = self._set_stuck
        pvs["stale"].on_put = self._set_stale
        pvs["disconnect"].on_put = self._disconnect
        return pvs

    def _all_pvs(self) -> dict[str, Any]:
        station = self._station
        pvs: dict[str, Any] = {pv: motor.record for pv, motor in self.motors.items()}
        if station.rotation.step_pv is not None:
            pvs[station.rotation.step_pv] = self._step
        if station.shutter is not None:
            pvs[station.shutter.pv] = self._shutter
            if station.shutter.status_pv is not None:
                pvs[station.shutter.status_pv] = self._status_of_shutter()
        for part in (self._readings, {} if self._fly is None else self._fly.pvs, *(each.pvs for each in self.cameras)):
            pvs |= part
        return pvs | {f"{self._settings.prefix}fault:{name}": pv for name, pv in self._faults.items()}

    def _status_of_shutter(self) -> AnyPv:
        shutter: Any = self._station.shutter
        states = shutter.states or shutter.values
        status = choice(states)

        async def follow(value: Any) -> None:
            await status.post(states[0] if value == shutter.values[0] else states[1])

        assigned: Any = self._shutter
        assigned.on_put = follow
        return status

    # What detectors ask

    def _is_lit(self) -> bool:
        return self._shutter is None or self._shutter.value == self._station.shutter.values[0]  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]

    def _positions(self) -> dict[str, float]:
        names = dict(self._station.motors)
        if self._station.translation is not None:
            names |= self._station.translation.pvs
        return {name: self.motors[pv].position for name, pv in names.items()}

    def _parameters(self) -> ScanParameters:
        return ScanParameters() if self._fly is None else self._fly.parameters(self._station.rotation.name)

    # What lives by itself

    async def _refresh(self) -> None:
        station = self._station
        lit = self._is_lit()
        for name, pv in self._readings.items():
            value = pv.value
            if station.monitor is not None and name == station.monitor.pv:
                value = _MONITOR if lit else 0.0
            elif station.ring_current is not None and name == station.ring_current.pv:
                # Top-up: 1 % of saw-tooth each minute.
                value = _RING_CURRENT * (1 - 0.01 * (time.time() % 60) / 60)
            await pv.post(np.asarray(value).tolist())

    # Faults

    async def _set_stuck(self, pv: str) -> None:
        self._apply_stuck(pv)

    async def _set_stale(self, pv: str) -> None:
        self._apply_stale(pv)

    async def _disconnect(self, seconds: float) -> float:
        if seconds > 0 and self.switch.disconnect is not None:
            await self.switch.disconnect(float(seconds))
        return 0.0

    def _apply_stuck(self, stuck: str) -> None:
        for pv, motor in self.motors.items():
            motor.stuck = pv == stuck

    def _apply_stale(self, stale: str) -> None:
        for name, motor in self.motors.items():
            motor.frozen = stale in (name, f"{name}.RBV")
        for name, pv in self._readings.items():
            pv.frozen = name == stale

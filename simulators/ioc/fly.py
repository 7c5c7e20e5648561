"""The fly controller of the soft IOC: taxi to the run-up, then scan and fire a pulse at each step."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from caproto import SkipWrite

from .camera import Camera, Pulse
from .files import ScanParameters
from .motors import Motor
from .pvs import AnyPv, EnumPv, number, words

_RUN_UP_SECONDS = 0.2
"""Time that the stage gets to reach its speed before the first pulse, and to stop after the last."""


class FlyController:
    """PVs of a PSO fly controller, and the pulses that they set off.

    Parameters
    ----------
    prefix
        Of its PVs.
    rotation
        What it turns.
    cameras
        What it fires at.
    frames_per_second
        It fires no faster.
    """

    def __init__(self, prefix: str, rotation: Motor, cameras: Sequence[Camera], frames_per_second: float) -> None:
        self._rotation, self._cameras, self._shortest = rotation, cameras, 1.0 / frames_per_second
        self._start, self._end, self._delta = (number(value, "degree") for value in (0.0, 0.0, 0.0))
        self._speed, self._time = number(1.0, "degree/s"), number(0.0, "s")
        self._taxi, self._fly = words("Done", "Done", "Taxi"), words("Done", "Done", "Fly")
        self._taxi.on_put = self._busy(self._taxi, self._drive_to_run_up)
        self._fly.on_put = self._busy(self._fly, self._scan)
        for pv in (self._delta, self._speed):
            pv.on_put = self._changed(pv)
        self._motion: asyncio.Task[None] | None = None
        named: dict[str, AnyPv] = {
            "startPos": self._start,
            "endPos": self._end,
            "scanDelta": self._delta,
            "slewSpeed": self._speed,
            "deltaTime": self._time,
            "detSetupTime": number(0.0, "s"),
            "pulseType": words("Pulse", "Pulse", "Gate"),
            "scanControl": words("Standard", "Standard", "Custom"),
            "taxi": self._taxi,
            "fly": self._fly,
        }
        self.pvs = {prefix + name: pv for name, pv in named.items()}
        "Its PVs."

    def parameters(self, stage: str) -> ScanParameters:
        """Return what it is set to."""
        return ScanParameters(
            stage=stage,
            start=self._start.value,
            end=self._end.value,
            step=self._step,
            speed=self._speed.value,
            steptime=self._time.value,
        )

    @property
    def _step(self) -> float:
        delta = abs(self._delta.value)
        return delta if self._end.value >= self._start.value else -delta

    def _changed(self, pv: AnyPv) -> Callable[[Any], Any]:
        async def on_put(value: float) -> None:
            speed, delta = (float(value if each is pv else each.value) for each in (self._speed, self._delta))
            await self._time.post(abs(delta / speed) if speed else 0.0)

        return on_put

    def _busy(self, pv: EnumPv, motion: Callable[[], Any]) -> Callable[[Any], Any]:
        """Return what a put to a busy record does: it is back to Done, and the put complete, when motion has ended."""

        async def run() -> None:
            await pv.post(pv.enum_strings[1])
            try:
                await motion()
            finally:
                await pv.post("Done")

        async def on_put(value: Any) -> None:
            if value in ("Done", 0):
                if self._motion is not None:
                    self._motion.cancel()
            else:
                self._motion = asyncio.create_task(run())
                await asyncio.wait([self._motion])
            raise SkipWrite

        return on_put

    def _run_up(self) -> float:
        way = max(abs(self._speed.value) * _RUN_UP_SECONDS, abs(self._step))
        return self._start.value - (way if self._step >= 0 else -way)

    async def _drive_to_run_up(self) -> None:
        await self._rotation.move(self._run_up())

    async def _scan(self) -> None:
        step, start = self._step, float(self._start.value)
        if not step:
            return
        if abs(self._rotation.position - self._run_up()) > abs(step):
            await self._drive_to_run_up()
        n_pulses = round(abs(self._end.value - start) / abs(step))
        rotation, loop = self._rotation, asyncio.get_running_loop()
        period = max(float(self._time.value), self._shortest)
        await rotation.starts()
        try:
            began = loop.time()
            for i in range(n_pulses):
                # The stage waits for a detector that is behind: a simulation loses nothing by itself.
                await asyncio.sleep(max(began + i * period - loop.time(), 0))
                while rotation.stuck:
                    await asyncio.sleep(self._shortest)
                await self._fire(Pulse(start=start + i * step, end=start + (i + 1) * step))
            rotation.position = start + n_pulses * step
            await rotation.read_back()
        finally:
            await rotation.ends()

    async def _fire(self, pulse: Pulse) -> None:
        self._rotation.position = pulse.start
        await self._rotation.read_back()
        for camera in self._cameras:
            if camera.armed:
                await camera.pulses.put(pulse)

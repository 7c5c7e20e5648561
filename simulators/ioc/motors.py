"""Motor records that move in time."""

import asyncio
from typing import Any

from caproto import SkipWrite
from caproto.server import PVGroup, pvproperty

_TICK = 0.02
"""Time between two readbacks of a motor that moves [s]."""


class _Record(PVGroup):
    motor = pvproperty(value=0.0, name="", record="motor", precision=6)


class Motor:
    """One motor record: what is written to it is where it goes, at its velocity.

    Parameters
    ----------
    pv
        Name of the record.
    position
        Where it is.
    velocity
        Units per second; clients may change the record's.
    units
        Of the position.
    """

    def __init__(self, pv: str, position: float, velocity: float, units: str) -> None:
        self.pv = pv
        self.record = _Record(prefix=pv).pvdb[pv]
        self._fields = self.record.field_inst
        self._fields.value_write_hook = self._written
        self._initial, self._velocity, self._units = position, velocity, units
        self.position = position
        "Where it really is, whatever the record says."
        self.stuck = False
        "The fault: it no longer moves, and says that it still does."
        self.frozen = False
        "The fault: readback and time stamp stop."
        self._lock = asyncio.Lock()
        self._motion: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Give the record its values; to be called once the server runs."""
        fields = self._fields
        await self.record.write(self._initial, verify_value=False, update_fields=False)
        await self.record.write_metadata(units=self._units)
        await fields.engineering_units.write(self._units)
        await fields.user_readback_value.write_metadata(units=self._units, precision=6)
        await fields.velocity.write(self._velocity)
        await fields.max_velocity.write(0.0)
        for low, high in (("user_low_limit", "user_high_limit"), ("dial_low_limit", "dial_high_limit")):
            await getattr(fields, low).write(0.0)
            await getattr(fields, high).write(0.0)
        await self.read_back()
        await fields.motor_is_moving.write(0)
        await fields.done_moving_to_value.write(1)

    async def move(self, target: float, velocity: float | None = None) -> None:
        """Go there; returns when it has arrived, or was stopped."""
        async with self._lock:
            await self.starts()
            loop = asyncio.get_running_loop()
            began, start = loop.time(), self.position
            speed = max(abs(velocity or self._fields.velocity.value), 1e-9)
            duration = abs(target - start) / speed
            while not self._stopped():
                part = 1.0 if duration == 0 else min((loop.time() - began) / duration, 1.0)
                if not self.stuck:
                    self.position = target if part == 1.0 else start + part * (target - start)
                    await self.read_back()
                    if part == 1.0:
                        break
                await asyncio.sleep(min(_TICK, max(duration * (1 - part), 1e-3)))
            await self.ends()

    async def starts(self) -> None:
        """Say that it moves."""
        await self._fields.stop.write(0, verify_value=False)
        await self._fields.done_moving_to_value.write(0)
        await self._fields.motor_is_moving.write(1)

    async def ends(self) -> None:
        """Say that it stands."""
        await self._fields.motor_is_moving.write(0)
        await self._fields.done_moving_to_value.write(1)

    async def read_back(self) -> None:
        """Say where it is."""
        if not self.frozen:
            await self._fields.user_readback_value.write(self.position)
            await self._fields.dial_readback_value.write(self.position)

    def _stopped(self) -> bool:
        return bool(self._fields.stop.value)

    async def _written(self, _: Any, value: float) -> None:
        # The record shows the new set-point while it goes there, as a real one.
        await self.record.write(value, verify_value=False, update_fields=False)
        # A task of its own: the motor goes on when the client that moves it is gone.
        self._motion = asyncio.create_task(self.move(float(value)))
        await asyncio.wait([self._motion])
        raise SkipWrite

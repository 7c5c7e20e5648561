"""Stages of a station. No PV and no name stands here: they come from the settings."""

from collections.abc import Mapping
from threading import Timer
from typing import Any

from ophyd import Component, Device, EpicsMotor, EpicsSignal, FormattedComponent, Signal
from ophyd.status import MoveStatus
from ophyd.status import wait as status_wait
from ophyd.utils import DisconnectedError

from ..streaming.errors import SettingsError


class Motor(EpicsMotor):
    """A motor record. A move fails when its IOC is gone for long, where ophyd's own waits for ever for its end."""

    lost_after = 10.0
    "How long its IOC may be gone during a move [s]: one that is started again tells how the move ended."

    def move(self, position: float, wait: bool = True, **kwargs: Any) -> MoveStatus:
        """Move as ophyd's motors do; the status fails with DisconnectedError when the IOC is gone for `lost_after`."""
        status: MoveStatus = super().move(position, wait=False, **kwargs)
        watch = _Watch(self, status)
        self.motor_done_move.subscribe(watch, event_type=Signal.SUB_META, run=False)
        status.add_callback(lambda _: self.motor_done_move.unsubscribe(watch))
        if wait:
            try:
                status_wait(status)
            except KeyboardInterrupt:
                self.stop()
                raise
        return status


class _Watch:
    """Ends the status of a move when the IOC has been gone for too long."""

    def __init__(self, motor: Motor, status: MoveStatus) -> None:
        self._motor, self._status = motor, status
        self._timer: Timer | None = None

    def __call__(self, *, connected: bool = True, **_: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not connected and not self._status.done:
            self._timer = Timer(self._motor.lost_after, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def _give_up(self) -> None:
        motor = self._motor
        if not self._status.done:
            error = DisconnectedError(
                f"motor {motor.name} ({motor.prefix}): its IOC is gone for {motor.lost_after:g} s in the middle of a"
                " move; look where it stands before the next scan"
            )
            self._status.set_exception(error)


class RotationStage(Motor):
    """The rotation of the sample, omega.

    An event holds the readback under the device's own name: it is the START of the interval that the frame beside it
    integrates, which ends `<name>_step` degrees later. Step and sign are configuration, so the descriptor of each
    stream carries them. The readback is recorded as it is: who needs omega right-handed about the upward axis
    multiplies by `<name>_omega_sign`.

    Parameters
    ----------
    prefix
        PV of the motor record.
    name
        Name of the device, and key of its readback.
    omega_sign
        +1 when the readback rises as the stage turns right-handed about the upward axis, else -1.
    """

    step = Component(Signal, value=0.0, kind="config", doc="sweep of one frame [degrees]; set by the plan")
    omega_sign = Component(Signal, value=1, kind="config", doc="+1: readback rises right-handed about up")

    def __init__(self, prefix: str = "", *, name: str, omega_sign: int = 1, **kwargs: Any) -> None:
        if omega_sign not in (1, -1):
            raise SettingsError(f"omega_sign of rotation {name!r} is {omega_sign}: give 1 or -1")
        super().__init__(prefix, name=name, **kwargs)
        self.omega_sign.put(omega_sign)


class SweepingRotationStage(RotationStage):
    """A rotation that a record tells how far to sweep while a frame is taken: the step is a PV.

    Parameters
    ----------
    step_pv
        PV of that record.
    """

    step = FormattedComponent(EpicsSignal, "{_step_pv}", kind="config", doc="sweep of one frame [degrees]")

    def __init__(self, prefix: str = "", *, name: str, step_pv: str, **kwargs: Any) -> None:
        self._step_pv = step_pv
        super().__init__(prefix, name=name, **kwargs)


class DetectorTranslation(Device):
    """The detector's distances from the rotation axis: keys `<name>_L1`, `<name>_L2`, ...; see `translation_class`."""


def translation_class(distances: Mapping[str, str]) -> type[DetectorTranslation]:
    """Make the class of a detector translation with a motor for each distance.

    A class a station, because ophyd takes the parts of a device when the class is made. The same PV may stand under
    several names, where a single stage visits these distances one after the other.

    Parameters
    ----------
    distances
        Name of the distance, as L1, to the PV of the motor record.
    """
    parts = {name: Component(Motor, pv) for name, pv in distances.items()}
    return type("DetectorTranslation", (DetectorTranslation,), parts)

"""Stages of a station. No PV and no name stands here: they come from the settings."""

from collections.abc import Mapping
from typing import Any

from ophyd import Component, Device, EpicsMotor, EpicsSignal, FormattedComponent, Signal

from ..streaming.errors import SettingsError


class RotationStage(EpicsMotor):
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
    parts = {name: Component(EpicsMotor, pv) for name, pv in distances.items()}
    return type("DetectorTranslation", (DetectorTranslation,), parts)

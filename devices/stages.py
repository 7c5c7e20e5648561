"""Stages and monochromator of a station. No PV and no name stands here: they come from the settings."""

from typing import Any

from ophyd import Component, Device, EpicsMotor, EpicsSignalRO, FormattedComponent, Signal

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


class DetectorTranslation(Device):
    """The detector's distances from the rotation axis: keys `<name>_L1` and `<name>_L2`.

    Parameters
    ----------
    prefix
        Put before both PVs; may be empty.
    name
        Name of the device.
    l1_pv, l2_pv
        PVs of the motor records; the same one twice where a single stage visits both distances.
    """

    L1 = FormattedComponent(EpicsMotor, "{prefix}{_l1_pv}")
    L2 = FormattedComponent(EpicsMotor, "{prefix}{_l2_pv}")

    def __init__(self, prefix: str = "", *, name: str, l1_pv: str, l2_pv: str, **kwargs: Any) -> None:
        self._l1_pv = l1_pv
        self._l2_pv = l2_pv
        super().__init__(prefix, name=name, **kwargs)


class MonochromatorEnergy(Device):
    """The photon energy as the beamline reports it, under the device's own name; never moved from here.

    Parameters
    ----------
    prefix
        PV that holds the energy.
    name
        Name of the device, and key of its reading.
    units
        Unit of that PV, since records often lack one.
    """

    readback = Component(EpicsSignalRO, "", kind="hinted")

    def __init__(self, prefix: str = "", *, name: str, units: str = "keV", **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._units = units
        self.readback.name = name

    def describe(self) -> dict[str, Any]:
        """Describe the reading, with the unit from the settings where the record has none."""
        described: Any = super().describe()
        key = described[self.readback.name]
        described[self.readback.name] = {**key, "units": key.get("units") or self._units}
        return described

"""Simulated twins of the station's devices: they answer like the real ones, at once, with exact numbers."""

from typing import Any

from ophyd import Component, Device, Kind, Signal
from ophyd.sim import SynAxis

from ..streaming.errors import SettingsError

OPEN, CLOSED = "open", "close"


class SimAxis(SynAxis):
    """A simulated motor whose readback is its setpoint, described with its unit."""

    def describe(self) -> dict[str, Any]:
        """Describe readback and setpoint, with units."""
        described: Any = super().describe()
        for key in described.values():
            key["units"] = self.egu
        return described


class SimRotation(SimAxis):
    """The twin of `RotationStage`: the readback is the START of the frame's interval, `<name>_step` its length."""

    step = Component(Signal, value=0.0, kind="config")
    omega_sign = Component(Signal, value=1, kind="config")

    def __init__(self, *, name: str, egu: str = "degrees", **kwargs: Any) -> None:
        super().__init__(name=name, egu=egu, **kwargs)


class SimTranslation(Device):
    """The twin of `DetectorTranslation`: keys `<name>_L1` and `<name>_L2` [mm].

    Moving it changes what is recorded, not the frames: those keep the geometry they were simulated with.
    """

    L1 = Component(SimAxis, egu="mm")
    L2 = Component(SimAxis, egu="mm")

    def __init__(self, prefix: str = "", *, name: str, distances: tuple[float, float], **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.L1.set(distances[0]).wait()
        self.L2.set(distances[1]).wait()


class SimEnergy(Signal):
    """The twin of `MonochromatorEnergy`: one reading, in keV, under its own name."""

    def __init__(self, *, name: str, value: float, **kwargs: Any) -> None:
        super().__init__(name=name, value=float(value), kind=Kind.hinted, **kwargs)

    def describe(self) -> dict[str, Any]:
        """Describe the reading, with its unit."""
        described: Any = super().describe()
        for key in described.values():
            key["units"] = "keV"
        return described


class SimShutter(Signal):
    """A shutter that is "open" or "close"; while it is closed, the simulated detectors take dark frames."""

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, value=OPEN, **kwargs)

    def put(self, value: str, **kwargs: Any) -> None:
        """Open or close.

        Raises
        ------
        SettingsError
            The value is neither.
        """
        if value not in (OPEN, CLOSED):
            raise SettingsError(f"shutter {self.name!r} was set to {value!r}: use {OPEN!r} or {CLOSED!r}")
        super().put(value, **kwargs)

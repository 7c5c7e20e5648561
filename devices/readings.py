"""What a station only reads: energy, monitors, ring current, and what is known of the sample. PVs from the settings."""

from collections.abc import Sequence
from typing import Any

from ophyd import Component, Device, EpicsSignalRO, FormattedComponent

LATTICE_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
"""Lattice parameters in the order of their six numbers: lengths [Angstrom], then angles [degrees]."""


class ScalarReading(Device):
    """One number that the beamline reports, under the device's own name; never written from here.

    Parameters
    ----------
    prefix
        PV that holds the number.
    name
        Name of the device, and key of its reading.
    units
        Unit of that PV, since records often lack one.
    """

    readback = Component(EpicsSignalRO, "", kind="hinted", auto_monitor=True)

    def __init__(self, prefix: str = "", *, name: str, units: str = "", **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._units = units
        self.readback.name = name

    def describe(self) -> dict[str, Any]:
        """Describe the reading, with the unit from the settings where the record has none."""
        described: Any = super().describe()
        key = described[self.readback.name]
        described[self.readback.name] = {**key, "units": key.get("units") or self._units}
        return described


class MonochromatorEnergy(ScalarReading):
    """The photon energy as the beamline reports it; never moved from here."""

    def __init__(self, prefix: str = "", *, name: str, units: str = "keV", **kwargs: Any) -> None:
        super().__init__(prefix, name=name, units=units, **kwargs)


class MonochromatorWithSetpoint(MonochromatorEnergy):
    """The same beside the energy that was asked for: `<name>_setpoint`, in the configuration."""

    setpoint = FormattedComponent(EpicsSignalRO, "{_setpoint_pv}", kind="config")

    def __init__(self, prefix: str = "", *, name: str, setpoint_pv: str, **kwargs: Any) -> None:
        self._setpoint_pv = setpoint_pv
        super().__init__(prefix, name=name, **kwargs)


class Sample(Device):
    """Lattice parameters from one waveform of six numbers, and the space group.

    Keys: `<name>_lattice_parameters` (a, b, c [Angstrom], alpha, beta, gamma [degrees]) and `<name>_space_group` (its
    number in the International Tables).

    Parameters
    ----------
    name
        Name of the device.
    lattice_pv, space_group_pv
        PVs that hold them.
    """

    lattice_parameters = FormattedComponent(EpicsSignalRO, "{_lattice_pv}", kind="normal")
    space_group = FormattedComponent(EpicsSignalRO, "{_space_group_pv}", kind="normal")

    def __init__(self, prefix: str = "", *, name: str, lattice_pv: str, space_group_pv: str, **kwargs: Any) -> None:
        self._lattice_pv = lattice_pv
        self._space_group_pv = space_group_pv
        super().__init__(prefix, name=name, **kwargs)


class SampleOfSixPvs(Device):
    """The same where each of the six lattice parameters has a PV of its own; the keys are those of `Sample`."""

    a = FormattedComponent(EpicsSignalRO, "{_pvs[0]}", kind="omitted")
    b = FormattedComponent(EpicsSignalRO, "{_pvs[1]}", kind="omitted")
    c = FormattedComponent(EpicsSignalRO, "{_pvs[2]}", kind="omitted")
    alpha = FormattedComponent(EpicsSignalRO, "{_pvs[3]}", kind="omitted")
    beta = FormattedComponent(EpicsSignalRO, "{_pvs[4]}", kind="omitted")
    gamma = FormattedComponent(EpicsSignalRO, "{_pvs[5]}", kind="omitted")
    space_group = FormattedComponent(EpicsSignalRO, "{_space_group_pv}", kind="normal")

    def __init__(
        self, prefix: str = "", *, name: str, lattice_pvs: Sequence[str], space_group_pv: str, **kwargs: Any
    ) -> None:
        self._pvs = tuple(lattice_pvs)
        self._space_group_pv = space_group_pv
        super().__init__(prefix, name=name, **kwargs)

    def read(self) -> dict[str, Any]:
        """Read the six numbers as one array, as old as the oldest of them, and the space group."""
        readings: list[Any] = [getattr(self, part).read() for part in LATTICE_NAMES]
        each = [next(iter(reading.values())) for reading in readings]
        value = [float(one["value"]) for one in each]
        lattice = {"value": value, "timestamp": min(one["timestamp"] for one in each)}
        read: Any = super().read()
        return {f"{self.name}_lattice_parameters": lattice, **read}

    def describe(self) -> dict[str, Any]:
        """Describe the array, naming all six PVs."""
        source = f"PV:{' '.join(self._pvs)}"
        key = {"source": source, "dtype": "array", "dtype_numpy": "<f8", "shape": [6], "units": "Angstrom, degree"}
        described: Any = super().describe()
        return {f"{self.name}_lattice_parameters": key, **described}

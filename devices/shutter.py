"""The beam's shutter: "open" and "close" in plans, whatever its PV takes."""

from typing import Any

from ophyd import Device, EpicsSignal, EpicsSignalRO, FormattedComponent
from ophyd.status import StatusBase, SubscriptionStatus

from ..streaming.errors import SettingsError

OPEN, CLOSE = "open", "close"

Value = str | int | float


class Shutter(Device):
    """A shutter that plans set to "open" or "close".

    Parameters
    ----------
    prefix
        PV that opens and closes it.
    name
        Name of the device; its state is read as `<name>_state`.
    status_pv
        PV that says where it is; the commanded one where there is no other.
    values
        What to write to open and to close it.
    states
        What `status_pv` reads then.
    """

    command = FormattedComponent(EpicsSignal, "{prefix}", kind="omitted")
    state = FormattedComponent(EpicsSignalRO, "{_status_pv}", kind="normal", auto_monitor=True)

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        status_pv: str | None = None,
        values: tuple[Value, Value] = (1, 0),
        states: tuple[Value, Value] | None = None,
        **kwargs: Any,
    ) -> None:
        self._status_pv = status_pv or prefix
        super().__init__(prefix, name=name, **kwargs)
        self._values = dict(zip((OPEN, CLOSE), values, strict=True))
        self._states = dict(zip((OPEN, CLOSE), states or values, strict=True))

    def set(self, value: str, *, timeout: float | None = None) -> StatusBase:
        """Open or close; done when the state says so.

        Raises
        ------
        SettingsError
            The value is neither.
        """
        if value not in self._values:
            raise SettingsError(f"shutter {self.name!r} was set to {value!r}: use {OPEN!r} or {CLOSE!r}")
        wanted = self._states[value]
        self.command.put(self._values[value])

        def there(*, value: Any, **_: Any) -> bool:
            return self._is(value, wanted)

        return SubscriptionStatus(self.state, there, run=True, timeout=timeout)

    def _is(self, value: Any, wanted: Value) -> bool:
        if isinstance(wanted, str) and not isinstance(value, str):
            names: Any = self.state.enum_strs
            return bool(names) and names[int(value)] == wanted
        return value == wanted

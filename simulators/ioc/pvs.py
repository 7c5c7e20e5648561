"""PVs of the soft IOC: values that clients write and read, with what a write sets off."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from caproto import ChannelChar, ChannelDouble, ChannelEnum, ChannelInteger, ChannelString
from ophyd import Device, EpicsSignal
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.areadetector.paths import EpicsPathSignal
from ophyd.signal import EpicsSignalBase

OnPut = Callable[[Any], Awaitable[Any]]

_TEXT_LENGTH = 512


class Pv:
    """Mixed into a channel of caproto: `on_put` is called with what a client writes, and may return another value.

    A client that asked to be told when its put is complete is told when `on_put` returns.
    """

    on_put: OnPut | None = None
    "What a put sets off."
    frozen: bool = False
    "Whether value and time stamp stop: the fault of a stale PV."

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    async def verify_value(self, data: Any) -> Any:
        """Take what a client wrote."""
        value = await super().verify_value(data)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        if self.on_put is None:
            return value
        changed = await self.on_put(value)
        return value if changed is None else changed

    async def post(self, value: Any) -> None:
        """Set the value from within: nothing is set off, and subscribers are told."""
        if not self.frozen:
            await self.write(value, verify_value=False)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


class DoublePv(Pv, ChannelDouble):
    """A number, or an array of them."""


class IntegerPv(Pv, ChannelInteger):
    """An integer."""


class EnumPv(Pv, ChannelEnum):
    """One of some words."""


class TextPv(Pv, ChannelChar):
    """A long text, as areaDetector's file names."""


class StringPv(Pv, ChannelString):
    """A text of up to 40 characters."""


AnyPv = DoublePv | IntegerPv | EnumPv | TextPv | StringPv


def number(value: float | Sequence[float], units: str = "") -> DoublePv:
    """Make a PV of one or several numbers."""
    return DoublePv(value=value, units=units, precision=6)


def integer(value: int) -> IntegerPv:
    """Make a PV of an integer."""
    return IntegerPv(value=value)


def words(value: str, *choices: str) -> EnumPv:
    """Make a PV of one of some words."""
    return EnumPv(value=value, enum_strings=choices)


def text(value: str) -> TextPv:
    """Make a PV of a long text."""
    return TextPv(value=value, max_length=_TEXT_LENGTH, string_encoding="utf-8")


def short_text(value: str) -> StringPv:
    """Make a PV of a text of up to 40 characters, as the names of ports."""
    return StringPv(value=value, string_encoding="utf-8")


def choice(values: Sequence[str | float]) -> AnyPv:
    """Make the PV of a shutter from what it takes to open and to close it; it begins closed."""
    opened, closed = values
    if isinstance(opened, str) and isinstance(closed, str):
        return words(closed, closed, opened)
    return number(float(closed))


def make_pvs(cls: type[Device], prefix: str, known: dict[str, AnyPv]) -> dict[str, AnyPv]:
    """Make every PV that the signals of an ophyd class connect to.

    Parameters
    ----------
    cls
        The class; each of its parts' names must follow from the prefix.
    prefix
        Of the device.
    known
        PVs by their suffix that have a meaning; they are what is served under it, and under it with `_RBV` too. All
        others are numbers or texts that keep what is written.
    """
    made: dict[str, AnyPv] = {}
    for signal, suffix, is_text in _signals(cls, ""):
        given = issubclass(signal, (EpicsSignalWithRBV, EpicsPathSignal))
        stem = suffix.removesuffix("_RBV")
        pv = known.get(stem)
        if pv is None:
            pv = made.get(prefix + stem)
        if pv is None:
            pv = text("") if is_text else number(0.0)
        # Set-point and readback are one channel: what is written is what is read.
        for name in (stem, f"{stem}_RBV") if given else (suffix,):
            made[prefix + name] = pv
    return made


def _signals(cls: type[Device], prefix: str) -> list[tuple[type[EpicsSignalBase], str, bool]]:
    found: list[tuple[type[EpicsSignalBase], str, bool]] = []
    for name in cls.component_names:
        part: Any = getattr(cls, name)
        suffix = prefix + (part.suffix or "")
        if issubclass(part.cls, EpicsSignalBase):
            is_text = bool(part.kwargs.get("string")) or issubclass(part.cls, EpicsPathSignal)
            found.append((part.cls, suffix, is_text))
            if issubclass(part.cls, EpicsSignal) and "write_pv" in part.kwargs:
                found.append((part.cls, prefix + part.kwargs["write_pv"], is_text))
        elif issubclass(part.cls, Device):
            found += _signals(part.cls, suffix)
    return found

"""Dark frames around a scan, in streams as bluesky-darkframes names them."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from ..streaming.errors import SettingsError

Plan = Generator[Msg, Any, Any]

DARK_STREAM = "dark"
"""Name of the stream that holds dark frames, as in bluesky-darkframes."""

DARK_AFTER_STREAM = "dark_after"
"""Name of the stream of those after the scan: no background is made of them, frames are reduced long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Darks:
    """Dark frames of a scan, and the shutter."""

    before: int = 0
    "Frames before the scan."
    after: int = 0
    "Frames after it."
    shutter: Any | None = None
    "What opens and closes; None where nobody has to."
    values: tuple[Any, Any] = ("open", "close")
    "What opens and what closes it."

    def __post_init__(self) -> None:
        """Refuse what cannot be taken."""
        if self.before < 0 or self.after < 0:
            raise SettingsError(f"{min(self.before, self.after)} dark frames make no scan: at least 0 are wanted")
        if (self.before or self.after) and self.shutter is None:
            raise SettingsError(
                f"{self.before + self.after} dark frames were asked for without a shutter: give shutter="
            )

    def around(self, plan: Plan, detectors: Sequence[Any]) -> Plan:
        """Take the dark frames of an open run, and the plan's frames between them with the shutter open."""
        if self.before:
            yield from self.close()
            yield from take_darks(detectors, self.before, DARK_STREAM)
        if self.shutter is not None:
            yield from bps.mv(self.shutter, self.values[0])
        result = yield from plan
        if self.after:
            yield from self.close()
            yield from take_darks(detectors, self.after, DARK_AFTER_STREAM)
        return result

    def close(self) -> Plan:
        """Close the shutter, if there is one."""
        if self.shutter is not None:
            yield from bps.mv(self.shutter, self.values[1])


def take_darks(detectors: Sequence[Any], n: int, stream: str) -> Plan:
    """Take frames one by one into a stream of their own."""

    # Staged on their own: their frames go to a file of their own, counted from 0. Sharing the scan's file would
    # shift the indices of the primary stream against its sequence numbers.
    @bpp.stage_decorator(list(detectors))
    def inner() -> Plan:
        for _ in range(n):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read(list(detectors), name=stream)

    yield from inner()

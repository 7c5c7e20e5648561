"""What a run is reduced with: the parts that a test, or a station with needs of its own, may put others in place of."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..streaming import Reducer
from .raw_archive import RawArchive
from .reduced_archive import ReducedArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Makers and clocks."""

    reducer: Callable[..., Reducer] = Reducer
    "Makes the reducer of a detector, as `Reducer` is made."
    raw_archive: Callable[..., RawArchive] = RawArchive
    "Makes the raw archive, as `RawArchive` is made."
    reduced_archive: Callable[..., ReducedArchive] = ReducedArchive
    "Makes the reduced archive, as `ReducedArchive` is made."
    clock: Callable[[], float] = time.monotonic
    "Gives seconds."
    sleep: Callable[[float], None] = time.sleep
    "Waits for files that lag behind."

"""Follows the files of a scan until they are finished: what has come since, and when nothing more will."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..streaming import ReplayError
from .foreign_scan import Scan, ScanLook
from .hdf5 import NotYet

Signature = tuple[tuple[str, int, int], ...]
"""Name, size and time of each file of a scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time, and how to wait; tests put their own in."""

    now: Callable[[], float] = time.monotonic
    "Gives seconds that only ever rise."
    wall: Callable[[], float] = time.time
    "Gives seconds since 1970, as files are dated."
    sleep: Callable[[float], object] = time.sleep
    "Waits."


@dataclass(slots=True)
class Following:
    """Follows a scan's files until they are finished."""

    scan: Scan
    "The files."
    clock: Clock = field(default_factory=Clock)
    "Time."
    _seen: Signature | None = None
    _since: float = 0.0

    def __call__(self, n_told: int) -> ScanLook | None:
        """Return what is there if it is more than has been told, or finished; None if it is neither yet.

        Raises
        ------
        ReplayError
            The files are broken.
        """
        came_again = self._note_changes()
        look: ScanLook | None = None
        with suppress(NotYet):
            look = self.scan.look(finished=False)
        if self._is_finished(look, came_again):
            with suppress(NotYet):
                return self._checked(self.scan.look(finished=True), n_told)
            raise ReplayError(f"{self.scan.first}: cannot be read, and has not changed for a while; is it damaged?")
        return look if look is not None and look.n_ready > n_told else None

    def _checked(self, look: ScanLook, n_told: int) -> ScanLook:
        if not look.n_frames:
            raise ReplayError(f"{self.scan.first}: holds no frames")
        if look.n_frames < n_told:
            raise ReplayError(
                f"{self.scan.first}: held {n_told} frames and holds {look.n_frames} now; was it replaced?"
            )
        return look

    def _note_changes(self) -> bool:
        """Look whether the files have changed; tell whether they are as they were the last time."""
        seen = signature(self.scan)
        if seen == self._seen:
            return True
        now = self.clock.now()
        # A file that is found with an old date has not changed since then.
        age = self.clock.wall() - max((changed for _, _, changed in seen), default=0) / 1e9
        self._since = now - max(0.0, age) if self._seen is None else now
        self._seen = seen
        return False

    def _is_finished(self, look: ScanLook | None, unchanged: bool) -> bool:
        said = self.scan.settings.finished
        if self.clock.now() - self._since >= said.stable_seconds:
            return True
        if look is None or not unchanged or not look.n_frames:
            return False
        if said.closed and all(each.state == "closed" for each in look.looks.values()):
            return True
        if any(each.last_may_be_partial for each in look.looks.values()):
            # That its last file is there does not say that it is whole.
            return False
        wanted = [each.expected or said.frames for each in look.looks.values()]
        return all(n is not None and each.n_frames >= n for n, each in zip(wanted, look.looks.values(), strict=True))


def signature(scan: Scan) -> Signature:
    """Return names, sizes and times of the files of a scan, of a series all of them."""
    found: list[tuple[str, int, int]] = []
    for path in scan.files():
        with suppress(OSError):
            stat = path.stat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(found)

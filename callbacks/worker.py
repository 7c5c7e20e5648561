"""The worker: takes documents over from the RunEngine without ever blocking or failing it, and reduces them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One document on its way to the worker."""

    name: str
    "Kind of document."
    doc: Mapping[str, Any]
    "The document."
    came: float
    "Clock when it was handed over; when it was read back, if it had to be."
    archived: Mapping[str, Any] | None = None
    "The document with `ArchivedImage` in the place of images, if it is archived."


class Backlog:
    """Documents between the RunEngine and the worker, bounded in number and bytes.

    What does not fit is not kept: the worker reads it back from the raw archive, in order, and then goes on with what
    is in memory. Without an archive to read from it is lost, and counted.

    Parameters
    ----------
    documents
        Most documents in memory.
    n_bytes
        Most bytes of arrays in memory.
    read_back
        Gives document number i as it was archived, or None if it cannot.
    clock
        Gives seconds.
    """

    def __init__(
        self,
        documents: int,
        n_bytes: int,
        read_back: Callable[[int], tuple[str, Any] | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = (documents, n_bytes)
        self._read_back = read_back
        self._clock = clock
        self._changed = threading.Condition()
        self._ring: deque[tuple[int, Item, int]] = deque()
        self._bytes = 0
        self._put = 0
        self._taken = 0
        self._closed = False
        self.n_read_back = 0
        self.n_lost = 0

    def __len__(self) -> int:
        """Return how many documents wait, in memory or not."""
        return self._put - self._taken

    def put(self, name: str, doc: Mapping[str, Any], archived: Mapping[str, Any] | None = None) -> None:
        """Hand a document over; never waits for the worker."""
        size = array_bytes(doc)
        with self._changed:
            # Once something was left out, all after it are too, until the worker has caught up: order is kept.
            behind = bool(self._ring) and self._ring[-1][0] != self._put - 1
            left_out = behind or (not self._ring and self._taken < self._put)
            if not left_out and len(self._ring) < self._limits[0] and self._bytes + size <= max(self._limits[1], size):
                item = Item(name=name, doc=doc, came=self._clock(), archived=archived)
                self._ring.append((self._put, item, size))
                self._bytes += size
            self._put += 1
            self._changed.notify()

    def close(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def get(self, timeout: float) -> Item | None:
        """Return the next document, or None if none came in time or none will come any more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._taken < self._put, timeout)
                if self._taken >= self._put:
                    return None
                index = self._taken
                self._taken += 1
                if self._ring and self._ring[0][0] == index:
                    _, item, size = self._ring.popleft()
                    self._bytes -= size
                    return item
            read = self._read_back(index)
            if read is not None:
                self.n_read_back += 1
                return Item(name=read[0], doc=read[1], came=self._clock())
            self.n_lost += 1

    @property
    def closed(self) -> bool:
        """Tell whether nothing more will come."""
        return self._closed

    @property
    def drained(self) -> bool:
        """Tell whether everything was taken and nothing more will come."""
        with self._changed:
            return self._closed and self._taken >= self._put


def array_bytes(doc: Mapping[str, Any]) -> int:
    """Return the bytes of the arrays in an event, or in the columns of a page of events."""
    data = doc.get("data")
    return sum(map(_size, data.values())) if isinstance(data, Mapping) else 0


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        # A list of numbers is as long as it says; only its rows have to be looked into.
        return 8 * len(value) if not value or not isinstance(value[0], list | np.ndarray) else sum(map(_size, value))
    return 0


class Lags:
    """How long frames took from hand-over to a stage: the newest few thousand, for percentiles."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=4096)

    def add(self, seconds: float) -> None:
        """Note one."""
        self._values.append(seconds)

    def percentile(self, percent: float) -> float:
        """Return a percentile in seconds; NaN if there is none yet."""
        values = list(self._values)
        return float(np.percentile(values, percent)) if values else float("nan")

"""New rows of a reduction while it runs: each batch of each table once, in order, from the first one on.

What is stored counts. A message of Tiled's websocket only brings rows sooner than a question would: one that is
missing, late, doubled or cut otherwise is noticed by its number, and the stored rows are asked for. Where there is no
websocket, they are asked for all the time.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..streaming import SettingsError
from .layout import SPECS

if TYPE_CHECKING:
    import pandas as pd

LIVE_TABLES = ("frames", "peaks", "links", "tracks", "members")
"""Tables that are followed if none is named."""

QUIET = 2.0
"""Seconds without a message after which the stored rows are asked for, and whether the reduction is over."""

_WAITING = 64
"""Batches that wait for a reader; then messages are left to wait in the server, and what it drops is asked for."""

_HOLD = 3 * QUIET
"""Seconds that a batch of frames waits for its peaks at most."""

_LOG = logging.getLogger("hedmlive.live")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBatch:
    """Rows that were stored together."""

    table: str
    "Name of the table."
    number: int
    "Number of the append that brought them."
    rows: pa.Table
    "The rows, in the order of the columns that identify a row."

    def __len__(self) -> int:
        return len(self.rows)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a data frame."""
        return self.rows.to_pandas()


@dataclass(frozen=True, slots=True)
class Ended:
    """A feed has nothing more to give."""

    table: str
    error: Exception | None = None


Arrival = LiveBatch | Ended


def follow(
    reduction: Any,
    tables: Sequence[str] = (),
    *,
    timeout: float | None = None,
    quiet: float = QUIET,
    stop: threading.Event | None = None,
) -> Generator[LiveBatch]:
    """Give each batch of some tables of a reduction, the stored ones first, until the reduction is over.

    A batch of frames comes after the peaks of its frames, if both are followed.

    Parameters
    ----------
    reduction
        The client of a reduction.
    tables
        Names of tables; none for `LIVE_TABLES`.
    timeout
        Seconds without anything new after which this ends with an error; None waits on.
    quiet
        Seconds without a message after which the stored rows are asked for.
    stop
        Ends it within a second when set.

    Raises
    ------
    SettingsError
        There is no such table.
    TimeoutError
        Nothing new came for so long.
    httpx.HTTPStatusError
        The server refuses: the key is not valid (any more), or the reduction was deleted.
    """
    from .live_feed import Feed, Followed  # its websocket is for those who follow only

    names = tuple(dict.fromkeys(tables)) or LIVE_TABLES
    if unknown := [name for name in names if name not in SPECS]:
        raise SettingsError(f"{reduction.name}: tables {unknown} came; wanted some of {sorted(SPECS)}")
    stop = threading.Event() if stop is None else stop
    arrived: queue.Queue[Arrival] = queue.Queue(_WAITING)
    followed = Followed(reduction)
    feeds = [Feed(followed, name, _putting(arrived, stop), stop, quiet=quiet) for name in names]
    for feed in feeds:
        feed.start()
    try:
        yield from in_step(_arrivals(arrived, stop, timeout, reduction.name), names)
    finally:
        stop.set()
        for feed in feeds:
            feed.join()


def _putting(arrived: "queue.Queue[Arrival]", stop: threading.Event) -> Callable[[Arrival], None]:
    def put(arrival: Arrival) -> None:
        while not stop.is_set():
            with suppress(queue.Full):  # the reader is slow
                arrived.put(arrival, timeout=0.2)
                return

    return put


def _arrivals(
    arrived: "queue.Queue[Arrival]", stop: threading.Event, timeout: float | None, name: str
) -> Generator[Arrival | None]:
    """Give what arrives, and None twice a second when nothing does."""
    newest = time.monotonic()
    while not stop.is_set():
        try:
            yield arrived.get(timeout=0.5)
        except queue.Empty:
            if timeout is not None and time.monotonic() > newest + timeout:
                raise TimeoutError(f"{name}: nothing new for {timeout:g} s, and it is not over") from None
            yield None
            continue
        newest = time.monotonic()


def in_step(
    arrivals: Iterable[Arrival | None],
    tables: Sequence[str],
    *,
    clock: Callable[[], float] = time.monotonic,
    hold: float = _HOLD,
) -> Generator[LiveBatch]:
    """Give batches as they arrive, those of frames when their peaks were given; end when all tables have.

    Parameters
    ----------
    arrivals
        Batches, ends, and None now and then.
    tables
        Tables that are followed.
    clock
        Time in seconds.
    hold
        Seconds that a batch of frames waits at most: a wrong count must not stop the rest.
    """
    running = set(tables)
    paired = {"frames", "peaks"} <= running
    n_peaks, wanted = 0, 0
    held: deque[tuple[int, float, LiveBatch]] = deque()
    for arrival in arrivals:
        if isinstance(arrival, Ended):
            if arrival.error is not None:
                raise arrival.error
            running.discard(arrival.table)
        elif arrival is not None and paired and arrival.table == "frames":
            wanted += sum(arrival.rows["n_peaks"].to_pylist())
            held.append((wanted, clock() + hold, arrival))
        elif arrival is not None:
            n_peaks += len(arrival) if arrival.table == "peaks" else 0
            yield arrival
        while held and (held[0][0] <= n_peaks or "peaks" not in running or clock() > held[0][1]):
            yield held.popleft()[2]
        if not running:
            return


class Follower:
    """Which rows of a table were given; of what comes it lets through what is new, or says that something is missing.

    A publisher numbers the batches of a table from 1 on and sends one only when those before it are stored. So what is
    sent again, or otherwise cut, overlaps with the newest batch alone, and its rows are all that is kept.

    Parameters
    ----------
    table
        Name of the table.
    key
        Columns that identify a row.
    column
        Column with the number of the batch.
    """

    def __init__(self, table: str, key: Sequence[str], column: str) -> None:
        self._table = table
        self._key = tuple(key)
        self._column = column
        self._newest: set[tuple[int, ...]] = set()
        self.last = 0
        "Number of the newest batch."
        self.n_rows = 0
        "Rows given."

    def take(self, rows: pa.Table) -> list[LiveBatch] | None:
        """Take the rows of a message, and return what is new of them; None if batches before it are missing."""
        if not len(rows):
            return []
        if rows[self._column][0].as_py() > self.last + 1:
            return None
        return self.fill(rows)

    def fill(self, rows: pa.Table) -> list[LiveBatch]:
        """Take stored rows of the newest batch and of those after it, whole batches, and return what is new of them."""
        found: list[LiveBatch] = []
        if not len(rows):
            return found
        rows = rows.sort_by([(name, "ascending") for name in (self._column, *self._key)])
        numbers = rows[self._column].to_numpy()
        ends = [*(numbers[1:] != numbers[:-1]).nonzero()[0] + 1, len(numbers)]
        for first, end in zip([0, *ends[:-1]], ends, strict=True):
            found += self._batch(int(numbers[first]), rows.slice(first, end - first))
        return found

    def _batch(self, number: int, rows: pa.Table) -> list[LiveBatch]:
        if number < self.last:
            return []
        rows = rows.drop_columns([self._column])
        keys = list(zip(*(rows[name].to_numpy().tolist() for name in self._key), strict=True))
        fresh = [place for place, key in enumerate(keys) if key not in self._newest]
        self._newest = {*keys, *(self._newest if number == self.last else ())}
        self.last = number
        self.n_rows += len(fresh)
        if not fresh:
            return []
        rows = rows if len(fresh) == len(keys) else rows.take(fresh)
        return [LiveBatch(table=self._table, number=number, rows=rows)]


class Subscription:
    """Calls a function with each batch of a table, from a thread of its own, until the reduction is over.

    Parameters
    ----------
    reduction
        The client of a reduction.
    table
        Name of the table.
    on_batch
        Called with each batch. What it raises ends the subscription, is logged, and raised by `wait`.
    """

    def __init__(self, reduction: Any, table: str, on_batch: Callable[[LiveBatch], object]) -> None:
        self._stopped = threading.Event()
        self._batches = follow(reduction, (table,), stop=self._stopped)
        self._on_batch = on_batch
        self.error: Exception | None = None
        "What ended it, if something did."
        self._thread = threading.Thread(target=self._run, name="hedmlive-subscription", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; return whether it is.

        Raises
        ------
        Exception
            What ended it too early.
        """
        self._thread.join(timeout)
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End it; the batch that the function is busy with is its last one."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            for batch in self._batches:
                if self._stopped.is_set():
                    break
                self._on_batch(batch)
        except Exception as error:
            _LOG.exception("a subscription ended")
            self.error = error
        finally:
            self._batches.close()

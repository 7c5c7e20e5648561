"""The publisher: sends the rows of the reduced archive on, as fast as the server takes them, each exactly once.

The archive is the queue: what the server has not taken lies there, so nothing piles up in memory and nothing is lost
when the server is slow, gone or started anew. Batches are cut by row range and numbered from 1.
"""

import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from ..streaming import ArchiveError, PublishError, SettingsError, Table
from .external import ExternalDocuments
from .problems import Problems
from .raw_archive import RawArchive
from .reduced_archive import ReducedArchive
from .settings import TiledSettings
from .worker import Lags

SINKS = "hedmlive.sinks"
"""Entry-point group of sinks; `tiled` is ours."""

_LONGEST_WAIT = 5.0


class ResultSink(Protocol):
    """Where a publisher sends things to; one object for one reduction."""

    def open_reduction(
        self,
        uid: str,
        attempt: int,
        *,
        start: Mapping[str, Any],
        metadata: Mapping[str, Any],
        tables: Mapping[str, Table],
    ) -> None:
        """Make the place of a reduction, or find it again."""
        ...

    def stored(self, table: str) -> tuple[int, int]:
        """Return the number of the last batch and of the rows that are stored."""
        ...

    def append(self, table: str, batch: int, columns: Mapping[str, np.ndarray]) -> None:
        """Append a batch; a second time does nothing. Raises PublishError when it is refused for good."""
        ...

    def update(self, metadata: Mapping[str, Any]) -> None:
        """Say more of a reduction that goes on."""
        ...

    def close_reduction(self, metadata: Mapping[str, Any]) -> None:
        """Say that the reduction is over, and how."""
        ...

    def raw_document(self, name: str, doc: dict[str, Any]) -> str | None:
        """Publish a document of the run itself; return why the frames that it names are left out, if they are."""
        ...

    def raw_reset(self, uid: str) -> None:
        """Remove what there is of the run itself, so that all its documents can be sent anew."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def make_sink(name: str, uri: str, api_key: str | None) -> ResultSink:
    """Return a sink by the name of its entry point.

    Raises
    ------
    SettingsError
        No package offers it.
    OSError
        Nobody listens there.
    """
    maker = _sink_maker(name)
    _probe(uri)
    return maker(uri, api_key=api_key)


def _probe(uri: str) -> None:
    """See whether anybody listens: Tiled's client would try for 45 s, and meanwhile cannot be stopped."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.hostname:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname, port), timeout=2).close()


def preload_sink(name: str) -> None:
    """Import what a sink needs: seconds that the first run should not wait for.

    Raises
    ------
    SettingsError
        No package offers it.
    """
    preload = getattr(_sink_maker(name), "preload", None)
    if preload is not None:
        preload()


def _sink_maker(name: str) -> Any:
    found = [point for point in entry_points(group=SINKS) if point.name == name]
    if not found:
        raise SettingsError(f"no sink {name!r} is installed; install hedmlive as a package, so that it is found")
    return found[0].load()


class Publisher:
    """Publishes the reductions of one run from a thread of its own.

    Parameters
    ----------
    make
        Makes the sink of one reduction; may fail as long as the server is away.
    archive
        The reduced archive.
    run_uid
        uid of the run.
    start
        The start document.
    settings
        Latency and size of batches.
    problems
        Where to say what went wrong.
    raw
        The raw archive, to publish the run itself; None to publish the reductions only.
    """

    def __init__(
        self,
        make: Callable[[], ResultSink],
        archive: ReducedArchive,
        run_uid: str,
        start: Mapping[str, Any],
        settings: TiledSettings,
        problems: Problems,
        *,
        raw: RawArchive | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._archive = archive
        self._run_uid = run_uid
        self._start = start
        self._settings = settings
        self._problems = problems
        self._raw = _RawPublisher(raw, run_uid) if raw is not None and settings.raw else None
        self._clock = clock
        self._wake = threading.Event()
        self._final: Mapping[str, Any] | None = None
        self._gave_up = threading.Event()
        self._sinks: dict[int, ResultSink] = {}
        self._sent: dict[tuple[int, str], tuple[int, int]] = {}
        self._n_noted: dict[int, int] = {}
        self._pending_lags: list[tuple[int, float]] = []
        self.lag = Lags()
        self.n_rows = 0
        self.connected = False
        self._thread = threading.Thread(target=self._run, name=f"hedmlive-publish-{run_uid[:8]}", daemon=True)
        self._thread.start()

    def reduced(self, n_frames: int, came: float) -> None:
        """Note when the document of frame number n was handed over, to measure the lag to published."""
        self._pending_lags.append((n_frames, came))

    def finish(self, final: Mapping[str, Any]) -> None:
        """Say that the archive is finished; `final` is written with every reduction."""
        self._final = final
        self._wake.set()

    def wait(self, timeout: float | None) -> bool:
        """Wait until everything is published; return whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Stop trying; what is not published stays in the archives."""
        self._gave_up.set()
        self._wake.set()
        self._thread.join(10)

    def _run(self) -> None:
        wait = self._settings.latency
        while not self._gave_up.is_set():
            # Read before publishing: rows that come while we publish are left to the next round.
            final = self._final
            try:
                self._publish()
                if final is not None:
                    self._close(final)
                    break
                wait = self._settings.latency
            except (PublishError, ArchiveError) as error:
                self._problems.add("publish", f"{error}; what is not published stays in the archives")
                break
            except Exception as error:
                # A new client next time: one that saw a broken connection may keep it.
                self._drop_sinks()
                if not self._problems.counts["publish-waits"]:
                    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                    self._problems.add("publish-waits", f"the Tiled server does not answer ({why}); trying on")
                wait = min(2 * wait, _LONGEST_WAIT)
            self._wake.wait(wait)
            if not self._gave_up.is_set() and self._final is None:
                self._wake.clear()
        self._drop_sinks()
        self._archive.release()
        if self._raw is not None:
            self._raw.release()

    def _drop_sinks(self) -> None:
        for sink in self._sinks.values():
            sink.close()
        self._sinks.clear()
        self.connected = False

    def _publish(self) -> None:
        for attempt in self._archive.attempts:
            sink = self._sink(attempt)
            self._note_warnings(sink, attempt)
            # Frames last: who sees a frame finds its peaks; tracks first of all, they are what is waited for.
            for table in ("tracks", "members", "peaks", "links", "frames"):
                self._send(sink, attempt, table)
        if self._raw is not None:
            self._send_raw(self._raw)

    def _send_raw(self, raw: "_RawPublisher") -> None:
        # A slice at a time while the run goes on: a document costs the server ten times what a batch of rows does.
        until = math.inf if self._final is not None else self._clock() + self._settings.latency
        n_said = len(raw.left_out)
        try:
            raw.send(next(iter(self._sinks.values())), lambda: self._clock() > until or self._gave_up.is_set())
        except PublishError as error:
            self._raw = None
            self._problems.add("publish-raw", f"{error}; the run itself is not published, its reduction is")
        for why in raw.left_out[n_said:]:
            self._problems.add("publish-raw", f"{why}; they stay in their files, all else of the run is published")

    def _sink(self, attempt: int) -> ResultSink:
        if attempt not in self._sinks:
            # Kept from the first on, so that it is closed if what follows fails.
            sink = self._sinks[attempt] = self._make()
            # Running until the last row is there, though the archive may be finished since long.
            metadata = {**self._archive.attributes(attempt), "status": "running", "attempt": attempt}
            tables = {name: table for name, table in self._archive.tables.items() if name != "pixels"}
            sink.open_reduction(self._run_uid, attempt, start=self._start, metadata=metadata, tables=tables)
            for table in tables:
                self._sent[attempt, table] = sink.stored(table)
            self.connected = True
        return self._sinks[attempt]

    def _send(self, sink: ResultSink, attempt: int, table: str) -> None:
        batch, first = self._sent[attempt, table]
        n_rows = self._archive.rows(attempt, table)
        while first < n_rows and not self._gave_up.is_set():
            end = min(first + self._settings.rows, n_rows)
            sink.append(table, batch + 1, self._archive.read(attempt, table, first, end))
            self.n_rows += end - first
            batch, first = batch + 1, end
            self._sent[attempt, table] = (batch, first)
        if table == "frames":
            self._note_lags(first)

    def _note_warnings(self, sink: ResultSink, attempt: int) -> None:
        """Publish what was said since; how often it came is known when the run is over."""
        n_kept = len(self._problems.kept)
        if n_kept > self._n_noted.get(attempt, 0):
            guards = [problem.as_dict() for problem in self._problems.warnings]
            sink.update({"warnings": self._problems.lines(), "guards": guards})
            self._n_noted[attempt] = n_kept

    def _note_lags(self, n_frames: int) -> None:
        now = self._clock()
        while self._pending_lags and self._pending_lags[0][0] <= n_frames:
            self.lag.add(now - self._pending_lags.pop(0)[1])

    def _close(self, final: Mapping[str, Any]) -> None:
        for attempt in self._archive.attempts:
            self._sink(attempt).close_reduction({**final, **self._archive.attributes(attempt)})


class _RawPublisher:
    """Sends the documents of the run itself, as far as the raw archive has flushed them."""

    def __init__(self, raw: RawArchive, run_uid: str) -> None:
        self._archive = raw
        self._uid = run_uid
        self._sink: ResultSink | None = None
        self._next = 0
        self._external: ExternalDocuments | None = None
        self.left_out: list[str] = []
        "What the server cannot serve of the run's frames, and why."

    def release(self) -> None:
        """Close what was opened of the finished archive."""
        self._archive.release()

    def send(self, sink: ResultSink, enough: Callable[[], bool]) -> None:
        """Send what is new; to a new client everything anew, because what it has of the run is not known."""
        if sink is not self._sink:
            if self._next:
                sink.raw_reset(self._uid)
            self._sink, self._next, self._external = sink, 0, None
        if self._external is None:
            self._external = ExternalDocuments(self._archive.path, self._archive.copied, self._archive.image_keys)
        while self._next < self._archive.n_flushed and not enough():
            name, doc = self._archive.document(self._next)
            self._next += 1
            for each, made in self._external.push(name, doc):
                why = sink.raw_document(each, made)
                if why is not None and why not in self.left_out:
                    self.left_out.append(why)

"""The publisher: sends the rows of the reduced archive on, as fast as the server takes them, each exactly once.

The archive is the queue: what the server has not taken lies there, so nothing piles up in memory and nothing is lost
when the server is slow, gone or started anew; what was written last comes from memory. Batches are cut by row range and
numbered from 1.

A publisher that has sent what there is says that it is hungry: then the archive is flushed with the next frame, and
what that brings is sent at once, so that a row waits for the server only. Without that it looks every `latency`. The
documents of the run itself are sent from another thread: one costs the server more than a batch of rows does, and
nobody looks at them live.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..streaming import ArchiveError, BatchTooLarge, Columns, PublishError
from .problems import Problems
from .raw_archive import RawArchive
from .raw_publisher import LONGEST_WAIT, RawPublisher
from .reduced_archive import ReducedArchive
from .settings import TiledSettings
from .sinks import ResultSink, why
from .worker import Lags

_PROGRESS_EVERY = 2.0  # s: it costs the server as much as a batch

_ORDER = ("tracks", "members", "peaks", "links", "frames")
"""Tracks first of all, they are what is waited for; frames last: who sees a frame finds its peaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishState:
    """How far publishing is, at one moment."""

    state: Literal["connecting", "publishing", "waiting", "done", "ended"]
    "`waiting` for a server that does not answer; `ended` too early, with the rest in the archives."
    n_rows: int
    "Rows that were sent."
    n_waiting: int
    "Rows in the archive that the server has not taken yet."
    behind: float
    "Seconds that the oldest frame waits that was reduced and is not published."
    lag: Lags
    "From hand-over of a frame to published, s."
    error: str
    "What the server answered, or did not, the last time that something failed; empty if nothing did."


class Publisher:
    """Publishes the reductions of one run from threads of its own.

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
    progress
        Says how far the run is, for who watches it; published every two seconds.
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
        progress: Callable[[], Mapping[str, Any]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._archive = archive
        self._run_uid = run_uid
        self._start = start
        self._settings = settings
        self._problems = problems
        self._progress = progress
        self._clock = clock
        self._wake = threading.Event()
        self._fed = threading.Event()
        self.hungry = False
        "Whether all that was flushed is sent, so that more could be."
        self._final: Mapping[str, Any] | None = None
        self._gave_up = threading.Event()
        self._sinks: dict[int, ResultSink] = {}
        self._sent: dict[tuple[int, str], tuple[int, int]] = {}
        self._rows = settings.rows
        self._n_noted: dict[int, int] = {}
        self._said: dict[int, Mapping[str, Any]] = {}
        self._say_at = 0.0
        self._waiting: dict[int, deque[tuple[int, float]]] = {}
        self._n_reduced: dict[int, int] = {}
        self._state: Literal["connecting", "publishing", "waiting", "done", "ended"] = "connecting"
        self._error = ""
        self.lag = Lags()
        self.n_rows = 0
        name = run_uid[:8]
        self._raw = RawPublisher(make, raw, run_uid, settings, problems) if raw is not None and settings.raw else None
        self._thread = threading.Thread(target=self._run, name=f"hedmlive-publish-{name}", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the server took what was sent last."""
        return self._state in ("publishing", "done")

    @property
    def state(self) -> PublishState:
        """How far it is; the archive is asked, so that this is not for every frame."""
        over = self._state == "done"
        sent = {name: rows for name, (_, rows) in dict(self._sent).items()}
        attempts = () if over else self._archive.attempts
        there = {(each, table): self._archive.rows(each, table) for each in attempts for table in _ORDER}
        if not self._thread.is_alive():
            self._archive.release()
        oldest = [times[0][1] for times in self._waiting.values() if times]
        return PublishState(
            state=self._state,
            n_rows=self.n_rows,
            n_waiting=sum(n - sent.get(name, 0) for name, n in there.items()),
            behind=max(0.0, self._clock() - min(oldest)) if oldest and not over else 0.0,
            lag=self.lag,
            error=self._error,
        )

    def reduced(self, detector: int, came: float) -> None:
        """Note when the document of a frame was handed over, to measure the lag to published.

        Parameters
        ----------
        detector
            Number of the detector. Its frames are noted in the order of the table.
        came
            When it came, by the clock.
        """
        number = self._n_reduced.get(detector, 0) + 1
        self._n_reduced[detector] = number
        self._waiting.setdefault(detector, deque()).append((number, came))

    def feed(self) -> None:
        """Say that there are new rows in the archive."""
        self._fed.set()

    def finish(self, final: Mapping[str, Any]) -> None:
        """Say that the archive is finished; `final` is written with every reduction."""
        self._final = final
        self._wake.set()
        self._fed.set()
        if self._raw is not None:
            self._raw.finish()

    def wait(self, timeout: float | None) -> bool:
        """Wait until everything is published; return whether it is."""
        began = time.monotonic()
        self._thread.join(timeout)
        if self._raw is not None:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            self._raw.thread.join(left)
        return not self._thread.is_alive() and (self._raw is None or not self._raw.thread.is_alive())

    def give_up(self) -> None:
        """Stop trying; what is not published stays in the archives."""
        self._gave_up.set()
        self._wake.set()
        self._fed.set()
        if self._raw is not None:
            self._raw.give_up()
        self._thread.join(10)

    def _run(self) -> None:
        wait = self._settings.latency
        while not self._gave_up.is_set():
            # Read before publishing: rows that come while we publish are left to the next round.
            final = self._final
            began = self._clock()
            try:
                self._publish()
                if final is not None:
                    self._close(final)
                    self._state = "done"
                    break
                self._state = "publishing"
                # A slow server has a fifth of its time to itself.
                self._pause(max((self._clock() - began) / 4, 0.005))
                self._await_rows()
                wait = self._settings.latency
                continue
            except BatchTooLarge as error:
                if self._rows == 1:
                    self._end(error)
                    break
                self._rows //= 2
                continue
            except (PublishError, ArchiveError) as error:
                self._end(error)
                break
            except Exception as error:
                self._fail(error)
                wait = min(2 * max(wait, self._settings.latency), LONGEST_WAIT)
            self._pause(wait)
        if self._state != "done":
            self._state = "ended"
        self._drop_sinks()
        self._archive.release()

    def _pause(self, seconds: float) -> None:
        """Wait, unless the end is near."""
        self._wake.wait(seconds)
        if not self._gave_up.is_set() and self._final is None:
            self._wake.clear()

    def _await_rows(self) -> None:
        self.hungry = True
        self._fed.wait(self._settings.latency)
        self.hungry = False
        # Before they are looked for: what is said from now on is for the next time.
        self._fed.clear()

    def _end(self, error: Exception) -> None:
        self._error = str(error)
        self._problems.add("publish", f"{error}; what is not published stays in the archives")

    def _fail(self, error: Exception) -> None:
        # A new client next time: one that saw a broken connection may keep it.
        self._drop_sinks()
        self._state = "waiting"
        self._error = why(error)
        if not self._problems.counts["publish-waits"]:
            self._problems.add("publish-waits", f"the Tiled server does not answer ({self._error}); trying on")

    def _drop_sinks(self) -> None:
        for sink in self._sinks.values():
            sink.close()
        self._sinks.clear()

    def _publish(self) -> None:
        for number, attempt in enumerate(self._archive.attempts):
            sink = self._sink(attempt)
            self._note_warnings(sink, attempt)
            self._send(sink, attempt)
            self._note_lags(number, self._sent[attempt, "frames"][1])
        if self._clock() >= self._say_at:
            self._say_progress()
            self._say_at = self._clock() + _PROGRESS_EVERY

    def _sink(self, attempt: int) -> ResultSink:
        if attempt not in self._sinks:
            sink = self._make()
            try:
                # Running until the last row is there, though the archive may be finished since long.
                metadata = {**self._archive.attributes(attempt), "status": "running", "attempt": attempt}
                tables = {name: table for name, table in self._archive.tables.items() if name != "pixels"}
                sink.open_reduction(self._run_uid, attempt, start=self._start, metadata=metadata, tables=tables)
                self._sent |= {(attempt, table): sink.stored(table) for table in tables}
            except BaseException:
                sink.close()
                raise
            self._sinks[attempt] = sink
        return self._sinks[attempt]

    def _send(self, sink: ResultSink, attempt: int) -> None:
        """Send the rows that are there now."""
        # Those of frames are counted first, so that what belongs to them is there.
        n_rows = {table: self._archive.rows(attempt, table) for table in reversed(_ORDER)}
        while not self._gave_up.is_set():
            ends: dict[str, int] = {}
            for table in _ORDER:
                first = self._sent[attempt, table][1]
                end = min(first + self._rows, n_rows[table])
                left = table == "frames" and any(end < n_rows[name] for name, end in ends.items())
                if first < end and not left:
                    ends[table] = end
            if not ends:
                return
            self._send_batches(sink, attempt, ends)

    def _send_batches(self, sink: ResultSink, attempt: int, ends: Mapping[str, int]) -> None:
        batches: dict[str, tuple[int, Columns]] = {}
        for table, end in ends.items():
            batch, first = self._sent[attempt, table]
            batches[table] = (batch + 1, self._archive.read(attempt, table, first, end))
        sink.append_all(batches)
        for table, end in ends.items():
            batch, first = self._sent[attempt, table]
            self.n_rows += end - first
            self._sent[attempt, table] = (batch + 1, end)

    def _note_warnings(self, sink: ResultSink, attempt: int) -> None:
        """Publish what was said since; how often it came is known when the run is over."""
        n_kept = len(self._problems.kept)
        if n_kept > self._n_noted.get(attempt, 0):
            guards = [problem.as_dict() for problem in self._problems.warnings]
            sink.update({"warnings": self._problems.lines(), "guards": guards})
            self._n_noted[attempt] = n_kept

    def _say_progress(self) -> None:
        said = self._progress()
        for attempt, sink in self._sinks.items():
            if said and said != self._said.get(attempt):
                sink.update({"progress": said})
                self._said[attempt] = said

    def _note_lags(self, detector: int, n_frames: int) -> None:
        now, waiting = self._clock(), self._waiting.get(detector, deque())
        while waiting and waiting[0][0] <= n_frames:
            self.lag.add(now - waiting.popleft()[1])

    def _close(self, final: Mapping[str, Any]) -> None:
        progress = self._progress()
        said = {**final, "progress": progress} if progress else final
        for attempt in self._archive.attempts:
            sink = self._sink(attempt)
            self._send_projection(sink, attempt)
            sink.close_reduction({**said, **self._archive.attributes(attempt)})

    def _send_projection(self, sink: ResultSink, attempt: int) -> None:
        image = self._archive.projection(attempt)
        if image is None:
            return
        try:
            sink.put_projection(image)
        except PublishError as error:
            # A picture: the reduction is published without it.
            self._problems.add("publish", f"{error}; the maximum projection stays in the archive")

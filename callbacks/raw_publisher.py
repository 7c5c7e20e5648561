"""The publisher of the run itself: sends its documents on, from a thread of its own."""

import math
import threading
import time
from collections.abc import Callable

from ..streaming import PublishError
from .external import ExternalDocuments
from .problems import Problems
from .raw_archive import RawArchive
from .settings import TiledSettings
from .sinks import ResultSink, why

LONGEST_WAIT = 5.0  # s between two attempts to reach a server that is away


class RawPublisher:
    """Sends the documents of the run itself, as far as the raw archive has flushed them, from a thread of its own."""

    def __init__(
        self,
        make: Callable[[], ResultSink],
        raw: RawArchive,
        run_uid: str,
        settings: TiledSettings,
        problems: Problems,
    ) -> None:
        self._make = make
        self._archive = raw
        self._uid = run_uid
        self._slice = settings.latency
        self._problems = problems
        self._sink: ResultSink | None = None
        self._begun = False
        self._next = 0
        self._external: ExternalDocuments | None = None
        self._left_out: set[str] = set()
        self._wake = threading.Event()
        self._last = False
        self._gave_up = False
        self.thread = threading.Thread(target=self._run, name=f"hedmlive-publish-raw-{run_uid[:8]}", daemon=True)
        self.thread.start()

    def finish(self) -> None:
        """Say that no document follows."""
        self._last = True
        self._wake.set()

    def give_up(self) -> None:
        """Stop trying."""
        self._gave_up = True
        self._wake.set()
        self.thread.join(10)

    def _run(self) -> None:
        wait = self._slice
        while not self._gave_up:
            last = self._last
            try:
                # Half of the time at most while the run goes on, so that the server has time for rows.
                self._send(math.inf if last else time.monotonic() + self._slice)
                if last:
                    break
                wait = self._slice
            except PublishError as error:
                self._problems.add("publish-raw", f"{error}; the run itself is not published, its reduction is")
                break
            except Exception as error:
                self._drop_sink()
                if not self._problems.counts["publish-waits"]:
                    self._problems.add("publish-waits", f"the Tiled server does not answer ({why(error)}); trying on")
                wait = min(2 * wait, LONGEST_WAIT)
            self._wake.wait(wait)
            if not self._gave_up and not self._last:
                self._wake.clear()
        self._drop_sink()
        self._archive.release()

    def _drop_sink(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._sink = None

    def _send(self, until: float) -> None:
        """Send what is new as long as there is time.

        To a new client everything is sent anew, because what the server has of the run is not known.
        """
        if self._archive.n_flushed == self._next and self._sink is not None:
            return
        if self._sink is None:
            self._sink = self._make()
            if self._begun:
                self._sink.raw_reset(self._uid)
            self._next, self._external = 0, None
        if self._external is None:
            self._external = ExternalDocuments(self._archive.path, self._archive.copied, self._archive.image_keys)
        while self._next < self._archive.n_flushed and not self._gave_up and time.monotonic() < until:
            name, doc = self._archive.document(self._next)
            self._next += 1
            for each, made in self._external.push(name, doc):
                self._begun = True
                why = self._sink.raw_document(each, made)
                if why is not None and why not in self._left_out:
                    self._left_out.add(why)
                    self._problems.add(
                        "publish-raw", f"{why}; they stay in their files, all else of the run is published"
                    )

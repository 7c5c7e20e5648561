"""The callback: subscribe it to a RunEngine, and every HEDM run is archived, reduced and published while it runs."""

import atexit
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import ArchiveError, DocumentError, Reducer, SettingsError
from .detector import DetectorReduction
from .parts import Parts
from .problems import Problem, Problems, logger
from .progress import Progress, RunResult
from .publisher import Publisher, PublishState
from .raw_archive import RawArchive
from .router import Router
from .run import RunReduction
from .seeds import read_far_fields
from .settings import BLOCK, Settings, load_settings
from .sinks import ResultSink, make_sink, preload_sink
from .worker import Backlog

SinkMaker = Callable[[], ResultSink]
Told = Callable[[Problem], object]

_KEPT_RUNS = 16


class HedmLive:
    """Archives, reduces and publishes the HEDM runs among the documents that it is called with.

    A call costs a hand-over, and for images that come inside events their writing to the raw archive. It raises only
    when the raw archive cannot be written and `ArchiveSettings.critical` says that this stops the plan. A run is ours
    when its stream of frames has the data key of a configured detector; others cost nothing.

    A script should end with `wait`; a session that ends without is reduced to its end all the same, if it lasted longer
    than the few seconds that `ready` waits for.

    Parameters
    ----------
    settings
        Settings, a mapping, or the path of a YAML file.
    sink
        Makes what results are published to; by default a Tiled client when the settings name a server.
    parts
        What runs are reduced with.

    Raises
    ------
    SettingsError
        The settings are wrong.
    """

    def __init__(
        self,
        settings: Settings | Mapping[str, Any] | str | Path,
        *,
        sink: SinkMaker | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.settings = load_settings(settings)
        if self.settings.recipe.fit != "none":
            raise SettingsError(
                f"recipe: fit is {self.settings.recipe.fit!r}, which would hold up a live run; leave it out here, and "
                "give it to `hedmlive replay`"
            )
        self.problems = Problems()
        self.results: dict[str, RunResult] = {}
        self._sink = sink if sink is not None or self.settings.tiled is None else _tiled_sink(self.settings)
        self._runs: dict[str, _LiveRun] = {}
        self._told: list[Told] = []
        self._parts = parts or Parts()
        self._router = Router(self.settings, self._accept, self.problems)
        for number in range(len(self.settings.detectors)):
            # A dark or a mask that cannot be read must be known before the scan.
            DetectorReduction(self.settings, number)
        # And so must a far-field result.
        read_far_fields(self.settings.hedm)
        # The second is for processes that `multiprocessing` started, which know no atexit: a queue server's worker is
        # one. The first comes before what was imported earlier is tidied up, of which `multiprocessing` is a part.
        atexit.register(self.close)
        self._at_exit = Finalize(None, self.close, exitpriority=10)
        self._warming = threading.Thread(target=_warm, args=(self.settings,), name="hedmlive-warm", daemon=True)
        self._warming.start()

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of any run.

        Raises
        ------
        ArchiveError
            A critical raw archive cannot be written.
        """
        try:
            self._router(name, doc)
        except ArchiveError:
            raise
        except Exception as error:
            # Whatever a document holds, the plan goes on.
            why = f"{type(error).__name__}: {error}"
            self.problems.add("document", f"a {name} document is malformed ({why}); it is left out")

    @property
    def receiver(self) -> "HedmLive":
        """The function to subscribe, under the name that apstools' file writers use."""
        return self

    @property
    def uids(self) -> tuple[str, ...]:
        """Uids of our runs, oldest first."""
        return tuple(self._runs)

    def progress(self, uid: str | None = None) -> Progress:
        """Return how far a run is; the newest by default."""
        if not self._runs:
            return Progress()
        return self._runs[uid or next(reversed(self._runs))].progress

    def publisher(self, uid: str | None = None) -> Publisher | None:
        """Return the publisher of a run, the newest by default."""
        return self._runs[uid or next(reversed(self._runs))].publisher if self._runs else None

    def published(self, uid: str | None = None) -> PublishState | None:
        """Return how far publishing is of a run, the newest by default; None if it is not published."""
        publisher = self.publisher(uid)
        return None if publisher is None else publisher.state

    def on_warning(self, callback: Told) -> None:
        """Call a function with each `Problem` of a run as soon as it is known, warnings of metadata among them.

        It is called in the thread that reduces the run, which waits for it: a function that takes long should hand over
        to a thread of its own. What it raises is logged, and costs nothing else.
        """
        self._told.append(callback)

    def wait(self, timeout: float | None = None) -> dict[str, RunResult]:
        """Wait until every run that has stopped is reduced and published; return the results, oldest run first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for run in list(self._runs.values()):
            run.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        # They come as runs are done, which may be in another order.
        return {uid: self.results[uid] for uid in self._runs if uid in self.results}

    wait_writer = wait

    def wait_writer_plan_stub(self) -> Iterator[Any]:
        """Wait inside a plan, without holding up the RunEngine."""
        from bluesky import plan_stubs

        while any(run.busy for run in self._runs.values()):
            yield from plan_stubs.sleep(0.05)

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until kernels are compiled and clients imported, which begins with the first moment of this object.

        Nobody needs to: a run that comes earlier is reduced all the same, its first frames a few seconds late.
        """
        self._warming.join(timeout)
        return not self._warming.is_alive()

    def close(self, timeout: float = 30) -> None:
        """Finish: reduce what was handed over, write the ends of the archives, and stop publishing."""
        atexit.unregister(self.close)
        self._at_exit.cancel()
        self._warming.join(timeout)
        for run in list(self._runs.values()):
            run.close(timeout)

    def _accept(self, start: Mapping[str, Any]) -> "_LiveRun":
        uid = str(start["uid"])
        done = partial(self.results.__setitem__, uid)
        run = _LiveRun(self.settings, start, self._sink, self._parts, done, self._told)
        self._runs[uid] = run
        over = [each for each, old in self._runs.items() if old.over]
        for each in over[: max(0, len(self._runs) - _KEPT_RUNS)]:
            del self._runs[each]
            self.results.pop(each, None)
        return run


class _LiveRun:
    """One of our runs: the raw archive in the RunEngine's thread, everything else in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        start: Mapping[str, Any],
        sink: SinkMaker | None,
        parts: Parts,
        done: Callable[[RunResult], None],
        told: list[Told],
    ) -> None:
        self._settings = settings
        self._start = start
        self._sink = sink
        self._parts = parts
        self._done = done
        self._told = told
        self._n_told = 0
        self._n_flushes = 0
        self._problems = Problems(str(start["uid"]))
        folder, stem = settings.archive.folder, run_stem(settings, start)
        self._reduced_path = folder / f"{stem}_reduced.h5"
        self._raw = self._open_raw(folder / f"{stem}_raw.h5")
        self._backlog = Backlog(settings.worker.documents, int(settings.worker.memory_mb * 1e6), self._read_back)
        self._reduction: RunReduction | None = None
        self._failure: ArchiveError | None = None
        self.publisher: Publisher | None = None
        self._thread = threading.Thread(target=self._work, name=f"hedmlive-{str(start['uid'])[:8]}", daemon=True)
        self._thread.start()

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        archived: Mapping[str, Any] | None = None
        failure, self._failure = self._failure, None
        if self._raw is not None:
            try:
                archived = self._raw.append(name, doc)
            except DocumentError as error:
                self._problems.add("document", str(error))
            except ArchiveError as error:
                failure = error
        self._backlog.put(name, doc, None if archived is doc else archived)
        if name == "stop":
            self._backlog.close()
        if failure is not None:
            self._lose_raw(failure)

    @property
    def progress(self) -> Progress:
        return self._reduction.progress if self._reduction is not None else Progress()

    @property
    def over(self) -> bool:
        """Whether nothing of it is going on any more."""
        return not self._thread.is_alive() and self._published(0)

    @property
    def busy(self) -> bool:
        """Whether it stopped and is not reduced and published yet."""
        return self._backlog.closed and (self._thread.is_alive() or not self._published(0))

    def wait(self, timeout: float | None) -> None:
        """Wait until a stopped run is reduced and published."""
        if not self._backlog.closed:
            return
        started = time.monotonic()
        self._thread.join(timeout)
        self._published(None if timeout is None else max(0.0, timeout - (time.monotonic() - started)))

    def close(self, timeout: float) -> None:
        """End the run, with or without a stop document."""
        self._backlog.close()
        self.wait(timeout)
        if self.publisher is not None and not self._published(0):
            self._problems.add("publish", "not everything was published before the end; the archives hold it all")
            self.publisher.give_up()

    def _published(self, timeout: float | None) -> bool:
        return self.publisher is None or self.publisher.wait(timeout)

    def _open_raw(self, path: Path) -> RawArchive | None:
        if not self._settings.archive.write_raw:
            return None
        try:
            return self._parts.raw_archive(path, self._settings, self._start)
        except ArchiveError as error:
            self._lose_raw(error)
            return None

    def _lose_raw(self, error: ArchiveError) -> None:
        if self._settings.archive.critical:
            self._problems.add("raw-archive", f"{error}; the plan is stopped, as archive.critical says")
            raise error
        self._problems.add("raw-archive", f"{error}; the run goes on without a raw archive")

    def _read_back(self, index: int) -> tuple[str, Any] | None:
        try:
            return None if self._raw is None else self._raw.document(index)
        except (OSError, ValueError, IndexError, KeyError, RuntimeError):
            return None

    # In the thread

    def _work(self) -> None:
        try:
            self._reduction = reduction = RunReduction(
                self._settings,
                self._start,
                self._reduced_path,
                raw=self._raw,
                problems=self._problems,
                parts=self._parts,
            )
            self.publisher = self._make_publisher(reduction)
            while not self._backlog.drained:
                self._step(reduction)
                self._tell()
            self._end(reduction)
        except Exception as error:
            # Nobody would see it otherwise; and what keeps coming must not pile up.
            why = f"{type(error).__name__}: {error}"
            self._problems.add("reducer", f"the reduction of the run ended ({why}); replay its raw archive")
            self._tell()
            while not self._backlog.drained:
                self._backlog.get(timeout=0.1)

    def _tell(self) -> None:
        """Hand the new problems on to who wants to hear of them."""
        for problem in self._problems.kept[self._n_told :]:
            self._n_told += 1
            for callback in self._told:
                try:
                    callback(problem)
                except Exception:
                    logger.exception("a function of on_warning failed; the run goes on")

    def _make_publisher(self, reduction: RunReduction) -> Publisher | None:
        tiled = self._settings.tiled
        if self._sink is None or tiled is None or reduction.archive is None:
            return None
        return Publisher(
            self._sink,
            reduction.archive,
            reduction.uid,
            self._start,
            tiled,
            self._problems,
            raw=self._raw,
            progress=reduction.progress.published,
        )

    def _end(self, reduction: RunReduction) -> None:
        if self._backlog.n_lost:
            self._problems.add(
                "documents-lost",
                f"{self._backlog.n_lost} documents did not fit into memory and no raw archive has them",
            )
        result = reduction.finish()
        self._note_reduced(reduction)
        self._tell()
        self._done(result)
        if self.publisher is not None:
            self.publisher.finish({"digest": next(iter(result.digests.values()), "")})
        elif reduction.archive is not None:
            reduction.archive.release()

    def _note_reduced(self, reduction: RunReduction) -> None:
        for detector, came in reduction.newly_reduced():
            if self.publisher is not None:
                self.publisher.reduced(detector, came)

    def _step(self, reduction: RunReduction) -> None:
        item = self._backlog.get(timeout=0.1)
        if item is not None:
            reduction.push(item.name, item.doc, item.came, item.archived)
            if not len(self._backlog):
                reduction.settle()
            self._note_reduced(reduction)
        publisher = self.publisher
        reduction.flush_if_due(wanted=publisher is not None and publisher.hungry)
        if publisher is not None and reduction.n_flushes > self._n_flushes:
            self._n_flushes = reduction.n_flushes
            publisher.feed()
        if self._raw is not None:
            try:
                self._raw.flush_if_due()
            except ArchiveError as error:
                # The plan is stopped in the RunEngine's own thread, with the next document.
                self._failure = error


def hedm_live_init(RE: Any, config: Settings | Mapping[str, Any] | str | Path) -> HedmLive | None:
    """Subscribe live reduction to a RunEngine, as a BITS startup or a plain session does.

    Parameters
    ----------
    RE
        The RunEngine.
    config
        Settings, the path of a YAML file, or an iconfig with a block `HEDM_LIVE`; a block with `ENABLE: false`
        subscribes nothing.

    Returns
    -------
    The callback, or None if the block is not enabled. Keep it: `wait()` at the prompt waits for its results.

    Raises
    ------
    SettingsError
        The settings are wrong.
    """
    block = config.get(BLOCK) if isinstance(config, Mapping) else None
    if isinstance(block, Mapping) and not block.get("ENABLE", True):
        return None
    live = HedmLive(config)
    RE.subscribe(live)
    return live


def run_stem(settings: Settings, start: Mapping[str, Any]) -> str:
    """Return the name of a run's files, without `_raw.h5`.

    Raises
    ------
    ArchiveError
        The settings' stem names something that the start document does not have.
    """
    try:
        stem = settings.archive.stem.format(scan_id=start.get("scan_id", 0), uid=start["uid"])
    except (KeyError, ValueError, IndexError) as error:
        raise ArchiveError(f"archive.stem {settings.archive.stem!r} cannot be filled in: {error}") from None
    # A start document must not lead out of the folder.
    return stem.replace("/", "_").replace("\\", "_")


def _tiled_sink(settings: Settings) -> SinkMaker:
    tiled = settings.tiled
    if tiled is None:
        raise SettingsError("tiled: no server is named")
    key = os.environ.get(tiled.api_key_env)
    return lambda: make_sink("tiled", tiled.uri, key)


def _warm(settings: Settings) -> None:
    """Compile the kernels and import the clients beforehand, so that the first frame does not wait for them."""
    Reducer.warm(np.uint16, settings.recipe)
    if settings.tiled is not None:
        preload_sink("tiled")
    # For references of the older kind. Imported here, because it takes seconds, and when a session ends before its
    # last run is reduced it cannot be imported any more.
    importlib.import_module("bluesky_tiled_plugins.writing.tiled_writer")

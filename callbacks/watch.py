"""Watches a folder: every file of frames that comes becomes a run, which is reduced while the file grows.

Detectors write side by side, and a scan begins before the last file of the one before is closed: so several files that
grow are followed in turns, each until its own end. Those that are finished when they are found go one after the other
beside them, in the order of their names. Which turn comes when decides nothing: each run is reduced on its own.

What has been done is told by the archives alone. A file that is finished has an archive that says so; one that is not,
because the watch was ended or killed meanwhile, is begun again and gives the same tables, for its frames are still
where they were. Folders are looked at again and again, because network file systems tell nobody of new files.
"""

import fcntl
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..streaming import ArchiveError, HedmLiveError, SettingsError
from .following import Clock, Following, Signature, signature
from .foreign import Aside, followed_documents
from .foreign_groups import scans_in
from .foreign_scan import Scan, ScanLook, content_uid
from .live import SinkMaker
from .parts import Parts
from .progress import Progress, RunResult
from .raw_reader import RawArchiveReader
from .replay import process_in_steps
from .settings import Settings

_LOCK = ".hedmlive-watch"

Show = Callable[[str, int | None], AbstractContextManager[Callable[[Progress], None]]]
"""Shows how far a run is: called with its name, and its frames if they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file, or of the files of several detectors together."""

    scan: Scan
    "The files."
    result: RunResult | None = None
    "The reduction; None if there is none."
    error: str = ""
    "Why there is none, in one line."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """A scan whose files are finished, and that waits for its turn."""

    scan: Scan
    "Its files."
    look: ScanLook
    "What is there of them."
    seen: Signature
    "How they were then."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Active:
    """A scan that is being reduced."""

    scan: Scan
    "Its files."
    grows: bool
    "Whether they grew when it began."
    stem: str
    "Name of its archives."
    steps: Generator[bool, None, RunResult]
    "Gives True after each step, False when there was nothing to do."


class FolderWatch:
    """Reduces the files of a folder, those that are there and those that come.

    Parameters
    ----------
    folder
        The folder.
    settings
        Everything that the settings say; archives go to `ArchiveSettings.folder`.
    sink
        Makes what results are published to.
    show
        Shows how far a run is.
    clock
        Time.
    parts
        What runs are reduced with.

    Raises
    ------
    SettingsError
        There is no such folder, or the patterns do not go with the detectors.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        sink: SinkMaker | None = None,
        show: Show = lambda name, n_frames: nullcontext(lambda progress: None),
        clock: Clock | None = None,
        parts: Parts | None = None,
    ) -> None:
        if not folder.is_dir():
            raise SettingsError(f"{folder}: no such folder; wanted the one that files of frames come to")
        self._folder = folder
        self._settings = settings
        self._sink = sink
        self._show = show
        self._clock = clock or Clock()
        self._parts = parts
        self._done: dict[str, Signature] = {}
        self._waiting: dict[str, Following] = {}
        self._finished: dict[str, _Finished] = {}
        self._active: dict[str, _Active] = {}
        # What is wrong with the patterns is to be known at once.
        self._scans()

    def run(self, *, once: bool = False, stopped: Callable[[], bool] = lambda: False) -> Generator[Outcome]:
        """Give what becomes of each file as soon as it is over, for ever, or until all that are there are done.

        Closed early, it leaves runs that are not over to the next watch.

        Parameters
        ----------
        once
            Whether to end when every file that is there is finished and reduced.
        stopped
            Asked between two documents: whether to end.

        Raises
        ------
        ArchiveError
            Another watch writes to the same archives.
        """
        due, poll = -math.inf, self._settings.watch.poll_seconds
        with self._alone():
            try:
                while not stopped():
                    if self._clock.now() >= due:
                        yield from self._look()
                        due = self._clock.now() + poll
                    yield from self._begin_next()
                    busy = False
                    for run in list(self._active.values()):
                        outcome, more = self._turn(run, stopped)
                        busy |= more
                        if outcome is not None:
                            yield outcome
                        if stopped():
                            return
                    if once and not (self._active or self._waiting or self._finished):
                        return
                    if not busy:
                        self._clock.sleep(poll)
            finally:
                for run in self._active.values():
                    run.steps.close()
                self._active.clear()

    def _scans(self) -> list[Scan]:
        out = self._settings.archive.folder.absolute()
        return [
            Scan(
                paths=paths,
                folder=self._folder,
                settings=self._settings.watch,
                dark_stream=self._settings.dark_stream,
            )
            for paths in scans_in(self._folder, self._settings)
            # Archives are no files to reduce, wherever they are put.
            if not any(path.absolute().parent == out and is_archive_name(path) for path in paths.values())
        ]

    def _look(self) -> Iterator[Outcome]:
        """Look at the folder: follow what has begun, and note what is finished."""
        scans = {str(scan.first): scan for scan in self._scans()}
        for of_old in (self._waiting, self._finished):
            for name in of_old.keys() - scans.keys():
                del of_old[name]
        for name, scan in scans.items():
            seen = signature(scan)
            done = self._done.get(name) == seen
            ready = name in self._finished and self._finished[name].seen == seen
            if name in self._active or done or ready:
                continue
            self._finished.pop(name, None)
            follow = self._waiting.setdefault(name, Following(scan=scan, clock=self._clock))
            try:
                look = follow(0)
            except (HedmLiveError, OSError) as error:
                yield self._failed(scan, error)
                continue
            if look is not None and look.finished:
                del self._waiting[name]
                self._finished[name] = _Finished(scan=scan, look=look, seen=seen)
            elif look is not None and sum(run.grows for run in self._active.values()) < self._settings.watch.runs:
                del self._waiting[name]
                yield from self._begin(scan, look, follow)

    def _begin_next(self) -> Iterator[Outcome]:
        """Begin the first of the scans that are finished, if none of them is being reduced."""
        while self._finished and all(run.grows for run in self._active.values()):
            name = next(iter(self._finished))
            ready = self._finished.pop(name)
            # One that has changed since is looked at anew.
            if signature(ready.scan) == ready.seen:
                yield from self._begin(ready.scan, ready.look, Following(scan=ready.scan, clock=self._clock))

    def _begin(self, scan: Scan, look: ScanLook, follow: Following) -> Iterator[Outcome]:
        """Begin a scan, if it was not reduced before."""
        try:
            stem = self._stem(scan, look)
        except (HedmLiveError, OSError) as error:
            yield self._failed(scan, error)
            return
        if stem is None:
            self._done[str(scan.first)] = signature(scan)
            return
        steps = self._reduce(scan, look, follow, stem)
        self._active[str(scan.first)] = _Active(scan=scan, grows=not look.finished, stem=stem, steps=steps)

    def _turn(self, run: _Active, stopped: Callable[[], bool]) -> tuple[Outcome | None, bool]:
        """Go on with a run while it has something to do, for a while; return its end, and whether to go on at once."""
        until = self._clock.now() + self._settings.watch.poll_seconds
        try:
            while next(run.steps):
                if self._clock.now() >= until or stopped():
                    return None, True
        except StopIteration as end:
            result: RunResult = end.value
        except (HedmLiveError, OSError) as error:
            del self._active[str(run.scan.first)]
            return self._failed(run.scan, error), True
        else:
            return None, False
        del self._active[str(run.scan.first)]
        self._done[str(run.scan.first)] = signature(run.scan)
        return Outcome(scan=run.scan, result=result), True

    def _failed(self, scan: Scan, error: Exception) -> Outcome:
        self._waiting.pop(str(scan.first), None)
        self._done[str(scan.first)] = signature(scan)
        return Outcome(scan=scan, error=" ".join(str(error).split()))

    def _reduce(self, scan: Scan, look: ScanLook, follow: Following, stem: str) -> Generator[bool, None, RunResult]:
        aside = Aside()
        uid = (yield from content_uid(look)) if look.finished else None
        with self._show(scan.first.name, look.n_frames if look.finished else None) as watch:
            return (
                yield from process_in_steps(
                    followed_documents(scan, look, follow, aside, uid),
                    self._settings,
                    stem=stem,
                    write_raw=True,
                    sink=self._sink,
                    watch=watch,
                    parts=self._parts,
                    aside=aside,
                )
            )

    # What was done before

    def _stem(self, scan: Scan, look: ScanLook) -> str | None:
        """Return the name for the archives of a scan; None if it has them already.

        Raises
        ------
        ArchiveError
            It has them, and has grown since.
        """
        identity = scan.identity(look)
        taken = {run.stem for run in self._active.values()}
        for stem in (scan.name, f"{scan.name}_{identity[:8]}"):
            path = self._settings.archive.folder / f"{stem}_raw.h5"
            if stem in taken:
                continue
            if not path.exists():
                return stem
            found, n_frames = _identity_of(path)
            if found == identity and n_frames is not None:
                if look.n_frames > n_frames:
                    raise ArchiveError(
                        f"{scan.first}: holds {look.n_frames} frames, its archive {path} {n_frames}; it grew after it "
                        "was taken as finished: remove the archives to reduce it again, and raise stable_seconds"
                    )
                return None
            if n_frames is None and found in (identity, None):
                _remove_unfinished(path)
                return stem
        raise ArchiveError(f"{path}: is of another file; choose another folder for the archives")

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keep a second watch from the same archives, as long as this one runs."""
        folder = self._settings.archive.folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveError(
                    f"{folder}: another `hedmlive watch` writes there; end it, or choose another"
                ) from None
            except OSError:
                # A file system without locks.
                pass
            yield


def is_archive_name(path: Path) -> bool:
    """Tell whether a file is named as archives are."""
    return path.name.endswith(("_raw.h5", "_reduced.h5", "_results.h5", "_reduced.before.h5"))


def _identity_of(path: Path) -> tuple[str | None, int | None]:
    """Return which file a raw archive is of, and its frames if it is finished; None for what it does not say."""
    try:
        with RawArchiveReader(path) as archive:
            # A killed process may leave it without any document.
            start: Mapping[str, object] = next(
                (doc for name, doc in archive.documents(lazy=True) if name == "start"), {}
            )
            about = start.get("foreign")
            identity = str(about.get("identity")) if isinstance(about, Mapping) else None
            known = identity if identity is not None or not start else "of other documents"
            return known, (archive.n_points() or 0) if archive.finished else None
    except ArchiveError:
        # One that was killed while it was made is no archive yet.
        return None, None


def _remove_unfinished(raw: Path) -> None:
    """Remove archives that a killed watch left behind; every frame of them is still in its file."""
    stem = raw.name.removesuffix("_raw.h5")
    for suffix in ("_raw.h5", "_raw.part", "_reduced.h5", "_reduced.before.h5"):
        (raw.parent / f"{stem}{suffix}").unlink(missing_ok=True)

"""Watches a folder: every file of frames that comes becomes a run, which is reduced while the file grows.

What has been done is told by the archives alone. A file that is finished has an archive that says so; one that is not,
because the watch was ended or killed meanwhile, is begun again and gives the same tables, for its frames are still
where they were. Folders are looked at again and again, because network file systems tell nobody of new files.
"""

import fcntl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..streaming import ArchiveError, HedmLiveError, ReplayError, SettingsError
from .foreign import Aside, Scan, ScanLook, scan_documents
from .foreign_groups import scans_in
from .hdf5 import NotYet
from .live import SinkMaker
from .parts import Parts
from .progress import Progress, RunResult
from .raw_reader import RawArchiveReader
from .replay import process
from .settings import Settings

_LOCK = ".hedmlive-watch"

Signature = tuple[tuple[str, int, int], ...]
"""Name, size and time of each file of a scan."""
Show = Callable[[int | None], AbstractContextManager[Callable[[Progress], None]]]
"""Shows how far a run is: called with its frames, if they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time, and how to wait; tests put their own in."""

    now: Callable[[], float] = time.monotonic
    "Gives seconds that only ever rise."
    wall: Callable[[], float] = time.time
    "Gives seconds since 1970, as files are dated."
    sleep: Callable[[float], None] = time.sleep
    "Waits."


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file, or of the files of several detectors together."""

    scan: Scan
    "The files."
    result: RunResult | None = None
    "The reduction; None if there is none."
    error: str = ""
    "Why there is none, in one line."


@dataclass(slots=True)
class Following:
    """Follows a scan's files until they are finished."""

    scan: Scan
    "The files."
    clock: Clock = field(default_factory=Clock)
    "Time."
    _seen: Signature | None = None
    _since: float = 0.0

    def __call__(self, n_told: int, aside: Aside) -> ScanLook:
        """Return what is there as soon as it is more than has been told, or the files are finished.

        Raises
        ------
        ReplayError
            They are broken.
        """
        while True:
            look = self.try_look(n_told)
            if look is not None:
                return look
            aside.idle()
            self.clock.sleep(self.scan.settings.poll_seconds)

    def try_look(self, n_told: int) -> ScanLook | None:
        """Return what is there if it is more than has been told, or finished; None if it is neither yet."""
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
        show: Show = lambda n_frames: nullcontext(lambda progress: None),
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
        # What is wrong with the patterns is to be known at once.
        self._scans()

    def run(self, *, once: bool = False, stopped: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Give what becomes of each file, for ever, or until all that are there are done.

        Parameters
        ----------
        once
            Whether to end when every file that is there is finished and reduced.
        stopped
            Asked between two looks at the folder: whether to end.

        Raises
        ------
        ArchiveError
            Another watch writes to the same archives.
        """
        with self._alone():
            while not stopped():
                left = False
                for scan in self._scans():
                    outcome = self._take(scan)
                    left |= str(scan.first) in self._waiting
                    if outcome is not None:
                        yield outcome
                if once and not left:
                    return
                self._clock.sleep(self._settings.watch.poll_seconds)

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

    def _take(self, scan: Scan) -> Outcome | None:
        """Reduce a scan if it has begun, and was not reduced before."""
        name = str(scan.first)
        seen = signature(scan)
        if self._done.get(name) == seen:
            return None
        follow = self._waiting.setdefault(name, Following(scan=scan, clock=self._clock))
        try:
            look = follow.try_look(0)
            if look is None:
                return None
            del self._waiting[name]
            stem = self._stem(scan, look)
            result = None if stem is None else self._reduce(scan, look, follow, stem)
        except (HedmLiveError, OSError) as error:
            self._waiting.pop(name, None)
            self._done[name] = signature(scan)
            return Outcome(scan=scan, error=" ".join(str(error).split()))
        self._done[name] = signature(scan)
        return None if result is None else Outcome(scan=scan, result=result)

    def _reduce(self, scan: Scan, look: ScanLook, follow: Following, stem: str) -> RunResult:
        aside = Aside()
        first = iter([look])

        def next_look(n_told: int, aside: Aside) -> ScanLook:
            # What was looked at already is told first.
            return next(first, None) or follow(n_told, aside)

        with self._show(look.n_frames if look.finished else None) as watch:
            return process(
                scan_documents(scan, next_look, aside),
                self._settings,
                stem=stem,
                write_raw=True,
                sink=self._sink,
                watch=watch,
                parts=self._parts,
                aside=aside,
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
        for stem in (scan.name, f"{scan.name}_{identity[:8]}"):
            path = self._settings.archive.folder / f"{stem}_raw.h5"
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


def signature(scan: Scan) -> Signature:
    """Return names, sizes and times of the files of a scan, of a series all of them."""
    found: list[tuple[str, int, int]] = []
    for path in scan.files():
        with suppress(OSError):
            stat = path.stat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(found)


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

"""The reduction of one run: documents in, tables out, the same object live, in replay and in batch."""

import json
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import SCAN_ROLES, ArchiveError, Batches, CompressedImage, Frame, HedmLiveError, PeaksOfFrame
from .assembler import FrameAssembler
from .detector import DetectorReduction
from .detector_files import copies_used
from .guard_settings import KINDS
from .guards import Guards, Warned, message
from .parts import Parts
from .pending import InFile, Pending, image_of
from .problems import Problems
from .progress import Progress, RunResult
from .raw_archive import RawArchive
from .raw_frames import FramePlaces
from .raw_layout import RunSummary
from .readers import FileLags, Image, Reader, read_waiting
from .reduced_archive import ReducedArchive
from .settings import Settings
from .trajectory import RunTrajectory

_FLUSH_EVERY = 0.2  # s
_GIVE_UP_BATCHES = 4096
_NEWLY = 4096  # frames whose time is kept for who asks; a replay does not
_LOOK_SECONDS = 0.5
_COLUMNS = ("frame", "point", "omega_start", "omega_end", "time")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnTheWay:
    """A frame whose peaks are being found."""

    pending: Pending
    "What was known of it before it was read."
    came: float
    "Clock when its document was handed over."
    frame: Frame
    "The frame."
    found: Callable[[], PeaksOfFrame]
    "Waits for its peaks."


class RunReduction:
    """Reduces one run: `push` each document, then `finish`.

    Nothing that a document, a frame or a file holds makes it raise: what cannot be reduced is named in `problems`, and
    the rest goes on.

    Parameters
    ----------
    settings
        Everything that the settings say.
    start
        The start document.
    reduced_path
        The reduced archive.
    raw
        The raw archive that is being written, if there is one.
    problems
        Where to say what went wrong.
    parts
        What it is reduced with.

    Raises
    ------
    SettingsError
        The file of a dark or a mask cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        start: Mapping[str, Any],
        reduced_path: Path,
        *,
        raw: RawArchive | None = None,
        problems: Problems | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.uid = str(start["uid"])
        self.start = start
        self.problems = problems or Problems(self.uid)
        self.progress = Progress()
        self.settings = settings
        self._raw = raw
        self._parts = parts or Parts()
        self._clock = self._parts.clock
        self._stop: Mapping[str, Any] = {}
        self._started = False
        self._assembler = FrameAssembler(settings, start, self.problems)
        self._trajectory = RunTrajectory(settings, start, self.problems)
        numbers, motors = range(len(settings.detectors)), self._trajectory.motors
        self._guards = Guards(settings, start, motors=motors) if settings.guards.enabled else None
        self._detectors = [DetectorReduction(settings, n, self._parts.reducer, motors=motors) for n in numbers]
        self._columns = {name: array("d") for name in (*_COLUMNS, *self._scalar_roles())}
        self._lagging: set[Reader] = set()
        self._places = FramePlaces()
        self._missing: tuple[str, ...] = ()
        self._flush_at = self._flush_soonest = self._look_again_at = self._clock()
        self.n_flushes = 0
        "How often rows were written to the reduced archive."
        self._newly_reduced: deque[tuple[int, float]] = deque(maxlen=_NEWLY)
        self._unwritten = 0
        self._threads = settings.worker.threads
        self._pool: ThreadPoolExecutor | None = None
        self._on_the_way: deque[_OnTheWay] = deque()
        self.archive = self._open_archive(reduced_path)
        for line in copies_used(settings, self.uid):
            self.problems.add("file-changed", line)
        self._warn(self._of_files)

    def push(
        self, name: str, doc: Mapping[str, Any], came: float | None = None, archived: Mapping[str, Any] | None = None
    ) -> None:
        """Take in one document.

        Parameters
        ----------
        name, doc
            The document.
        came
            Clock when it was handed over.
        archived
            The document with `ArchivedImage` in the place of images, for those that have to wait.
        """
        came = self._clock() if came is None else came
        if self._guards is not None and name in ("descriptor", "stop"):
            with suppress(AttributeError, TypeError, ValueError):
                self._guards.document(name, doc)
        if name == "stop":
            self._stop = doc
        elif name == "start":
            if self._started:
                self.problems.add("document", "a second start document came; the first counts")
            self._started = True
        elif name == "descriptor":
            # A malformed one is named by the assembler.
            with suppress(AttributeError, TypeError, ValueError):
                self._trajectory.descriptor(doc)
        self._take(self._assembled(f"a {name} document", lambda: self._assembler.push(name, doc, archived)), came)
        self.flush_if_due()

    def newly_reduced(self) -> list[tuple[int, float]]:
        """Return the detector's number, and when the document came, of each frame reduced since this was asked last."""
        found, self._newly_reduced = self._newly_reduced, deque(maxlen=_NEWLY)
        return list(found)

    def flush_if_due(self, *, wanted: bool = False) -> None:
        """Write the new rows if they have waited long enough, or if somebody waits for them."""
        due = self._flush_soonest if wanted and self._unwritten else self._flush_at
        if self.archive is not None and self._clock() >= due:
            self._flush_archive()
        now, guards = self._clock(), self._guards
        if guards is not None:
            self._warn(lambda: guards.files(now))
        if now >= self._look_again_at:
            self.progress.open_tracks = tuple(detector.open_tracks() for detector in self._detectors)
            # It is for the eye: where tracks are so many that looking at them takes long, it is looked at less often.
            self._look_again_at = now + max(_LOOK_SECONDS, 20 * (self._clock() - now))

    def finish(self) -> RunResult:
        """Reduce what can still be reduced, name what never came, and write the end of both archives."""
        if not self._stop:
            self.problems.add("no-stop", "the stop document never came; what came before is reduced")
        self._take(self._assembled("the end", self._assembler.flush), self._clock())
        self.progress.n_rejected += self._assembler.n_lost
        for detector in self._detectors:
            if detector.held and detector.takes_median:
                self._settle_median(detector)
            if detector.held and detector.has_darks:
                self._reduce_held(detector)
        self.settle()
        self._stop_threads()
        for number, detector in enumerate(self._detectors):
            if detector.held:
                self.problems.add("dark-missing", "background is dark, but no dark frame came; no frame is reduced")
                self.progress.n_rejected += len(detector.held)
            elif not detector.waits:
                self._flush_detector(number, detector)
        self.progress.n_open, self.progress.open_tracks = 0, ()
        self._warn(self._at_the_end)
        digests = self._finish_reduced()
        self._finish_raw()
        self._assembler.close()
        return RunResult(
            uid=self.uid,
            raw=None if self._raw is None else self._raw.path,
            reduced=None if self.archive is None else self.archive.path,
            digests=digests,
            progress=self.progress,
            missing=self._missing,
            problems=tuple(self.problems.lines()),
            warnings=self.problems.warnings,
        )

    def close(self) -> None:
        """Close all files, finished or not."""
        self._stop_threads()
        self._assembler.close()
        if self.archive is not None:
            with suppress(OSError, RuntimeError):
                self.archive.close()
            self.archive.release()

    # Frames

    def _assembled(self, what: str, do: Callable[[], list[Pending]]) -> list[Pending]:
        try:
            return do()
        except Exception as error:
            self.problems.add("document", f"{what} cannot be used: {_why(error)}")
            return []

    def _take(self, pending: list[Pending], came: float) -> None:
        for frame in pending:
            detector = self._detectors[frame.detector]
            if frame.is_dark:
                self._places.add(self.settings.detectors[frame.detector].name, frame)
                detector.n_darks += 1
                self._guarded(frame, lambda f=frame, d=detector: self._add_dark(f, d))
                continue
            frame = self._followed(frame)
            self._assembler.name_missing_roles()
            detector.take(frame.frame)
            if detector.waits:
                detector.hold(frame, came)
                if detector.takes_median and detector.enough_held:
                    self._settle_median(detector)
            else:
                self._reduce(frame, came)
        for number, detector in enumerate(self._detectors):
            if detector.held and detector.has_darks and self._assembler.darks_complete(number, detector.n_darks):
                self._reduce_held(detector)
            self._declare_missing(number, detector)

    def _followed(self, pending: Pending) -> Pending:
        """Return a frame with omega, and settle with the first what the frames of its detector follow."""
        detector, sources = self._detectors[pending.detector], self._assembler.roles.sources
        if detector.followed is None:
            detector.followed = self._trajectory.follow(pending.described.per_event, tuple(sources))
            planned = self._trajectory.source_of_omega(detector.followed, sources)
            if planned is not None:
                sources["omega"] = planned
        guards, followed = self._guards, detector.followed
        if guards is not None:
            reads = self._trajectory.source_of_omega(followed, sources) is None
            self._warn(lambda: guards.frame(pending, followed, sources, reads_omega=reads))
        omega = self._trajectory.omega(pending, followed, sources, check=guards is None)
        return replace(pending, omega=omega)

    def _add_dark(self, pending: Pending, detector: DetectorReduction) -> None:
        image, guards = self._image(pending), self._guards
        detector.add_dark(image)
        if guards is not None:
            self._warn(lambda: guards.dark(pending.detector, image, pending.frame))

    # Guards

    def _warn(self, look: Callable[[], Iterable[Warned]]) -> None:
        """Note what a guard sees; one that fails costs nothing but itself."""
        if self._guards is None:
            return
        told = False
        try:
            for each in look():
                told = self.problems.warn(each.kind, each.cause, message(each), each.frame) or told
        except Exception as error:
            told = self.problems.warn("guard", "", f"guard: a guard failed: {_why(error)}; {KINDS['guard']}")
        if told:
            self.progress.warnings = self.problems.warnings

    def _of_files(self) -> Iterable[Warned]:
        if self._guards is not None:
            for number, detector in enumerate(self._detectors):
                if detector.dark is not None:
                    yield from self._guards.dark(number, detector.dark, None)

    def _at_the_end(self) -> Iterable[Warned]:
        if self._guards is None:
            return ()
        numbers = range(len(self._detectors))
        came = {n: (self._assembler.gone_past(n), self._assembler.n_points(n)) for n in numbers}
        some = {n: counts for n, counts in came.items() if counts[0]}
        followed = {n: each.followed for n, each in enumerate(self._detectors) if each.followed is not None}
        return self._guards.finish(some or {0: (0, 0)}, followed, counted="event-count" in self.problems.counts)

    def _declare_missing(self, number: int, detector: DetectorReduction) -> None:
        try:
            for batches in detector.advance(self._assembler.gone_past(number)):
                self._write(number, batches)
                self.progress.n_open = sum(each.n_open for each in self._detectors)
        except Exception as error:
            self.problems.add("reducer", f"tracks beside missing frames cannot be closed: {_why(error)}")

    def _reduce_held(self, detector: DetectorReduction) -> None:
        held, detector.held = detector.held, []
        for frame, came in held:
            self._reduce(frame, came)

    def _settle_median(self, detector: DetectorReduction) -> None:
        """Take the median of the frames that wait, and reduce them."""
        held, detector.held = detector.held, []
        # Read once: what the median was taken of is what is reduced.
        frames = [self._guarded(pending, lambda p=pending: self._plain_frame(p)) for pending, _ in held]
        if not detector.settle_median([frame.image for frame in frames if frame is not None]):
            self.problems.add("frame", f"none of {len(held)} first frames is an image to take the median of")
            frames = [None] * len(held)
        for (pending, came), frame in zip(held, frames, strict=True):
            if frame is None:
                self._remember(pending)
                self._refuse(pending)
            else:
                self._reduce(pending, came, frame)

    def _flush_detector(self, number: int, detector: DetectorReduction) -> None:
        try:
            self._write(number, detector.reducer().flush())
        except Exception as error:
            self.problems.add("reducer", f"the last tracks cannot be closed: {_why(error)}")

    def _reduce(self, pending: Pending, came: float, frame: Frame | None = None) -> None:
        """Reduce one frame; its peaks may be found in another thread, and linked when those before it are."""
        self._remember(pending)
        reducer = self._guarded(pending, self._detectors[pending.detector].reducer)
        frame = frame or self._guarded(pending, lambda: self._frame(pending))
        if reducer is None or frame is None:
            self._refuse(pending)
        elif self._threads > 1 and reducer.parallel:
            self._pool = self._pool or ThreadPoolExecutor(self._threads, "hedmlive-peaks")
            found = self._pool.submit(reducer.find, frame)
            self._on_the_way.append(_OnTheWay(pending=pending, came=came, frame=frame, found=found.result))
            while len(self._on_the_way) > 2 * self._threads:
                self._link(self._on_the_way.popleft())
        else:
            self.settle()
            self._link(_OnTheWay(pending=pending, came=came, frame=frame, found=lambda: reducer.find(frame)))

    def settle(self) -> None:
        """Wait until every frame that was taken in is reduced."""
        while self._on_the_way:
            self._link(self._on_the_way.popleft())

    def _stop_threads(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _link(self, one: "_OnTheWay") -> None:
        detector = self._detectors[one.pending.detector]
        batches = self._guarded(one.pending, lambda: detector.reducer().link(one.frame, one.found()))
        if batches is None:
            self._refuse(one.pending)
            return
        self._write(one.pending.detector, batches)
        guards, found = self._guards, batches
        if guards is not None:
            self._warn(lambda: guards.reduced(one.pending, one.frame.image, found))
        self.progress.n_frames += 1
        self.progress.n_open = sum(each.n_open for each in self._detectors)
        self.progress.frame_lag.add(self._clock() - one.came)
        self._newly_reduced.append((one.pending.detector, one.came))

    def _refuse(self, pending: Pending) -> None:
        """Count a frame that is left out: to its neighbours it is missing."""
        self.progress.n_rejected += 1
        self._detectors[pending.detector].refuse(pending.frame)

    def _guarded(self, pending: Pending, do: Callable[[], Any]) -> Any:
        """Do something with one frame; whatever it raises costs that frame alone."""
        try:
            return do()
        except FileLags as error:
            self._name_lag(pending, error)
        except Exception as error:
            kind, what = ("frame", "") if isinstance(error, HedmLiveError) else ("reducer", "reducing failed: ")
            frame = "dark frame" if pending.is_dark else "frame"
            self.problems.add(kind, f"{what}{_why(error)}; the {frame} is left out", pending.frame)
        return None

    def _name_lag(self, pending: Pending, error: FileLags) -> None:
        reader = pending.source.reader if isinstance(pending.source, InFile) else None
        if reader is None or reader in self._lagging:
            self.problems.repeat("frame")
            return
        # To wait for each frame of a file that never comes would take hours.
        self._lagging.add(reader)
        guards = self._guards
        if guards is not None:
            self._warn(lambda: guards.files())
            if guards.explains(pending):
                return
        more = "it is left out, and the next ones of this file are not waited for; replay when the file is whole"
        self.problems.add("frame", f"{error}; {more}", pending.frame)

    def _frame(self, pending: Pending) -> Frame:
        return Frame(
            frame=pending.frame,
            point=pending.point,
            seq_num=pending.seq_num,
            detector=pending.detector,
            image=self._image(pending),
            omega_start=pending.omega[0],
            omega_end=pending.omega[1],
            time=pending.time,
            roles=pending.roles,
        )

    def _plain_frame(self, pending: Pending) -> Frame:
        frame = self._frame(pending)
        return replace(frame, image=frame.image.dense()) if isinstance(frame.image, CompressedImage) else frame

    def _image(self, pending: Pending) -> Image:
        return image_of(pending, self._read)

    def _read(self, reader: Reader, index: int) -> Image | tuple[CompressedImage, ...]:
        seconds = 0.0 if reader in self._lagging else self.settings.worker.file_seconds
        image = read_waiting(reader, index, seconds, clock=self._clock, sleep=self._wait)
        self._lagging.discard(reader)
        return image

    def _wait(self, seconds: float) -> None:
        # What came before must not wait for a file that lags.
        self.settle()
        self._parts.sleep(seconds)

    def _remember(self, pending: Pending) -> None:
        guards = self._guards
        if guards is not None and isinstance(pending.source, InFile):
            self._warn(lambda: guards.announced(pending))
        self._places.add(self.settings.detectors[pending.detector].name, pending)
        if pending.detector:
            return
        values = {"frame": pending.frame, "point": pending.point, "time": pending.time}
        values |= {"omega_start": pending.omega[0], "omega_end": pending.omega[1], **pending.roles}
        for name, column in self._columns.items():
            column.append(values.get(name, math.nan))

    # Archives

    def _open_archive(self, path: Path) -> ReducedArchive | None:
        detectors = tuple(detector.name for detector in self.settings.detectors)
        roles = dict.fromkeys(self.settings.further_roles, "")
        settings = self.settings.to_json()
        try:
            make = self._parts.reduced_archive
            motors = self._trajectory.motors
            return make(path, self.uid, self.settings.recipe, detectors, roles, motors=motors, settings=settings)
        except ArchiveError as error:
            self._lose_archive(None, error)
            return None

    def _write(self, number: int, batches: Batches) -> None:
        self.progress.n_peaks += len(batches.get("peaks", {}).get("peak", ()))
        self.progress.n_tracks += len(batches.get("tracks", {}).get("track", ()))
        if self.archive is not None:
            self._unwritten += 1
            self.archive.write(self.archive.attempts[number], batches)

    def _flush_archive(self) -> None:
        began = self._clock()
        self._try_flush()
        self.n_flushes += 1
        now = self._clock()
        # On a slow disk, or a busy machine, more than a fifth of the time must not go into it.
        self._flush_soonest = now + min(1.0, 4 * (now - began))
        self._flush_at = max(now + _FLUSH_EVERY, self._flush_soonest)

    def _try_flush(self) -> None:
        if self.archive is None:
            return
        try:
            self.archive.flush()
            self._unwritten = 0
        except ArchiveError as error:
            # The disk may have room again; but what waits for it must not fill the memory.
            if self._unwritten > _GIVE_UP_BATCHES:
                self._lose_archive(self.archive, error)
                self.archive = None
            elif not self.problems.counts["reduced-archive"]:
                self.problems.add("reduced-archive", f"{error}; tried again as long as the run goes on")

    def _lose_archive(self, archive: ReducedArchive | None, error: Exception) -> None:
        self.problems.add("reduced-archive", f"{_why(error)}; make room and replay the raw archive")
        if archive is not None:
            # A full disk may refuse even this.
            with suppress(OSError, RuntimeError):
                archive.close()

    def _finish_reduced(self) -> dict[int, str]:
        if self.archive is None:
            return {}
        status = {"success": "complete"}.get(str(self._stop.get("exit_status")), "failed")
        attributes = {
            "warnings": json.dumps(self.problems.lines()),
            "guards": json.dumps([problem.as_dict() for problem in self.problems.warnings]),
            "exit_status": str(self._stop.get("exit_status", "no stop document")),
            "n_rejected": self.progress.n_rejected,
        }
        of_each = {
            attempt: {"trajectory": json.dumps(detector.followed.record)}
            for attempt, detector in zip(self.archive.attempts, self._detectors, strict=True)
            if detector.followed is not None
        }
        try:
            shapes = {
                attempt: detector.shape
                for attempt, detector in zip(self.archive.attempts, self._detectors, strict=True)
                if detector.shape is not None
            }
            return self.archive.finish(status, attributes, of_each, shapes)
        except (HedmLiveError, OSError) as error:
            self._lose_archive(self.archive, error)
            return {}

    def _finish_raw(self) -> None:
        if self._raw is None:
            return
        roles = self._assembler.roles
        sources = dict(roles.sources)
        followed = self._detectors[0].followed
        planned = None if followed is None else self._trajectory.source_of_omega(followed, sources)
        if planned is not None:
            # What other streams say of omega came meanwhile.
            sources["omega"] = planned
        scalars = {role: roles.raw(role, {}) for role in ("lattice_parameters", "space_group")}
        try:
            missing, problems = self._raw.finish(
                RunSummary(
                    columns={name: np.asarray(values) for name, values in self._columns.items()},
                    sources=sources,
                    scalars={role: value for role, value in scalars.items() if value is not None},
                    start=self.start,
                    stop=self._stop,
                    places=self._places,
                    resources=self._assembler.resources(),
                    planned=self._planned(),
                    files={
                        each.name: detector.files
                        for each, detector in zip(self.settings.detectors, self._detectors, strict=True)
                    },
                    problems=self.problems.lines(),
                )
            )
        except ArchiveError as error:
            self.problems.add("raw-archive", str(error))
            return
        self._missing = tuple(missing)
        for problem in problems:
            self.problems.add("raw-incomplete", problem)

    def _planned(self) -> dict[str, np.ndarray]:
        """Return where the plan put the motors in each frame of the columns."""
        followed = self._detectors[0].followed
        path = None if followed is None else followed.path
        if path is None:
            return {}
        frames = np.asarray(self._columns["frame"]).astype(np.int64) - path.first
        inside = (frames >= 0) & (frames < len(path))
        return {
            role: np.where(inside, positions[np.where(inside, frames, 0)], math.nan)
            for role, positions in path.positions.items()
            if len(positions)
        }

    def _scalar_roles(self) -> tuple[str, ...]:
        return tuple(r for r in (*SCAN_ROLES, *self.settings.further_roles) if r in self.settings.roles)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, HedmLiveError) else f"{type(error).__name__}: {error}"

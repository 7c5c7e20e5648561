"""The reduction of one run: documents in, tables out, the same object live, in replay and in batch."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import (
    SCAN_ROLES,
    ArchiveError,
    Batches,
    Frame,
    FrameError,
    HedmLiveError,
    Reducer,
    tables_with_roles,
)
from .assembler import FrameAssembler, InFile, Pending, image_of
from .encoding import StoredImage
from .problems import Problems
from .raw_archive import RawArchive
from .raw_layout import RunSummary
from .readers import HDF5Reader, Image, Reader, read_waiting
from .reduced_archive import ReducedArchive
from .settings import Settings
from .worker import Lags

_GIVE_UP_BATCHES = 4096
_COLUMNS = ("frame", "point", "omega_start", "omega_end", "time")


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is; read by displays, in no table."""

    n_frames: int = 0
    "Frames reduced."
    n_rejected: int = 0
    "Frames that could not be reduced."
    n_peaks: int = 0
    "Peaks found."
    n_tracks: int = 0
    "Tracks closed."
    n_open: int = 0
    "Tracks that may still grow."
    frame_lag: Lags = field(default_factory=Lags)
    "From hand-over to reduced."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run gave."""

    uid: str
    "uid of the run."
    raw: Path | None
    "Raw archive, if one was written."
    reduced: Path | None
    "Reduced archive, if it could be written."
    digests: Mapping[int, str]
    "Attempt to digest."
    progress: Progress
    "Counts."
    problems: tuple[str, ...]
    "What went wrong, a line each."


class _DetectorReduction:
    """The reduction of one detector."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = settings
        self._detector = settings.detectors[number]
        self._mask = None if self._detector.mask is None else _load(self._detector.mask)
        self._dark = None if self._detector.dark is None else _load(self._detector.dark)
        self._dark_sum: np.ndarray | None = None
        self.n_darks = 0
        self.held: list[tuple[Pending, float]] = []
        self._reducer: Reducer | None = None

    @property
    def waits_for_darks(self) -> bool:
        """Whether no dark is known yet that the recipe asks for."""
        return self._settings.recipe.background == "dark" and self._dark is None and self._reducer is None

    @property
    def n_open(self) -> int:
        return 0 if self._reducer is None else self._reducer.n_open_tracks

    def add_dark(self, image: Image) -> None:
        """Add a dark frame to the mean."""
        array = np.asarray(image if isinstance(image, np.ndarray) else image.dense(), np.float64)
        if self._reducer is not None:
            raise FrameError("a dark frame came after the first frame was reduced; it is left out")
        if self._dark_sum is not None and self._dark_sum.shape != array.shape:
            raise FrameError(f"a dark frame has shape {array.shape}; wanted {self._dark_sum.shape} as the one before")
        self._dark_sum = array if self._dark_sum is None else self._dark_sum + array
        self.n_darks += 1

    def reducer(self) -> Reducer:
        """Return the reducer; from the first call on, darks are settled."""
        if self._reducer is None:
            dark = self._dark
            if self._settings.recipe.background == "dark" and dark is None and self._dark_sum is not None:
                dark = self._dark_sum / self.n_darks
            wanted = self._settings.recipe.background == "dark"
            tables = tables_with_roles(dict.fromkeys(self._settings.further_roles, ""))
            self._reducer = Reducer(
                self._settings.recipe, dark=dark if wanted else None, mask=self._mask, tables=tables
            )
        return self._reducer


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
    clock, sleep
        Time, to wait for files that lag behind.
    """

    def __init__(
        self,
        settings: Settings,
        start: Mapping[str, Any],
        reduced_path: Path,
        *,
        raw: RawArchive | None = None,
        problems: Problems | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.uid = str(start["uid"])
        self.start = start
        self.problems = problems or Problems(self.uid)
        self.progress = Progress()
        self._settings = settings
        self._raw = raw
        self._clock, self._sleep = clock, sleep
        self._stop: Mapping[str, Any] = {}
        self._assembler = FrameAssembler(settings, start, self.problems)
        self._detectors = [_DetectorReduction(settings, number) for number in range(len(settings.detectors))]
        self._columns: dict[str, list[float]] = {name: [] for name in (*_COLUMNS, *self._scalar_roles())}
        self._frame_files: dict[str, tuple[str, str]] = {}
        self._flushed_at = clock()
        self._unwritten = 0
        self.archive = self._open_archive(reduced_path)

    def push(self, name: str, doc: Mapping[str, Any], came: float | None = None) -> None:
        """Take in one document; `came` is the clock when it was handed over."""
        came = self._clock() if came is None else came
        if name == "stop":
            self._stop = doc
        try:
            pending = self._assembler.push(name, doc)
        except (HedmLiveError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            why = str(error) if isinstance(error, HedmLiveError) else f"{type(error).__name__}: {error}"
            self.problems.add("document", f"a {name} document cannot be used: {' '.join(why.split())}")
            return
        self._take(pending, came)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write the new rows if they have waited long enough."""
        due = 0.2 if self._settings.tiled is None else min(0.2, self._settings.tiled.latency / 2)
        if self.archive is not None and self._clock() - self._flushed_at >= due:
            self._flush_archive()

    def finish(self) -> RunResult:
        """Reduce what can still be reduced, name what never came, and write the end of both archives."""
        self._take(self._assembler.flush(), self._clock())
        for number, detector in enumerate(self._detectors):
            if detector.held:
                self.problems.add("dark-missing", "background is dark, but no dark frame came; no frame is reduced")
                self.progress.n_rejected += len(detector.held)
            elif not detector.waits_for_darks:
                self._write(number, detector.reducer().flush())
        digests = self._finish_reduced()
        self._finish_raw()
        self._assembler.close()
        return RunResult(
            uid=self.uid,
            raw=None if self._raw is None else self._raw.path,
            reduced=None if self.archive is None else self.archive.path,
            digests=digests,
            progress=self.progress,
            problems=tuple(self.problems.lines()),
        )

    # Frames

    def _take(self, pending: list[Pending], came: float) -> None:
        for frame in pending:
            detector = self._detectors[frame.detector]
            if frame.is_dark:
                self._guarded(frame, lambda f=frame, d=detector: d.add_dark(self._image(f)))
            elif detector.waits_for_darks:
                detector.held.append((frame, came))
            else:
                self._reduce(frame, came)
        for number, detector in enumerate(self._detectors):
            if detector.held and self._assembler.darks_complete(number, detector.n_darks):
                held, detector.held = detector.held, []
                for frame, frame_came in held:
                    self._reduce(frame, frame_came)

    def _reduce(self, pending: Pending, came: float) -> None:
        self._remember(pending)
        batches = self._guarded(pending, lambda: self._detectors[pending.detector].reducer().push(self._frame(pending)))
        if batches is None:
            self.progress.n_rejected += 1
            return
        self._write(pending.detector, batches)
        self.progress.n_frames += 1
        self.progress.n_open = sum(detector.n_open for detector in self._detectors)
        self.progress.frame_lag.add(self._clock() - came)

    def _guarded(self, pending: Pending, do: Callable[[], Any]) -> Any:
        """Do something with one frame; whatever it raises costs that frame alone."""
        try:
            return do()
        except HedmLiveError as error:
            self.problems.add("frame", f"{error}; the frame is left out", pending.frame)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            self.problems.add("reducer", f"reducing failed ({why}); the frame is left out", pending.frame)
        return None

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

    def _image(self, pending: Pending) -> Image:
        image = image_of(pending, self._read, self._stored)
        if pending.shape and tuple(image.shape) != pending.shape:
            raise FrameError(f"the image has shape {tuple(image.shape)}; its descriptor says {pending.shape}")
        return image

    def _read(self, reader: Reader, index: int) -> Image:
        seconds = self._settings.worker.file_seconds
        return read_waiting(reader, index, seconds, clock=self._clock, sleep=self._sleep)

    def _stored(self, stored: StoredImage) -> np.ndarray:
        if self._raw is None:
            raise FrameError("the image lies in a raw archive that is not open")
        return self._raw.image(stored)

    def _remember(self, pending: Pending) -> None:
        if pending.detector:
            return
        values = {"frame": pending.frame, "point": pending.point, "time": pending.time}
        values |= {"omega_start": pending.omega[0], "omega_end": pending.omega[1], **pending.roles}
        for name, column in self._columns.items():
            column.append(values.get(name, math.nan))
        if isinstance(pending.source, InFile) and isinstance(pending.source.reader, HDF5Reader):
            name = self._settings.detectors[pending.detector].name
            self._frame_files.setdefault(name, (str(pending.source.reader.path), pending.source.reader.dataset))

    # Archives

    def _open_archive(self, path: Path) -> ReducedArchive | None:
        detectors = tuple(detector.name for detector in self._settings.detectors)
        roles = dict.fromkeys(self._settings.further_roles, "")
        settings = self._settings.to_json()
        try:
            return ReducedArchive(path, self.uid, self._settings.recipe, detectors, roles, settings=settings)
        except ArchiveError as error:
            self._lose_archive(error)
            return None

    def _write(self, number: int, batches: Batches) -> None:
        self.progress.n_peaks += len(batches.get("peaks", {}).get("peak", ()))
        self.progress.n_tracks += len(batches.get("tracks", {}).get("track", ()))
        if self.archive is not None:
            self._unwritten += 1
            self.archive.write(self.archive.attempts[number], batches)

    def _flush_archive(self) -> None:
        self._flushed_at = self._clock()
        if self.archive is None:
            return
        try:
            self.archive.flush()
            self._unwritten = 0
        except ArchiveError as error:
            # The disk may have room again; but what waits for it must not fill the memory.
            if self._unwritten > _GIVE_UP_BATCHES:
                self._lose_archive(error)
                self.archive = None
            elif not self.problems.counts["reduced-archive"]:
                self.problems.add("reduced-archive", f"{error}; tried again as long as the run goes on")

    def _lose_archive(self, error: ArchiveError) -> None:
        self.problems.add("reduced-archive", f"{error}; make room and replay the raw archive")

    def _finish_reduced(self) -> dict[int, str]:
        if self.archive is None:
            return {}
        status = {"success": "complete"}.get(str(self._stop.get("exit_status")), "failed")
        attributes = {
            "warnings": json.dumps(self.problems.lines()),
            "exit_status": str(self._stop.get("exit_status", "no stop document")),
            "n_rejected": self.progress.n_rejected,
        }
        try:
            return self.archive.finish(status, attributes)
        except (HedmLiveError, OSError) as error:
            self._lose_archive(ArchiveError(str(error)))
            return {}

    def _finish_raw(self) -> None:
        if self._raw is None:
            return
        roles = self._assembler.roles
        scalars = {role: roles.raw(role, {}) for role in ("lattice_parameters", "space_group")}
        try:
            self._raw.finish(
                RunSummary(
                    columns={name: np.array(values) for name, values in self._columns.items()},
                    sources=roles.sources,
                    scalars={role: value for role, value in scalars.items() if value is not None},
                    start=self.start,
                    stop=self._stop,
                    frame_files=self._frame_files,
                    problems=self.problems.lines(),
                )
            )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            self.problems.add("raw-archive", f"{self._raw.path}: its summary cannot be written: {error}")

    def _scalar_roles(self) -> tuple[str, ...]:
        return tuple(r for r in (*SCAN_ROLES, *self._settings.further_roles) if r in self._settings.roles)


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FrameError(f"{path}: cannot be read as .npy: {error}") from None

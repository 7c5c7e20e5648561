"""The files of one scan: what is there of them now, and which files they are."""

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from ..streaming import CompressedImage, ReplayError, SparseImage
from .foreign_files import look_file, scan_name, series_of
from .foreign_look import Look, Piece, Values
from .hdf5 import NotYet
from .motor_logs import FramesOf, read_log
from .readers import make_reader
from .watch_settings import WatchSettings

_HASHED = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLook:
    """All detectors' frames of a scan, as far as they are there."""

    looks: Mapping[str, Look]
    "Data key of the images to what is there of them."
    values: Mapping[str, Values]
    "Data key to motor, from the files or else from the logs."
    lacking: tuple[str, ...]
    "Data keys that files and logs should have and have not."
    notes: tuple[str, ...]
    "What is odd about files and logs."
    finished: bool
    "Whether nothing is going to change any more."

    @property
    def n_frames(self) -> int:
        """Frames of the detector that has most."""
        return max(look.n_frames for look in self.looks.values())

    @property
    def n_ready(self) -> int:
        """Frames that can be told: of every detector, and with all motors that are to come."""
        if self.finished:
            return self.n_frames
        # A file without an end may be half written; the next one says that it is whole.
        ready = min(look.n_frames - look.last_may_be_partial for look in self.looks.values())
        for each in self.values.values():
            if each.per_frame:
                ready = min(ready, _reach(each.values))
        return 0 if self.lacking else ready

    @property
    def time(self) -> np.ndarray | None:
        """Time of each frame, where a file says it."""
        return next((look.time for look in self.looks.values() if look.time is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The files of one scan: one a detector, or the first of its series."""

    paths: Mapping[str, Path]
    "Data key of the images to file."
    folder: Path
    "Folder that logs are looked for in."
    settings: WatchSettings = field(default_factory=WatchSettings)
    "Where things lie in the files."
    dark_stream: str = "dark"
    "Name of the stream of dark frames."

    @property
    def first(self) -> Path:
        """The file of the first detector that has one."""
        return next((path for path in self.paths.values() if path.exists()), next(iter(self.paths.values())))

    @property
    def name(self) -> str:
        """Name for archives."""
        return scan_name(self.first)

    def files(self) -> list[Path]:
        """Return all files that are there now, but for those that a master leads to."""
        return [path for first in self.paths.values() for path in series_of(first)]

    def look(self, *, finished: bool) -> ScanLook:
        """Return what is there now.

        Raises
        ------
        NotYet
            A file cannot be read yet.
        ReplayError
            A file is broken, or no file of frames.
        """
        there = {key: path for key, path in self.paths.items() if not finished or path.exists()} or self.paths
        looks = {key: look_file(path, self.settings.profile, finished=finished) for key, path in there.items()}
        values: dict[str, Values] = {}
        for look in looks.values():
            values = dict(look.values) | values
        lacking = {key for look in looks.values() for key in look.lacking if key not in values}
        notes = [note for look in looks.values() for note in look.notes]
        notes += [f"{self.paths[key]}: never came; {key} has no frames" for key in self.paths.keys() - there.keys()]
        if self.settings.profile.dark and not finished and not all(map(self._has_darks, looks.values())):
            lacking.add("dark frames")
        for log in self.settings.logs:
            if not set(log.fields) <= values.keys():
                found = read_log(log, self._frames_of(next(iter(looks.values()))))
                lacking |= set(log.fields) - values.keys()
                if found is not None:
                    logged = {key: Values(values=found.values[key], source=found.sources[key]) for key in found.values}
                    values = logged | values
                    notes += found.notes
                lacking -= values.keys()
        values = {
            key: replace(each, unit=each.unit or self.settings.units.get(key, "")) for key, each in values.items()
        }
        return ScanLook(
            looks=looks, values=values, lacking=tuple(sorted(lacking)), notes=tuple(notes), finished=finished
        )

    def identity(self, look: ScanLook) -> str:
        """Return a uid that says which file this is, and that stays while it grows: of its path and its first frame."""
        whole = hashlib.sha256()
        for key, each in look.looks.items():
            whole.update(str(self.paths[key].absolute()).encode())
            reader = make_reader(resource_of(each.pieces[0], key), 1)
            try:
                _update(whole, reader.read(each.pieces[0].present[0]))
            finally:
                reader.close()
        return str(uuid5(NAMESPACE_URL, whole.hexdigest()))

    def _has_darks(self, look: Look) -> bool:
        """Tell whether all dark frames have come: how many that is, a growing file does not say."""
        wanted = self.settings.profile.dark_frames
        darks = () if look.darks is None else look.darks.present
        return wanted is not None and len(darks) > 0 and darks[-1] + 1 >= wanted

    def _frames_of(self, look: Look) -> FramesOf:
        name = scan_name(self.first)
        digits = name[len(name.rstrip("0123456789")) :]
        return FramesOf(
            folder=self.folder,
            name=name,
            number=int(digits) if digits else None,
            numbers=look.numbers if look.numbers is not None else range(1, look.n_frames + 1),
            time=look.files[0].stat().st_mtime,
        )


class Follow(Protocol):
    """Says what there is of a scan."""

    def __call__(self, n_told: int) -> ScanLook | None:
        """Return what is there if it is more than has been told, or finished; None if it is neither yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Looks at files that do not change any more."""

    scan: Scan
    "The files."

    def __call__(self, n_told: int = 0) -> ScanLook:
        """Return all there is.

        Raises
        ------
        ReplayError
            They cannot be read, or hold no frame.
        """
        try:
            look = self.scan.look(finished=True)
        except NotYet as error:
            raise ReplayError(f"{self.scan.first}: cannot be read ({' '.join(str(error).split())})") from None
        if not look.n_frames:
            raise ReplayError(f"{self.scan.first}: holds no frames")
        return look


def resource_of(piece: Piece, key: str, *, whole: bool = True) -> dict[str, Any]:
    """Return what a StreamResource says of a piece of a file; with an empty uid, if it is to be whole."""
    said = {"mimetype": piece.mimetype, "uri": piece.uri, "data_key": key, "parameters": dict(piece.parameters)}
    return {"uid": "", **said} if whole else said


def content_uid(look: ScanLook) -> Generator[bool, None, str]:
    """Return a uid that follows from the content of all files: the same files are always the same run.

    It gives True now and then: to read all of a large file takes a while, in which others may have something to do.
    """
    digests: list[str] = []
    for path in dict.fromkeys(path for each in look.looks.values() for path in each.files):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(_HASHED):
                digest.update(part)
                yield True
        digests.append(digest.hexdigest())
    together = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return str(uuid5(NAMESPACE_URL, together))


def _reach(values: np.ndarray) -> int:
    """Return how many values there are before the first that is not there yet."""
    missing = np.flatnonzero(~np.isfinite(values))
    return int(missing[0]) if len(missing) else len(values)


def _update(whole: Any, image: Any) -> None:
    """Add the content of an image to a hash."""
    if isinstance(image, SparseImage):
        for column in (image.row, image.col, image.value):
            whole.update(np.ascontiguousarray(column).tobytes())
    elif isinstance(image, tuple):
        for part in image:
            _update(whole, part)
    elif isinstance(image, CompressedImage):
        whole.update(bytes(image.chunk))
    else:
        whole.update(np.ascontiguousarray(image).tobytes())

"""The raw archive: one HDF5 file a run that can be replayed alone, and is readable up to the last flush after kill -9.

While it grows the file is in SWMR mode, which allows no new group and no text of variable length: documents are kept
as bytes of JSON lines with an index of their ends, and the scan as a table whose columns the settings name. What NeXus
wants besides is written when the run is over.
"""

import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import ArchiveError, DocumentError, HedmLiveError
from .encoding import ArchivedImage, StoredImage, decode, encode
from .hdf5 import RESERVE, WRITTEN_FOR, abandon, check_room, dataset, nexus_group, open_to_write, subgroup, write_rows
from .raw_frames import relative_path
from .raw_images import ImageStore
from .raw_layout import FORMAT, RunSummary, Taken, image_place, read_line, write_summary
from .raw_scan import ScanTable
from .readers import HDF5Reader, file_path
from .settings import Settings
from .worker import array_bytes

_FLUSH_BYTES = 1 << 20
_COPY_BYTES = 1 << 30


class RawArchive:
    """Writes the raw archive of one run.

    Parameters
    ----------
    path
        The file; it must not exist.
    settings
        Streams, roles and detectors; kept in the file.
    start
        The start document.
    clock
        Gives seconds, to flush in time.

    Raises
    ------
    ArchiveError
        The file exists, or cannot be written.
    """

    def __init__(
        self, path: Path, settings: Settings, start: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._settings = settings
        self._clock = clock
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._n_flushed = 0
        self._n_bytes = 0
        self._flushed_at = clock()
        self._failed = False
        self._broken = False
        self._finished: h5py.File | None = None
        self._growing = False
        self._file: h5py.File | None = self._create(start)
        # Kept, as to look them up with each flush costs more than to write.
        self._bytes, self._ends = (dataset(self._file, f"entry/documents/{name}") for name in ("bytes", "end"))
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._datums: dict[str, str] = {}
        self._images = ImageStore(self._file, settings, self._read_image)
        self._scan = ScanTable(self._file, settings, start)

    def __len__(self) -> int:
        """Return how many documents there are."""
        return self._n_flushed + len(self._lines)

    def append(self, name: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        """Append one document, and return it with `ArchivedImage` in the place of images, which are stored apart.

        Raises
        ------
        ArchiveError
            It cannot be written. From then on nothing is, and nothing is said: the archive ends here.
        DocumentError
            It was archived, but something in it could not be and is replaced by its name.
        """
        with self._lock:
            if self._failed or self._file is None:
                return doc
            archived, lost = doc, list[str]()
            with self._failing():
                check_room(self.path, array_bytes(doc) + self._waiting_bytes)
                # A malformed document is archived as it is.
                with suppress(KeyError, TypeError, ValueError, IndexError, AttributeError):
                    archived = self._images.push(name, doc)
                self._scan.push_any(name, doc)
                with suppress(KeyError, TypeError, ValueError, AttributeError, HedmLiveError):
                    self._link_early(name, doc)
                line, lost = encode(name, archived)
                self._lines.append(line)
                self._waiting_bytes += len(line)
                if self._due():
                    self.flush()
            if lost:
                raise DocumentError(f"a {name} document holds what no archive can: {lost[0]}; the rest is archived")
            return archived

    def flush(self) -> None:
        """Write what waits in memory so that a reader, or a restart after a crash, sees it."""
        with self._lock:
            self._flushed_at = self._clock()
            if not self._lines or self._file is None:
                return
            self._scan.flush()
            sizes = np.array([len(line) for line in self._lines], np.int64)
            joined = np.frombuffer(b"".join(self._lines), np.uint8)
            write_rows(self._bytes, self._n_bytes, joined)
            # The end goes last: a reader that sees it finds the bytes there.
            write_rows(self._ends, self._n_flushed, self._n_bytes + np.cumsum(sizes))
            if not self._is_growing(self._file):
                self._file.swmr_mode = True
            self._file.flush()
            self._n_bytes += len(joined)
            self._n_flushed += len(self._lines)
            self._lines.clear()
            self._waiting_bytes = 0

    def flush_if_due(self) -> None:
        """Flush if documents have waited for `ArchiveSettings.flush_seconds`.

        Raises
        ------
        ArchiveError
            They cannot be written; the archive ends here.
        """
        with self._lock:
            if self._failed or not self._lines or not self._due():
                return
            with self._failing():
                check_room(self.path, self._waiting_bytes)
                self.flush()

    @property
    def failed(self) -> bool:
        """Whether it could not be written any further."""
        return self._failed

    @property
    def n_flushed(self) -> int:
        """Documents that other processes can read."""
        return self._n_flushed

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Data keys of the detectors' images."""
        return tuple(detector.image for detector in self._settings.detectors)

    @property
    def copied(self) -> dict[str, str]:
        """Data key to name of the detectors whose frames were copied from a frame-cache."""
        return self._images.copied

    def document(self, index: int) -> tuple[str, Any]:
        """Return one document as it was archived, with `ArchivedImage` in the place of images."""
        with self._lock:
            if index >= self._n_flushed:
                return decode(self._lines[index - self._n_flushed], self._archived)
            return decode(read_line(self._readable(), index), self._archived)

    def finish(self, summary: RunSummary) -> tuple[list[str], list[str]]:
        """Write the rest, as NeXus wants it, and close the file.

        Returns
        -------
        What a reconstruction wants and the archive has not, by name; and what could not be written as it should.

        Raises
        ------
        ArchiveError
            It cannot be written; the documents are as safe as they were.
        """
        with self._lock:
            if self._file is None:
                return [], []
            try:
                if not self._failed:
                    with self._failing():
                        check_room(self.path, self._waiting_bytes)
                        self.flush()
                self.close()
                return ([], []) if self._failed else self._write_summary(summary)
            except ArchiveError:
                self.close()
                raise
            except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
                raise ArchiveError(f"{self.path}: its end cannot be written: {_why(error)}") from error

    def close(self) -> None:
        """Close the file as it is; it can still be read until `release`."""
        with self._lock:
            if self._file is not None:
                file, self._file = self._file, None
                self._images.close()
                if self._broken:
                    abandon(file, self._images)
                else:
                    file.close()

    def release(self) -> None:
        """Close what `document` and images opened after the end."""
        with self._lock:
            if self._finished is not None:
                self._finished.close()
                self._finished = None

    @contextmanager
    def _failing(self) -> Generator[None]:
        try:
            yield
        except ArchiveError as error:
            self._failed = True
            raise ArchiveError(f"{self.path}: cannot be written: {_why(error)}") from error
        except (OSError, ValueError, RuntimeError) as error:
            self._failed = self._broken = True
            raise ArchiveError(f"{self.path}: cannot be written: {_why(error)}") from error

    def _link_early(self, name: str, doc: Mapping[str, Any]) -> None:
        """Link a detector's own file before SWMR begins, after which there can be no new link until the end.

        Where darks come first nothing is linked before the end: their images begin SWMR, and the file of the frames is
        named after them, or is that of the darks, whose rows are no frames.
        """
        if self._file is None or self._is_growing(self._file):
            return
        if name == "stream_resource" and doc["mimetype"] == "application/x-hdf5":
            self._link(str(doc["data_key"]), file_path(str(doc["uri"])), doc["parameters"])
        elif name == "resource" and "HDF5" in doc["spec"]:
            self._resources[str(doc["uid"])] = doc
        elif name == "datum":
            self._datums[str(doc["datum_id"])] = str(doc["resource"])
        elif name == "event":
            # Which detector an older resource is of, the first event says.
            named = {key: doc["data"][key] for key in self.image_keys if isinstance(doc["data"].get(key), str)}
            for key, datum in named.items():
                resource = self._resources[self._datums[datum]]
                path = f"{str(resource['root']).rstrip('/')}/{str(resource['resource_path']).lstrip('/')}"
                self._link(key, Path(path), resource["resource_kwargs"])

    def _link(self, key: str, path: Path, parameters: Mapping[str, Any]) -> None:
        names = {detector.image: detector.name for detector in self._settings.detectors}
        if self._file is None or key not in names or not self._scan.is_of_frames(key):
            return
        group = nexus_group(self._file, f"entry/instrument/{names[key]}", "NXdetector")
        if group.get("data", getlink=True) is None:
            target = relative_path(path, self.path.absolute().parent)
            group["data"] = h5py.ExternalLink(target, HDF5Reader(path, parameters, 1).dataset)

    def _write_summary(self, summary: RunSummary) -> tuple[list[str], list[str]]:
        """Write the summary into a copy and swap it in: a process killed meanwhile leaves the documents whole."""
        target = self.path
        copy = self.path.with_suffix(".part")
        size = self.path.stat().st_size
        free = shutil.disk_usage(self.path.parent).free
        # Of a file with many frames inside a copy would take too long; there the risk is a few milliseconds at the end.
        if size < min(_COPY_BYTES, free - 2 * RESERVE):
            shutil.copyfile(self.path, copy)
            target = copy
        try:
            check_room(self.path, 0)
            with open_to_write(target, "r+") as file:
                stamps = self._scan.stamps(summary.columns["frame"])
                taken = Taken(of_key=self._scan.times, per_frame=stamps)
                problems = write_summary(file, self.path, self._settings, summary, taken)
                missing = [str(name) for name in subgroup(file, "entry/hedm").attrs["missing"]]
                subgroup(file, "entry").attrs["finished"] = True
            if target is copy:
                copy.replace(self.path)
            return missing, problems
        except BaseException:
            with suppress(OSError):
                copy.unlink(missing_ok=True)
            raise

    def _create(self, start: Mapping[str, Any]) -> h5py.File:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_room(self.path, 0)
            file = h5py.File(self.path, "x", libver=WRITTEN_FOR)
        except OSError as error:
            what = "exists already" if self.path.exists() else f"cannot be made: {_why(error)}"
            raise ArchiveError(f"{self.path}: {what}; choose another folder or stem") from None
        file.attrs["default"] = "entry"
        entry = nexus_group(file, "entry", "NXentry")
        entry.attrs["format"] = FORMAT
        entry.attrs["hedmlive_version"] = version("hedmlive")
        entry.attrs["run_uid"] = str(start["uid"])
        entry.attrs["settings"] = self._settings.to_json()
        entry.attrs["finished"] = False
        documents = nexus_group(entry, "documents", "NXcollection")
        documents.attrs["meaning"] = "Bluesky documents of the run: lines of JSON in `bytes`, each up to its `end`"
        documents.create_dataset("bytes", (0,), np.uint8, maxshape=(None,), chunks=(1 << 16,))
        documents.create_dataset("end", (0,), np.int64, maxshape=(None,), chunks=(1 << 10,))
        nexus_group(entry, "instrument", "NXinstrument")
        return file

    def _is_growing(self, file: h5py.File) -> bool:
        """Tell whether the file is in SWMR mode, in which it then stays."""
        self._growing = self._growing or file.swmr_mode
        return self._growing

    def _due(self) -> bool:
        if not self._images.laid_out:
            return False
        late = self._clock() - self._flushed_at >= self._settings.archive.flush_seconds
        return late or self._waiting_bytes > _FLUSH_BYTES

    def _readable(self) -> h5py.File:
        """Return the file that is written, or when that is over the finished one."""
        if self._file is not None:
            return self._file
        if self._finished is None:
            self._finished = h5py.File(self.path, "r", libver="latest")
        return self._finished

    def _archived(self, stored: StoredImage) -> ArchivedImage:
        return ArchivedImage(stored=stored, read=self._read_image)

    def _read_image(self, stored: StoredImage) -> np.ndarray:
        with self._lock:
            return dataset(self._readable(), image_place(stored))[stored.index]


def _why(error: Exception) -> str:
    return " ".join(str(error.args[-1] if isinstance(error, ArchiveError) and error.args else error).split())

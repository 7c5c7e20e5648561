"""Guard of the detector's files: whether they hold every frame that the camera took.

File writers of areaDetector keep beside each frame the number that the camera gave it, `NDArrayUniqueId`. A frame that
the writer lost leaves a gap there, and nowhere else: every image behind it is one that a later point took.
"""

from collections import deque
from collections.abc import Iterator

import h5py
import numpy as np

from .guards_base import Warned
from .hdf5 import NotYet, refresh, subgroup
from .pending import InFile, Pending
from .readers import HDF5Reader

_PLACES = (
    "/entry/instrument/NDAttributes/NDArrayUniqueId",
    "/entry/NDAttributes/NDArrayUniqueId",
    "/measurement/instrument/detector/NDArrayUniqueId",
    "/defaults/NDArrayUniqueId",
    "/WM/NDArrayUniqueId",
)
"""Where the layouts of beamlines put the numbers; the first is areaDetector's own."""
_NAMED = 8
"""Gaps that are told one by one; further ones are counted with the last of them."""
_MOST_WAIT = 1 << 16
"""Frames that wait for their numbers."""


class LostFrames:
    """Looks at the numbers of one detector's frames, file by file.

    Numbers rise by what they rise in the first three frames. Where they fall or stay, they are counted anew.

    Parameters
    ----------
    name
        Name of the detector.
    place
        Dataset of the numbers; None looks where beamlines put it.
    """

    def __init__(self, name: str, place: str | None) -> None:
        self._name = name
        self._place = place
        self._gaps = 0
        self._begin(None)

    def push(self, pending: Pending) -> Iterator[Warned]:
        """Note a frame that was announced; the numbers of the file before are looked at if it begins another."""
        source = pending.source
        if not isinstance(source, InFile) or not isinstance(source.reader, HDF5Reader):
            return
        if source.reader is not self._reader:
            yield from self.look(final=True)
            self._begin(source.reader)
        if self._watches:
            self._waiting.append((source.index * pending.described.per_event + source.part, pending.frame))
            self._watches = len(self._waiting) < _MOST_WAIT

    def look(self, *, final: bool = False) -> Iterator[Warned]:
        """Compare the numbers that have come; `final` where no more will."""
        if self._reader is None or not self._watches or not self._waiting:
            return
        end = 1 + max(row for row, _ in self._waiting)
        try:
            ids = self._read(self._reader, end)
        except NotYet:
            return
        if ids is None:
            self._watches = False
            if self._place is not None:
                text = f"guards.frame_ids is {self._place!r}, and {self._reader.path} holds no such row of numbers"
                yield Warned(kind="guard", text=text, cause="frame_ids")
            return
        yield from self._compared(ids, final=final)
        if final:
            yield from self._without_image()

    def explains(self, pending: Pending) -> bool:
        """Tell whether a frame that its file does not hold is lacking because so many were lost before it."""
        source = pending.source
        if not isinstance(source, InFile) or source.reader is not self._reader or not self._lost:
            return False
        return self._n <= source.index * pending.described.per_event + source.part < self._n + self._lost

    def _begin(self, reader: HDF5Reader | None) -> None:
        self._reader = reader
        self._watches = reader is not None
        self._file: h5py.File | None = None
        self._found: h5py.Dataset | None = None
        self._others: list[h5py.Dataset] = []
        self._waiting: deque[tuple[int, int]] = deque()
        self._n = self._lost = 0
        self._last = self._step = 0.0
        self._text = ""

    def _read(self, reader: HDF5Reader, end: int) -> np.ndarray | None:
        """Return the numbers that were not looked at; None if the file holds none that are those of our frames."""
        found, others = self._datasets(reader)
        fresh = all(refresh(data) for data in (found, *others) if data is not None)
        if found is not None and not fresh and len(found) < end:
            reader.close()
            found, others = self._datasets(reader)
        # Numbers count all frames of a file: among darks in a dataset of their own, ours are not at their rows.
        if found is None or any(len(data) for data in others):
            return None
        ids = np.asarray(found[self._n : end], dtype=np.float64)
        # What the writer has made room for, and not written yet.
        unwritten = np.flatnonzero(~(ids > 0) & (np.arange(self._n, self._n + len(ids)) > 0))
        return ids[: unwritten[0]] if len(unwritten) else ids

    def _datasets(self, reader: HDF5Reader) -> tuple[h5py.Dataset | None, list[h5py.Dataset]]:
        """Return the numbers, and the frames in other datasets than ours."""
        file = reader.file()
        if reader.dataset not in file:
            raise NotYet(f"no dataset {reader.dataset}")
        if file is not self._file:
            places = _PLACES if self._place is None else (self._place,)
            found = next((data for data in map(file.get, places) if isinstance(data, h5py.Dataset)), None)
            if found is not None and (found.ndim != 1 or found.dtype.kind not in "iuf"):
                found = None
            self._file, self._found, self._others = file, found, _other_frames(file, reader.dataset)
        return self._found, self._others

    def _compared(self, ids: np.ndarray, *, final: bool) -> Iterator[Warned]:
        if not self._step:
            if len(ids) < 3 and not final:
                return
            rises = np.diff(ids[:3])
            self._step = float(min(rises[rises > 0], default=1.0))
        if not len(ids):
            return
        before = np.r_[ids[0] - self._step if self._n == 0 else self._last, ids[:-1]]
        lost = np.maximum(np.rint((ids - before) / self._step) - 1, 0)
        total, gap = self._lost + np.cumsum(lost), np.cumsum(lost > 0)
        texts = [self._text, *(self._said(before[i], ids[i], lost[i], total[i]) for i in np.flatnonzero(lost))]
        first, self._n = self._n, self._n + len(ids)
        for _ in range(len(self._waiting)):
            row, frame = self._waiting.popleft()
            if row >= self._n:
                self._waiting.append((row, frame))
            elif row >= first and total[row - first]:
                at = int(gap[row - first])
                yield self._warned(frame, texts[at], self._gaps + at)
        self._last, self._lost, self._text = float(ids[-1]), int(total[-1]), texts[-1]
        self._gaps += int(gap[-1])

    def _without_image(self) -> Iterator[Warned]:
        """Name the frames that have no image, because so many were lost."""
        for row, frame in self._waiting:
            if row < self._n + self._lost:
                yield self._warned(frame, self._text, self._gaps)
        self._waiting.clear()

    def _warned(self, frame: int, text: str, gap: int) -> Warned:
        return Warned(kind="frame-lost", text=text, frame=frame, cause=f"{self._name} {min(gap, _NAMED)}")

    def _said(self, before: float, after: float, lost: float, total: float) -> str:
        file = "" if self._reader is None else self._reader.path.name
        return (
            f"{self._name}: {_many(lost, 'frame')} lost before this one: numbers in {file} go from {before:.0f} to "
            f"{after:.0f}; from here on a frame holds the image that was taken {_many(total, 'point')} later"
        )


def _other_frames(file: h5py.File, place: str) -> list[h5py.Dataset]:
    """Return the datasets of frames beside one."""
    group = subgroup(file, place.rpartition("/")[0] or "/")
    beside = [data for name in group if isinstance(data := group[name], h5py.Dataset) and data.ndim >= 3]
    return [data for data in beside if data.name != file[place].name]


def _many(n: float, what: str) -> str:
    return f"{n:.0f} {what}" if n == 1 else f"{n:.0f} {what}s"

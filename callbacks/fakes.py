"""Parts that fail, and a sink that keeps: to try out what happens when a disk is full or a server is gone."""

import errno
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..streaming import ArchiveError, Columns, Frame, PeaksOfFrame, Reducer, Table
from .raw_archive import RawArchive
from .reduced_archive import ReducedArchive


class FullDisk:
    """Says whether there is room; shared by the archives that lie on it.

    Parameters
    ----------
    room
        Writes that succeed before the disk is full.
    """

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: object) -> None:
        """Take room for one write.

        Raises
        ------
        ArchiveError
            There is none.
        """
        if self.room <= 0:
            raise ArchiveError(errno.ENOSPC, f"{path}: No space left on device")
        self.room -= 1


def full_raw_archive(disk: FullDisk) -> Callable[..., RawArchive]:
    """Return what makes raw archives on a disk that fills up."""

    class Archive(RawArchive):
        def flush(self) -> None:
            disk.write(self.path)
            super().flush()

    return Archive


def full_reduced_archive(disk: FullDisk) -> Callable[..., ReducedArchive]:
    """Return what makes reduced archives on a disk that fills up."""

    class Archive(ReducedArchive):
        def flush(self) -> None:
            disk.write(self.path)
            super().flush()

    return Archive


def raising_reducer(frames: set[int]) -> Callable[..., Reducer]:
    """Return what makes reducers that have a defect with some frames."""

    class Raising(Reducer):
        def find(self, frame: Frame) -> PeaksOfFrame:
            if frame.frame in frames:
                raise ZeroDivisionError(f"a defect with frame {frame.frame}")
            return super().find(frame)

    return Raising


class KeepingSink:
    """A sink that keeps what is published; while `away` is true, it answers like a server that is gone."""

    def __init__(self) -> None:
        self.away = False
        self.tables: dict[str, list[Mapping[str, np.ndarray]]] = {}
        self.metadata: dict[str, Any] = {}
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.projection: np.ndarray | None = None

    def open_reduction(
        self,
        uid: str,
        attempt: int,
        *,
        start: Mapping[str, Any],
        metadata: Mapping[str, Any],
        tables: Mapping[str, Table],
    ) -> None:
        """Make the place of a reduction."""
        self._answer()
        self.metadata |= {"uid": uid, **metadata}
        for table in tables:
            self.tables.setdefault(table, [])

    def stored(self, table: str) -> tuple[int, int]:
        """Return the number of the last batch and of the rows that are stored."""
        self._answer()
        batches = self.tables[table]
        return len(batches), sum(len(next(iter(batch.values()))) for batch in batches)

    def append_all(self, batches: Mapping[str, tuple[int, Columns]]) -> None:
        """Append batches; a second time does nothing."""
        self._answer()
        for table, (batch, columns) in batches.items():
            if batch > len(self.tables[table]):
                self.tables[table].append(columns)

    def update(self, metadata: Mapping[str, Any]) -> None:
        """Say more of the reduction."""
        self._answer()
        self.metadata |= metadata

    def put_projection(self, image: np.ndarray) -> None:
        """Keep the maximum projection."""
        self._answer()
        self.projection = image

    def close_reduction(self, metadata: Mapping[str, Any]) -> None:
        """Say that the reduction is over."""
        self._answer()
        self.metadata |= metadata

    def raw_document(self, name: str, doc: dict[str, Any]) -> str | None:
        """Publish a document of the run itself."""
        self._answer()
        self.documents.append((name, doc))

    def raw_reset(self, uid: str) -> None:
        """Remove what there is of the run itself."""
        self._answer()
        self.documents.clear()

    def close(self) -> None:
        """Close nothing."""

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("the server is gone")

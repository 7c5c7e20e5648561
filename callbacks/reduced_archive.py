"""The reduced archive: the tables of the reductions of one run, one dataset a column, growing while the run does."""

import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import (
    MAX_PROJECTION,
    ArchiveError,
    Batches,
    Columns,
    MaxProjection,
    Recipe,
    digest,
    join,
    tables_with_roles,
)
from .hdf5 import WRITTEN_FOR, NotYet, abandon, check_room, dataset, open_growing, open_to_write, subgroup
from .reduced_layout import (
    FORMAT,
    append_rows,
    attempt_name,
    copy_packed,
    make_attempt,
    read_all,
    read_attributes,
    read_rows,
    write_projection,
)

_FAILURES = (OSError, RuntimeError, ValueError, KeyError)
"""What h5py raises when a disk is full or a file is broken."""

_NEWEST_ROWS = 1 << 14
"""Rows of a table that are kept for who sends them on: a second of 30 frames with 500 peaks."""


class ReducedArchive:
    """Writes the tables of the detectors of one run, each a reduction of its own, into one file.

    Rows wait in memory until `flush`; readers, the publisher among them, see what was flushed. Reductions that the
    file holds already are safe: until the new ones are finished, a copy of the file without them lies beside it.

    Parameters
    ----------
    path
        The file; reductions that it holds already are kept, and new ones get the next numbers.
    run_uid
        uid of the raw run.
    recipe
        The recipe.
    detectors
        Names of the detectors, one reduction each.
    roles
        Further scalar roles, name to unit.
    motors
        Roles that the scan moves, of which ``tracks`` has a mean each.
    settings
        The settings as JSON, kept with each reduction so that it can be done again.

    Raises
    ------
    ArchiveError
        The file cannot be written, or is another run's.
    """

    def __init__(
        self,
        path: Path,
        run_uid: str,
        recipe: Recipe,
        detectors: tuple[str, ...],
        roles: Mapping[str, str],
        *,
        motors: tuple[str, ...] = (),
        settings: str = "{}",
    ) -> None:
        self.path = path
        self.tables = tables_with_roles(
            roles, fit=recipe.fit != "none", candidates=recipe.keep_candidates, motors=motors
        )
        self._lock = threading.RLock()
        self._waiting: dict[tuple[int, str], list[Columns]] = {}
        # Kept open: to find each of them anew would take longer than to write the rows of a frame.
        self._columns: dict[tuple[int, str], dict[str, h5py.Dataset]] = {}
        # How many rows each table has, and the newest ones: who sends rows on has them without HDF5, which took 12 of
        # the 100 ms between two batches, and as many again waiting for who writes a file.
        self._n_rows: dict[tuple[int, str], int] = {}
        self._newest: dict[tuple[int, str], deque[tuple[int, Columns]]] = {}
        self._unflushed = False
        self._broken = False
        self._file: h5py.File | None = None
        self._finished: h5py.File | None = None
        self._before = path.with_suffix(".before.h5")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_room(path, path.stat().st_size if path.exists() else 0)
            _recover(path, self._before)
            if path.exists():
                # Before it is opened: a copy of an open file bears the mark of its writer.
                _check(path, run_uid)
                _copy_whole(path, self._before)
            with open_to_write(path, "a") as file:
                first = _prepare(file, run_uid)
                self.attempts = tuple(range(first, first + len(detectors)))
                for attempt, detector in zip(self.attempts, detectors, strict=True):
                    group = make_attempt(file, attempt, run_uid, recipe, detector, self.tables)
                    group.attrs["settings"] = settings
                    group.attrs["motors"] = json.dumps(motors)
            self._n_rows = {(attempt, table): 0 for attempt in self.attempts for table in self.tables}
            self._file = file = open_to_write(path, "r+")
            file.swmr_mode = True
        except ArchiveError:
            raise
        except _FAILURES as error:
            raise ArchiveError(f"{path}: cannot be written: {' '.join(str(error).split())}") from None

    def write(self, attempt: int, batches: Batches) -> None:
        """Take the new rows of a reduction."""
        with self._lock:
            for table, columns in batches.items():
                self._waiting.setdefault((attempt, table), []).append(columns)

    def flush(self) -> None:
        """Write the rows that wait.

        Raises
        ------
        ArchiveError
            They cannot be written; they are kept, and tried again with the next flush.
        """
        with self._lock:
            if not self._waiting and not self._unflushed:
                return
            file = self._open_file()
            check_room(self.path, sum(_bytes(batches) for batches in self._waiting.values()))
            self._unflushed = True
            try:
                for attempt, table in list(self._waiting):
                    rows = join([{table: columns} for columns in self._waiting[attempt, table]])[table]
                    first = self._n_rows[attempt, table]
                    append_rows(self._columns_of(file, attempt, table), first, rows)
                    # One by one: a table that is written must not be written again when the next one fails.
                    del self._waiting[attempt, table]
                    self._remember(attempt, table, first, rows)
                file.flush()
                self._unflushed = self._broken = False
            except _FAILURES as error:
                self._broken = True
                raise ArchiveError(f"{self.path}: rows cannot be written: {' '.join(str(error).split())}") from error

    def rows(self, attempt: int, table: str) -> int:
        """Return how many rows of a table can be read."""
        # Not in the middle of a flush: who counts frames first finds the peaks of all of them.
        with self._lock:
            return self._n_rows[attempt, table]

    def attributes(self, attempt: int) -> dict[str, Any]:
        """Return what is written about a reduction."""
        with self._lock:
            return read_attributes(subgroup(self._readable(), attempt_name(attempt)))

    def read(self, attempt: int, table: str, first: int, end: int) -> Columns:
        """Return rows first to end (exclusive) of a table."""
        with self._lock:
            newest = self._newest.get((attempt, table))
            if newest and newest[0][0] <= first:
                return _slice(newest, first, end)
            return read_rows(self._table(self._readable(), attempt, table), self.tables[table], first, end)

    def projection(self, attempt: int) -> np.ndarray | None:
        """Return the maximum projection of a finished reduction, shape (rows, columns); None if it has none."""
        with self._lock:
            group = subgroup(self._readable(), attempt_name(attempt))
            return np.asarray(dataset(group, MAX_PROJECTION)[()]) if MAX_PROJECTION in group else None

    def finish(
        self,
        status: str,
        attributes: Mapping[str, Any],
        of_each: Mapping[int, Mapping[str, Any]] | None = None,
        shapes: Mapping[int, tuple[int, int]] | None = None,
    ) -> dict[int, str]:
        """Write what waits, the digests and the attributes, close the file, and return attempt to digest.

        Parameters
        ----------
        status
            How the run ended.
        attributes
            What is written about every reduction.
        of_each
            What is written about one, by its attempt.
        shapes
            Rows and columns of its frames; a reduction without them gets no projection.

        Raises
        ------
        ArchiveError
            The file cannot be written.
        """
        with self._lock:
            try:
                self.flush()
                images = {attempt: MaxProjection(shape) for attempt, shape in (shapes or {}).items()}
                digests = {
                    attempt: digest(self.tables, self._reader_of(attempt, images.get(attempt)))
                    for attempt in self.attempts
                }
                self.close()
                said = {
                    each: {"digest": digests[each], "status": status, **attributes, **(of_each or {}).get(each, {})}
                    for each in self.attempts
                }
                _pack(self.path, said, images)
                self._before.unlink(missing_ok=True)
            except ArchiveError:
                raise
            except _FAILURES as error:
                why = " ".join(str(error).split())
                raise ArchiveError(f"{self.path}: cannot be finished: {why}") from error
            return digests

    def close(self) -> None:
        """Close the file as it is; its rows can still be read until `release`."""
        with self._lock:
            if self._file is not None:
                file, self._file = self._file, None
                columns, self._columns = self._columns, {}
                if self._broken:
                    abandon(file, columns)
                else:
                    file.close()

    def release(self) -> None:
        """Close what `read` opened after the end."""
        with self._lock:
            if self._finished is not None:
                self._finished.close()
                self._finished = None

    def _remember(self, attempt: int, table: str, first: int, rows: Columns) -> None:
        """Count rows that were written, and keep the newest of them."""
        columns = {each.name: rows[each.name].astype(each.dtype, copy=False) for each in self.tables[table].columns}
        n = len(next(iter(columns.values())))
        self._n_rows[attempt, table] = first + n
        newest = self._newest.setdefault((attempt, table), deque())
        newest.append((first, columns))
        while newest and first + n - newest[0][0] > _NEWEST_ROWS:
            newest.popleft()

    def _reader_of(self, attempt: int, image: MaxProjection | None) -> Callable[[str], Iterator[Columns]]:
        group = subgroup(self._open_file(), attempt_name(attempt))

        def read(table: str) -> Iterator[Columns]:
            for columns in read_all(group, self.tables[table]):
                if table == "pixels" and image is not None:
                    # They are in memory just now.
                    image.push(columns)
                yield columns

        return read

    def _columns_of(self, file: h5py.File, attempt: int, table: str) -> dict[str, h5py.Dataset]:
        if (attempt, table) not in self._columns:
            group = self._table(file, attempt, table)
            self._columns[attempt, table] = {name: dataset(group, name) for name in self.tables[table].names}
        return self._columns[attempt, table]

    def _table(self, file: h5py.File, attempt: int, table: str) -> h5py.Group:
        return subgroup(subgroup(file, attempt_name(attempt)), table)

    def _open_file(self) -> h5py.File:
        if self._file is None:
            raise ArchiveError(f"{self.path}: closed already")
        return self._file

    def _readable(self) -> h5py.File:
        """Return the file that is written, or when that is over the finished one."""
        if self._file is not None:
            return self._file
        if self._finished is None:
            try:
                self._finished = open_growing(self.path)
            except NotYet as error:
                raise ArchiveError(f"{self.path}: cannot be read: {' '.join(str(error).split())}") from None
        return self._finished


def _slice(parts: Sequence[tuple[int, Columns]], first: int, end: int) -> Columns:
    """Return rows first to end (exclusive) of parts that follow each other, of which each says where it begins."""
    found = [
        {name: column[max(first - start, 0) : max(end - start, 0)] for name, column in columns.items()}
        for start, columns in parts
    ]
    found = [each for each in found if len(next(iter(each.values())))] or found[:1]
    return found[0] if len(found) == 1 else {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _check(path: Path, run_uid: str) -> None:
    """Refuse a file that is not this run's."""
    with h5py.File(path, "r", libver="latest") as file:
        if file.attrs.get("format") != FORMAT or file.attrs.get("run_uid") != run_uid:
            held = file.attrs.get("run_uid", "something else")
            raise ArchiveError(f"{path}: holds {held}, not run {run_uid}; choose another folder or stem")


def _prepare(file: h5py.File, run_uid: str) -> int:
    """Say whose the file is and return the next attempt."""
    if "format" not in file.attrs:
        file.attrs["format"], file.attrs["run_uid"] = FORMAT, run_uid
    return 1 + max((int(name.removeprefix("reduction_")) for name in list(file)), default=-1)


def _recover(path: Path, before: Path) -> None:
    """Bring a file that a killed process left behind into a state that can be added to."""
    if before.exists():
        # Killed while adding to finished reductions: those come back, the unfinished one is done again.
        before.replace(path)
    if not path.exists():
        return
    try:
        open_to_write(path, "r+").close()
    except OSError:
        if not h5py.is_hdf5(path):
            raise
        # Killed in its first reduction. A copy drops the mark of the writer that is gone, and keeps its rows.
        copy = path.with_suffix(".part")
        try:
            with open_growing(path) as old, h5py.File(copy, "w", libver=WRITTEN_FOR) as new:
                new.attrs.update(dict(old.attrs))
                for name in list(old):
                    old.copy(name, new)
            copy.replace(path)
        except NotYet:
            # Killed before its first row: nothing can be read, and nothing was there.
            path.replace(path.with_suffix(".killed.h5"))
        finally:
            copy.unlink(missing_ok=True)


def _copy_whole(path: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    try:
        shutil.copyfile(path, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _pack(path: Path, attributes: Mapping[int, Mapping[str, Any]], images: Mapping[int, MaxProjection]) -> None:
    """Write a finished archive anew, compressed and with its last attributes, and swap it in at once."""
    packed = path.with_suffix(".part")
    try:
        check_room(path, path.stat().st_size)
        with h5py.File(path, "r", libver="latest") as old, h5py.File(packed, "w", libver=WRITTEN_FOR) as new:
            new.attrs.update(dict(old.attrs))
            for name in list(old):
                copy_packed(subgroup(old, name), new.create_group(name))
            _write_last(new, attributes, images)
        packed.replace(path)
    except OSError:
        # The disk has no room for a second copy: the first is whole, and stays.
        with suppress(OSError):
            packed.unlink(missing_ok=True)
        check_room(path, 0)
        with open_to_write(path, "r+") as file:
            _write_last(file, attributes, {})


def _bytes(batches: list[Columns]) -> int:
    return sum(column.nbytes for columns in batches for column in columns.values())


def _write_last(
    file: h5py.File, attributes: Mapping[int, Mapping[str, Any]], images: Mapping[int, MaxProjection]
) -> None:
    for attempt, said in attributes.items():
        subgroup(file, attempt_name(attempt)).attrs.update(dict(said))
    for attempt, image in images.items():
        write_projection(subgroup(file, attempt_name(attempt)), image)

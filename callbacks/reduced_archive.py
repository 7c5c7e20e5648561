"""The reduced archive: the tables of the reductions of one run, one dataset a column, growing while the run does."""

import json
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import hdf5plugin
import numpy as np

from ..streaming import ArchiveError, Batches, Column, Columns, Recipe, Table, digest, join, tables_with_roles
from .readers import NotYet, open_growing

FORMAT = "hedmlive-reduced-1"
_CHUNK = 1 << 12
_READ_ROWS = 1 << 20


def attempt_name(attempt: int) -> str:
    """Return the group of an attempt."""
    return f"reduction_{attempt:04d}"


class ReducedArchive:
    """Writes the tables of the detectors of one run, each a reduction of its own, into one file.

    Rows wait in memory until `flush`; readers, the publisher among them, see what was flushed.

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
        settings: str = "{}",
    ) -> None:
        self.path = path
        self.tables = tables_with_roles(roles)
        self._lock = threading.RLock()
        self._waiting: dict[int, list[Batches]] = {}
        self._file: h5py.File | None = None
        self._finished: h5py.File | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _recover(path)
            with h5py.File(path, "a", libver="latest") as file:
                first = _prepare(file, run_uid)
                self.attempts = tuple(range(first, first + len(detectors)))
                for attempt, detector in zip(self.attempts, detectors, strict=True):
                    group = _make_group(file, attempt, run_uid, recipe, detector, self.tables)
                    group.attrs["settings"] = settings
            self._file = h5py.File(path, "r+", libver="latest")
            self._file.swmr_mode = True
        except OSError as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"{path}: cannot be written: {' '.join(str(error).split())}") from None

    def write(self, attempt: int, batches: Batches) -> None:
        """Take the new rows of a reduction."""
        if batches:
            with self._lock:
                self._waiting.setdefault(attempt, []).append(batches)

    def flush(self) -> None:
        """Write the rows that wait.

        Raises
        ------
        ArchiveError
            They cannot be written; they are kept, and tried again with the next flush.
        """
        with self._lock:
            if not self._waiting:
                return
            file = self._open_file()
            try:
                for attempt in list(self._waiting):
                    group = file[attempt_name(attempt)]
                    for name, columns in join(self._waiting[attempt]).items():
                        _append(group[name], columns, self.tables[name])
                    del self._waiting[attempt]
                file.flush()
            except (OSError, RuntimeError, ValueError) as error:
                raise ArchiveError(f"{self.path}: rows cannot be written: {' '.join(str(error).split())}") from error

    def rows(self, attempt: int, table: str) -> int:
        """Return how many rows of a table can be read."""
        with self._lock:
            return _rows(self._readable()[attempt_name(attempt)][table], self.tables[table])

    def attributes(self, attempt: int) -> dict[str, Any]:
        """Return what is written about a reduction."""
        with self._lock:
            return _attributes(self._readable()[attempt_name(attempt)])

    def read(self, attempt: int, table: str, first: int, end: int) -> Columns:
        """Return rows first to end (exclusive) of a table."""
        with self._lock:
            group = self._readable()[attempt_name(attempt)][table]
            return {name: group[name][first:end] for name in self.tables[table].names}

    def finish(self, status: str, attributes: Mapping[str, Any]) -> dict[int, str]:
        """Write what waits, the digests and the attributes, close the file, and return attempt to digest.

        Raises
        ------
        ArchiveError
            The file cannot be written.
        """
        with self._lock:
            try:
                self.flush()
                digests = {attempt: digest(self.tables, self._reader_of(attempt)) for attempt in self.attempts}
                self.close()
                with h5py.File(self.path, "r+", libver="latest") as file:
                    for attempt, each in digests.items():
                        group = file[attempt_name(attempt)]
                        group.attrs.update({"digest": each, "status": status} | dict(attributes))
                _compress(self.path)
            except OSError as error:
                if isinstance(error, ArchiveError):
                    raise
                raise ArchiveError(f"{self.path}: cannot be finished: {' '.join(str(error).split())}") from error
            return digests

    def close(self) -> None:
        """Close the file as it is; its rows can still be read until `release`."""
        with self._lock:
            if self._file is not None:
                file, self._file = self._file, None
                file.close()

    def release(self) -> None:
        """Close what `read` opened after the end."""
        with self._lock:
            if self._finished is not None:
                self._finished.close()
                self._finished = None

    def _reader_of(self, attempt: int) -> Any:
        return lambda table: _read_all(self._open_file()[attempt_name(attempt)], self.tables[table])

    def _open_file(self) -> h5py.File:
        if self._file is None:
            raise ArchiveError(f"{self.path}: closed already")
        return self._file

    def _readable(self) -> h5py.File:
        """Return the file that is written, or when that is over the finished one."""
        if self._file is not None:
            return self._file
        if self._finished is None:
            self._finished = h5py.File(self.path, "r", libver="latest", locking=False)
        return self._finished


class ReducedArchiveReader:
    """Reads a reduced archive, finished or growing.

    Raises
    ------
    ArchiveError
        The file is not a reduced archive, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ArchiveError(f"{path}: no such file; wanted a reduced archive")
        try:
            self._file = open_growing(path)
            if self._file.attrs.get("format") != FORMAT:
                raise KeyError("format")
            self.run_uid = str(self._file.attrs["run_uid"])
        except (NotYet, OSError, KeyError) as error:
            why = " ".join(str(error).split())
            raise ArchiveError(f"{path}: not a reduced archive that can be read ({why})") from None

    def __enter__(self) -> "ReducedArchiveReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def attempts(self) -> tuple[int, ...]:
        """Numbers of the reductions."""
        return tuple(sorted(int(name.removeprefix("reduction_")) for name in self._file))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def attributes(self, attempt: int) -> dict[str, Any]:
        """Return what is written about a reduction; `recipe`, `versions` and `warnings` as plain types."""
        return _attributes(self._group(attempt))

    def tables(self, attempt: int) -> dict[str, Table]:
        """Return the schema of a reduction."""
        return tables_with_roles(self.attributes(attempt)["roles"])

    def read(self, attempt: int, table: str) -> Columns:
        """Return a whole table."""
        group, schema = self._group(attempt)[table], self.tables(attempt)[table]
        n_rows = _rows(group, schema)
        return {name: group[name][:n_rows] for name in schema.names}

    def digest(self, attempt: int) -> str:
        """Compute the digest of a reduction from its tables."""
        tables, group = self.tables(attempt), self._group(attempt)
        return digest(tables, lambda name: _read_all(group, tables[name]))

    def _group(self, attempt: int) -> h5py.Group:
        try:
            return self._file[attempt_name(attempt)]
        except KeyError:
            raise ArchiveError(f"{self.path}: no reduction {attempt}; it holds {list(self.attempts)}") from None


def _attributes(group: h5py.Group) -> dict[str, Any]:
    attributes = {name: value.item() if isinstance(value, np.generic) else value for name, value in group.attrs.items()}
    for name in ("recipe", "versions", "warnings", "roles"):
        if name in attributes:
            attributes[name] = json.loads(str(attributes[name]))
    return attributes


def _prepare(file: h5py.File, run_uid: str) -> int:
    """Check that the file is this run's and return the next attempt."""
    if not len(file) and "format" not in file.attrs:
        file.attrs["format"], file.attrs["run_uid"] = FORMAT, run_uid
        return 0
    if file.attrs.get("format") != FORMAT or file.attrs["run_uid"] != run_uid:
        held = file.attrs.get("run_uid", "something else")
        raise ArchiveError(f"{file.filename}: holds {held}, not run {run_uid}; choose another folder or stem")
    return 1 + max((int(name.removeprefix("reduction_")) for name in file), default=-1)


def _recover(path: Path) -> None:
    """Clear the mark that a killed writer left, so that further attempts can be added to what it wrote."""
    if not path.exists():
        return
    try:
        h5py.File(path, "r+", libver="latest").close()
    except OSError:
        # The rows of the killed attempt stay readable in the file put aside; a copy drops the mark.
        aside = path.with_suffix(".killed.h5")
        path.rename(aside)
        with open_growing(aside) as old, h5py.File(path, "x", libver="latest") as new:
            new.attrs.update(dict(old.attrs))
            for name in old:
                old.copy(name, new)
        aside.unlink()


def _make_group(
    file: h5py.File, attempt: int, run_uid: str, recipe: Recipe, detector: str, tables: Mapping[str, Table]
) -> h5py.Group:
    group = file.create_group(attempt_name(attempt))
    packages = ("hedmlive", "numpy", "numba", "h5py")
    extra = {
        column.name: column.unit for column in tables["frames"].columns[len(tables_with_roles({})["frames"].columns) :]
    }
    group.attrs.update(
        {
            "NX_class": "NXcollection",
            "raw_run_uid": run_uid,
            "detector": detector,
            "recipe": json.dumps(recipe.as_dict()),
            "versions": json.dumps({name: version(name) for name in packages}),
            "roles": json.dumps(extra),
            "reduction_uid": str(uuid4()),
            "status": "running",
            "digest": "",
        }
    )
    for table in tables.values():
        sub = group.create_group(table.name)
        sub.attrs["NX_class"], sub.attrs["row"] = "NXcollection", table.row
        for column in table.columns:
            _make_column(sub, column)
    return group


def _make_column(group: h5py.Group, column: Column) -> None:
    # Not compressed while it grows: a compressed chunk that is written anew loses its old place under SWMR, which in
    # a long scan with five flushes a second would come to gigabytes.
    data = group.create_dataset(column.name, (0,), column.dtype, maxshape=(None,), chunks=(_CHUNK,))
    data.attrs["meaning"] = column.meaning
    if column.unit:
        data.attrs["units"] = column.unit


def _compress(path: Path) -> None:
    """Write a finished archive anew, compressed, and put it in the place of the other at once."""
    packed = path.with_suffix(".part")
    try:
        with h5py.File(path, "r", libver="latest") as old, h5py.File(packed, "w", libver="latest") as new:
            new.attrs.update(dict(old.attrs))
            for name, group in old.items():
                _copy_packed(group, new.create_group(name))
        packed.replace(path)
    except OSError:
        # The disk has no room for a second copy: the first is whole, and stays.
        packed.unlink(missing_ok=True)


def _copy_packed(old: h5py.Group, new: h5py.Group) -> None:
    new.attrs.update(dict(old.attrs))
    for name, item in old.items():
        if isinstance(item, h5py.Group):
            _copy_packed(item, new.create_group(name))
            continue
        packing = {"chunks": True, **hdf5plugin.Bitshuffle(cname="lz4")} if item.size else {}
        data = new.create_dataset(name, data=item[()], **packing)
        data.attrs.update(dict(item.attrs))


def _append(group: h5py.Group, columns: Columns, table: Table) -> None:
    n_rows = _rows(group, table)
    for name in table.names:
        data = group[name]
        # A row counts when every column has it, so a flush that failed half way is simply written again.
        data.resize(n_rows + len(columns[name]), axis=0)
        data[n_rows:] = columns[name]


def _rows(group: h5py.Group, table: Table) -> int:
    return min(len(group[name]) for name in table.names)


def _read_all(group: h5py.Group, table: Table) -> Iterator[Columns]:
    n_rows = _rows(group[table.name], table)
    for first in range(0, n_rows, _READ_ROWS):
        end = min(first + _READ_ROWS, n_rows)
        yield {name: np.asarray(group[table.name][name][first:end]) for name in table.names}

"""Adapters that run inside the Tiled server: SQL tables that survive concurrency, and our sparse frames.

A server's configuration names them (`server_configuration`); importing this module also makes new SQL tables
go through `LockedSQLAdapter`, for which Tiled's configuration has no key.
"""

import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pandas as pd
import pyarrow as pa
from tiled.adapters.sql import SQLAdapter
from tiled.adapters.utils import DataNotReadyError, IncompatibleShapeError
from tiled.catalog.adapter import STORAGE_ADAPTERS_BY_MIMETYPE
from tiled.ndslice import NDSlice
from tiled.storage import get_storage
from tiled.structures.array import ArrayStructure
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure
from tiled.utils import path_from_uri

from ..streaming import SettingsError
from .adapters_frames import EVERYTHING, FramesAdapter
from .archives_tables import refuse_strays
from .layout import SQL_PREFIX, table_identity
from .queries import RowQuery
from .tables_sql import index_statements, select_rows

_LOCK = threading.RLock()
"""One for the process: SQLite gives "database is locked", and DuckDB crashes, when two threads are inside."""

_DROPPED_AT_ONCE = 20_000

hdf5plugin.register(force=False)  # the filters that the archives are compressed with


class LockedSQLAdapter(SQLAdapter):
    """A SQL table that one thread at a time uses, with indexes of its own if it is one of ours."""

    @classmethod
    def init_storage(
        cls, storage: Any, data_source: DataSource[TableStructure], path_parts: list[str] | None = None
    ) -> DataSource[TableStructure]:
        """Make the SQL table if it is missing, with its indexes, and give the new dataset a number."""
        with _LOCK:
            made = super().init_storage(storage, data_source, path_parts)
            if made.parameters["table_name"].startswith(SQL_PREFIX):
                _make_indexes(storage, made)
            return made

    def append_partition(self, partition: int, data: Any) -> None:
        """Append rows in one transaction."""
        with _LOCK:
            super().append_partition(partition, data)

    def read(self, fields: list[str] | None = None) -> pd.DataFrame:
        """Return the rows of all partitions."""
        with _LOCK:
            return super().read(fields)

    def read_partition(self, partition: int, fields: list[str] | None = None) -> pd.DataFrame:
        """Return the rows of one partition."""
        with _LOCK:
            return super().read_partition(partition, fields)

    def select(self, wanted: RowQuery) -> tuple[pa.Table, tuple[int, ...] | None]:
        """Return rows in the order of the table's key, and the key after which the next page begins, if any."""
        return select_rows(self, wanted, _LOCK)


def append_together(batches: Sequence[tuple[LockedSQLAdapter, pa.Table]]) -> None:
    """Append rows to several tables, in one transaction for those that lie in the same database.

    Raises
    ------
    pa.ArrowInvalid, ValueError
        Columns are missing, or cannot be cast.
    """
    prepared = [(adapter, _prepared(adapter, rows)) for adapter, rows in batches]
    for storage in dict.fromkeys(adapter.storage for adapter, _ in prepared):
        with _LOCK, closing(storage.connect()) as connection:
            for adapter, rows in prepared:
                if adapter.storage is storage:
                    with connection.cursor() as cursor:
                        cursor.adbc_ingest(adapter.table_name, rows, mode="append")
            connection.commit()


def _prepared(adapter: LockedSQLAdapter, rows: pa.Table) -> pa.Table:
    """Return rows as Tiled keeps them: those of all datasets in one table, its columns in small letters."""
    rows = rows.cast(adapter.structure().arrow_schema_decoded)
    numbers = {
        "_dataset_id": np.full(len(rows), adapter.dataset_id, np.int32),
        "_partition_id": np.zeros(len(rows), np.int16),
    }
    return pa.table(numbers | {name.lower(): rows[name] for name in rows.column_names})


STORAGE_ADAPTERS_BY_MIMETYPE.set("application/x-tiled-sql-table", lambda: LockedSQLAdapter)


def _make_indexes(storage: Any, data_source: DataSource[TableStructure]) -> None:
    # Tiled's own index has one name for all tables, so that only the first table of a database gets it.
    name = data_source.parameters["table_name"]
    schema = data_source.structure.arrow_schema_decoded
    identity = table_identity(schema)
    if not identity or not set(identity) <= set(schema.names):
        raise SettingsError(f"SQL table {name}: identity {identity} came; wanted columns of {schema.names}")
    columns = ", ".join(f'"{column.lower()}"' for column in identity)
    statements = (
        f'CREATE UNIQUE INDEX IF NOT EXISTS "{name}_identity" ON "{name}"(_dataset_id, {columns})',
        f'CREATE INDEX IF NOT EXISTS "{name}_partition" ON "{name}"(_dataset_id, _partition_id)',
        *index_statements(name, schema.names, storage.dialect),
    )
    with closing(storage.connect()) as connection:
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        connection.commit()


def drop_rows(uri: str, table_name: str, dataset_id: int) -> None:
    """Delete the rows of one dataset from a SQL table, so many at a time that others can append in between.

    Parameters
    ----------
    uri
        The database.
    table_name
        One of our tables, as `sql_table_name` names them.
    dataset_id
        Number of the dataset.

    Raises
    ------
    SettingsError
        The table is none of ours.
    """
    if not table_name.startswith(SQL_PREFIX) or not table_name.replace("_", "").isalnum():
        raise SettingsError(f"SQL table {table_name!r} came; wanted one of ours, {SQL_PREFIX}...")
    storage: Any = get_storage(uri)
    # PostgreSQL has another name for the place of a row.
    place = "ctid" if storage.dialect == "postgresql" else "rowid"
    some = f'SELECT {place} FROM "{table_name}" WHERE _dataset_id = {int(dataset_id)} LIMIT {_DROPPED_AT_ONCE}'
    left = True
    while left:
        with _LOCK, closing(storage.connect()) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f'DELETE FROM "{table_name}" WHERE {place} IN ({some})')
            with connection.cursor() as cursor:
                cursor.execute(some.replace(f"LIMIT {_DROPPED_AT_ONCE}", "LIMIT 1"))
                left = cursor.fetchone() is not None
            connection.commit()


class SparseFramesAdapter(FramesAdapter):
    """Frames kept as lists of lit pixels, served as a dense array (frames, rows, columns), one chunk a frame.

    The group holds ``frame_start`` (frames + 1 offsets), ``row``, ``col`` and ``value``, and the attributes
    ``shape`` (rows, columns) and ``dtype``. It may be growing, if it is written in SWMR mode.
    """

    def __init__(
        self,
        data_uri: str,
        structure: ArrayStructure,
        dataset: str,
        *,
        metadata: Any = None,
        specs: Any = None,
    ) -> None:
        super().__init__(structure, metadata=metadata, specs=specs)
        self._path = path_from_uri(data_uri)
        self._dataset = dataset

    @classmethod
    def from_catalog(
        cls, data_source: DataSource[ArrayStructure], node: Any, /, dataset: str, **_: Any
    ) -> "SparseFramesAdapter":
        """Return the adapter of a registered group; parameter ``dataset`` is the path of the group."""
        refuse_strays(data_source, dataset, deep=True)
        return cls(
            data_source.assets[0].data_uri,
            data_source.structure,
            dataset,
            metadata=node.metadata_,
            specs=node.specs,
        )

    def read(self, slice: NDSlice = EVERYTHING) -> np.ndarray:  # noqa: A002  the name is Tiled's
        """Return part of the frames; only those asked for are made dense, one after the other.

        Raises
        ------
        DataNotReadyError
            A frame is registered that the file does not hold yet.
        IncompatibleShapeError
            The file's frames have another shape than the registered ones.
        """
        shape = self._structure.shape
        frames, rows, columns = (slice or EVERYTHING).expand_for_shape(shape)
        wanted = [frames] if isinstance(frames, int) else range(shape[0])[frames]
        with h5py.File(self._path, "r", swmr=True, libver="latest") as file:
            group: Any = file[self._dataset]
            size = tuple(int(n) for n in group.attrs["shape"])
            if size != shape[1:]:
                raise IncompatibleShapeError(f"{self._path}: frames of {size} came; wanted {shape[1:]}")
            if len(wanted) and max(wanted) > len(group["frame_start"]) - 2:
                held = len(group["frame_start"]) - 1
                raise DataNotReadyError(f"{self._path}: {held} frames came; wanted {max(wanted) + 1}")
            pieces = [self._dense(group, frame, size)[rows, columns].copy() for frame in wanted]
        if isinstance(frames, int):
            return pieces[0]
        empty = np.zeros(size, self._dtype)[rows, columns]
        return np.stack(pieces) if pieces else np.empty((0, *empty.shape), self._dtype)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return self._structure.data_type.to_numpy_dtype()

    def _dense(self, group: Any, frame: int, size: tuple[int, ...]) -> np.ndarray:
        first, end = (int(place) for place in group["frame_start"][frame : frame + 2])
        image = np.zeros(size, self._dtype)
        image[group["row"][first:end], group["col"][first:end]] = group["value"][first:end]
        return image

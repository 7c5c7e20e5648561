"""The digest: a hash of the reduced tables that is equal exactly when the science is equal.

SHA-256 over, for each table in the schema's order: its name, its number of rows, and for each column that is science
its name, its type and the SHA-256 of its values, little-endian, in the order of the table's key. Every NaN counts as
one and the same, and -0 as 0.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .errors import SettingsError
from .tables import Columns, Table

_BIG_TABLES = ("frames", "peaks", "pixels")
"""Tables that are written in the order of their key, so that they need not be held in memory to be sorted."""


def digest(tables: Mapping[str, Table], read: Callable[[str], Iterable[Columns]]) -> str:
    """Return the digest of a reduction, 64 hexadecimal digits.

    Parameters
    ----------
    tables
        The schema, as `tables_with_roles` makes it.
    read
        Gives the rows of a table, by its name, in any number of batches.

    Raises
    ------
    SettingsError
        A table that must be in the order of its key is not.
    """
    whole = hashlib.sha256()
    for name, table in tables.items():
        batches = read(name)
        if name not in _BIG_TABLES:
            batches = [_sorted(table, list(batches))]
        n_rows, columns = _hash_columns(table, batches)
        whole.update(f"{name} {n_rows}\n".encode())
        for column in table.columns:
            if column.in_digest:
                whole.update(f"{column.name} {column.dtype} {columns[column.name].hexdigest()}\n".encode())
    return whole.hexdigest()


def _hash_columns(table: Table, batches: Iterable[Columns]) -> tuple[int, dict[str, Any]]:
    hashes = {column.name: hashlib.sha256() for column in table.columns}
    last: tuple[Any, ...] | None = None
    n_rows = 0
    for batch in batches:
        if not len(batch[table.key[0]]):
            continue
        last = _check_order(table, batch, last)
        n_rows += len(batch[table.key[0]])
        for column in table.columns:
            hashes[column.name].update(_canonical(batch[column.name], column.dtype))
    return n_rows, hashes


def _canonical(values: np.ndarray, dtype: str) -> bytes:
    values = np.ascontiguousarray(values, dtype)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values) + 0.0
    return values.tobytes()


def _sorted(table: Table, batches: list[Columns]) -> Columns:
    if not batches:
        return table.empty()
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in table.names}
    order = np.lexsort(tuple(rows[name] for name in reversed(table.key)))
    return {name: values[order] for name, values in rows.items()}


def _check_order(table: Table, batch: Columns, last: tuple[Any, ...] | None) -> tuple[Any, ...]:
    keys = [batch[name] for name in table.key]
    tied = np.ones(len(keys[0]) - 1, np.bool_)
    rising = np.zeros(len(keys[0]) - 1, np.bool_)
    for key in keys:
        step = np.diff(key.astype(np.int64))
        rising |= tied & (step > 0)
        tied &= step == 0
    first = tuple(int(key[0]) for key in keys)
    if not rising.all() or (last is not None and first <= last):
        raise SettingsError(f"table {table.name}: rows are not in the order of {table.key}, each once")
    return tuple(int(key[-1]) for key in keys)

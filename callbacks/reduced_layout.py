"""How the tables of reductions lie in HDF5: one group a reduction, one a table, one dataset a column."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import h5py
import numpy as np

from ..streaming import MAX_PROJECTION, Column, Columns, MaxProjection, Recipe, Table, tables_with_roles
from ..streaming.projection import MAX_PROJECTION_MEANING
from .hdf5 import BITSHUFFLE, dataset, subgroup, write_rows

FORMAT = "hedmlive-reduced-1"
_CHUNK = 1 << 12
_READ_ROWS = 1 << 20


def attempt_name(attempt: int) -> str:
    """Return the group of an attempt."""
    return f"reduction_{attempt:04d}"


def make_attempt(
    file: h5py.File, attempt: int, run_uid: str, recipe: Recipe, detector: str, tables: Mapping[str, Table]
) -> h5py.Group:
    """Make the group of a reduction with its empty tables."""
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


def write_projection(group: h5py.Group, projection: MaxProjection) -> None:
    """Write a maximum projection into a reduction's group."""
    data = group.create_dataset(MAX_PROJECTION, data=projection.image, chunks=True, **BITSHUFFLE)
    data.attrs["units"], data.attrs["meaning"] = "counts", MAX_PROJECTION_MEANING


def read_attributes(group: h5py.Group) -> dict[str, Any]:
    """Return what is written about a reduction, as plain types."""
    attributes = {name: value.item() if isinstance(value, np.generic) else value for name, value in group.attrs.items()}
    for name in ("recipe", "versions", "warnings", "guards", "roles", "motors", "trajectory"):
        if name in attributes:
            attributes[name] = json.loads(str(attributes[name]))
    return attributes


def append_rows(data: Mapping[str, h5py.Dataset], first: int, columns: Columns) -> None:
    """Write rows to the columns of a table that has so many; what half a write left behind them is overwritten."""
    for name, column in data.items():
        write_rows(column, first, columns[name])


def count_rows(group: h5py.Group, table: Table) -> int:
    """Return how many rows a table has."""
    return min(len(dataset(group, name)) for name in table.names)


def read_rows(group: h5py.Group, table: Table, first: int, end: int) -> Columns:
    """Return rows first to end (exclusive) of a table."""
    return {name: np.asarray(dataset(group, name)[first:end]) for name in table.names}


def read_all(group: h5py.Group, table: Table) -> Iterator[Columns]:
    """Give all rows of a table of a reduction's group, a million at a time."""
    rows = subgroup(group, table.name)
    n_rows = count_rows(rows, table)
    for first in range(0, n_rows, _READ_ROWS):
        yield read_rows(rows, table, first, min(first + _READ_ROWS, n_rows))


def copy_packed(old: h5py.Group, new: h5py.Group) -> None:
    """Copy a group with its attributes, its datasets compressed."""
    new.attrs.update(dict(old.attrs))
    for name in list(old):
        item = old[name]
        if isinstance(item, h5py.Group):
            copy_packed(item, new.create_group(name))
        elif isinstance(item, h5py.Dataset):
            packing = {"chunks": True, **BITSHUFFLE} if item.size else {}
            data = new.create_dataset(name, data=item[()], **packing)
            data.attrs.update(dict(item.attrs))

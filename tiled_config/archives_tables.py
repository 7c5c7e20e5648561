"""Adapters that run inside the Tiled server and read archives where they are, and nothing outside of its folders."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from starlette.exceptions import HTTPException
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.core import Adapter
from tiled.adapters.hdf5 import HDF5Adapter, HDF5ArrayAdapter
from tiled.storage import get_storage
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure
from tiled.utils import path_from_uri

from ..streaming import ArchiveError
from .archives_links import check_links, open_archive
from .formats import BATCH_ROWS, PARTITION_ROWS
from .layout import BATCH, REDUCTION_UID, RESULT_UID
from .tables_limits import PartLimits

_CONFLICT = 409
_FORBIDDEN = 403


_INSIDE: ContextVar[Callable[[Path], bool]] = ContextVar("files that may be opened for the node that is asked for")


@contextmanager
def inside(holds: Callable[[Path], bool]) -> Generator[None]:
    """Let `in_served_folder` ask this, too, as long as an adapter is made."""
    token = _INSIDE.set(holds)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def in_served_folder(path: Path) -> bool:
    """Tell whether a file really lies in a folder that a Tiled server of this process reads or writes."""
    if (holds := _INSIDE.get(None)) is not None and not holds(path):
        return False
    for folder in path.resolve().parents:
        try:
            get_storage(f"file://localhost{folder}")
        except KeyError:
            continue
        return True
    return False


class ArchiveTableAdapter(Adapter[TableStructure]):
    """A table of a reduced or results archive, one dataset a column; only the columns and rows asked for are read.

    The file is opened for each request, so that rows written since are there, and a file that was swapped for its
    finished self is the one that is read. The column ``batch`` is made here: the archive does not hold it.

    Parameters
    ----------
    path
        The archive.
    structure
        Columns and partitions. Partition i holds the rows from i times `PARTITION_ROWS` on, the last one all that
        follow.
    dataset
        Group of the table in the file.
    uid
        Uid of the reduction, or result, that must lie there.
    uid_name
        The attribute of its group that says it.
    batches
        Number of rows of each batch, from batch 1 on, as they were appended; None numbers them by `BATCH_ROWS`.
    """

    structure_family = StructureFamily.table

    def __init__(
        self,
        path: Path,
        structure: TableStructure,
        dataset: str,
        uid: str,
        *,
        uid_name: str = REDUCTION_UID,
        batches: list[int] | None = None,
        metadata: Any = None,
        specs: Any = None,
    ) -> None:
        super().__init__(structure, metadata=metadata, specs=specs)
        self._path = path
        self._dataset = dataset
        self._uid = uid
        self._uid_name = uid_name
        self._batches = batches

    @classmethod
    def from_catalog(
        cls,
        data_source: DataSource[TableStructure],
        node: Any,
        /,
        dataset: str,
        reduction_uid: str = "",
        result_uid: str = "",
        batches: list[int] | None = None,
        **_: Any,
    ) -> "ArchiveTableAdapter":
        """Return the adapter of a registered table; of several files the one that was registered last is read."""
        files = [asset for asset in data_source.assets if asset.data_uri.startswith("file:")]
        path = path_from_uri(max(files, key=lambda asset: asset.num or 0).data_uri)
        return cls(
            path,
            data_source.structure,
            dataset,
            reduction_uid or result_uid,
            uid_name=REDUCTION_UID if reduction_uid else RESULT_UID,
            batches=batches,
            metadata=node.metadata_,
            specs=node.specs,
        )

    def read(self, fields: list[str] | None = None) -> pd.DataFrame:
        """Return all rows of some columns; None means every column."""
        return self._rows(fields, 0, None)

    def read_partition(self, partition: int, fields: list[str] | None = None) -> pd.DataFrame:
        """Return the rows of one partition."""
        last = partition >= self._structure.npartitions - 1
        first = partition * PARTITION_ROWS
        return self._rows(fields, first, None if last else first + PARTITION_ROWS)

    def get(self, key: str) -> ArrayAdapter | None:
        """Return a column, or None if there is none of that name."""
        return self[key] if key in self._structure.columns else None

    def __getitem__(self, key: str) -> ArrayAdapter:
        return ArrayAdapter.from_array(self.read([key])[key].to_numpy())

    @property
    def limits(self) -> PartLimits | None:
        """What is known of its partitions without reading them; None if the file is not there."""
        return PartLimits(self._path, self._dataset) if self._path.exists() else None

    def _rows(self, fields: list[str] | None, first: int, end: int | None) -> pd.DataFrame:
        names = [name for name in self._structure.columns if fields is None or name in fields]
        if not in_served_folder(self._path):
            raise HTTPException(_FORBIDDEN, f"{self._path} lies outside the folders of this server")
        if not self._path.exists():
            raise HTTPException(
                _CONFLICT,
                f"{self._path} is not there any more; if it was moved, `hedmlive publish` it from its new place",
            )
        try:
            with open_archive(self._path) as file:
                group = self._group(file)
                columns = {name: _plain_dataset(group, name) for name in self._structure.columns if name != BATCH}
                # While it grows, a row counts when every column has it.
                n_rows = min(len(column) for column in columns.values())
                end = n_rows if end is None else min(end, n_rows)
                first = min(first, end)
                read = {
                    name: self._numbers(first, end) if name == BATCH else columns[name][first:end] for name in names
                }
        except (ArchiveError, OSError, KeyError) as error:
            raise HTTPException(_CONFLICT, f"{self._path} {self._dataset}: {' '.join(str(error).split())}") from None
        return pd.DataFrame(read, columns=names)

    def _group(self, file: h5py.File) -> h5py.Group:
        here: h5py.Group = file
        for part in self._dataset.strip("/").split("/"):
            if not isinstance(here.get(part, getlink=True), h5py.HardLink):
                raise KeyError(f"{here.name}/{part} is not in the file itself")
            found = here[part]
            if not isinstance(found, h5py.Group):
                raise KeyError(f"{found.name} is no group")
            here = found
        _check_uid(here.parent, self._uid_name, self._uid)
        return here

    def _numbers(self, first: int, end: int) -> np.ndarray:
        """Return the batch that each row came with."""
        rows = np.arange(first, end, dtype=np.int64)
        if self._batches is None:
            return rows // BATCH_ROWS + 1
        return np.searchsorted(np.cumsum(self._batches), rows, side="right") + 1


def _check_uid(group: h5py.Group, name: str, uid: str) -> None:
    held = group.attrs.get(name)
    if held != uid:
        raise KeyError(f"{name.removesuffix('_uid')} {held} lies there now; wanted {uid}")


def _plain_dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a column whose values lie in the file itself."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise KeyError(f"column {name} is not in the file itself")
    found = group[name]
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise KeyError(f"column {name} is no dataset of the file itself")
    return found


def refuse_strays(data_source: DataSource[Any], name: str, *, deep: bool) -> None:
    """Answer 403 if a group or dataset of registered files leads out of the folders of the server."""
    for asset in data_source.assets:
        try:
            check_links(path_from_uri(asset.data_uri), name, in_served_folder, deep=deep)
        except ArchiveError as error:
            raise HTTPException(_FORBIDDEN, str(error)) from None


class CheckedHDF5Adapter(HDF5Adapter):
    """Tiled's adapter of HDF5 files, for files whose links stay inside the folders of the server."""

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, **parameters: Any) -> HDF5Adapter | HDF5ArrayAdapter:
        """Return the adapter of a registered file, or answer 403 if it leads out of the folders."""
        deep = data_source.structure_family == StructureFamily.container
        said = parameters.get("dataset") or "/"
        name = said if isinstance(said, str) else "/".join(said)
        refuse_strays(data_source, name, deep=deep)
        uid = parameters.pop(REDUCTION_UID, None)
        if uid is not None:
            _check_reduction(path_from_uri(data_source.assets[0].data_uri), name, uid)
        return super().from_catalog(data_source, node, **parameters)


def _check_reduction(path: Path, name: str, uid: str) -> None:
    """Answer 409 if a dataset is not of the reduction that it was registered for."""
    try:
        with open_archive(path) as file:
            _check_uid(file[name].parent, REDUCTION_UID, uid)
    except (ArchiveError, OSError, KeyError) as error:
        raise HTTPException(_CONFLICT, f"{path} {name}: {' '.join(str(error).split())}") from None

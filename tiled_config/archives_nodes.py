"""Tables of a catalogue that are served from an archive: how they are registered, compared, swapped and given back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from ..streaming import MAX_PROJECTION, ArchiveError, Table
from .archives_links import open_archive
from .formats import ARCHIVE_TABLE, HDF5, PARTITION_ROWS
from .layout import (
    BATCH,
    REDUCED,
    REDUCTION_UID,
    RESULT_UID,
    RESULTS,
    ensure_attempt,
    ensure_result,
    inherited_tags,
    projection_metadata,
    table_metadata,
    table_schema,
    table_spec,
)

_COMPARED_AT_ONCE = 8_000_000
"Values of a table that are held in memory while it is compared."


class Place:
    """A reduction in an archive.

    Parameters
    ----------
    path
        The file.
    reader
        Its open reader.
    attempt
        Number of the reduction in the file.
    """

    top: ClassVar[str] = REDUCED
    "Where its node is in the catalogue."
    uid_name: ClassVar[str] = REDUCTION_UID
    "Attribute that tells which one it is."
    kind: ClassVar[str] = "reduction"
    "What it is, and how its group is called."

    def __init__(self, path: Path, reader: Any, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self.uid: str = reader.run_uid
        self._reader = reader

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """What is written about the reduction."""
        return self._reader.attributes(self.attempt)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Its schema."""
        return self._reader.tables(self.attempt)

    @property
    def own_uid(self) -> str:
        """Uid of the reduction."""
        return str(self.attributes[self.uid_name])

    def ensure(self, client: Any, start: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
        """Return its node, made if missing."""
        return ensure_attempt(client, self.uid, self.attempt, start, metadata)

    def group(self, table: str) -> str:
        """Return where a table is in the file."""
        return f"/{self.kind}_{self.attempt:04d}/{table}"

    def n_rows(self, file: h5py.File, table: str) -> int:
        """Return how many rows a table has."""
        group: Any = file[self.group(table)]
        return min(len(group[name]) for name in self.tables[table].names)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        with open_archive(self.path) as file:
            return {name: self.n_rows(file, name) for name in self.tables}

    def read(self, table: str, first: int, end: int) -> dict[str, np.ndarray]:
        """Return rows first to end (exclusive) of a table."""
        return self._reader.read(self.attempt, table, first, end)

    def verify(self) -> None:
        """Raise `ArchiveError` if the tables are not those of which the digest was written."""
        computed = self._reader.digest(self.attempt)
        if computed != self.attributes["digest"]:
            raise ArchiveError(
                f"{self.path}: {self.kind} {self.attempt} has digest {computed}, but was written with "
                f"{self.attributes['digest']}: its tables were changed since; they are not handed over"
            )

    def data_source(self, table: str, structure: Any, **parameters: Any) -> Any:
        """Return the data source of a table, or of the image of a reduction."""
        from tiled.structures.core import StructureFamily
        from tiled.structures.data_source import Asset, DataSource, Management

        uri = f"file://localhost{self.path}"
        is_table = table in self.tables
        return DataSource(
            structure_family=StructureFamily.table if is_table else StructureFamily.array,
            structure=structure,
            mimetype=ARCHIVE_TABLE if is_table else HDF5,
            parameters={"dataset": self.group(table), self.uid_name: self.own_uid, **parameters},
            management=Management.external,
            assets=[Asset(data_uri=uri, is_directory=False, parameter="data_uris", num=0)],
        )


class ResultPlace(Place):
    """A result in an archive."""

    top = RESULTS
    uid_name = RESULT_UID
    kind = "result"

    def ensure(self, client: Any, start: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
        """Return its node, made if missing."""
        return ensure_result(client, self.uid, self.attempt, start, metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """Rows that a table had before it was served from an archive."""

    uri: str
    "Address of the database."
    table_name: str
    "The SQL table."
    dataset_id: int
    "Number of the dataset in it."
    since: float
    "When the table was handed over, seconds since 1970."


def is_archived(node: Any) -> bool:
    """Tell whether a table, or an image, is served from an archive."""
    return any(source.mimetype in (ARCHIVE_TABLE, HDF5) for source in node.data_sources() or ())


def register_table(reduction: Any, place: Place, name: str) -> None:
    """Make the node of a table that is served from an archive."""
    from tiled.structures.core import Spec, StructureFamily
    from tiled.structures.table import TableStructure

    table = place.tables[name]
    n_rows = place.counts()[name]
    # Whoever saw one partition of a table that grows would miss the second: it stays with one.
    growing = place.attributes["status"] == "running"
    parts = 1 if growing else max(1, ceil(n_rows / PARTITION_ROWS))
    structure = TableStructure.from_schema(table_schema(table), parts)
    reduction.new(
        StructureFamily.table,
        [place.data_source(name, structure)],
        key=name,
        specs=[Spec(table_spec(name), version="1.0")],
        metadata=table_metadata(place.uid, table),
        access_tags=inherited_tags(reduction),
    )


def register_projection(reduction: Any, place: Place) -> None:
    """Make the node of the image that is served from an archive, if the archive has one."""
    from tiled.structures.array import ArrayStructure, BuiltinDtype
    from tiled.structures.core import StructureFamily

    with open_archive(place.path) as file:
        name = place.group(MAX_PROJECTION)
        if name not in file:
            return
        data: Any = file[name]
        structure = ArrayStructure(
            data_type=BuiltinDtype.from_numpy_dtype(data.dtype),
            shape=data.shape,
            chunks=tuple((size,) for size in data.shape),
            dims=("row", "col"),
        )
    reduction.new(
        StructureFamily.array,
        [place.data_source(MAX_PROJECTION, structure)],
        key=MAX_PROJECTION,
        metadata=projection_metadata(place.uid),
        access_tags=inherited_tags(reduction),
    )


class Behind(ArchiveError):
    """Not all rows of a table are in Tiled yet."""


def check_counts(node: Any, place: Place, name: str) -> None:
    """Raise `Behind` if a table has not all its rows."""
    n_served = len(node.read([BATCH]))
    n_rows = place.counts()[name]
    if n_served != n_rows:
        raise Behind(
            f"{place.path}: {place.group(name)} has {n_rows} rows, Tiled {n_served}; `hedmlive publish` sends the rest"
        )


def batches_of(node: Any, place: Place) -> list[int]:
    """Compare a table, column by column, with its archive, and return how many rows each batch brought.

    Raises
    ------
    ArchiveError
        They differ.
    """
    name = place.group(node.item["id"])
    numbers = node.read([BATCH])[BATCH].to_numpy()
    with open_archive(place.path) as file:
        group: Any = file[name]
        n_rows = place.n_rows(file, node.item["id"])
        if len(numbers) != n_rows:
            raise Behind(f"{place.path}: {name} has {n_rows} rows, Tiled {len(numbers)}")
        if n_rows and (numbers[0] < 1 or (np.diff(numbers) < 0).any()):
            raise ArchiveError(f"{place.path}: {name}: batches in Tiled are out of order; they are not handed over")
        columns = [column for column in node.columns if column != BATCH]
        step = max(1, _COMPARED_AT_ONCE // max(1, n_rows))
        for first in range(0, len(columns), step):
            some = columns[first : first + step]
            served = node.read(some)
            for column in some:
                kept = group[column][:n_rows]
                if not np.array_equal(kept, served[column].to_numpy(), equal_nan=kept.dtype.kind == "f"):
                    raise ArchiveError(f"{place.path}: {name}/{column} differs from what Tiled has")
    return np.bincount(numbers)[1:].tolist() if n_rows else []


def swap_table(node: Any, place: Place, name: str, batches: list[int], now: float) -> None:
    """Serve a table that has been published from its archive: one transaction, after which every read finds it."""
    (old,) = node.data_sources()
    database = next(asset.data_uri for asset in old.assets if asset.parameter == "data_uri")
    kept = KeptRows(
        uri=database,
        table_name=old.parameters["table_name"],
        dataset_id=old.parameters["dataset_id"],
        since=now,
    )
    new = place.data_source(name, old.structure, batches=batches, kept=asdict(kept))
    put_source(node, replace(new, id=old.id))


def rows_to_drop(node: Any) -> KeptRows | None:
    """Return the rows that a table left behind when it was handed over; None if there are none."""
    for source in node.data_sources() or ():
        if source.mimetype == ARCHIVE_TABLE and "kept" in source.parameters:
            return KeptRows(**source.parameters["kept"])
    return None


def without_rows(node: Any) -> None:
    """Note that the rows a table left behind are gone."""
    (source,) = node.data_sources()
    parameters = {name: value for name, value in source.parameters.items() if name != "kept"}
    # The database is named too, since the table was handed over; a server lets nobody register one.
    files = [asset for asset in source.assets if asset.data_uri.startswith("file:")]
    put_source(node, replace(source, parameters=parameters, assets=files))


def put_source(node: Any, source: Any) -> None:
    """Change the data source of a node: one transaction of the catalogue."""
    # Tiled's client has no call for it; its writer of runs asks in the same way.
    from tiled.client.utils import handle_error
    from tiled.utils import safe_json_dump

    uri = node.uri.replace("/metadata/", "/data_source/", 1)
    content = safe_json_dump({"data_source": asdict(source)})
    handle_error(node.context.http_client.put(uri, content=content, headers={"Content-Type": "application/json"}))

"""Where things lie in the catalogue: paths, spec names, and the schema of the appendable tables.

::

    /raw/<uid>                     a run as bluesky-tiled-plugins writes it
    /reduced/<uid>                 HEDMReductionSet
    /reduced/<uid>/attempt-0000    HEDMReduction, with one appendable table for each table of the reduction
    /results/<uid>                 HEDMResultSet
    /results/<uid>/attempt-0000    HEDMResult, with the table ``solutions``
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np

from ..streaming import Table
from ..streaming.projection import MAX_PROJECTION_MEANING
from .facility import SHARED_TAG

if TYPE_CHECKING:
    import pyarrow as pa

RAW = "raw"
REDUCED = "reduced"
RESULTS = "results"
BATCH = "batch"
"""First column of every table: number of the append. It belongs to the transport, not to the science."""

SUMMARY = "summary"
"""Key of the metadata of runs and reductions that holds what is searched for."""

SET_SPEC = "HEDMReductionSet"
REDUCTION_SPEC = "HEDMReduction"
RESULT_SET_SPEC = "HEDMResultSet"
RESULT_SPEC = "HEDMResult"
REDUCTION_UID = "reduction_uid"
RESULT_UID = "result_uid"
SPECS: dict[str, str] = {
    "frames": "HEDMFrames",
    "peaks": "HEDMPeaks",
    "links": "HEDMLinks",
    "tracks": "HEDMTracks",
    "members": "HEDMMembers",
    "pixels": "HEDMPixels",
    "track_updates": "HEDMTrackUpdates",
    "solutions": "HEDMSolutions",
}
"""Table name to the spec of its node."""

SQL_PREFIX = "hedm_"
_IDENTITY = b"hedmlive.identity"
_LONGEST_LIST = 16


def attempt_key(attempt: int) -> str:
    """Return the key of an attempt: they sort as text."""
    return f"attempt-{attempt:04d}"


def table_schema(table: Table) -> "pa.Schema":
    """Return the Arrow schema of a table: ``batch``, then its columns.

    The identity columns stand in its metadata, from which the server's adapter makes the unique index.
    """
    import pyarrow as pa  # a tenth of a second, for nothing where only the server's settings are read

    fields = [pa.field(BATCH, pa.int64())]
    fields += [pa.field(column.name, pa.from_numpy_dtype(np.dtype(column.dtype))) for column in table.columns]
    return pa.schema(fields, metadata={_IDENTITY: json.dumps(table.key).encode()})


def table_identity(schema: "pa.Schema") -> tuple[str, ...]:
    """Return the columns that identify a row, as `table_schema` wrote them; none for a foreign table."""
    text = (schema.metadata or {}).get(_IDENTITY)
    return () if text is None else tuple(json.loads(text))


def sql_table_name(table: Table) -> str:
    """Return the name of the SQL table that holds every run's rows of a table with exactly this schema.

    A role added in the settings adds a column, hence another schema and another SQL table.
    """
    text = json.dumps([[column.name, column.dtype] for column in table.columns] + [list(table.key)])
    return f"{SQL_PREFIX}{table.name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def searchable(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return what queries can compare of a start document: scalars, texts and short lists of them."""
    found = {key: _plain(value) for key, value in start.items()}
    return {key: value for key, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple, np.ndarray)) and len(value) <= _LONGEST_LIST:
        items = [_plain(item) for item in value]
        return None if None in items or any(isinstance(item, list) for item in items) else items
    return None


def ensure_container(
    parent: Any,
    key: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    specs: list[Any],
    access_tags: list[str] | None = None,
) -> Any:
    """Return a child container, made if missing, with its parent's access tags if none are given.

    Two processes may make it at once.
    """
    tags = access_tags or inherited_tags(parent)
    return _made_or_found(
        parent,
        key,
        lambda: parent.create_container(key, metadata=dict(metadata or {}), specs=specs, access_tags=tags),
    )


def inherited_tags(parent: Any) -> list[str] | None:
    """Return the access tags that a child of a node gets, for Tiled itself hands none down; None without any."""
    # What all may look up must not be handed down, and those that name an owner are given by the server only.
    tags = [tag for tag in getattr(parent, "access_tags", ()) if not tag.startswith(("user:", "service:"))]
    return [tag for tag in tags if tag != SHARED_TAG] or None


def shared_tags(client: Any) -> list[str] | None:
    """Return the access tags of a container that runs of all proposals lie in; None on a server for one user."""
    return [SHARED_TAG] if SHARED_TAG in getattr(client, "access_tags", ()) else None


def run_tags(client: Any, start: Mapping[str, Any]) -> list[str] | None:
    """Return the access tags of a run's nodes, as the server's root says; None on a server for one user.

    Parameters
    ----------
    client
        Client of the catalogue's root.
    start
        The run's start document; its own ``tiled_access_tags`` go before the rule.
    """
    if given := start.get("tiled_access_tags"):
        return [str(tag) for tag in given]
    rule = client.metadata.get("hedmlive", {}).get("proposal")
    if rule is None:
        return None
    found = (value for value in (_look_up(start, key) for key in rule["keys"]) if isinstance(value, (str, int)))
    tag = next((f"{rule['prefix']}{value}" for value in found if value != ""), rule["otherwise"])
    return None if tag is None else [tag]


def _look_up(start: Mapping[str, Any], key: str) -> Any:
    value: Any = start
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _made_or_found(parent: Any, key: str, make: Callable[[], Any]) -> Any:
    """Make a child, or find it if it is there already: mostly it is not, and asking first costs two more calls."""
    from httpx import HTTPStatusError

    try:
        return make()
    except HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise
    return parent[key]


def ensure_root(client: Any) -> None:
    """Make ``/raw``, ``/reduced`` and ``/results``, once for each catalogue."""
    from tiled.structures.core import Spec

    there, tags = set(client), shared_tags(client)
    if RAW not in there:
        ensure_container(client, RAW, specs=[Spec("CatalogOfBlueskyRuns", version="3.0")], access_tags=tags)
    for key in (REDUCED, RESULTS):
        if key not in there:
            ensure_container(client, key, specs=[], access_tags=tags)


def ensure_attempt(client: Any, uid: str, attempt: int, start: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    """Return the container of a reduction of a run, made if missing.

    If another reduction has that number, as `reduction_uid` in the metadata tells, the next free number is taken.
    """
    return _ensure_numbered(client, (REDUCED, uid, attempt), start, metadata, (SET_SPEC, REDUCTION_SPEC, REDUCTION_UID))


def ensure_result(client: Any, uid: str, attempt: int, start: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    """Return the container of a result of a run, made if missing.

    If another result has that number, as `result_uid` in the metadata tells, the next free number is taken.
    """
    return _ensure_numbered(
        client, (RESULTS, uid, attempt), start, metadata, (RESULT_SET_SPEC, RESULT_SPEC, RESULT_UID)
    )


def _ensure_numbered(
    client: Any,
    place: tuple[str, str, int],
    start: Mapping[str, Any],
    metadata: Mapping[str, Any],
    kind: tuple[str, str, str],
) -> Any:
    """Return a numbered container of a run; `kind` holds the specs of parent and child, and what tells who it is."""
    from tiled.structures.core import Spec

    top, uid, attempt = place
    of_parent, of_child, identity = kind
    origin = {"raw_run_uid": uid, "raw_path": f"/{RAW}/{uid}", "start": searchable(start)}
    specs, tags = [Spec(of_parent, version="1.0")], run_tags(client, start)
    parent = ensure_container(client[top], uid, metadata=origin, specs=specs, access_tags=tags)
    while True:
        node = ensure_container(
            parent,
            attempt_key(attempt),
            metadata=origin | {"attempt": attempt} | dict(metadata),
            specs=[Spec(of_child, version="1.0")],
        )
        # Archives in two folders both count from 0: another one's place is never written into.
        if node.metadata.get(identity) == metadata.get(identity):
            return node
        attempt += 1


def ensure_table(reduction: Any, uid: str, table: Table) -> Any:
    """Return the appendable table of a reduction, made if missing."""
    from tiled.structures.core import Spec

    return _made_or_found(
        reduction,
        table.name,
        lambda: reduction.create_appendable_table(
            table_schema(table),
            key=table.name,
            table_name=sql_table_name(table),
            specs=[Spec(table_spec(table.name), version="1.0")],
            metadata=table_metadata(uid, table),
            access_tags=inherited_tags(reduction),
        ),
    )


def table_spec(name: str) -> str:
    """Return the spec of a table's node."""
    return SPECS.get(name, f"HEDM{name.title().replace('_', '')}")


def table_metadata(uid: str, table: Table) -> dict[str, Any]:
    """Return the metadata of a table's node."""
    units = {column.name: column.unit for column in table.columns if column.unit}
    return {"raw_run_uid": uid, "raw_path": f"/{RAW}/{uid}", "units": units}


def projection_metadata(uid: str) -> dict[str, Any]:
    """Return the metadata of the maximum projection of a reduction."""
    return {"raw_run_uid": uid, "raw_path": f"/{RAW}/{uid}", "units": "counts", "meaning": MAX_PROJECTION_MEANING}

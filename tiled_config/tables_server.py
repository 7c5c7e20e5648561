"""Rows of a table, filtered on the server: the endpoint ``/api/v1/hedm/rows/PATH``, which a Tiled server includes.

::

    GET /api/v1/hedm/rows/reduced/<uid>/attempt-0000/peaks?column=row&column=col&where=omega:ge:10&where=omega:le:20

answers with Arrow's stream format, in the order of the columns that identify a row; to who accepts ``application/json``
with a map of columns to values, null for NaN. The header ``x-hedmlive-next`` is there where rows are left: send it back
as ``after``. Who may read the table may ask; Tiled's own rules decide.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import anyio
import numpy as np
import orjson
import pyarrow as pa
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response, Security
from tiled.adapters.core import Adapter
from tiled.server.authentication import check_scopes
from tiled.structures.core import StructureFamily

from ..streaming import SettingsError
from .asker import Asker
from .layout import table_identity
from .queries import TRACK, Condition, RowQuery, check_columns, parse, parse_annulus

PAGE_ROWS = 200_000
"""Rows of an answer at most."""

PAGE_BYTES = 32 << 20
"""Bytes of an answer at most."""

MOST_ANNULI = 100
"""Rings that can be asked for at once."""

MOST_PEAKS = 20_000
"""Peaks that can be asked for by their tracks at once."""

NEXT = "x-hedmlive-next"
"""Header: the key after which the next page begins."""

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"

_SCOPES = ["read:data"]

router = APIRouter()


async def _table(asker: Asker, path: str) -> Any:
    """Return the adapter of a table, if it is there and may be read."""
    entry = await asker.entry(path, _SCOPES, StructureFamily.table)
    # A node of the catalogue finds its adapter in the database; other trees are made of adapters.
    return await entry.get_adapter() if hasattr(entry, "get_adapter") else entry


@router.get("/hedm/rows/{path:path}", dependencies=[Security(check_scopes, scopes=_SCOPES)])
async def rows(
    path: str,
    asker: Annotated[Asker, Depends()],
    column: Annotated[list[str] | None, Query()] = None,
    where: Annotated[list[str] | None, Query()] = None,
    annulus: Annotated[list[str] | None, Query(max_length=MOST_ANNULI)] = None,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1)] = PAGE_ROWS,
    accept: Annotated[str, Header()] = ARROW,
) -> Response:
    """Return a page of the rows of a table that fulfil all conditions."""
    adapter = await _table(asker, path)
    try:
        schema: pa.Schema = adapter.structure().arrow_schema_decoded
        types = _types(schema)
        name = path.rsplit("/", 1)[-1]
        tracks = name == "peaks"
        known = {**types, TRACK: "i8"} if tracks else types
        conditions = [parse(text, known, name) for text in where or ()]
        wanted = RowQuery(
            columns=check_columns(column, list(types), name),
            key=_key(schema, name),
            conditions=tuple(each for each in conditions if each.column in types),
            annuli=tuple(parse_annulus(text, types, name) for text in annulus or ()),
            limit=limit,
        )
        wanted = _paged(wanted, after, schema)
        of_tracks = tuple(each for each in conditions if each.column not in types)
        if of_tracks:
            members = await _table(asker, path[: -len(name)] + "members")
            wanted = await anyio.to_thread.run_sync(partial(_of_tracks, wanted, of_tracks, members))
        found, following = await anyio.to_thread.run_sync(partial(select, adapter, wanted))
    except SettingsError as error:
        raise HTTPException(400, str(error)) from None
    headers = {} if following is None else {NEXT: ",".join(map(str, following))}
    found = found.select(list(wanted.columns))
    if accept == JSON:
        return Response(orjson.dumps(found.to_pydict()), media_type=JSON, headers=headers)
    return Response(_stream(found), media_type=ARROW, headers=headers)


def select(adapter: Any, wanted: RowQuery) -> tuple[pa.Table, tuple[int, ...] | None]:
    """Return a page of a table, with the columns of its key, and the key after which the next page begins, if any."""
    if hasattr(adapter, "select"):
        return adapter.select(wanted)
    return select_from_partitions(adapter, wanted)


def select_from_partitions(adapter: Adapter[Any], wanted: RowQuery) -> tuple[pa.Table, tuple[int, ...] | None]:
    """Return what `select` does from any table of Tiled: of its columns only those needed are read, part by part."""
    schema: pa.Schema = adapter.structure().arrow_schema_decoded
    asked = {*wanted.key, *(each.column for each in wanted.conditions), *(("row", "col") if wanted.annuli else ())}
    keys, parts, places = [np.empty((len(wanted.key), 0), np.int64)], [np.empty(0, np.intp)], [np.empty(0, np.intp)]
    limits = getattr(adapter, "limits", None)
    for part in range(adapter.structure().npartitions):
        if limits is not None and not limits.may_fulfil(part, wanted):
            continue
        columns = _read(adapter, part, asked)
        if limits is not None:
            limits.learn(part, columns)
        at = np.flatnonzero(_fulfil(columns, wanted))
        keys.append(np.stack([columns[name][at].astype(np.int64) for name in wanted.key]))
        parts.append(np.full(len(at), part))
        places.append(at)
    key, part, place = np.concatenate(keys, axis=1), np.concatenate(parts), np.concatenate(places)
    order = np.lexsort(key[::-1])
    following = tuple(key[:, order[wanted.limit - 1]].tolist()) if len(order) > wanted.limit else None
    order = order[: wanted.limit]
    names = list(dict.fromkeys((*wanted.key, *wanted.columns)))
    taken = {name: np.empty(len(order), schema.field(name).type.to_pandas_dtype()) for name in names}
    for number in np.unique(part[order]):
        columns = _read(adapter, int(number), set(names))
        here = np.flatnonzero(part[order] == number)
        for name in names:
            taken[name][here] = columns[name][place[order[here]]]
    return pa.table(taken, schema=pa.schema([schema.field(name) for name in names])), following


def _read(adapter: Any, part: int, names: set[str]) -> dict[str, np.ndarray]:
    frame = adapter.read_partition(part, sorted(names))
    return {name: frame[name].to_numpy() for name in names}


def _fulfil(columns: Mapping[str, np.ndarray], wanted: RowQuery) -> np.ndarray:
    """Return which rows fulfil the conditions and lie behind the last page."""
    good = np.ones(len(columns[wanted.key[0]]), np.bool_)
    for each in wanted.conditions:
        values = columns[each.column]
        if each.operator == "in":
            good &= np.isin(values, np.asarray(each.values, values.dtype))
        else:
            good &= values >= each.values[0] if each.operator == "ge" else values <= each.values[0]
    if wanted.annuli:
        inside = np.zeros(len(good), np.bool_)
        for each in wanted.annuli:
            rows, cols = columns["row"] - each.row, columns["col"] - each.col
            square = rows * rows + cols * cols
            inside |= (square >= each.inner**2) & (square <= each.outer**2)
        good &= inside
    if wanted.after is not None:
        behind = np.zeros(len(good), np.bool_)
        # From the last column on: larger here, or equal and larger behind.
        for name, value in zip(wanted.key[::-1], wanted.after[::-1], strict=True):
            behind = (columns[name] > value) | ((columns[name] == value) & behind)
        good &= behind
    if wanted.pairs is not None:
        ours = np.rec.fromarrays([columns[name].astype(np.int64) for name in wanted.key])
        asked = np.array(wanted.pairs, np.int64).reshape(-1, len(wanted.key))
        good &= np.isin(ours, np.rec.fromarrays(list(asked.T)).astype(ours.dtype))
    return good


def _of_tracks(wanted: RowQuery, tracks: tuple[Condition, ...], members: Any) -> RowQuery:
    """Return the query with the peaks of tracks named."""
    key = (TRACK, *wanted.key)
    asked = RowQuery(columns=wanted.key, key=key, conditions=tracks, limit=MOST_PEAKS)
    found, more = select(members, asked)
    if more is not None:
        raise SettingsError(f"peaks: tracks of more than {MOST_PEAKS} peaks were asked for; ask for fewer at once")
    pairs = zip(*(found[name].to_pylist() for name in wanted.key), strict=True)
    return replace(wanted, pairs=tuple(sorted(set(pairs))))


def _paged(wanted: RowQuery, after: str | None, schema: pa.Schema) -> RowQuery:
    width = sum(schema.field(name).type.bit_width for name in wanted.columns) // 8
    limit = max(1, min(wanted.limit, PAGE_ROWS, PAGE_BYTES // max(width, 1)))
    key = None
    if after is not None:
        try:
            key = tuple(int(part) for part in after.split(","))
        except ValueError:
            key = ()
        if len(key) != len(wanted.key) or any(abs(part) >= 2**63 for part in key):
            raise SettingsError(f"after={after[:100]!r} came; wanted whole numbers for {', '.join(wanted.key)}")
    return replace(wanted, after=key, limit=limit)


def _key(schema: pa.Schema, name: str) -> tuple[str, ...]:
    key = table_identity(schema)
    if not key:
        raise SettingsError(f"{name} is no table of a reduction; wanted frames, peaks, links, tracks or members")
    return key


def _types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: np.dtype(field.type.to_pandas_dtype()).str[1:] for field in schema}


def _stream(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue().to_pybytes()

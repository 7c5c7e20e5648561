"""Rows for several tables of a reduction in one request: the endpoint ``/api/v1/hedm/append/PATH`` of a reduction.

::

    PATCH /api/v1/hedm/append/reduced/<uid>/attempt-0000     a msgpack map of table names to Arrow files

Either all of it is stored or nothing. What was stored is told to subscribers of the tables, in the order of the map.
Who may write to each of the tables may ask; Tiled's own rules decide.
"""

import time
from collections.abc import Collection, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import anyio
import pyarrow as pa
from fastapi import APIRouter, Depends, HTTPException, Request, Response, Security
from tiled.server.authentication import check_scopes
from tiled.server.core import NoEntry
from tiled.structures.core import StructureFamily
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

from .adapters import LockedSQLAdapter, append_together
from .appending import unpacked
from .asker import Asker

_SCOPES = ["write:data"]
_MOST_KNOWN = 256

_KEPT = 1.0
"""Seconds for which the tables of a reduction are not looked up again: that costs more than to store a frame's rows.
Rows that come within a second of its removal are stored for nobody, as those that came just before it."""

router = APIRouter()


async def _tables(asker: Asker, path: str, names: Collection[str]) -> list[Any]:
    """Return tables of a reduction that may be written to; all are looked up at once, at the cost of one."""
    there = await _children(asker, path, set(names))
    found: list[Any] = []
    for name in names:
        node = there.get(name)
        if getattr(node, "structure_family", None) != StructureFamily.table:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"No such entry: {path}/{name}")
        if not await asker.may("write:data", node):
            raise HTTPException(HTTPStatus.FORBIDDEN, f"Not enough permissions to write to {path}/{name}")
        found.append(node)
    return found


async def _children(asker: Asker, path: str, names: set[str]) -> Mapping[str, Any]:
    """Return what the node of a reduction holds, if all of these are among it: as it is, or was a moment ago."""
    if not asker.owns_all or not hasattr(asker.root, "lookup_adapter"):
        return dict(await (await asker.entry(path, _SCOPES, StructureFamily.container)).items_range())
    # Whoever came this far may write everywhere: the node is found at once, not step by step.
    lately, now = _lately.setdefault(asker.root.context, {}), time.monotonic()
    if path not in lately or now > lately[path][0] or not names <= lately[path][1].keys():
        lately[path] = now + _KEPT, dict(await (await _anywhere(asker.root, path)).items_range())
        for each in [each for each, (until, _) in lately.items() if now > until]:
            del lately[each]
    return lately[path][1]


async def _anywhere(root: Any, path: str) -> Any:
    try:
        return await root.lookup_adapter([part for part in path.split("/") if part])
    except NoEntry:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"No such entry: {path}") from None


_lately: "WeakKeyDictionary[Any, dict[str, tuple[float, Mapping[str, Any]]]]" = WeakKeyDictionary()
"""Catalogue to path to what lay there, and until when that is believed."""

_known: "WeakKeyDictionary[Any, dict[tuple[Any, ...], LockedSQLAdapter]]" = WeakKeyDictionary()
"""Catalogue to data source to adapter: to make one costs as much as to append."""


async def _adapter(node: Any, name: str) -> LockedSQLAdapter:
    """Return the adapter of a table, the one of the last time if its data lie where they lay."""
    sources = await node.data_sources()
    known, place = _known.setdefault(node.context, {}), tuple((source.id, source.mimetype) for source in sources)
    if place not in known:
        adapter = await node.get_adapter()
        if not isinstance(adapter, LockedSQLAdapter):
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, f"table {name} takes no rows in this way")
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[place] = adapter
    return known[place]


@router.patch("/hedm/append/{path:path}", dependencies=[Security(check_scopes, scopes=_SCOPES)])
async def append(path: str, request: Request, asker: Annotated[Asker, Depends()]) -> Response:
    """Append a batch to each of some tables of a reduction."""
    try:
        batches = unpacked(await request.body())
    except ValueError as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from None
    nodes = await _tables(asker, path, batches)
    wanted = [
        (await _adapter(node, name), rows) for node, (name, (_, rows)) in zip(nodes, batches.items(), strict=True)
    ]
    try:
        await anyio.to_thread.run_sync(partial(append_together, wanted))
    except (pa.ArrowInvalid, ValueError) as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"columns do not fit: {' '.join(str(error).split())}") from None
    for node, (content, _) in zip(nodes, batches.values(), strict=True):
        if node.context.streaming_cache:
            # Tiled tells of rows before they are stored; what our message brings is there.
            await node._stream(APACHE_ARROW_FILE_MIME_TYPE, node, content, 0, True)  # noqa: SLF001
    return Response(status_code=HTTPStatus.NO_CONTENT)

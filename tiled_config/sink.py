"""The client's side of publishing: one reduction's nodes, and appends of which each row arrives exactly once.

What may succeed later (no answer, a server that starts, a 5xx) is raised as the built-in `ConnectionError`;
what a repetition cannot mend as `PublishError`. The caller owns patience: here only a few attempts are made.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from ..streaming import MAX_PROJECTION, BatchTooLarge, Columns, PublishError, Table
from .appending import APPEND_TYPE, packed
from .client import catalogue, disconnect, limit_retries
from .formats import ARCHIVE_TABLE, HDF5, can_register, register_consolidators
from .layout import (
    BATCH,
    RAW,
    REDUCED,
    SUMMARY,
    ensure_attempt,
    ensure_root,
    ensure_table,
    inherited_tags,
    projection_metadata,
    run_tags,
)
from .settings import KEY_VARIABLE
from .summary import facts_of_frames, wider, write_summary

LIVE_EVENTS = 60
"""Events of the run itself that are written at once: one by one costs the server 60 ms each. The 95th
percentile of the lag of a reduction's rows, 30 frames a second, is 0.25 s with 25 of them and 0.22 s with 60."""

DELAYS = (0.2, 0.5, 1.0)
"""Seconds before each repetition of an append."""

SUMMARY_EVERY = 5.0
"""Seconds between two summaries at least: each makes two requests, for which the rows have to wait."""

_TOO_LARGE = 413
_TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
_CONFLICT = 409


def append_batch(
    node: Any,
    batch: int,
    columns: Mapping[str, np.ndarray],
    *,
    unsure: bool = False,
    sleep: Callable[[float], object] = time.sleep,
    delays: Sequence[float] = DELAYS,
) -> None:
    """Append a batch to a table, and see to it that it is there once.

    An append whose answer was lost may have been stored, so that its number is looked for before it is sent
    again; a copy that lands after that look is refused by the unique index that `LockedSQLAdapter` made.

    Parameters
    ----------
    node
        The table, with a column ``batch``.
    batch
        Number of the batch; the same number must always stand for the same rows.
    columns
        Column name to 1-D array, all of one length; an empty batch sends nothing.
    unsure
        True if an earlier call with this batch ended in `ConnectionError`.
    sleep
        How to wait, in seconds.
    delays
        How long to wait before each repetition, in seconds.

    Raises
    ------
    PublishError
        The server refused the batch for good.
    ConnectionError
        No attempt was answered; the batch may have been stored or not.
    """
    table = _arrow_table(node, batch, columns)
    if not table.num_rows:
        return
    name = f"batch {batch} of {node.uri}"
    refused = n_stored = 0
    for delay in (*delays, None):
        try:
            with _translated(name, refusals=(500,), passing=(_CONFLICT,)):
                n_stored = np.count_nonzero(node.read([BATCH])[BATCH] == batch) if unsure else 0
                if not n_stored:
                    node.append_partition(0, table)
            break
        except ConnectionError as error:
            unsure = True
            # A 500 can be the echo of a late copy of this very batch: the next look at the table tells.
            refused = refused + 1 if isinstance(error, _Refusal) else 0
            if delay is None:
                if refused > len(delays):
                    raise PublishError(f"{name}: refused {refused} times with a 500; see the server's log") from error
                raise
            sleep(delay)
    if n_stored not in (0, table.num_rows):
        # Late came what was cut before a reconnection: where to go on is known when the tables are counted anew.
        raise ConnectionError(f"{name}: {n_stored} rows are stored, not {table.num_rows}; open the reduction anew")


class _Refusal(ConnectionError):
    """The server answered with a 500: broken for a moment, or for good."""


@contextmanager
def _translated(what: str, *, refusals: tuple[int, ...] = (), passing: tuple[int, ...] = ()) -> Generator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code == _TOO_LARGE:
            raise BatchTooLarge(
                f"{what}: refused with {code}, too large for the server or a proxy before it"
            ) from error
        if code in refusals:
            raise _Refusal(f"{what}: the server answered {code}") from error
        if code in _TRANSIENT or code in passing or code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise ConnectionError(f"{what}: the server answered {code}") from error
        raise PublishError(f"{what}: refused with {error}") from error
    except httpx.HTTPError as error:
        raise ConnectionError(f"{what}: no answer: {error!r}") from error


def _arrow_table(node: Any, batch: int, columns: Mapping[str, np.ndarray]) -> Any:
    import pyarrow as pa

    schema = node.structure().arrow_schema_decoded
    length = len(next(iter(columns.values()))) if columns else 0
    try:
        # The server answers a missing or merely reordered column with a 500, so all is put in order here.
        return pa.table({BATCH: np.full(length, batch, np.int64), **columns}, schema=schema)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise PublishError(f"batch {batch} of {node.uri}: columns do not fit the table: {error}") from error


class TiledSink:
    """Writes runs and reductions into a catalogue; one object, used from one thread.

    Parameters
    ----------
    client
        Client of the catalogue's root, as `connect` gives it.
    batch_size
        Events that are written at once into ``/raw``; 1 shows each as it comes.
    sleep
        How to wait between attempts, in seconds.
    """

    def __init__(self, client: Any, *, batch_size: int = 1, sleep: Callable[[float], object] = time.sleep) -> None:
        # What `connect` gives knows its root; Tiled's own client is it.
        self._client = getattr(client, "root", client)
        self._batch_size = batch_size
        self._sleep = sleep
        self._reduction: Any = None
        self._nodes: dict[str, Any] = {}
        self._archived: frozenset[str] = frozenset()
        self._together = True
        self._unsure: dict[str, int] = {}
        self._start: Mapping[str, Any] = {}
        self._rows: dict[str, int] = {}
        self._summarised = 0
        self._summarised_at = 0.0
        self._ranges: dict[str, float] = {}
        self._run: Any = None
        self._writer: Callable[[str, dict[str, Any]], None] | None = None
        self._failed: list[Exception] = []
        self._left_out: set[str] = set()

    def open_reduction(
        self,
        uid: str,
        attempt: int,
        *,
        start: Mapping[str, Any],
        metadata: Mapping[str, Any],
        tables: Mapping[str, Table],
    ) -> None:
        """Make the nodes of an attempt at reducing a run, or find them again; may be repeated.

        Parameters
        ----------
        uid
            Uid of the raw run.
        attempt
            Number of the attempt, from 0.
        start
            The run's start document; what queries can compare is copied to the reduction.
        metadata
            Metadata of the attempt: recipe, versions, status; kept as it was when the attempt exists already.
        tables
            The tables to make, by name.

        Raises
        ------
        PublishError, ConnectionError
            As the module says.
        """
        self._nodes = {}
        with _translated(f"reduction {attempt} of run {uid}"):
            ensure_root(self._client)
            self._reduction = ensure_attempt(self._client, uid, attempt, start, metadata)
            self._nodes = {name: ensure_table(self._reduction, uid, table) for name, table in tables.items()}
            self._archived = self._served_from_archive()
            self._start, self._rows, self._summarised, self._run = start, {}, 0, None
            self._summarise()
            # What was stored before it was opened.
            said = self._reduction.metadata.get(SUMMARY, {})
            self._ranges = {name: value for name, value in said.items() if name.endswith(("_min", "_max"))}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Metadata of the reduction as it was found, or made, when it was opened."""
        return self._reduction.metadata

    def table(self, name: str) -> Any:
        """Return the node of a table."""
        return self._table(name)

    @property
    def client(self) -> Any:
        """Client of the root of the catalogue."""
        return self._client

    def has_run(self, uid: str) -> bool:
        """Tell whether the run itself is stored whole, up to its stop document."""
        with _translated(f"run {uid}"):
            ensure_root(self._client)
            raw = self._client[RAW]
            return uid in raw and "stop" in raw[uid].metadata

    def stored(self, table: str) -> tuple[int, int]:
        """Return the number of the last batch stored (0 if none) and how many rows are stored."""
        node = self._table(table)
        with _translated(f"table {table} of {node.uri}"):
            batches = node.read([BATCH])[BATCH].to_numpy()
        self._rows[table] = len(batches)
        return (int(batches.max()) if len(batches) else 0), len(batches)

    def append(self, table: str, batch: int, columns: Mapping[str, np.ndarray]) -> None:
        """Append a batch to a table, exactly once however often the same call is repeated.

        Raises
        ------
        PublishError
            The server refused the batch for good; the tables before and after it can go on.
        ConnectionError
            Call again with the same batch, later.
        """
        node = self._table(table)
        if table in self._archived:
            return  # its rows are read where they come from
        try:
            append_batch(node, batch, columns, unsure=self._unsure.get(table) == batch, sleep=self._sleep)
        except ConnectionError:
            self._unsure[table] = batch
            raise
        self._unsure.pop(table, None)
        self._count(table, columns)

    def append_all(self, batches: Mapping[str, tuple[int, Columns]]) -> None:
        """Append a numbered batch to each of some tables, exactly once however often the same call is repeated.

        One request brings all of them, if the server has our endpoint: each request costs the server the same
        20 ms, whatever it brings, and of the five tables of a reduction those are most of the lag.

        Raises
        ------
        BatchTooLarge, PublishError, ConnectionError
            As `append`.
        """
        tables = {name: self._arrow(name, *batch) for name, batch in batches.items() if name not in self._archived}
        sure = not any(self._unsure.get(name) == batch for name, (batch, _) in batches.items())
        if self._together and sure and len(tables) > 1:
            try:
                self._append_together({name: table for name, table in tables.items() if table.num_rows})
            except ConnectionError:
                # One by one, and looked for before it is sent again.
                self._unsure |= {name: batch for name, (batch, _) in batches.items()}
            else:
                for name in tables:
                    self._count(name, batches[name][1])
                return
        for name, (batch, columns) in batches.items():
            self.append(name, batch, columns)

    def update(self, metadata: Mapping[str, Any]) -> None:
        """Merge into the reduction's metadata, without keeping what was there: for progress."""
        self._update(metadata, drop_revision=True)

    def put_projection(self, image: np.ndarray) -> None:
        """Store the maximum projection of the reduction, once for all attempts at it.

        Raises
        ------
        PublishError, ConnectionError
            As the module says.
        """
        reduction = self._reduction
        with _translated(f"{MAX_PROJECTION} of {reduction.uri}"):
            there = reduction.include_data_sources().get(MAX_PROJECTION)
            if there is None:
                metadata = projection_metadata(reduction.path_parts[-2])
                tags = inherited_tags(reduction)
                reduction.write_array(
                    image, key=MAX_PROJECTION, metadata=metadata, dims=("row", "col"), access_tags=tags
                )
            elif all(source.mimetype != HDF5 for source in there.data_sources()):
                # It may have been made, and not filled, when the connection broke.
                there.write(image)

    def close_reduction(self, metadata: Mapping[str, Any]) -> None:
        """Merge the last metadata (status, digest) and tell subscribers that no row follows."""
        self._update(metadata, drop_revision=False)
        with _translated(f"end of {self._reduction.uri}"):
            self._summarise()
            for node in (*self._nodes.values(), self._reduction):
                node.close_stream()

    def raw_document(self, name: str, doc: dict[str, Any]) -> str | None:
        """Write a document of a run below ``/raw``; frames in files that Tiled has no array of are left out.

        Returns
        -------
        Why such frames are left out, with the first document that names their file; else None.

        Raises
        ------
        PublishError, ConnectionError
            The run's node is now incomplete: `raw_reset` it, then send all its documents again.
        """
        if self._writer is None:
            self._writer = self._make_writer()
        if name == "stream_resource" and not can_register(str(doc.get("mimetype", HDF5))):
            self._left_out.add(str(doc["uid"]))
            return f"{doc['data_key']}: Tiled serves no frames of {doc['mimetype']} ({doc['uri']})"
        if name == "stream_datum" and doc.get("stream_resource") in self._left_out:
            return None
        if name == "start" and (tags := run_tags(self._client, doc)):
            doc = {**doc, "tiled_access_tags": tags}
        try:
            with _translated(f"document {name} {doc.get('uid', '')}"):
                self._writer(name, doc)
                if self._failed:
                    raise self._failed.pop()
        except (PublishError, ConnectionError):
            raise
        except Exception as error:
            # The writer validates, and meets what it has no place for: the document is as it is, for good.
            raise PublishError(f"document {name} {doc.get('uid', '')}: cannot be stored: {error!r}") from error
        return None

    def raw_reset(self, uid: str) -> None:
        """Delete what is stored of a run, so that all its documents can be sent again."""
        self._writer = None
        with _translated(f"run {uid}"):
            ensure_root(self._client)
            raw = self._client[RAW]
            if uid in raw:
                raw.delete_contents([uid], recursive=True, external_only=False)

    def close(self) -> None:
        """Close the client's connections."""
        disconnect(self._client)

    def _arrow(self, name: str, batch: int, columns: Columns) -> Any:
        return _arrow_table(self._table(name), batch, columns)

    def _append_together(self, tables: Mapping[str, Any]) -> None:
        from httpx import HTTPStatusError, codes
        from tiled.client.utils import handle_error

        base, _, path = self._reduction.item["links"]["self"].partition("/metadata/")
        name = f"batches of {', '.join(tables)} of {self._reduction.uri}"
        with _translated(name, refusals=(500,), passing=(_CONFLICT,)):
            try:
                handle_error(
                    self._reduction.context.http_client.patch(
                        f"{base}/hedm/append/{path}", content=packed(tables), headers={"Content-Type": APPEND_TYPE}
                    )
                )
            except HTTPStatusError as error:
                if error.response.status_code not in (codes.NOT_FOUND, codes.METHOD_NOT_ALLOWED):
                    raise
                # A server without our endpoint; or there is no such reduction, as it will answer again.
                self._together = False
                raise ConnectionError(f"{name}: the server takes one table at a time") from error

    def _make_writer(self) -> Callable[[str, dict[str, Any]], None]:
        from bluesky_tiled_plugins import TiledWriter

        from .consolidators import CarefulNormalizer

        register_consolidators()
        with _translated("container /raw"):
            ensure_root(self._client)
            # SQLite's tables hold no lists: every array of an event, however small, becomes an array node.
            return TiledWriter(
                self._client[RAW],
                normalizer=partial(CarefulNormalizer, self._failed),  # pyright: ignore[reportArgumentType]
                batch_size=self._batch_size,
                max_array_size=0,
            )

    def _update(self, metadata: Mapping[str, Any], *, drop_revision: bool) -> None:
        if self._reduction is None:
            raise PublishError("no reduction is open; call open_reduction first")
        with _translated(f"metadata of {self._reduction.uri}"):
            self._reduction.update_metadata(dict(metadata), drop_revision=drop_revision)

    def _count(self, table: str, columns: Mapping[str, np.ndarray]) -> None:
        """Count the rows; say what is searched for when there are twice as many frames as when it was said last."""
        self._rows[table] = self._rows.get(table, 0) + len(next(iter(columns.values()), ()))
        if table == "frames":
            self._ranges = wider(self._ranges, facts_of_frames(columns))
        due = time.monotonic() >= self._summarised_at + SUMMARY_EVERY
        if table == "frames" and due and self._rows[table] >= 2 * self._summarised:
            # The rows are stored: that it cannot be said now must not look as if they were not.
            with suppress(PublishError, ConnectionError), _translated(f"summary of {self._reduction.uri}"):
                # Nothing is read for it, and no node looked up: rows wait meanwhile.
                self._summarise(self._ranges)

    def _summarise(self, ranges: Mapping[str, float] | None = None) -> None:
        self._summarised, self._summarised_at = max(1, self._rows.get("frames", 0)), time.monotonic()
        if self._run is None or ranges is None:
            self._run = self._client[REDUCED][self._reduction.path_parts[-2]]
        write_summary(self._reduction, self._run, self._start, self._rows, self._nodes.get("frames"), ranges)

    def _served_from_archive(self) -> frozenset[str]:
        """Return the tables that the server reads from the archive itself, so that nothing is to be sent."""
        if "served_from" not in self._reduction.metadata:
            return frozenset()
        sources = {name: node.data_sources() for name, node in self._nodes.items()}
        return frozenset(name for name, (source,) in sources.items() if source.mimetype == ARCHIVE_TABLE)

    def _table(self, name: str) -> Any:
        if name not in self._nodes:
            raise PublishError(f"table {name} is not open; wanted one of {sorted(self._nodes)}")
        return self._nodes[name]


class _TiledSinks:
    """The entry point ``hedmlive.sinks``: called, it gives a sink for a server."""

    def __call__(self, uri: str, *, api_key: str | None = None) -> TiledSink:
        """Return a sink for a server.

        Parameters
        ----------
        uri
            Address of the server, with or without ``/api/v1``.
        api_key
            Its key; by default that of the environment variable ``HEDMLIVE_TILED_KEY``.
        """
        address = uri.rstrip("/")
        address = address if address.endswith("/api/v1") else f"{address}/api/v1"
        return TiledSink(catalogue(address, api_key or os.environ.get(KEY_VARIABLE, "")), batch_size=LIVE_EVENTS)

    def preload(self) -> None:
        """Import Tiled's client and writer: three seconds, once."""
        limit_retries()
        import bluesky_tiled_plugins
        import tiled.client.dataframe

        _ = bluesky_tiled_plugins, tiled.client.dataframe


tiled_sink = _TiledSinks()
"""What the entry point names."""

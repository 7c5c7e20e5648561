"""The feed of one table of a reduction: a thread that hears of new rows by Tiled's websocket, or asks for them.

Tiled's own subscription is not used: it ends for ever, without a word, at a message above its limit of size; after a
restart of a server that keeps its messages in memory it goes on from the number that it had, and misses what the new
count begins with; and it makes and revokes a key for each connection, which a reader's key may not.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx
import msgpack
import pyarrow as pa
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from ..streaming import SettingsError
from .layout import BATCH
from .live import Arrival, Ended, Follower
from .tables import ReducedTable

LARGEST = 1 << 30
"""Bytes of a message at most; a batch of the publisher's default size has some 10 MB."""

_LOOK = 0.25  # s between two looks at whether to stop
_LONGEST_PAUSE = 5.0  # s between two attempts to reach a server that is away
_LONGEST_QUIET = 8  # times `quiet`
_POLL = 0.5  # s between two questions where there is no websocket
_POLL_SHARE = 5  # a question is not asked sooner than after so many times what the last one took
_WITHOUT = 30.0  # s until the websocket is tried again
_ONE_ANSWER = 0.2  # s for which what one feed was told of the reduction serves the others
_PASSING = frozenset({408, 409, 425, 429})
_LOG = logging.getLogger(__name__)


class Followed:
    """A reduction that several feeds follow: what one of them asks, the others need not.

    They all ask at the same moments, when somebody joins and when the reduction ends; each by itself, these were twenty
    requests, for which new rows had to wait.

    Parameters
    ----------
    reduction
        The client of the reduction.
    """

    def __init__(self, reduction: Any) -> None:
        # A client of its own: asking anew changes what a client knows.
        self._reduction = reduction.new_variation()
        self._lock = threading.Lock()
        self._asked = -math.inf
        self._nodes: Mapping[str, ReducedTable] = {}

    @property
    def name(self) -> str:
        """Name of the reduction, for messages."""
        return self._reduction.name

    def is_over(self) -> bool:
        """Tell whether the reduction is over; true is said only when its last rows are stored."""
        with self._lock:
            now = time.monotonic()
            if now >= self._asked + _ONE_ANSWER:
                self._reduction.refresh()
                self._asked = now
            return self._reduction.metadata.get("status") != "running"

    def table(self, name: str) -> ReducedTable | None:
        """Return the client of a table, None if there is none yet."""
        with self._lock:
            if name not in self._nodes:
                self._nodes = dict(self._reduction.items())
            return self._nodes.get(name)

    def tables(self) -> list[str]:
        """Return the names of what there is, for messages."""
        return sorted(self._nodes)


class Feed(threading.Thread):
    """Puts each batch of a table where it is wanted, and at last an `Ended`.

    Parameters
    ----------
    reduction
        The reduction; one for all of its feeds.
    table
        Name of the table.
    put
        Called with what arrives; may wait.
    stop
        Ends the thread when set.
    quiet
        Seconds without a message after which the stored rows are asked for.
    """

    def __init__(
        self,
        reduction: Followed,
        table: str,
        put: Callable[[Arrival], None],
        stop: threading.Event,
        *,
        quiet: float,
    ) -> None:
        super().__init__(name=f"hedmlive-live-{table}", daemon=True)
        self._reduction = reduction
        self._table = table
        self._put = put
        self._stop_asked = stop
        self._quiet = quiet
        self._follower: Follower | None = None
        self._told = False

    def run(self) -> None:
        """Follow the table until the reduction is over, whatever the server does meanwhile."""
        pause, known = 0.1, 0
        try:
            while not self._stop_asked.is_set():
                try:
                    if self._follow():
                        self._put(Ended(self._table))
                        return
                except Exception as error:
                    if not _passes(error):
                        raise
                    _LOG.info("%s: %r; trying again", self._table, error)
                n_rows = 0 if self._follower is None else self._follower.n_rows
                pause = 0.1 if n_rows > known else min(2 * pause, _LONGEST_PAUSE)
                known = n_rows
                self._stop_asked.wait(pause)
        except Exception as error:
            self._put(Ended(self._table, error))

    def _follow(self) -> bool:
        """Follow as long as a connection lasts; return whether the reduction is over and all of it was given."""
        # Asked before the rows: what is stored by then is all there is.
        over = self._reduction.is_over()
        node = self._node(over)
        if node is None:
            return False
        if over:
            self._fill(node)
            return True
        try:
            with self._connected(node) as socket:
                return self._listen(node, socket)
        except InvalidHandshake as error:
            # A server without live messages, or a proxy that lets no websocket through.
            if not self._told:
                _LOG.warning("%s: no websocket (%s); new rows are asked for", self._table, error)
                self._told = True
            return self._ask_on(node, time.monotonic() + _WITHOUT)

    def _listen(self, node: ReducedTable, socket: ClientConnection) -> bool:
        # First connected, then asked: what is stored in between comes twice rather than not at all.
        self._fill(node)
        quiet, heard = self._quiet, time.monotonic()
        while not self._stop_asked.is_set():
            try:
                message = socket.recv(timeout=_LOOK)
            except TimeoutError:
                if time.monotonic() < heard + quiet:
                    continue
                over = self._reduction.is_over()
                quiet = self._quiet if self._fill(node) else min(2 * quiet, _LONGEST_QUIET * self._quiet)
                heard = time.monotonic()
                if over:
                    return True
                continue
            except ConnectionClosedOK:
                # Its end of the stream, as a rule; the next look at the reduction tells.
                return False
            self._take(node, message)
            quiet, heard = self._quiet, time.monotonic()
        return False

    def _ask_on(self, node: ReducedTable, until: float) -> bool:
        while not self._stop_asked.is_set() and time.monotonic() < until:
            began = time.monotonic()
            over = self._reduction.is_over()
            self._fill(node)
            if over:
                return True
            self._stop_asked.wait(max(_POLL, _POLL_SHARE * (time.monotonic() - began)))
        return False

    def _take(self, node: ReducedTable, message: str | bytes) -> None:
        rows = _rows_of(message)
        if rows is None:
            return
        follower = self._followed(node)
        found = follower.take(rows)
        if found is None:
            # The message before it was dropped, or its batch was stored before we listened.
            self._fill(node)
            found = follower.take(rows) or []
        for batch in found:
            self._put(batch)

    def _fill(self, node: ReducedTable) -> int:
        """Give what is stored and was not given; return how many rows."""
        follower = self._followed(node)
        before, whole = follower.n_rows, False
        while not whole and not self._stop_asked.is_set():
            rows, whole = node.since(follower.last)
            for batch in follower.fill(rows):
                self._put(batch)
        return follower.n_rows - before

    def _followed(self, node: ReducedTable) -> Follower:
        if self._follower is None:
            self._follower = Follower(self._table, node.identity, BATCH)
        return self._follower

    def _node(self, over: bool) -> ReducedTable | None:
        node = self._reduction.table(self._table)
        if node is None and over:
            raise SettingsError(
                f"{self._reduction.name}: table {self._table} came; wanted one of {self._reduction.tables()}"
            )
        return node  # nodes are made one by one

    @contextmanager
    def _connected(self, node: ReducedTable) -> Generator[ClientConnection]:
        base, _, path = node.item["links"]["self"].partition("/metadata/")
        uri = f"ws{base.removeprefix('http')}/stream/single/{path}?envelope_format=msgpack"
        key = node.context.api_key
        headers = {} if key is None else {"Authorization": f"Apikey {key}"}
        options: dict[str, Any] = {"open_timeout": 10, "close_timeout": 1, "compression": None}
        with connect(uri, additional_headers=headers, max_size=LARGEST, **options) as socket:
            if key is None and (auth := getattr(node.context.http_client, "auth", None)) is not None:
                # Who logged in has a token, which the request that opens a websocket has no place for.
                socket.send(json.dumps({"type": "auth", "access_token": auth.sync_get_token("access_token")}))
            yield socket


def _rows_of(message: str | bytes) -> pa.Table | None:
    """Return the rows of a message; None if it is of another kind."""
    said: Any = msgpack.unpackb(message) if isinstance(message, bytes) else {}
    if said.get("type") != "table-data":
        return None
    with pa.ipc.open_file(said["payload"]) as reader:
        return reader.read_all()


def _passes(error: Exception) -> bool:
    """Tell whether what went wrong may go better later."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        return code in _PASSING or code >= HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, (httpx.TransportError, ConnectionClosed, OSError))

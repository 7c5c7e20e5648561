"""Whether a server can do its work: ``/readyz``, which fails while a database, the live messages or the disk is away.

``/healthz``, Tiled's own, tells only that the process answers. Who is answered 500 while something is away is told 503
instead: a publisher then tries on, where it would take a 500 that comes again and again for a refusal.
"""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio

from .facility_access import said
from .guard import App, Message, Receive, Send, answer, path_of

PATH = "/readyz"

_LOG = logging.getLogger(__name__)

LIMIT = 3.0
"""Seconds that a part may take to answer."""

Check = Callable[[], Awaitable[object]]


class Readiness:
    """An ASGI application before Tiled's that says whether all parts are there.

    Parameters
    ----------
    app
        Tiled's application, or what stands before it.
    checks
        Name of a part to what raises if it is away.
    """

    def __init__(self, app: App, checks: Mapping[str, Check]) -> None:
        self._app = app
        self._checks = checks
        self._known: dict[str, str] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif path_of(scope) == PATH:
            # Nobody needs a key to ask: no more is told than which part it is.
            away = await self.away()
            status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK
            await answer(send, status, json.dumps({"ready": not away, "away": away}))
        else:
            await self._app(scope, receive, partial(self._send, send))

    async def away(self) -> list[str]:
        """Return the names of the parts that do not answer; why, is logged when it changes."""
        answers = await asyncio.gather(*map(_failure, self._checks.values()))
        found = {name: why for name, why in zip(self._checks, answers, strict=True) if why is not None}
        for name, why in found.items():
            if self._known.get(name) != why:
                _LOG.warning("%s is away: %s", name, why)
        for name in self._known.keys() - found.keys():
            _LOG.warning("%s is there again", name)
        self._known = found
        return list(found)

    async def _send(self, send: Send, message: Message) -> None:
        failed = message["type"] == "http.response.start" and message["status"] == HTTPStatus.INTERNAL_SERVER_ERROR
        if failed and await self.away():
            message = {**message, "status": int(HTTPStatus.SERVICE_UNAVAILABLE)}
        await send(message)


async def _failure(check: Check) -> str | None:
    """Return why a part does not answer; None if it does."""
    try:
        await asyncio.wait_for(check(), LIMIT)
    except Exception as error:
        # Whatever a driver, a socket or a disk raises: each means the same for who asks.
        return said(error)
    return None


def checks_of(app: Any, folder: Path) -> dict[str, Check]:
    """Return the checks of a server.

    Parameters
    ----------
    app
        Tiled's application over one catalogue.
    folder
        Where uploaded arrays are written.
    """
    from tiled.server.connection_pool import get_database_engine
    from tiled.server.settings import get_settings

    context = app.state.root_tree.context
    accounts = app.dependency_overrides[get_settings]().database_settings
    checks: dict[str, Check] = {
        "catalogue": partial(_engine, lambda: context.engine),
        "tables": partial(_tables, context),
        "stream": partial(_stream, context),
        "disk": partial(_disk, folder),
    }
    if accounts.uri is not None:
        checks["accounts"] = partial(_engine, lambda: get_database_engine(accounts))
    return checks


async def _engine(engine: Callable[[], Any]) -> None:
    from sqlalchemy import text

    async with engine().connect() as connection:
        await connection.execute(text("SELECT 1"))


async def _tables(context: Any) -> None:
    for storage in context.writable_storage.values():
        if hasattr(storage, "dialect"):
            await anyio.to_thread.run_sync(_ask, storage, abandon_on_cancel=True)


def _ask(storage: Any) -> None:
    if storage.dialect != "postgresql":
        return  # a file: its folder is looked at, and its lock may be held by an append
    try:
        with closing(storage.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except Exception:
        # Its pool never tries connections before it gives them out: those that broke would fail one by one later.
        storage.dispose()
        raise


async def _stream(context: Any) -> None:
    client = context.streaming_cache.client
    if hasattr(client, "ping"):
        await client.ping()


async def _disk(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder} cannot be written to")

"""Keeps a server inside its folders where Tiled itself compares paths only as they are spelled.

Measured with tiled 0.2.20: a file registered as ``<readable folder>/../secret.h5``, or through a symlink that lies in a
readable folder, is served. So is any as ``sqlite:////anywhere/secret.tif`` or ``duckdb:...``: only addresses that begin
with ``file:`` are compared. And two parts of it ask for no key: whoever comes lists and reads arrays below ``/zarr``,
and writes links at ``/api/graphql``.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_DATABASES = ("sqlite", "duckdb", "postgres")
_KEYLESS = ("/zarr/", "/api/graphql")
_REGISTERING = ("/api/v1/register", "/api/v1/metadata", "/api/v1/data_source")


class FolderGuard:
    """An ASGI application before Tiled's that refuses to register a file which only seems to lie in a folder.

    A file that lies elsewhere and says so may be registered: Tiled refuses to read it, and the rest of its run can
    be stored.

    Parameters
    ----------
    app
        Tiled's application.
    folders
        Folders whose files may be served, as they were spelled.
    """

    def __init__(self, app: App, folders: Sequence[Path]) -> None:
        self._app = app
        self._spelled = tuple(folders)
        self._real = tuple(folder.resolve() for folder in folders)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403, or 404 where Tiled would ask for no key."""
        if scope["type"] == "http" and path_of(scope).startswith(_KEYLESS):
            await answer(send, HTTPStatus.NOT_FOUND, json.dumps({"detail": "Not Found"}))
            return
        registers = scope["type"] == "http" and scope["method"] in {"POST", "PUT", "PATCH"}
        if not registers or not path_of(scope).startswith(_REGISTERING):
            await self._app(scope, receive, send)
            return
        messages = await _whole_body(receive)
        stray = self._stray(b"".join(message.get("body", b"") for message in messages))
        if stray is None:
            await self._app(scope, _replay(messages, receive), send)
        else:
            reason = f"{stray} lies outside the folders of this server; wanted a file inside them"
            await answer(send, HTTPStatus.FORBIDDEN, json.dumps({"detail": reason}))

    def _stray(self, body: bytes) -> str | None:
        try:
            content = json.loads(body)
        except ValueError:
            return None  # Tiled answers what is wrong with it
        for uri in _data_uris(content):
            scheme = urlsplit(uri).scheme
            if scheme.startswith(_DATABASES) or (scheme == "file" and not self._holds(uri)):
                return uri
        return None

    def _holds(self, uri: str) -> bool:
        from tiled.utils import path_from_uri  # the server has it loaded already, settings need it not

        path = path_from_uri(uri)
        if not any(path.is_relative_to(folder) for folder in (*self._spelled, *self._real)):
            return True  # Tiled's own check sees this one
        return any(path.resolve().is_relative_to(folder) for folder in self._real)


def _data_uris(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "data_uri" and isinstance(value, str):
                yield value
            else:
                yield from _data_uris(value)
    elif isinstance(content, list):
        for value in content:
            yield from _data_uris(value)


async def _whole_body(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    left = iter(messages)

    async def again() -> Message:
        for message in left:
            return message
        return await receive()

    return again


class RootPath:
    """An ASGI application before Tiled's that is found below a path whether or not a proxy takes that path away.

    Links in answers have the path, so that whoever asks without a proxy follows them to here, too.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, with the path once."""
        root = str(scope.get("root_path", ""))
        # The web server has put it before the path that came.
        if root and str(scope["path"]).startswith(f"{root}{root}/"):
            scope = {**scope, "path": scope["path"][len(root) :]}
        await self._app(scope, receive, send)


def path_of(scope: Message) -> str:
    """Return the path of a request, without that below which a proxy serves all."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def answer(send: Send, status: HTTPStatus, text: str) -> None:
    """Answer a request with JSON."""
    body = text.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Keeps a server inside its folders where Tiled itself compares paths only as they are spelled.

Measured with tiled 0.2.20: a file registered as ``<readable folder>/../secret.h5``, or through a symlink that lies in a
readable folder, is served.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

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
        """Pass a request on, or answer it with 403."""
        registers = scope["type"] == "http" and scope["method"] in {"POST", "PUT", "PATCH"}
        if not registers or not scope["path"].startswith(_REGISTERING):
            await self._app(scope, receive, send)
            return
        messages = await _whole_body(receive)
        stray = self._stray(b"".join(message.get("body", b"") for message in messages))
        if stray is None:
            await self._app(scope, _replay(messages, receive), send)
        else:
            await _refuse(send, f"{stray} lies outside the folders of this server; wanted a file inside them")

    def _stray(self, body: bytes) -> str | None:
        try:
            content = json.loads(body)
        except ValueError:
            return None  # Tiled answers what is wrong with it
        for uri in _data_uris(content):
            if uri.startswith("file:") and not self._holds(uri):
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


async def _refuse(send: Send, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})

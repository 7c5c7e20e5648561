"""What stands before Tiled's application: routes of it that are closed, and the path below which a proxy serves it.

Measured with tiled 0.2.20: two parts of it ask for no key. Whoever comes lists and reads arrays below ``/zarr``, and
writes links at ``/api/graphql``.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_KEYLESS = ("/zarr/", "/api/graphql")


class ClosedRoutes:
    """An ASGI application before Tiled's that answers 404 where Tiled would ask for no key."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and path_of(scope).startswith(_KEYLESS):
            await answer(send, HTTPStatus.NOT_FOUND, json.dumps({"detail": "Not Found"}))
        else:
            await self._app(scope, receive, send)


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

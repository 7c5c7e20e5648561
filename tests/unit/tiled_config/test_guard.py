"""What stands before the server: routes that would ask for no key are closed."""

import asyncio

import pytest

from hedmlive.tiled_config.guard import ClosedRoutes


def ask(path, root):
    """Send a request, and return the status of the answer."""
    answers = []

    async def open_to_all(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": "GET", "path": root + path, "root_path": root}
    asyncio.run(ClosedRoutes(open_to_all)(scope, receive, send))
    return answers[0]["status"]


@pytest.mark.parametrize("path", ["/zarr/v2/raw/.zgroup", "/zarr/v3/a/c/0/0", "/api/graphql", "/api/graphql/"])
@pytest.mark.parametrize("root", ["", "/hedm"])
def test_what_asks_for_no_key_is_closed(path, root):
    assert ask(path, root) == 404


@pytest.mark.parametrize("path", ["/api/v1/", "/api/v1/metadata/zarr/", "/healthz"])
def test_all_else_is_passed_on(path):
    assert ask(path, "/hedm") == 200

"""The guard before the server: files that only seem to lie in a folder."""

import asyncio
import json

import pytest

from hedmlive.tiled_config.guard import FolderGuard


def ask(guard, path, body, method="POST", parts=3, root=""):
    """Send a request in parts, and return the status of the answer."""
    cut = max(1, len(body) // parts)
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)] or [b""]
    messages = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)} for i, piece in enumerate(pieces)
    ]
    answers = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        answers.append(message)

    asyncio.run(guard({"type": "http", "method": method, "path": root + path, "root_path": root}, receive, send))
    return answers[0]["status"], b"".join(message.get("body", b"") for message in answers)


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def folders(tmp_path):
    real, inside = tmp_path / "real", tmp_path / "inside"
    real.mkdir()
    inside.mkdir()
    (inside / "link").symlink_to(real)
    (tmp_path / "spelled").symlink_to(inside)
    return tmp_path


def body_of(path):
    return json.dumps({"data_sources": [{"assets": [{"data_uri": f"file://localhost{path}"}]}]}).encode()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("inside/a.h5", 200),
        ("inside/new/../a.h5", 200),
        ("spelled/a.h5", 200),
        ("inside/../real/a.h5", 403),
        ("inside/link/a.h5", 403),
        ("spelled/link/a.h5", 403),
        ("elsewhere/a.h5", 200),  # Tiled itself does not read it
    ],
)
def test_a_file_must_lie_where_it_seems_to(folders, path, status):
    guard = FolderGuard(echo, [folders / "inside", folders / "spelled"])
    body = body_of(folders / path)
    came, text = ask(guard, "/api/v1/register/", body)
    assert came == status
    assert path in text.decode()


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("file:{folder}/inside/../real/a.h5", 403),
        ("FILE://localhost{folder}/inside/../real/a.h5", 403),
        (" file://localhost{folder}/inside/../real/a.h5", 403),
        ("fi\nle://localhost{folder}/inside/../real/a.h5", 403),
        ("file://other.example.org{folder}/inside/link/a.h5", 403),
        ("sqlite:///{folder}/real/a.h5", 403),
        ("duckdb:///{folder}/inside/a.h5", 403),
        ("postgresql://user:word@host/accounts", 403),
        ("FILE://localhost{folder}/inside/a.h5", 200),
    ],
)
@pytest.mark.parametrize("root", ["", "/hedm"])
def test_no_spelling_of_an_address_leads_past_it(folders, uri, status, root):
    content = {"data_sources": [{"assets": [{"data_uri": uri.format(folder=folders), "parameter": None}]}]}
    guard = FolderGuard(echo, [folders / "inside"])
    assert ask(guard, "/api/v1/register/raw", json.dumps(content).encode(), root=root)[0] == status


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff\x00", b'{"data_sources": [{"assets": null}]}', b"[1, 2]"])
def test_what_is_not_understood_is_passed_on_unchanged(folders, body):
    assert ask(FolderGuard(echo, [folders]), "/api/v1/metadata/a", body) == (200, body)


@pytest.mark.parametrize("path", ["/zarr/v2/raw/.zgroup", "/zarr/v3/a/c/0/0", "/api/graphql", "/api/graphql/"])
@pytest.mark.parametrize("root", ["", "/hedm"])
def test_what_asks_for_no_key_is_closed(folders, path, root):
    for method in ("GET", "POST"):
        assert ask(FolderGuard(echo, [folders]), path, b"{}", method, root=root)[0] == 404


def test_data_are_not_looked_into(folders):
    guard = FolderGuard(echo, [folders / "inside"])
    body = body_of(folders / "inside/../real/a.h5")
    assert ask(guard, "/api/v1/array/full/a", body, "PUT") == (200, body)
    assert ask(guard, "/api/v1/data_source/a", body, "PUT")[0] == 403

"""What is away is told, and a failure while something is away asks to be repeated."""

import asyncio
import json

import pytest

from hedmlive.tiled_config.guard import RootPath, path_of
from hedmlive.tiled_config.readiness import Check, Readiness


def failing(status):
    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"said"})

    return application


async def there():
    return None


async def away():
    raise ConnectionRefusedError


async def hidden():
    raise OSError("no route")


async def hangs():
    await asyncio.Event().wait()


def ask(application, path, **scope):
    answers = []

    async def send(message):
        answers.append(message)

    asked = {"type": "http", "method": "GET", "path": path} | scope
    asyncio.run(application(asked, None, send))
    return answers[0]["status"], b"".join(answer.get("body", b"") for answer in answers)


@pytest.mark.parametrize(
    ("checks", "status", "names"),
    [({"a": there}, 200, []), ({"a": there, "b": away}, 503, ["b"]), ({"a": away, "b": away}, 503, ["a", "b"])],
)
def test_what_is_away_is_named(checks, status, names):
    came, text = ask(Readiness(failing(200), checks), "/readyz")
    assert (came, json.loads(text)) == (status, {"ready": not names, "away": names})


def test_why_it_is_away_is_logged_when_that_changes(caplog):
    parts: dict[str, Check] = {"a": away}
    readiness = Readiness(failing(200), parts)
    for part, lines in ((away, 1), (away, 1), (hidden, 2), (there, 3), (there, 3)):
        parts["a"] = part
        asyncio.run(readiness.away())
        assert len(caplog.messages) == lines
    assert caplog.messages == [
        "a is away: ConnectionRefusedError: ",
        "a is away: OSError: no route",
        "a is there again",
    ]


def test_what_hangs_is_away(monkeypatch):
    monkeypatch.setattr("hedmlive.tiled_config.readiness.LIMIT", 0.05)
    assert ask(Readiness(failing(200), {"a": hangs}), "/readyz")[0] == 503


@pytest.mark.parametrize(
    ("status", "checks", "answered"),
    [(500, {"a": there}, 500), (500, {"a": away}, 503), (404, {"a": away}, 404), (200, {"a": away}, 200)],
)
def test_a_failure_while_something_is_away_asks_to_be_repeated(status, checks, answered):
    assert ask(Readiness(failing(status), checks), "/api/v1/search/") == (answered, b"said")


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/hedm/api/v1/", "/hedm", "/hedm/api/v1/"),  # the web server puts it before what came
        ("/hedm/hedm/api/v1/", "/hedm", "/hedm/api/v1/"),  # a proxy left it there
        ("/hedm/hedm/hedm/api/v1/", "/hedm", "/hedm/hedm/api/v1/"),  # found nowhere
        ("/hedmhedm/api", "/hedm", "/hedmhedm/api"),
        ("/api/v1/", "", "/api/v1/"),
    ],
)
def test_a_path_of_a_proxy_is_there_once(path, root, seen):
    came = []

    async def application(scope, receive, send):
        came.append(scope["path"])
        await failing(200)(scope, receive, send)

    ask(RootPath(application), path, root_path=root)
    assert came == [seen]


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [("/hedm/api", "/hedm", "/api"), ("/hedmx/api", "/hedm", "/hedmx/api"), ("/api", "", "/api")],
)
def test_a_guard_looks_at_the_path_below_it(path, root, seen):
    assert path_of({"path": path, "root_path": root}) == seen

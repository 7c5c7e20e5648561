"""What FastAPI works out is kept: the same answers, worked out once."""

import asyncio
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Header
from fastapi.dependencies import utils

from hedmlive.tiled_config.dependencies import remember_dependencies


def settings() -> str:
    return "default"


def greeting(said: Annotated[str, Depends(settings)], name: Annotated[str, Header()] = "nobody") -> str:
    return f"{said} {name}"


def app(answer: str) -> FastAPI:
    made = FastAPI()

    @made.get("/{place}")
    def answered(place: str, said: Annotated[str, Depends(greeting)]) -> str:
        return f"{place} {said}"

    made.dependency_overrides[settings] = lambda: answer
    return made


def get(app: FastAPI, place: str, **headers: str) -> str:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get(place, headers=headers)

    return asyncio.run(ask()).json()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []
    look = utils.get_typed_signature
    monkeypatch.setattr(utils, "get_typed_signature", lambda call: (calls.append(call), look(call))[1])
    return calls


def test_a_signature_is_read_once(asked: list[object]) -> None:
    remember_dependencies()
    made = app("first")
    assert get(made, "/here", name="a") == "here first a"
    assert asked
    asked.clear()
    assert get(made, "/there", name="b") == "there first b"
    assert get(made, "/there") == "there first nobody"
    assert not asked


def test_each_application_has_its_own_answers() -> None:
    remember_dependencies()
    remember_dependencies()
    first, second = app("first"), app("second")
    assert [get(made, "/x") for made in (first, second)] == ["x first nobody", "x second nobody"]
    first.dependency_overrides[settings] = lambda: "another"
    assert get(first, "/x") == "x another nobody"
    first.dependency_overrides.clear()
    assert [get(made, "/x") for made in (first, second)] == ["x default nobody", "x second nobody"]

"""Rows for several tables in one request: all of it or nothing, and only from who may write."""

import time
from collections.abc import Generator

import httpx
import pyarrow.compute as pc
import pytest
from live_feeding import KEY, UID, Feeder

from hedmlive.tiled_config import EmbeddedServer
from hedmlive.tiled_config.appending import APPEND_TYPE, packed

PLACE = f"hedm/append/reduced/{UID}/attempt-0000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("append"), api_key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def feeder(server: EmbeddedServer) -> Generator[Feeder]:
    made = Feeder(server)
    made.push(3)
    yield made
    made.close()


def ask(server: EmbeddedServer, body: bytes, *, place: str = PLACE, key: str = KEY) -> httpx.Response:
    headers = {"Authorization": f"Apikey {key}", "Content-Type": APPEND_TYPE}
    return httpx.patch(f"{server.uri}/{place}", content=body, headers=headers, timeout=30)


def rows(feeder: Feeder, name: str) -> int:
    return feeder.sink.stored(name)[1]


def test_all_tables_were_filled_by_one_request(feeder: Feeder) -> None:
    assert {name: rows(feeder, name) for name in ("frames", "peaks", "tracks")} == {
        "frames": 3,
        "peaks": 15,
        "tracks": 15,
    }


def test_what_is_refused_in_one_table_is_stored_in_none(server: EmbeddedServer, feeder: Feeder) -> None:
    table = feeder.sink.table("links")
    known = table.query([*table.structure().columns])
    fresh = known.set_column(known.column_names.index("frame_a"), "frame_a", pc.add(known["frame_a"], 900))
    members = feeder.sink.table("members")
    body = packed({"links": fresh, "members": members.query([*members.structure().columns])})
    assert ask(server, body).status_code == 500
    assert (rows(feeder, "links"), rows(feeder, "members")) == (15, 15)
    assert ask(server, packed({"links": fresh})).status_code == 204
    assert rows(feeder, "links") == 30


@pytest.mark.parametrize(
    ("body", "more", "code"),
    [
        (b"no map", {}, 400),
        (packed({}), {"key": "not-the-key-0123456789"}, 401),
        (b"\x81\xa5peaks\xc4\x01x", {}, 400),
    ],
    ids=["garbage", "wrong key", "no Arrow"],
)
def test_what_is_no_request_is_refused(
    server: EmbeddedServer, feeder: Feeder, body: bytes, more: dict[str, str], code: int
) -> None:
    assert ask(server, body, **more).status_code == code
    assert rows(feeder, "peaks") == 15


@pytest.mark.parametrize("name", ["nothing", "../../attempt-0000/peaks", "peaks/frame"])
def test_only_tables_of_the_reduction_take_rows(server: EmbeddedServer, feeder: Feeder, name: str) -> None:
    table = feeder.sink.table("peaks")
    body = packed({name: table.query([*table.structure().columns])})
    assert ask(server, body).status_code == 404
    assert ask(server, body, place="hedm/append/reduced/nobody").status_code == 404


def test_columns_that_do_not_fit_are_named(server: EmbeddedServer, feeder: Feeder) -> None:
    table = feeder.sink.table("peaks")
    answer = ask(server, packed({"peaks": table.query(["frame", "peak"])}))
    assert answer.status_code == 400
    assert "columns do not fit" in answer.json()["detail"]


def test_a_reduction_that_is_removed_takes_no_rows(server: EmbeddedServer) -> None:
    made = Feeder(server, "removed")
    made.push(1)
    table = made.sink.table("frames")
    body = packed({"frames": table.query([*table.structure().columns])})
    made.sink.client["reduced"].delete_contents(["removed"], recursive=True, external_only=False)
    deadline = time.monotonic() + 10
    # Known for a second longer: its frame, which is stored already, cannot be stored again (500).
    while (code := ask(server, body, place="hedm/append/reduced/removed/attempt-0000").status_code) != 404:
        assert code in (204, 500)
        assert time.monotonic() < deadline
    made.close()

"""A server below a path of a site, behind nginx that speaks TLS: publishing, live rows, the live page, an outage."""

import logging
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hostile
import httpx
import numpy as np
import pytest
from browser import page
from live_feeding import Feeder
from proxy import Proxy, proxy
from services import SECRETS, SmallFacility, idle_until, small_facility, wait
from tiled.client import from_context
from tiled.client.context import Context

from hedmlive.callbacks import ReducedArchiveReader, RunResult, load_settings, make_sink
from hedmlive.callbacks.foreign import result_of
from hedmlive.callbacks.replay import process_in_steps
from hedmlive.streaming import TABLES
from hedmlive.tiled_config import catalogue, connect, disconnect, read_table
from hedmlive.tiled_config.preflight import check_server
from hedmlive.tiled_config.runs import Runs

PATH = "/hedm"
MOST = "24k"
"""Largest body of a request: a batch with the rows of a few frames has 18 kB, one with all of them 90 kB."""

N_FRAMES = 100


@contextmanager
def behind_nginx(folder: Path, most: str) -> Generator[tuple[SmallFacility, Proxy]]:
    """Start a server and the proxy, whose certificate the clients of this process take."""
    with (
        small_facility(folder, PATH) as site,
        proxy(site.address, PATH, most) as before,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SSL_CERT_FILE", str(before.certificate))
        yield site, before


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[SmallFacility, Proxy]]:
    with behind_nginx(tmp_path_factory.mktemp("site"), "256m") as made:
        yield made


class Reader(threading.Thread):
    """Follows a run through the proxy, and counts its rows."""

    def __init__(self, address: str, key: str, uid: str) -> None:
        super().__init__(daemon=True)
        self.client = connect(address, key)
        self.error: Exception | None = None
        self.rows: dict[str, list[tuple[int, ...]]] = {"frames": [], "peaks": [], "tracks": []}
        wait("the run", lambda: uid in self.client)
        self._run = self.client[uid]
        self.start()

    def run(self) -> None:
        try:
            for batch in self._run.live(*self.rows, timeout=90):
                key = (batch.rows[name].to_pylist() for name in TABLES[batch.table].key)
                self.rows[batch.table] += zip(*key, strict=True)
        except Exception as error:
            self.error = error


def healthz(before: Proxy) -> int:
    return httpx.get(f"{before.address}/healthz").status_code


def archived(result: RunResult, table: str) -> Any:
    assert result.reduced is not None
    with ReducedArchiveReader(result.reduced) as archive:
        return archive.read(0, table)


def test_a_run_is_published_and_followed_through_a_proxy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In small bodies only, and while the server behind it is away and comes again."""
    (tmp_path / "site").mkdir()
    with behind_nginx(tmp_path / "site", MOST) as (site, before):
        published_and_followed(site, before, tmp_path, caplog)


def published_and_followed(
    site: SmallFacility, before: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = site.key("service:publisher", "publisher")
    caplog.set_level(logging.WARNING)
    readers: list[Reader] = []
    alice = site.key("alice", "reader")

    def documents() -> Iterator[tuple[str, dict[str, Any]] | None]:
        for name, doc in hostile.run(uid="through", n_frames=N_FRAMES):
            match doc.get("seq_num") if name == "event" and "omega" in doc["data"] else None:
                case 20:
                    readers.append(Reader(before.address, alice, "through"))
                    # What was pushed is written and published meanwhile, as it is while a file does not grow.
                    yield from idle_until("the first rows", lambda: any(map(len, readers[0].rows.values())))
                case 25:
                    site.served.close()
                    wait(
                        "an answer of the proxy alone",
                        lambda: httpx.get(f"{before.address}/healthz").status_code == 502,
                    )
                case 95:
                    site.start()
                case _:
                    pass
            yield name, {**doc, "proposal_id": 1001} if name == "start" else doc

    settings = hostile.settings(tmp_path, tiled={"uri": before.address, "latency": 0.01, "raw": False})
    sink = partial(make_sink, "tiled", before.address, publisher)
    result = result_of(process_in_steps(documents(), load_settings(settings), sink=sink))
    assert [line for line in result.problems if "trying on" not in line] == []
    client = catalogue(before.address, publisher)
    reduction = client["reduced/through/attempt-0000"]
    assert reduction.metadata["digest"] == result.digests[0]
    (reader,) = readers
    reader.join(90)
    assert (reader.error, reader.is_alive()) == (None, False)
    for name, found in reader.rows.items():
        written, served = archived(result, name), read_table(reduction[name])
        assert len(written[TABLES[name].key[0]]) > 0
        for column in TABLES[name].names:
            np.testing.assert_array_equal(served[column].to_numpy(), written[column])
        keys = sorted(zip(*(written[column].tolist() for column in TABLES[name].key), strict=True))
        assert sorted(found) == keys
    for each in (client, reader.client):
        disconnect(each)
    codes = {(method, code) for method, path, code in before.requests() if "/append/" in path or "/stream/" in path}
    assert {("PATCH", 413), ("PATCH", 204), ("GET", 101)} <= codes
    assert "no websocket" not in caplog.text


def test_a_user_who_logged_in_follows_live_rows(
    both: tuple[SmallFacility, Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    site, before = both
    publisher = site.key("service:publisher", "publisher")
    feeder = Feeder(site.served, "logged-in", key=publisher, proposal_id=1001)
    feeder.push(3)
    context, _ = Context.from_any_uri(before.address)
    (provider,) = context.server_info.authentication.providers
    said = {"grant_type": "password", "username": "alice", "password": SECRETS["HEDM_ALICE"]}
    # Whose address leads through the proxy, too.
    answer = context.http_client.post(provider.links["auth_endpoint"], data=said, auth=None)
    context.configure_auth(answer.raise_for_status().json(), remember_me=False)
    runs = Runs(from_context(context))
    found = []
    for batch in runs["logged-in"].live("frames", timeout=60):
        found += batch.rows["frame"].to_pylist()
        if len(found) == 3:
            feeder.push(2)
        elif len(found) == 5:
            feeder.end()
    assert found == [number for (number,) in feeder.sent["frames"]]
    assert "no websocket" not in caplog.text
    feeder.close()
    disconnect(runs)


def test_links_lead_back_through_it(both: tuple[SmallFacility, Proxy]) -> None:
    site, before = both
    publisher = site.key("service:publisher", "publisher")
    checks = check_server(before.address, publisher)
    assert [each for each in checks if each.state == "bad"] == []
    assert {each.item: each.state for each in checks}["links"] == "ok"


def test_the_live_page_is_live_below_the_path(both: tuple[SmallFacility, Proxy]) -> None:
    site, before = both
    publisher = site.key("service:publisher", "publisher")
    feeder = Feeder(site.served, "page", key=publisher, proposal_id=1001, time=2.0)
    feeder.push(2)
    with page(trusts_all=True) as shown:
        shown.open(f"{before.address}/api/v1/hedm/live#key={site.key('alice', 'reader')}")
        shown.wait("document.getElementById('n_frames').textContent == '2'")
        feeder.push(3)
        shown.wait("document.getElementById('n_frames').textContent == '5'")
        # Only a message has a lag.
        assert shown.text("lag").endswith(" s")
        assert shown.messages == []
    feeder.close()

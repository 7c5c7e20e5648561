"""Every row of every table, once and in order, in another process or thread, whatever happens to the server."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_feeding import KEY, NAMES, UID, Feeder, LiveServer
from services import redis

from hedmlive.streaming import TABLES
from hedmlive.tiled_config import connect, disconnect

LIMIT = 90.0


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline, f"not within {LIMIT:.0f} s: {what}"
        time.sleep(0.02)


class Reader(threading.Thread):
    """Follows a reduction, and keeps what it was given."""

    def __init__(self, uri: str, *tables: str, uid: str = UID) -> None:
        super().__init__(daemon=True)
        self.client = connect(uri, KEY)
        self.batches: list[Any] = []
        self.error: Exception | None = None
        self._live = self.client[uid].live(*tables, timeout=LIMIT)
        self.start()

    def run(self) -> None:
        try:
            for batch in self._live:
                self.batches.append(batch)
        except Exception as error:
            self.error = error

    def end(self) -> None:
        """Wait for its own end."""
        self.join(LIMIT)
        assert not self.is_alive()
        disconnect(self.client)

    def rows(self, table: str) -> list[tuple[int, ...]]:
        """Identities of the rows of a table, in the order in which they came."""
        found: list[tuple[int, ...]] = []
        for batch in [each for each in self.batches if each.table == table]:
            found += zip(*(batch.rows[column].to_pylist() for column in TABLES[table].key), strict=True)
        return found

    def n_frames(self) -> int:
        assert self.error is None, self.error
        return len(self.rows("frames"))


@contextmanager
def cache(kind: str) -> Generator[str]:
    """Give the address of a cache of live messages; an empty one for none, and no websocket."""
    if kind != "redis":
        yield {"memory": "memory", "none": ""}[kind]
        return
    with redis() as service:
        yield f"redis://127.0.0.1:{service.port}/0"


@pytest.fixture(params=["memory", "redis", "none"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[LiveServer]:
    with cache(request.param) as address:
        made = LiveServer(tmp_path, address)
        yield made
        made.kill()


def check(reader: Reader, feeder: Feeder) -> None:
    assert reader.error is None
    for name in NAMES:
        assert reader.rows(name) == feeder.sent[name], name
        numbers = [batch.number for batch in reader.batches if batch.table == name]
        assert numbers == sorted(numbers)
    n_peaks = 0
    for batch in reader.batches:
        n_peaks += len(batch) if batch.table == "peaks" else 0
        if batch.table == "frames":
            assert sum(batch.rows["n_peaks"].to_pylist()) <= n_peaks
            n_peaks -= sum(batch.rows["n_peaks"].to_pylist())


def test_joins_in_mid_scan_and_survives_a_server_that_is_killed(server: LiveServer) -> None:
    feeder = Feeder(server)
    for _ in range(3):
        feeder.push(2)
    early = Reader(server.uri)
    wait_until(lambda: early.n_frames() == 6, "what was there before")
    feeder.push()
    late = Reader(server.uri)
    for _ in range(3):
        feeder.push(3)
    wait_until(lambda: early.n_frames() == late.n_frames() == 16, "what came since")
    if server.cache:
        feeder.close()
        server.kill()
        server.start()
        feeder.connect()
    for _ in range(3):
        feeder.push()
    wait_until(lambda: early.n_frames() == late.n_frames() == 19, "what came after the restart")
    feeder.push(4)
    feeder.end()
    feeder.close()
    for reader in (early, late):
        reader.end()
        check(reader, feeder)
    after = Reader(server.uri)
    after.end()
    check(after, feeder)

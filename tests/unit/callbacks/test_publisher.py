"""The publisher against sinks whose faults are chosen: what comes when, how much of it, and what it says of itself."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedmlive.callbacks import Problems, Publisher, ReducedArchive, sinks
from hedmlive.callbacks.fakes import KeepingSink
from hedmlive.callbacks.settings import TiledSettings
from hedmlive.streaming import BatchTooLarge, Columns, PublishError, Recipe, Table

LIMIT = 30.0
ORDER = ["tracks", "members", "peaks", "links", "frames"]


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Sink(KeepingSink):
    """Keeps the order of what came; `fault` may raise before or after a request is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, tuple[int, int]]] = []
        self.opened = 0
        self.fault: Callable[[Mapping[str, tuple[int, Columns]]], bool] = lambda batches: False

    def open_reduction(self, *args: Any, **more: Any) -> None:
        super().open_reduction(*args, **more)
        self.opened += 1

    def append_all(self, batches: Mapping[str, tuple[int, Columns]]) -> None:
        self.requests.append({name: (number, rows_of(columns)) for name, (number, columns) in batches.items()})
        late = self.fault(batches)
        super().append_all(batches)
        if late:
            raise ConnectionError("the answer was lost")


def rows_of(columns: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(columns.values())))


@pytest.fixture
def archive(tmp_path: Path) -> ReducedArchive:
    return ReducedArchive(tmp_path / "run_reduced.h5", "run", Recipe(threshold=1), ("detector",), {})


def add(archive: ReducedArchive, frames: range, n_peaks: int = 3) -> None:
    """Write some frames with their peaks, and a closed track of each."""

    def rows(table: Table, n: int, **values: Any) -> Columns:
        columns = {column.name: np.zeros(n, column.dtype) for column in table.columns}
        return columns | {name: np.asarray(value, columns[name].dtype) for name, value in values.items()}

    of_peaks = np.repeat(np.asarray(frames), n_peaks)
    made = {
        "frames": rows(archive.tables["frames"], len(frames), frame=frames, n_peaks=[n_peaks] * len(frames)),
        "peaks": rows(
            archive.tables["peaks"], len(of_peaks), frame=of_peaks, peak=np.tile(np.arange(n_peaks), len(frames))
        ),
        "tracks": rows(archive.tables["tracks"], len(frames), track=frames),
    }
    archive.write(0, made)
    archive.flush()


def publisher(archive: ReducedArchive, sink: Sink, rows: int = 50_000, **more: Any) -> Publisher:
    settings = TiledSettings(uri="http://127.0.0.1:1", latency=0.02, rows=rows)
    return Publisher(lambda: sink, archive, "run", {"uid": "run"}, settings, Problems("run"), **more)


def end(made: Publisher, archive: ReducedArchive) -> None:
    archive.finish("complete", {})
    made.finish({"digest": "0"})
    assert made.wait(LIMIT)


def stored(sink: Sink, table: str, column: str) -> list[int]:
    return [int(value) for columns in sink.tables[table] for value in columns[column]]


def test_one_request_brings_all_tables_frames_last(archive: ReducedArchive) -> None:
    sink = Sink()
    add(archive, range(4))
    made = publisher(archive, sink)
    wait_until(lambda: made.n_rows == 20)
    assert sink.requests == [{"tracks": (1, 4), "peaks": (1, 12), "frames": (1, 4)}]
    assert list(sink.requests[0]) == [name for name in ORDER if name in sink.requests[0]]
    end(made, archive)
    assert sink.metadata["status"] == "complete"


def test_a_hungry_publisher_sends_what_it_is_fed_at_once(archive: ReducedArchive) -> None:
    sink = Sink()
    settings = TiledSettings(uri="http://127.0.0.1:1", latency=3600)
    made = Publisher(lambda: sink, archive, "run", {"uid": "run"}, settings, Problems("run"))
    for first in (0, 2):
        wait_until(lambda: made.hungry)
        add(archive, range(first, first + 2))
        made.feed()
        wait_until(lambda n=first: made.n_rows == 5 * (n + 2))
    wait_until(lambda: made.hungry)
    end(made, archive)
    assert stored(sink, "frames", "frame") == list(range(4))


def test_frames_wait_until_the_last_of_their_peaks_is_sent(archive: ReducedArchive) -> None:
    sink = Sink()
    add(archive, range(4))
    end(publisher(archive, sink, rows=5), archive)
    assert [request.get("frames") for request in sink.requests] == [None, None, (1, 4)]
    assert stored(sink, "peaks", "frame") == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_batches_become_smaller_where_a_server_takes_no_large_ones(archive: ReducedArchive) -> None:
    sink = Sink()

    def fault(batches: Mapping[str, tuple[int, Columns]]) -> bool:
        if any(rows_of(columns) > 3 for _, columns in batches.values()):
            raise BatchTooLarge("413")
        return False

    sink.fault = fault
    add(archive, range(8))
    made = publisher(archive, sink, rows=16)
    end(made, archive)
    assert made.state.state == "done"
    assert stored(sink, "frames", "frame") == list(range(8))
    assert len(stored(sink, "peaks", "frame")) == 24
    assert {rows_of(columns) for columns in sink.tables["peaks"]} == {2}


def test_a_server_that_takes_not_even_one_row_is_given_up(archive: ReducedArchive) -> None:
    sink = Sink()

    def fault(batches: Mapping[str, tuple[int, Columns]]) -> bool:
        raise BatchTooLarge("413")

    sink.fault = fault
    add(archive, range(2))
    made = publisher(archive, sink, rows=4)
    assert made.wait(LIMIT)
    state = made.state
    assert (state.state, state.n_rows, state.n_waiting, state.error) == ("ended", 0, 10, "413")
    archive.finish("complete", {})


def test_a_reduction_that_cannot_be_opened_is_given_up_with_the_reason(archive: ReducedArchive) -> None:
    class Refusing(Sink):
        closed = 0

        def stored(self, table: str) -> tuple[int, int]:
            raise BatchTooLarge("413 for the opening")

        def close(self) -> None:
            self.closed += 1

    sink = Refusing()
    add(archive, range(2))
    made = publisher(archive, sink, rows=4)
    assert made.wait(LIMIT)
    assert (made.state.state, made.state.error) == ("ended", "413 for the opening")
    assert sink.closed == sink.opened == 3
    archive.finish("complete", {})


@pytest.mark.parametrize("late", [True, False])
def test_what_is_unknown_is_counted_anew(archive: ReducedArchive, late: bool) -> None:
    sink, faults = Sink(), [late, late]

    def fault(batches: Mapping[str, tuple[int, Columns]]) -> bool:
        if faults and not faults.pop():
            raise ConnectionError("500")
        return late and len(sink.requests) < 3

    sink.fault = fault
    add(archive, range(3))
    made = publisher(archive, sink)
    wait_until(lambda: made.n_rows > 0 or sink.opened > 1)
    add(archive, range(3, 6))
    end(made, archive)
    assert sink.opened > 1
    assert stored(sink, "frames", "frame") == list(range(6))
    assert stored(sink, "tracks", "track") == list(range(6))
    assert len(stored(sink, "peaks", "frame")) == 18


def test_the_state_says_how_far_it_is(archive: ReducedArchive) -> None:
    sink, clock = Sink(), [100.0]
    sink.away = True
    made = publisher(archive, sink, clock=lambda: clock[0])
    wait_until(lambda: made.state.state == "waiting")
    add(archive, range(2))
    for came in (97.0, 99.0):
        made.reduced(0, came)
    state = made.state
    assert (state.n_rows, state.n_waiting, state.behind) == (0, 10, 3.0)
    assert "the server is gone" in state.error
    assert not made.connected
    sink.away = False
    wait_until(lambda: made.state.n_rows == 10)
    wait_until(lambda: made.state.behind == 0)
    state = made.state
    assert (state.state, state.n_waiting) == ("publishing", 0)
    # A lag for each frame, not one for each document.
    assert [state.lag.percentile(percent) for percent in (0, 100)] == [1.0, 3.0]
    end(made, archive)
    assert made.state.state == "done"


def test_progress_is_said_for_those_who_watch(archive: ReducedArchive) -> None:
    sink = Sink()
    said = {"n_frames": 3}
    made = publisher(archive, sink, progress=lambda: dict(said))
    wait_until(lambda: sink.metadata.get("progress") == {"n_frames": 3})
    said["n_frames"] = 7
    end(made, archive)
    assert sink.metadata["progress"] == {"n_frames": 7}


def test_a_refusal_ends_it_and_is_said(archive: ReducedArchive) -> None:
    sink = Sink()

    def fault(batches: Mapping[str, tuple[int, Columns]]) -> bool:
        raise PublishError("422")

    sink.fault = fault
    add(archive, range(2))
    problems = Problems("run")
    settings = TiledSettings(uri="http://127.0.0.1:1", latency=0.02)
    made = Publisher(lambda: sink, archive, "run", {"uid": "run"}, settings, problems)
    assert made.wait(LIMIT)
    assert made.state.state == "ended"
    assert problems.lines() == ["run run: 422; what is not published stays in the archives"]
    archive.finish("complete", {})


def test_what_a_sink_needs_is_imported_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads publish a run; packages that import each other in a circle break where both begin."""
    inside, most, begun, both = 0, 0, threading.Barrier(2, timeout=LIMIT), threading.Event()

    class Maker:
        def __call__(self, uri: str, *, api_key: str | None) -> Sink:
            return Sink()

        def preload(self) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            if inside == 2:
                both.set()
            both.wait(0.1)
            inside -= 1

    monkeypatch.setattr(sinks, "_sink_maker", lambda name: Maker())

    def make() -> None:
        begun.wait()
        sinks.make_sink("tiled", "none://", None)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LIMIT)
    assert most == 1

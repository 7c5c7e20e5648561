"""The live callback: other runs, strangers, many runs, a full disk, a defect, a server that is gone."""

import threading
import time
from pathlib import Path
from typing import Any

import hostile
import pytest

from hedmlive.callbacks import HedmLive, Parts, hedm_live_init, load_settings, open_source, process
from hedmlive.callbacks.fakes import FullDisk, KeepingSink, full_raw_archive, full_reduced_archive, raising_reducer
from hedmlive.streaming import ArchiveError, SettingsError


def feed(live: HedmLive, docs: hostile.Documents) -> None:
    for name, doc in docs:
        live(name, doc)


@pytest.fixture
def make(tmp_path: Path):
    made: list[HedmLive] = []

    def _make(parts: Parts | None = None, sink: Any = None, **changes: Any) -> HedmLive:
        made.append(HedmLive(hostile.settings(tmp_path, **changes), parts=parts, sink=sink))
        return made[-1]

    yield _make
    for live in made:
        live.close(5)


def test_other_runs_cost_nothing(make: Any, tmp_path: Path) -> None:
    live = make()
    live._warming.join()
    threads = threading.active_count()
    for way in ("array", "stream"):
        docs = hostile.run(way, tmp_path / "x" if way == "array" else tmp_path, uid=f"{way}-other")
        renamed = [
            (
                n,
                {**d, "data_keys": {k.replace("det0", "cam"): v for k, v in d["data_keys"].items()}}
                if n == "descriptor"
                else d,
            )
            for n, d in docs
        ]
        feed(live, renamed)
    assert threading.active_count() == threads
    assert live.uids == ()
    assert live.problems.lines() == []
    assert not list(tmp_path.glob("*_raw.h5")) + list(tmp_path.glob("*_reduced.h5"))


def test_runs_may_be_interleaved(make: Any, tmp_path: Path) -> None:
    live = make()
    one, two = (hostile.run("array", uid=f"{uid}-run") for uid in ("aaaaaaaa", "bbbbbbbb"))
    for pair in zip(one, two, strict=True):
        feed(live, list(pair))
    results = live.wait(120)
    assert [dict(result.digests) for result in results.values()] == [{0: hostile.expected_digest()}] * 2


def test_documents_of_an_unknown_run_are_named_once(make: Any, tmp_path: Path) -> None:
    live = make()
    feed(live, hostile.run("stream", tmp_path)[1:])
    [problem] = live.problems.lines()
    assert problem.startswith(f"run {hostile.UID[:8]}: a descriptor document came whose run_start")
    assert live.uids == ()


def test_a_stop_without_a_start(make: Any) -> None:
    live = make()
    feed(live, hostile.run()[-1:])
    [problem] = live.problems.lines()
    assert hostile.UID in problem
    assert "no start document" in problem


@pytest.mark.parametrize("doc", [{}, {"uid": 3}, {"uid": "x", "run_start": None}, {"data": 5, "descriptor": []}])
@pytest.mark.parametrize(
    "name",
    ["start", "descriptor", "event", "event_page", "resource", "datum", "stream_resource", "stream_datum", "stop", "x"],
)
def test_nothing_raises_into_the_runengine(name: str, doc: dict[str, Any], make: Any) -> None:
    live = make()
    docs = hostile.run()
    feed(live, docs[:6])
    live(name, doc)
    feed(live, docs[6:])
    [result] = live.wait(120).values()
    assert result.digests == {0: hostile.expected_digest()}


def test_only_the_newest_runs_are_kept(make: Any) -> None:
    live = make()
    for number in range(40):
        feed(live, hostile.run("array", n_frames=2, uid=f"{number:08d}-run"))
        live.wait(120)
    assert len(live.uids) <= 17
    assert len(live.results) <= 17
    assert live.uids[-1] == "00000039-run"


def test_tiny_memory_reads_back_and_gives_the_same_digest(make: Any, tmp_path: Path) -> None:
    # The worker stands still until everything was handed over.
    gate = threading.Event()

    def clock() -> float:
        if threading.current_thread().name.startswith("hedmlive-1"):
            gate.wait(10)
        return 0.0

    live = make(Parts(clock=clock), worker={"memory_mb": 1e-4, "documents": 3})
    docs = hostile.run("array", n_frames=50)
    feed(live, docs)
    gate.set()
    [result] = live.wait(120).values()
    assert result.problems == ()
    assert result.digests == {0: hostile.expected_digest(n_frames=50)}


def test_critical_raw_archive_stops_the_plan(make: Any, tmp_path: Path) -> None:
    live = make(Parts(raw_archive=full_raw_archive(FullDisk(2))), archive={"flush_seconds": 1e-9})
    with pytest.raises(ArchiveError, match=r"raw\.h5: .*No space left"):
        feed(live, hostile.run())
    feed(live, hostile.run()[-1:])  # what the RunEngine sends when the plan was stopped
    [result] = live.wait(120).values()
    assert [problem for problem in result.problems if "No space left" in problem] == [result.problems[0]]


def test_raw_archive_that_is_not_critical(make: Any, tmp_path: Path) -> None:
    parts = Parts(raw_archive=full_raw_archive(FullDisk(2)))
    live = make(parts, archive={"flush_seconds": 1e-9, "critical": False})
    feed(live, hostile.run())
    [result] = live.wait(120).values()
    assert len(result.problems) == 1
    assert "No space left" in result.problems[0]
    assert "goes on without a raw archive" in result.problems[0]
    assert result.digests == {0: hostile.expected_digest()}


def test_an_archive_that_exists_is_not_overwritten(make: Any, tmp_path: Path) -> None:
    (tmp_path / "7_11111111_raw.h5").write_bytes(b"precious")
    live = make()
    with pytest.raises(ArchiveError, match="exists already; choose another folder or stem"):
        feed(live, hostile.run())
    assert (tmp_path / "7_11111111_raw.h5").read_bytes() == b"precious"


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_full_disk_for_the_reduced_archive(room: int, make: Any, tmp_path: Path) -> None:
    live = make(Parts(reduced_archive=full_reduced_archive(FullDisk(room))))
    feed(live, hostile.run())
    [result] = live.wait(120).values()
    if result.digests:
        assert result.digests == {0: hostile.expected_digest()}
    else:
        assert "make room and replay the raw archive" in result.problems[-1]
    assert result.raw is not None
    again = process(open_source(str(result.raw)).documents, load_settings(hostile.settings(tmp_path / "again")))
    assert again.digests == {0: hostile.expected_digest()}


def test_a_reducer_with_a_defect_costs_its_frame(make: Any) -> None:
    live = make(Parts(reducer=raising_reducer({3})))
    feed(live, hostile.run())
    [result] = live.wait(120).values()
    [problem] = result.problems
    assert "frame 3: reducing failed: ZeroDivisionError" in problem
    assert result.digests == {0: hostile.expected_digest([3])}


def test_a_reducer_that_cannot_be_made(make: Any) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("no room")

    live = make(Parts(reducer=broken))
    feed(live, hostile.run())
    [result] = live.wait(120).values()
    assert len(result.problems) >= 1
    assert result.raw is not None


TILED = {"tiled": {"uri": "http://127.0.0.1:9", "latency": 0.01}}


def test_a_server_that_is_away_for_a_while(make: Any) -> None:
    sink = KeepingSink()
    sink.away = True
    live = make(sink=lambda: sink, **TILED)
    docs = hostile.run()
    feed(live, docs[:-1])
    sink.away = False
    feed(live, docs[-1:])
    [result] = live.wait(120).values()
    assert sink.metadata["digest"] == result.digests[0]
    assert sum(len(batch["frame"]) for batch in sink.tables["frames"]) == hostile.N_FRAMES
    assert [name for name, _ in sink.documents].count("stream_datum") == hostile.N_FRAMES


def test_rows_wait_for_the_server_only(make: Any) -> None:
    sink = KeepingSink()
    live = make(sink=lambda: sink, tiled={"uri": "http://127.0.0.1:9", "latency": 3600})
    live.ready(120)
    docs = hostile.run()
    feed(live, docs[:-1])
    deadline = time.monotonic() + 60
    while sum(len(batch["frame"]) for batch in sink.tables.get("frames", [])) < hostile.N_FRAMES:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    feed(live, docs[-1:])
    [result] = live.wait(120).values()
    assert sink.metadata["digest"] == result.digests[0]


def test_a_server_that_is_gone_costs_nothing_but_publishing(make: Any) -> None:
    sink = KeepingSink()
    sink.away = True
    live = make(sink=lambda: sink, **TILED)
    feed(live, hostile.run())
    run = live._runs[hostile.UID]
    run._thread.join(20)
    live.close(0.2)
    assert live.results[hostile.UID].digests == {0: hostile.expected_digest()}
    assert sum("server does not answer" in line for line in run._problems.lines()) == 1


def test_init(tmp_path: Path) -> None:
    class RE:
        def subscribe(self, callback: Any) -> None:
            self.callback = callback

    block = hostile.settings(tmp_path)
    engine = RE()
    live = hedm_live_init(engine, {"OTHER": 1, "HEDM_LIVE": {"ENABLE": True, **block}})
    assert live is not None
    assert engine.callback is live is live.receiver
    live.close()
    assert hedm_live_init(RE(), {"HEDM_LIVE": {"ENABLE": False}}) is None
    with pytest.raises(SettingsError, match="HEDM_LIVE"):
        hedm_live_init(RE(), {"HEDM_LIVE": None})

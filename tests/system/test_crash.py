"""kill -9 at any moment: the raw archive opens and replays, and starting again ends with the same digest."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hedmlive.callbacks import (
    RawArchiveReader,
    ReducedArchiveReader,
    load_settings,
    open_source,
    process,
)

SCAN = """
import sys
from bluesky import RunEngine
from hedmlive.callbacks import HedmLive
from hedmlive.devices import step_scan
from hedmlive.simulators import simulated_station

station = simulated_station(sys.argv[1] + "/frames", detector=sys.argv[2], shape=(40, 40), n_grains=4, exposure=0.005)
live = HedmLive({
    "roles": dict(station.roles), "omega_marks": "start",
    "detectors": [{"name": "det", "image": station.image_key}],
    "recipe": {"threshold": 30, "background_level": 60},
    "archive": {"folder": sys.argv[1], "stem": "scan", "flush_seconds": 0.02},
})
RE = RunEngine({})
RE.subscribe(live)
RE(step_scan([station.detector], station.rotation, 0, 0.5, int(sys.argv[3]), baseline=station.baseline))
live.wait()
live.close()
print("finished", flush=True)
"""

REPLAY = """
import sys, time
from hedmlive.callbacks import load_settings, open_source, process

source = open_source(sys.argv[1])
slow = float(sys.argv[3])
settings = load_settings({**source.settings, "archive": {"folder": sys.argv[2]}})
process(source.documents, settings, stem="scan", watch=lambda progress: time.sleep(slow))
print("finished", flush=True)
"""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def n_documents(path: Path) -> int:
    try:
        with RawArchiveReader(path) as reader:
            return len(reader)
    except OSError:
        return 0


def n_rows(path: Path, attempt: int) -> int:
    try:
        with ReducedArchiveReader(path) as reader:
            return len(reader.read(attempt, "frames")["frame"]) if attempt in reader.attempts else 0
    except (OSError, KeyError):
        return 0


def replay(raw: Path, folder: Path) -> tuple[str, tuple[str, ...]]:
    source = open_source(str(raw))
    assert source.settings is not None
    settings = load_settings({**source.settings, "archive": {"folder": str(folder)}})
    result = process(source.documents, settings, stem="scan")
    return result.digests[max(result.digests)], result.problems


@pytest.mark.parametrize("way", ["array", "hdf5", "stream"])
def test_scan_killed(way: str, tmp_path: Path) -> None:
    raw = tmp_path / "scan_raw.h5"
    running = start(SCAN, tmp_path, way, 5000)
    wait_for(lambda: n_documents(raw) > 40, running)
    least = n_documents(raw)
    kill(running)
    with RawArchiveReader(raw) as reader:
        documents = list(reader.documents())
        assert len(documents) >= least
        assert not reader.finished
    n_events = sum(name == "event" and "rotation" in doc["data"] for name, doc in documents)
    first, problems = replay(raw, tmp_path / "one")
    # The last frame and its event may lie in two flushes.
    named = ("stop document never came", f"event {n_events + 1} with its motors never came")
    assert [problem for problem in problems if not any(name in problem for name in named)] == []
    again, _ = replay(raw, tmp_path / "two")
    onto, _ = replay(raw, tmp_path)  # beside what the killed process had reduced
    assert first == again == onto
    settings = load_settings({**(open_source(str(raw)).settings or {}), "archive": {"folder": str(tmp_path / "three")}})
    plain = process(documents, settings)
    assert plain.digests == {0: first}
    assert n_events <= plain.progress.n_frames <= n_events + 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = start(SCAN, folder, "array", 60)
    out, err = done.communicate(timeout=120)
    assert out == "finished\n", err
    return folder / "scan_raw.h5"


def test_replay_killed_while_it_adds_to_finished_reductions(finished: Path, tmp_path: Path) -> None:
    wanted, problems = replay(finished, tmp_path)
    assert problems == ()
    reduced = tmp_path / "scan_reduced.h5"
    running = start(REPLAY, finished, tmp_path, 0.02)
    wait_for(lambda: n_rows(reduced, 1) > 5, running)
    kill(running)
    with ReducedArchiveReader(reduced) as reader:
        assert reader.digest(0) == wanted
    assert replay(finished, tmp_path) == (wanted, ())
    with ReducedArchiveReader(reduced) as reader:
        assert [reader.attributes(attempt)["status"] for attempt in reader.attempts] == ["complete", "complete"]
        assert {reader.digest(attempt) for attempt in reader.attempts} == {wanted}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan_reduced.h5"]


def test_first_replay_killed(finished: Path, tmp_path: Path) -> None:
    wanted, _ = replay(finished, tmp_path / "undisturbed")
    reduced = tmp_path / "scan_reduced.h5"
    running = start(REPLAY, finished, tmp_path, 0.02)
    wait_for(lambda: n_rows(reduced, 0) > 5, running)
    kill(running)
    assert replay(finished, tmp_path) == (wanted, ())


@pytest.mark.slow
def test_replay_killed_at_any_moment(finished: Path, tmp_path: Path) -> None:
    wanted, _ = replay(finished, tmp_path / "undisturbed")
    started = time.monotonic()
    start(REPLAY, finished, tmp_path / "timed", 0).communicate()
    lasts = time.monotonic() - started
    folder = tmp_path / "disturbed"
    for part in range(5):
        running = start(REPLAY, finished, folder, 0)
        moment = time.monotonic() + lasts * (0.6 + 0.1 * part)
        while time.monotonic() < moment and running.poll() is None:
            time.sleep(0.005)
        kill(running)
    assert replay(finished, folder) == (wanted, ())


@pytest.mark.slow
def test_scan_killed_at_its_end(tmp_path: Path) -> None:
    """While the archive gets its summary: what it holds is never less than before."""
    for part in range(4):
        folder = tmp_path / str(part)
        running = start(SCAN, folder, "array", 30)
        raw = folder / "scan_raw.h5"
        wait_for(lambda raw=raw: n_documents(raw) >= 33, running)
        moment = time.monotonic() + 0.02 * part
        while time.monotonic() < moment and running.poll() is None:
            time.sleep(0.002)
        kill(running)
        digest, _ = replay(raw, folder / "again")
        assert len(digest) == 64
        shutil.rmtree(folder)

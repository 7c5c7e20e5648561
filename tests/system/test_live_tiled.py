"""A real RunEngine, a real server in its own process, and a client in a third."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import pytest
import yaml
from bluesky import RunEngine
from digests import archived_digest, served_digest

from hedmlive.callbacks import HedmLive, RunResult, make_sink
from hedmlive.devices import step_scan
from hedmlive.simulators import NOISELESS, simulated_station
from hedmlive.tiled_config import connect, disconnect, latest_reduction

KEY = "systemtestkey0123456789"
N_FRAMES = 40

CLIENT = """
import sys, time
from hedmlive.tiled_config import connect, latest_reduction
client = connect(sys.argv[1], sys.argv[2])
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        uid = next(iter(client["reduced"]))
        reduction = latest_reduction(client, uid)
        n = len(reduction["tracks"].read(["track"]))
    except (KeyError, StopIteration):
        n = 0
    if n:
        print(n, reduction.metadata["status"], flush=True)
        sys.exit(0)
    time.sleep(0.1)
sys.exit("no track was seen")
"""


class Server:
    """The server of `hedmlive serve`, in its own process, on a port that stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        file = self.folder / "serve.yml"
        content = {"folder": "tiled", "readable": ["."], "port": self.port, "api_key": KEY}
        file.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "hedmlive.tiled_config", str(file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        uri = self.process.stdout.readline().strip()
        assert uri.startswith("http://127.0.0.1:")
        self.port = int(uri.split(":")[2].split("/")[0])
        return uri

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Generator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


def scan(
    tmp_path: Path, uri: str, *, at_frame: int, then: Callable[[], bool], detector: Any = "stream"
) -> tuple[RunResult, HedmLive]:
    """Scan; when `at_frame` frames were taken, do not go on before `then()` is true."""
    station = simulated_station(
        tmp_path / "detector", detector=detector, shape=(256, 256), n_grains=15, noise=NOISELESS, seed=3
    )
    settings = {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "detector", "image": station.image_key}],
        "recipe": {"threshold": 20, "wrap": False},
        "archive": {"folder": str(tmp_path / "archives")},
        "tiled": {"uri": uri},
    }
    live = HedmLive(settings, sink=lambda: make_sink("tiled", uri, KEY))
    engine = RunEngine({}, call_returns_result=False)
    engine.subscribe(live)

    def gated() -> Any:
        taken = 0
        for message in step_scan([station.detector], station.rotation, 0.0, 1.0, N_FRAMES, baseline=station.baseline):
            if message.command == "save":
                taken += 1
            if taken == at_frame and message.command == "checkpoint":
                deadline = time.monotonic() + 90
                while not then():
                    assert time.monotonic() < deadline, "what was waited for did not happen"
                    yield from bps.sleep(0.05)
                taken += 1000
            yield message

    engine(gated())
    (result,) = live.wait(120).values()
    live.close()
    return result, live


@contextmanager
def client_of(uri: str) -> Generator[Any]:
    client = connect(uri, KEY)
    try:
        yield client
    finally:
        disconnect(client)


def served(uri: str, uid: str) -> str:
    with client_of(uri) as client:
        return served_digest(client, uid)


def served_metadata(uri: str, uid: str) -> dict[str, Any]:
    with client_of(uri) as client:
        return dict(latest_reduction(client, uid).metadata)


def test_another_process_sees_tracks_while_the_scan_runs(tmp_path: Path, server: Server) -> None:
    uri = server.start()
    client = subprocess.Popen([sys.executable, "-c", CLIENT, uri, KEY], stdout=subprocess.PIPE, text=True)
    result, _ = scan(tmp_path, uri, at_frame=30, then=lambda: client.poll() is not None)
    seen, _ = client.communicate(timeout=60)
    assert client.returncode == 0
    number, status = seen.split()
    # The scan could not end before the client had seen this.
    assert int(number) > 0
    assert status == "running"
    assert result.problems == ()
    assert served_metadata(uri, result.uid)["digest"] == result.digests[0]
    assert served(uri, result.uid) == archived_digest(result)


def test_the_run_itself_is_served_and_replayed(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from hedmlive.callbacks import load_settings, open_source, process

    uri = server.start()
    for kind in ("array", "hdf5", "stream"):
        result, _ = scan(tmp_path / kind, uri, at_frame=-1, then=lambda: True, detector=kind)
        assert result.problems == ()
        with client_of(uri) as client:
            assert client["raw"][result.uid]["primary"]["detector_image"].shape[0] == N_FRAMES
        monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)
        source = open_source(f"tiled://127.0.0.1:{server.port}/{result.uid}")
        assert source.settings is not None
        plain = dict(source.settings) | {"archive": {"folder": str(tmp_path / kind / "replayed")}, "tiled": None}
        assert process(source.documents, load_settings(plain)).digests == result.digests


def test_a_server_killed_in_mid_scan_loses_and_doubles_nothing(tmp_path: Path, server: Server) -> None:
    uri = server.start()
    stopped = threading.Event()

    def kill_once() -> bool:
        if not stopped.is_set():
            server.kill()
            stopped.set()
            threading.Timer(1.0, server.start).start()
        return True

    result, live = scan(tmp_path, uri, at_frame=20, then=kill_once)
    assert result.progress.n_frames == N_FRAMES
    publisher = live.publisher()
    assert publisher is not None
    assert publisher.wait(60)
    assert served(uri, result.uid) == archived_digest(result)
    assert served_metadata(uri, result.uid)["status"] == "complete"


def test_a_dead_server_costs_the_scan_nothing(tmp_path: Path) -> None:
    station = simulated_station(tmp_path / "detector", detector="array", shape=(64, 64), n_grains=5, seed=1)
    settings = {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "detector", "image": station.image_key}],
        "recipe": {"threshold": 100},
        "archive": {"folder": str(tmp_path)},
        "tiled": {"uri": "http://127.0.0.1:9"},
    }
    live = HedmLive(settings, sink=lambda: make_sink("tiled", "http://127.0.0.1:9", KEY))
    engine = RunEngine({}, call_returns_result=False)
    engine.subscribe(live)
    engine(step_scan([station.detector], station.rotation, 0.0, 1.0, 5, baseline=station.baseline))
    live.close(timeout=2)
    (result,) = live.results.values()
    assert result.progress.n_frames == 5
    assert result.digests[0]
    assert result.reduced is not None
    assert result.reduced.stat().st_size

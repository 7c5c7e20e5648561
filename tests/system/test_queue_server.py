"""The queue server's startup under a real RE manager with a real Redis, against the PVs of a soft IOC."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml
from services import LIMIT, Redis, free_port, wait

from hedmlive.callbacks import load_settings, open_source, process
from hedmlive.simulators.ioc import RunningIoc, run_ioc

STARTUP = Path(__file__).resolve().parents[2] / "examples" / "queue_server" / "startup"
MANAGER = "from bluesky_queueserver.manager.start_manager import start_manager; start_manager()"
N = 40

pytestmark = [
    pytest.mark.skipif(not STARTUP.is_dir(), reason="the examples lie in the repository, not in the package"),
    pytest.mark.skipif(
        importlib.util.find_spec("bluesky_queueserver") is None,
        reason="the queue server is not installed: pip install bluesky-queueserver",
    ),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not on PATH: install Redis"),
]


@pytest.fixture
def redis() -> Iterator[Redis]:
    # Not in pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="hedm-") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "redis"
        folder.mkdir()
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        made = Redis(folder)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def ioc(tmp_path: Path) -> Iterator[RunningIoc]:
    folder = tmp_path / "frames"
    folder.mkdir()
    small: dict[str, Any] = {"shape": (48, 40), "n_grains": 6, "frames_per_second": 200, "velocity": 5000}
    with run_ioc(folder=folder, prefix="QS:", **small) as running:
        plain = running.station.model_dump(mode="json", exclude_defaults=True)
        (tmp_path / "station.yml").write_text(yaml.safe_dump(plain))
        yield running


class Manager:
    """Speaks to an RE manager as its clients do: JSON over 0MQ, request and answer."""

    def __init__(self, socket: Any, said: Path) -> None:
        self._socket, self._said = socket, said

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        if "item" in params:
            params |= {"user": "test", "user_group": "primary"}
        self._socket.send_json({"method": method, "params": params})
        answer = self._socket.recv_json() if self._socket.poll(LIMIT * 1000) else {"success": False}
        assert answer.get("success", True), (method, answer, self._said.read_text()[-4000:])
        return answer

    def becomes(self, what: str, condition: Callable[[dict[str, Any]], Any]) -> None:
        wait(what, lambda: condition(self("status")))


@contextmanager
def manager(folder: Path, redis: Redis, **environment: str) -> Generator[Manager]:
    import zmq

    control, info = free_port(), free_port()
    said = folder / "manager.log"
    options = {
        "--startup-dir": folder / "startup",
        "--update-existing-plans-devices": "NEVER",
        "--redis-addr": f"127.0.0.1:{redis.port}",
        "--zmq-control-addr": f"tcp://127.0.0.1:{control}",
        "--zmq-info-addr": f"tcp://127.0.0.1:{info}",
    }
    shutil.copytree(STARTUP, folder / "startup")
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", MANAGER, *(str(each) for pair in options.items() for each in pair)],
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            # It has children of its own, which end with it.
            start_new_session=True,
        )
    try:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f"tcp://127.0.0.1:{control}")
            speaks = Manager(socket, said)
            yield speaks
            speaks("manager_stop", option="safe_off")
        process.wait(LIMIT)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def most_frames(folder: Path) -> int:
    """Return the frames of the file that has most; darks have one of their own."""
    found = [0]
    for path in folder.glob("*.h5"):
        with suppress(OSError, KeyError), h5py.File(path, "r", swmr=True) as file:
            frames: Any = file["exchange/data"]
            found.append(len(frames))
    return max(found)


def queue(RE: Manager, name: str, **kwargs: Any) -> None:
    RE("queue_item_add", item={"item_type": "plan", "name": name, "kwargs": kwargs})
    RE("queue_start")


def replayed(raw: Path, folder: Path) -> list[str]:
    source = open_source(str(raw))
    assert source.settings is not None
    settings = load_settings({**source.settings, "archive": {"folder": str(folder)}})
    return list(process(source.documents, settings).digests.values())


def test_plans_from_the_queue_are_reduced_live(tmp_path: Path, redis: Redis, ioc: RunningIoc) -> None:
    with manager(tmp_path, redis, HEDM_STATION=str(tmp_path / "station.yml")) as RE:
        RE("environment_open")
        ready = {"worker_environment_exists": True, "manager_state": "idle"}
        RE.becomes("environment", lambda status: ready.items() <= status.items())
        # The manager fetches them when the environment is there already.
        wait("plans", lambda: "far_field" in RE("plans_allowed", user_group="primary")["plans_allowed"])
        queue(RE, "far_field", n_frames=N, frame_time=0.05)
        wait("sweep", lambda: most_frames(tmp_path / "frames") > 4)
        RE("re_pause", option="immediate")
        RE.becomes("pause", lambda status: status["manager_state"] == "paused")
        RE("re_resume")
        RE.becomes("end", lambda status: status["manager_state"] == "idle" and status["items_in_history"] == 1)
        task = RE("function_execute", item={"item_type": "function", "name": "reduced"})["task_uid"]
        wait("reduction", lambda: RE("task_result", task_uid=task)["status"] == "completed")
        told = RE("task_result", task_uid=task)["result"]
        assert told["success"], told
        RE.becomes("rest", lambda status: status["manager_state"] == "idle")
        queue(RE, "near_field", n_frames=6)
        RE.becomes("end", lambda status: status["manager_state"] == "idle" and status["items_in_history"] == 2)
        # What is still reduced then is finished.
        RE("environment_close")
        RE.becomes("end of the environment", lambda status: not status["worker_environment_exists"])
    assert "paused in mid-sweep" in (tmp_path / "manager.log").read_text()
    [far_field] = told["return_value"].values()
    assert (far_field["frames"], far_field["problems"]) == (N, [])
    assert far_field["tracks"] > 5
    assert replayed(tmp_path / far_field["archive"], tmp_path / "again") == far_field["digests"]
    [near_field] = set((tmp_path / "archives").glob("*_raw.h5")) - {tmp_path / far_field["archive"]}
    with h5py.File(str(near_field).replace("_raw", "_reduced")) as file:
        [reduction] = file.values()
        assert len(reduction["frames/frame"]) == 24
        assert replayed(near_field, tmp_path / "again") == [reduction.attrs["digest"]]

"""What the measurements look at: the demo's scan over frames that were simulated beforehand, and a Tiled server."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from bluesky import RunEngine
from bluesky import plan_stubs as bps

from hedmlive.callbacks import Settings, load_settings
from hedmlive.devices import step_scan
from hedmlive.simulators import FrameSource, SimArrayDetector, SimStreamHDF5Detector, simulated_station

Kind = Literal["array", "stream"]
Document = tuple[str, dict[str, Any]]

STEP = 0.5
DARKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Tiled server in a process of its own."""

    uri: str
    key: str


class Cached:
    """Stands in for the simulator: the same frames again and again, at no cost."""

    def __init__(self, shape: tuple[int, int], n_frames: int) -> None:
        simulator = simulated_station("unused", shape=shape).simulator
        self.shape = shape
        self.full_scale = simulator.noise.full_scale
        self.frames = [simulator.frame(i * STEP, (i + 1) * STEP, i) for i in range(n_frames)]
        self.darks = [simulator.dark_frame(i) for i in range(DARKS)]

    def frame(self, omega_start: float, omega_end: float, index: int) -> np.ndarray:
        return self.frames[index % len(self.frames)]

    def dark_frame(self, index: int) -> np.ndarray:
        return self.darks[index % len(self.darks)]


class Scan:
    """The demo's scan over cached frames, by a real RunEngine."""

    def __init__(self, cached: Cached, folder: Path, kind: Kind, *, compress: bool = False) -> None:
        station = simulated_station(folder, shape=cached.shape)
        self._station = station
        source = FrameSource(simulator=cached, rotation=station.rotation, shutter=station.shutter)  # pyright: ignore[reportArgumentType]
        self.detector: Any = (
            SimArrayDetector(name="detector", source=source)
            if kind == "array"
            else SimStreamHDF5Detector(name="detector", source=source, folder=folder, compress=compress)
        )
        self._full_scale = cached.full_scale

    def settings(self, folder: Path, uri: str | None = None) -> Settings:
        """Return the demo's settings."""
        said: dict[str, Any] = {
            "roles": dict(self._station.roles),
            "omega_marks": "start",
            "detectors": [{"name": "detector", "image": self.detector.image_key}],
            "recipe": {
                "background": "dark",
                "threshold": 30.0,
                "min_pixels": 3,
                "max_distance": 2.0,
                "saturation": float(self._full_scale),
            },
            "archive": {"folder": str(folder)},
        }
        return load_settings(said if uri is None else said | {"tiled": {"uri": uri}})

    def run(self, n_frames: int, callback: Callable[[str, Any], Any] | None, rate: float = 0.0) -> float:
        """Scan, with a callback or none, at most `rate` frames a second (0: no limit); return the seconds it took."""
        engine = RunEngine({}, call_returns_result=False)
        if callback is not None:
            engine.subscribe(callback)
        station = self._station
        plan = step_scan(
            [self.detector],
            station.rotation,
            0.0,
            STEP,
            n_frames,
            dark_frames=DARKS,
            shutter=station.shutter,
            baseline=station.baseline,
            md={"sample_name": "simulated gold"},
        )
        started = time.perf_counter()
        engine(_paced(plan, 1 / rate) if rate else plan)
        return time.perf_counter() - started


def _paced(plan: Generator[Any, Any, Any], period: float) -> Generator[Any, Any, Any]:
    """Hold each point back until its time, by the clock: what a point takes is not added to the period."""
    due, answer = 0.0, None
    while True:
        try:
            message = plan.send(answer)
        except StopIteration as over:
            return over.value
        if message.command == "checkpoint":
            now = time.perf_counter()
            due = max(due + period, now) if due else now
            yield from bps.sleep(due - now)
        answer = yield message


@contextmanager
def running_server(folder: Path) -> Generator[Server]:
    """Start a Tiled server as the demo does."""
    folder.mkdir(parents=True)
    file = folder / "serve.yml"
    file.write_text(yaml.safe_dump({"folder": "tiled", "readable": [".."], "port": 0}), encoding="utf-8")
    command = [sys.executable, "-m", "hedmlive.tiled_config", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    try:
        uri = process.stdout.readline().strip() if process.stdout is not None else ""
        if not uri:
            raise RuntimeError("the Tiled server did not start")
        yield Server(uri=uri, key=(folder / "tiled" / "api_key").read_text(encoding="utf-8").strip())
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()

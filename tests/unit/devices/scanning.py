"""What tests of the plans share: documents of a RunEngine, and a simulated station that flies."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import RunEngine
from bluesky.utils import Msg

from hedmlive.simulators import (
    FrameSource,
    SimFlyController,
    SimTriggeredDetector,
    SimulatedStation,
    simulated_station,
)

Documents = list[tuple[str, dict[str, Any]]]


class Session:
    """A RunEngine and the documents that it made."""

    def __init__(self) -> None:
        self.RE = RunEngine({}, context_managers=[])
        self.documents: Documents = []
        self.RE.subscribe(self.keep)

    def __call__(self, plan: Any) -> Any:
        return self.RE(plan)

    def keep(self, name: str, doc: Any) -> None:
        self.documents.append((name, doc))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [doc for name, doc in self.documents if name == kind]

    def stream(self, name: str) -> list[dict[str, Any]]:
        """Return the descriptors of a stream."""
        return [doc for doc in self.of("descriptor") if doc["name"] == name]

    @property
    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.documents)


def station(folder: Path, kind: Any = "stream") -> SimulatedStation:
    return simulated_station(folder, detector=kind, shape=(16, 12), n_grains=3, seed=1)


def controller(made: SimulatedStation, *detectors: Any, **options: Any) -> SimFlyController:
    return SimFlyController(name="pso", rotation=made.rotation, detectors=detectors or [made.detector], **options)


def triggered(made: SimulatedStation, folder: Path, name: str = "ge") -> SimTriggeredDetector:
    source = FrameSource(simulator=made.simulator, rotation=made.rotation, shutter=made.shutter)
    return SimTriggeredDetector(name=name, source=source, folder=folder)


def published(pso: Any, detector: Any, start: float, end: float, n: int) -> Iterator[Msg]:
    """Fly as published plans do: arm on bare PVs, taxi, fly, and open no run."""
    yield from bps.mv(pso.start, start, pso.end, end, pso.delta, abs(end - start) / n, pso.slew_speed, 1000.0)
    yield from bps.mv(detector.hdf5.capture, 1)
    yield from bps.abs_set(detector.cam.acquire, 1, wait=True)
    yield from bps.mv(pso.taxi, 1)
    yield from bps.mv(pso.fly, 1)
    yield from bps.mv(detector.cam.acquire, 0, detector.hdf5.capture, 0)


def after(plan: Any, command: str, number: int, then: Callable[[], Any]) -> Any:
    """Do something after the given message of a kind, counted from 1."""
    seen = iter(range(1, 1 << 30))

    def insert(message: Msg) -> tuple[Any, Any]:
        return None, then() if message.command == command and next(seen) == number else None

    return bpp.plan_mutator(plan, insert)

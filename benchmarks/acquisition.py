"""What acquisition pays for archive and live reduction: the same scans of large frames without and with them.

Usage: python benchmarks/acquisition.py [--frames 720] [--rate 30] [--repeats 3]

The detector has a computer of its own: another process writes its file, uncompressed, one chunk a frame, SWMR. In the
`step` scan the plan triggers each frame, no earlier than its time; what a point takes longer is lost for good. In the
`fly` scan the detector runs freely by its own clock, and the plan tells of frames as they land; a frame is late when
it could not be written before the next was due, with which a detector of one buffer would have lost it.

Frames are simulated beforehand and kernels compiled before the clock starts. Everything that is written goes to a
temporary folder, which is removed.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from ophyd.status import DeviceStatus
from rich.console import Console
from rich.table import Table
from scene import STEP, Cached, Scan

from hedmlive.callbacks import HedmLive, Settings, load_settings
from hedmlive.simulators import SimStreamHDF5Detector
from hedmlive.simulators.writer import SwmrWriter

Way = Literal["step", "fly"]


def detectors_computer(told: Any, answers: Any, written: Any, frames: Sequence[np.ndarray]) -> None:
    """Write files of frames as told, until None comes."""
    writer: SwmrWriter | None = None
    while (command := told.get()) is not None:
        what, *values = command
        if what == "open":
            writer = SwmrWriter(*values, compress=False)
            answers.put(writer.path)
        elif writer is not None and what == "append":
            writer.append(frames[values[0]])
            answers.put(None)
        elif writer is not None and what == "run":
            n, rate = values
            answers.put(_run_freely(writer, frames, n, rate, written))
        elif writer is not None:
            writer.close()
            answers.put(None)


def _run_freely(writer: SwmrWriter, frames: Sequence[np.ndarray], n: int, rate: float, written: Any) -> int:
    started, late = time.perf_counter(), 0
    for i in range(n):
        ahead = started + (i + 1) / rate - time.perf_counter()
        time.sleep(max(ahead, 0.0))
        late += ahead < -1 / rate
        writer.append(frames[i % len(frames)])
        written.value = i + 1
    return late


class Detector(SimStreamHDF5Detector):
    """A detector whose file another process writes."""

    def __init__(self, *, cached: Cached, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        spawn = multiprocessing.get_context("spawn")
        self._told, self._answers = spawn.SimpleQueue(), spawn.SimpleQueue()
        self._written: Any = spawn.Value("q", 0)
        frames = [*cached.frames, *cached.darks]
        self._numbers = {id(frame): number for number, frame in enumerate(frames)}
        arguments = (self._told, self._answers, self._written, frames)
        self._process = spawn.Process(target=detectors_computer, args=arguments, daemon=True)
        self._process.start()
        self.to_fly = (0, 0.0)
        "Frames, and frames a second, of the next flight."
        self.late = 0
        "Late frames of the last flight."
        self.path = Path()

    def append(self, frame: np.ndarray) -> None:
        """Have a frame written; by its number, so that no pixel goes from one process to the other."""
        self._tell("append", self._numbers[id(frame)])

    def close(self) -> None:
        """Have the file closed."""
        self._tell("close")

    def end(self) -> None:
        """End the process."""
        self._told.put(None)
        self._process.join()

    def kickoff(self) -> DeviceStatus:
        """Let it run freely."""
        self._written.value = self._n_taken = 0
        done = DeviceStatus(self)
        done.set_finished()
        return done

    def complete(self) -> DeviceStatus:
        """Wait for its last frame."""
        done = DeviceStatus(self)

        def fly() -> None:
            self.late = self._tell("run", *self.to_fly)
            done.set_finished()

        Thread(target=fly, daemon=True).start()
        return done

    def get_index(self) -> int:
        """Frames on disk."""
        self._n_taken = max(self._n_taken, self._written.value)
        return self._n_taken

    def collect_asset_docs(self, index: int | None = None) -> Any:
        """Tell of the frames that are on disk."""
        self.get_index()
        return super().collect_asset_docs(index)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the image."""
        return {self.image_key: self.describe()[self.image_key]}

    def _open(self) -> Any:
        self.path = self._tell("open", self._folder, self.name, self._source.simulator.shape)
        return self

    def _tell(self, *command: Any) -> Any:
        self._told.put(command)
        return self._answers.get()


@dataclass(slots=True)
class Measured:
    """What the repeats of one way gave."""

    without: list[float] = field(default_factory=list[float])
    "Seconds."
    with_us: list[float] = field(default_factory=list[float])
    "Seconds."
    late: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    "Late frames without and with us."
    n_reduced: list[int] = field(default_factory=list[int])
    lag: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    "p50 and p95, from the frame's document to reduced, seconds."


class Acquisition:
    """One way of scanning."""

    def __init__(self, way: Way, cached: Cached, folder: Path, n_frames: int, rate: float) -> None:
        self._way, self._n, self._rate = way, n_frames, rate
        self._scan = Scan(cached, folder, "stream")
        source = self._scan.detector._source  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self.detector = self._scan.detector = Detector(cached=cached, name="detector", source=source, folder=folder)
        self._folder = folder
        self._level = float(np.mean(cached.darks))

    def settings(self) -> Settings:
        """Return the demo's settings; on the fly, omega as the run's start document says it."""
        settings = self._scan.settings(self._folder)
        if self._way == "step":
            return settings
        said = settings.model_dump(mode="json", exclude_unset=True)
        axis = {"start": "fly_start", "step": "fly_step", "count": self._n, "marks": "start"}
        recipe = {**said["recipe"], "background": "constant", "background_level": self._level}
        del said["omega_marks"]
        return load_settings(said | {"roles": {}, "trajectory": {"axes": {"omega": axis}}, "recipe": recipe})

    def run(self, callback: Any) -> float:
        """Scan once; return the seconds it took."""
        if self._way == "step":
            return self._scan.run(self._n, callback, self._rate)
        engine = RunEngine({}, call_returns_result=False)
        if callback is not None:
            engine.subscribe(callback)
        started = time.perf_counter()
        engine(self._fly())
        return time.perf_counter() - started

    def _fly(self) -> Any:
        detector: Any = self.detector
        detector.to_fly = (self._n, self._rate)

        @bpp.stage_decorator([detector])
        @bpp.run_decorator(md={"fly_start": 0.0, "fly_step": STEP})
        def flight() -> Any:
            yield from bps.declare_stream(detector, name="primary", collect=True)
            yield from bps.kickoff(detector, wait=True)
            yield from bps.collect_while_completing([detector], [detector], flush_period=0.1, stream_name="primary")

        return flight()


def measure(way: Way, cached: Cached, folder: Path, n_frames: int, rate: float, repeats: int) -> Measured:
    """Scan without and with us, by turns; the first turn warms up."""
    measured = Measured()
    for turn in range(repeats + 1):
        n = n_frames if turn else 30
        with tempfile.TemporaryDirectory(dir=folder) as place:
            acquisition = Acquisition(way, cached, Path(place), n, rate)
            without, late = acquisition.run(None), acquisition.detector.late
            live = HedmLive(acquisition.settings())
            live.ready(120)
            with_us = acquisition.run(live)
            [result] = live.wait(300).values()
            progress = live.progress()
            live.close()
            acquisition.detector.end()
        if not result.digests or result.problems:
            raise RuntimeError(f"the measurement went wrong: {result.problems}")
        if turn:
            measured.without.append(without)
            measured.with_us.append(with_us)
            measured.late.append((late, acquisition.detector.late))
            measured.n_reduced.append(progress.n_frames)
            measured.lag.append((progress.frame_lag.percentile(50), progress.frame_lag.percentile(95)))
    return measured


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=720)
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    cached = Cached((2048, 2048), 30)
    title = f"{asked.frames} frames of 2048 x 2048, {asked.rate:g} frames/s, medians of {asked.repeats}"
    table = Table(title=title)
    for name in ("scan", "without: s", "with: s", "slower", "late without/with", "lost", "lag p50: ms", "p95"):
        table.add_column(name, justify="right")
    ways: tuple[Way, ...] = ("fly", "step")
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            found = measure(way, cached, Path(folder), asked.frames, asked.rate, asked.repeats)
            without, with_us = statistics.median(found.without), statistics.median(found.with_us)
            late = "/".join(f"{max(each)}" for each in zip(*found.late, strict=True)) if way == "fly" else ""
            lag = [f"{1e3 * statistics.median(each):.0f}" for each in zip(*found.lag, strict=True)]
            slower = f"{100 * (with_us / without - 1):+.1f} %"
            lost = asked.frames - min(found.n_reduced)
            table.add_row(way, f"{without:.2f}", f"{with_us:.2f}", slower, late, str(lost), *lag)
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()

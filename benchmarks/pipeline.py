"""Measure the demo's pipeline with its real parts; print the figures, keep no file.

Usage: python benchmarks/pipeline.py [--quick] [--frames N] [--only stages|lag|engine]

Frames are simulated beforehand, so that no figure holds the time of the simulator. Everything that is written goes to a
temporary folder, which is removed.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from scene import DARKS, Cached, Document, Kind, Scan, Server, running_server

from hedmlive.callbacks import FrameAssembler, HedmLive, Problems, RawArchive, ReducedArchive
from hedmlive.callbacks import make_sink as sink_by_name
from hedmlive.streaming import (
    Background,
    Batches,
    Corrections,
    Frame,
    Linker,
    PeakFinder,
    PeaksOfFrame,
    Position,
    Reducer,
    Tracker,
    digest,
    join,
)

Value = TypeVar("Value")
FLUSH = 6
"""Frames in one flush and one published batch: what comes in 0.2 s at 30 frames/s."""

STAGES = (
    "numpy.max (baseline)",
    "documents to frames",
    "frame from HDF5",
    "lit pixels",
    "peaks",
    "links and tracks",
    "reducer: these three in one",
    "reduced archive: rows",
    "reduced archive: end",
    "digest",
    "raw archive: documents",
    "raw archive: images",
    "publish to Tiled",
)

console = Console(highlight=False, width=110)


# Stages


class Stopwatch:
    """Seconds by stage and turn."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self, stage: str, do: Callable[[], Value]) -> Value:
        started = time.perf_counter()
        result = do()
        self.seconds[stage].append(time.perf_counter() - started)
        return result

    def per_frame(self, stage: str, n_frames: int) -> float:
        """Seconds a frame, from the median turn; from the mean for documents, which differ from one to the next."""
        values = self.seconds[stage]
        typical = statistics.fmean(values) if "documents" in stage else statistics.median(values)
        return typical * len(values) / n_frames


class Stages:
    """The stages of the pipeline one after the other, each timed by itself."""

    def __init__(self, scan: Scan, folder: Path, server: Server, start: Mapping[str, Any]) -> None:
        self.watch = Stopwatch()
        self._settings = settings = scan.settings(folder)
        self._recipe = settings.recipe
        self._uid = str(start["uid"])
        self._assembler = FrameAssembler(settings, start, Problems(self._uid))
        self._raw = RawArchive(folder / "stages_raw.h5", settings, start)
        self._reduced = ReducedArchive(folder / "stages_reduced.h5", self._uid, self._recipe, ("detector",), {})
        self._linker = Linker(self._recipe)
        self._tracker = Tracker(self._recipe, self._linker.trajectory)
        self._finder = PeakFinder(self._recipe)
        self._background: Background | None = None
        self._reducer: Reducer | None = None
        self._darks: list[np.ndarray] = []
        self._unpublished: list[Batches] = []
        self._sink = sink_by_name("tiled", server.uri, server.key)
        tables = {name: table for name, table in self._reduced.tables.items() if name != "pixels"}
        self._sink.open_reduction(self._uid, 0, start=start, metadata={"status": "running"}, tables=tables)
        self._batch = 0

    def push(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document all the way."""
        self.watch("raw archive: documents", lambda: self._raw.append(name, doc))
        for pending in self.watch("documents to frames", lambda: self._assembler.push(name, doc)):
            self._take(pending)

    def finish(self) -> None:
        """Write the ends, and compute the digest."""
        for pending in self._assembler.flush():
            self._take(pending)
        if self._reducer is not None:
            self._unpublished.append(self._reducer.flush())
        self._write()
        read = self._reduced.read
        tables = self._reduced.tables
        self.watch("digest", lambda: digest(tables, lambda name: iter([read(0, name, 0, self._reduced.rows(0, name))])))
        self.watch("reduced archive: end", lambda: self._reduced.finish("complete", {}))
        self._reduced.release()
        self._assembler.close()
        self._raw.close()

    def _take(self, pending: Any) -> None:
        source = pending.source
        if pending.is_dark:
            self._darks.append(np.asarray(source.reader.read(source.index))[source.part])
            return
        image = self.watch("frame from HDF5", lambda: source.reader.read(source.index))[source.part]
        if self._background is None or self._reducer is None:
            dark = np.mean(np.stack(self._darks), axis=0)
            self._background, self._reducer = (
                Background(self._recipe, dark=dark),
                Reducer(self._recipe, corrections=Corrections(dark=dark)),
            )
            self._background.push(image)
        background, reducer, watch = self._background, self._reducer, self.watch
        watch("numpy.max (baseline)", lambda: np.max(image))
        frame = Frame(
            frame=pending.frame,
            point=pending.point,
            image=image,
            omega_start=pending.omega[0],
            omega_end=pending.omega[1],
        )
        lit = watch("lit pixels", lambda: background.push(image))
        found = watch("peaks", lambda: self._finder.push(frame.frame, frame.omega, lit))
        watch("links and tracks", lambda: self._follow(frame, found))
        self._unpublished.append(watch("reducer: these three in one", lambda: reducer.push(frame)))
        if len(self._unpublished) == FLUSH:
            self._write()

    def _follow(self, frame: Frame, found: PeaksOfFrame) -> Batches:
        position = Position.of(frame)
        return self._tracker.push(position, found, self._linker.push(position, found))

    def _write(self) -> None:
        batches, self._unpublished = self._unpublished, []
        joined = join(batches)
        self.watch("reduced archive: rows", lambda: (self._reduced.write(0, joined), self._reduced.flush()))
        self._batch += 1
        self.watch("publish to Tiled", lambda: self._publish(joined))

    def _publish(self, joined: Batches) -> None:
        self._sink.append_all({name: (self._batch, rows) for name, rows in joined.items() if name != "pixels"})


def measure_stages(shape: tuple[int, int], n_frames: int, folder: Path, server: Server) -> Stages:
    """Record a run's documents, then take them through the stages."""
    cached = Cached(shape, n_frames)
    scan = Scan(cached, folder / "detector", "stream", compress=True)
    recorded: list[Document] = []
    scan.run(n_frames, lambda name, doc: recorded.append((name, doc)))
    stages = Stages(scan, folder, server, recorded[0][1])
    for name, doc in recorded:
        stages.push(name, doc)
    stages.finish()
    array_run = RawArchive(folder / "array_raw.h5", scan.settings(folder), recorded[0][1])
    _append_arrays(array_run, stages.watch, cached, folder)
    return stages


def _append_arrays(raw: RawArchive, watch: Stopwatch, cached: Cached, folder: Path) -> None:
    """Time the raw archive where it holds the images too, as with a detector that puts them into its events."""
    recorded: list[Document] = []
    Scan(cached, folder, "array").run(len(cached.frames), lambda name, doc: recorded.append((name, doc)))
    for name, doc in recorded:
        holds_image = name == "event" and "detector_image" in doc["data"]
        stage = "raw archive: images" if holds_image else "raw archive: beside images"
        watch(stage, lambda name=name, doc=doc: raw.append(name, doc))
    raw.close()


def show_stages(measured: Mapping[tuple[int, int], tuple[Stages, int]]) -> None:
    """Print frames a second by stage, and how many passes over the frame each costs."""
    table = Table(title="Stages, for one frame; passes = time / time of numpy.max of the same frame")
    table.add_column("stage", no_wrap=True)
    for shape in measured:
        for name in (f"{shape[0]}²: ms", "1/s", "passes"):
            table.add_column(name, justify="right")
    for name in STAGES:
        cells: list[str] = []
        for stages, n_frames in measured.values():
            seconds = stages.watch.per_frame(name, n_frames)
            baseline = stages.watch.per_frame("numpy.max (baseline)", n_frames)
            cells += [f"{seconds * 1e3:.2f}", f"{1 / seconds:.0f}", f"{seconds / baseline:.1f}"]
        table.add_row(name, *cells)
    console.print(table)


# Lag


def measure_lag(rates: Sequence[float], n_frames: int, cached: Cached, folder: Path, server: Server) -> Table:
    """Print how long a frame takes from its document to reduced, and to published."""
    table = Table(title="Lag from the frame's document [ms]")
    for name in ("frames come", "frames/s", "reduced p50", "p95", "published p50", "p95"):
        table.add_column(name, justify="right")
    kinds: tuple[Kind, ...] = ("array", "stream")
    for kind in kinds:
        for rate in rates:
            place = folder / f"lag_{kind}_{rate:.0f}"
            scan = Scan(cached, place, kind)
            settings = scan.settings(place, server.uri)
            live = HedmLive(settings, sink=lambda: sink_by_name("tiled", server.uri, server.key))
            scan.run(n_frames, live, rate)
            _wait(live)
            publisher, reduced = live.publisher(), live.progress().frame_lag
            lags = [reduced] if publisher is None else [reduced, publisher.lag]
            live.close()
            cells = [f"{lag.percentile(percent) * 1e3:.0f}" for lag in lags for percent in (50, 95)]
            table.add_row(kind, f"{rate:.0f}", *cells)
    return table


def _wait(live: HedmLive) -> None:
    for result in live.wait(300).values():
        if not result.digests or result.progress.n_rejected:
            raise RuntimeError(f"the measurement went wrong: {result.problems}")


# RunEngine


def measure_engine(rates: Sequence[float], n_frames: int, repeats: int, cached: Cached, folder: Path) -> Table:
    """Print how long the same scan takes without a callback, with one that does nothing, and with ours."""
    table = Table(title=f"RunEngine: seconds of a scan of {n_frames} frames, median of {repeats}")
    for name in ("frames come", "frames/s", "no callback", "no-op", "hedmlive", "slowdown", "ms a frame"):
        table.add_column(name, justify="right")
    kinds: tuple[Kind, ...] = ("array", "stream")
    for kind in kinds:
        for rate in rates:
            seconds: defaultdict[str, list[float]] = defaultdict(list)
            for turn in range(repeats + 1):
                place = folder / f"engine_{kind}_{rate:.0f}_{turn}"
                for who in ("no callback", "no-op", "hedmlive"):
                    taken = _timed_scan(Scan(cached, place, kind), who, n_frames, rate, place)
                    if turn:  # the first turn warms up
                        seconds[who].append(taken)
            middle = {who: statistics.median(values) for who, values in seconds.items()}
            none, ours = middle["no callback"], middle["hedmlive"]
            slowdown, each = f"{100 * (ours / none - 1):+.1f} %", f"{1e3 * (ours - none) / (n_frames + DARKS):.2f}"
            paced = f"{rate:.0f}" if rate else "all it can"
            table.add_row(kind, paced, *(f"{value:.3f}" for value in middle.values()), slowdown, each)
    return table


def _timed_scan(scan: Scan, who: str, n_frames: int, rate: float, folder: Path) -> float:
    if who == "no callback":
        return scan.run(n_frames, None, rate)
    if who == "no-op":
        return scan.run(n_frames, lambda name, doc: None, rate)
    live = HedmLive(scan.settings(folder))
    seconds = scan.run(n_frames, live, rate)
    _wait(live)
    live.close()
    return seconds


def warm(folder: Path) -> None:
    """Compile the kernels, and import what is imported when needed."""
    cached = Cached((64, 64), 4)
    scan = Scan(cached, folder / "warm", "stream")
    live = HedmLive(scan.settings(folder / "warm"))
    scan.run(4, live)
    live.wait(120)
    live.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few frames, one repetition: a minute, rough figures")
    parser.add_argument("--frames", type=int, help="frames of each scan; by default 150, with --quick 30")
    parser.add_argument("--only", choices=("stages", "lag", "engine"), help="one of them")
    options = parser.parse_args()
    n_frames = options.frames or (30 if options.quick else 150)
    with (
        tempfile.TemporaryDirectory(prefix="hedmlive-benchmark-") as name,
        running_server(Path(name) / "server") as server,
    ):
        folder = Path(name)
        warm(folder)
        if options.only in (None, "stages"):
            shapes = ((1024, 1024), (2048, 2048))
            show_stages(
                {shape: (measure_stages(shape, n_frames, folder / str(shape[0]), server), n_frames) for shape in shapes}
            )
        cached = Cached((1024, 1024), n_frames)
        if options.only in (None, "lag"):
            console.print(measure_lag((10, 30), n_frames, cached, folder, server))
        if options.only in (None, "engine"):
            console.print(measure_engine((0, 30), n_frames, 1 if options.quick else 3, cached, folder))


if __name__ == "__main__":
    main()

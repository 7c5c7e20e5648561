"""Measure how soon a subscriber in another process has the peaks of a frame, and how fast peaks are published.

Usage: python benchmarks/live_lag.py [--seconds S] [--rates 10 30 100] [--only lag|rate] [--no-raw]

A scan of small frames with 500 spots each goes the whole way: documents, reduction, reduced archive, publisher, a Tiled
server in a process of its own, and `run.live()` in a third one. The lag of a frame is that from the moment in which its
event is handed to the callback until its row, which comes after its peaks, is given by `run.live()`; both by the clock
of this machine. The scan waits after its first frame until the subscriber has it; that frame is not counted, how long
the subscriber takes to join is printed. Everything is written to a temporary folder, which is removed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from event_model import compose_run
from rich.console import Console
from rich.table import Table as Grid
from scene import Server, running_server

from hedmlive.callbacks import HedmLive, ReducedArchiveReader, load_settings, make_sink
from hedmlive.callbacks.sinks import ResultSink
from hedmlive.streaming import Columns
from hedmlive.streaming import Table as TableOf
from hedmlive.tiled_config import TiledSink, append_batch, connect, disconnect

SHAPE = (512, 512)
N_PEAKS = 500
STEP = 0.25  # degrees
ORDER = ("tracks", "members", "peaks", "links", "frames")

SUBSCRIBER = """
import json, sys, time
from hedmlive.tiled_config import connect
runs = connect(sys.argv[1], sys.argv[2])
print("ready", flush=True)
uid = sys.stdin.readline().strip()
while True:
    try:
        live = runs[uid].live(timeout=120)
        break
    except (KeyError, ValueError):
        time.sleep(0.05)
seen, n_peaks = {}, 0
for batch in live:
    now = time.time()
    if not seen and batch.table == "frames":
        print("joined", flush=True)
    n_peaks += len(batch) if batch.table == "peaks" else 0
    if batch.table == "frames":
        seen |= dict.fromkeys(batch.rows["frame"].to_pylist(), now)
print(json.dumps({"seen": seen, "n_peaks": n_peaks}), flush=True)
"""

console = Console(highlight=False, width=140)


def frames(n: int) -> np.ndarray:
    """Return frames with so many spots each, which stay for four frames and are followed by others."""
    found = np.zeros((n, *SHAPE), np.uint16)
    for number in range(n):
        chosen = np.random.default_rng(number // 4).permutation(25 * 25)[:N_PEAKS]
        row, col = 10 + 20 * (chosen // 25), 10 + 20 * (chosen % 25)
        for shift in ((0, 0), (0, 1), (1, 0), (1, 1)):
            found[number, row + shift[0], col + shift[1]] = 400 - 50 * sum(shift)
    return found


def documents(images: np.ndarray, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the documents of a scan whose frames lie in a file already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "frames.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("exchange/data", data=images, chunks=(1, *SHAPE))
    run: Any = compose_run(metadata={"motors": ["rotation"], "sample_name": "made up"})
    yield "start", run.start_doc
    keys = {
        "image": {
            "source": "made up",
            "dtype": "array",
            "shape": [1, *SHAPE],
            "dtype_numpy": "<u2",
            "external": "STREAM:",
        },
        "rotation": {"source": "made up", "dtype": "number", "shape": [], "units": "deg"},
    }
    stream = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", stream.descriptor_doc
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{path}",
        data_key="image",
        parameters={"dataset": "exchange/data", "chunk_shape": [1, *SHAPE]},
    )
    yield "stream_resource", resource.stream_resource_doc
    for number in range(len(images)):
        indices = {"start": number, "stop": number + 1}
        yield (
            "stream_datum",
            resource.compose_stream_datum(
                indices=indices, seq_nums={"start": number + 1, "stop": number + 2}, descriptor=stream.descriptor_doc
            ),
        )
        now = time.time()
        yield "event", stream.compose_event(data={"rotation": number * STEP}, timestamps={"rotation": now}, filled={})
    yield "stop", run.compose_stop()


def settings(folder: Path, uri: str, *, raw: bool) -> Any:
    return load_settings(
        {
            "roles": {"omega": "rotation"},
            "detectors": [{"name": "detector", "image": "image"}],
            "recipe": {"background": "constant", "background_level": 0.0, "threshold": 20, "max_distance": 2.0},
            "archive": {"folder": str(folder)},
            "tiled": {"uri": uri, "raw": raw},
        }
    )


def measure_lag(rate: float, seconds: float, folder: Path, server: Server, *, raw: bool) -> dict[str, Any]:
    """Scan at a rate while another process follows; return the lags."""
    n_frames = int(rate * seconds)
    command = [sys.executable, "-c", SUBSCRIBER, server.uri, server.key]
    subscriber = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert subscriber.stdin is not None
    assert subscriber.stdout is not None
    subscriber.stdout.readline()
    live = HedmLive(settings(folder, server.uri, raw=raw), sink=lambda: make_sink("tiled", server.uri, server.key))
    given: list[float] = []
    due = opened = joined = 0.0
    for name, doc in documents(frames(40)[np.arange(n_frames) % 40], folder):
        if name == "stream_datum" and len(given) == 1:
            subscriber.stdout.readline()
            joined, due = time.time() - given[0], time.perf_counter()
        if name == "event":
            time.sleep(max(0.0, due - time.perf_counter()))
            due += 1 / rate
            given.append(time.time())
        live(name, doc)
        if name == "descriptor":
            opened = _opened(live)
            subscriber.stdin.write(f"{doc['run_start']}\n")
            subscriber.stdin.flush()
    (result,) = live.wait(300).values()
    published = live.published()
    live.close()
    answer, _ = subscriber.communicate(timeout=120)
    said = json.loads(answer)
    if result.problems or len(said["seen"]) != n_frames or published is None:
        raise RuntimeError(f"the measurement went wrong: {result.problems}, {len(said['seen'])} of {n_frames} frames")
    lags = np.array([said["seen"][str(number)] - came for number, came in enumerate(given)])[1:]
    return {
        "opened": opened,
        "joined": joined,
        "n_frames": n_frames,
        "peaks": said["n_peaks"] / n_frames,
        "subscriber": np.percentile(lags, (50, 95, 99)),
        "published": [published.lag.percentile(percent) for percent in (50, 95)],
        "reduced": _reduced(result),
        "archive": result.reduced,
    }


def _opened(live: HedmLive) -> float:
    """Wait until the reduction is open in Tiled; return how long it took."""
    began = time.perf_counter()
    while (state := live.published()) is None or state.state != "publishing":
        time.sleep(0.01)
    return time.perf_counter() - began


def _reduced(result: Any) -> list[float]:
    return [result.progress.frame_lag.percentile(percent) for percent in (50, 95)]


# Rate


class Counting:
    """A sink that keeps what it sent, to send the same again without us."""

    def __init__(self, sink: TiledSink) -> None:
        self._sink = sink
        self.batches: list[tuple[str, int, Columns]] = []

    def append_all(self, batches: Mapping[str, tuple[int, Columns]]) -> None:
        self.batches += [(name, *batch) for name, batch in batches.items()]
        self._sink.append_all(batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)


def measure_rate(archive: Path, rows: int, server: Server) -> dict[str, float]:
    """Publish an archive with our publisher, then the same batches by `append_partition` alone, by turns."""
    from hedmlive.callbacks import Problems, Publisher
    from hedmlive.callbacks.settings import TiledSettings

    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    n_peaks = 0
    with ReducedArchiveReader(archive) as reader:
        source = _Archive(reader)
        for turn in range(3):
            kept: list[Counting] = []

            def make(kept: list[Counting] = kept) -> ResultSink:
                kept.append(Counting(TiledSink(connect(server.uri, server.key))))
                return kept[-1]  # pyright: ignore[reportReturnType]

            uid = f"rate-{rows}-{turn}-{os.getpid()}"
            began = time.perf_counter()
            said = TiledSettings(uri=server.uri, rows=rows, raw=False)
            publisher = Publisher(make, source, uid, {"uid": uid}, said, Problems(uid))  # pyright: ignore[reportArgumentType]
            publisher.finish({"digest": ""})
            publisher.wait(600)
            seconds["ours"].append(time.perf_counter() - began)
            n_peaks = reader.n_rows(0, "peaks")
            seconds["bare"].append(_bare(kept[0].batches, source.tables, f"bare-{uid}", server))
    best = {name: min(values) for name, values in seconds.items()}
    return {"peaks": n_peaks, "ours": n_peaks / best["ours"], "bare": n_peaks / best["bare"]}


class _Archive:
    """A finished archive, as the publisher reads one that is written."""

    def __init__(self, reader: ReducedArchiveReader) -> None:
        self._reader = reader
        self.attempts = (0,)
        self.tables: Mapping[str, TableOf] = reader.tables(0)

    def rows(self, attempt: int, table: str) -> int:
        return self._reader.n_rows(attempt, table)

    def read(self, attempt: int, table: str, first: int, end: int) -> Columns:
        return self._reader.read(attempt, table, first, end)

    def attributes(self, attempt: int) -> dict[str, Any]:
        return {}

    def projection(self, attempt: int) -> None:
        """Give none: it is no row."""

    def release(self) -> None:
        """Leave it open."""


def _bare(batches: list[tuple[str, int, Columns]], tables: Mapping[str, TableOf], uid: str, server: Server) -> float:
    client = connect(server.uri, server.key)
    sink = TiledSink(client)
    began = time.perf_counter()
    sink.open_reduction(uid, 0, start={"uid": uid}, metadata={}, tables={name: tables[name] for name in ORDER})
    for name, number, columns in batches:
        append_batch(sink.table(name), number, columns)
    taken = time.perf_counter() - began
    disconnect(client)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each scan")
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 30.0, 100.0], help="frames a second")
    parser.add_argument("--only", choices=("lag", "rate"), help="one of them")
    parser.add_argument("--no-raw", dest="raw", action="store_false", help="do not publish the run itself beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hedmlive-live-") as name, running_server(Path(name) / "server") as server:
        folder = Path(name)
        measure_lag(10.0, 2.0, folder / "warm", server, raw=options.raw)
        grid = Grid(title="Lag from the frame's event [ms]")
        for head in (
            "frames/s",
            "peaks a frame",
            "opened",
            "joined",
            "reduced p50",
            "p95",
            "published p50",
            "p95",
            "subscriber p50",
            "p95",
            "p99",
        ):
            grid.add_column(head, justify="right")
        archive: Path | None = None
        for rate in options.rates:
            load = os.getloadavg()[0]
            found = measure_lag(rate, options.seconds, folder / f"rate-{rate:.0f}", server, raw=options.raw)
            archive = found["archive"]
            lags = [found["opened"], found["joined"], *found["reduced"], *found["published"], *found["subscriber"]]
            grid.add_row(f"{rate:.0f}", f"{found['peaks']:.0f}", *(f"{1e3 * lag:.0f}" for lag in lags))
            console.print(
                f"{rate:.0f} frames/s: load of the machine before it {load:.2f}, after it {os.getloadavg()[0]:.2f}"
            )
        console.print(grid)
        if options.only != "lag" and archive is not None:
            for rows in (2_000, 50_000):
                speed = measure_rate(archive, rows, server)
                share = speed["ours"] / speed["bare"]
                console.print(
                    f"{speed['peaks']:.0f} peaks in batches of {rows} rows: {speed['ours']:.0f} peaks/s published, "
                    f"{speed['bare']:.0f} by append_partition alone, ratio {share:.2f}"
                )


if __name__ == "__main__":
    main()

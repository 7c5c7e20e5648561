"""Measure the time of filtered queries over many peaks: an embedded server with SQLite, one client.

Usage: python benchmarks/queries.py [N_PEAKS]

The rows are put into the server's database as the sink would, then asked for over HTTP as a user does.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hedmlive.streaming import TABLES
from hedmlive.tiled_config import Annulus, EmbeddedServer, TiledSink, connect, disconnect

PEAKS_A_FRAME = 5000
BATCH_ROWS = 500_000
REPEATS = 5
PEAKS = TABLES["peaks"]
RING = Annulus(row=1000, col=1000, inner=800, outer=800.5)


def batch(first: int, n: int, n_frames: int) -> dict[str, np.ndarray]:
    """Return peaks of a turn: intensities fall off as those of spots do."""
    rng = np.random.default_rng(first)
    number = np.arange(first, first + n)
    columns = {column.name: rng.integers(0, 2000, n).astype(column.dtype) for column in PEAKS.columns}
    columns |= {"frame": number // PEAKS_A_FRAME, "peak": (number % PEAKS_A_FRAME).astype(np.int32)}
    columns["omega"] = columns["frame"] * 360.0 / n_frames
    columns["sum_intensity"] = rng.pareto(1.2, n) * 500
    return columns


def timed(ask: Callable[[], Any]) -> tuple[float, int]:
    seconds, rows = [], 0
    for _ in range(REPEATS):
        began = time.perf_counter()
        rows = len(ask())
        seconds.append(time.perf_counter() - began)
    return median(seconds), rows


def main(n_peaks: int) -> None:
    n_frames = -(-n_peaks // PEAKS_A_FRAME)
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        runs = connect(server.uri, server.api_key)
        sink = TiledSink(runs)
        sink.open_reduction("turn", 0, start={"uid": "turn", "time": 0.0}, metadata={}, tables={"peaks": PEAKS})
        began = time.perf_counter()
        for number, first in enumerate(range(0, n_peaks, BATCH_ROWS), start=1):
            sink.append("peaks", number, batch(first, min(BATCH_ROWS, n_peaks - first), n_frames))
        seconds = time.perf_counter() - began
        size = (Path(folder) / "tables.db").stat().st_size
        print(f"{n_peaks} peaks in {n_frames} frames: {n_peaks / seconds:.0f} rows/s in, {size / 1e9:.2f} GB")
        table = runs["turn"].reduction["peaks"]
        few = ["frame", "peak", "row", "col", "sum_intensity"]
        turn = 360.0 / n_frames
        queries: dict[str, Callable[[], Any]] = {
            "10 frames by omega, brightest": lambda: table.query(few, omega=(90, 90 + 9.5 * turn), min_intensity=5000),
            "10 frames by omega, all columns": lambda: table.query(omega=(90, 90 + 9.5 * turn)),
            "1 frame": lambda: table.query(frame=n_frames // 2),
            "10 degrees, brightest": lambda: table.query(few, omega=(90, 100), min_intensity=50_000),
            "whole turn, brightest": lambda: table.query(few, min_intensity=1_000_000),
            "whole turn, largest": lambda: table.query(few, min_n_pixels=1999, n_maxima=(None, 100)),
            "a narrow ring": lambda: table.query(few, annuli=[RING]),
        }
        for name, ask in queries.items():
            seconds, rows = timed(ask)
            print(f"{name:<34} {seconds:7.3f} s {rows:9} rows")
        disconnect(runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("n_peaks", nargs="?", type=float, default=1e7, help="rows of the table; ten million")
    main(int(parser.parse_args().n_peaks))

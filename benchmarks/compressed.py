"""From bitshuffle-lz4 chunks of an HDF5 file to peaks: h5py and its filter, or decoded outside HDF5's lock; print only.

Usage: python benchmarks/compressed.py [--size N] [--frames N] [--repeats N] [--spots N ...]

Four routes give the same peaks. `h5py` is `dataset[i]`, which h5py and hdf5plugin decode under HDF5's lock; `h5py, own
memory` reads to the same array again and again, because on some machines new memory for each frame is what costs most.
`decompress` reads the bytes of a chunk and decodes them to numbers; `lit pixels` goes from the bytes straight to lit
pixels. All take the same peak finder, and give the memory of lit pixels back, as the reducer does. Routes are taken by
turns, so that a busy machine slows all of them; figures of two threads need two processors that do nothing else.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from rich.console import Console
from rich.table import Table
from rotation_scan import RotationScan, simulate

from hedmlive.callbacks.chunks import CompressedFrames, is_compressed
from hedmlive.streaming import Background, LitPixels, PeakFinder, PeaksOfFrame, Recipe
from hedmlive.streaming.bitshuffle import CompressedImage

RECIPE = Recipe(background="dark", threshold=25, min_pixels=3)
ROUTES = ("h5py", "h5py, own memory", "decompress", "lit pixels")
THREADS = (1, 2)
WANTED = 2.5
"Times the rate of `h5py`, on two threads."
STAGES = ("h5py: read", "dense: lit pixels", "chunk: read", "chunk: numbers", "chunk: lit pixels", "peaks")


class Bench:
    """Takes the frames of one file by each route.

    Parameters
    ----------
    data
        The compressed dataset.
    scan
        What is in it.
    """

    def __init__(self, data: h5py.Dataset, scan: RotationScan) -> None:
        if not is_compressed(data):
            raise SystemExit("the file was not written as wanted")
        self._data, self._frames = data, CompressedFrames(data)
        self._dark, self._mask = np.floor(scan.dark), scan.mask
        # Each thread has its own, and keeps it: what the first frame prepares is not what is measured.
        self._workers = {route: [self._worker(route) for _ in range(THREADS[-1])] for route in ROUTES}
        self.n_lit = self.n_peaks = 0

    def check(self) -> None:
        """Compare what the routes find, which also compiles their kernels and prepares their first frame."""
        for index in range(len(self._data)):
            found = [worker(index) for route in ROUTES for worker in self._workers[route]]
            self.n_lit += found[0].n_lit
            self.n_peaks += len(found[0].peaks["peak"])
            for other in found[1:]:
                for name, column in found[0].peaks.items():
                    np.testing.assert_array_equal(column, other.peaks[name])

    def seconds(self, route: str, threads: int) -> float:
        """Return the seconds a frame takes when this many threads share the frames."""

        def take(k: int) -> None:
            for index in range(k, len(self._data), threads):
                self._workers[route][k](index)

        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(take, range(threads)))
            return (time.perf_counter() - started) / len(self._data)

    def stages(self) -> dict[str, list[float]]:
        """Return the seconds of each part, for each frame, on one thread."""
        background, direct, finder = self._background(), self._background(), PeakFinder(RECIPE)
        background.push(self._data[0])
        direct.push(self._chunk(0))
        seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}

        def timed(stage: str, work: Callable[..., Any], *given: Any) -> Any:
            started = time.perf_counter()
            result = work(*given)
            seconds[stage].append(time.perf_counter() - started)
            return result

        for index in range(len(self._data)):
            image = timed("h5py: read", self._data.__getitem__, index)
            lit = timed("dense: lit pixels", background.push, image)
            compressed = timed("chunk: read", self._chunk, index)
            timed("chunk: numbers", compressed.dense)
            direct.take_back(timed("chunk: lit pixels", direct.push, compressed))
            timed("peaks", finder.push, index, 0.0, lit)
            background.take_back(lit)
        return seconds

    def _worker(self, route: str) -> Callable[[int], PeaksOfFrame]:
        background, finder = self._background(), PeakFinder(RECIPE)
        own = np.empty(self._data.shape[1:], self._data.dtype)

        def peaks(index: int) -> PeaksOfFrame:
            pixels = lit(index)
            found = finder.push(index, 0.0, pixels)
            background.take_back(pixels)
            return found

        def lit(index: int) -> LitPixels:
            if route == "h5py":
                return background.push(self._data[index])
            if route == "h5py, own memory":
                self._data.read_direct(own, np.s_[index])
                return background.push(own)
            if route == "decompress":
                return background.push(self._chunk(index).dense(own))
            return background.push(self._chunk(index))

        return peaks

    def _background(self) -> Background:
        return Background(RECIPE, dark=self._dark, mask=self._mask)

    def _chunk(self, index: int) -> CompressedImage:
        image = self._frames.read(index)
        if image is None:
            raise SystemExit(f"frame {index} was not written as wanted")
        return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of a frame")
    parser.add_argument("--frames", type=int, default=12, help="frames of a file")
    parser.add_argument("--repeats", type=int, default=9, help="times that each route takes all frames")
    parser.add_argument("--spots", type=int, nargs="+", default=[50, 500, 3000], help="spots of a frame")
    given = parser.parse_args()
    routes = Table(title=f"file to peaks, {given.size} x {given.size} pixels, uint16, bitshuffle-lz4: ms a frame")
    ratios = [f"{one} / {other}" for one in ROUTES[:2] for other in ROUTES[2:]]
    for name in ("spots", "lit", "peaks", "MB", "threads", *ROUTES, *ratios):
        routes.add_column(name, justify="right")
    stages = Table(title="stages, one thread: ms a frame")
    for name in ("spots", *STAGES):
        stages.add_column(name, justify="right")
    verdicts: list[str] = []
    for n_spots in given.spots:
        scan = simulate(n_spots, n_frames=given.frames, size=given.size)
        with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder) / "frames.h5", "w") as file:
            packing = hdf5plugin.Bitshuffle(cname="lz4")
            data = file.create_dataset("data", data=scan.frames, chunks=(1, *scan.frames.shape[1:]), **packing)
            file.flush()
            bench = Bench(data, scan)
            bench.check()
            first = [f"{n / given.frames:.0f}" for n in (bench.n_lit, bench.n_peaks)]
            first = [str(n_spots), *first, f"{data.id.get_storage_size() / given.frames / 1e6:.1f}"]
            for threads in THREADS:
                turns = [[bench.seconds(route, threads) for route in ROUTES] for _ in range(given.repeats)]
                medians = [statistics.median(column) for column in zip(*turns, strict=True)]
                # Of the ratio of each turn, not the ratio of medians: what slows a whole turn drops out.
                pairs = [statistics.median(turn[i] / turn[k] for turn in turns) for i in (0, 1) for k in (2, 3)]
                shown = [f"{1e3 * each:.2f}" for each in medians] + [f"{each:.2f}" for each in pairs]
                if threads == THREADS[-1]:
                    said = "reached" if pairs[1] >= WANTED else "NOT reached"
                    verdicts.append(f"{n_spots} spots: {pairs[1]:.2f} times h5py, {WANTED} wanted: {said}")
                routes.add_row(*(first if threads == 1 else [""] * 4), str(threads), *shown)
            parts = bench.stages()
            stages.add_row(str(n_spots), *(f"{1e3 * statistics.median(parts[stage]):.2f}" for stage in STAGES))
    Console(width=180).print(routes, stages, *verdicts, sep="\n")


if __name__ == "__main__":
    main()

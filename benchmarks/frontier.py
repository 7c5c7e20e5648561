"""Cost and memory of links and tracks, whatever the scan: lit pixels to links and closed tracks, no image work.

Usage: python benchmarks/frontier.py [--imaged11 PYTHON] [--profile] [--frames 3600]

Spots are ellipses on a 2048 x 2048 detector, Gaussian in omega and dty, in about as many pixels as on a real far-field
detector (50 to 60 each at threshold 25). Their peaks are found by `PeakFinder` off the clock; on it are `Linker` and
`Tracker`, one frame after the other in one thread. Times are those of the processor. Memory is what Python's allocator
and numpy hold once a frame is done, beyond what was there before the first, by `tracemalloc`, and the rows of open
tracks, in a pass of its own.

PYTHON is that of an environment with ImageD11: it links the same peaks in batch, in a process of its own, by turns.
"""

import argparse
import cProfile
import gc
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hedmlive.streaming import Batches, PeakFinder, PeaksOfFrame, Recipe
from hedmlive.streaming.background import LitPixels
from hedmlive.streaming.linking import Linker, Position
from hedmlive.streaming.tracks import Tracker
from hedmlive.streaming.trajectory import Axis, Planned

Array = NDArray[Any]

SIZE, THRESHOLD = 2048, 25.0
STEP, ROW_STEP = 0.1, 0.02
"Degrees and mm between neighbouring frames."
WANTED = {500: 0.2, 3000: 1.0}
"Milliseconds a frame, at most."
SAMPLES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Where each frame of a scan lies, in the order in which they come."""

    name: str
    omega: Array
    "Middle of each frame, degrees."
    dty: Array
    "mm."

    def planned(self) -> Planned:
        """Return its trajectory."""
        omega = Axis(name="omega", positions=self.omega, period=360.0)
        return Planned([omega, Axis(name="dty", positions=self.dty)])


def sweep(n: int) -> Scan:
    return Scan(name="1-D", omega=STEP * np.arange(n), dty=np.zeros(n))


def zigzag(n: int, columns: int = 180) -> Scan:
    row, place = np.divmod(np.arange(n), columns)
    place = np.where(row % 2 == 0, place, columns - 1 - place)
    return Scan(name=f"2-D zigzag, rows of {columns}", omega=STEP * place, dty=ROW_STEP * row)


def interlaced(n: int) -> Scan:
    place = np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)])
    return Scan(name="interlaced", omega=STEP * place, dty=np.zeros(n))


SCANS: tuple[Callable[[int], Scan], ...] = (sweep, zigzag, interlaced)


class Scene:
    """Spots of which about `n_visible` are lit in each frame of a scan."""

    def __init__(self, scan: Scan, n_visible: int, seed: int = 7) -> None:
        rng = np.random.default_rng([seed, n_visible])
        self._scan = scan
        high = scan.dty.max() > 0
        n = round(n_visible * len(scan.omega) * (0.137 if high else 0.32))
        margin = STEP
        self._omega = np.sort(rng.uniform(scan.omega.min() - margin, scan.omega.max() + margin, n))
        self._dty = rng.uniform(scan.dty.min(), scan.dty.max(), n) if high else np.zeros(n)
        self._row, self._col = rng.uniform(4, SIZE - 4, (2, n))
        self._angle = rng.uniform(0, np.pi, n)
        self._sigma = rng.uniform([[1.2], [1.2]], [[2.0], [3.4]], (2, n))
        self._height = np.clip(600 * np.exp(0.8 * rng.standard_normal(n)), 50, 20_000)
        self._width = STEP * rng.uniform(0.35, 1.1, n)
        self._finder = PeakFinder(recipe(None))
        self._image = np.zeros((SIZE, SIZE), np.float32)

    def __iter__(self) -> Iterator[tuple[Position, PeaksOfFrame]]:
        for number, (omega, dty) in enumerate(zip(self._scan.omega.tolist(), self._scan.dty.tolist(), strict=True)):
            at = Position(
                frame=number,
                omega_start=omega - STEP / 2,
                omega_end=omega + STEP / 2,
                place=(dty, float("nan"), float("nan")),
                roles={"dty": dty},
            )
            yield at, self._finder.push(number, omega, self._lit(omega, dty))

    def _lit(self, omega: float, dty: float) -> LitPixels:
        near = slice(*np.searchsorted(self._omega, [omega - 4 * STEP, omega + 4 * STEP]))
        height = self._height[near] * np.exp(
            -0.5 * ((self._omega[near] - omega) / self._width[near]) ** 2
            - 0.5 * ((self._dty[near] - dty) / (0.8 * ROW_STEP)) ** 2
        )
        spots = np.stack([self._row[near], self._col[near], self._angle[near], *self._sigma[:, near], height])
        row, col, intensity = (np.empty(1_000_000, kind) for kind in (np.int32, np.int32, np.float64))
        n = _paint(self._image, spots[:, height > 50.0], row, col, intensity)
        row, col, intensity = row[:n].copy(), col[:n].copy(), np.rint(intensity[:n])
        return LitPixels(shape=(SIZE, SIZE), row=row, col=col, raw=intensity, intensity=intensity)


@njit(nogil=True, cache=True)
def _paint(image: Array, spots: Array, lit_row: Array, lit_col: Array, intensity: Array) -> int:
    """List what spots light in an image of zeros, which it is again afterwards; return how many pixels."""
    reach = 12
    for row, col, angle, sigma_a, sigma_b, height in spots.T:
        cos, sin = np.cos(angle), np.sin(angle)
        for r in range(max(0, int(row) - reach), min(image.shape[0], int(row) + reach + 1)):
            for c in range(max(0, int(col) - reach), min(image.shape[1], int(col) + reach + 1)):
                a, b = (r - row) * cos + (c - col) * sin, (c - col) * cos - (r - row) * sin
                image[r, c] += height * np.exp(-0.5 * ((a / sigma_a) ** 2 + (b / sigma_b) ** 2))
    n = 0
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            if image[r, c] > THRESHOLD:
                lit_row[n], lit_col[n], intensity[n] = r, c, image[r, c]
                n += 1
            image[r, c] = 0.0
    return n


def recipe(max_distance: float | None) -> Recipe:
    return Recipe(threshold=THRESHOLD, min_pixels=3, split="local-maximum", smooth=True, max_distance=max_distance)


def batched(scene: Scene, size: int = 30) -> Iterator[list[tuple[Position, PeaksOfFrame]]]:
    """Return a few frames at once: making one sweeps the processor's caches, which is no cost of linking."""
    frames = iter(scene)
    while some := list(islice(frames, size)):
        yield some


class Following:
    """Linker and tracker, as the reducer puts them together."""

    def __init__(self, scan: Scan, max_distance: float | None) -> None:
        trajectory = scan.planned()
        self.linker = Linker(recipe(max_distance), trajectory)
        self.tracker = Tracker(recipe(max_distance), trajectory)
        self.n_links = self.n_tracks = 0

    def push(self, position: Position, found: PeaksOfFrame) -> None:
        linked = self.linker.push(position, found)
        self._count(self.tracker.push(position, found, linked))

    def flush(self) -> None:
        linked = self.linker.flush()
        self._count(self.tracker.follow(linked))

    def _count(self, closed: Batches) -> None:
        self.n_links += len(closed["links"]["frame_a"]) if "links" in closed else 0
        self.n_tracks += len(closed["tracks"]["track"]) if "tracks" in closed else 0


def cost(scan: Scan, n_visible: int, max_distance: float | None, *, profile: bool) -> None:
    """Print the cost of a frame."""
    following = Following(scan, max_distance)
    profiler = cProfile.Profile(time.thread_time)
    seconds: list[float] = []
    peaks = pixels = 0
    for some in batched(Scene(scan, n_visible)):
        peaks += sum(len(found.peaks["peak"]) for _, found in some)
        pixels += sum(len(found.pixels["row"]) for _, found in some)
        if profile:
            profiler.enable()
        for position, found in some:
            start = time.thread_time()
            following.push(position, found)
            seconds.append(time.thread_time() - start)
        profiler.disable()
    start = time.thread_time()
    following.flush()
    end = time.thread_time() - start
    n = len(seconds)
    middle, mean = 1000 * statistics.median(seconds), 1000 * (sum(seconds) + end) / n
    verdict = "" if n_visible not in WANTED else "reached" if mean < WANTED[n_visible] else "NOT reached"
    print(
        f"| {scan.name} | {n} | {peaks / n:.0f} | {pixels / n:.0f} | {following.n_links / n:.0f} "
        f"| {following.n_tracks / n:.0f} | {middle:.3f} | {mean:.3f} | {1000 * max(seconds):.2f} | {1000 * end:.1f} "
        f"| {verdict} |",
        flush=True,
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def memory(scan: Scan, n_visible: int, max_distance: float | None) -> None:
    """Print what is held while a scan goes on."""
    scene = iter(Scene(scan, n_visible))
    following = Following(scan, max_distance)
    n = len(scan.omega)
    print(f"\n{scan.name}, {n_visible} peaks a frame\n\n| after frame | frames held | rows held | MB | MB at most |")
    print("|---:|---:|---:|---:|---:|")
    started, before = False, 0
    for number in range(n):
        position, found = next(scene)
        if not started:
            tracemalloc.start()
            before, started = tracemalloc.get_traced_memory()[0], True
        tracemalloc.reset_peak()
        following.push(position, found)
        del found
        if (number + 1) % max(n // SAMPLES, 1) == 0:
            now, most = (each - before + following.tracker.n_bytes for each in tracemalloc.get_traced_memory())
            rows = int(following.tracker.open_tracks()["n_peaks"].sum())
            print(f"| {number} | {following.linker.n_held} | {rows} | {now / 1e6:.1f} | {most / 1e6:.1f} |", flush=True)
    tracemalloc.stop()


def beside_imaged11(python: str, scan: Scan, n_visible: int, max_distance: float | None, rounds: int = 5) -> None:
    """Print our rate and ImageD11's on the same peaks, by turns."""
    frames = list(Scene(scan, n_visible))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peaks.npz"
        pixels = [found.pixels for _, found in frames]
        arrays: dict[str, Any] = {
            "nnz": [len(each["row"]) for each in pixels],
            "n_peaks": [len(found.peaks["peak"]) for _, found in frames],
            "omega": scan.omega,
            "dty": scan.dty,
        }
        arrays |= {
            name: np.concatenate([each[name] for each in pixels]) for name in ("row", "col", "peak", "intensity")
        }
        np.savez(path, **arrays)
        command = [python, str(Path(__file__).parent / "peers" / "imaged11_links_peer.py"), str(path)]
        limits = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "NUMBA")}
        peer = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits}
        )
        if peer.stdin is None or peer.stdout is None:
            raise RuntimeError("the peer has no pipes")
        ours: list[float] = []
        theirs: list[float] = []
        answer: dict[str, Any] = {}
        n_tracks = 0
        # All frames are held here, which no reducer does: Python must not search them for garbage on our clock.
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            following = Following(scan, max_distance)
            start = time.process_time()
            for each in frames:
                following.push(*each)
            following.flush()
            ours.append(time.process_time() - start)
            n_tracks = following.n_tracks
            peer.stdin.write("go\n")
            peer.stdin.flush()
            answer = json.loads(peer.stdout.readline())
            theirs.append(answer["seconds"])
        gc.unfreeze()
        peer.stdin.close()
        peer.wait()
    ms = [1000 * statistics.median(each) / len(frames) for each in (ours, theirs)]
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(
        f"| {scan.name} | {n_visible} | {max_distance or 'no'} | {ms[0]:.3f} | {ms[1]:.3f} | {ratio:.2f} "
        f"| {n_tracks} | {answer['n_tracks']} | {'reached' if ratio >= 2 else 'NOT reached'} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=3600)
    parser.add_argument("--peaks", type=int, nargs="*", default=[500, 3000])
    parser.add_argument("--max-distance", type=float, default=1.0)
    parser.add_argument("--imaged11", metavar="PYTHON")
    parser.add_argument("--profile", action="store_true", help="say which functions take the time")
    parser.add_argument("--only", choices=("cost", "memory", "imaged11"))
    asked = parser.parse_args()
    for make in SCANS:  # the compiler's time is not ours
        following = Following(make(360), asked.max_distance)
        for each in Scene(make(360), 20):
            following.push(*each)
        following.flush()
    if asked.only in (None, "cost"):
        print("| scan | frames | peaks | pixels | links | tracks | ms, median | mean | most | at the end, ms | |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|")
        for n_visible in asked.peaks:
            for make in SCANS:
                cost(make(min(asked.frames, 540)), n_visible, asked.max_distance, profile=asked.profile)
    if asked.only in (None, "imaged11") and asked.imaged11:
        print("\n| scan | peaks | max_distance | ms a frame | ImageD11 | times its rate | tracks | its | |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
        for n_visible, n in ((500, 360), (3000, 120)):
            if n_visible in asked.peaks:
                for scan in (sweep(n), zigzag(n, 20)):
                    for gate in (None, asked.max_distance):
                        beside_imaged11(asked.imaged11, scan, n_visible, gate)
    if asked.only in (None, "memory"):
        for make in SCANS:
            memory(make(asked.frames), asked.peaks[0], asked.max_distance)


if __name__ == "__main__":
    sys.exit(main())

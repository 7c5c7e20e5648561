"""Frames per second of each stage of the reducer, beside the fastest pass that only compares; print, keep no file.

Usage: python benchmarks/streaming.py [--size N] [--frames N] [--spots N ...]

The comparison, ``np.count_nonzero(image > cut)`` with a cut per pixel, reads what the lit-pixel kernel has to read and
is taken in turn with every stage, so that a machine that is busy slows both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from hedmlive.streaming import (
    Background,
    Frame,
    OverlapLinker,
    PeakFinder,
    Position,
    Recipe,
    Reducer,
    Tracker,
)

Given = ParamSpec("Given")
T = TypeVar("T")

BACKGROUND, NOISE, HEIGHT = 100.0, 5.0, 2000.0
RECIPE = Recipe(background_level=BACKGROUND, threshold=60, min_pixels=2)
STAGES = ("compare only", "lit pixels", "peaks", "links", "tracks", "all in one")


def simulate(n_frames: int, size: int, n_spots: int) -> list[Frame]:
    """Spots of 7 x 7 pixels that last three frames, on a background of 100 counts with noise."""
    rng = np.random.default_rng(n_spots)
    noise = rng.normal(BACKGROUND, NOISE, (size, size)).clip(0).astype(np.uint16)
    grid = np.arange(7) - 3
    shape = np.exp(-(grid[:, None] ** 2 + grid**2) / 4.0)
    images = [np.roll(noise, k, axis=1) for k in range(n_frames)]
    for first in range(-2, n_frames):
        for row, col in rng.integers(4, size - 4, (max(1, n_spots // 3), 2)):
            for k in range(max(first, 0), min(first + 3, n_frames)):
                spot = (HEIGHT * shape).astype(np.uint16)
                images[k][row - 3 : row + 4, col - 3 : col + 4] += spot
    return [
        Frame(frame=k, point=k, image=image, omega_start=0.25 * k, omega_end=0.25 * (k + 1))
        for k, image in enumerate(images)
    ]


class Bench:
    """Pushes frames through the parts of the reducer and notes the seconds of each."""

    def __init__(self, frames: list[Frame]) -> None:
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.n_peaks = 0
        image = frames[0].image
        self._cut = np.full(image.shape, np.uint16(BACKGROUND + RECIPE.threshold))
        self._frames = frames

    def run(self) -> None:
        """Take every stage once for each frame."""
        background, finder, linker = Background(RECIPE), PeakFinder(RECIPE), OverlapLinker(RECIPE)
        tracker, whole = Tracker(wrap=RECIPE.wrap), Reducer(RECIPE)
        for frame in self._frames:
            position = Position.of(frame)
            self._timed("compare only", self._compare, frame)
            lit = self._timed("lit pixels", background.push, frame.image)
            found = self._timed("peaks", finder.push, frame.frame, frame.omega, lit)
            links = self._timed("links", linker.push, position, found)
            self._timed("tracks", tracker.push, position, found, links)
            self._timed("all in one", whole.push, frame)
            self.n_peaks += len(found.peaks["peak"])

    def _compare(self, frame: Frame) -> int:
        return int(np.count_nonzero(np.asarray(frame.image) > self._cut))

    def _timed(self, stage: str, work: Callable[Given, T], *given: Given.args, **named: Given.kwargs) -> T:
        start = time.perf_counter()
        result = work(*given, **named)
        self.seconds[stage].append(time.perf_counter() - start)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of a frame")
    parser.add_argument("--frames", type=int, default=40, help="frames of each scan")
    parser.add_argument("--spots", type=int, nargs="+", default=[50, 500, 3000], help="spots of a frame")
    arguments = parser.parse_args()
    Reducer.warm(np.uint16)
    table = Table(title=f"{arguments.size} x {arguments.size} pixels, uint16, one thread")
    for name in ("spots", "stage", "ms a frame", "frames/s", "x compare only"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for n_spots in arguments.spots:
        bench = Bench(simulate(arguments.frames, arguments.size, n_spots))
        bench.run()
        base = statistics.median(bench.seconds["compare only"])
        for stage in STAGES:
            median = statistics.median(bench.seconds[stage])
            first = f"{bench.n_peaks / arguments.frames:.0f}" if stage == STAGES[0] else ""
            table.add_row(first, stage, f"{1e3 * median:.2f}", f"{1 / median:.0f}", f"{median / base:.2f}")
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()

"""Speed and accuracy of the fit beside moments and midas-peakfit, on the same frames, lit pixels and groups.

Usage: python benchmarks/fitting.py [--frames N] [--spots N ...] [--peer-python PYTHON]

PYTHON is that of an environment with midas-peakfit; without it only our figures are printed. It fits in one thread of a
process of its own. Times are those of the processor, which on a quiet machine are those of the clock: what other
programs take does not count; only the two threads are measured by the clock, by turns with one.

With `regional-maximum` we fit the very peaks that midas-peakfit looks for. The spots of `rotation_scan` are sampled at
pixel centres; the Lorentzian part is elliptical there, (1 + k q)^-1.5, so that it is neither program's model.
"""

import argparse
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rotation_scan import RotationScan, Truth, simulate
from scipy import ndimage
from scipy.spatial import KDTree

from hedmlive.streaming import Background, PeakFinder, Recipe
from hedmlive.streaming.fitting import FitRecipe, FitStatus, Surroundings, fit_peaks

Array = NDArray[Any]

THRESHOLD, MIN_PIXELS = 25.0, 3
SPLITS: dict[str, dict[str, Any]] = {
    "smoothed local maxima": {"split": "local-maximum", "smooth": True},
    "regional maxima": {"split": "regional-maximum"},
}
ALONE, CROWDED, REACH = 14.0, 8.0, 2.5
REPEATS = 5

PEER = """
import sys, time
import numpy as np, torch
from midas_peakfit.connected import filter_regions_by_size, find_regions
from midas_peakfit.fit import fit_regions
from midas_peakfit.lm import LMConfig
from midas_peakfit.seeds import seed_region
torch.set_num_threads(1)
given = np.load(sys.argv[1])
centre = {"Ycen": float(given["centre"][0]), "Zcen": float(given["centre"][1])}
def seeds(image):
    found = filter_regions_by_size(find_regions(image, np.full(image.shape, given["threshold"])), 2, 10_000)
    return [seed_region(each, image, None, int_sat=1e9, max_n_peaks=400, panels=[], **centre) for each in found]
def fit(seeded):
    return fit_regions(seeded, omega=0.0, do_peak_fit=1, local_maxima_only=0, device=torch.device("cpu"),
                       dtype=torch.float64, lm_config=LMConfig(max_iter=100, ftol_rel=1e-5, xtol_rel=1e-5), **centre)[0]
rows, seconds = [], []
for k, image in enumerate(given["lit"].astype(float)):
    seeded = seeds(image)
    if k == 0:
        fit(seeded[:20])
    start = time.process_time()
    found = fit(seeded)
    seconds.append(time.process_time() - start)
    some = np.concatenate([each.rows for each in found])
    rows.append(np.column_stack([np.full(len(some), k), some[:, [3, 4, 1]]]))
np.savez(sys.argv[2], rows=np.concatenate(rows), seconds=seconds)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Lit pixels of one frame with their labels, as `fit_peaks` takes them, and the moments of the peaks."""

    given: tuple[Array, Array, Array, Array, Array, int]
    around: Surroundings
    moments: Array
    "Row, column and sum, shape (peaks, 3)."


@dataclass(slots=True)
class Errors:
    """What two lists of peaks and spots differ by."""

    alone: list[Array]
    "Distance [px] and sum / truth - 1, shape (n, 2), of spots without a neighbour within ALONE."
    crowded: list[Array]
    "The same of spots with a neighbour within CROWDED; both were found."


def pixels_of(scan: RotationScan, split: dict[str, Any]) -> list[Pixels]:
    recipe = Recipe(background="dark", threshold=THRESHOLD, min_pixels=MIN_PIXELS, **split)
    background, finder = Background(recipe, dark=scan.dark, mask=scan.mask), PeakFinder(recipe)
    made: list[Pixels] = []
    for number, image in enumerate(scan.frames):
        found = finder.push(number, 0.0, background.push(image))
        row, col, peak = (found.pixels[name] for name in ("row", "col", "peak"))
        lit = np.zeros(image.shape, np.bool_)
        lit[row, col] = True
        group = np.asarray(ndimage.label(lit, np.ones((3, 3)))[0])[row, col] - 1
        value = found.pixels["intensity"] - scan.dark[row, col]
        moments = np.column_stack([found.peaks[name] for name in ("row", "col", "sum_intensity")])
        around = Surroundings(image=image, background=scan.dark, mask=scan.mask)
        made.append(Pixels(given=(row, col, value, group, peak, len(moments)), around=around, moments=moments))
    return made


def fit_all(frames: list[Pixels], centre: tuple[float, float], threads: int = 1) -> list[dict[str, Array]]:
    recipe = FitRecipe(noise=4.0)
    return [
        fit_peaks(*each.given, beam_centre=centre, surroundings=each.around, recipe=recipe, threads=threads)
        for each in frames
    ]


def compare(truth: tuple[Truth, ...], found: list[Array]) -> Errors:
    """Pair peaks (row, column, sum) with spots, each the nearest of the other."""
    errors = Errors([], [])
    for spots, peaks in zip(truth, found, strict=True):
        bright = spots.height > 2 * THRESHOLD
        place = np.column_stack([spots.row, spots.col])[bright]
        intensity = spots.intensity[bright]
        (apart, spot), (_, back) = KDTree(peaks[:, :2]).query(place), KDTree(place).query(peaks[:, :2])
        paired = (apart <= REACH) & (back[spot] == np.arange(len(place)))
        far, other = (each[:, 1] for each in KDTree(place).query(place, k=2))
        differ = np.column_stack([apart, peaks[spot, 2] / intensity - 1])
        errors.alone.append(differ[paired & (far > ALONE)])
        crowded = far < CROWDED
        errors.crowded.append(differ[crowded & paired & paired[other]])
    return errors


def row_of(errors: Errors) -> list[str]:
    cells: list[str] = []
    for some in (np.concatenate(errors.alone), np.concatenate(errors.crowded)):
        if not len(some):
            cells += ["0", "", "", "", ""]
            continue
        root, middle = np.sqrt((some[:, 0] ** 2).mean()), np.median(some[:, 0])
        cells += [str(len(some)), f"{root:.3f}", f"{middle:.3f}"]
        cells += [f"{np.median(some[:, 1]):+.3f}", f"{np.median(np.abs(some[:, 1])):.3f}"]
    return cells


def peer_fits(python: str, scan: RotationScan, frames: list[Pixels], centre: tuple[float, float]) -> tuple[Any, Any]:
    """Return rows (frame, row, column, sum) and seconds for each frame."""
    lit = np.zeros(scan.frames.shape, np.float32)
    for image, each in zip(lit, frames, strict=True):
        image[each.given[0], each.given[1]] = each.given[2]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, lit=lit, centre=centre, threshold=THRESHOLD)
        subprocess.run([python, "-c", PEER, str(source), str(target)], check=True)
        with np.load(target) as made:
            return made["rows"], made["seconds"]


def measure(n_spots: int, n_frames: int, python: str | None, rates: Table, accuracy: Table) -> None:
    scan = simulate(n_spots, n_frames=n_frames)
    centre = (scan.frames.shape[1] / 2, scan.frames.shape[2] / 2)
    taken: dict[str, tuple[float, float]] = {}
    for name, split in SPLITS.items():
        frames = pixels_of(scan, split)
        fits = fit_all(frames, centre)
        cpu, one, two = [], [], []
        for _ in range(REPEATS):
            clock, start = time.perf_counter(), time.process_time()
            fit_all(frames, centre)
            cpu.append(time.process_time() - start)
            one.append(time.perf_counter() - clock)
            clock = time.perf_counter()
            fit_all(frames, centre, threads=2)
            two.append(time.perf_counter() - clock)
        n_peaks = sum(each.given[-1] for each in frames)
        n_fitted = sum(int((each["fit_status"] != FitStatus.TOO_FEW_PIXELS).sum()) for each in fits)
        taken[name] = (min(cpu), n_peaks / min(cpu))
        rates.add_row(
            str(n_spots), f"hedmlive, {name}", str(n_peaks), str(n_fitted), f"{1e3 * min(cpu) / n_frames:.1f}",
            f"{n_peaks / min(cpu):.0f}", f"{min(one) / min(two):.2f}", "",
        )  # fmt: skip
        whole = [np.column_stack([fit[f"fit_{c}"] for c in ("row", "col", "sum")]) for fit in fits]
        for what, peaks in (
            ("moments", [each.moments for each in frames]),
            ("fit", [each[np.isfinite(each[:, 0])] for each in whole]),
        ):
            accuracy.add_row(str(n_spots), f"{what}; {name}", *row_of(compare(scan.truth, peaks)))
    if python is not None:
        rows, seconds = peer_fits(python, scan, pixels_of(scan, SPLITS["regional maxima"]), centre)
        total = float(np.sum(seconds))
        ratios = ", ".join(f"{total / s:.0f}" for s, _ in taken.values())
        rates.add_row(
            str(n_spots), "midas-peakfit", str(len(rows)), str(len(rows)), f"{1e3 * total / n_frames:.0f}",
            f"{len(rows) / total:.0f}", "", ratios,
        )  # fmt: skip
        peaks = [rows[rows[:, 0] == k, 1:] for k in range(n_frames)]
        accuracy.add_row(str(n_spots), "midas-peakfit", *row_of(compare(scan.truth, peaks)))
    rates.add_section()
    accuracy.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=3, help="frames of each scan")
    parser.add_argument("--spots", type=int, nargs="+", default=[50, 500, 3000], help="visible spots of a frame")
    parser.add_argument("--peer-python", help="interpreter of an environment with midas-peakfit")
    arguments = parser.parse_args()
    rates = Table(title="one thread; time of the processor")
    for name in ("spots", "fit", "peaks", "fitted", "ms a frame", "peaks/s", "x two threads", "x hedmlive's time"):
        rates.add_column(name, justify="left" if name == "fit" else "right")
    accuracy = Table(title=f"spots alone (none within {ALONE:g} px) | crowded (one within {CROWDED:g} px, both found)")
    for name in ("spots", "peaks", *("n", "rms px", "median px", "median dI/I", "median |dI/I|") * 2):
        accuracy.add_column(name, justify="left" if name == "peaks" else "right")
    for n_spots in arguments.spots:
        measure(n_spots, arguments.frames, arguments.peer_python, rates, accuracy)
    console = Console(width=170)
    console.print(rates)
    console.print(accuracy)


if __name__ == "__main__":
    main()

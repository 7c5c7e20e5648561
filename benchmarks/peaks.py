"""Speed, memory and accuracy of the peak search beside other programs, on the same frames in the same run.

Usage: python benchmarks/peaks.py --peer imaged11=PYTHON [--peer scipy=PYTHON ...] [--write-docs]

Each PYTHON is that of an environment with the program: imaged11 (ImageD11), scipy, skimage (scikit-image),
cc3d (connected-components-3d), midas (midas-peakfit). It searches the frames in one thread of a process of its own and
takes its own time; it and we take turns. Times are those of the processor, which on a quiet machine are those of the
clock: what other programs take does not count. Tables are printed as Markdown.
"""

import argparse
import json
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import hdf5plugin
import numpy as np
from accuracy import Found, Score, score
from bare_kernels import BareKernels
from numba import njit
from numpy.typing import NDArray
from rotation_scan import RotationScan, simulate

from hedmlive.cli.bench import compare_only, in_threads, reader, search, whole_cut
from hedmlive.streaming import Background, Frame, PeakFinder, PeaksOfFrame, Recipe

Array = NDArray[Any]
T = TypeVar("T")

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reference" / "accuracy.md"
THRESHOLD, MIN_PIXELS = 25.0, 3
COMPARE = "compare only"
ARITHMETIC, SEARCH = "arithmetic without memory", "split none"
KERNELS = "hedmlive: split none, kernels alone, integer dark"
KERNELS_SMOOTHED = "hedmlive: local-maximum, smoothed, kernels alone, integer dark"
COMPONENTS, SMOOTHED = "hedmlive: split none", "hedmlive: local-maximum, smoothed"
INTEGER = ", integer dark"
"Rows whose dark is in whole counts: the cut image then holds it too, and no second image is read."
OURS: dict[str, dict[str, Any]] = {
    COMPONENTS: {"split": "none"},
    COMPONENTS + INTEGER: {"split": "none"},
    "hedmlive: local-maximum": {"split": "local-maximum"},
    SMOOTHED: {"split": "local-maximum", "smooth": True},
    SMOOTHED + INTEGER: {"split": "local-maximum", "smooth": True},
    "hedmlive: regional-maximum": {"split": "regional-maximum"},
    "hedmlive: noise-adaptive, smoothed local-maximum": {
        "finder": "noise-adaptive",
        "threshold": 3.0,
        "split": "local-maximum",
        "smooth": True,
    },
}
IMAGED11_COMPONENTS = "ImageD11: subtract, tosparse, components, moments"
IMAGED11_SPLIT = ("ImageD11: the same, smoothed local maxima", "ImageD11: lima_segmenter, lmlabel, sums")
PEERS: dict[str, dict[str, str]] = {
    "imaged11": dict(zip(("components", "split", "production"), (IMAGED11_COMPONENTS, *IMAGED11_SPLIT), strict=True)),
    "scipy": {"scipy": "scipy: label, bincount"},
    "cc3d": {"cc3d": "connected-components-3d, bincount"},
    "skimage": {"skimage": "scikit-image: label, regionprops_table"},
    "midas": {
        "means": "midas-peakfit: regions, weighted means",
        "maxima": "midas-peakfit: regional maxima, no fit",
        "fit": "midas-peakfit: fit",
    },
}
SLOW = {"skimage": 4, "means": 3, "maxima": 3, "fit": 1}
"Frames that a slow search is asked for, and once only."
LEAST_RATE = {50: 60.0, 500: 35.0, 3000: 15.0}
"Wanted of cut, labels and moments, % of the rate of the comparison."
LEAST_RATIO = {50: 8.0, 500: 6.0, 3000: 4.0}
"Wanted of their ratio to ImageD11's components."
LEAST_RATIO_SPLIT = {50: 7.0, 500: 5.0, 3000: 9.0}
"Wanted of the ratio of smoothed local maxima to ImageD11's."
LEAST_THREADS = {500: 1.7}
"Wanted of the ratio of two threads to one."
LEAST_PACKED = 2.5
"Wanted of the rate from compressed frames in a file, to that of h5py, hdf5plugin and the same search."
MOST_MEMORY = 64.0
"MB beyond the frame."


class Peer:
    """A program in an environment of its own, which answers requests one by one."""

    def __init__(self, name: str, python: str) -> None:
        if name not in PEERS:
            raise SystemExit(f"--peer {name}: unknown; wanted one of {', '.join(PEERS)}")
        threads = {f"{each}_NUM_THREADS": "1" for each in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")}
        self.searches = PEERS[name]
        self._process = subprocess.Popen(
            [python, HERE / "peers" / f"{name}_peer.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | threads,
        )

    def ask(self, **request: object) -> dict[str, Any]:
        """Send a request and return its answer."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the peer was started without pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._process.args}: ended at {request}; run it by hand to see why")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@dataclass(slots=True)
class Density:
    """What was measured on the frames of one density."""

    n_spots: int
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    "Median of each round, seconds a frame."
    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    threads: dict[tuple[str, int], list[float]] = field(default_factory=dict[tuple[str, int], list[float]])
    "Seconds a frame by the clock, by what is done and in how many threads."
    packed: dict[str, list[float]] = field(default_factory=lambda: {"h5py": [], "ours": []})
    "Seconds a frame by the clock, from bitshuffle-lz4 in a file to peaks in two threads, by who decompresses."
    memory: dict[str, float] = field(default_factory=dict[str, float])
    "MB beyond the frame."

    def median(self, row: str) -> float:
        return statistics.median(self.seconds[row])

    def times(self, row: str, other: str) -> float:
        """Return how many times faster a row is than another: the median of the rounds that both were measured in."""
        pairs = zip(self.seconds[row], self.seconds[other], strict=False)
        return statistics.median(theirs / mine for mine, theirs in pairs)

    def times_imaged11(self, row: str) -> float | None:
        """Return how many times faster a row is than ImageD11's equivalent, the faster one of two."""
        peers = IMAGED11_SPLIT if row.startswith(SMOOTHED) else (IMAGED11_COMPONENTS,)
        known = [self.times(row, each) for each in peers if each in self.seconds]
        return min(known, default=None)


def recipes() -> dict[str, Recipe]:
    plain: dict[str, Any] = {"background": "dark", "threshold": THRESHOLD, "min_pixels": MIN_PIXELS}
    return {name: Recipe.from_dict(plain | keys) for name, keys in OURS.items()}


def frames_of(images: Array) -> list[Frame]:
    return [Frame(frame=k, point=k, image=image, omega_start=k, omega_end=k + 1) for k, image in enumerate(images)]


def measure(scan: RotationScan, folder: Path, n_spots: int, peers: Sequence[Peer], rounds: int) -> Density:
    """Take turns over the frames; the peaks of the last round are compared with the truth."""
    result = Density(n_spots)
    frames = frames_of(scan.frames)
    whole_dark = np.rint(scan.dark)
    cut = whole_cut(frames[0].image, Recipe(threshold=THRESHOLD), whole_dark)
    cut[scan.mask != 0] = np.iinfo(cut.dtype).max
    finds: dict[str, Callable[[Frame], Found]] = {}
    for name, split in ((KERNELS, False), (KERNELS_SMOOTHED, True)):
        bare = BareKernels(cut, THRESHOLD, MIN_PIXELS, cut.size // 8, split=split)
        finds[name] = lambda frame, bare=bare: bare.push(np.asarray(frame.image))
    for name, recipe in recipes().items():
        find = search(recipe, whole_dark if name.endswith(INTEGER) else scan.dark, scan.mask)
        finds[name] = lambda frame, find=find: as_found(find(frame))
    turns: list[tuple[str, Callable[[], list[float]]]] = [
        (COMPARE, lambda: timed(lambda frame: compare_only(np.asarray(frame.image), cut), frames))
    ]
    for name, each in finds.items():
        each(frames[0])
        turns.append((name, lambda name=name, find=each: _ours(result, name, find, frames, scan)))
    for peer in peers:
        for asked, name in peer.searches.items():
            turns.append(
                (name, lambda *given, peer=peer, asked=asked, name=name: _peer(result, name, peer, asked, folder, scan))
            )
    slow = {PEERS[peer][asked] for peer in PEERS for asked in PEERS[peer] if asked in SLOW}
    plain = recipes()[COMPONENTS]
    with h5py.File(folder / "packed.h5", "w") as file:
        one = (1, *scan.frames.shape[1:])
        file.create_dataset("frames", data=scan.frames, chunks=one, compression=hdf5plugin.Bitshuffle())
    for number in range(rounds):
        for name, turn in turns:
            if number == 0 or name not in slow:
                result.seconds.setdefault(name, []).append(statistics.median(turn()))
        makers: dict[str, Callable[[], Callable[[Frame], object]]] = {
            ARITHMETIC: lambda: lambda _: arithmetic(100_000),
            COMPARE: lambda: lambda frame: compare_only(np.asarray(frame.image), cut),
            SEARCH: lambda: search(plain, whole_dark, scan.mask),
        }
        for what, make in makers.items():
            for n in (1, 2, 2, 1):
                result.threads.setdefault((what, n), []).append(in_threads(frames, n, make))
        with h5py.File(folder / "packed.h5") as file:
            data: Any = file["frames"]
            for name, read in (("h5py", partial(operator.getitem, data)), ("ours", reader(data))):
                make = partial(search, plain, whole_dark, scan.mask, read=read)
                result.packed[name].append(in_threads(frames, 2, make))
    for name in (COMPONENTS, COMPONENTS + INTEGER, SMOOTHED, SMOOTHED + INTEGER):
        result.memory[name] = _ask_memory(folder, name)
    return result


@njit(nogil=True)
def arithmetic(n: int) -> int:
    """Work on whole numbers that stay in registers: what a second thread brings at most."""
    a, b, c, d = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for _ in range(n):
        a = (a << np.uint64(7)) ^ (a >> np.uint64(9)) ^ d
        b = (b << np.uint64(7)) ^ (b >> np.uint64(9)) ^ a
        c = (c << np.uint64(7)) ^ (c >> np.uint64(9)) ^ b
        d = (d << np.uint64(7)) ^ (d >> np.uint64(9)) ^ c
    return int(a ^ b ^ c ^ d)


def timed(work: Callable[[Frame], T], frames: Sequence[Frame], keep: Callable[[T], None] | None = None) -> list[float]:
    """Return the seconds of each frame; what is to be kept of a result is taken out while the clock stands."""
    seconds: list[float] = []
    for frame in frames:
        start = time.process_time()
        result = work(frame)
        seconds.append(time.process_time() - start)
        if keep is not None:
            keep(result)
    return seconds


def as_found(peaks: PeaksOfFrame) -> Found:
    columns = peaks.peaks
    return Found(row=columns["row"], col=columns["col"], intensity=columns["sum_intensity"])


def _ours(
    result: Density, name: str, find: Callable[[Frame], Found], frames: list[Frame], scan: RotationScan
) -> list[float]:
    peaks: list[Found] = []
    seconds = timed(find, frames, peaks.append)
    result.scores[name] = score(scan.truth, peaks)
    return seconds


def _peer(result: Density, name: str, peer: Peer, asked: str, folder: Path, scan: RotationScan) -> list[float]:
    n = min(SLOW.get(asked, len(scan.frames)), len(scan.frames))
    seconds = peer.ask(folder=str(folder), search=asked, frames=n)["seconds"]
    found = np.load(folder / f"{asked}.npz")
    peaks = [Found(**{key: found[key][found["frame"] == k] for key in ("row", "col", "intensity")}) for k in range(n)]
    result.scores[name] = score(scan.truth[:n], peaks)
    return seconds


# ---------------------------------------------------------------- memory, in a process of its own


def _ask_memory(folder: Path, name: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", name, "--folder", folder], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def memory_of(name: str, folder: Path) -> float:
    """Return by how many MB the process grows from the compiled program with a frame and a dark to the last frame."""
    recipe = recipes()[name]
    small = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    for frame in frames_of(np.stack([small, small])):
        search(recipe, np.zeros((64, 64), np.float32), np.zeros((64, 64), np.uint8))(frame)
    stored = np.load(folder / "frames.npy", mmap_mode="r")
    dark, mask = np.load(folder / "dark.npy"), np.load(folder / "mask.npy")
    dark = np.rint(dark) if name.endswith(INTEGER) else dark
    image = stored[0].copy()
    before = _resident()
    find = search(recipe, dark, mask)
    most = 0.0
    with (folder / "frames.npy").open("rb") as file:
        file.seek(int(stored.offset))  # pyright: ignore[reportAttributeAccessIssue]
        for number in range(len(stored)):
            file.readinto(image.data)
            result = find(Frame(frame=number, point=number, image=image, omega_start=0, omega_end=1))
            most = max(most, _resident() - before)
            del result
    return most


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# ---------------------------------------------------------------- labels


def same_labels(scan: RotationScan, folder: Path, imaged11: Peer) -> list[str]:
    """Split the same lit pixels as ImageD11 does and say whether every pixel went to the same peak."""
    lines: list[str] = []
    for kind, dark in (("float dark", scan.dark), ("integer dark", np.rint(scan.dark))):
        for smooth in (True, False):
            numbers = {"split": "local-maximum", "smooth": smooth, "threshold": THRESHOLD, "background": "dark"}
            recipe = Recipe.from_dict(numbers)
            background, finder = Background(recipe, dark=dark, mask=scan.mask), PeakFinder(recipe)
            n_pixels, n_other, n_labels = 0, 0, 0
            for frame in frames_of(scan.frames):
                lit = background.push(frame.image)
                np.savez(folder / "lit.npz", row=lit.row, col=lit.col, value=lit.intensity)
                imaged11.ask(other="same_labels", folder=str(folder))
                theirs = _by_first(np.load(folder / "labels.npz")["smooth" if smooth else "plain"])
                ours = _by_first(finder.push(frame.frame, 0.0, lit).pixels["peak"])
                n_pixels, n_labels = n_pixels + len(ours), n_labels + int(ours.max(initial=-1)) + 1
                n_other += int((ours != theirs).sum())
            what = f"{kind}, {'smoothed' if smooth else 'as it is'}"
            lines.append(f"{what}: {n_labels} labels, {n_pixels} pixels, {n_other} in another peak than ImageD11's")
    return lines


def _by_first(labels: Array) -> Array:
    """Number labels from 0 in the order in which they first appear: ImageD11 numbers them by their brightest pixel."""
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


# ---------------------------------------------------------------- what is printed


def speed_table(densities: Sequence[Density]) -> list[str]:
    head = [f"{each.n_spots} spots: ms | 1/s | % of compare only" for each in densities]
    lines = [f"| search | {' | '.join(head)} |", "|---" + "|---:" * 3 * len(densities) + "|"]
    for row in densities[0].seconds:
        cells: list[str] = []
        for each in densities:
            median = each.median(row)
            cells += [f"{1e3 * median:.3g}", f"{1 / median:.3g}", f"{100 * each.times(row, COMPARE):.3g}"]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def verdicts(densities: Sequence[Density]) -> list[str]:
    """Return a line for each figure that is wanted: what it is, what was measured, whether it is reached."""
    lines = ["| figure | spots | measured | wanted | |", "|---|---:|---:|---:|---|"]

    def add(what: str, spots: int, value: float, wanted: float, least: bool = True) -> None:
        good = value >= wanted if least else value <= wanted
        lines.append(f"| {what} | {spots} | {value:.3g} | {wanted:.3g} | {'reached' if good else 'NOT reached'} |")

    for each in densities:
        n = each.n_spots
        for row in (KERNELS, COMPONENTS + INTEGER, COMPONENTS, KERNELS_SMOOTHED, SMOOTHED + INTEGER, SMOOTHED):
            what, times = row.removeprefix("hedmlive: "), each.times_imaged11(row)
            split = row.startswith(SMOOTHED)
            if n in LEAST_RATE and not split:
                add(f"{what}: % of the comparison's rate", n, 100 * each.times(row, COMPARE), LEAST_RATE[n])
            wanted = LEAST_RATIO_SPLIT if split else LEAST_RATIO
            if times is not None and n in wanted:
                add(f"{what}: times ImageD11", n, times, wanted[n])
            if row in each.memory:
                add(f"{what}: MB beyond the frame", n, each.memory[row], MOST_MEMORY, least=False)
        if n in LEAST_THREADS:
            # The best of the rounds: another program can only make one worse.
            for what in (ARITHMETIC, COMPARE, SEARCH):
                ratio = min(each.threads[what, 1]) / min(each.threads[what, 2])
                add(f"two threads, times one: {what}", n, ratio, LEAST_THREADS[n])
        times = min(each.packed["h5py"]) / min(each.packed["ours"])
        add("bitshuffle-lz4 to peaks, two threads: times h5py", n, times, LEAST_PACKED)
        theirs = each.scores.get(IMAGED11_SPLIT[0])
        if theirs is not None:
            add("recall, smoothed local maxima, ImageD11's wanted", n, each.scores[SMOOTHED].recall, theirs.recall)
    return lines


def accuracy_table(each: Density) -> list[str]:
    lines = [
        "| search | recall | precision | position rms [px] | intensity: median | rms | frames |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, it in each.scores.items():
        lines.append(
            f"| {row} | {it.recall:.3f} | {it.precision:.3f} | {it.position:.3f} | {it.intensity:+.3f} "
            f"| {it.intensity_rms:.3f} | {it.n_frames} |"
        )
    return lines


PAGE_HEAD = """# Accuracy of the peak search

Made by `python benchmarks/peaks.py --write-docs` with the environments of the other programs; the README in
[benchmarks](../../benchmarks/README.md) says how. Every program searches the same simulated frames: 2048 x 2048 pixels
of 16 bits, a dark of 100 counts with a fixed pattern and hot pixels, read noise of 3 counts, a background of 3 to 15
counts with weak rings, a beam stop, dead pixels, five single-pixel hits a frame, and spots on 16 rings (elliptical
pseudo-Voigts with sigma 1 to 3 px, Gaussian in omega, log-normal heights with a median of 600 counts, Poisson noise).
Lit pixels are more than 25 counts, five sigma of the noise, above the true dark; groups of fewer than three are
dropped.

* **recall**: part of the spots higher than 50 counts in the frame that were found, one to one, within 2.5 px.
* **precision**: part of the peaks that are a spot of the frame, one higher than 10 counts.
* **position**: root mean square of the distance between peak and spot, for spots without a neighbour within 14 px.
* **intensity**: sum / truth - 1 for these spots, median and root mean square. The tails below the cut are missing, the
  background that the dark does not hold is in it. Without a fit, midas-peakfit gives the height of the maximum instead.

The row noise-adaptive takes pixels five standard deviations above their surroundings instead, and its sums are above
these. "Integer dark" has the dark rounded to whole counts. Slow programs searched fewer frames, the first ones, so that
their figures scatter more.

The threshold is low on purpose: noise on a spot's shoulder then makes maxima of its own, which smoothing removes. On
brighter and better separated spots the rows lie closer together.
"""


def page(densities: Sequence[Density]) -> str:
    tables = ["\n".join([f"## {each.n_spots} spots a frame", "", *accuracy_table(each), ""]) for each in densities]
    return "\n".join([PAGE_HEAD, *tables])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a program to compare with")
    parser.add_argument("--frames", type=int, default=20, help="frames of each density")
    parser.add_argument("--rounds", type=int, default=7, help="turns of which medians are taken")
    parser.add_argument("--spots", type=int, nargs="+", default=[50, 500, 3000], help="spots of a frame")
    parser.add_argument("--same-labels", action="store_true", help="compare the labels with ImageD11's, nothing else")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE.relative_to(HERE.parent)}")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        print(memory_of(given.memory_of, given.folder))
        return
    peers = {name: Peer(name, python) for name, _, python in (each.partition("=") for each in given.peer)}
    densities: list[Density] = []
    for n_spots in given.spots:
        scan = simulate(n_spots, n_frames=given.frames)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if given.same_labels:
                print("\n".join(f"{n_spots} spots, {line}" for line in same_labels(scan, folder, peers["imaged11"])))
                continue
            scan.save(folder)
            densities.append(measure(scan, folder, n_spots, list(peers.values()), given.rounds))
            print("\n".join([f"\n{n_spots} spots\n", *accuracy_table(densities[-1])]), flush=True)
    for peer in peers.values():
        peer.close()
    if densities:
        print("\n".join(["", *speed_table(densities), "", *verdicts(densities)]))
    if given.write_docs:
        PAGE.write_text(page(densities), encoding="utf-8")


if __name__ == "__main__":
    main()

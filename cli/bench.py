"""`hedmlive bench`: how many frames a second this machine reduces, stage by stage, beside the memory's own speed."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import h5py
import hdf5plugin  # noqa: F401  # pyright: ignore[reportUnusedImport]  # HDF5 finds its filters
import numpy as np
from numba import njit
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ..callbacks.chunks import CompressedFrames, is_compressed
from ..streaming import (
    ArchiveError,
    Background,
    CompressedImage,
    Corrections,
    Finder,
    Frame,
    Linker,
    PeakFinder,
    PeaksOfFrame,
    Position,
    Recipe,
    Reducer,
    SettingsError,
    Tracker,
    finder_for,
)
from .display import console, error_console

Array = NDArray[Any]
Given = ParamSpec("Given")
T = TypeVar("T")

DTYPES = ("uint8", "uint16", "uint32", "int32", "float32")
LEAST_SIZE = 16  # px: a simulated spot and its surroundings
_BACKGROUND, _NOISE, _HEIGHT = 100.0, 5.0, 2000.0
_SIMULATED = Recipe(background_level=_BACKGROUND, threshold=60, min_pixels=2)
_STEP = 0.25  # degrees
_WHOLE, _WHOLE_FROM_FILE = "whole reducer", "reading and whole reducer"
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is measured."""

    frames: tuple[Frame, ...]
    "Frames in memory."
    recipe: Recipe
    "How they are reduced."
    dark: Array | None = None
    "Mean dark, counts, shape (rows, columns), if the recipe wants one."
    read: Callable[[int], Array | CompressedImage] | None = None
    "Reads one of the frames from its file again, as it lies there if that is how a run's frames are read."
    compression: str = ""
    "How the file holds its frames."


@dataclass(slots=True)
class Measurement:
    """Seconds a frame of each stage, in the order in which they were first measured."""

    scene: Scene
    "What is measured."
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    "By stage; one number for each frame and round."
    n_peaks: int = 0
    "Peaks of all frames."

    def median(self, stage: str) -> float:
        """Return the median of a stage, seconds a frame."""
        return statistics.median(self.seconds[stage])

    def run(self, n_threads: int) -> None:
        """Take every frame through every stage once.

        The comparison, the stages one after the other, and the whole each go over all frames before the next begins: a
        frame that was read just before would lie in the processor's cache. What a stage gives is dropped as soon as the
        next has seen it, as in a run.
        """
        scene = self.scene
        frames, recipe = scene.frames, scene.recipe
        cut = whole_cut(frames[0].image, recipe, scene.dark)
        for frame in frames:
            self._timed("compare only", compare_only, np.asarray(frame.image), cut)
        if scene.read is not None:
            for number in range(len(frames)):
                self._timed(f"reading ({scene.compression})", lambda n, read=scene.read: _dense(read(n)), number)
        background, finder = Background(recipe, dark=scene.dark), PeakFinder(recipe)
        linker = Linker(recipe)
        tracker = Tracker(recipe, linker.trajectory)
        self.n_peaks = 0
        for frame in frames:
            position = Position.of(frame)
            lit = self._timed("lit pixels", background.push, frame.image)
            found = self._timed("peaks", finder.push, frame.frame, frame.omega, lit)
            links = self._timed("links", linker.push, position, found)
            self._timed("tracks", tracker.push, position, found, links)
            self.n_peaks += len(found.peaks["peak"])
        whole = Reducer(recipe, corrections=Corrections(dark=scene.dark))
        for frame in frames:
            if scene.read is None:
                self._timed(_WHOLE, whole.push, frame)
            else:
                self._timed(
                    _WHOLE_FROM_FILE, lambda f, read=scene.read: whole.push(replace(f, image=read(f.frame))), frame
                )
        what = "finding peaks" if scene.read is None else "reading and finding"
        self.seconds.setdefault(f"{what}, threads: {n_threads}", []).append(
            in_threads(frames, n_threads, lambda: search(recipe, scene.dark, read=scene.read))
        )

    def _timed(self, stage: str, work: Callable[Given, T], *given: Given.args, **named: Given.kwargs) -> T:
        start = time.perf_counter()
        result = work(*given, **named)
        self.seconds.setdefault(stage, []).append(time.perf_counter() - start)
        return result


@njit(nogil=True, cache=True)
def compare_only(raw: Array, cut: Array) -> int:
    """Count the pixels above a cut of their own, and do nothing else: what reading a frame costs at least."""
    a, b = raw.ravel(), cut.ravel()
    n = 0
    whole = len(a) // 64 * 64
    for start in range(0, whole, 64):
        # Booleans, joined without a branch: the compiler makes a few wide instructions of 64 pixels.
        lit = False
        for i in range(start, start + 64):
            lit |= a[i] > b[i]
        if lit:
            for i in range(start, start + 64):
                n += a[i] > b[i]
    for i in range(whole, len(a)):
        n += a[i] > b[i]
    return n


def whole_cut(image: Any, recipe: Recipe, dark: Array | None) -> Array:
    """Return ``background + threshold`` in the frame's own type, shape (rows, columns), for `compare_only`."""
    level = np.broadcast_to(recipe.background_level if dark is None else dark, image.shape) + recipe.threshold
    if image.dtype.kind == "f":
        return level.astype(image.dtype)
    info = np.iinfo(image.dtype)
    # float(info.max) may round up to a number that the type does not hold.
    full = level >= float(info.max)
    return np.where(full, info.max, np.floor(np.where(full, 0, level)).astype(image.dtype)).astype(image.dtype)


def search(
    recipe: Recipe,
    dark: Array | None = None,
    mask: Array | None = None,
    *,
    read: Callable[[int], Array | CompressedImage] | None = None,
) -> Callable[[Frame], PeaksOfFrame]:
    """Return what finds the peaks of a frame, by the recipe's finder, and may read its image again before.

    Each thread needs its own.
    """
    make = finder_for(recipe, flat=False)
    finders: list[Finder] = []

    def find(frame: Frame) -> PeaksOfFrame:
        if not finders:
            rows, cols = frame.image.shape
            finders.append(make(recipe, Corrections(dark=dark, mask=mask).prepared((rows, cols))))
        if read is None:
            return finders[0].push(frame)
        image = read(frame.frame)
        return finders[0].push(
            replace(frame, image=image if getattr(finders[0], "takes_compressed", False) else _dense(image))
        )

    return find


def in_threads(frames: Sequence[Frame], n_threads: int, make: Callable[[], Callable[[Frame], object]]) -> float:
    """Return the seconds a frame when threads share the frames among them, each with a search of its own."""
    searches = [make() for _ in range(n_threads)]
    for each in searches:
        each(frames[0])

    def work(number: int) -> None:
        for frame in frames[number::n_threads]:
            searches[number](frame)

    with ThreadPoolExecutor(n_threads) as pool:
        # Starting the threads is no part of it.
        list(pool.map(time.sleep, [0.0] * n_threads))
        start = time.perf_counter()
        list(pool.map(work, range(n_threads)))
        return (time.perf_counter() - start) / len(frames)


# ---------------------------------------------------------------- what is measured


def simulate(shape: tuple[int, int], dtype: str, n_spots: int, n_frames: int) -> Scene:
    """Return frames of 7 x 7 px spots that last three frames, on a background of 100 counts with noise.

    Raises
    ------
    SettingsError
        The shape is too small for a spot, or frames of this type are not simulated.
    """
    if min(shape) < LEAST_SIZE:
        raise SettingsError(f"--shape is {shape[0]} {shape[1]}; wanted rows and columns, each {LEAST_SIZE} or more")
    if dtype not in DTYPES:
        raise SettingsError(f"--dtype is {dtype}; wanted {', '.join(DTYPES)}")
    rng = np.random.default_rng(n_spots)
    noise = rng.normal(_BACKGROUND, _NOISE, shape).clip(0)
    grid = np.arange(7) - 3
    spot = np.rint(_HEIGHT * np.exp(-(grid[:, None] ** 2 + grid**2) / 4.0))
    full_scale = 2.0**24 if dtype == "float32" else float(np.iinfo(dtype).max)
    scans = range(-2, n_frames)
    # A third of the spots begins in each frame; what is left over begins in the first ones of each three.
    places = [rng.integers(4, np.array(shape) - 4, ((n_spots + first % 3) // 3, 2)) for first in scans]
    images: list[Array] = []
    for number in range(n_frames):
        image = np.roll(noise, number, axis=1)
        for row, col in np.concatenate(places[number : number + 3]):
            image[row - 3 : row + 4, col - 3 : col + 4] += spot
        images.append(image.clip(0, full_scale).astype(dtype))
    return Scene(frames=_frames(images), recipe=_SIMULATED)


def open_scene(stack: ExitStack, path: Path, dataset: str, n_frames: int, threshold: float | None) -> Scene:
    """Return the first frames of an HDF5 file; the background is their median, pixel by pixel.

    Raises
    ------
    SettingsError
        There is no such dataset, it holds no frames, or no threshold was given.
    ArchiveError
        The file cannot be read.
    """
    if threshold is None:
        raise SettingsError("no threshold: give --threshold in counts with --file")
    if not path.is_file():
        raise ArchiveError(f"{path}: no such file; wanted an HDF5 file with frames")
    try:
        found: Any = stack.enter_context(h5py.File(path, "r")).get(dataset)
    except OSError:
        raise ArchiveError(f"{path}: not an HDF5 file; wanted one with frames") from None
    if not isinstance(found, h5py.Dataset) or found.ndim != 3 or 0 in found.shape:
        got = "nothing" if found is None else f"shape {found.shape}" if isinstance(found, h5py.Dataset) else "a group"
        raise SettingsError(f"--dataset {dataset}: is {got} in {path}; wanted frames, shape (n, rows, columns)")
    images = [found[i] for i in range(min(n_frames, len(found)))]
    return Scene(
        frames=_frames(images),
        recipe=Recipe(background="dark", threshold=threshold),
        dark=np.median(np.stack(images[:9]), axis=0),
        read=reader(found),
        compression=_compression(found),
    )


def _frames(images: list[Array]) -> tuple[Frame, ...]:
    return tuple(
        Frame(frame=k, point=k, image=image, omega_start=_STEP * k, omega_end=_STEP * (k + 1))
        for k, image in enumerate(images)
    )


def _dense(image: Array | CompressedImage) -> Array:
    return image.dense() if isinstance(image, CompressedImage) else image


def reader(data: h5py.Dataset) -> Callable[[int], Array | CompressedImage]:
    """Return what reads one frame, the way that a run's frames are read."""
    if not is_compressed(data):
        return lambda number: data[number]
    packed = CompressedFrames(data)

    def read(number: int) -> Array | CompressedImage:
        image = packed.read(number)
        return data[number] if image is None else image

    return read


def _compression(data: h5py.Dataset) -> str:
    if is_compressed(data):
        return "bitshuffle-lz4"
    n_filters = data.id.get_create_plist().get_nfilters()
    return str(data.compression or "compressed") if n_filters else "not compressed"


# ---------------------------------------------------------------- what people see


def run_bench(scene: Scene, n_threads: int) -> None:
    """Measure, and print a table and the rate that this machine keeps up with."""
    measured = Measurement(scene)
    Reducer.warm(scene.frames[0].image.dtype)
    compare_only(np.zeros((1, 1), scene.frames[0].image.dtype), np.zeros((1, 1), scene.frames[0].image.dtype))
    columns = (TextColumn("measuring"), BarColumn())
    with Progress(*columns, console=error_console, transient=True, disable=not error_console.is_terminal) as bar:
        for _ in bar.track(range(_ROUNDS)):
            measured.run(n_threads)
    console.print(_table(measured))
    console.print(_verdict(measured))


def _table(measured: Measurement) -> Table:
    frames = measured.scene.frames
    image = frames[0].image
    size = f"{image.shape[0]} x {image.shape[1]} {image.dtype}"
    table = Table(title=f"{size}, {measured.n_peaks / len(frames):.0f} peaks a frame, {len(frames)} frames")
    for name in ("stage", "ms a frame", "frames/s", "x compare only"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    base = measured.median("compare only")
    for stage in measured.seconds:
        median = measured.median(stage)
        table.add_row(stage, f"{1e3 * median:.3g}", f"{1 / median:.0f}", f"{median / base:.2f}")
    return table


def _verdict(measured: Measurement) -> str:
    stage = _WHOLE if _WHOLE in measured.seconds else _WHOLE_FROM_FILE
    total = measured.median(stage)
    what = "reducing takes" if stage == _WHOLE else "reading and reducing take"
    return f"keeps up with {1 / total:.0f} frames/s: {what} {1e3 * total:.3g} ms a frame"

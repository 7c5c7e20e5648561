"""Peaks: 8-connected groups of lit pixels, with their moments."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import peak_kernels
from .background import LitPixels, take_kept
from .errors import SettingsError
from .fitting import FitRecipe, Surroundings, fit_peaks
from .recipe import Recipe, is_number
from .tables import PEAKS, PIXELS, Columns, tables_with_roles
from .vectors import LANES, WIDE

_MOST_KEPT = 1 << 19
"Pixels of room that is kept: memory does not stay as large as the worst frame made it."
_MOMENTS = ("sum_intensity", "max_intensity", "row", "col", "var_row", "var_col", "cov_row_col")
_PLACES = ("row_max", "col_max", "row_min", "row_end", "col_min", "col_end")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeaksOfFrame:
    """What was found in one frame."""

    frame: int
    "Number of the frame."
    peaks: Columns
    "Rows of the table `peaks`, by peak."
    pixels: Columns
    "Rows of the table `pixels`, in raster order."
    n_lit: int
    "Lit pixels, those of dropped groups too."
    n_dropped: int
    "Groups below `min_pixels`."
    n_saturated: int
    "Lit pixels at or above full scale; -1 if full scale is not known."
    max_intensity: float = 0.0
    "Largest intensity of a lit pixel, counts; 0 if none is lit."
    background_level: float = math.nan
    "Mean of the background over the valid pixels, counts."
    runs: np.ndarray | None = None
    "Row, first column, end and peak of each run of pixels of one peak, int32, shape (4, runs), if the finder has them."


class PeakFinder:
    """Makes peaks of lit pixels: groups, their parts if they are split, and moments.

    No number is kept between frames, only room to work in, and several threads may push at the same time.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._table = tables_with_roles({}, fit=recipe.fit != "none")[PEAKS.name]
        self._fit = None if recipe.fit == "none" else _Fit(recipe)
        # One for each thread that is at work; taking from a list and adding to it needs no lock.
        self._rooms: list[_Room] = []

    def push(
        self,
        frame: int,
        omega: float,
        lit: LitPixels,
        *,
        edge: np.ndarray | None = None,
        beside_mask: np.ndarray | None = None,
        level: float = math.nan,
        surroundings: Surroundings | None = None,
    ) -> PeaksOfFrame:
        """Return the peaks of one frame.

        Parameters
        ----------
        frame
            Number of the frame.
        omega
            Rotation at its middle, degrees; NaN if it never came.
        lit
            Its lit pixels, of intensity above 0.
        edge
            Whether a pixel is on the border of its panel, shape (rows, columns); none if the frame's border is it.
        beside_mask
            Whether a pixel has a masked neighbour, shape (rows, columns); none if no pixel is masked.
        level
            Mean of the background, counts, to be passed on.
        surroundings
            The whole frame, for fits; without it only the lit pixels are fitted.
        """
        room = (take_kept(self._rooms) or _Room(0)).for_pixels(len(lit.row))
        found = self._push(frame, omega, lit, room, edge, beside_mask, level, surroundings)
        if room.capacity <= _MOST_KEPT:
            self._rooms.append(room)
        return found

    def _push(
        self,
        frame: int,
        omega: float,
        lit: LitPixels,
        room: "_Room",
        edge: np.ndarray | None,
        beside_mask: np.ndarray | None,
        level: float,
        surroundings: Surroundings | None,
    ) -> PeaksOfFrame:
        n, runs = len(lit.row), lit.runs
        if runs is None:
            runs = room.runs
            n_runs = peak_kernels.runs_of_pixels(lit.row, lit.col, runs)
        else:
            n_runs = runs.shape[1] - 1
        made = (room.group, room.size, room.maxima, room.near)
        found = peak_kernels.groups(lit.intensity, runs, n_runs, *made)
        least, number = self._recipe.min_pixels, room.number
        kept = peak_kernels.number_groups(room.group, n_runs, room.size, found, least, room.numbers, number)
        stretch, label, n_stretches, n_peaks = runs, number, n_runs, kept
        if self._recipe.split != "none":
            top = self._tops(lit, room, runs, n_runs, found)
            stretch, label = room.stretch, room.label
            n_stretches, n_peaks = peak_kernels.number_tops(top, runs, n_runs, number, room.seen, stretch, label)
        columns = _peaks(frame, omega, lit, (runs, room.maxima, stretch, label, n_stretches), n_peaks)
        all_saturated, columns["n_saturated"] = -1, np.full(n_peaks, -1, np.int32)
        if self._recipe.saturation is not None:
            full_scale, counts = float(self._recipe.saturation), np.zeros(n_peaks, np.int32)
            all_saturated = peak_kernels.count_reaching(lit.raw, full_scale, stretch, label, n_stretches, counts)
            columns["n_saturated"] = counts
        columns["on_mask"] = np.zeros(n_peaks, np.bool_)
        for name, marks in (("on_edge", edge), ("on_mask", beside_mask)):
            if marks is not None:
                columns[name] = np.zeros(n_peaks, np.bool_)
                peak_kernels.mark_labels(marks.view(np.uint8), stretch, label, n_stretches, columns[name])
        if self._fit is not None:
            group = np.repeat(room.group[:n_runs], np.diff(runs[2, : n_runs + 1]))
            labels = np.repeat(label[:n_stretches], np.diff(stretch[2, : n_stretches + 1]))
            columns |= self._fit.push(lit, group, labels, n_peaks, surroundings)
        pixels, runs = _pixels(frame, lit.raw, stretch, label, n_stretches)
        return PeaksOfFrame(
            frame=frame,
            peaks=self._table.batch(columns),
            pixels=pixels,
            runs=runs,
            n_lit=n,
            n_dropped=found - kept,
            n_saturated=all_saturated,
            max_intensity=float(lit.intensity.max()) if n else 0.0,
            background_level=level,
        )

    def _tops(self, lit: LitPixels, room: "_Room", runs: np.ndarray, n_runs: int, found: int) -> np.ndarray:
        """Return the pixel whose part each pixel belongs to."""
        row, col, weight, top = lit.row, lit.col, lit.intensity, room.top
        near = (runs, n_runs, room.near)
        if self._recipe.split == "regional-maximum":
            is_top = np.empty(len(row), np.bool_)
            peak_kernels.flat_tops(weight, *near, is_top)
            group = np.repeat(room.group[:n_runs], np.diff(runs[2, : n_runs + 1]))
            limit, start = self._recipe.max_maxima, np.empty(found + 1, np.int64)
            order = np.empty(len(row), np.int64)
            peak_kernels.nearest_maximum(row, col, weight, group, room.size[:found], is_top, limit, start, order, top)
        elif self._recipe.smooth:
            single = room.single[: len(row)]
            single[:] = weight
            peak_kernels.smooth(single, *near, room.smoothed)
            peak_kernels.climb(room.smoothed[: len(row)], *near, room.single_best, top)
            peak_kernels.settle(top, len(row))
        else:
            peak_kernels.climb(weight, *near, room.best, top)
            peak_kernels.settle(top, len(row))
        return top[: len(row)]


class _Room:
    """Memory to work in, kept from frame to frame: asking the system for more costs more than what is written there."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # The kernels write whole vectors.
        size = capacity + WIDE
        self.runs, self.stretch = np.empty((2, 3, size), np.int32)
        self.group, self.size = np.empty((2, size), np.int32)
        self.maxima, self.near = np.empty(size + size // 64, np.int64), np.empty((4, size), np.int32)
        self.top, self.seen, self.label = np.empty((3, size), np.int32)
        self.number, self.numbers = np.empty((2, size), np.int32)
        self.single, self.smoothed, self.single_best = np.empty((3, size), np.float32)
        self.best = np.empty(size)

    def for_pixels(self, n: int) -> "_Room":
        """Return room for n pixels."""
        return self if n <= self.capacity else _Room(n + n // 2)


class _Fit:
    """Fits the peaks of a frame as a recipe says."""

    def __init__(self, recipe: Recipe) -> None:
        options = dict(recipe.fit_options)
        centre: Any = options.pop("beam_centre", None)
        if not isinstance(centre, list | tuple) or len(centre) != 2 or not all(map(is_number, centre)):
            raise SettingsError(f"recipe: fit_options: beam_centre is {centre!r}; wanted [row, column] of the beam")
        known = sorted(each.name for each in fields(FitRecipe))
        if not set(options) <= set(known):
            raise SettingsError(
                f"recipe: fit_options: {sorted(set(options) - set(known))} are unknown; known are {known}"
            )
        if not all(map(is_number, options.values())):
            raise SettingsError(f"recipe: fit_options are {options}; wanted numbers")
        self._recipe, self._saturation = FitRecipe(**options), recipe.saturation
        self._centre = (float(centre[0]), float(centre[1]))

    def push(
        self, lit: LitPixels, group: np.ndarray, peak: np.ndarray, n_peaks: int, surroundings: Surroundings | None
    ) -> Columns:
        """Return the columns of the fit, by peak."""
        saturated = None if self._saturation is None else lit.raw >= np.float64(self._saturation)
        return fit_peaks(
            lit.row,
            lit.col,
            lit.intensity,
            group,
            peak,
            n_peaks,
            beam_centre=self._centre,
            saturated=saturated,
            surroundings=surroundings,
            recipe=self._recipe,
        )


def _pixels(
    frame: int, raw: np.ndarray, stretch: np.ndarray, label: np.ndarray, n_stretches: int
) -> tuple[Columns, np.ndarray]:
    """Return the rows of the table `pixels`, and `PeaksOfFrame.runs`."""
    # The kernel writes whole vectors.
    room = len(raw) + WIDE
    peak, row, col = np.empty((3, room), np.int32)
    value, runs = np.empty(room, np.float64), np.empty((4, n_stretches), np.int32)
    n_runs, n = peak_kernels.list_peaks(raw, stretch, label, n_stretches, peak, row, col, value, runs)
    columns = {"peak": peak[:n], "row": row[:n], "col": col[:n], "intensity": value[:n]}
    return PIXELS.batch({"frame": np.full(n, frame), **columns}), runs[:, :n_runs]


def _peaks(frame: int, omega: float, lit: LitPixels, found: tuple[Any, Any, Any, Any, int], n: int) -> Columns:
    """Return the columns of n peaks; found is what `measure_peaks` takes from the runs to the stretches."""
    sums, box, counts = np.empty((n, LANES)), np.empty((n, 8), np.int32), np.zeros((2, n), np.int32)
    moments, places, edge = np.empty((7, n)), np.empty((6, n), np.int32), np.empty(n, np.bool_)
    peak_kernels.measure_peaks(lit.intensity, *found, lit.shape, sums, box, counts, moments, places, edge)
    return {
        "frame": np.full(n, frame),
        "peak": np.arange(n),
        **dict(zip(_MOMENTS, moments, strict=True)),
        **dict(zip(_PLACES, places, strict=True)),
        "n_pixels": counts[0],
        "n_maxima": counts[1],
        "on_edge": edge,
        "omega": np.full(n, omega),
    }

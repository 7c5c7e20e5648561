"""MIDAS's peak search and pseudo-Voigt fit (the package midas-peakfit) as a peak finder of hedmlive.

Put this file into a package of your own that registers it, as docs/how-to/own-peak-finder.md shows:

    [project.entry-points."hedmlive.peak_finders"]
    midas-peakfit = "midas_peak_finder:MidasPeakFinder"

Then a recipe chooses it:

    recipe: {finder: midas-peakfit, finder_options: {beam_centre: [1023.5, 1020.1]}, background: dark, threshold: 25}

Regions, maxima and the fit are MIDAS's. A region's pixels go to the nearest of its maxima, so that peaks can be linked
by the pixels that they share; centre and sum of a peak are those of its fit, all else is that of its pixels. A region
that is saturated is not fitted: its peak has the centre and the sum of its pixels.
"""

from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from midas_peakfit.connected import (  # pyright: ignore[reportMissingImports]
    filter_regions_by_size,
    find_regions,
)
from midas_peakfit.fit import fit_regions  # pyright: ignore[reportMissingImports]
from midas_peakfit.lm import LMConfig  # pyright: ignore[reportMissingImports]
from midas_peakfit.params import MAX_OVERLAPS_PER_IMAGE  # pyright: ignore[reportMissingImports]
from midas_peakfit.seeds import seed_region  # pyright: ignore[reportMissingImports]

from hedmlive.streaming import TABLES, Frame, FrameError, PeaksOfFrame, Prepared, Recipe, SettingsError, SparseImage


class MidasPeakFinder:
    """Regions at or above the threshold, split at their maxima and fitted in (radius, eta) about the beam's centre.

    Option: `beam_centre`, row and column. Of the recipe it takes background ``constant`` or ``dark``, `threshold`,
    `min_pixels`, `max_maxima`, `saturation` and `sentinels`.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        centre: Any = recipe.finder_options.get("beam_centre")
        wanted = (
            (set(recipe.finder_options) == {"beam_centre"}, "exactly one option, beam_centre"),
            (isinstance(centre, list | tuple) and len(centre) == 2, "beam_centre: [row, column]"),
            (recipe.threshold > 0, "a threshold above 0"),
            (recipe.background != "running-median", "another background than running-median"),
            (recipe.split == "none", "split: none, as it splits itself"),
        )
        for good, want in wanted:
            if not good:
                raise SettingsError(f"recipe: finder 'midas-peakfit' wants {want}")
        self._recipe, self._prepared = recipe, prepared
        self._centre = (float(centre[0]), float(centre[1]))
        self._full_scale = np.inf if recipe.saturation is None else recipe.saturation
        # With more threads the order of sums, and so the last bit, is not fixed.
        torch.set_num_threads(1)

    def push(self, frame: Frame) -> PeaksOfFrame:
        """Return the peaks of one frame."""
        raw = frame.image.dense() if isinstance(frame.image, SparseImage) else np.asarray(frame.image)
        if raw.shape != self._prepared.shape:
            raise FrameError(f"the image has shape {raw.shape}; wanted {self._prepared.shape}")
        above = self._above(raw)
        all_regions = find_regions(above, np.full(above.shape, self._recipe.threshold))
        if len(all_regions) >= MAX_OVERLAPS_PER_IMAGE:
            raise FrameError(f"midas-peakfit holds {MAX_OVERLAPS_PER_IMAGE} regions a frame; raise the threshold")
        regions = filter_regions_by_size(all_regions, self._recipe.min_pixels - 1, above.size + 1)
        row, col, peak, fits = self._split_and_fitted(raw, above, regions)
        lit = above > 0
        return PeaksOfFrame(
            frame=frame.frame,
            peaks=self._peaks(frame, raw, above, _Pixels(row, col, peak), fits),
            pixels=TABLES["pixels"].batch(
                {
                    "frame": np.full(len(row), frame.frame),
                    "peak": peak,
                    "row": row,
                    "col": col,
                    "intensity": raw[row, col],
                }
            ),
            n_lit=int(lit.sum()),
            n_dropped=len(all_regions) - len(regions),
            n_saturated=-1 if self._recipe.saturation is None else int((raw[lit] >= self._full_scale).sum()),
            max_intensity=float(above.max()),
            background_level=self._recipe.background_level if self._prepared.dark is None else self._prepared.level,
        )

    def _above(self, raw: np.ndarray) -> np.ndarray:
        """Return counts above the background where they reach the threshold, else 0, as MIDAS has them."""
        prepared = self._prepared
        counts = np.isfinite(raw) & ~np.isin(raw, self._recipe.sentinels)
        if prepared.invalid is not None:
            counts &= ~prepared.invalid
        background = self._recipe.background_level if prepared.dark is None else prepared.dark
        above = np.where(counts, raw, 0).astype(np.float64) - background
        if prepared.flat is not None:
            above /= prepared.flat
        return np.where(counts & (above >= self._recipe.threshold), above, 0.0)

    def _split_and_fitted(
        self, raw: np.ndarray, above: np.ndarray, regions: list[Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return row, column and peak of each pixel in raster order; and (row, column, sum) of each peak's fit."""
        unmasked = np.zeros((0, 0))
        seeded: dict[int, Any] = {}
        for region in regions:
            if not (raw[region.pixel_rows, region.pixel_cols] >= self._full_scale).any():
                # MIDAS calls the first axis of an image Y and the second Z.
                seeded[region.id] = seed_region(
                    region,
                    above,
                    unmasked,
                    Ycen=self._centre[0],
                    Zcen=self._centre[1],
                    int_sat=np.inf,
                    max_n_peaks=self._recipe.max_maxima,
                    panels=[],
                )
        fitted, _ = fit_regions(
            list(seeded.values()),
            omega=0.0,
            Ycen=self._centre[0],
            Zcen=self._centre[1],
            do_peak_fit=1,
            local_maxima_only=0,
            device=torch.device("cpu"),
            dtype=torch.float64,
            lm_config=LMConfig(matmul_precision="fp64"),
        )
        fit_of = {each.region_id: each.rows[:, [3, 4, 1]] for each in fitted}
        parts, fits, n = [], [np.empty((0, 3))], 0
        for region in regions:
            part = np.zeros(len(region.pixel_rows), np.int64)
            seed = seeded.get(region.id)
            if seed is not None:
                away = np.hypot(
                    region.pixel_rows[:, None] - seed.maxY[None, :], region.pixel_cols[:, None] - seed.maxZ[None, :]
                )
                part = away.argmin(axis=1)
            fits.append(fit_of.get(region.id, np.full((1, 3), np.nan)))
            parts.append(part + n)
            n += len(fits[-1])
        if not parts:
            empty = np.empty(0, np.int64)
            return empty, empty, empty, fits[0]
        row, col, peak = (
            np.concatenate([each.pixel_rows for each in regions]),
            np.concatenate([each.pixel_cols for each in regions]),
            np.concatenate(parts),
        )
        raster = np.lexsort((col, row))
        row, col, peak = row[raster], col[raster], peak[raster]
        # Peaks are numbered in raster order of their first pixel.
        old, first = np.unique(peak, return_index=True)
        old = old[np.argsort(first)]
        number = np.empty(n, np.int64)
        number[old] = np.arange(len(old))
        return row, col, number[peak], np.concatenate(fits)[old]

    def _peaks(
        self, frame: Frame, raw: np.ndarray, above: np.ndarray, pixels: "_Pixels", fits: np.ndarray
    ) -> dict[str, np.ndarray]:
        row, col, peak = pixels
        n, weight = len(fits), above[row, col]
        total = np.bincount(peak, weight, n)
        mean_row, mean_col = np.bincount(peak, weight * row, n) / total, np.bincount(peak, weight * col, n) / total
        d_row, d_col = row - mean_row[peak], col - mean_col[peak]
        # The brightest pixel of each peak, of equals the first: sorted by peak, then by falling intensity.
        order = np.lexsort((-weight, peak))
        first = np.searchsorted(peak[order], np.arange(n))
        brightest = order[first]
        edge = self._prepared.edge
        if edge is None:
            edge = np.zeros(above.shape, np.bool_)
            edge[[0, -1]] = edge[:, [0, -1]] = True
        saturated = np.bincount(peak, raw[row, col] >= self._full_scale, n)
        good = np.isfinite(fits).all(axis=1) & (fits[:, 2] > 0)
        return TABLES["peaks"].batch(
            {
                "frame": np.full(n, frame.frame),
                "peak": np.arange(n),
                "n_pixels": np.bincount(peak, minlength=n),
                "sum_intensity": np.where(good, fits[:, 2], total),
                "max_intensity": weight[brightest],
                "row": np.where(good, fits[:, 0], mean_row),
                "col": np.where(good, fits[:, 1], mean_col),
                "row_max": row[brightest],
                "col_max": col[brightest],
                "var_row": np.bincount(peak, weight * d_row**2, n) / total,
                "var_col": np.bincount(peak, weight * d_col**2, n) / total,
                "cov_row_col": np.bincount(peak, weight * d_row * d_col, n) / total,
                "row_min": np.minimum.reduceat(row[order], first),
                "row_end": np.maximum.reduceat(row[order], first) + 1,
                "col_min": np.minimum.reduceat(col[order], first),
                "col_end": np.maximum.reduceat(col[order], first) + 1,
                "n_maxima": np.ones(n),
                "n_saturated": np.full(n, -1) if self._recipe.saturation is None else saturated,
                "on_edge": np.bincount(peak, edge[row, col], n) > 0,
                "omega": np.full(n, frame.omega),
                # It takes no mask.
                "on_mask": np.zeros(n, np.bool_),
            }
        )


class _Pixels(NamedTuple):
    row: np.ndarray
    col: np.ndarray
    peak: np.ndarray

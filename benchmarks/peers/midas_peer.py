"""midas-peakfit: the work its orchestrator does with one frame, with the fit and without."""

from functools import partial
from typing import Any

import numpy as np
import serving
import torch  # pyright: ignore[reportMissingImports]
from midas_peakfit import preprocess  # pyright: ignore[reportMissingImports]
from midas_peakfit.connected import filter_regions_by_size, find_regions  # pyright: ignore[reportMissingImports]
from midas_peakfit.fit import fit_regions  # pyright: ignore[reportMissingImports]
from midas_peakfit.lm import LMConfig  # pyright: ignore[reportMissingImports]
from midas_peakfit.seeds import seed_region  # pyright: ignore[reportMissingImports]

Array = Any
torch.set_num_threads(1)


def regions_of(dark: Array, mask: Array) -> Any:
    """Return what makes regions of an image, in the transposed frame: row is Y (our column), column is Z (our row)."""
    size = len(dark)
    sizes = {"NrPixels": size, "NrPixelsY": size, "NrPixelsZ": size}
    wanted = np.full(dark.shape, serving.THRESHOLD)
    bad = preprocess.prepare_mask(mask.astype(float), size, size, size, [])
    given = {
        "transform_options": [],
        "dark": preprocess.prepare_dark(dark.astype(float), size, size, size, []),
        "flood": np.ones(dark.shape),
        "good_coords": wanted,
        "bc": 1.0,
        "bad_px_intensity": 0.0,
        "make_map": 0,
        "mask": bad,
    }

    def regions(image: Array) -> tuple[Array, Any]:
        corrected = preprocess.apply_threshold(preprocess.correct_frame(image, **sizes, **given), wanted)
        return corrected, filter_regions_by_size(find_regions(corrected, wanted), serving.MIN_PIXELS - 1, 10_000)

    return regions


def means(dark: Array, mask: Array) -> serving.Search:
    """One peak a region: the mean position weighted by intensity, as the program in C gives without a fit."""
    regions = regions_of(dark, mask)

    def search(image: Array) -> serving.Found:
        found = regions(image)[1]
        total = np.array([each.raw_sum for each in found])
        row = np.array([(each.pixel_cols * each.intensities).sum() for each in found]) / total
        col = np.array([(each.pixel_rows * each.intensities).sum() for each in found]) / total
        return row, col, total

    return search


def peaks(dark: Array, mask: Array, *, fit: bool) -> serving.Search:
    """One peak a regional maximum: at its pixel, or fitted."""
    regions = regions_of(dark, mask)
    centre = len(dark) / 2

    def search(image: Array) -> serving.Found:
        corrected, found = regions(image)
        place = {"Ycen": centre, "Zcen": centre}
        seeded = [
            seed_region(each, corrected, None, int_sat=1e9, max_n_peaks=400, panels=[], **place) for each in found
        ]
        outputs, _ = fit_regions(
            seeded,
            omega=0.0,
            do_peak_fit=int(fit),
            local_maxima_only=0,
            device=torch.device("cpu"),
            dtype=torch.float64,
            lm_config=LMConfig(max_iter=100, ftol_rel=1e-5, xtol_rel=1e-5),
            **place,
        )
        rows = np.concatenate([each.rows for each in outputs])
        return rows[:, 4], rows[:, 3], rows[:, 1]

    return search


if __name__ == "__main__":
    serving.serve({"means": means, "maxima": partial(peaks, fit=False), "fit": partial(peaks, fit=True)})

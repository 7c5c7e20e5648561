"""Peaks: 8-connected groups of lit pixels, with their moments."""

from dataclasses import dataclass

import numpy as np

from . import kernels
from .background import LitPixels
from .recipe import Recipe
from .tables import PEAKS, PIXELS, Columns


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


class PeakFinder:
    """Finds the peaks of a frame by `Recipe.min_pixels` and `Recipe.saturation`; it has no state between frames."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def push(self, frame: int, omega: float, lit: LitPixels) -> PeaksOfFrame:
        """Return the peaks of one frame.

        Parameters
        ----------
        frame
            Number of the frame.
        omega
            Rotation at its middle, degrees; NaN if it never came.
        lit
            Its lit pixels.
        """
        n = len(lit.row)
        labels = np.empty(n, np.int32)
        is_maximum = np.empty(n, np.bool_)
        found = kernels.label(lit.row, lit.col, lit.intensity, np.empty(n, np.int32), is_maximum, labels)
        labels, kept = self._drop_small(labels, found)
        saturated = np.zeros(n, np.bool_)
        if self._recipe.saturation is not None:
            saturated = lit.raw >= np.float64(self._recipe.saturation)
        sums = np.zeros((kept, 7))
        box = np.zeros((kept, 8), np.int32)
        counts = np.zeros((kept, 3), np.int32)
        kernels.moments(lit.row, lit.col, lit.intensity, saturated, is_maximum, labels, sums, box, counts)
        if self._recipe.saturation is None:
            counts[:, 2] = -1
        inside = labels >= 0
        return PeaksOfFrame(
            frame=frame,
            peaks=_peaks(frame, omega, lit.shape, sums, box, counts),
            pixels=PIXELS.batch(
                {
                    "frame": np.full(int(inside.sum()), frame),
                    "peak": labels[inside],
                    "row": lit.row[inside],
                    "col": lit.col[inside],
                    "intensity": lit.raw[inside],
                }
            ),
            n_lit=n,
            n_dropped=found - kept,
            n_saturated=-1 if self._recipe.saturation is None else int(saturated.sum()),
        )

    def _drop_small(self, labels: np.ndarray, found: int) -> tuple[np.ndarray, int]:
        """Number the groups that are large enough anew, in the same order; the others get -1."""
        counts = np.zeros(found, np.int32)
        kernels.count_labels(labels, counts)
        keep = counts >= self._recipe.min_pixels
        number = np.where(keep, np.cumsum(keep, dtype=np.int32) - 1, -1).astype(np.int32)
        return number[labels], int(keep.sum())


def _peaks(
    frame: int, omega: float, shape: tuple[int, int], sums: np.ndarray, box: np.ndarray, counts: np.ndarray
) -> Columns:
    n = len(sums)
    total = sums[:, 0]
    row, col = sums[:, 1] / total, sums[:, 2] / total
    edge = (box[:, 2] == 0) | (box[:, 4] == 0) | (box[:, 3] == shape[0] - 1) | (box[:, 5] == shape[1] - 1)
    return PEAKS.batch(
        {
            "frame": np.full(n, frame),
            "peak": np.arange(n),
            "n_pixels": counts[:, 0],
            "sum_intensity": total,
            "max_intensity": sums[:, 6],
            "row": box[:, 0] + row,
            "col": box[:, 1] + col,
            "row_max": box[:, 6],
            "col_max": box[:, 7],
            # Rounding can leave a variance of equal pixels a hair below zero.
            "var_row": np.maximum(sums[:, 3] / total - row * row, 0.0),
            "var_col": np.maximum(sums[:, 4] / total - col * col, 0.0),
            "cov_row_col": sums[:, 5] / total - row * col,
            "row_min": box[:, 2],
            "row_end": box[:, 3] + 1,
            "col_min": box[:, 4],
            "col_end": box[:, 5] + 1,
            "n_maxima": counts[:, 1],
            "n_saturated": counts[:, 2],
            "on_edge": edge,
            "omega": np.full(n, omega),
        }
    )

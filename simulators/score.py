"""How well the tracks of a reduction agree with the truth of a simulated scan."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .crystal import Array
from .truth import Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Tracks beside true spots."""

    n_true: int
    "spots of the truth"
    n_tracks: int
    "tracks of the reduction"
    n_found: int
    "spots with a track of their own"
    n_false: int
    "tracks that are no spot, not even a faint one"
    centroid_error: float
    "median distance of the centroids of what was found [pixels]; NaN if nothing was"
    omega_error: float
    "median difference in omega of what was found [degrees]; NaN if nothing was"

    @property
    def recall(self) -> float:
        """Part of the true spots that were found; NaN if there are none."""
        return self.n_found / self.n_true if self.n_true else float("nan")


def score_tracks(
    tracks: Mapping[str, np.ndarray], truth: Truth, faint: Truth, *, pixels: float = 2.0, degrees: float
) -> Score:
    """Compare tracks with the truth.

    A spot is found when it and a track are each other's nearest, nearer than both tolerances. A track is false when no
    spot of `faint` is that near.

    Parameters
    ----------
    tracks
        Columns `row`, `col` [pixels] and `omega` [degrees] of the table of tracks.
    truth
        The spots that should be found.
    faint
        All spots that may be found, the fainter ones too.
    pixels, degrees
        Tolerances in position and omega.
    """
    scale = np.array([1 / pixels, 1 / pixels, 1 / degrees])
    found, wanted, allowed = (
        np.column_stack([row, col, omega % 360.0]) * scale
        for row, col, omega in (
            (tracks["row"], tracks["col"], tracks["omega"]),
            (truth.row, truth.col, truth.omega),
            (faint.row, faint.col, faint.omega),
        )
    )
    turn = 360.0 / degrees
    there, nearest = _nearest(wanted, found, turn)
    _, back = _nearest(found, wanted, turn)
    mutual = there <= 1.0
    mutual[mutual] &= back[nearest[mutual]] == np.flatnonzero(mutual)
    difference = (wanted[mutual] - found[nearest[mutual]]) / scale
    difference[:, 2] = (difference[:, 2] + 180.0) % 360.0 - 180.0
    return Score(
        n_true=len(wanted),
        n_tracks=len(found),
        n_found=int(mutual.sum()),
        n_false=int((_nearest(found, allowed, turn)[0] > 1.0).sum()),
        centroid_error=_median(np.hypot(difference[:, 0], difference[:, 1])),
        omega_error=_median(np.abs(difference[:, 2])),
    )


def _nearest(points: Array, others: Array, turn: float) -> tuple[Array, np.ndarray]:
    """Return distance and index of the nearest of others; the third axis is a circle of length turn."""
    if not len(points) or not len(others):
        return np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    # A box beyond every pixel, of which only the third side is a circle that matters.
    shift = np.array([-min(points[:, i].min(), others[:, i].min()) for i in (0, 1)] + [0.0])
    side = [2 * max((points + shift)[:, i].max(), (others + shift)[:, i].max()) + 2 for i in (0, 1)]
    distance, index = cKDTree((others + shift) % [*side, turn], boxsize=[*side, turn]).query(
        (points + shift) % [*side, turn]
    )
    return np.asarray(distance), np.asarray(index)


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")

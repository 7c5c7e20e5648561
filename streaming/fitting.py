"""Fits on request, off the live path: two-dimensional pseudo-Voigt profiles, jointly for peaks that touch.

How it works, when it helps and when not: ``docs/explanations/fitting.md``.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from . import fit_kernels, fit_pixels, fit_profile
from .errors import FrameError, SettingsError
from .tables import Columns

_TASKS_PER_THREAD = 8
"Groups differ in size: more tasks than threads, so that none waits for the last."

_Near = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"Row, column, intensity and peak of unlit pixels, shape (n,), and where those of each group begin."


class FitStatus(IntEnum):
    """How the fit of one peak ended."""

    CONVERGED = fit_profile.CONVERGED
    "At the optimum, between all bounds of place, amplitude and width."
    ITERATION_CAP = fit_profile.ITERATION_CAP
    "Out of steps before the optimum; the numbers are those of the last step."
    TOO_FEW_PIXELS = fit_profile.TOO_FEW_PIXELS
    "Fewer usable lit pixels of its own than parameters, or fewer pixels than the joint fit has; not fitted."
    AT_BOUND = fit_profile.AT_BOUND
    "At the optimum, but place, amplitude or width stopped at a bound; mixing and background may without this."
    SINGULAR = fit_profile.SINGULAR
    "The parameters are not determined, or not finite; no numbers."
    TOO_LARGE = fit_profile.TOO_LARGE
    "The group has too many pixels or peaks to be fitted in reasonable time; not fitted."


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The whole frame that the lit pixels came from: tails below the threshold are fitted too."""

    image: np.ndarray
    "Raw counts, shape (rows, columns)."
    background: np.ndarray | float = 0.0
    "What was subtracted from the lit pixels, counts: a number, or shape (rows, columns)."
    flat: np.ndarray | None = None
    "What the intensities were divided by, shape (rows, columns); none if they were not."
    mask: np.ndarray | None = None
    "0 where a pixel is valid, shape (rows, columns)."
    sentinels: tuple[float, ...] = ()
    "Raw counts that are no counts. NaN and infinity never are."


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecipe:
    """Every number that decides a fit.

    Raises
    ------
    SettingsError
        A number is out of its range.
    """

    noise: float = 5.0
    "Standard deviation of a pixel without light, counts."
    gain: float = 1.0
    "Counts a detected photon makes: variance = noise^2 + gain * counts."
    width: int = 2
    "Unlit pixels within so many steps of a lit one are fitted too, where there are `Surroundings`; 0: none."
    most_peaks: int = 4
    "Peaks of one joint fit; neighbours beyond that are held while others are fitted, by turns."
    max_steps: int = 30
    "Steps of one joint fit."

    def __post_init__(self) -> None:
        wanted = (
            ("noise", self.noise > 0 and math.isfinite(self.noise), "a finite number above 0"),
            ("gain", self.gain > 0 and math.isfinite(self.gain), "a finite number above 0"),
            ("width", 0 <= self.width <= 10, "0 ... 10"),
            ("most_peaks", 1 <= self.most_peaks <= 50, "1 ... 50"),
            ("max_steps", self.max_steps >= 1, "1 or more"),
        )
        for name, good, want in wanted:
            if not good:
                raise SettingsError(f"fit: {name} is {getattr(self, name)!r}; wanted {want}")


FIT_COLUMNS = (
    "fit_row",
    "fit_col",
    "fit_amplitude",
    "fit_sigma_radial",
    "fit_sigma_tangential",
    "fit_mixing",
    "fit_background",
    "fit_sum",
    "fit_rms",
    "fit_row_error",
    "fit_col_error",
    "fit_amplitude_error",
)
"""The float64 columns of `fit_peaks`, in the order in which the kernel writes them; ``fit_status`` int16 follows."""


def fit_peaks(
    row: np.ndarray,
    col: np.ndarray,
    intensity: np.ndarray,
    group: np.ndarray,
    peak: np.ndarray,
    n_peaks: int,
    *,
    beam_centre: tuple[float, float],
    saturated: np.ndarray | None = None,
    surroundings: Surroundings | None = None,
    recipe: FitRecipe | None = None,
    threads: int = 1,
) -> Columns:
    """Fit every peak of one frame, jointly with those it touches.

    The numbers of a group depend on its own pixels and surroundings only, so not on threads or batches, to the bit.

    Parameters
    ----------
    row, col
        Lit pixels in raster order, int, shape (n,).
    intensity
        Raw counts minus background, shape (n,); pixels that are not finite are left out.
    group
        Number of the 8-connected group, 0 or more, shape (n,).
    peak
        Number of the peak, 0 ... n_peaks - 1, shape (n,); -1 where the group was dropped. A peak lies in one group.
    n_peaks
        Number of peaks, and of rows that come back.
    beam_centre
        Row and column of the direct beam, px; it need not lie on the detector.
    saturated
        Lit pixels that are left out, bool, shape (n,).
    surroundings
        The frame itself; without it the lit pixels alone are fitted (sparse frames).
    recipe
        Every number that decides; `FitRecipe()` by default.
    threads
        Threads that share the groups.

    Returns
    -------
    Columns
        `FIT_COLUMNS` by peak, float64, NaN where not fitted: centre [px, pixel centres at integers], height [counts],
        widths [px, sigma of the Gaussian part; the Lorentzian part has the same width at half height], share of the
        Lorentzian part (0 ... 1), background under it [counts, beyond what was subtracted], volume of the whole
        profile [counts], root mean square of the residuals of its joint fit [counts], standard deviations of centre
        and height; and ``fit_status``, int16, of `FitStatus`.

    Raises
    ------
    FrameError
        The pixels are not what is wanted above, or lie outside the image.
    SettingsError
        beam_centre or threads is no usable number.
    """
    recipe = FitRecipe() if recipe is None else recipe
    if len(beam_centre) != 2 or not all(math.isfinite(each) for each in beam_centre):
        raise SettingsError(f"fit: beam_centre is {beam_centre!r}; wanted two finite numbers (row, column)")
    if threads < 1:
        raise SettingsError(f"fit: threads is {threads!r}; wanted 1 or more")
    row, col, group, peak = (_labels(*each) for each in (("row", row), ("col", col), ("group", group), ("peak", peak)))
    value = np.ascontiguousarray(intensity, np.float64)
    usable = np.isfinite(value) if saturated is None else np.isfinite(value) & (np.asarray(saturated) == 0)
    lengths = [len(each) for each in (row, col, value, usable, group, peak)]
    if value.ndim != 1 or len(set(lengths)) > 1:
        raise FrameError(f"fit: row, col, intensity, saturated, group, peak have lengths {lengths}; wanted one length")
    group_of_peak = _group_of_peak(group, peak, n_peaks)
    n_groups = int(group.max()) + 1 if len(group) else 0
    order, start = _by_label(np.where(peak >= 0, group, np.int32(-1)), n_groups)
    peak_order, peak_start = _by_label(group_of_peak, n_groups)
    _check_raster(row, col)
    near = _near(row, col, group, peak, order, start, surroundings, recipe.width)
    found = np.full((n_peaks, len(FIT_COLUMNS)), np.nan)
    status = np.full(n_peaks, FitStatus.TOO_FEW_PIXELS, np.int16)
    centre = np.array(beam_centre, np.float64)

    def fit(first: int, end: int) -> None:
        fit_kernels.fit_groups(
            first,
            end,
            centre,
            row,
            col,
            value,
            usable,
            peak,
            order,
            start,
            *near,
            peak_order,
            peak_start,
            float(recipe.noise),
            float(recipe.gain),
            recipe.most_peaks,
            recipe.max_steps,
            found,
            status,
        )

    if threads == 1:
        fit(0, n_groups)
    else:
        edges = np.linspace(0, n_groups, _TASKS_PER_THREAD * threads + 1).astype(np.int64).tolist()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fit, edges[:-1], edges[1:]))
    columns: Columns = {name: found[:, k].copy() for k, name in enumerate(FIT_COLUMNS)}
    return columns | {"fit_status": status}


def _labels(name: str, values: np.ndarray) -> np.ndarray:
    """Return int32, C order: what the kernels know; they do not look whether an index is inside."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "ui" and len(array)):
        raise FrameError(f"fit: {name} is {array.dtype} of shape {array.shape}; wanted integers of shape (n,)")
    least = -1 if name == "peak" else 0
    if len(array) and (array.min() < least or array.max() >= 2**31 - 1):
        raise FrameError(f"fit: {name} holds {array.min()} ... {array.max()}; wanted {least} or more, below 2^31 - 1")
    return np.ascontiguousarray(array, np.int32)


def _group_of_peak(group: np.ndarray, peak: np.ndarray, n_peaks: int) -> np.ndarray:
    if len(peak) and peak.max() >= n_peaks:
        raise FrameError(f"fit: peak holds {peak.max()}; wanted less than n_peaks, {n_peaks}")
    if len(group) and group.max() >= len(group):
        raise FrameError(f"fit: group holds {group.max()}; wanted numbers below that of the pixels, {len(group)}")
    of = np.full(n_peaks, -1, np.int32)
    kept = peak >= 0
    of[peak[kept]] = group[kept]
    if (of[peak[kept]] != group[kept]).any():
        raise FrameError("fit: a peak has pixels in two groups; wanted each peak inside one group")
    return of


def _by_label(labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices sorted by label, and where each label begins in them."""
    start = np.empty(n + 1, np.int64)
    order = np.empty(len(labels), np.int64)
    fit_pixels.by_label(labels, start, order)
    return order, start


def _check_raster(row: np.ndarray, col: np.ndarray) -> None:
    down, right = np.diff(row), np.diff(col)
    if not ((down > 0) | ((down == 0) & (right > 0))).all():
        raise FrameError("fit: the pixels are not in raster order, or one comes twice; sort them by row, then column")


def _near(
    row: np.ndarray,
    col: np.ndarray,
    group: np.ndarray,
    peak: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
    around: Surroundings | None,
    width: int,
) -> _Near:
    """Return the unlit pixels that are fitted too."""
    begin = np.zeros(len(start), np.int64)
    if around is None or not len(row) or not width:
        return _room(0, begin)
    image, background, flat, mask, sentinels = _arrays(around)
    if row.max() >= image.shape[0] or col.max() >= image.shape[1]:
        raise FrameError(f"fit: a lit pixel ({row.max()}, {col.max()}) lies outside the image of {image.shape}")
    near = _room(4 * len(row), begin)
    while True:
        state = np.zeros((image.shape[0] + 2) * (image.shape[1] + 2), np.uint8)
        n = fit_pixels.surround(
            row, col, group, peak, order, start, image, background, flat, mask, sentinels, width, state, *near
        )
        if n <= len(near[0]):
            return near
        near = _room(n, begin)


def _room(n: int, begin: np.ndarray) -> _Near:
    return np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n), np.empty(n, np.int32), begin


def _arrays(around: Surroundings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return image, background, flat field, mask and sentinels as the kernel knows them."""
    image = np.asarray(around.image)
    if image.ndim != 2 or image.dtype.kind not in "uif" or image.dtype.char in "eg":
        raise FrameError(f"fit: the image is {image.dtype} of shape {image.shape}; wanted numbers, (rows, columns)")
    background, mask, flat = around.background, around.mask, around.flat
    # Nothing is converted that the kernel can read: each pass over a whole frame costs as much as many fits.
    frames = (
        ("image", image, image.dtype),
        ("background", np.asarray(background), np.float32 if _is(background, np.float32) else np.float64),
        ("flat", np.asarray(1.0 if flat is None else flat), np.float32 if _is(flat, np.float32) else np.float64),
        ("mask", np.asarray(False if mask is None else mask), np.uint8 if _is(mask, np.uint8) else np.bool_),
    )
    made: list[np.ndarray] = []
    for name, array, dtype in frames:
        if array.ndim and array.shape != image.shape:
            raise FrameError(f"fit: the image has shape {image.shape}, but the {name} has shape {array.shape}")
        plain = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("=")).reshape(array.shape)
        made.append(np.broadcast_to(plain, image.shape))
    return made[0], made[1], made[2], made[3], np.array(around.sentinels, np.float64)


def _is(array: object, dtype: type[np.generic]) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == dtype

"""Background and the lit pixels above it."""

from dataclasses import dataclass

import numpy as np

from . import kernels
from .errors import FrameError, SettingsError
from .frame import SparseImage
from .recipe import Recipe

_FIRST_CAPACITY = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LitPixels:
    """Lit pixels of one frame, in raster order."""

    shape: tuple[int, int]
    "Rows and columns of the frame."
    row: np.ndarray
    "Rows, int32, shape (n,)."
    col: np.ndarray
    "Columns, int32, shape (n,)."
    raw: np.ndarray
    "Raw counts, shape (n,), of the frame's type."
    intensity: np.ndarray
    "Raw counts minus background, float64, shape (n,)."


class Background:
    """Turns images into lit pixels: ``cut = floor(background + threshold)``, lit where ``raw > cut``.

    The cut has the frame's own integer type, so that the comparison is exact and one pass. Frames of floating-point
    numbers are compared with ``background + threshold`` itself; a NaN is never lit.

    Parameters
    ----------
    recipe
        What decides; `Recipe.background` ``dark`` needs `dark`.
    dark
        Mean dark frame, counts, shape (rows, columns).
    mask
        0 where a pixel is valid, shape (rows, columns).

    Raises
    ------
    SettingsError
        The dark is missing, not wanted, or holds numbers that are not finite.
    """

    def __init__(self, recipe: Recipe, *, dark: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
        if (recipe.background == "dark") != (dark is not None):
            raise SettingsError(
                f"recipe: background is {recipe.background!r} and {'no' if dark is None else 'a'} dark frame was given; "
                "give a dark frame exactly with `background: dark`"
            )
        self._recipe = recipe
        self._dark = None if dark is None else np.asarray(dark, np.float64)
        if self._dark is not None and not np.isfinite(self._dark).all():
            raise SettingsError("the dark frame holds numbers that are not finite; mask those pixels instead")
        self._mask = mask
        self._cut: np.ndarray | None = None
        self._sentinels: np.ndarray | None = None
        self._capacity = _FIRST_CAPACITY

    @property
    def level(self) -> float:
        """Mean of the background, counts."""
        return self._recipe.background_level if self._dark is None else float(self._dark.mean())

    def push(self, image: np.ndarray | SparseImage) -> LitPixels:
        """Return the lit pixels of one image; the first image fixes shape and type of all that follow.

        Raises
        ------
        FrameError
            The image is not two-dimensional, has another shape or type than the first, or holds nothing but NaN.
        """
        cut = self._cut_for(image)
        if isinstance(image, SparseImage):
            row, col, raw = self._push_sparse(image, cut)
        else:
            row, col, raw = self._push_dense(image, cut)
        dark = self._recipe.background_level if self._dark is None else self._dark[row, col]
        shape = (int(image.shape[0]), int(image.shape[1]))
        return LitPixels(shape=shape, row=row, col=col, raw=raw, intensity=raw.astype(np.float64) - dark)

    def _push_dense(self, image: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if image.dtype.kind == "f" and np.isnan(image).all():
            raise FrameError("the image holds nothing but NaN; look at the detector")
        while True:
            row = np.empty(self._capacity, np.int32)
            col = np.empty(self._capacity, np.int32)
            n = kernels.lit_dense(image, cut, self._sentinels, row, col)
            if n <= self._capacity:
                break
            self._capacity = n
        row, col = row[:n].copy(), col[:n].copy()
        return row, col, image[row, col]

    def _push_sparse(self, image: SparseImage, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = image.row.astype(np.int32)
        col = image.col.astype(np.int32)
        value = image.value
        place = row.astype(np.int64) * image.shape[1] + col
        if len(place) > 1 and not (np.diff(place) > 0).all():
            order = np.argsort(place, kind="stable")
            if (np.diff(place[order]) == 0).any():
                raise FrameError("a sparse image lists a pixel twice; wanted each pixel once")
            row, col, value = row[order], col[order], value[order]
        keep = np.empty(len(row), np.bool_)
        kernels.lit_sparse(value, row, col, cut, self._sentinels, keep)
        return row[keep], col[keep], value[keep]

    def _cut_for(self, image: np.ndarray | SparseImage) -> np.ndarray:
        if len(image.shape) != 2 or 0 in image.shape:
            raise FrameError(f"the image has shape {tuple(image.shape)}; wanted (rows, columns), each 1 or more")
        if image.dtype.kind not in "uif":
            raise FrameError(f"the image holds {image.dtype}; wanted integers or floating-point numbers")
        if self._cut is None:
            self._sentinels = _sentinels(self._recipe, image.dtype)
            self._cut = self._make_cut(image.shape, image.dtype)
        dtype = self._cut.dtype if image.dtype.kind != "f" else image.dtype
        if image.shape != self._cut.shape or image.dtype != dtype:
            raise FrameError(
                f"the image is {image.dtype} of shape {tuple(image.shape)}; wanted {self._cut.dtype} of shape "
                f"{self._cut.shape} as the frames before"
            )
        if isinstance(image, SparseImage) and float(self._cut.min()) < 0:
            raise FrameError("a sparse image needs background + threshold of 0 or more: its other pixels hold 0")
        return self._cut

    def _make_cut(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        for name, array in (("dark frame", self._dark), ("mask", self._mask)):
            if array is not None and array.shape != shape:
                raise FrameError(f"the image has shape {shape}, but the {name} has shape {array.shape}")
        level = self._recipe.background_level if self._dark is None else self._dark
        exact = np.broadcast_to(np.asarray(level + self._recipe.threshold, np.float64), shape)
        if dtype.kind == "f":
            never, cut = np.inf, exact.copy()
        else:
            never = np.iinfo(dtype).max
            # Clipping below would darken the lowest count, so a cut below it is refused, not clipped.
            if exact.min() < np.iinfo(dtype).min:
                raise FrameError(f"background + threshold is {exact.min()}; wanted at least {np.iinfo(dtype).min}")
            # float(never) may round up, so what reaches it is set apart instead of being converted.
            full = np.floor(exact) >= float(never)
            cut = np.where(full, 0.0, np.floor(exact)).astype(dtype)
            cut[full] = never
        if self._mask is not None:
            cut[self._mask != 0] = never
        return cut


def _sentinels(recipe: Recipe, dtype: np.dtype) -> np.ndarray:
    """Return those sentinels that the type can hold; the others cannot occur."""
    if dtype.kind == "f":
        return np.array(recipe.sentinels, dtype)
    info = np.iinfo(dtype)
    return np.array([s for s in recipe.sentinels if info.min <= s <= info.max], dtype)

"""What is known of a detector before its frames come: dark, flat field, bad pixels, panels, and how it is turned."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .compiled import compiled
from .errors import FrameError, SettingsError
from .frame import SparseImage

_TILE = 16
"""Rows and columns that are transposed at a time. Measured on 2048 x 2048 uint16: 1.8 ms with 16, 4.2 with 64, whose
rows fall into the same few places of the first cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Corrections in the orientation of the transformed frames, ready for a background."""

    shape: tuple[int, int]
    "Rows and columns of a transformed frame."
    dark: np.ndarray | None
    "Mean dark counts, 0 where invalid, float32 if that holds them exactly or else float64; none without a dark frame."
    flat: np.ndarray | None
    "Relative response, float64, 1 where invalid; none if there is no flat field."
    invalid: np.ndarray | None
    "Whether a pixel is never lit, bool; none if all are valid."
    edge: np.ndarray | None
    "Whether a pixel is on the border of its panel, bool; none without panels: then the frame's border is the edge."
    beside_mask: np.ndarray | None
    "Whether one of the 8 neighbours of a pixel is invalid, bool; none if no pixel is."
    level: float
    "Mean of the dark over the valid pixels, counts; NaN if there is no dark frame or no valid pixel."

    def cut(self, background: float | np.ndarray, threshold: float, dtype: np.dtype[Any]) -> np.ndarray:
        """Return what the raw counts are compared with: lit where ``raw > cut``, never where invalid.

        ``floor(background + threshold * flat)`` in the frames' own integer type, so that ``(raw - background) / flat >
        threshold`` costs one comparison; for frames of floating-point numbers without the floor, and infinite where
        invalid.

        Parameters
        ----------
        background
            Counts; a number, or float64 of shape `shape`, where NaN counts as invalid.
        threshold
            Counts, 0 or more.
        dtype
            Type of the frames, in this machine's byte order.

        Raises
        ------
        FrameError
            The cut lies below the lowest number of the type, which could then not be told from what is above it.
        """
        level = np.broadcast_to(np.asarray(background, np.float64), self.shape)
        if dtype.kind == "f":
            exact = level + (threshold if self.flat is None else threshold * self.flat)
            valid = ~np.isnan(exact) if self.invalid is None else ~(self.invalid | np.isnan(exact))
            return np.where(valid, exact, np.inf)
        info = np.iinfo(dtype)
        cut = np.empty(self.shape, dtype)
        # An array of no pixels stands for a flat field that is not there: numba compiles for arrays, not for None.
        flat = np.empty((0, 0)) if self.flat is None else self.flat
        # float(info.max) may round up: what reaches it is full scale instead of being converted.
        lowest, full, top = float(info.min), float(info.max), dtype.type(info.max)
        if _whole_cut(np.ascontiguousarray(level), float(threshold), flat, lowest, full, top, cut):
            exact = level + (threshold if self.flat is None else threshold * self.flat)
            least = np.nanmin(exact if self.invalid is None else exact[~self.invalid], initial=np.inf)
            if least < info.min:
                raise FrameError(f"background + threshold is {least}; wanted at least {info.min} for {info.dtype}")
        if self.invalid is not None:
            _fill(cut, self.invalid, top)
        return cut

    def intensity(
        self, raw: np.ndarray, row: np.ndarray, col: np.ndarray, background: float | np.ndarray
    ) -> np.ndarray:
        """Return ``(raw - background) / flat`` of the pixels at row, col; float64, shape (n,)."""
        level = background[row, col] if isinstance(background, np.ndarray) else background
        above = raw.astype(np.float64) - level
        return above if self.flat is None else above / self.flat[row, col]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corrections:
    """Dark, flat field, mask and panels of a detector, and how its frames are turned before they are reduced.

    Dark, flat and mask are given in the detector's own orientation, as its frames are. See
    ``docs/explanations/backgrounds.md`` for the formulas.

    Raises
    ------
    SettingsError
        Shapes differ, a number is not finite where it is needed, a transform is none of 0 to 3, a panel is empty,
        outside the frame, or overlaps another.
    """

    dark: np.ndarray | None = None
    "Mean dark counts, shape (rows, columns). What it holds where a pixel is invalid does not matter."
    flat: np.ndarray | None = None
    "Relative response, shape (rows, columns); a pixel that is 0, negative or not finite is invalid."
    mask: np.ndarray | None = None
    "0 where a pixel is valid, any type, shape (rows, columns)."
    transforms: tuple[int, ...] = ()
    "MIDAS `ImTransOpt`, done in this order: 0 nothing, 1 mirror columns, 2 mirror rows, 3 transpose."
    panels: tuple[tuple[int, int, int, int], ...] = ()
    "(row_min, row_end, col_min, col_end) of each panel in a transformed frame; pixels outside all are invalid."

    def __post_init__(self) -> None:
        images = {name: _checked_image(name, getattr(self, name)) for name in _LONG if getattr(self, name) is not None}
        first = next(iter(images), "")
        for name, image in images.items():
            object.__setattr__(self, name, image)
            if image.shape != images[first].shape:
                raise SettingsError(
                    f"the {_LONG[first]} has shape {images[first].shape}, but the {_LONG[name]} has shape {image.shape}"
                )
        object.__setattr__(self, "transforms", _checked_transforms(self.transforms))
        object.__setattr__(self, "panels", _checked_panels(self.panels))
        if self.flat is not None and not (np.isfinite(self.flat) & (self.flat > 0)).any():
            raise SettingsError("the flat field holds no number above 0; wanted the relative response of each pixel")
        if not images:
            return
        shape = images[first].shape
        complaint = self._outside(shape)
        if complaint:
            raise SettingsError(complaint)
        if self.dark is not None and not np.isfinite(self.dark).all():
            invalid = self._invalid(shape)
            bad = ~np.isfinite(self.transformed(self.dark))
            if invalid is None or (bad & ~invalid).any():
                raise SettingsError("the dark frame holds numbers that are not finite; mask those pixels instead")

    def transformed(self, image: np.ndarray) -> np.ndarray:
        """Return an image after the transforms, in C order; it is the image itself where nothing is to be done.

        Raises
        ------
        FrameError
            The image is not two-dimensional, or holds no real numbers.
        """
        if image.ndim != 2 or image.dtype.kind not in "buif" or image.itemsize > 8:
            raise FrameError(f"the image is {image.dtype} of shape {image.shape}; wanted counts, (rows, columns)")
        transpose, flip_rows, flip_cols = _as_one(self.transforms)
        shape = self._turned(image.shape)
        # The transposed view of an image in Fortran order is in C order.
        turned, transpose = (image.T, False) if transpose and image.T.flags.c_contiguous else (image, transpose)
        if not (transpose or flip_cols):
            return np.ascontiguousarray(turned[::-1] if flip_rows else turned)
        # Only bits move, so that a few kernels do for every type, NaN and byte order.
        word = np.dtype(f"u{image.itemsize}")
        bits = np.ascontiguousarray(turned).view(word)
        bits.flags.writeable = False
        out = np.empty(shape, word)
        if transpose:
            _transpose(bits, flip_rows, flip_cols, out)
        else:
            _mirror_columns(bits, flip_rows, out)
        return out.view(image.dtype)

    def transformed_sparse(self, image: SparseImage) -> SparseImage:
        """Return a sparse image after the transforms; its pixels keep their order, which then is no raster order.

        Raises
        ------
        FrameError
            Rows or columns are not whole numbers.
        """
        transpose, flip_rows, flip_cols = _as_one(self.transforms)
        if not (transpose or flip_rows or flip_cols):
            return image
        if image.row.dtype.kind not in "ui" or image.col.dtype.kind not in "ui":
            raise FrameError(f"a sparse image lists rows as {image.row.dtype} and columns as {image.col.dtype}")
        shape, row, col = image.shape, image.row.astype(np.int64), image.col.astype(np.int64)
        if transpose:
            shape, row, col = (shape[1], shape[0]), col, row
        row = shape[0] - 1 - row if flip_rows else row
        col = shape[1] - 1 - col if flip_cols else col
        return SparseImage(shape=shape, row=row, col=col, value=image.value)

    def prepared(self, shape: tuple[int, int]) -> Prepared:
        """Return the corrections for frames of this shape, before the transforms, in the transformed orientation.

        Raises
        ------
        FrameError
            Frames of this shape do not fit what was given.
        """
        for name, long in _LONG.items():
            given = getattr(self, name)
            if given is not None and given.shape != shape:
                raise FrameError(f"the image has shape {shape}, but the {long} has shape {given.shape}")
        complaint = self._outside(shape)
        if complaint:
            raise FrameError(complaint)
        invalid = self._invalid(shape)
        dark = None if self.dark is None else _narrow(self._filled(self.dark, invalid, 0.0))
        flat = None if self.flat is None else self._filled(self.flat, invalid, 1.0)
        turned = self._turned(shape)
        edge = _borders(turned, self.panels) if self.panels else None
        return Prepared(
            shape=turned,
            dark=dark,
            flat=flat,
            invalid=invalid,
            edge=edge,
            beside_mask=None if invalid is None else _neighbours(invalid),
            level=_mean(dark, invalid),
        )

    def _turned(self, shape: tuple[int, ...]) -> tuple[int, int]:
        rows, cols = shape
        return (cols, rows) if _as_one(self.transforms)[0] else (rows, cols)

    def _outside(self, shape: tuple[int, ...]) -> str:
        """Return what is wrong with the panels on frames of this shape, nothing if they fit."""
        rows, cols = self._turned(shape)
        for panel in self.panels:
            if panel[1] > rows or panel[3] > cols:
                return f"panel {list(panel)} reaches beyond the {rows} rows and {cols} columns of the transformed image"
        return ""

    def _invalid(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return which pixels of a transformed frame are never lit, none if all may be."""
        parts: list[np.ndarray] = []
        if self.mask is not None:
            parts.append(self.transformed(self.mask) != 0)
        if self.flat is not None:
            flat = self.transformed(self.flat)
            parts.append(~(np.isfinite(flat) & (flat > 0)))
        if self.panels:
            outside = np.ones(self._turned(shape), np.bool_)
            for row_min, row_end, col_min, col_end in self.panels:
                outside[row_min:row_end, col_min:col_end] = False
            parts.append(outside)
        invalid = np.logical_or.reduce(parts) if parts else None
        return invalid if invalid is not None and invalid.any() else None

    def _filled(self, image: np.ndarray, invalid: np.ndarray | None, value: float) -> np.ndarray:
        """Return an image transformed, float64, that holds value where invalid; a copy only where it must be."""
        filled = self.transformed(image).astype(np.float64, copy=False)
        if invalid is not None:
            filled = np.where(invalid, value, filled)
        return filled


def bad_pixels(
    image: np.ndarray, *, bad_intensity: float | None = None, gap_intensity: float | None = None
) -> np.ndarray:
    """Return which pixels hold exactly one of two values, as MIDAS marks bad pixels and gaps of an image.

    Parameters
    ----------
    image
        A dark, a mask or a frame, shape (rows, columns); or a stack of them, shape (n, rows, columns), in which a
        pixel is bad when one of them marks it: ask before frames are averaged, the mean holds no mark.
    bad_intensity
        MIDAS `BadPxIntensity`, such as -2. None marks nothing; 0 is a value like any other, unlike in MIDAS.
    gap_intensity
        MIDAS `GapIntensity`, such as -1.

    Returns
    -------
    np.ndarray
        True where bad, shape (rows, columns).

    Raises
    ------
    SettingsError
        A value is NaN, which nothing equals.
    """
    bad = np.zeros(image.shape[-2:], np.bool_)
    for name, value in (("bad_intensity", bad_intensity), ("gap_intensity", gap_intensity)):
        if value is None:
            continue
        if value != value:
            raise SettingsError(f"{name} is {value}; wanted a number that a pixel can hold")
        # A float32 image can hold 2^32 - 1 only as rounded, so the value is compared as the image's own type.
        held = image == (int(value) if float(value).is_integer() else value)
        bad |= held.any(axis=0) if image.ndim == 3 else held
    return bad


_LONG = {"dark": "dark frame", "flat": "flat field", "mask": "mask"}


def _as_one(transforms: Iterable[int]) -> tuple[bool, bool, bool]:
    """Return what transforms come to: whether to transpose, and then to mirror rows, and columns."""
    transpose = flip_rows = flip_cols = False
    for each in transforms:
        if each == 1:
            flip_cols = not flip_cols
        elif each == 2:
            flip_rows = not flip_rows
        elif each == 3:
            transpose, flip_rows, flip_cols = not transpose, flip_cols, flip_rows
    return transpose, flip_rows, flip_cols


@compiled()
def _mirror_columns(image: Any, flip_rows: bool, out: Any) -> None:
    """Mirror columns, and rows if asked for."""
    n_rows, n_cols = image.shape
    for r in range(n_rows):
        source = image[n_rows - 1 - r] if flip_rows else image[r]
        target = out[r]
        for c in range(n_cols):
            # An index that could be negative would be looked at one by one: eight times slower.
            target[c] = source[np.uint64(n_cols - 1 - c)]


@compiled()
def _transpose(image: Any, flip_rows: bool, flip_cols: bool, out: Any) -> None:
    """Transpose, then mirror rows and columns of the outcome."""
    n_rows, n_cols = image.shape
    tile = np.empty((_TILE, _TILE + 2), image.dtype)
    for r0 in range(0, n_rows, _TILE):
        r1 = min(r0 + _TILE, n_rows)
        for c0 in range(0, n_cols, _TILE):
            c1 = min(c0 + _TILE, n_cols)
            # Mirrored or not is a choice among rows to read and rows to write, so that it costs nothing.
            if r1 - r0 == _TILE and c1 - c0 == _TILE:
                for r in range(_TILE):
                    source = image[n_rows - 1 - r0 - r] if flip_cols else image[r0 + r]
                    for c in range(_TILE):
                        tile[r, c] = source[c0 + c]
                for c in range(_TILE):
                    target = out[n_cols - 1 - c0 - c] if flip_rows else out[c0 + c]
                    for r in range(_TILE):
                        target[r0 + r] = tile[r, c]
            else:
                for c in range(c0, c1):
                    for r in range(r0, r1):
                        value = image[n_rows - 1 - r if flip_cols else r, c]
                        out[n_cols - 1 - c if flip_rows else c, r] = value


@compiled()
def _whole_cut(background: Any, threshold: float, flat: Any, lowest: float, full: float, top: Any, cut: Any) -> bool:
    """Write floor(background + threshold * flat), top if that is NaN or not below full; tell if one is below lowest."""
    below = False
    for r in range(cut.shape[0]):
        for c in range(cut.shape[1]):
            exact = background[r, c] + (threshold * flat[r, c] if flat.size else threshold)
            # Not the least of them: one float after the other could not be compared side by side.
            below |= exact < lowest
            # One expression for both would be a float64, which cannot hold the top of 64 bits.
            if exact < full:
                cut[r, c] = np.floor(exact)
            else:
                cut[r, c] = top
    return below


@compiled()
def _fill(image: Any, where: Any, value: Any) -> None:
    # numpy.putmask branches for each pixel: 15 times slower where bad pixels lie scattered.
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            image[r, c] = value if where[r, c] else image[r, c]


def _checked_image(name: str, given: Any) -> np.ndarray:
    image = np.asarray(given)
    if image.ndim != 2 or image.size == 0 or image.dtype.kind not in "buif" or image.itemsize > 8:
        raise SettingsError(
            f"the {_LONG[name]} is {image.dtype} of shape {image.shape}; wanted numbers of shape (rows, columns)"
        )
    return image


def _checked_transforms(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or not all(_whole(each) and 0 <= each <= 3 for each in given):
        raise SettingsError(
            f"transforms are {given!r}; "
            "wanted a list of 0 (nothing), 1 (mirror columns), 2 (mirror rows) and 3 (transpose)"
        )
    return tuple(int(each) for each in given)


def _checked_panels(given: Any) -> tuple[tuple[int, ...], ...]:
    wanted = "wanted a list of [row_min, row_end, col_min, col_end]"
    if not isinstance(given, list | tuple):
        raise SettingsError(f"panels are {given!r}; {wanted}")
    panels: list[tuple[int, ...]] = []
    for panel in given:
        if not isinstance(panel, list | tuple) or len(panel) != 4 or not all(_whole(each) for each in panel):
            raise SettingsError(f"panel {panel!r} is no rectangle; {wanted}")
        row_min, row_end, col_min, col_end = panel
        if not (0 <= row_min < row_end and 0 <= col_min < col_end):
            raise SettingsError(f"panel {list(panel)} is empty or begins below 0; {wanted}")
        panels.append(tuple(int(each) for each in panel))
    for a, b in combinations(panels, 2):
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]:
            raise SettingsError(f"panels {list(a)} and {list(b)} overlap; wanted each pixel in one panel at most")
    return tuple(panels)


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _borders(shape: tuple[int, int], panels: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    edge = np.zeros(shape, np.bool_)
    for row_min, row_end, col_min, col_end in panels:
        panel = edge[row_min:row_end, col_min:col_end]
        panel[[0, -1]] = True
        panel[:, [0, -1]] = True
    return edge


def _neighbours(invalid: np.ndarray) -> np.ndarray:
    """Return which pixels have an invalid one among their 8 neighbours, or are invalid themselves."""
    near = invalid.copy()
    near[1:] |= invalid[:-1]
    near[:-1] |= invalid[1:]
    rows = near.copy()
    near[:, 1:] |= rows[:, :-1]
    near[:, :-1] |= rows[:, 1:]
    return near


def _narrow(dark: np.ndarray) -> np.ndarray:
    """Return numbers as float32 if none of them changes: of a few MB that each frame looks at, half are left."""
    with np.errstate(over="ignore"):
        narrow = dark.astype(np.float32)
    return narrow if np.array_equal(narrow, dark) else dark


def _mean(dark: np.ndarray | None, invalid: np.ndarray | None) -> float:
    """Return the mean of the valid pixels, summed one after the other: a pairwise sum depends on the machine."""
    if dark is None:
        return float("nan")
    n_valid = dark.size if invalid is None else int((~invalid).sum())
    return float(np.cumsum(dark, dtype=np.float64)[-1]) / n_valid if n_valid else float("nan")

"""Background and the lit pixels above it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from . import lit_kernels
from .bitshuffle import ChunkCut, CompressedImage
from .corrections import Corrections, Prepared
from .errors import FrameError, SettingsError
from .frame import SparseImage, check_flood, check_listed
from .medians import RunningMedian
from .recipe import Recipe
from .vectors import WIDE, WORD

_FIRST_CAPACITY = 1 << 14
_MOST_KEPT = 1 << 19
"Runs, or pixels, for which room is kept: memory does not stay as large as the worst frame made it."
_MANY_LIT = 0.015
"Part of its pixels that is lit above which the next compressed image is decompressed first: at 0.7 % both ways take \
as long, at 4 % it takes a fifth longer to list pixels from bit planes."
_WHOLE = 2.0**53
"Up to here every whole number is a float64."


_Kept = TypeVar("_Kept")


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
    "Raw counts minus background, over the flat field if there is one; float64, shape (n,)."
    runs: np.ndarray | None = None
    "Row, column and index of the first pixel of each run of neighbours in a row, int32, shape (3, runs + 1); the last \
index is n. None: still to be found."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """What the raw counts of one shape and type are compared with."""

    prepared: Prepared
    "Shape, mask and flat field of the frames."
    dtype: np.dtype
    "Type of the raw counts, in this machine's byte order."
    cut: np.ndarray
    "Lit where raw is above it, of `dtype`, shape (rows, columns), or (1, columns) if all rows are alike."
    narrow: tuple[np.ndarray, ...]
    "The cut again, so that half as much comes from memory: what `lit_kernels.narrow_cut` and `wide_cuts` write; empty \
if it is not used."
    exact: bool
    "Whether a pixel is lit where the narrow cut says so."
    top: Any
    "Largest number that may be lit, of `dtype`."
    sentinels: np.ndarray
    "Other raw counts that are never lit, of `dtype`."
    background: np.ndarray
    "Background plus `shift`, shape (rows or 1, columns)."
    shift: float
    "What `background` holds too much, counts."
    dark_zero: bool
    "Whether a pixel of 0 counts is nowhere lit."


def take_kept(kept: list[_Kept]) -> _Kept | None:
    """Take memory that is kept for the next frame, None if there is none: another thread may take the last just now."""
    try:
        return kept.pop()
    except IndexError:
        return None


def narrow_cut(cut: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return least, excess, wide and wide_cuts, as `lit_kernels.narrow_cut` and `lit_kernels.wide_cuts` write them."""
    n_words = len(cut) * -(-cut.shape[1] // WORD)
    least, excess = np.empty(n_words, cut.dtype), np.empty((n_words, WORD), np.uint8)
    wide = np.empty(n_words, np.int32)
    cuts = np.empty((lit_kernels.narrow_cut(cut, least, excess, wide), WORD), cut.dtype)
    lit_kernels.wide_cuts(cut, wide, cuts)
    return least, excess, wide, cuts


class Background:
    """Turns images into lit pixels: ``cut = floor(background + threshold * flat)``, lit where ``raw > cut``.

    The cut has the frame's own type, so that the comparison is exact and the only pass over the frame. Frames of
    floating-point numbers are compared with ``background + threshold * flat`` itself, which for whole numbers is the
    same; NaN and infinity are never lit. After the first good image, several threads may push at the same time, unless
    the background is a running median.

    Parameters
    ----------
    recipe
        What decides; every `Recipe.background` but ``constant`` needs `dark`.
    dark
        Background, counts, shape (rows, columns): mean dark frame, or the median of the first frames. What it holds
        where the mask is set does not matter.
    mask
        0 where a pixel is valid, shape (rows, columns).
    flat
        Relative response, shape (rows, columns); where it is 0, negative or not finite a pixel is invalid.
    prepared
        What these three come to, instead of them.

    Raises
    ------
    SettingsError
        The dark is missing, not wanted, of another shape than the mask, or holds numbers that are not finite.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        dark: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        flat: np.ndarray | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        given = dark if prepared is None else prepared.dark
        if (recipe.background == "constant") != (given is None):
            said = "no" if given is None else "a"
            raise SettingsError(
                f"recipe: background is {recipe.background!r} and {said} dark frame was given; "
                "give a dark frame, or the median of the first frames, exactly when it is not constant"
            )
        self._recipe = recipe
        self._corrections: Corrections | None = None
        if prepared is None:
            dark, mask, flat = (None if each is None else np.array(each) for each in (dark, mask, flat))
            self._corrections = Corrections(dark=dark, mask=mask, flat=flat)
            prepared = None if dark is None else self._corrections.prepared(dark.shape)
        self._prepared = prepared
        self._level = recipe.background_level if prepared is None or prepared.dark is None else prepared.level
        self._running: RunningMedian | None = None
        if recipe.background == "running-median" and prepared is not None and prepared.dark is not None:
            step, every = recipe.background_step, recipe.background_every
            self._running = RunningMedian(prepared.dark, step=step, every=every, invalid=prepared.invalid)
        self._cut: _Cut | None = None
        self._chunk_cut: tuple[_Cut, ChunkCut] | None = None
        # Kept from frame to frame: asking the system for new memory costs more than what is written there. One for each
        # thread that is at work; taking from a list and adding to it needs no lock.
        self._rooms: list[np.ndarray] = []
        self._lists: list[tuple[np.ndarray, ...]] = []
        self._expected = _FIRST_CAPACITY
        # How the next compressed image is read: the pixels are the same either way, and it is as full as this one.
        self._many_lit = False
        self._frames: list[np.ndarray] = []

    @property
    def level(self) -> float:
        """Mean over the valid pixels of the background of the frame before, counts; NaN if none is valid."""
        return self._level

    def push(self, image: np.ndarray | SparseImage | CompressedImage) -> LitPixels:
        """Return the lit pixels of one image; the first good image fixes shape and type of all that follow.

        Parameters
        ----------
        image
            Raw counts, shape (rows, columns), in any byte order and memory layout; or as they are compressed.

        Raises
        ------
        FrameError
            The image is not two-dimensional, has another shape or type than the first, or holds nothing but NaN; it is
            flooded; it is compressed and damaged; or it is sparse and lists a pixel twice, or one outside. It then
            leaves nothing behind.
        """
        if isinstance(image, CompressedImage) and (self._running is not None or not _direct(image.dtype)):
            image = image.dense()
        cut = self._cut_for(image)
        if isinstance(image, SparseImage):
            lit = self._push_sparse(image, cut)
        elif isinstance(image, CompressedImage):
            lit = self._push_compressed(image, cut)
        else:
            lit = self._push_dense(image, cut)
        self._cut = cut
        if self._running is not None and isinstance(image, np.ndarray):
            self._level = self._running.level
            if self._running.push(image):
                self._cut = self._make_cut(cut.prepared, cut.dtype)
        return lit

    def take_back(self, lit: LitPixels) -> None:
        """Use the memory of lit pixels again, which came from here and which nobody looks at any more."""
        arrays = (lit.row, lit.col, lit.raw, lit.intensity)
        lists = tuple(each if each.base is None else each.base for each in arrays)
        cut = self._cut
        if lit.runs is not None and cut is not None and lists[2].dtype == cut.dtype and len(lists[0]) <= _MOST_KEPT:
            self._lists.append(lists)

    def _push_dense(self, image: np.ndarray, cut: _Cut) -> LitPixels:
        raw = _plain(image, cut.dtype)
        find = partial(lit_kernels.lit_pixels, raw, cut.cut, *cut.narrow, cut.exact, cut.top, cut.sentinels)
        lit = self._in_room(cut, find)
        if len(lit.row) == 0 and raw.dtype.kind == "f" and np.isnan(raw).all():
            raise FrameError("the image holds nothing but NaN; look at the detector")
        return lit

    def _push_compressed(self, image: CompressedImage, cut: _Cut) -> LitPixels:
        if self._many_lit:
            dense = image.dense(take_kept(self._frames))
            lit = self._push_dense(dense, cut)
            self._frames.append(dense)
            self._many_lit = len(lit.row) > _MANY_LIT * dense.size
            return lit
        # The first image makes it, before several threads push.
        if self._chunk_cut is None or self._chunk_cut[0] is not cut:
            full = np.broadcast_to(cut.cut, cut.prepared.shape)
            self._chunk_cut = (cut, ChunkCut(full, top=int(cut.top), sentinels=cut.sentinels.tolist()))
        lit = self._in_room(cut, partial(self._chunk_cut[1].lit_pixels, image.chunk))
        self._many_lit = len(lit.row) > _MANY_LIT * cut.prepared.shape[0] * cut.prepared.shape[1]
        return lit

    def _in_room(self, cut: _Cut, find: Callable[..., tuple[int, int]]) -> LitPixels:
        """Return the lit pixels that `find` lists, given what `lit_kernels.lit_pixels` takes from the background on."""
        room, lists = take_kept(self._rooms), take_kept(self._lists)
        room = np.empty((3, _FIRST_CAPACITY + 1), np.int32) if room is None else room
        lists = _lists(self._expected, cut.dtype) if lists is None else lists
        while True:
            row, col, value, intensity = lists
            n_runs, n = find(cut.background, cut.shift, room, row, col, value, intensity)
            check_flood(n, self._recipe.max_lit, cut.prepared.shape)
            if n_runs < room.shape[1] and n <= len(row) - WIDE:
                break
            # Once more, with room enough.
            lists = _lists(max(n, len(row)), cut.dtype)
            room = np.empty((3, max(2 * n_runs + 1, room.shape[1])), np.int32)
        # The next frame will have about as many; only what is written to takes memory.
        self._expected = min(n + n // 4, _MOST_KEPT) + _FIRST_CAPACITY
        row, col, value, intensity = row[:n], col[:n], value[:n], intensity[:n]
        runs = room[:, : n_runs + 1].copy()
        # Not before: from then on another thread writes to it.
        if room.shape[1] <= _MOST_KEPT:
            self._rooms.append(room)
        if cut.prepared.flat is not None:
            intensity /= cut.prepared.flat[row, col]
        return LitPixels(shape=cut.prepared.shape, row=row, col=col, raw=value, intensity=intensity, runs=runs)

    def _push_sparse(self, image: SparseImage, cut: _Cut) -> LitPixels:
        if self._recipe.background in ("median", "running-median"):
            raise FrameError(
                f"a sparse image has no pixels to take a {self._recipe.background} of; use another background"
            )
        if not cut.dark_zero:
            raise FrameError("a sparse image needs background + threshold of 0 or more: its other pixels hold 0")
        place, value = _places(image), _plain(image.value, cut.dtype)
        if len(place) > 1 and not (place[1:] > place[:-1]).all():
            order = np.argsort(place)
            place, value = place[order], _plain(value[order], cut.dtype)
            if (place[1:] == place[:-1]).any():
                raise FrameError("a sparse image lists a pixel twice; wanted each pixel once")
        row, col = (each.astype(np.int32) for each in np.divmod(place, image.shape[1]))
        keep = np.empty(len(row), np.bool_)
        lit_kernels.lit_sparse(value, row, col, cut.cut, cut.top, cut.sentinels, keep)
        row, col, value = row[keep], col[keep], value[keep]
        check_flood(len(row), self._recipe.max_lit, cut.prepared.shape)
        return self._listed(row, col, value, cut)

    def _listed(self, row: np.ndarray, col: np.ndarray, value: np.ndarray, cut: _Cut) -> LitPixels:
        intensity = np.empty(len(row), np.float64)
        lit_kernels.intensities(value, row, col, cut.background, cut.shift, intensity)
        if cut.prepared.flat is not None:
            intensity /= cut.prepared.flat[row, col]
        return LitPixels(shape=cut.prepared.shape, row=row, col=col, raw=value, intensity=intensity)

    def _cut_for(self, image: np.ndarray | SparseImage | CompressedImage) -> _Cut:
        shape, dtype = tuple(image.shape), image.dtype.newbyteorder("=")
        if len(shape) != 2 or 0 in shape:
            raise FrameError(f"the image has shape {shape}; wanted (rows, columns), each 1 or more")
        if dtype.kind not in "uif" or dtype.char in "eg":
            raise FrameError(f"the image holds {dtype}; wanted integers, float32 or float64")
        if self._cut is None:
            return self._make_cut(self._prepared_for((int(shape[0]), int(shape[1]))), dtype)
        if shape != self._cut.prepared.shape or dtype != self._cut.dtype:
            raise FrameError(
                f"the image is {dtype} of shape {shape}; wanted {self._cut.dtype} of shape {self._cut.prepared.shape} "
                "as the frames before"
            )
        return self._cut

    def _prepared_for(self, shape: tuple[int, int]) -> Prepared:
        if self._prepared is not None and self._prepared.shape == shape:
            return self._prepared
        if self._corrections is None:
            wanted = None if self._prepared is None else self._prepared.shape
            raise FrameError(f"the image has shape {shape}; wanted {wanted} as the corrections")
        return self._corrections.prepared(shape)

    def _make_cut(self, prepared: Prepared, dtype: np.dtype) -> _Cut:
        level = self._recipe.background_level if prepared.dark is None else prepared.dark
        level = level if self._running is None else self._running.background
        threshold = self._recipe.threshold
        cut = prepared.cut(level, threshold, dtype)
        if dtype.kind == "f":
            cut = _rounded_down(cut, dtype)
        if prepared.dark is None and prepared.flat is None and prepared.invalid is None:
            cut = cut[:1].copy()
        top, sentinels = _never_lit(dtype, self._recipe.sentinels)
        shift = 0.0
        narrow = isinstance(level, np.ndarray) and level.dtype == np.float32
        background = np.asarray(level, np.float32 if narrow else np.float64)
        if dtype.kind != "f" and prepared.flat is None and self._running is None and _is_whole(background, threshold):
            # The cut is whole background + threshold then, and just read: no second image has to come from memory.
            background, shift = cut, threshold
        elif background.ndim == 0:
            background = np.full((1, prepared.shape[1]), level)
        # A cut that is the same in all rows stays in the nearest cache; one that changes is not worth the work.
        stays = len(cut) > 1 and self._running is None and cut.shape[1] >= WORD
        stays &= dtype.kind == "f" or 1 < dtype.itemsize <= 4
        return _Cut(
            prepared=prepared,
            dtype=dtype,
            cut=cut,
            narrow=narrow_cut(cut if stays else cut[:0]),
            exact=dtype.kind != "f" and int(top) == np.iinfo(dtype).max,
            top=top,
            sentinels=sentinels,
            background=background,
            shift=shift,
            dark_zero=not bool((cut < 0).any()),
        )


def _lists(n: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return room for rows, columns, raw counts and intensities of n pixels."""
    # The kernel writes whole vectors.
    size = n + WIDE
    return np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, dtype), np.empty(size, np.float64)


def _direct(dtype: np.dtype) -> bool:
    """Tell whether compressed counts of a type can be compared as they are."""
    return dtype.kind in "ui" and dtype.itemsize <= 4 and dtype.isnative


def _is_whole(background: np.ndarray, threshold: float) -> bool:
    """Tell whether background + threshold is whole and exact everywhere."""
    return (
        threshold == np.floor(threshold) and lit_kernels.largest_whole(np.atleast_2d(background)) + threshold < _WHOLE
    )


def _rounded_down(cut: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the largest numbers of a type that are not above: what is above one of them is above the other."""
    with np.errstate(over="ignore"):
        near = cut.astype(dtype)
    return np.where(near > cut, np.nextafter(near, dtype.type(-np.inf)), near)


def _never_lit(dtype: np.dtype, sentinels: tuple[int, ...]) -> tuple[Any, np.ndarray]:
    """Return the largest number that may be lit, and the sentinels below it."""
    if dtype.kind == "f":
        return dtype.type(np.finfo(dtype).max), np.array(sentinels, dtype)
    info = np.iinfo(dtype)
    top = int(info.max)
    # A gap of full-scale pixels is skipped by the comparison itself; the others are looked at when they seem lit.
    while top in sentinels:
        top -= 1
    return dtype.type(top), np.array([each for each in sentinels if info.min <= each < top], dtype)


def _plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an array of which the kernels know the type: this byte order, C order, read-only whatever it was."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def _places(image: SparseImage) -> np.ndarray:
    """Return row * columns + column of each pixel, int64, shape (n,)."""
    check_listed(image)
    return image.row.astype(np.int64) * image.shape[1] + image.col.astype(np.int64)

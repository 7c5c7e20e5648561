"""Backgrounds from the frames themselves: the median of some, and a running one that follows a drift."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from . import median_kernels
from .errors import FrameError, SettingsError

_BAND = 1 << 20
"""Bytes of the frames' values that are sorted at a time, so that they stay in the second cache."""


def median_of(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median of frames, pixel by pixel; of an even number of values, the mean of the two in the middle.

    NaN is left out: the pixel's median is that of its numbers, and NaN if it has none. Beside the frames and the result
    this needs about a megabyte, or a row of each frame.

    Parameters
    ----------
    frames
        Raw counts, each of shape (rows, columns) and of one type, in any memory layout.

    Returns
    -------
    np.ndarray
        float64, shape (rows, columns).

    Raises
    ------
    FrameError
        There is no frame, or they differ in shape or type, or are no images of counts.
    """
    if not frames:
        raise FrameError("a median of no frames was asked for; wanted 1 or more")
    shape, dtype = _kind(frames[0])
    for number, frame in enumerate(frames):
        if _kind(frame) != (shape, dtype):
            raise FrameError(
                f"frame {number} of a median is {frame.dtype} of shape {frame.shape}; wanted {dtype} of shape {shape} "
                "as the first"
            )
    n_rows, n_cols = shape
    median = np.empty(shape, np.float64)
    height = max(1, _BAND // (len(frames) * n_cols * dtype.itemsize))
    top = dtype.type(np.inf) if dtype.kind == "f" else dtype.type(np.iinfo(dtype).max)
    # Where NaN can be, the middle lies elsewhere in each pixel.
    pairs = _network(len(frames), dtype.kind == "f")
    for first in range(0, n_rows, height):
        end = min(first + height, n_rows)
        stack = np.empty((len(frames), end - first, n_cols), dtype)
        for number, frame in enumerate(frames):
            stack[number] = frame[first:end]
        flat = median[first:end].reshape(-1)
        median_kernels.medians(stack.reshape(len(frames), -1), pairs, top, flat)
    return median


class RunningMedian:
    """A background that moves by a fixed step towards each frame, and so stays near the median of the latest ones.

    N. J. B. McFarlane and C. P. Schofield, Machine Vision and Applications 8 (1995) 187-193. It needs one image,
    whatever the number of frames. A spot that stays for n frames moves it by n * step at most, however bright it is;
    a background that drifts faster than one step a frame is lost. ``docs/explanations/backgrounds.md`` says how to
    choose the step.

    A pixel whose frame is less than a step away takes the frame's value, so that it comes to rest on it instead of
    swinging around; where start and step are whole numbers that is McFarlane and Schofield's rule to the bit.

    Parameters
    ----------
    start
        Background to begin with, counts, shape (rows, columns); the median of the first frames.
    step
        Counts by which a pixel moves, more than 0.
    every
        Only each `every`-th frame moves it, 1 or more.
    invalid
        Where a pixel is never lit, shape (rows, columns): it is left out, as is one where start is NaN.

    Raises
    ------
    SettingsError
        Start is no image, infinite, or of another shape than invalid; step or every is out of its range.
    """

    def __init__(
        self, start: np.ndarray, *, step: float = 1.0, every: int = 1, invalid: np.ndarray | None = None
    ) -> None:
        if not 0 < step < np.inf:
            raise SettingsError(f"background_step is {step!r}; wanted a finite number of counts above 0")
        if every < 1:
            raise SettingsError(f"background_every is {every!r}; wanted a whole number, 1 or more")
        background = np.array(start, np.float64, order="C")
        if background.ndim != 2 or background.size == 0:
            raise SettingsError(f"the background has shape {background.shape}; wanted (rows, columns)")
        if invalid is not None:
            if invalid.shape != background.shape:
                raise SettingsError(
                    f"the background has shape {background.shape}, but the mask has shape {invalid.shape}"
                )
            background[invalid != 0] = np.nan
        if np.isinf(background).any():
            raise SettingsError("the background to begin with is infinite somewhere; mask those pixels instead")
        self._step = float(step)
        self._every = every
        self._n_pushed = 0
        self._background = background
        self._level: float | None = None

    @property
    def background(self) -> np.ndarray:
        """The background, counts, float64, shape (rows, columns), NaN where invalid; the next push changes it."""
        view = self._background.view()
        view.flags.writeable = False
        return view

    @property
    def level(self) -> float:
        """Mean of the background over the valid pixels, counts; NaN if none is valid."""
        if self._level is None:
            self._level = median_kernels.mean_of_numbers(self._background)
        return self._level

    def push(self, image: np.ndarray) -> bool:
        """Move the background towards an image; return whether this image was one of those that do.

        Parameters
        ----------
        image
            Raw counts, shape (rows, columns), in any byte order and memory layout; NaN moves nothing.

        Raises
        ------
        FrameError
            The image has another shape than the background, or holds no counts. It then leaves nothing behind.
        """
        shape, dtype = _kind(image)
        if shape != self._background.shape:
            raise FrameError(f"the image has shape {shape}, but the background has shape {self._background.shape}")
        self._n_pushed += 1
        if self._n_pushed % self._every:
            return False
        raw = np.ascontiguousarray(image, dtype).view()
        raw.flags.writeable = False
        median_kernels.follow(raw, self._step, self._background)
        self._level = None
        return True


def _kind(image: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type, in this machine's byte order, of an image of counts."""
    shape, dtype = tuple(image.shape), image.dtype.newbyteorder("=")
    if len(shape) != 2 or 0 in shape:
        raise FrameError(f"the image has shape {shape}; wanted (rows, columns), each 1 or more")
    if dtype.kind not in "uif" or dtype.char in "eg":
        raise FrameError(f"the image holds {dtype}; wanted integers, float32 or float64")
    return shape, dtype


@lru_cache(maxsize=8)
def _network(n: int, whole: bool) -> np.ndarray:
    """Return the comparisons that sort n values, or no more than put the middle ones in their places.

    Batcher's odd-even merge sort for any n: Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M.
    """
    pairs: list[tuple[int, int]] = []
    merged = 1
    while merged < n:
        apart = merged
        while apart:
            for start in range(apart % merged, n - apart, 2 * apart):
                firsts = range(start, min(start + apart, n - apart))
                pairs += [(i, i + apart) for i in firsts if i // (2 * merged) == (i + apart) // (2 * merged)]
            apart //= 2
        merged *= 2
    if not whole:
        # Read backwards: a comparison counts only if one of its outcomes reaches the middle.
        needed = {(n - 1) // 2, n // 2}
        counting: list[tuple[int, int]] = []
        for i, j in reversed(pairs):
            if i in needed or j in needed:
                needed |= {i, j}
                counting.append((i, j))
        pairs = counting[::-1]
    return np.array(pairs, np.int64).reshape(-1, 2)

"""What lit finders that look at a pixel's surroundings share: the form of the images, and filters of whole images."""

import numpy as np
from scipy import ndimage

from . import filter_kernels
from .errors import FrameError, SettingsError
from .frame import SparseImage, check_listed

FAINT = 2.0**-10
"""What a lit pixel without counts of its own weighs: too little to move a sum, and a power of two, so that sums of
whole counts stay exact. An intensity of 0 or less would make centroids meaningless."""

_LARGEST_SIGMA = 20.0
# Weights are whole multiples of this. Sums of counts below 2^16 (halves too) times two of them are exact in float64,
# so that no order of summation, and no machine, can change a bit of what is lit.
_WEIGHT_STEP = 2.0**-18


class ImageForm:
    """Checks images, and tells which of their pixels count; the first good image fixes shape and type of all.

    Parameters
    ----------
    invalid
        True where a pixel never counts, shape (rows, columns).
    sentinels
        Raw values that mark invalid pixels.
    """

    def __init__(self, *, invalid: np.ndarray | None = None, sentinels: tuple[int, ...] = ()) -> None:
        self.invalid = None if invalid is None else np.array(invalid, np.bool_)
        self.sentinels = sentinels
        self._like: np.ndarray | None = None

    def plain(self, image: np.ndarray | SparseImage) -> np.ndarray:
        """Return the raw counts, shape (rows, columns), dense, in this machine's byte order and C order.

        Raises
        ------
        FrameError
            The image is not two-dimensional, is of another shape or type than the first, or holds nothing but NaN; or
            it is sparse and lists a pixel outside. It then leaves nothing behind.
        """
        shape, dtype = tuple(image.shape), image.dtype.newbyteorder("=")
        if len(shape) != 2 or 0 in shape:
            raise FrameError(f"the image has shape {shape}; wanted (rows, columns), each 1 or more")
        if dtype.kind not in "uif" or dtype.char in "eg":
            raise FrameError(f"the image holds {dtype}; wanted integers, float32 or float64")
        if self.invalid is not None and self.invalid.shape != shape:
            raise FrameError(f"the image has shape {shape}, but the mask has shape {self.invalid.shape}")
        if self._like is not None and (shape, dtype) != (self._like.shape, self._like.dtype):
            raise FrameError(
                f"the image is {dtype} of shape {shape}; wanted {self._like.dtype} of shape {self._like.shape} "
                "as the frames before"
            )
        # A read-only view whatever it was: kernels are compiled for it once, not for each kind of array.
        raw = np.ascontiguousarray(_dense(image) if isinstance(image, SparseImage) else image, dtype).view()
        raw.flags.writeable = False
        if dtype.kind == "f" and np.isnan(raw).all():
            raise FrameError("the image holds nothing but NaN; look at the detector")
        self._like = np.broadcast_to(np.zeros((), dtype), shape)
        return raw

    def counting(self, raw: np.ndarray) -> np.ndarray:
        """Return where a pixel counts: valid, no sentinel, no NaN, not infinite; bool, shape (rows, columns)."""
        count = np.isfinite(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, np.bool_)
        if self.invalid is not None:
            count &= ~self.invalid
        for each in self.sentinels:
            count &= raw != each
        return count


def level_image(background: np.ndarray | float, invalid: np.ndarray | None) -> np.ndarray:
    """Return a copy of a background, float64, that is 0 where the mask is set; shape () stays ().

    Raises
    ------
    SettingsError
        It is neither a number nor of two dimensions, of another shape than the mask, or holds numbers that are not
        finite.
    """
    level = np.array(background, np.float64)
    if level.ndim not in (0, 2):
        raise SettingsError(f"the background has shape {level.shape}; wanted one number, or (rows, columns)")
    if level.ndim == 2 and invalid is not None:
        if invalid.shape != level.shape:
            raise SettingsError(f"the background has shape {level.shape}, but the mask has shape {invalid.shape}")
        level[invalid] = 0.0
    if not np.isfinite(level).all():
        raise SettingsError("the background holds numbers that are not finite; mask those pixels instead")
    return level


def mean_level(level: np.ndarray, invalid: np.ndarray | None) -> float:
    """Return the mean of what `level_image` made over the valid pixels, counts; NaN if none is valid."""
    if level.ndim == 0:
        return float(level)
    n_valid = level.size if invalid is None else int((~invalid).sum())
    # Added one after the other: a pairwise sum depends on the machine.
    return float(np.cumsum(level)[-1]) / n_valid if n_valid else float("nan")


def median_3x3(image: np.ndarray) -> np.ndarray:
    """Return the median of each pixel's 3x3 block, float64; a pixel at the image's edge stays as it is."""
    out = image.copy()
    filter_kernels.median_3x3(image, out)
    return out


def gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return an image smoothed by a Gaussian of `sigma` pixels; beyond its edge there is 0."""
    weights = _weights(sigma)[0]
    return _separable(image, weights, weights)


def laplacian_of_gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return minus the Laplacian of a smoothed image, so that spots are positive; beyond its edge there is 0."""
    smooth, curved = _weights(sigma)
    return -(_separable(image, curved, smooth) + _separable(image, smooth, curved))


def filled(region: np.ndarray) -> np.ndarray:
    """Return a region with its holes: what no path along rows and columns joins with the image's edge."""
    label, n = ndimage.label(~region)
    is_open = np.zeros(n + 1, np.bool_)
    for side in (label[0], label[-1], label[:, 0], label[:, -1]):
        is_open[side] = True
    return region | ~is_open[label]


def is_sigma(value: object) -> bool:
    """Tell whether a filter can have this width, pixels."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIGMA


def is_whole(value: object, least: int, most: int) -> bool:
    """Tell whether this is a whole number, `least` to `most`: what a recipe's options hold may be anything."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _dense(image: SparseImage) -> np.ndarray:
    check_listed(image)
    return image.dense()


def _weights(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of a Gaussian, whose sum is 1, and of its second derivative, whose sum is 0."""
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    bell = np.exp(-0.5 * (x / sigma) ** 2)
    bell /= bell.sum()
    pair = (bell, bell * (x * x - sigma * sigma) / sigma**4)
    smooth, curved = (np.round(each / _WEIGHT_STEP) * _WEIGHT_STEP for each in pair)
    smooth[radius] += 1.0 - smooth.sum()
    curved[radius] -= curved.sum()
    return smooth, curved


def _separable(image: np.ndarray, along_rows: np.ndarray, along_columns: np.ndarray) -> np.ndarray:
    once = ndimage.correlate1d(image, along_columns, axis=1, mode="constant")
    return ndimage.correlate1d(once, along_rows, axis=0, mode="constant")

"""What flows into the reducers: one frame, dense or sparse, with the motors that belong to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .errors import FrameError

if TYPE_CHECKING:
    from .bitshuffle import CompressedImage

NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseImage:
    """The pixels of one image that hold anything; all others are 0."""

    shape: tuple[int, int]
    "Rows and columns of the whole image."
    row: np.ndarray
    "Rows, int, shape (n,)."
    col: np.ndarray
    "Columns, int, shape (n,)."
    value: np.ndarray
    "Raw counts, shape (n,), of the detector's type."

    @property
    def dtype(self) -> np.dtype:
        """Type of a count."""
        return self.value.dtype

    def dense(self) -> np.ndarray:
        """Return the whole image, shape `shape`."""
        image = np.zeros(self.shape, self.dtype)
        image[self.row, self.col] = self.value
        return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image of one detector at one scan point, with its motors."""

    frame: int
    "Number in acquisition order, per detector, from 0."
    point: int
    "Scan point, from 0."
    image: "np.ndarray | SparseImage | CompressedImage"
    "Raw counts, shape (rows, columns)."
    seq_num: int = 0
    "seq_num of the event, 0 if it never came."
    detector: int = 0
    "Number of the detector in the settings, from 0."
    omega_start: float = NAN
    "Rotation when the frame began, degrees."
    omega_end: float = NAN
    "Rotation when the frame ended, degrees."
    time: float = NAN
    "Time of the event, seconds since 1970."
    roles: Mapping[str, float] = field(default_factory=dict[str, float])
    "Every other scalar role's value, in its own unit; absent where it never came."

    @property
    def omega(self) -> float:
        """Rotation at the middle of the frame, degrees."""
        return 0.5 * (self.omega_start + self.omega_end)


def check_flood(n_lit: int, max_lit: int, shape: tuple[int, int]) -> None:
    """Refuse a frame with more lit pixels than a recipe wants.

    Raises
    ------
    FrameError
        It is flooded.
    """
    if n_lit > max_lit:
        raise FrameError(
            f"flooded: {n_lit} of {shape[0] * shape[1]} pixels are lit, wanted {max_lit} at most; "
            "raise the threshold or max_lit, or look at shutter and beam stop"
        )


def check_listed(image: SparseImage) -> None:
    """Refuse a sparse image whose lists differ in length, or name a pixel outside.

    Raises
    ------
    FrameError
        It is such an image.
    """
    lists = (image.row, image.col, image.value)
    if any(each.ndim != 1 or len(each) != len(image.row) for each in lists):
        raise FrameError(f"a sparse image lists rows, columns and values of shapes {[each.shape for each in lists]}")
    for name, index, size in (("row", image.row, image.shape[0]), ("column", image.col, image.shape[1])):
        # Kernels do not look whether an index is inside.
        if index.dtype.kind not in "ui" or (len(index) and (index.min() < 0 or index.max() >= size)):
            raise FrameError(f"a sparse image lists a {name} outside 0 ... {size - 1}; its shape is {image.shape}")

"""Frames on their way to the reducer: where the image is, and what is known of it before it is read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..streaming import CompressedImage, FrameError
from .readers import Image, Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An image that came inside its event."""

    image: Any
    "Array, `ArchivedImage`, or whatever else came in its place."
    part: int | None
    "Which image of a stack; None if the event held one image."
    archived: Any = None
    "The same image as it lies in the raw archive; None if it does not."

    def shed(self) -> "Held":
        """Return it without the array, if the raw archive has it."""
        return self if self.archived is None else Held(image=self.archived, part=self.part)


@dataclass(frozen=True, slots=True, kw_only=True)
class InFile:
    """An image that lies in a file."""

    reader: Reader
    "Reader of the file."
    index: int
    "Index of the event in the file."
    part: int
    "Which image of the event."


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the descriptor says of the images of a detector."""

    shape: tuple[int, ...] = ()
    "Rows and columns; empty if it does not say."
    dtype: np.dtype | None = None
    "Type of a count; None if it does not say."
    per_event: int = 1
    "Images an event."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A frame whose motors are known and whose image can be read."""

    detector: int
    "Number of the detector in the settings."
    frame: int
    "Number of the frame; of the dark frame, if it is one."
    point: int
    "Scan point."
    seq_num: int
    "seq_num of the event, 0 if it never came."
    source: Held | InFile
    "Where the image is."
    described: Described = field(default_factory=Described)
    "What the descriptor says of it."
    is_dark: bool = False
    "Whether it is a frame of the dark stream."
    omega: tuple[float, float] = (math.nan, math.nan)
    "Rotation at the start and the end, degrees; NaN where it never came."
    time: float = math.nan
    "Time of the event, seconds since 1970."
    roles: Mapping[str, float] = field(default_factory=dict[str, float])
    "Every other scalar role's value."
    stamps: Mapping[str, float] = field(default_factory=dict[str, float])
    "When each role that its event holds was read, seconds since 1970."


def describe(key: Mapping[str, Any]) -> Described:
    """Return what a data key says of its images.

    Raises
    ------
    FrameError
        It says nothing that images can have.
    """
    sizes = [int(n) for n in (key.get("shape") or ()) if n is not None]
    per_event = sizes[0] if len(sizes) == 3 and sizes[0] else 1
    if not 0 < per_event <= 100_000:
        raise FrameError(f"the descriptor says {per_event} images an event; wanted 1 to 100000")
    shape = tuple(sizes[-2:]) if len(sizes) >= 2 and all(n > 0 for n in sizes[-2:]) else ()
    try:
        dtype = None if key.get("dtype_numpy") is None else np.dtype(key["dtype_numpy"])
    except TypeError:
        dtype = None
    return Described(
        shape=shape, dtype=dtype if dtype is not None and dtype.kind in "uif" else None, per_event=per_event
    )


def image_of(pending: Pending, read: Callable[[Reader, int], Image | tuple[CompressedImage, ...]]) -> Image:
    """Return the image of a frame, with the shape and the type that the descriptor says.

    Raises
    ------
    FrameError
        There is none, or it is not such an image.
    """
    source = pending.source
    if isinstance(source, Held):
        image = _held_image(source)
    else:
        image = read(source.reader, source.index)
        if isinstance(image, tuple) or (isinstance(image, np.ndarray) and image.ndim > 2):
            image = image[source.part]
    described = pending.described
    if described.shape and tuple(image.shape) != described.shape:
        raise FrameError(f"the image has shape {tuple(image.shape)}; its descriptor says {described.shape}")
    if isinstance(image, CompressedImage) and described.dtype not in (None, image.dtype):
        image = image.dense()
    if isinstance(image, np.ndarray) and described.dtype is not None:
        return cast_exactly(image, described.dtype)
    return image


def cast_exactly(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an image as another type, every count unchanged.

    Raises
    ------
    FrameError
        A count does not fit, or it holds no numbers.
    """
    if image.dtype == dtype:
        return image
    if image.dtype.kind not in "uifb":
        raise FrameError(f"the image holds {image.dtype}; wanted {dtype} as its descriptor says")
    if image.dtype.kind == "f" and np.isnan(image).all():
        raise FrameError(f"the image holds nothing but NaN; wanted {dtype} as its descriptor says")
    with np.errstate(invalid="ignore", over="ignore"):
        made = image.astype(dtype)
        same = made.astype(image.dtype) == image
    # From uint64 to int64 and back, what wrapped looks the same again.
    wrapped = image.dtype.kind in "ui" and dtype.kind in "ui" and bool(((made < 0) != (image < 0)).any())
    if wrapped or not (same | (np.isnan(image) if image.dtype.kind == dtype.kind == "f" else False)).all():
        raise FrameError(f"the image holds {image.dtype}, and not every value fits {dtype} as its descriptor says")
    return made


def _held_image(source: Held) -> np.ndarray:
    image = source.image
    if source.part is not None and isinstance(image, list) and len(image) > source.part:
        image, part = image[source.part], None
    else:
        part = source.part
    try:
        array = np.asarray(image)
    except (ValueError, OverflowError, TypeError):
        raise FrameError("the image is a ragged list; wanted an array of rows and columns") from None
    if array.ndim == 3 and (part is not None or len(array) == 1):
        if len(array) <= (part or 0):
            raise FrameError(f"the event holds {len(array)} images; wanted image {part}")
        return array[part or 0]
    return array

"""Documents as bytes: JSON that gives numpy values back as they were, with images kept apart."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..streaming import ArchiveError

_ARRAY, _FRAME = "$ndarray", "$frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """Stands in an event for an image that lies in the raw archive."""

    detector: str
    "Name of the detector."
    dataset: str
    "`data`, or `dark` for a frame of the dark stream."
    index: int
    "Place of the image in the dataset."
    stack: bool
    "Whether the event held a stack of images, of which this is the only one listed here."


def encode(name: str, doc: Any) -> bytes:
    """Return a document as one line of JSON.

    Raises
    ------
    ArchiveError
        The document holds something that is neither JSON nor numpy.
    """
    try:
        return json.dumps([name, doc], default=_plain).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"a {name} document cannot be archived: {error}") from None


def decode(line: bytes, image: Callable[[StoredImage], Any] = lambda stored: stored) -> tuple[str, Any]:
    """Return the document that `encode` wrote; `image` gives what stands for an image that lies in the archive."""

    def restore(mapping: dict[str, Any]) -> Any:
        if _ARRAY in mapping:
            dtype, shape, data = mapping[_ARRAY]
            return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
        if _FRAME in mapping:
            detector, dataset, index, stack = mapping[_FRAME]
            return image(StoredImage(detector=detector, dataset=dataset, index=index, stack=stack))
        return mapping

    name, doc = json.loads(line, object_hook=restore)
    return name, doc


def _plain(value: Any) -> Any:
    if isinstance(value, StoredImage):
        return {_FRAME: [value.detector, value.dataset, value.index, value.stack]}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of Python objects")
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_ARRAY: [value.dtype.str, list(value.shape), data]}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__}")

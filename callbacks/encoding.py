"""Documents as bytes: JSON that gives numpy values back as they were, with images kept apart."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_ARRAY, _FRAME = "$ndarray", "$frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """Where in the raw archive an image of an event lies."""

    detector: str
    "Name of the detector."
    dataset: str
    "`data`, or `dark` for a frame of the dark stream."
    index: int
    "Place of the image in the dataset."
    stack: bool
    "Whether the event held a stack of images, of which this is one."


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedImage:
    """Stands in an event for an image that lies in the raw archive, and is read when it is needed."""

    stored: StoredImage
    "Where it lies."
    read: Callable[[StoredImage], np.ndarray]
    "Reads it."

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(self.stored), dtype)


def encode(name: str, doc: Any) -> tuple[bytes, list[str]]:
    """Return a document as one line of JSON, and what of it is neither JSON nor numpy and is lost."""
    lost: list[str] = []

    def plain(value: Any) -> Any:
        made = _plain(value)
        if made is None:
            lost.append(_type_name(value))
            return f"(lost: {_type_name(value)})"
        return made

    try:
        line = json.dumps([name, doc], default=plain)
    except (TypeError, ValueError, RecursionError):
        # Keys that are no text, or a mapping inside itself.
        lost.clear()
        line = json.dumps([name, _only_json(doc, plain, lost, 0)], default=plain)
    return line.encode("utf-8", "backslashreplace") + b"\n", lost


def decode(line: bytes, image: Callable[[StoredImage], Any]) -> tuple[str, Any]:
    """Return the document that `encode` wrote; `image` gives what stands for an image that lies in the archive."""

    def restore(mapping: dict[str, Any]) -> Any:
        if len(mapping) == 1:
            for key, make in ((_ARRAY, _array), (_FRAME, lambda fields: image(_stored(fields)))):
                if key in mapping:
                    return make(mapping[key])
        return mapping

    name, doc = json.loads(line, object_hook=restore)
    return name, doc


def _array(fields: list[Any]) -> np.ndarray:
    dtype, shape, data = fields
    return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)


def _stored(fields: list[Any]) -> StoredImage:
    detector, dataset, index, stack = fields
    return StoredImage(detector=detector, dataset=dataset, index=index, stack=stack)


def _plain(value: Any) -> Any:
    if isinstance(value, ArchivedImage):
        stored = value.stored
        return {_FRAME: [stored.detector, stored.dataset, stored.index, stored.stack]}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_ARRAY: [value.dtype.str, list(value.shape), data]}
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        item = value.item()
        return item if isinstance(item, bool | int | float | str) else None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return None


def _only_json(value: Any, plain: Callable[[Any], Any], lost: list[str], depth: int) -> Any:
    if depth > 50:
        lost.append("something that holds itself")
        return "(lost: it holds itself)"
    if isinstance(value, Mapping):
        return {str(key): _only_json(each, plain, lost, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_only_json(each, plain, lost, depth + 1) for each in value]
    return value


def _type_name(value: Any) -> str:
    return "array of Python objects" if isinstance(value, np.ndarray) else f"value of type {type(value).__name__}"

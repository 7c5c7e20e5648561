"""Archived documents as such that refer to the raw archive for every image that lies in it."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from event_model import unpack_event_page

from .encoding import ArchivedImage
from .raw_layout import image_place
from .readers import SPARSE, file_uri


def copied_resource(doc: Mapping[str, Any], path: Path, detector: str) -> dict[str, Any]:
    """Return a StreamResource of a frame-cache as one of the copy in the raw archive."""
    place = {"dataset": f"/entry/instrument/{detector}/sparse", "chunk_shape": [1]}
    return dict(doc) | {"mimetype": SPARSE, "uri": file_uri(path), "parameters": place}


class ExternalDocuments:
    """Turns archived documents into such that refer to the raw archive for every image that lies in it.

    Parameters
    ----------
    path
        The raw archive.
    copied
        Data key to name of the detectors whose frames were copied from a frame-cache.
    images
        Data keys of the detectors' images.
    """

    def __init__(self, path: Path, copied: Mapping[str, str], images: Collection[str]) -> None:
        self._path = path
        self._copied = copied
        self._images = frozenset(images)
        self._run_start: dict[str, str] = {}
        self._resources: set[str] = set()

    def push(self, name: str, doc: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give what one document becomes."""
        if name == "descriptor":
            yield name, self._descriptor(doc)
        elif name in ("event", "event_page"):
            for event in [doc] if name == "event" else unpack_event_page(doc):  # pyright: ignore[reportArgumentType]
                yield from self._event(dict(event))
        elif name == "stream_resource" and doc["data_key"] in self._copied:
            yield name, copied_resource(doc, self._path, self._copied[doc["data_key"]])
        else:
            yield name, doc

    def _descriptor(self, doc: dict[str, Any]) -> dict[str, Any]:
        inside = {key for key in self._images & doc["data_keys"].keys() if "external" not in doc["data_keys"][key]}
        if not inside:
            return doc
        self._run_start[doc["uid"]] = doc["run_start"]
        keys = {key: _external_key(value) if key in inside else value for key, value in doc["data_keys"].items()}
        return doc | {"data_keys": keys}

    def _event(self, doc: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if doc["descriptor"] not in self._run_start:
            yield "event", doc
            return
        for key in self._images & doc["data"].keys():
            # What was no image stayed in its document; there is nothing to refer to.
            if isinstance(_first(doc["data"][key]), ArchivedImage):
                yield from self._reference(doc, key, doc["data"][key])
        rest = {part: {k: v for k, v in doc[part].items() if k not in self._images} for part in ("data", "timestamps")}
        yield "event", doc | rest

    def _reference(self, doc: dict[str, Any], key: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        stored = _first(value).stored
        per_event = len(value) if isinstance(value, list) else 1
        uid = f"{doc['descriptor']}-{key}"
        if uid not in self._resources:
            self._resources.add(uid)
            yield (
                "stream_resource",
                {
                    "uid": uid,
                    "data_key": key,
                    "run_start": self._run_start[doc["descriptor"]],
                    "mimetype": "application/x-hdf5",
                    "uri": file_uri(self._path),
                    "parameters": {"dataset": f"/{image_place(stored)}", "chunk_shape": [1]},
                },
            )
        index, seq_num = stored.index // per_event, int(doc["seq_num"])
        yield (
            "stream_datum",
            {
                "uid": f"{uid}/{index}",
                "stream_resource": uid,
                "descriptor": doc["descriptor"],
                "indices": {"start": index, "stop": index + 1},
                "seq_nums": {"start": seq_num, "stop": seq_num + 1},
            },
        )


def _external_key(key: Mapping[str, Any]) -> dict[str, Any]:
    shape = [int(n) for n in key.get("shape", [])]
    return dict(key) | {"external": "STREAM:", "shape": shape if len(shape) == 3 else [1, *shape]}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value

"""Reads raw archives."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import ArchiveError, SettingsError
from .encoding import ArchivedImage, StoredImage, decode
from .external import copied_resource
from .hdf5 import dataset, open_growing, subgroup
from .raw_layout import FORMATS, image_place, read_line
from .readers import file_uri
from .settings import Settings, load_settings


class RawArchiveReader:
    """Reads a raw archive: finished, still growing, or left behind by a killed process.

    Raises
    ------
    ArchiveError
        The file is not a raw archive, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ArchiveError(f"{path}: no such file; wanted a raw archive")
        try:
            self._file = open_growing(path)
            entry = subgroup(self._file, "entry").attrs
            if entry.get("format") not in FORMATS:
                raise KeyError("format")
            self.run_uid = str(entry["run_uid"])
            self._settings = str(entry["settings"])
            self.finished = bool(entry["finished"])
        except Exception as error:
            raise ArchiveError(f"{path}: not a raw archive that can be read ({' '.join(str(error).split())})") from None

    def __enter__(self) -> "RawArchiveReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(dataset(self._file, "entry/documents/end"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def n_points(self) -> int | None:
        """Return the number of scan points of a finished archive."""
        return len(dataset(self._file, "entry/scan/frame")) if "entry/scan/frame" in self._file else None

    def settings(self) -> Settings:
        """Return the settings with which the run was archived.

        Raises
        ------
        SettingsError
            They are of another version.
        """
        try:
            return load_settings(json.loads(self._settings))
        except SettingsError as error:
            raise SettingsError(f"{self.path}: settings inside: {error}") from None

    def documents(self, *, lazy: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the documents as they came; references to files that were copied lead here.

        Parameters
        ----------
        lazy
            Give images as `ArchivedImage`, which are read when they are needed, instead of arrays.
        """
        for index in range(len(self)):
            name, doc = decode(read_line(self._file, index), self._lazy if lazy else self._image)
            yield name, self._to_copy(doc) if name in ("stream_resource", "resource") else doc

    @property
    def file(self) -> h5py.File:
        """The open file."""
        return self._file

    def _lazy(self, stored: StoredImage) -> ArchivedImage:
        return ArchivedImage(stored=stored, read=self._image)

    def _image(self, stored: StoredImage) -> np.ndarray:
        return dataset(self._file, image_place(stored))[stored.index]

    def _to_copy(self, doc: dict[str, Any]) -> dict[str, Any]:
        instrument = subgroup(self._file, "entry/instrument")
        for name in instrument:
            detector = subgroup(instrument, name)
            if detector.attrs.get("data_key") == doc.get("data_key", "") and "sparse" in detector:
                return copied_resource(doc, self.path, name)
            copied: dict[str, str] = json.loads(str(detector.attrs.get("copied", "{}")))
            # A resource of the older kind is known by a longer uid, which holds its own.
            place = next((place for uid, place in copied.items() if str(doc["uid"]) in uid), None)
            if place is not None:
                return _in_archive(doc, self.path, place)
        return doc


def _in_archive(doc: dict[str, Any], path: Path, place: str) -> dict[str, Any]:
    """Return a resource of either kind as one of the copy in the raw archive."""
    if "mimetype" in doc:
        parameters = {"dataset": place, "chunk_shape": [1]}
        return doc | {"mimetype": "application/x-hdf5", "uri": file_uri(path), "parameters": parameters}
    kept = {key: value for key, value in doc["resource_kwargs"].items() if key == "frame_per_point"}
    where = {"root": "", "resource_path": str(path.absolute()), "resource_kwargs": kept | {"dataset": place}}
    return doc | {"spec": "AD_HDF5", **where}

"""Reads raw archives."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import ArchiveError, SettingsError
from .encoding import ArchivedImage, StoredImage, decode
from .external import copied_resource
from .hdf5 import dataset, open_growing, subgroup
from .raw_layout import FORMAT, image_place, read_line
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
            if entry.get("format") != FORMAT:
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
            yield name, self._to_copy(doc) if name == "stream_resource" else doc

    def _lazy(self, stored: StoredImage) -> ArchivedImage:
        return ArchivedImage(stored=stored, read=self._image)

    def _image(self, stored: StoredImage) -> np.ndarray:
        return dataset(self._file, image_place(stored))[stored.index]

    def _to_copy(self, doc: dict[str, Any]) -> dict[str, Any]:
        instrument = subgroup(self._file, "entry/instrument")
        for name in instrument:
            detector = subgroup(instrument, name)
            if detector.attrs.get("data_key") == doc["data_key"] and "sparse" in detector:
                return copied_resource(doc, self.path, name)
        return doc

"""Writes frames to HDF5 as an area detector does: one growing dataset that others read meanwhile (SWMR)."""

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from ..streaming.errors import ArchiveError
from .frames import Frame

DATASET = "/entry/data/data"


class SwmrWriter:
    """One file of frames, shape (n, rows, columns), a chunk a frame; a frame is on disk when `append` returns.

    Parameters
    ----------
    folder
        Made if it does not exist.
    stem
        The file is `<stem>_<number>.h5`, with the first number that is free.
    shape
        Rows, columns.
    compress
        Bitshuffle and LZ4, as detectors do.

    Raises
    ------
    ArchiveError
        The file cannot be made.
    """

    def __init__(self, folder: Path, stem: str, shape: tuple[int, int], *, compress: bool) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = _free_path(folder, stem)
            # h5py's "x" refuses a file that exists, so that two detectors cannot write into one.
            # As areaDetector writes: what HDF5 1.10 can read.
            self._file = h5py.File(self.path, "x", libver=("v110", "latest"))
        except OSError as error:
            raise ArchiveError(
                f"detector file {stem}_*.h5 in {folder} cannot be made: {error}; check the folder"
            ) from error
        group = self._file.require_group("entry")
        group.attrs["NX_class"] = "NXentry"
        filters = hdf5plugin.Bitshuffle(cname="lz4") if compress else {}
        self._data = self._file.create_dataset(
            DATASET, (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=np.uint16, **filters
        )
        self._data.parent.attrs["NX_class"] = "NXdata"
        self._data.parent.attrs["signal"] = "data"
        self._file.swmr_mode = True

    @property
    def n_frames(self) -> int:
        """Frames on disk."""
        return int(self._data.shape[0])

    def append(self, frame: Frame) -> None:
        """Write one frame, shape (rows, columns), and flush it."""
        n = self.n_frames
        self._data.resize(n + 1, axis=0)
        self._data[n] = frame
        self._data.flush()

    def close(self) -> None:
        """Close the file; it stays readable."""
        self._file.close()


def _free_path(folder: Path, stem: str) -> Path:
    number = 0
    while (path := folder / f"{stem}_{number:06d}.h5").exists():
        number += 1
    return path

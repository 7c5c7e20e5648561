"""Adapter that runs inside the Tiled server and reads raw frames behind a header: the GE files of APS 1-ID."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from tiled.adapters.utils import DataNotReadyError, IncompatibleShapeError
from tiled.ndslice import NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.data_source import DataSource
from tiled.utils import path_from_uri

from .adapters_frames import EVERYTHING, FramesAdapter
from .archives_tables import in_served_folder

_FORBIDDEN = 403


class RawFramesAdapter(FramesAdapter):
    """Frames of plain counts behind a header, in one file or in several, one after the other; they may still grow.

    Parameters
    ----------
    paths
        The files, in their order.
    structure
        Shape (frames, rows, columns), or (events, frames of an event, rows, columns).
    shape
        Rows and columns of a frame.
    dtype
        Type of a count, as numpy spells it.
    header_bytes
        Bytes before the first frame of each file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        structure: ArrayStructure,
        shape: Sequence[int],
        dtype: str,
        header_bytes: int,
        *,
        metadata: Any = None,
        specs: Any = None,
    ) -> None:
        super().__init__(structure, metadata=metadata, specs=specs)
        if tuple(structure.shape[-2:]) != tuple(shape):
            raise IncompatibleShapeError(f"{paths[0]}: frames of {tuple(shape)} came; wanted {structure.shape[-2:]}")
        self._paths = tuple(paths)
        self._dtype = np.dtype(dtype)
        self._header = header_bytes

    @classmethod
    def from_catalog(
        cls,
        data_source: DataSource[ArrayStructure],
        node: Any,
        /,
        shape: Sequence[int],
        dtype: str,
        header_bytes: int,
        **_: Any,
    ) -> "RawFramesAdapter":
        """Return the adapter of registered files, or answer 403 if one leads out of the folders of the server."""
        assets = sorted(data_source.assets, key=lambda asset: asset.num or 0)
        paths = [path_from_uri(asset.data_uri) for asset in assets]
        for path in paths:
            if not in_served_folder(path):
                raise HTTPException(_FORBIDDEN, f"{path} lies outside the folders of this server; wanted one inside")
        return cls(
            paths,
            data_source.structure,
            shape,
            dtype,
            header_bytes,
            metadata=node.metadata_,
            specs=node.specs,
        )

    def read(self, slice: NDSlice = EVERYTHING) -> np.ndarray:  # noqa: A002  the name is Tiled's
        """Return part of the frames; of the files only those frames are read.

        Raises
        ------
        DataNotReadyError
            A frame is registered that the files do not hold yet.
        """
        shape = self._structure.shape
        first, *rest = (slice or EVERYTHING).expand_for_shape(shape)
        wanted = [first] if isinstance(first, int) else list(range(shape[0])[first])
        of_a_row = prod(shape[1:-2])
        rows = np.empty((len(wanted), *shape[1:]), self._dtype)
        ends = list(accumulate(self._n_frames(path) for path in self._paths))
        for row, number in zip(rows, wanted, strict=True):
            for image, frame in zip(row.reshape(-1, *shape[-2:]), range(number * of_a_row, ends[-1]), strict=False):
                place = bisect_right(ends, frame)
                self._read_into(image, self._paths[place], frame - (ends[place - 1] if place else 0))
            if (number + 1) * of_a_row > ends[-1]:
                raise DataNotReadyError(f"{self._paths[-1]}: {ends[-1]} frames came; wanted {(number + 1) * of_a_row}")
        found = rows[(np.s_[:], *rest)]
        return found[0] if isinstance(first, int) else found

    @property
    def _frame_bytes(self) -> int:
        return prod(self._structure.shape[-2:]) * self._dtype.itemsize

    def _n_frames(self, path: Path) -> int:
        if not path.exists():
            return 0
        return max(0, path.stat().st_size - self._header) // self._frame_bytes

    def _read_into(self, image: np.ndarray, path: Path, frame: int) -> None:
        # Not mapped into memory: a file that is cut meanwhile would end the server.
        with path.open("rb") as file:
            file.seek(self._header + frame * self._frame_bytes)
            image[...] = np.frombuffer(file.read(self._frame_bytes), self._dtype).reshape(image.shape)

"""What adapters of frames that run inside the Tiled server have in common."""

from abc import abstractmethod

import numpy as np
from tiled.adapters.core import Adapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily

EVERYTHING = NDSlice(...)


class FramesAdapter(Adapter[ArrayStructure]):
    """Frames of a detector as one array, the first axis along them; read as far as they are asked for."""

    structure_family = StructureFamily.array

    @property
    def dims(self) -> tuple[str, ...] | None:
        """Names of the axes."""
        return self._structure.dims

    @abstractmethod
    def read(self, slice: NDSlice = EVERYTHING) -> np.ndarray:  # noqa: A002  the name is Tiled's
        """Return part of the frames."""

    def read_block(self, block: NDBlock, slice: NDSlice = EVERYTHING) -> np.ndarray:  # noqa: A002
        """Return part of one chunk."""
        whole = self.read(block.slice_from_chunks(self._structure.chunks))
        return whole[tuple(slice)] if slice else whole

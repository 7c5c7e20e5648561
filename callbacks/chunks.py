"""Images taken from HDF5 files as they lie there, so that neither HDF5's lock nor Python's is held meanwhile."""

import os
from collections.abc import Sequence

import h5py
import numpy as np

from ..streaming.bitshuffle import CompressedImage

_BITSHUFFLE = 32008
_LZ4 = 2
"What the filter's client data say at [4]; 0 is no compression, 3 is zstd."


class CompressedFrames:
    """Reads the images of a dataset without decompressing them.

    HDF5 decompresses under its global lock, one image at a time whatever the number of threads. Reading the bytes of a
    chunk takes that lock for a fraction of a millisecond only.

    Parameters
    ----------
    data
        A dataset for which `is_compressed` is true. It may still grow; who reads it refreshes it.
    """

    def __init__(self, data: h5py.Dataset) -> None:
        self._data = data
        self._shape = (int(data.shape[-2]), int(data.shape[-1]))

    def read(self, *place: int) -> CompressedImage | None:
        """Return the image at an index of each leading axis; None if it has to be read the plain way.

        That is when it was never written, so that it holds the fill value, or was written past the filter, or when the
        index lies outside.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        offset = (*place, 0, 0)
        inside = all(0 <= i < n for i, n in zip(place, self._data.shape, strict=False))
        if not inside or self._data.id.get_chunk_info_by_coord(offset).byte_offset is None:
            return None
        mask, chunk = self._data.id.read_direct_chunk(offset)
        return None if mask else CompressedImage(shape=self._shape, dtype=self._data.dtype, chunk=chunk)


class PlainFrames:
    """Reads the images of a dataset that is not compressed, past HDF5, which says where they lie.

    h5py holds Python's lock while it reads, 2.2 ms for an image of 2048 x 2048 and 16 bits; all that time the RunEngine
    and its motors stand still. To read the same bytes ourselves takes 0.7 ms, and holds up nobody.

    Parameters
    ----------
    data
        A dataset for which `is_plain` is true. It may still grow; who reads it refreshes it.
    """

    def __init__(self, data: h5py.Dataset) -> None:
        self._data = data
        self._shape = (int(data.shape[-2]), int(data.shape[-1]))

    def read(self, places: Sequence[tuple[int, ...]]) -> np.ndarray | None:
        """Return images, shape (places, rows, columns); None if they have to be read the plain way.

        That is when one was never written, so that it holds the fill value, when an index lies outside, or when this
        process writes the file itself: what HDF5 has not flushed yet, only HDF5 knows.

        Parameters
        ----------
        places
            Index along each leading axis, for each image.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        file = self._data.file.id
        # The intent is that of all who have the file open in this process.
        if file.get_intent() & h5py.h5f.ACC_RDWR:
            return None
        offsets = [self._offset(place) for place in places]
        images = np.empty((len(places), *self._shape), self._data.dtype)
        handle = file.get_vfd_handle()
        for image, offset in zip(images, offsets, strict=True):
            if offset is None or not _fill(image, handle, offset):
                return None
        return images

    def _offset(self, place: tuple[int, ...]) -> int | None:
        data = self._data
        leading = data.shape[:-2]
        if not all(0 <= i < n for i, n in zip(place, leading, strict=True)):
            return None
        if data.chunks is not None:
            return data.id.get_chunk_info_by_coord((*place, 0, 0)).byte_offset
        first = data.id.get_offset()
        n_bytes = self._shape[0] * self._shape[1] * data.dtype.itemsize
        return None if first is None else first + int(np.ravel_multi_index(place, leading)) * n_bytes


def _fill(image: np.ndarray, handle: int, offset: int) -> bool:
    """Read an image from a place of an open file; tell whether the file is long enough."""
    left = image.reshape(-1).view(np.uint8).data
    while left:
        n = os.preadv(handle, [left], offset)
        if not n:
            return False
        left, offset = left[n:], offset + n
    return True


def is_plain(data: h5py.Dataset) -> bool:
    """Tell whether a dataset holds images as `PlainFrames` reads them.

    Plain numbers, not compressed, in one piece or one image a chunk, in a file that HDF5 keeps as one ordinary file.
    """
    if data.is_virtual or data.ndim < 3 or data.external is not None or not data.size or not _is_of_plain_numbers(data):
        return False
    created = data.id.get_create_plist()
    layout = created.get_layout()
    in_place = layout == h5py.h5d.CONTIGUOUS or (layout == h5py.h5d.CHUNKED and data.chunks == _one_image(data))
    file = data.file
    return in_place and not created.get_nfilters() and file.driver == "sec2" and not file.userblock_size


def is_compressed(data: h5py.Dataset) -> bool:
    """Tell whether a dataset holds images as `CompressedFrames` reads them.

    Each chunk is one image of plain numbers, and bitshuffle with lz4 is the only filter.
    """
    if data.chunks is None or data.is_virtual or data.ndim < 3:
        return False
    filters = data.id.get_create_plist()
    if data.chunks != _one_image(data) or not _is_of_plain_numbers(data) or filters.get_nfilters() != 1:
        return False
    code, _, client, _ = filters.get_filter(0)
    return code == _BITSHUFFLE and len(client) > 4 and client[2] == data.dtype.itemsize and client[4] == _LZ4


def _one_image(data: h5py.Dataset) -> tuple[int, ...]:
    return (1,) * (data.ndim - 2) + data.shape[-2:]


def _is_of_plain_numbers(data: h5py.Dataset) -> bool:
    # A type that is unlike numpy's, such as 12 bits in 16, HDF5 itself has to convert.
    return (
        data.dtype.kind in "uif" and data.dtype.itemsize <= 8 and data.id.get_type() == h5py.h5t.py_create(data.dtype)
    )

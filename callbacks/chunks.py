"""Images taken from HDF5 files as they lie there, bitshuffle-lz4, so that HDF5's lock is not held while they decode."""

import h5py

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


def is_compressed(data: h5py.Dataset) -> bool:
    """Tell whether a dataset holds images as `CompressedFrames` reads them.

    Each chunk is one image of plain numbers, and bitshuffle with lz4 is the only filter.
    """
    if data.chunks is None or data.is_virtual or data.ndim < 3:
        return False
    one_image = (1,) * (data.ndim - 2) + data.shape[-2:]
    # A type that is unlike numpy's, such as 12 bits in 16, HDF5 itself has to convert.
    plain = (
        data.dtype.kind in "uif" and data.dtype.itemsize <= 8 and data.id.get_type() == h5py.h5t.py_create(data.dtype)
    )
    filters = data.id.get_create_plist()
    if data.chunks != one_image or not plain or filters.get_nfilters() != 1:
        return False
    code, _, client, _ = filters.get_filter(0)
    return code == _BITSHUFFLE and len(client) > 4 and client[2] == data.dtype.itemsize and client[4] == _LZ4

"""Darks, flat fields and masks from files: .npy, TIFF and HDF5."""

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ..streaming import SettingsError
from ..streaming.medians import median_of
from .hdf5 import open_growing

_TIFF = (".tif", ".tiff")
_SPEC = re.compile(r"(?P<file>.*?\.(?:h5|hdf5|hdf|nxs))(?::(?P<key>.+))?", re.IGNORECASE)
_WANTED = "wanted a .npy, .tif, .tiff or .h5 file of images, or file.h5:/path/to/dataset"

Stack = Sequence[np.ndarray] | h5py.Dataset


def load_image(spec: Path | str, *, reduce: Literal["mean", "median"] | None = None) -> np.ndarray:
    """Return the image that a file holds.

    Parameters
    ----------
    spec
        A .npy or TIFF file; an HDF5 file that holds exactly one dataset of images, or ``file.h5:/path/to/dataset``.
        Relative to the current folder.
    reduce
        What becomes of several images, pixel by pixel: their `mean` in float64, frame after frame, or their `median`.
        With None, a file of more than one is an error. A single image keeps its type.

    Returns
    -------
    np.ndarray
        Shape (rows, columns).

    Raises
    ------
    SettingsError
        The file cannot be read, or does not hold what is wanted; the message names file and dataset.
    """
    with _opened(spec) as (name, images):
        if len(images) == 1:
            # A copy: a file that is replaced later must not change what was read.
            return np.array(images[0])
        if reduce is None:
            raise SettingsError(f"{name} holds {len(images)} images; wanted one")
        if reduce == "median":
            return median_of([np.asarray(image) for image in _each(images)])
        total = np.zeros(images[0].shape, np.float64)
        for image in _each(images):
            total += image
        return total / len(images)


def load_stack(spec: Path | str) -> np.ndarray:
    """Return all images of a file, shape (n, rows, columns), n 1 or more; otherwise as `load_image`.

    For `bad_pixels`, which must see what a detector marked before an average hides it.
    """
    with _opened(spec) as (_, images):
        return np.stack([np.asarray(image) for image in _each(images)])


def _each(images: Stack) -> Iterator[np.ndarray]:
    # One after the other, so that a long HDF5 stack is never whole in memory.
    return (images[i] for i in range(len(images)))


@contextmanager
def _opened(spec: Path | str) -> Generator[tuple[str, Stack], None, None]:
    """Give the file's name for messages, and its images, as long as the file is open."""
    name = str(spec)
    try:
        suffix = Path(name).suffix.lower()
        hdf5 = _SPEC.fullmatch(name)
        if hdf5:
            with open_growing(Path(hdf5["file"])) as file:
                dataset = _dataset(file, hdf5["file"], hdf5["key"])
                name = f"{hdf5['file']}:{dataset.name}"
                yield name, _checked(name, dataset)
        elif suffix == ".npy":
            yield name, _checked(name, np.load(name, mmap_mode="r", allow_pickle=False))
        elif suffix in _TIFF:
            yield name, _checked(name, _tiff(name))
        else:
            raise SettingsError(f"{name}: {_WANTED}")
    except SettingsError:
        raise
    except Exception as error:
        # A damaged file makes its reader raise anything.
        why = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{name} cannot be read ({why}); {_WANTED}") from None


def _checked(name: str, array: Any) -> Stack:
    if array.dtype.kind not in "buif":
        raise SettingsError(f"{name} holds {array.dtype}; wanted numbers")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise SettingsError(f"{name} has shape {array.shape}; wanted (rows, columns), or (images, rows, columns)")
    return array[()][np.newaxis] if array.ndim == 2 else array


def _dataset(file: h5py.File, name: str, key: str | None) -> h5py.Dataset:
    found = _datasets(file)
    if key is None:
        if len(found) != 1:
            raise SettingsError(f"{name} holds {len(found)} datasets of images {found[:5]}; wanted {name}:/path/of/one")
        key = found[0]
    dataset = file.get(key)
    if not isinstance(dataset, h5py.Dataset):
        raise SettingsError(f"{name}:{key} is no dataset; the file's datasets of images are {found[:5]}")
    return dataset


def _datasets(file: h5py.File) -> list[str]:
    """Return the paths of all datasets that could be images."""
    found: list[str] = []

    def look(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3) and item.dtype.kind in "buif":
            found.append(f"/{path}")

    file.visititems(look)
    return found


def _tiff(name: str) -> np.ndarray:
    try:
        import tifffile
    except ImportError:
        raise SettingsError(f"{name}: TIFF needs the package tifffile; install it, or give a .npy file") from None
    with tifffile.TiffFile(name) as file:
        if len(file.series) != 1 or not file.series[0].axes.endswith("YX"):
            axes = [each.axes for each in file.series]
            raise SettingsError(f"{name} holds images of axes {axes}; wanted one stack of (rows, columns)")
        return file.series[0].asarray()

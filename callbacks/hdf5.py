"""What every module does with HDF5: open a file that may still grow, and reach groups and datasets by their kind."""

import errno
import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import hdf5plugin
import numpy as np

from ..streaming import ArchiveError

RESERVE = 16 << 20
"""Bytes of the disk that are left free, so that a file can always be closed."""

BITSHUFFLE: dict[str, Any] = dict(hdf5plugin.Bitshuffle(cname="lz4"))
"""Keywords that make a dataset bitshuffle-lz4."""


SWMR_SUPERBLOCK = 3
"""First version of the superblock of files that can be read while they are written."""

WRITTEN_FOR = ("v110", "latest")
"""`libver` of files to write: HDF5 1.10, the first whose files can be read while they are written. With `latest`, HDF5
2.0 lays out compressed and virtual datasets as no older library, nor any program built on one, can open them."""

_ABANDONED: list[Any] = []
_PATIENCE = 10.0
"Seconds that a reader may keep a file from being opened to write; ours let go after milliseconds."


class NotYet(Exception):
    """The file, or what is wanted of it, is not there yet."""


def open_growing(path: Path) -> h5py.File:
    """Open a file to read, whether it is finished, still written, or left behind by a killed process.

    Raises
    ------
    NotYet
        It is not there, or not readable yet.
    """
    problem: OSError | None = None
    # Locked first: a writer in this very process lets a reader in only if both lock alike. Unlocked is for file
    # systems that know no locks, and for what a killed writer left locked.
    for locking, swmr in itertools.product((None, False), (True, False)):
        try:
            return h5py.File(path, "r", swmr=swmr, libver="latest", locking=locking)
        except OSError as error:
            problem = error
    raise NotYet(str(problem))


def refresh(data: h5py.Dataset) -> bool:
    """Take in how far a dataset has grown; tell whether that can be done, or the file must be opened anew.

    Only chunked datasets of files of the kind that SWMR wants can be refreshed. In one of an older kind it damages what
    the library knows of the file: it then says that chunks are missing, or ends the process.
    """
    file = data.file
    can = file.swmr_mode and data.chunks is not None and file.id.get_create_plist().get_version()[0] >= SWMR_SUPERBLOCK
    if can:
        data.refresh()
    return can


def open_to_write(path: Path, mode: Literal["r+", "a"]) -> h5py.File:
    """Open a file to write, when whoever reads it just now has let go of it.

    Raises
    ------
    OSError
        It cannot be opened, or another program kept it locked for ten seconds.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return h5py.File(path, mode, libver=WRITTEN_FOR)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BlockingIOError(
                    errno.EAGAIN, f"another program kept {path} open for {_PATIENCE:.0f} s; close it there"
                ) from None
        time.sleep(0.02)


def subgroup(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a group of a group.

    Raises
    ------
    KeyError
        There is none of that name.
    """
    found = parent[name]
    if not isinstance(found, h5py.Group):
        raise KeyError(f"{name} is no group")
    return found


def dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset of a group.

    Raises
    ------
    KeyError
        There is none of that name.
    """
    found = parent[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is no dataset")
    return found


def nexus_group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """Return a group of a group with its NeXus class, made if it is not there."""
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def write_rows(data: h5py.Dataset, first: int, values: np.ndarray | Sequence[Any]) -> None:
    """Write rows from `first` on; a second time after a failure writes the same rows to the same place."""
    rows = np.ascontiguousarray(values)
    data.id.set_extent((first + len(rows), *data.shape[1:]))
    if len(rows):
        # Past h5py's indexing, which for a single row takes 106 us; this 36.
        space = data.id.get_space()
        space.select_hyperslab((first, *[0] * (rows.ndim - 1)), rows.shape)
        data.id.write(h5py.h5s.create_simple(rows.shape), space, rows)


def check_room(path: Path, n_bytes: int) -> None:
    """Refuse to write to a disk that is nearly full, before HDF5 tries.

    The library crashes when it closes a file after a write failed for want of room, and the RunEngine with it.

    Raises
    ------
    ArchiveError
        Fewer than `RESERVE` bytes would be left.
    """
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes + RESERVE:
        raise ArchiveError(
            errno.ENOSPC,
            f"No space left on device: {free >> 20} MB are free, {n_bytes >> 20} MB and {RESERVE >> 20} MB in reserve "
            f"are wanted for {path}",
        )


def abandon(*parts: Any) -> None:
    """Keep a file, and what belongs to it, that HDF5 failed to write: closing it could crash the process."""
    _ABANDONED.append(parts)

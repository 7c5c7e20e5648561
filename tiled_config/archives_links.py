"""Keeps HDF5 files from leading a server out of its folders: external links, virtual datasets, external storage.

HDF5 opens whatever file a link names, with the rights of the server. A link is followed here one step at a time, and
each file it could open must lie in a folder that the server may serve.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from ..streaming import ArchiveError

_MOST_LINKS = 16
"Links of links that are followed; more are a loop."

Holds = Callable[[Path], bool]
"""Tells whether a file may be read."""


def open_archive(path: Path) -> h5py.File:
    """Open a file to read, whether it is finished, still written, or left behind by a killed process.

    Raises
    ------
    ArchiveError
        It cannot be opened.
    """
    problem: OSError | None = None
    # Locked first: a writer in this very process lets a reader in only if both lock alike.
    for locking, swmr in itertools.product((None, False), (True, False)):
        try:
            return h5py.File(path, "r", swmr=swmr, libver="latest", locking=locking)
        except OSError as error:
            problem = error
    raise ArchiveError(f"{path}: cannot be opened: {' '.join(str(problem).split())}")


def check_links(path: Path, name: str, holds: Holds, *, deep: bool = False) -> None:
    """Refuse a group or dataset that leads, by any link on the way to it, to a file that may not be read.

    Parameters
    ----------
    path
        The file.
    name
        Path of the group or dataset in it.
    holds
        Tells whether a file may be read.
    deep
        True looks at everything below a group, too.

    Raises
    ------
    ArchiveError
        Something leads out, or there is a loop.
    """
    _Check(holds, deep).follow(path, name, _MOST_LINKS)


class _Check:
    def __init__(self, holds: Holds, deep: bool) -> None:
        self._holds = holds
        self._deep = deep
        self._seen: set[tuple[Path, str]] = set()
        self._groups: set[tuple[Path, int]] = set()

    def follow(self, path: Path, name: str, left: int) -> None:
        if not self._holds(path):
            raise ArchiveError(f"{path} lies outside the folders of this server; wanted a file inside them")
        if left == 0:
            raise ArchiveError(f"{path}: {name} is a link of more than {_MOST_LINKS} links")
        if (path, name) in self._seen or not path.exists():
            return  # A file that is not there is no danger, and may come
        self._seen.add((path, name))
        with open_archive(path) as file:
            self._look(self._descend(file, path, name, left), path, left)

    def _look(self, found: Any, path: Path, left: int) -> None:
        if isinstance(found, h5py.Group) and self._deep:
            self._group(found, path, left)
        elif isinstance(found, h5py.Dataset):
            self._dataset(found, path, left)

    def _group(self, group: h5py.Group, path: Path, left: int) -> None:
        # By its place in the file: a group may hold itself.
        place = (path, int(h5py.h5o.get_info(group.id).addr))
        if place not in self._groups:
            self._groups.add(place)
            for key in list(group):
                if isinstance(group.get(key, getlink=True), h5py.HardLink):
                    self._look(group[key], path, left)
                else:
                    self.follow(path, f"{group.name}/{key}", left)

    def _descend(self, file: h5py.File, path: Path, name: str, left: int) -> Any:
        here: Any = file
        parts = [part for part in name.split("/") if part]
        for place, part in enumerate(parts):
            link: Any = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
            rest = "/".join(parts[place + 1 :])
            if isinstance(link, h5py.ExternalLink):
                for target in _candidates(path, str(link.filename)):
                    self.follow(target, f"{link.path}/{rest}", left - 1)
                return None
            if isinstance(link, h5py.SoftLink):
                to = link.path if link.path.startswith("/") else f"{here.name}/{link.path}"
                self.follow(path, f"{to}/{rest}", left - 1)
                return None
            if link is None:
                return None
            here = here[part]
        return here

    def _dataset(self, data: h5py.Dataset, path: Path, left: int) -> None:
        if data.external:
            raise ArchiveError(f"{path}: {data.name} has its bytes in foreign files, which may be any; it is not read")
        if data.is_virtual:
            sources = {(str(each.file_name), str(each.dset_name)) for each in data.virtual_sources()}
            for filename, name in sources:
                if filename == ".":
                    self.follow(path, name, left - 1)
                elif "%" in filename:
                    raise ArchiveError(f"{path}: {data.name} takes in files by the pattern {filename}; it is not read")
                else:
                    for target in _candidates(path, filename):
                        self.follow(target, name, left - 1)


def _candidates(path: Path, filename: str) -> Iterator[Path]:
    """Give the files that HDF5 could open for a name in a file: as it is, and beside the file."""
    yield path.parent / filename  # for an absolute name just that
    if (here := Path(filename).absolute()).exists():
        yield here
    if (beside := path.parent / Path(filename).name).exists():
        yield beside

"""Keeps a catalogue inside its folders: which files are noted, and which are opened, for whom.

Measured with tiled 0.2.20. It compares paths as they are spelled, and only those of assets that say which parameter
they are for: without one, or named in the parameters of a data source, any file is served. So is a file that a link,
an image, a directory of chunks leads to. A data source can be changed through any node that one may write to, can be
given the rows of another's table, and be called the server's own, whose files are deleted with their node.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
from starlette.exceptions import HTTPException
from tiled.catalog.adapter import STRUCTURES
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Management
from tiled.utils import path_from_uri

from .archives_tables import inside, refuse_strays
from .folders import DATABASES, Folders
from .formats import ARCHIVE_TABLE, SQL_TABLE

_RAGGED = "application/x-ragged+sql"
_ROWS = ("table_name", "dataset_id")
_KEPT = "kept"


def keep_inside(root: Any, folders: Folders) -> None:
    """Let a catalogue take note of, and open, files of these folders only."""
    root.context.adapters_by_mimetype = _CheckedAdapters(root.context.adapters_by_mimetype, folders)
    root.context.hedmlive_folders = folders
    # All nodes but this one are made from the table.
    root.__class__ = STRUCTURES[StructureFamily.container]


def _refuse(reason: str) -> None:
    raise HTTPException(HTTPStatus.FORBIDDEN, reason)


# ---------------------------------------------------------------- what is opened


class _CheckedAdapters(Mapping[str, Any]):
    """Tiled's adapters by media type, each of which looks first."""

    def __init__(self, adapters: Mapping[str, Any], folders: Folders) -> None:
        self._adapters = adapters
        self._folders = folders
        self._made: dict[str, Any] = {}

    def __getitem__(self, mimetype: str) -> Any:
        if mimetype not in self._made:
            self._made[mimetype] = _checked_adapter(self._adapters[mimetype], self._folders)
        return self._made[mimetype]

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)


def _checked_adapter(kind: Any, folders: Folders) -> Any:
    def from_catalog(cls: Any, data_source: Any, node: Any, /, **parameters: Any) -> Any:
        tags = {tag.name for tag in node.access_tags}
        uris = [*(asset.data_uri for asset in data_source.assets), *_named(parameters)]
        check_opened(folders, data_source, uris, tags)
        with inside(lambda path: folders.hold(path, tags)):
            _check_content(data_source, uris)
            return super(made, cls).from_catalog(data_source, node, **parameters)

    made: Any = type(kind.__name__, (kind,), {"from_catalog": classmethod(from_catalog), "__doc__": kind.__doc__})
    return made


def check_opened(folders: Folders, data_source: Any, uris: Collection[str], tags: Collection[str]) -> None:
    """Answer 403 if a data source would open what a node of these access tags is not to show."""
    ours = data_source.management != Management.external
    for uri in uris:
        kind = urlsplit(uri).scheme
        if kind.startswith(DATABASES):
            # A table that was handed over keeps the database in its list, and does not open it.
            good = data_source.mimetype == ARCHIVE_TABLE or (ours and data_source.mimetype in (SQL_TABLE, _RAGGED))
        elif ours:
            good = kind == "file" and path_from_uri(uri).resolve().is_relative_to(folders.uploads)
        else:
            good = folders.stray(uri, tags) is None
        if not good:
            _refuse(folders.stray(uri, tags) or f"{uri} is not what the server wrote itself; it is not opened")
        if not ours and kind == "file":
            _check_directory(path_from_uri(uri), lambda path: folders.hold(path, tags))


def _named(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Give the addresses in the parameters of a data source: Tiled puts them there, but anybody could."""
    for name in ("data_uri", "data_uris"):
        said = parameters.get(name) or ()
        yield from (str(uri) for uri in ((said,) if isinstance(said, str) else said) if uri is not None)


def _check_directory(folder: Path, holds: Callable[[Path], bool]) -> None:
    if folder.is_dir():
        for here, names, files in os.walk(folder):
            for path in (Path(here, name) for name in (*names, *files)):
                if path.is_symlink() and not holds(path):
                    _refuse(f"{path} leads outside the folders of this server; wanted a file inside them")


def _check_content(data_source: Any, uris: Collection[str]) -> None:
    """Answer 403 if a file names others that would be opened, too; archives and HDF5 have adapters that look."""
    mimetype = str(data_source.mimetype)
    if mimetype == "application/x-netcdf" and all(h5py.is_hdf5(path_from_uri(uri)) for uri in uris):
        refuse_strays(data_source, "/", deep=True)
    elif mimetype.endswith("image/tiff"):
        for uri in uris:
            _check_tiff(path_from_uri(uri))


def _check_tiff(path: Path) -> None:
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            several = file.is_mmstack or file.is_ndtiff or "FileName=" in (file.ome_metadata or "")
    except (OSError, tifffile.TiffFileError):
        return  # who opens it says what is wrong with it
    if several:
        _refuse(f"{path} is part of an image in several files, which it names; wanted one that holds all of its own")


# ---------------------------------------------------------------- what is noted


class _CheckedNode:
    """What a node of a catalogue does before it notes, or changes, where its data lie."""

    context: Any
    access_tags: Collection[str]

    async def create_node(self, *args: Any, **options: Any) -> Any:
        """Make a node below this one."""
        folders: Folders | None = getattr(self.context, "hedmlive_folders", None)
        if folders is not None:
            for data_source in options.get("data_sources") or ():
                check_new(folders, data_source, options.get("access_tags") or ())
        return await super().create_node(*args, **options)  # type: ignore[misc]

    async def put_data_source(self, data_source: Any, patch: Any) -> Any:
        """Change where the data of this node lie."""
        folders: Folders | None = getattr(self.context, "hedmlive_folders", None)
        if folders is not None:
            # Files may be thousands, and are sent again with each event; of what is there only a database matters.
            whole = _KEPT in data_source.parameters
            held = {each.id: each for each in await self.data_sources(include_assets=whole)}  # type: ignore[attr-defined]
            if data_source.id not in held:
                raise HTTPException(HTTPStatus.NOT_FOUND, f"No data_source {data_source.id} on this node.")
            check_changed(folders, data_source, held[data_source.id], self.access_tags)
        return await super().put_data_source(data_source, patch)  # type: ignore[misc]


def check_new(folders: Folders, data_source: Any, tags: Collection[str]) -> None:
    """Answer 403 if a new data source names what a node of these access tags is not to show.

    A file that lies elsewhere and says so may be noted: it is not opened, and the rest of its run can be stored.
    """
    if data_source.management == Management.external:
        _check_external(folders, data_source, tags)
        if _KEPT in data_source.parameters:
            _refuse("parameter kept came; wanted a table without rows that were published before")
    elif data_source.assets or any(_named(data_source.parameters)):
        # It would delete them with the node.
        _refuse("assets came for data that the server writes itself; wanted management external, or none of them")


def check_changed(folders: Folders, data_source: Any, held: Any, tags: Collection[str]) -> None:
    """Answer 403 if a data source is to become what a node of these access tags is not to show."""
    if data_source.management != Management.external:
        _refuse(f"management {data_source.management} came; wanted external: others are not changed")
    _check_external(folders, data_source, tags)
    kept: Any = data_source.parameters.get(_KEPT)
    if kept is not None and kept not in (held.parameters.get(_KEPT), _rows_of(held, kept)):
        _refuse("parameter kept came with rows of another table; wanted those that this one had")


def _check_external(folders: Folders, data_source: Any, tags: Collection[str]) -> None:
    for uri in (*(asset.data_uri for asset in data_source.assets), *_named(data_source.parameters)):
        if folders.seems_inside(uri) and (reason := folders.stray(uri, tags)):
            _refuse(reason)
    if found := [name for name in _ROWS if name in data_source.parameters]:
        _refuse(f"parameters {', '.join(found)} came; wanted none: the server says where rows lie")


def _rows_of(held: Any, kept: Any) -> dict[str, Any] | None:
    """Return where the rows of a published table lie, in the words of `KeptRows`; None if it has none."""
    if held.management == Management.external or held.mimetype != SQL_TABLE or not isinstance(kept, Mapping):
        return None
    (database,) = (asset.data_uri for asset in held.assets)
    return {"uri": database, "since": kept.get("since"), **{name: held.parameters[name] for name in _ROWS}}


STRUCTURES.update({family: type(kind.__name__, (_CheckedNode, kind), {}) for family, kind in STRUCTURES.items()})

"""Which files a server opens for whom: those of its folders, and for a proposal those of its own folders among them."""

from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .facility import SHARED_TAG

DATABASES = ("sqlite", "duckdb", "postgres")
"""What the addresses of databases begin with: a file of SQLite has one, too."""

PROPOSAL = "{proposal}"
"""Stands for a proposal in the name of its folder."""

_NO_FILE = (OSError, RuntimeError, ValueError)
"""What comes of a loop of links, and of what can be no file's name."""


class Folders:
    """Folders of a server, and of each proposal.

    Parameters
    ----------
    readable
        Folders whose files may be served, as they were spelled.
    store
        Folder of the server itself, with its keys, its log and the uploaded arrays: no file of it may be registered.
    own
        Folders of a proposal's files, with `PROPOSAL` in their names; ``*`` stands for any one folder. None: a file
        of `readable` may be served to whomever it is registered for.
    prefix
        What the access tag of a proposal begins with.
    """

    def __init__(self, readable: Sequence[Path], store: Path, own: Sequence[Path] = (), prefix: str = "") -> None:
        self._store = store.resolve()
        self._spelled = (*readable, store)
        self._real = tuple(folder.resolve() for folder in readable)
        self._own = tuple(own)
        self._prefix = prefix

    @property
    def uploads(self) -> Path:
        """Folder of the uploaded arrays, which Tiled itself writes."""
        return self._store / "data"

    def hold(self, path: Path, tags: Collection[str]) -> bool:
        """Tell whether a file, wherever links lead to, may be opened for a node of these access tags."""
        try:
            real = path.resolve()
        except _NO_FILE:
            return False
        return self._serves(real) and all(self._owns(real, tag) for tag in self._asked(tags))

    def stray(self, uri: str, tags: Collection[str]) -> str | None:
        """Return why what is at an address must not be opened for a node of these access tags; None if it may be."""
        if urlsplit(uri).scheme == "file" and self.hold(_path(uri), tags):
            return None
        mine = " of this server" if not self._own else f" of {', '.join(self._asked(tags)) or 'its proposal'}"
        return f"{uri} lies outside the folders{mine}; wanted a file inside them"

    def seems_inside(self, uri: str) -> bool:
        """Tell whether an address is one of a database, or looks as if it were that of a file in a folder."""
        scheme = urlsplit(uri).scheme
        if scheme != "file":
            return scheme.startswith(DATABASES)
        path = _path(uri)
        try:
            real = path.resolve()
        except _NO_FILE:
            return True
        paths = ((path, self._spelled), (real, (*self._real, self._store)))
        return any(each.is_relative_to(folder) for each, folders in paths for folder in folders)

    def _serves(self, real: Path) -> bool:
        if real.is_relative_to(self.uploads):
            return False
        # Who names a folder that the server's own lies in does not mean that one.
        ours = real.is_relative_to(self._store)
        return any(
            real.is_relative_to(folder) and not (ours and self._store.is_relative_to(folder)) for folder in self._real
        )

    def _asked(self, tags: Collection[str]) -> Sequence[str]:
        """Return the tags whose folders count."""
        if not self._own:
            return ()
        # Without a tag of its own nobody but its publisher sees a node, and it has no folder.
        return sorted(set(tags) - {SHARED_TAG}) or ("",)

    def _owns(self, real: Path, tag: str) -> bool:
        proposal = tag.removeprefix(self._prefix)
        if proposal in ("", ".", "..", "*") or "/" in proposal:
            return False
        return any(_lies_below(real, Path(str(folder).replace(PROPOSAL, proposal))) for folder in self._own)


def _path(uri: str) -> Path:
    from tiled.utils import path_from_uri  # the server has it loaded already, settings need it not

    return path_from_uri(uri)


def _lies_below(real: Path, folder: Path) -> bool:
    """Tell whether a file lies below a folder in whose name ``*`` stands for any one."""
    parts = folder.parts
    first = parts.index("*") if "*" in parts else len(parts)
    fixed, rest = Path(*parts[:first]).resolve(), parts[first:]
    if not real.is_relative_to(fixed):
        return False
    below = real.relative_to(fixed).parts
    return len(below) >= len(rest) and all(
        asked in ("*", came) for asked, came in zip(rest, below[: len(rest)], strict=True)
    )

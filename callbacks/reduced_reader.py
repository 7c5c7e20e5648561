"""Reads reduced archives."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import MAX_PROJECTION, ArchiveError, Columns, Table, digest, tables_with_roles
from .hdf5 import NotYet, dataset, open_growing, subgroup
from .reduced_layout import FORMAT, attempt_name, count_rows, read_all, read_attributes, read_rows


class ReducedArchiveReader:
    """Reads a reduced archive, finished or growing.

    Raises
    ------
    ArchiveError
        The file is not a reduced archive, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ArchiveError(f"{path}: no such file; wanted a reduced archive")
        try:
            self._file = open_growing(path)
            if self._file.attrs.get("format") != FORMAT:
                raise KeyError("format")
            self.run_uid = str(self._file.attrs["run_uid"])
        except (NotYet, OSError, KeyError) as error:
            why = " ".join(str(error).split())
            raise ArchiveError(f"{path}: not a reduced archive that can be read ({why})") from None

    def __enter__(self) -> "ReducedArchiveReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def attempts(self) -> tuple[int, ...]:
        """Numbers of the reductions."""
        return tuple(sorted(int(name.removeprefix("reduction_")) for name in list(self._file)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def attributes(self, attempt: int) -> dict[str, Any]:
        """Return what is written about a reduction; `recipe`, `trajectory` and such as plain types."""
        return read_attributes(self._group(attempt))

    def tables(self, attempt: int) -> dict[str, Table]:
        """Return the schema of a reduction."""
        attributes = self.attributes(attempt)
        recipe = attributes["recipe"]
        # Older archives do not speak of fits, of candidates and of motors.
        return tables_with_roles(
            attributes["roles"],
            fit=recipe.get("fit", "none") != "none",
            candidates=recipe.get("keep_candidates", False),
            motors=attributes.get("motors", ()),
        )

    def n_rows(self, attempt: int, table: str) -> int:
        """Return how many rows a table has."""
        return count_rows(subgroup(self._group(attempt), table), self.tables(attempt)[table])

    def read(self, attempt: int, table: str, first: int = 0, end: int | None = None) -> Columns:
        """Return rows first to end (exclusive) of a table, by default all."""
        group, schema = subgroup(self._group(attempt), table), self.tables(attempt)[table]
        return read_rows(group, schema, first, count_rows(group, schema) if end is None else end)

    def max_projection(self, attempt: int) -> np.ndarray | None:
        """Return the largest raw count of each pixel, 0 where never lit, shape (rows, columns); None if not there."""
        group = self._group(attempt)
        return np.asarray(dataset(group, MAX_PROJECTION)[()]) if MAX_PROJECTION in group else None

    def digest(self, attempt: int) -> str:
        """Compute the digest of a reduction from its tables."""
        tables, group = self.tables(attempt), self._group(attempt)
        return digest(tables, lambda name: read_all(group, tables[name]))

    def _group(self, attempt: int) -> h5py.Group:
        try:
            return subgroup(self._file, attempt_name(attempt))
        except KeyError:
            raise ArchiveError(f"{self.path}: no reduction {attempt}; it holds {list(self.attempts)}") from None

"""The results archive: what reconstructions made of a run, one group an attempt, ranked solutions inside.

A file is never changed in place: an attempt is added to a copy beside it, which takes its place when it is whole and on
the disk. Whoever reads meanwhile, and whatever is killed, sees the attempts that were there.
"""

import fcntl
import getpass
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np

from ..streaming import ArchiveError, Column, Columns, SettingsError, Table, digest
from .hdf5 import BITSHUFFLE, WRITTEN_FOR, NotYet, check_room, dataset, open_growing, subgroup
from .results_layout import AXES, COLUMNS, FORMAT, SOLUTIONS, NewResult, solutions_of
from .results_origin import Origin, origin_of

KEPT_BYTES = 256 << 20
"""Files of a result that are larger are not kept with it; their digest is."""

_JSON = ("parameters", "versions", "files", "frames")


def add_result(
    archive: Path, new: NewResult, *, reduction: int | None = None, author: str | None = None
) -> tuple[Path, int]:
    """Add what a reconstruction found to the results archive of a run, as a new attempt.

    Parameters
    ----------
    archive
        The reduced archive that it was made from, or the raw one; the results archive lies beside it. The results
        archive itself stands for a result whose reduction is not known.
    new
        What was found.
    reduction
        Number of the reduction that it was made from; needed where the reduced archive holds several.
    author
        Who adds it; by default the user of this process.

    Returns
    -------
    The results archive, and the number of the attempt in it.

    Raises
    ------
    SettingsError
        The solutions are none, or the reduction is not named.
    ArchiveError
        An archive is not what it should be, or the file cannot be written.
    """
    table, rows = solutions_of(new)
    origin = origin_of(archive, reduction)
    path = origin.path
    kept = _kept(new.files)
    said = _attributes(new, origin, getpass.getuser() if author is None else author, kept)
    said["digest"] = digest({SOLUTIONS: table}, lambda _: [rows])
    n_bytes = sum(map(len, kept.values())) + sum(column.nbytes for column in rows.values())
    with _alone(path.parent):
        held = path.stat().st_size if path.exists() else 0
        check_room(path, held + n_bytes)
        attempt = 0
        if path.exists():
            with ResultsArchiveReader(path) as there:
                if there.run_uid != origin.run_uid:
                    raise ArchiveError(f"{path}: holds results of run {there.run_uid}, not of run {origin.run_uid}")
                attempt = 1 + max(there.attempts, default=-1)

        def add(file: h5py.File) -> None:
            file.attrs["format"], file.attrs["run_uid"] = FORMAT, origin.run_uid
            _write(file.create_group(result_name(attempt)), said, table, rows, kept, new)

        _rewrite(path, add)
    return path, attempt


def result_name(attempt: int) -> str:
    """Return the group of an attempt."""
    return f"result_{attempt:04d}"


class ResultsArchiveReader:
    """Reads a results archive.

    Raises
    ------
    ArchiveError
        The file is not a results archive, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ArchiveError(f"{path}: no such file; wanted a results archive")
        try:
            self._file = open_growing(path)
        except NotYet as error:
            raise ArchiveError(f"{path}: not a results archive that can be read ({error})") from None
        try:
            if self._file.attrs.get("format") != FORMAT:
                raise KeyError(f"format {self._file.attrs.get('format')!r:.60}; wanted {FORMAT}")
            self.run_uid = str(self._file.attrs["run_uid"])
            self._names = {int(name.removeprefix("result_")): name for name in self._file}
        except Exception as error:
            self._file.close()
            why = " ".join(str(error).split())
            raise ArchiveError(f"{path}: not a results archive that can be read ({why})") from None

    def __enter__(self) -> "ResultsArchiveReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def attempts(self) -> tuple[int, ...]:
        """Numbers of the results."""
        return tuple(sorted(self._names))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def attributes(self, attempt: int) -> dict[str, Any]:
        """Return what is written about a result; `parameters`, `files` and such as plain types."""
        with self._told(attempt) as group:
            plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in group.attrs.items()}
            plain |= {name: json.loads(plain[name]) for name in _JSON}
            for name in ("result_uid", "raw_run_uid", "digest", "status"):
                plain[name] = str(plain[name])
            if plain["raw_run_uid"] != self.run_uid:
                raise ValueError(f"it is of run {plain['raw_run_uid']}, the file of run {self.run_uid}")
            return plain

    def tables(self, attempt: int) -> dict[str, Table]:
        """Return the schema of a result."""
        with self._told(attempt) as group:
            return {SOLUTIONS: _table_of(subgroup(group, SOLUTIONS))}

    def n_rows(self, attempt: int, table: str = SOLUTIONS) -> int:
        """Return how many rows a table has."""
        with self._told(attempt) as group:
            return len(dataset(subgroup(group, table), COLUMNS[0].name))

    def read(self, attempt: int, table: str = SOLUTIONS, first: int = 0, end: int | None = None) -> Columns:
        """Return rows first to end (exclusive) of a table, by default all."""
        names = self.tables(attempt)[SOLUTIONS].names
        with self._told(attempt) as group:
            rows = subgroup(group, table)
            return {name: np.asarray(dataset(rows, name)[first:end]) for name in names}

    def digest(self, attempt: int) -> str:
        """Compute the digest of a result from its solutions."""
        tables = self.tables(attempt)
        with self._told(attempt):
            return digest(tables, lambda name: [self.read(attempt, name)])

    def file(self, attempt: int, name: str) -> bytes:
        """Return a file that the result came in, as it was."""
        with self._told(attempt) as group:
            return np.asarray(dataset(subgroup(group, "files"), name)[()], np.uint8).tobytes()

    @contextmanager
    def _told(self, attempt: int) -> Generator[h5py.Group]:
        """Give a result's group; what a broken file makes HDF5 raise is told with file and group."""
        if attempt not in self._names:
            raise ArchiveError(f"{self.path}: no result {attempt}; it holds {list(self.attempts)}")
        name = self._names[attempt]
        try:
            yield subgroup(self._file, name)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"{self.path}: {name}: is not whole ({' '.join(str(error).split())})") from None


def _table_of(rows: h5py.Group) -> Table:
    names = json.loads(str(rows.attrs["columns"]))
    missing = sorted({column.name for column in COLUMNS} - set(names))
    if missing:
        raise KeyError(f"no column {missing[0]}")
    columns = [_column_of(dataset(rows, name), name) for name in names]
    lengths = {len(dataset(rows, name)) for name in names}
    if len(lengths) > 1:
        raise ValueError(f"columns of {sorted(lengths)} rows")
    return Table(name=SOLUTIONS, row="ranked solution", key=("item", "rank"), columns=tuple(columns))


def _column_of(data: h5py.Dataset, name: str) -> Column:
    if data.ndim != 1 or data.dtype.kind not in "bif":
        raise ValueError(f"column {name} is {data.ndim}-D of {data.dtype}; wanted a list of numbers")
    dtype = "|b1" if data.dtype.kind == "b" else data.dtype.newbyteorder("<").str
    return Column(
        name=name, dtype=dtype, unit=str(data.attrs.get("units", "")), meaning=str(data.attrs.get("meaning", ""))
    )


def _kept(files: Sequence[Path]) -> dict[str, bytes]:
    if len({file.name for file in files}) < len(files):
        raise SettingsError(f"files {[file.name for file in files]}: two bear one name; rename one")
    try:
        return {file.name: file.read_bytes() for file in files if file.stat().st_size <= KEPT_BYTES}
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _attributes(new: NewResult, origin: Origin, author: str, kept: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        parameters = json.dumps(dict(new.parameters), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"parameters: {error}; wanted what JSON can say") from None
    files = [
        {
            "name": file.name,
            "bytes": file.stat().st_size,
            "sha256": _sha256(file),
            "modified": _iso(file.stat().st_mtime),
            "kept": file.name in kept,
        }
        for file in new.files
    ]
    return {
        "NX_class": "NXcollection",
        "result_uid": str(uuid4()),
        "status": "complete",
        "program": new.program,
        "program_version": new.program_version,
        "method": new.method,
        "note": new.note,
        "parameters": parameters,
        "files": json.dumps(files),
        "created": _iso(datetime.now(UTC).timestamp()),
        "author": author,
        "versions": json.dumps({name: version(name) for name in ("hedmlive", "numpy", "h5py")}),
        "axes": AXES,
        **origin.attributes(),
        **({} if new.lattice_parameters is None else {"lattice_parameters": np.asarray(new.lattice_parameters)}),
        **({} if new.space_group is None else {"space_group": int(new.space_group)}),
    }


def _write(
    group: h5py.Group,
    said: Mapping[str, Any],
    table: Table,
    rows: Columns,
    kept: Mapping[str, bytes],
    new: NewResult,
) -> None:
    group.attrs.update(dict(said))
    solutions = group.create_group(SOLUTIONS)
    solutions.attrs.update({"NX_class": "NXcollection", "row": table.row, "columns": json.dumps(table.names)})
    for column in table.columns:
        values = rows[column.name]
        packing = {"chunks": True, **BITSHUFFLE} if len(values) else {}
        data = solutions.create_dataset(column.name, data=values, **packing)
        data.attrs["meaning"] = column.meaning
        if column.unit:
            data.attrs["units"] = column.unit
    files = group.create_group("files")
    files.attrs["NX_class"] = "NXcollection"
    for name, content in kept.items():
        # Mostly text, which the filter of numbers makes hardly smaller.
        packing = {"compression": "gzip", "chunks": True} if content else {}
        files.create_dataset(name, data=np.frombuffer(content, np.uint8), **packing)


def _rewrite(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a copy of a file, and put it in the file's place when it is whole and on the disk."""
    part = path.with_suffix(".part")
    try:
        if path.exists():
            shutil.copyfile(path, part)
        with h5py.File(part, "r+" if path.exists() else "w", libver=WRITTEN_FOR) as file:
            change(file)
        _sync(part)
        part.replace(path)
        with suppress(OSError):  # not every file system knows it
            _sync(path.parent)
    except (OSError, RuntimeError, ValueError) as error:
        raise ArchiveError(f"{path}: cannot be written: {' '.join(str(error).split())}") from None
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Let one process at a time add to the archives of a folder, where the file system knows locks of folders."""
    number = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r:.60} of {type(value).__name__} came")

"""What a result is made of: the columns of its ranked solutions, and how they are checked.

An item is what a solution is of: a grain of a far-field result, a voxel of a map. Of each there may be several
solutions, ranked from 1, the best. What a program does not say stays empty: NaN, or -1 for whole numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import Column, Columns, SettingsError, Table
from ..streaming.orientations import quaternions
from .crystals import APS

FORMAT = "hedmlive-results-1"
SOLUTIONS = "solutions"

QUATERNION = ("q_w", "q_x", "q_y", "q_z")
POSITION = ("x", "y", "z")
CELL = ("a", "b", "c", "alpha", "beta", "gamma")
STRAIN = ("e_xx", "e_yy", "e_zz", "e_yz", "e_xz", "e_xy")

AXES = f"sample: {APS}; crystal: x along a, z along c*"
"""What orientations, positions and strains refer to."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_TAKEN = ("batch", "orientation")
_ROUNDING = 1e-12


def _columns(dtype: str, unit: str, meanings: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(Column(name=name, dtype=dtype, unit=unit, meaning=meaning) for name, meaning in meanings.items())


COLUMNS: tuple[Column, ...] = (
    *_columns("<i8", "", {"item": "number of the grain, or of the voxel of a map, in the program's order, from 0"}),
    *_columns("<i4", "", {"rank": "1 for the best solution of the item, 2 for the second best, ..."}),
    *_columns("<i8", "", {"label": "what the program numbers the item; -1 if it does not"}),
    *_columns("<i4", "", {"phase": "number of the phase, as the program counts; -1 if it does not say"}),
    *_columns(
        "<f8",
        "",
        {
            "q_w": "orientation: unit quaternion, rotation from the crystal's axes to the sample's",
            "q_x": "its part along x",
            "q_y": "its part along y",
            "q_z": "its part along z",
        },
    ),
    *_columns("<f8", "um", {name: f"position along the sample's {name}" for name in POSITION}),
    *_columns("<f8", "angstrom", {name: f"lattice parameter {name} of this item" for name in CELL[:3]}),
    *_columns("<f8", "deg", {name: f"lattice angle {name} of this item" for name in CELL[3:]}),
    *_columns("<f8", "", {name: f"component {name[2:]} of the strain tensor, in the sample's axes" for name in STRAIN}),
    *_columns("<f8", "", {"completeness": "found over expected reflections or pixels, 0 to 1"}),
    *_columns("<f8", "", {"figure_of_merit": "the number that the program ranks or judges by, as it defines it"}),
    *_columns("<f8", "um", {"size": "radius of a grain, edge of a voxel"}),
)
"""The columns that every result has."""

_KEY = ("item", "rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResult:
    """What a reconstruction found, to be added to an archive."""

    program: str
    "Who made it."
    solutions: Mapping[str, Any]
    "Column name to values. `orientation` may stand for the quaternion: quaternions (n, 4) or rotation matrices \
(n, 3, 3). Columns beside those of every result are kept under their names."
    program_version: str = ""
    "Its version."
    method: str = ""
    "How it was made, in words."
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    "What it was made with; whatever JSON can say."
    lattice_parameters: np.ndarray | None = None
    "a, b, c in angstrom, alpha, beta, gamma in degrees of the unstrained crystal."
    space_group: int | None = None
    "Its number."
    meanings: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    "Column name to its unit and meaning, of further ones, and of those that this program defines in its own way."
    files: tuple[Path, ...] = ()
    "Files it came in; they are kept with it."
    note: str = ""
    "Whatever else is to be said."


def solutions_of(new: NewResult) -> tuple[Table, Columns]:
    """Return the table of ranked solutions and its rows, in the order of item and rank.

    Raises
    ------
    SettingsError
        A column is none, or the numbers cannot be.
    """
    given = {name: np.asarray(values) for name, values in new.solutions.items()}
    if "orientation" in given:
        given |= _quaternion(given.pop("orientation"))
    n_rows = _length(given)
    filled: Columns = {}
    for column in COLUMNS:
        default = np.arange(n_rows) if column.name == "item" else _empty(column, n_rows)
        filled[column.name] = _cast(column.name, given.pop(column.name, default), column.dtype)
    further = [_further(name, values, new.meanings) for name, values in given.items()]
    said = [_said(column, new.meanings) for column in COLUMNS]
    table = Table(name=SOLUTIONS, row="ranked solution", key=_KEY, columns=(*said, *further))
    _check_names([*table.names])
    filled |= {column.name: _cast(column.name, given[column.name], column.dtype) for column in further}
    order = np.lexsort((filled["rank"], filled["item"]))
    rows = {name: values[order] for name, values in filled.items()}
    _check_ranks(rows)
    _check_numbers(rows)
    return table, rows


def ranked(results: Sequence[NewResult]) -> NewResult:
    """Return the result whose best solutions are those of the first, the second best those of the second, ...

    Raises
    ------
    SettingsError
        They are not of the same items.
    """
    if len(results) == 1:
        return results[0]
    tables = [solutions_of(each)[1] for each in results]
    items = tables[0]["item"]
    for number, rows in enumerate(tables, 1):
        if not np.array_equal(rows["item"], items) or (rows["rank"] != 1).any():
            raise SettingsError(
                f"file {number}: holds {len(rows['item'])} solutions; wanted one for each of the {len(items)} items "
                "of the first file, in the same order"
            )
    names = [name for name in tables[0] if all(name in rows for rows in tables)]
    made = {name: np.concatenate([rows[name] for rows in tables]) for name in names}
    made["rank"] = np.repeat(np.arange(1, len(tables) + 1), len(items))
    files = tuple(file for each in results for file in each.files)
    return replace(results[0], solutions=made, files=files)


def _quaternion(values: np.ndarray) -> Columns:
    if values.shape[1:] == (3, 3):
        turned = np.full((len(values), 4), np.nan)
        known = np.isfinite(values).all(axis=(1, 2))
        _check_rotations(values[known])
        turned[known] = quaternions(values[known])
        values = turned
    if values.ndim != 2 or values.shape[1] != 4:
        raise SettingsError(f"orientation: shape {values.shape} came; wanted (n, 4) quaternions or (n, 3, 3) matrices")
    return {name: values[:, place] for place, name in enumerate(QUATERNION)}


def _check_rotations(matrices: np.ndarray) -> None:
    for number, matrix in enumerate(matrices):
        if not (np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0):
            raise SettingsError(f"orientation: matrix {number} is no rotation")


def _length(given: Mapping[str, np.ndarray]) -> int:
    if not given:
        raise SettingsError("solutions: no column came; wanted at least one, such as orientation")
    lengths = {name: len(values) if values.ndim == 1 else -1 for name, values in given.items()}
    if len(set(lengths.values())) > 1 or -1 in lengths.values():
        raise SettingsError(f"solutions: columns differ in length, or are no lists: {lengths}")
    return next(iter(lengths.values()))


def _empty(column: Column, n_rows: int) -> np.ndarray:
    return np.full(n_rows, np.nan if column.dtype == "<f8" else 1 if column.name == "rank" else -1)


def _cast(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
    wanted = np.dtype(dtype)
    try:
        # Empty lists have no type of their own.
        made = values.astype(wanted) if values.dtype.kind in "biuf" or not len(values) else None
    except (TypeError, ValueError, OverflowError):
        made = None
    if made is None or (wanted.kind in "iu" and not np.array_equal(made, values)):
        kind = "whole numbers" if wanted.kind in "iu" else "numbers"
        raise SettingsError(f"solutions: column {name!r} of {values.dtype} came; wanted {kind}")
    return made


def _further(name: str, values: np.ndarray, meanings: Mapping[str, tuple[str, str]]) -> Column:
    dtype = {"b": "|b1", "i": "<i8", "u": "<i8"}.get(values.dtype.kind, "<f8")
    unit, meaning = meanings.get(name, ("", "as the program defines it"))
    return Column(name=name, dtype=dtype, unit=unit, meaning=meaning)


def _said(column: Column, meanings: Mapping[str, tuple[str, str]]) -> Column:
    """Return a column with what this program means by it; its unit stays."""
    meaning = meanings.get(column.name, ("", column.meaning))[1]
    return Column(name=column.name, dtype=column.dtype, unit=column.unit, meaning=meaning)


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        # Databases take no others, and know no difference between large and small letters.
        if not _NAME.fullmatch(name) or name.lower() in seen or name in _TAKEN:
            raise SettingsError(
                f"solutions: column {name!r} came; wanted letters, digits and _, no name twice, none of {_TAKEN}"
            )
        seen.add(name.lower())


def _check_ranks(rows: Columns) -> None:
    item, rank = rows["item"], rows["rank"]
    if not len(item):
        return
    new = np.concatenate([[True], np.diff(item) != 0])
    starts = np.flatnonzero(new)
    wanted = np.arange(len(item)) - np.repeat(starts, np.diff(np.append(starts, len(item)))) + 1
    bad = np.flatnonzero(rank != wanted)
    if len(bad) or item[0] < 0:
        at = int(bad[0]) if len(bad) else 0
        raise SettingsError(
            f"solutions: item {item[at]} has rank {rank[at]}; wanted items from 0 on, and for each the ranks 1, 2, ..."
        )


def _check_numbers(rows: Columns) -> None:
    turned = np.stack([rows[name] for name in QUATERNION], axis=1)
    known = np.isfinite(turned).all(axis=1)
    length = np.linalg.norm(turned, axis=1)
    bad = np.flatnonzero(~(known & (np.abs(length - 1) < 1e-3)) & ~np.isnan(turned).all(axis=1))
    if len(bad):
        raise SettingsError(
            f"solutions: item {rows['item'][bad[0]]} has quaternion {turned[bad[0]].tolist()}; wanted 1"
        )
    # The same orientation is always written in the same way, and what was written once stays as it is.
    with np.errstate(invalid="ignore"):
        scale = np.where(turned[:, 0] < 0, -1.0, 1.0) / np.where(np.abs(length - 1) > _ROUNDING, length, 1.0)
    for name in QUATERNION:
        rows[name] = rows[name] * scale
    share = rows["completeness"]
    bad = np.flatnonzero(~np.isnan(share) & ~((share >= 0) & (share <= 1)))
    if len(bad):
        raise SettingsError(f"solutions: item {rows['item'][bad[0]]} has completeness {share[bad[0]]}; wanted 0 to 1")

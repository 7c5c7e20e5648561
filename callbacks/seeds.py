"""What a far-field result says: lattice parameters, space group, and orientations to begin a search with.

Read are ``Grains.csv`` of MIDAS, ``grains.out`` of hexrd, and ``.map`` and ``.par`` of ImageD11. Whatever the program,
an orientation is given as `streaming.orientations` says it: from the crystal's axes, x along a and z along c*, to the
sample's, which are those of APS: z along the beam, y up.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..streaming import SettingsError
from ..streaming.orientations import seed_orientations
from .crystals import cell_of
from .results_layout import CELL, NewResult
from .results_readers import check_group, numbers_of, read_hexrd, read_lines, read_map, read_midas
from .settings import HedmSettings

_CELL = ("cell__a", "cell__b", "cell__c", "cell_alpha", "cell_beta", "cell_gamma")


@dataclass(frozen=True, slots=True, kw_only=True)
class FarField:
    """What a file of a far-field result says; what it does not say is None."""

    origin: str
    "Program and file."
    lattice_parameters: np.ndarray | None = None
    "a, b, c in angstrom, alpha, beta, gamma in degrees."
    space_group: int | None = None
    "Its number."
    orientations: np.ndarray | None = None
    "Quaternions of the grains, shape (n, 4)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """Orientations to begin a search with."""

    orientations: np.ndarray
    "Quaternions, shape (n, 4)."
    origin: str
    "Where they come from."
    resolution: float | None = None
    "Degrees, of generated ones."


def read_far_field(path: Path) -> FarField:
    """Read a far-field result.

    Raises
    ------
    SettingsError
        It is none that is known, or not whole; the message names file and line.
    """
    readers = {".csv": _read_midas, ".out": _read_hexrd, ".map": _read_map, ".par": _read_par}
    read = readers.get(path.suffix.lower())
    try:
        if read is None:
            raise SettingsError(f"{path}: wanted Grains.csv of MIDAS, grains.out of hexrd, or .map or .par of ImageD11")
        return read(path, read_lines(path))
    except SettingsError as error:
        raise SettingsError(f"far_field_result {error}") from None


def read_far_fields(settings: HedmSettings) -> FarField | None:
    """Return what all files of the settings say together; of two that say the same thing the first counts."""
    found = [read_far_field(path) for path in settings.far_field_result]
    if not found:
        return None

    def first(name: str) -> FarField | None:
        return next((each for each in found if getattr(each, name) is not None), None)

    cell, group, grains = (first(name) for name in ("lattice_parameters", "space_group", "orientations"))
    return FarField(
        origin=" and ".join(each.origin for each in found),
        lattice_parameters=None if cell is None else cell.lattice_parameters,
        space_group=None if group is None else group.space_group,
        orientations=None if grains is None else grains.orientations,
    )


def find_seeds(settings: HedmSettings, far_field: FarField | None, space_group: int | None) -> Seeds | None:
    """Return the orientations of a far-field result, or else those of the standard fundamental zone; None for neither.

    Raises
    ------
    SettingsError
        The resolution makes too many.
    """
    if far_field is not None and far_field.orientations is not None:
        return Seeds(orientations=far_field.orientations, origin=f"far-field result: {far_field.origin}")
    if settings.seed_resolution is None or space_group is None:
        return None
    return Seeds(
        orientations=seed_orientations(space_group, settings.seed_resolution),
        origin=f"standard fundamental zone of space group {space_group}",
        resolution=settings.seed_resolution,
    )


# The programs' files


def _read_midas(path: Path, lines: list[str]) -> FarField:
    found = read_midas(path, lines)
    return FarField(
        origin=f"MIDAS {path}",
        lattice_parameters=found.lattice_parameters,
        space_group=found.space_group,
        orientations=_orientations(found),
    )


def _read_hexrd(path: Path, lines: list[str]) -> FarField:
    return FarField(origin=f"hexrd {path}", orientations=_orientations(read_hexrd(path, lines)))


def _read_map(path: Path, lines: list[str]) -> FarField:
    found = read_map(path, lines)
    cells = np.stack([found.solutions[name] for name in CELL], axis=1)
    return FarField(
        origin=f"ImageD11 {path} (cell: median of {len(cells)} grains)",
        lattice_parameters=cell_of(np.median(cells, axis=0)),
        orientations=_orientations(found),
    )


def _orientations(found: NewResult) -> np.ndarray | None:
    made = found.solutions["orientation"]
    return made if len(made) else None


def _read_par(path: Path, lines: list[str]) -> FarField:
    said = dict(line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    lacks = [name for name in _CELL if name not in said]
    if lacks:
        raise SettingsError(f"{path}: no {lacks[0]}; wanted a .par of ImageD11 with a cell")
    cell = cell_of(numbers_of(path, 0, [said[name] for name in _CELL], 6))
    if cell is None:
        raise SettingsError(f"{path}: cell__a to cell_gamma make no cell")
    group = next((value for name, value in said.items() if name.startswith("cell_lattice_")), "")
    # A letter says the lattice's centring only.
    number = int(group) if group.strip().isdigit() else None
    return FarField(origin=f"ImageD11 {path}", lattice_parameters=cell, space_group=check_group(path, number))

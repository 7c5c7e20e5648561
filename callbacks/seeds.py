"""What a far-field result says: lattice parameters, space group, and orientations to begin a search with.

Read are ``Grains.csv`` of MIDAS, ``grains.out`` of hexrd, and ``.map`` and ``.par`` of ImageD11. Whatever the program,
an orientation is given as `streaming.orientations` says it: from the crystal's axes, x along a and z along c*, to the
sample's, which are those of APS: z along the beam, y up.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..streaming import SettingsError
from ..streaming.orientations import quaternions, seed_orientations
from .settings import HedmSettings

APS = "x sideways, y up (rotation axis), z along the beam"
"""The sample's axes, in words."""

# Rows are the axes of APS in those of the program: MIDAS and ImageD11 have x along the beam and z up, hexrd has z
# against the beam and y up.
_FROM_MIDAS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
_FROM_HEXRD = np.diag([-1.0, 1.0, -1.0])

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
    if read is None:
        raise SettingsError(
            f"far_field_result {path}: wanted Grains.csv of MIDAS, grains.out of hexrd, or .map or .par of ImageD11"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"far_field_result {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"far_field_result {path}: is no text file") from None
    return read(path, lines)


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


def cell_of(values: object) -> np.ndarray | None:
    """Return six lattice parameters as such, or None if they make no cell."""
    try:
        cell = np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
    if cell.shape != (6,) or not np.isfinite(cell).all() or (cell <= 0).any() or (cell[3:] >= 180).any():
        return None
    # Angles of which the largest is not below the sum of the others close no cell.
    closes = cell[3:].sum() < 360 and 2 * cell[3:].max() < cell[3:].sum()
    return cell if closes else None


# The programs' files


def _read_midas(path: Path, lines: list[str]) -> FarField:
    cell, group, names = None, None, list[str]()
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, 1):
        said = line.lstrip("%").strip()
        if not line.startswith("%"):
            rows += [(number, line.split())] if line.strip() else []
        elif said.startswith("SpaceGroup:"):
            group = int(_numbers(path, number, said.split(":")[1:], 1)[0])
        elif said.startswith("Lattice Parameter:"):
            cell = cell_of(_numbers(path, number, said.split(":")[1].split(), 6))
        elif said.split()[:1] in (["GrainID"], ["ID"]):
            names = said.split()
    wanted = [f"O{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    if not set(wanted) <= set(names):
        raise SettingsError(f"far_field_result {path}: no line %GrainID ... O11 ... O33; wanted Grains.csv of MIDAS")
    if cell is None:
        raise SettingsError(f"far_field_result {path}: no line `Lattice Parameter:` with six numbers that make a cell")
    columns = [names.index(name) for name in wanted]
    made = [_numbers(path, number, row, len(names))[columns].reshape(3, 3) for number, row in rows]
    # MIDAS puts x along a*: the same crystal in axes of ours.
    turned = [_FROM_MIDAS @ matrix @ _axes(_midas_vectors(cell)) for matrix in _rotations(path, made)]
    return FarField(
        origin=f"MIDAS {path}",
        lattice_parameters=cell,
        space_group=_group(path, group),
        orientations=_orientations(turned),
    )


def _read_hexrd(path: Path, lines: list[str]) -> FarField:
    header = next((line for line in lines if line.startswith("#") and "exp_map_c[0]" in line), None)
    if header is None:
        raise SettingsError(f"far_field_result {path}: no header with exp_map_c[0]; wanted grains.out of hexrd")
    names = header.lstrip("#").replace("grain ID", "grain_ID").split()
    first = names.index("exp_map_c[0]")
    rows = [_numbers(path, n, line.split(), len(names)) for n, line in _data(lines)]
    from scipy.spatial.transform import Rotation

    made = Rotation.from_rotvec(np.array([row[first : first + 3] for row in rows]).reshape(-1, 3)).as_matrix()
    return FarField(origin=f"hexrd {path}", orientations=_orientations([_FROM_HEXRD @ each for each in made]))


def _read_map(path: Path, lines: list[str]) -> FarField:
    starts = [number for number, line in enumerate(lines) if line.startswith("#UBI")]
    if not starts:
        raise SettingsError(f"far_field_result {path}: no line #UBI:; wanted a .map of ImageD11")
    vectors: list[np.ndarray] = []
    for at in starts:
        block = np.stack([_numbers(path, at + 2 + i, _line(lines, at + 1 + i).split(), 3) for i in range(3)])
        if not np.linalg.det(block) > 0:
            raise SettingsError(f"far_field_result {path}, line {at + 2}: UBI of determinant 0 or less is no cell")
        vectors.append(block)
    return FarField(
        origin=f"ImageD11 {path} (cell: median of {len(vectors)} grains)",
        lattice_parameters=cell_of(np.median([_parameters(each) for each in vectors], axis=0)),
        orientations=_orientations([_FROM_MIDAS @ _axes(each) for each in vectors]),
    )


def _read_par(path: Path, lines: list[str]) -> FarField:
    said = dict(line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    lacks = [name for name in _CELL if name not in said]
    if lacks:
        raise SettingsError(f"far_field_result {path}: no {lacks[0]}; wanted a .par of ImageD11 with a cell")
    cell = cell_of(_numbers(path, 0, [said[name] for name in _CELL], 6))
    if cell is None:
        raise SettingsError(f"far_field_result {path}: cell__a to cell_gamma make no cell")
    group = next((value for name, value in said.items() if name.startswith("cell_lattice_")), "")
    # A letter says the lattice's centring only.
    number = int(group) if group.strip().isdigit() else None
    return FarField(origin=f"ImageD11 {path}", lattice_parameters=cell, space_group=_group(path, number))


def _group(path: Path, number: int | None) -> int | None:
    if number is not None and not 1 <= number <= 230:
        raise SettingsError(f"far_field_result {path}: space group {number}; wanted a number from 1 to 230")
    return number


def _data(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith(("#", "%")))


def _line(lines: list[str], at: int) -> str:
    return lines[at] if at < len(lines) else ""


def _numbers(path: Path, line: int, words: Iterable[str], count: int) -> np.ndarray:
    given = list(words)
    try:
        made = np.array([float(word) for word in given])
    except ValueError:
        made = np.empty(0)
    # Columns that a newer version adds at the end do no harm; fewer are a line that was cut.
    if len(made) < count:
        where = f", line {line}" if line else ""
        raise SettingsError(f"far_field_result {path}{where}: holds {' '.join(given)!r:.60}; wanted {count} numbers")
    return made


def _rotations(path: Path, matrices: list[np.ndarray]) -> list[np.ndarray]:
    for grain, matrix in enumerate(matrices, 1):
        if not (np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0):
            raise SettingsError(f"far_field_result {path}, grain {grain} of the list: O11 to O33 are no rotation")
    return matrices


def _orientations(matrices: list[np.ndarray]) -> np.ndarray | None:
    return quaternions(np.array(matrices)) if matrices else None


# Crystals


def _axes(vectors: np.ndarray) -> np.ndarray:
    """Return the crystal's axes, x along a and z along c*, as columns; `vectors` are a, b, c as rows."""
    x, z = vectors[0], np.cross(vectors[0], vectors[1])
    x, z = x / np.linalg.norm(x), z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def _parameters(vectors: np.ndarray) -> np.ndarray:
    """Return the lattice parameters of a, b, c as rows."""
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(lengths, lengths)
    return np.array([*lengths, *np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))])


def _midas_vectors(cell: np.ndarray) -> np.ndarray:
    """Return a, b, c as rows, in the axes of Busing and Levy (1967): x along a*, y in the plane of a* and b*."""
    a, b, c = cell[:3]
    cos_a, cos_b, cos_g = np.cos(np.radians(cell[3:]))
    # In axes with x along a and z along c*, and from there to reciprocal vectors and their own axes.
    sin_g = np.sqrt(1 - cos_g**2)
    y = (cos_a - cos_b * cos_g) / sin_g
    rows = np.array([[a, 0, 0], [b * cos_g, b * sin_g, 0], [c * cos_b, c * y, c * np.sqrt(1 - cos_b**2 - y**2)]])
    stars = np.linalg.inv(rows).T
    x, z = stars[0] / np.linalg.norm(stars[0]), np.cross(stars[0], stars[1])
    z = z / np.linalg.norm(z)
    return rows @ np.stack([x, np.cross(z, x), z], axis=1)

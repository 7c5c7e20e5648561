"""Results of other programs: what their files say of grains and voxels, in the columns and axes of ours.

Read are ``Grains.csv`` and ``.mic`` of MIDAS, ``grains.out`` and ``accepted_orientations_*.dat`` of hexrd, ``.map``,
``.ubi`` and grains in HDF5 of ImageD11, ``.mic`` and HDF5 of HEXOMAP, and tables with commas whose columns bear our
names. What a file does not say stays empty. Columns that have no place in ours are kept, the program's name before
theirs. Nothing of a file is evaluated.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import SettingsError
from ..streaming.orientations import quaternions
from .crystals import FROM_HEXRD, FROM_MIDAS, axes_of, cell_of, midas_vectors, parameters_of
from .results_layout import CELL, STRAIN, NewResult

KNOWN = (
    "Grains.csv or .mic of MIDAS, grains.out or accepted_orientations .dat of hexrd, .map, .ubi or .h5 of ImageD11, "
    ".mic or .h5 of HEXOMAP, or a .csv whose columns bear our names"
)

_TENSOR = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"Places in a tensor of the columns `STRAIN`; hexrd writes them in the same order."
_MIDAS_OWN = {"X": "x", "Y": "y", "Z": "z", "Confidence": "completeness", "PhaseNr": "phase", "GrainRadius": "size"}
_MIC = ("X", "Y", "TriEdgeSize", "Eul1", "Eul2", "Eul3", "Confidence")
_HEXOMAP_COLUMNS = 10


def read_result(path: Path, cell: np.ndarray | None = None) -> NewResult:
    """Read the result of another program.

    Parameters
    ----------
    path
        Its file.
    cell
        Lattice parameters, for files that give orientations in axes which depend on them and do not say them.

    Raises
    ------
    SettingsError
        It is none that is known, or not whole; the message names file and line.
    """
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        from .results_hdf5 import read_hdf5

        return read_hdf5(path)
    lines = read_lines(path)
    if suffix == ".csv":
        return read_midas(path, lines) if _line(lines, 0).startswith(("%", "#")) else _read_own(path, lines)
    if suffix == ".mic":
        return _read_midas_mic(path, lines, cell) if _line(lines, 0).startswith("%") else _read_hexomap(path, lines)
    read = {".out": read_hexrd, ".dat": _read_accepted, ".map": read_map, ".ubi": _read_ubi}.get(suffix)
    if read is None:
        raise SettingsError(f"{path}: wanted {KNOWN}")
    return read(path, lines)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises
    ------
    SettingsError
        It cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is no text file") from None


# MIDAS


def read_midas(path: Path, lines: list[str]) -> NewResult:
    """Read ``Grains.csv``."""
    cell, group, names = None, None, list[str]()
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, 1):
        said = line.lstrip("%").strip()
        if not line.startswith("%"):
            rows += [(number, line.split())] if line.strip() else []
        elif said.startswith("SpaceGroup:"):
            group = int(numbers_of(path, number, said.split(":")[1:], 1)[0])
        elif said.startswith("Lattice Parameter:"):
            cell = cell_of(numbers_of(path, number, said.split(":")[1].split(), 6))
        elif said.split()[:1] in (["GrainID"], ["ID"]):
            names = [re.sub(r"\(\w+\)$", "", name) for name in said.split()]
    wanted = [f"O{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    if not set(wanted) <= set(names):
        raise SettingsError(f"{path}: no line %GrainID ... O11 ... O33; wanted Grains.csv of MIDAS")
    if cell is None:
        raise SettingsError(f"{path}: no line `Lattice Parameter:` with six numbers that make a cell")
    numbers = np.array([numbers_of(path, number, row, len(names))[: len(names)] for number, row in rows])
    columns = dict(zip(names, numbers.reshape(-1, len(names)).T, strict=True))
    made = _stacked(columns, wanted)
    _check_rotations(path, made)
    found: dict[str, Any] = {"orientation": _quaternions(FROM_MIDAS @ made @ axes_of(midas_vectors(cell)))}
    found["label"] = _whole(path, columns[names[0]])
    found |= {ours: columns[name] for name, ours in _MIDAS_OWN.items() if name in columns}
    found |= {name: columns[name] for name in CELL if name in columns}
    if {"X", "Y", "Z"} <= set(names):
        found |= _positions(FROM_MIDAS, np.stack([columns[name] for name in "XYZ"], axis=1))
    if "phase" in found:
        found["phase"] = _whole(path, found["phase"])
    strain = [f"eFab{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    if set(strain) <= set(names):
        # In the axes of the sample, and in microstrain; eKen is another method's.
        found |= _tensor(FROM_MIDAS, _stacked(columns, strain) * 1e-6)
    used = {names[0], *wanted, *_MIDAS_OWN, *CELL, *strain}
    more, meanings = _others("midas", {name: columns[name] for name in names if name not in used})
    if set(strain) <= set(names):
        meanings |= {name: ("", f"component {name[2:]} of the strain tensor: eFab, Fable-Beaudoin") for name in STRAIN}
    return NewResult(
        program="MIDAS",
        method="far field",
        solutions=found | more,
        meanings=meanings,
        lattice_parameters=cell,
        space_group=check_group(path, group),
        files=(path,),
    )


def _read_midas_mic(path: Path, lines: list[str], cell: np.ndarray | None) -> NewResult:
    header = next((line for line in lines if line.startswith("%OrientationRowNr")), "")
    names = header.lstrip("%").split()
    if not set(_MIC) <= set(names):
        raise SettingsError(f"{path}: no line %OrientationRowNr ... Eul1 ... Confidence; wanted a text .mic of MIDAS")
    if cell is None:
        # Its crystals have x along a*, ours along a.
        raise SettingsError(f"{path}: does not say the lattice that its angles refer to; give --cell a,b,c,al,be,ga")
    numbers = [numbers_of(path, n, line.split(), len(names))[: len(names)] for n, line in _data(lines)]
    columns = dict(zip(names, np.array(numbers).reshape(-1, len(names)).T, strict=True))
    angles = np.stack([columns[f"Eul{i}"] for i in (1, 2, 3)], axis=1)
    unknown = np.full(len(angles), np.nan)
    found: dict[str, Any] = {
        "orientation": _quaternions(FROM_MIDAS @ _from_euler(angles) @ axes_of(midas_vectors(cell))),
        # A layer's height is not in the file.
        **_positions(FROM_MIDAS, np.stack([columns["X"], columns["Y"], unknown], axis=1)),
        "completeness": columns["Confidence"],
        "size": columns["TriEdgeSize"],
    }
    if "PhaseNr" in columns:
        found["phase"] = _whole(path, columns["PhaseNr"])
    more, meanings = _others(
        "midas", {name: values for name, values in columns.items() if name not in (*_MIC, "PhaseNr")}
    )
    return NewResult(
        program="MIDAS",
        method="near field",
        solutions=found | more,
        meanings=meanings,
        lattice_parameters=cell,
        files=(path,),
    )


# hexrd


def read_hexrd(path: Path, lines: list[str]) -> NewResult:
    """Read ``grains.out``."""
    header = next((line for line in lines if line.startswith("#") and "exp_map_c[0]" in line), None)
    if header is None:
        raise SettingsError(f"{path}: no header with exp_map_c[0]; wanted grains.out of hexrd")
    names = header.lstrip("#").replace("grain ID", "grain_ID").split()
    rows = np.array([numbers_of(path, n, line.split(), len(names))[: len(names)] for n, line in _data(lines)])
    columns = dict(zip(names, rows.reshape(-1, len(names)).T, strict=True))
    turn, place = ([f"{name}[{i}]" for i in range(3)] for name in ("exp_map_c", "t_vec_c"))
    stretch = [f"ln(V_s)[{i},{j}]" for i, j in _TENSOR]
    from scipy.spatial.transform import Rotation

    vectors = np.stack([columns[name] for name in turn], axis=1)
    made = Rotation.from_rotvec(vectors).as_matrix() if len(vectors) else np.empty((0, 3, 3))
    found: dict[str, Any] = {"orientation": _quaternions(FROM_HEXRD @ made)}
    meanings: dict[str, tuple[str, str]] = {}
    if "grain_ID" in columns:
        found["label"] = _whole(path, columns["grain_ID"])
    if "completeness" in columns:
        found["completeness"] = columns["completeness"]
    if "chi^2" in columns:
        found["figure_of_merit"] = columns["chi^2"]
        meanings["figure_of_merit"] = ("", "chi^2 of the refined grain")
    if set(place) <= set(names):
        # In millimetres.
        found |= _positions(FROM_HEXRD, 1e3 * np.stack([columns[name] for name in place], axis=1))
    if set(stretch) <= set(names):
        tensor = np.empty((len(made), 3, 3))
        for name, (i, j) in zip(stretch, _TENSOR, strict=True):
            tensor[:, i, j] = tensor[:, j, i] = columns[name]
        found |= _tensor(FROM_HEXRD, tensor)
        meanings |= {name: ("", f"component {name[2:]} of the logarithmic strain: ln V") for name in STRAIN}
    used = {"grain_ID", "completeness", "chi^2", *turn, *place, *stretch}
    more, said = _others("hexrd", {name: values for name, values in columns.items() if name not in used})
    return NewResult(
        program="hexrd", method="far field", solutions=found | more, meanings=meanings | said, files=(path,)
    )


def _read_accepted(path: Path, lines: list[str]) -> NewResult:
    rows = np.array([numbers_of(path, n, line.split(), 4)[:4] for n, line in _data(lines)]).reshape(-1, 4)
    length = np.linalg.norm(rows, axis=1)
    if not np.allclose(length, 1, atol=1e-3):
        raise SettingsError(f"{path}: quaternion {int(np.argmax(np.abs(length - 1)))} has no length of 1")
    from scipy.spatial.transform import Rotation

    made = Rotation.from_quat(rows, scalar_first=True).as_matrix() if len(rows) else np.empty((0, 3, 3))
    found = {"orientation": _quaternions(FROM_HEXRD @ made)}
    return NewResult(program="hexrd", method="orientations that were accepted", solutions=found, files=(path,))


# ImageD11


def read_map(path: Path, lines: list[str]) -> NewResult:
    """Read a ``.map``."""
    starts = [number for number, line in enumerate(lines) if line.startswith("#UBI")]
    if not starts:
        raise SettingsError(f"{path}: no line #UBI:; wanted a .map of ImageD11")
    grains: list[dict[str, Any]] = []
    first = 0
    for at in starts:
        said = [line[1:].replace(":", " ").split() for line in lines[first:at] if line.startswith("#")]
        grain: dict[str, Any] = {words[0]: words[1:] for words in said if words}
        if "translation" in grain:
            grain["translation"] = numbers_of(path, first + 1, grain["translation"], 3)[:3]
        for name in ("npks", "nuniq"):
            if name in grain:
                grain[name] = int(numbers_of(path, first + 1, grain[name], 1)[0])
        rows = range(at + 1, at + 4)
        grain["ubi"] = np.stack([numbers_of(path, row + 1, _line(lines, row).split(), 3)[:3] for row in rows])
        if not np.linalg.det(grain["ubi"]) > 0:
            raise SettingsError(f"{path}, line {at + 2}: UBI of determinant 0 or less is no cell")
        grains.append(grain)
        first = at + 4
    return imaged11_result(path, grains)


def _read_ubi(path: Path, lines: list[str]) -> NewResult:
    rows = [(n, numbers_of(path, n, line.split(), 3)[:3]) for n, line in _data(lines)]
    if not rows or len(rows) % 3:
        raise SettingsError(f"{path}: {len(rows)} rows of numbers came; wanted three for each grain")
    grains: list[dict[str, Any]] = []
    for at in range(0, len(rows), 3):
        grains.append({"ubi": np.stack([row for _, row in rows[at : at + 3]])})
        if not np.linalg.det(grains[-1]["ubi"]) > 0:
            raise SettingsError(f"{path}, line {rows[at][0]}: UBI of determinant 0 or less is no cell")
    return imaged11_result(path, grains)


def imaged11_result(path: Path, grains: Sequence[Mapping[str, Any]]) -> NewResult:
    """Return the result that grains of ImageD11 are: `ubi`, and `translation` [um], `npks` and `nuniq` if known."""
    unknown = np.full(3, np.nan)
    cells = np.array([parameters_of(grain["ubi"]) for grain in grains]).reshape(-1, 6)
    found: dict[str, Any] = {
        "orientation": _quaternions(np.array([FROM_MIDAS @ axes_of(grain["ubi"]) for grain in grains])),
        **_positions(FROM_MIDAS, np.array([grain.get("translation", unknown) for grain in grains])),
        **dict(zip(CELL, cells.T, strict=True)),
    }
    meanings: dict[str, tuple[str, str]] = {}
    for name, meaning in (("npks", "peaks of the grain"), ("nuniq", "different reflections of the grain")):
        if any(name in grain for grain in grains):
            found[f"imaged11_{name}"] = np.array([int(grain.get(name, -1)) for grain in grains])
            meanings[f"imaged11_{name}"] = ("", f"{meaning}; -1 if it is not said")
    return NewResult(program="ImageD11", solutions=found, meanings=meanings, files=(path,))


# HEXOMAP


def _read_hexomap(path: Path, lines: list[str]) -> NewResult:
    side = float(numbers_of(path, 1, _line(lines, 0).split(), 1)[0])
    rows = [numbers_of(path, n, line.split(), _HEXOMAP_COLUMNS)[:_HEXOMAP_COLUMNS] for n, line in _data(lines) if n > 1]
    x, y, z, up, generation, phase, *angles, share = np.array(rows).reshape(-1, _HEXOMAP_COLUMNS).T
    edge = side / 2**generation
    # The file names a triangle's left corner; 1 points up, 2 down.
    centre = np.stack([x + 0.5 * edge, y + (1.5 - up) * edge / np.sqrt(3), z], axis=1)
    return hexomap_result(path, 1e3 * centre, np.radians(np.stack(angles, axis=1)), share, phase, 1e3 * edge)


def hexomap_result(
    path: Path, position: np.ndarray, angles: np.ndarray, share: np.ndarray, phase: np.ndarray, edge: np.ndarray | None
) -> NewResult:
    """Return the result that a map of HEXOMAP is.

    Parameters
    ----------
    path
        Its file.
    position
        Centres of the voxels in its axes, um, shape (n, 3).
    angles
        Active ZXZ Euler angles, radians, shape (n, 3).
    share, phase
        Confidence and phase, shape (n,).
    edge
        Edges of the voxels, um, shape (n,), if they are known.
    """
    found: dict[str, Any] = {
        "orientation": _quaternions(FROM_MIDAS @ _from_euler(angles)),
        **_positions(FROM_MIDAS, position),
        "completeness": share,
        "phase": _whole(path, phase),
    }
    if edge is not None:
        found["size"] = edge
    return NewResult(program="HEXOMAP", method="near field", solutions=found, files=(path,))


# Ours


def _read_own(path: Path, lines: list[str]) -> NewResult:
    rows = list(csv.reader(line for line in lines if line.strip()))
    names = [name.strip() for name in rows[0]] if rows else []
    if not {"q_w", "x", "completeness"} & set(names):
        raise SettingsError(f"{path}: columns {names} came; wanted {KNOWN}")
    numbers = [numbers_of(path, n, row, len(names), exact=True) for n, row in enumerate(rows[1:], 2)]
    columns = dict(zip(names, np.array(numbers).reshape(-1, len(names)).T, strict=True))
    return NewResult(program="", solutions=columns, files=(path,))


# What they share


def check_group(path: Path, number: int | None) -> int | None:
    """Return the number of a space group as it is.

    Raises
    ------
    SettingsError
        There is none of that number.
    """
    if number is not None and not 1 <= number <= 230:
        raise SettingsError(f"{path}: space group {number}; wanted a number from 1 to 230")
    return number


def _stacked(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([columns[name] for name in names], axis=1).reshape(-1, 3, 3)


def _positions(turn: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
    # One by one: where one coordinate is not known, the others are.
    turned = {name: np.zeros(len(positions)) for name in "xyz"}
    for row, name in zip(turn, turned, strict=True):
        for factor, values in zip(row, positions.T, strict=True):
            if factor:
                turned[name] = turned[name] + factor * values
    return turned


def _tensor(turn: np.ndarray, tensors: np.ndarray) -> dict[str, np.ndarray]:
    turned = turn @ tensors @ turn.T
    return {name: turned[:, i, j] for name, (i, j) in zip(STRAIN, _TENSOR, strict=True)}


def _from_euler(angles: np.ndarray) -> np.ndarray:
    """Return the rotations of Euler angles in radians: about z, then about the new x, then about the newest z."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("ZXZ", angles).as_matrix() if len(angles) else np.empty((0, 3, 3))


def _quaternions(matrices: np.ndarray) -> np.ndarray:
    return quaternions(matrices) if len(matrices) else np.empty((0, 4))


def _others(program: str, columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    named = {f"{program}_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}": name for name in columns}
    return (
        {ours: columns[name] for ours, name in named.items()},
        {ours: ("", f"{name} of {program}") for ours, name in named.items()},
    )


def _whole(path: Path, values: np.ndarray) -> np.ndarray:
    if not np.array_equal(values, np.round(values)):
        raise SettingsError(f"{path}: a number of a grain, voxel or phase is not whole")
    return values.astype(np.int64)


def _check_rotations(path: Path, matrices: np.ndarray) -> None:
    for grain, matrix in enumerate(matrices, 1):
        if not (np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0):
            raise SettingsError(f"{path}, grain {grain} of the list: O11 to O33 are no rotation")


def _data(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith(("#", "%")))


def _line(lines: list[str], at: int) -> str:
    return lines[at] if at < len(lines) else ""


def numbers_of(path: Path, line: int, words: Iterable[str], count: int, *, exact: bool = False) -> np.ndarray:
    """Return the words of a line, 0 if it is not to be named, as so many numbers or more.

    Raises
    ------
    SettingsError
        They are fewer, or none.
    """
    given = list(words)
    try:
        made = np.array([float(word) for word in given])
    except ValueError:
        made = np.empty(0)
    # Columns that a newer version adds at the end do no harm; fewer are a line that was cut.
    if len(made) < count or (exact and len(made) > count):
        where = f", line {line}" if line else ""
        raise SettingsError(f"{path}{where}: holds {' '.join(given)!r:.60}; wanted {count} numbers")
    return made

"""Orientations to begin a search with: spread evenly over the fundamental zone of a space group's Laue class.

An orientation is a unit quaternion (w, x, y, z), w >= 0, of the rotation that takes the crystal's axes to the sample's;
the crystal's axes are x along a and z along c*, and of trigonal crystals those of the hexagonal cell. Two orientations
are the same for diffraction where one is the other times a rotation of the Laue class.

The grid is one of the Hopf fibration (Yershova, Jain, LaValle and Mitchell 2010, Int. J. Robotics Research 29, 801):
the direction of the crystal that points along the sample's z, and the turn about it. The turns are equally spaced. The
directions lie on rings of which each has as many points as its length asks for (Lattman 1972, Acta Cryst. B28, 1065),
or, for cubic crystals, on the equiangular grid of a cube's faces. Both are made so that the rotations of the Laue class
take the grid to itself and no point stays where it is: one of each set of equivalent points is left, exactly, and the
zone has no border at which the grid is thinner.
"""

import math

import numpy as np

from .errors import SettingsError

MOST_SEEDS = 20_000_000
"""More seeds than this are a mistake, and would fill the memory."""

LAUE_CLASSES = ("-1", "2/m", "mmm", "4/m", "4/mmm", "-3", "-3m", "6/m", "6/mmm", "m-3", "m-3m")
"""The eleven Laue classes."""

_LAST = (2, 15, 74, 88, 142, 148, 167, 176, 194, 206, 230)
"Last space group of each (International Tables for Crystallography, volume A)."

_TWOFOLD_BETWEEN = (149, 151, 153, 157, 159, 162, 163)
"Trigonal space groups whose two-fold axes of the Laue class lie between the a axes: 312, 31m and -31m."

_FOLD = {"-1": 1, "2/m": 2, "4/m": 4, "-3": 3, "6/m": 6, "mmm": 2, "4/mmm": 4, "-3m": 3, "6/mmm": 6}


def laue_class(space_group: int) -> str:
    """Return the Laue class of a space group.

    Raises
    ------
    SettingsError
        There is no space group of that number.
    """
    if not 1 <= space_group <= _LAST[-1]:
        raise SettingsError(f"space group {space_group} does not exist; wanted a number from 1 to 230")
    return LAUE_CLASSES[int(np.searchsorted(_LAST, space_group))]


def symmetry_rotations(space_group: int) -> np.ndarray:
    """Return the rotations of a space group's Laue class.

    Returns
    -------
    np.ndarray
        Quaternions, shape (n, 4), the identity first.

    Raises
    ------
    SettingsError
        There is no space group of that number.
    """
    laue = laue_class(space_group)
    x, y, z, diagonal = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)
    if laue == "m-3m":
        return _products(_turns(diagonal, 3), _turns(z, 4), _turns(x, 2))
    if laue == "m-3":
        return _products(_turns(diagonal, 3), _turns(z, 2), _turns(x, 2))
    main = _turns(y if laue == "2/m" else z, _FOLD[laue])
    if laue not in ("mmm", "4/mmm", "-3m", "6/mmm"):
        return main
    between = space_group in _TWOFOLD_BETWEEN
    return _products(main, _turns((math.sqrt(0.75), 0.5, 0) if between else x, 2))


def seed_orientations(space_group: int, resolution: float) -> np.ndarray:
    """Return orientations such that every orientation has one within `resolution`, symmetry considered.

    The nearest seeds to a seed are about 1.15 times `resolution` away, less where rings are short.

    Parameters
    ----------
    space_group
        Its number, 1 to 230.
    resolution
        Largest angle between an orientation and the seed nearest to it, degrees.

    Returns
    -------
    np.ndarray
        Quaternions, shape (n, 4): of each set of equivalent ones that with the smallest angle of rotation. n is about
        pi^2 3 sqrt(3) / resolution^3, resolution in radians, divided by the number of rotations of the Laue class, and
        a fifth more for cubic crystals.

    Raises
    ------
    SettingsError
        There is no such space group, or the resolution is not a possible one.
    """
    if not 0 < resolution <= 90:
        raise SettingsError(f"resolution of seeds is {resolution} degrees; wanted more than 0 and at most 90")
    rotations = symmetry_rotations(space_group)
    # Half the diagonal of a cube with this edge is the resolution: a step of the direction either way, and one of the
    # turn, are at right angles in the space of rotations.
    step = 2 / math.sqrt(3) * math.radians(resolution)
    if 8 * math.pi**2 / step**3 / len(rotations) > MOST_SEEDS:
        raise SettingsError(
            f"resolution of {resolution} degrees for space group {space_group} makes more than {MOST_SEEDS} seeds; "
            "wanted a coarser one"
        )
    directions = _directions(laue_class(space_group), step)
    n_turns = math.ceil(2 * math.pi / step)
    turns = _about((0, 0, 1), 2 * np.pi * (np.arange(n_turns) + 0.5) / n_turns)
    seeds = multiply(turns[None, :], _to_z(directions)[:, None]).reshape(-1, 4)
    return reduce_to_zone(seeds, rotations)


def reduce_to_zone(orientations: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Return of each orientation the equivalent one with the smallest angle of rotation; of equal ones the first.

    Parameters
    ----------
    orientations
        Quaternions, shape (n, 4).
    rotations
        Those of the Laue class, shape (m, 4).
    """
    best = orientations * np.where(orientations[:, :1] < 0, -1, 1)
    for rotation in rotations[1:]:
        other = multiply(orientations, rotation)
        other *= np.where(other[:, :1] < 0, -1, 1)
        # By more than rounding, so that what lies on the border is decided in the same way everywhere.
        nearer = other[:, 0] > best[:, 0] + 1e-12
        best[nearer] = other[nearer]
    return best


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product of quaternions, the rotation b followed by a; shapes (..., 4) that broadcast."""
    (aw, ax, ay, az), (bw, bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    parts = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return np.stack(parts, axis=-1)


def quaternions(matrices: np.ndarray) -> np.ndarray:
    """Return rotation matrices, shape (n, 3, 3), as quaternions, shape (n, 4), w >= 0."""
    from scipy.spatial.transform import Rotation

    made = Rotation.from_matrix(np.asarray(matrices, np.float64).reshape(-1, 3, 3)).as_quat(scalar_first=True)
    return made * np.where(made[:, :1] < 0, -1.0, 1.0)


def _directions(laue: str, step: float) -> np.ndarray:
    """Return one of each set of equivalent directions, shape (n, 3): none is further than `step / sqrt(2)` from all."""
    if laue in ("m-3", "m-3m"):
        return _on_a_face(step, quarter=laue == "m-3m")
    dihedral = laue in ("mmm", "4/mmm", "-3m", "6/mmm")
    span = math.pi / 2 if dihedral else math.pi
    found = _on_rings(step, span, _FOLD[laue])
    # The rings are about z; a monoclinic crystal turns about b, which is along y.
    return found[:, [1, 2, 0]] if laue == "2/m" else found


def _on_rings(step: float, span: float, fold: int) -> np.ndarray:
    n_rings = math.ceil(span / step)
    width = span / n_rings
    parts: list[np.ndarray] = []
    for ring in range(n_rings):
        # As many points as the longest circle within the ring's width needs, and the same in each part of the turn.
        longest = (
            1.0
            if ring * width <= math.pi / 2 <= (ring + 1) * width
            else max(math.sin(ring * width), math.sin((ring + 1) * width))
        )
        n = math.ceil(2 * math.pi * longest / step / fold)
        phi = 2 * np.pi * (np.arange(n) + 0.5) / (n * fold)
        theta = (ring + 0.5) * width
        z = np.full(n, math.cos(theta))
        parts.append(np.stack([math.sin(theta) * np.cos(phi), math.sin(theta) * np.sin(phi), z], axis=1))
    return np.concatenate(parts)


def _on_a_face(step: float, *, quarter: bool) -> np.ndarray:
    """Return directions through a half or a quarter of a cube's face, at equal angles along its edges."""
    half = math.ceil(math.pi / 4 / step)
    positive = np.tan(math.pi / 4 * (np.arange(half) + 0.5) / half)
    across = positive if quarter else np.concatenate([-positive[::-1], positive])
    x, y = (grid.ravel() for grid in np.meshgrid(positive, across, indexing="ij"))
    return np.stack([x, y, np.ones_like(x)], axis=1) / np.sqrt(1 + x * x + y * y)[:, None]


def _to_z(directions: np.ndarray) -> np.ndarray:
    """Return the shortest rotation that takes each direction, none of them -z, to z."""
    x, y, z = directions.T
    made = np.stack([1 + z, y, -x, np.zeros_like(x)], axis=1)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _turns(axis: tuple[float, float, float], fold: int) -> np.ndarray:
    return _about(axis, 2 * np.pi * np.arange(fold) / fold)


def _about(axis: tuple[float, float, float], angles: np.ndarray) -> np.ndarray:
    """Return rotations about an axis by angles in radians."""
    unit = np.asarray(axis) / np.linalg.norm(axis)
    return np.concatenate([np.cos(angles / 2)[:, None], np.sin(angles / 2)[:, None] * unit], axis=1)


def _products(*parts: np.ndarray) -> np.ndarray:
    made = parts[0]
    for part in parts[1:]:
        made = multiply(made[:, None], part[None, :]).reshape(-1, 4)
    return made

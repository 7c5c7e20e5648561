"""The axes of crystals and of samples: from each program's own to those that our archives speak of.

An orientation is given as `streaming.orientations` says it: from the crystal's axes, x along a and z along c*, to the
sample's, which are those of APS: z along the beam, y up.
"""

import numpy as np

APS = "x sideways, y up (rotation axis), z along the beam"
"""The sample's axes, in words."""

# Rows are the axes of APS in those of the program: MIDAS, ImageD11 and HEXOMAP have x along the beam and z up, hexrd
# has z against the beam and y up.
FROM_MIDAS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
FROM_HEXRD = np.diag([-1.0, 1.0, -1.0])


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


def axes_of(vectors: np.ndarray) -> np.ndarray:
    """Return the crystal's axes, x along a and z along c*, as columns; `vectors` are a, b, c as rows."""
    x, z = vectors[0], np.cross(vectors[0], vectors[1])
    x, z = x / np.linalg.norm(x), z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def parameters_of(vectors: np.ndarray) -> np.ndarray:
    """Return the lattice parameters of a, b, c as rows."""
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(lengths, lengths)
    return np.array([*lengths, *np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))])


def midas_vectors(cell: np.ndarray) -> np.ndarray:
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

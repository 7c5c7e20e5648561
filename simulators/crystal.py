"""Crystals and grains: what diffracts, before any geometry."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..streaming.errors import SettingsError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

KEV_ANGSTROM = 12.398419843320026
"""Photon energy times wavelength, h c / e in keV Å (exact since 2019)."""

_CENTRINGS: Mapping[str, tuple[tuple[int, int, int, int], ...]] = {
    # A reflection is present when every p h + q k + r l is a multiple of m.
    "P": (),
    "A": ((0, 1, 1, 2),),
    "B": ((1, 0, 1, 2),),
    "C": ((1, 1, 0, 2),),
    "I": ((1, 1, 1, 2),),
    "F": ((0, 1, 1, 2), (1, 0, 1, 2)),
    "R": ((-1, 1, 1, 3),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Crystal:
    """A phase: its cell, which reflections it has, and how fast they fade."""

    lattice: tuple[float, float, float, float, float, float]
    "a, b, c [Å], alpha, beta, gamma [degrees]"
    centring: str = "P"
    "which reflections the lattice allows: P, A, B, C, I, F, or R (obverse, hexagonal axes)"
    space_group: int | None = None
    "number in the International Tables, for the record only: glide planes and screw axes are not applied"
    hkls: tuple[tuple[int, int, int], ...] | None = None
    "the reflections to use, Friedel mates written out; without it all that `centring` allows"
    debye_waller: float = 0.5
    "B [Å^2] of the stand-in for the structure factor, F^2 = exp(-2 B (sin(theta) / lambda)^2)"

    def __post_init__(self) -> None:
        """Refuse a cell without volume and an unknown centring."""
        if self.centring not in _CENTRINGS:
            raise SettingsError(f"centring {self.centring!r} is unknown: use one of {', '.join(_CENTRINGS)}")
        if len(self.lattice) != 6 or min(self.lattice) <= 0:
            raise SettingsError(f"lattice {self.lattice} is no cell: six positive numbers, Å and degrees, are wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grain:
    """One grain of a sample."""

    orientation: tuple[tuple[float, float, float], ...]
    "U, 3 x 3, crystal to sample: a scattering vector in the sample is U B h"
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    "X, Y, Z of its centre in the sample at omega 0 [um]"
    size: float = 50.0
    "diameter of the sphere of its volume [um]"
    mosaic: float = 0.05
    "standard deviation of its orientation spread about each axis [degrees]"


def reciprocal_basis(lattice: tuple[float, float, float, float, float, float]) -> Array:
    """Columns a*, b*, c* [1/Å], a* along x and b* in the x-y plane (Busing and Levy's B), shape (3, 3).

    Raises
    ------
    SettingsError
        The three angles close no cell.
    """
    lengths, angles = np.array(lattice[:3]), np.radians(lattice[3:])
    cosines = np.cos(angles)
    metric = np.outer(lengths, lengths) * np.array(
        [[1.0, cosines[2], cosines[1]], [cosines[2], 1.0, cosines[0]], [cosines[1], cosines[0], 1.0]]
    )
    try:
        # The Cholesky factor of the reciprocal metric is the upper triangular B.
        return np.asarray(np.linalg.cholesky(np.linalg.inv(metric)).T, dtype=np.float64)
    except np.linalg.LinAlgError:
        raise SettingsError(f"lattice {lattice} is no cell: its angles cannot meet; check alpha, beta, gamma") from None


def reflections(crystal: Crystal, max_length: float) -> Integers:
    """Every allowed reflection whose scattering vector is no longer than `max_length` [1/Å], shape (n, 3).

    The order is fixed: by length, then h, k, l from high to low.
    """
    basis = reciprocal_basis(crystal.lattice)
    if crystal.hkls is not None:
        hkls = np.array(crystal.hkls, dtype=np.int64).reshape(-1, 3)
    else:
        bound = [int(np.floor(max_length * edge)) for edge in crystal.lattice[:3]]
        axes = [np.arange(-most, most + 1) for most in bound]
        hkls = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)
        for p, q, r, multiple in _CENTRINGS[crystal.centring]:
            hkls = hkls[(hkls @ np.array([p, q, r])) % multiple == 0]
    lengths = np.linalg.norm(hkls @ basis.T, axis=1)
    keep = (lengths > 0) & (lengths <= max_length)
    hkls, lengths = hkls[keep], lengths[keep]
    # Rounded, so that members of one family do not change order with the last bit of their lengths.
    order = np.lexsort((-hkls[:, 2], -hkls[:, 1], -hkls[:, 0], np.round(lengths, 9)))
    return hkls[order]


def structure_factor_squared(crystal: Crystal, lengths: Array) -> Array:
    """Stand-in for F^2 at scattering vectors of the given lengths [1/Å]: a Debye-Waller factor, 1 at zero."""
    return np.exp(-2.0 * crystal.debye_waller * (lengths / 2.0) ** 2)


def random_orientations(n: int, rng: np.random.Generator) -> Array:
    """Rotation matrices drawn evenly over all rotations, shape (n, 3, 3)."""
    quaternions = rng.standard_normal((n, 4))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def random_grains(
    n: int, seed: int, *, radius: float, height: float, size: tuple[float, float], mosaic: tuple[float, float]
) -> tuple[Grain, ...]:
    """Grains of random orientation in an upright cylinder about the rotation axis.

    Parameters
    ----------
    n
        Number of grains.
    seed
        Equal seeds give equal grains.
    radius, height
        Of the cylinder, centred on the origin [um].
    size, mosaic
        Least and greatest diameter [um] and orientation spread [degrees], drawn evenly between.
    """
    rng = np.random.default_rng(seed)
    orientations = random_orientations(n, rng)
    distance, angle = radius * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    positions = np.column_stack(
        [distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-height / 2, height / 2, n)]
    )
    sizes, mosaics = rng.uniform(*size, n), rng.uniform(*mosaic, n)
    return tuple(
        Grain(
            orientation=tuple((float(row[0]), float(row[1]), float(row[2])) for row in orientations[i]),
            position=(float(positions[i, 0]), float(positions[i, 1]), float(positions[i, 2])),
            size=float(sizes[i]),
            mosaic=float(mosaics[i]),
        )
        for i in range(n)
    )

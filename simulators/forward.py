"""From grains to spots: where, when, how strong and how wide each reflection meets the detector.

The frame is ImageD11's: X along the beam, Z up along the rotation axis, Y = Z x X; omega turns the sample
right-handed about +Z; rows rise with +Z and columns with +Y; eta is 0 at +Z and +90 degrees at -Y. The detector
is flat and stands square to the beam. Pixel centres lie at integers. `docs/explanations/forward-model.md` derives
every line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..streaming.errors import SettingsError
from .crystal import (
    KEV_ANGSTROM,
    Array,
    Crystal,
    Grain,
    Integers,
    reciprocal_basis,
    reflections,
    structure_factor_squared,
)

# Below this distance from the rotation axis, as a part of the beam's wave vector, a reflection stays in reflecting
# position for most of a turn: it is no spot, and its Lorentz factor is no number.
_LEAST_AXIAL_DISTANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorGeometry:
    """A flat detector, square to the beam."""

    shape: tuple[int, int]
    "rows, columns"
    distance: float
    "from the rotation axis to the detector, along the beam [um]"
    pixel_size: float
    "edge of a square pixel [um]"
    beam_row: float
    "row that the unscattered beam meets; pixel centres at integers"
    beam_col: float
    "column that the unscattered beam meets"
    energy: float
    "of the photons [keV]"

    def __post_init__(self) -> None:
        """Refuse numbers that describe no detector."""
        for name, value in (("distance", self.distance), ("pixel_size", self.pixel_size), ("energy", self.energy)):
            if not value > 0:
                raise SettingsError(f"detector {name} {value} is not positive: give it in um (energy in keV)")
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise SettingsError(f"detector shape {self.shape} is not (rows, columns), each at least 1")

    @property
    def wavelength(self) -> float:
        """Of the photons [Å]."""
        return KEV_ANGSTROM / self.energy

    @property
    def max_two_theta(self) -> float:
        """Scattering angle at the corner furthest from the beam [degrees], seen from the origin."""
        rows = max(self.beam_row + 0.5, self.shape[0] - 0.5 - self.beam_row)
        cols = max(self.beam_col + 0.5, self.shape[1] - 0.5 - self.beam_col)
        return float(np.degrees(np.arctan2(np.hypot(rows, cols) * self.pixel_size, self.distance)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spots:
    """A table of spots, one a row; every column has the same length. Rows rise with omega."""

    grain: Integers
    "index of the grain, from 0"
    h: Integers
    "Miller index h"
    k: Integers
    "Miller index k"
    l: Integers  # noqa: E741
    "Miller index l"
    omega: Array
    "rotation at which the grain's centre reflects, in [-180, 180) [degrees]"
    row: Array
    "where the centre of the spot meets the detector [pixels]"
    col: Array
    "where the centre of the spot meets the detector [pixels]"
    intensity: Array
    "counts of the whole spot, all pixels and all omega"
    sigma_omega: Array
    "standard deviation along omega [degrees]"
    sigma_radial: Array
    "standard deviation away from the beam's centre [pixels]"
    sigma_azimuthal: Array
    "standard deviation along the ring [pixels]"
    two_theta: Array
    "scattering angle [degrees]"
    eta: Array
    "azimuth of the scattered ray, 0 at +Z, +90 at -Y, in (-180, 180] [degrees]"

    def __len__(self) -> int:
        """Count the spots."""
        return int(self.omega.size)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Spots":
        """Some rows of the table: a mask or indices, shape (n,)."""
        return Spots(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def columns(self) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
        """The table as a dictionary of columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def diffract(
    grains: Sequence[Grain],
    crystal: Crystal,
    geometry: DetectorGeometry,
    *,
    scale: float,
    point_spread: float = 0.7,
    min_eta: float = 0.0,
) -> Spots:
    """All spots of a full turn that fall on the detector.

    Parameters
    ----------
    grains
        The sample, all of one phase.
    crystal
        The phase.
    geometry
        The detector and the energy.
    scale
        Counts of a reflection with structure and Lorentz factors 1, per um^3 of grain.
    point_spread
        Standard deviation of the detector's own blur [pixels].
    min_eta
        Leave out what lies nearer than this to the rotation axis, eta 0 or 180 [degrees]: there a reflection stays
        in the beam for many frames, and most programs ignore it.

    Returns
    -------
    Spots
        Sorted by omega, then row, then column.
    """
    max_length = 2.0 * np.sin(np.radians(geometry.max_two_theta) / 2.0) / geometry.wavelength
    hkls = reflections(crystal, float(max_length))
    parts = [_diffract_grain(i, grain, hkls, crystal, geometry, scale, point_spread) for i, grain in enumerate(grains)]
    names = [field.name for field in fields(Spots)]
    if not parts:
        parts = [_diffract_grain(0, Grain(orientation=_IDENTITY), hkls[:0], crystal, geometry, scale, point_spread)]
    spots = Spots(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
    spots = spots.select(np.abs(np.sin(np.radians(spots.eta))) >= np.sin(np.radians(min_eta)))
    return spots.select(np.lexsort((spots.col, spots.row, spots.omega)))


_IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def reflecting_omegas(vectors: Array, wavelength: float) -> tuple[NDArray[np.int64], Array]:
    """Solve Bragg's law for the rotation: every omega at which a scattering vector reflects.

    Parameters
    ----------
    vectors
        Scattering vectors in the sample at omega 0 [1/Å], shape (n, 3).
    wavelength
        [Å].

    Returns
    -------
    index, omega
        Which vector, shape (m,), and its rotation [radians], shape (m,); each vector has two rotations or none.
    """
    # |k + R g| = |k| asks for (R g)_x = -wavelength g^2 / 2; turning g about Z moves its x on a cosine.
    needed = -0.5 * wavelength * np.einsum("ij,ij->i", vectors, vectors)
    axial = np.hypot(vectors[:, 0], vectors[:, 1])
    reach = np.flatnonzero((axial > np.abs(needed)) & (axial * wavelength > _LEAST_AXIAL_DISTANCE))
    half = np.arccos(needed[reach] / axial[reach])
    phase = np.arctan2(vectors[reach, 1], vectors[reach, 0])
    return np.concatenate([reach, reach]), np.concatenate([half - phase, -half - phase])


def _diffract_grain(
    index: int,
    grain: Grain,
    hkls: Integers,
    crystal: Crystal,
    geometry: DetectorGeometry,
    scale: float,
    point_spread: float,
) -> Spots:
    wavelength = geometry.wavelength
    vectors = hkls @ (np.array(grain.orientation) @ reciprocal_basis(crystal.lattice)).T
    which, omega = reflecting_omegas(vectors, wavelength)
    cosine, sine = np.cos(omega), np.sin(omega)
    # Unit vector of the scattered ray, and the grain's centre, both at that omega.
    ray = _turn(vectors[which], cosine, sine) * wavelength + np.array([1.0, 0.0, 0.0])
    origin = _turn(np.broadcast_to(np.array(grain.position), ray.shape), cosine, sine)
    with np.errstate(divide="ignore", invalid="ignore"):
        flight = (geometry.distance - origin[:, 0]) / ray[:, 0]
        row = geometry.beam_row + (origin[:, 2] + flight * ray[:, 2]) / geometry.pixel_size
        col = geometry.beam_col + (origin[:, 1] + flight * ray[:, 1]) / geometry.pixel_size
        # sin(2 theta) |sin(eta)| is the part of the ray along Y: the Lorentz factor's denominator.
        lorentz = 1.0 / np.abs(ray[:, 1])
    sin_two_theta = np.hypot(ray[:, 1], ray[:, 2])
    lengths = np.linalg.norm(vectors[which], axis=1)
    radius = flight * sin_two_theta / geometry.pixel_size
    volume = np.pi / 6.0 * grain.size**3
    # A sphere's projection has the variance diameter^2 / 20 along every direction.
    blur = np.sqrt(point_spread**2 + (grain.size / geometry.pixel_size) ** 2 / 20.0)
    spots = Spots(
        grain=np.full(which.size, index, dtype=np.int64),
        h=hkls[which, 0],
        k=hkls[which, 1],
        l=hkls[which, 2],
        omega=(np.degrees(omega) + 180.0) % 360.0 - 180.0,
        row=row,
        col=col,
        intensity=scale * volume * structure_factor_squared(crystal, lengths) * lorentz,
        sigma_omega=grain.mosaic * sin_two_theta * lorentz,
        sigma_radial=np.full(which.size, blur),
        sigma_azimuthal=np.hypot(blur, np.radians(grain.mosaic) * radius),
        two_theta=np.degrees(np.arctan2(sin_two_theta, ray[:, 0])),
        eta=np.degrees(np.arctan2(-ray[:, 1], ray[:, 2])),
    )
    inside = (row > -0.5) & (row < geometry.shape[0] - 0.5) & (col > -0.5) & (col < geometry.shape[1] - 0.5)
    forward = (ray[:, 0] > 0) & (np.abs(ray[:, 1]) > _LEAST_AXIAL_DISTANCE)
    return spots.select(inside & forward)


def _turn(vectors: Array, cosine: Array, sine: Array) -> Array:
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return np.column_stack([cosine * x - sine * y, sine * x + cosine * y, z])

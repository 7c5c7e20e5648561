"""A beam narrower than the sample: which part of each grain it lights while the sample turns and moves across."""

from collections.abc import Sequence

import numpy as np

from ..streaming.errors import SettingsError
from .crystal import Array, Grain


class PencilBeam:
    """A beam of even intensity, through the origin along X, as high as the sample.

    The translation dty lies below the rotation and carries it along +Y. So a grain at (x, y) stands at
    x sin(omega) + y cos(omega) + dty across the beam, and is in its middle on a sine: where
    dty = -x sin(omega) - y cos(omega).

    Parameters
    ----------
    grains
        The sample.
    width
        Full width along Y [um].

    Raises
    ------
    SettingsError
        The width is not positive.
    """

    def __init__(self, grains: Sequence[Grain], width: float) -> None:
        if not width > 0:
            raise SettingsError(f"a beam of width {width} lights nothing: give it in um")
        self.width = width
        self._x, self._y = (np.array([grain.position[axis] for grain in grains], np.float64) for axis in (0, 1))
        self._radius = np.array([grain.size / 2.0 for grain in grains], np.float64)

    def fractions(self, omega: float, dty: float) -> Array:
        """Part of each grain's volume that is lit, shape (grains,).

        Parameters
        ----------
        omega
            Rotation [degrees].
        dty
            Translation across the beam [mm].
        """
        angle = np.radians(omega)
        across = self._x * np.sin(angle) + self._y * np.cos(angle) + 1000.0 * dty
        return self._below(self.width / 2.0 - across) - self._below(-self.width / 2.0 - across)

    def _below(self, plane: Array) -> Array:
        """Part of the volume of each sphere on the near side of a plane, at a distance from its centre [um]."""
        u = np.clip(plane / self._radius, -1.0, 1.0)
        return (2.0 + 3.0 * u - u**3) / 4.0

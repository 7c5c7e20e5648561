"""Rings of a powder pattern as places on the detector: which annulus a ring is, from lattice, energy and distance."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from ..streaming import SettingsError
from .layout import RAW, SUMMARY
from .queries import Annulus

KEV_ANGSTROM = 12.398419843320026
"""Photon energy times wavelength, h c / e in keV angstrom (exact since 2019)."""

GEOMETRY = "geometry"
"""Key of a start document whose mapping tells `RingGeometry`."""

_SAME = 1e-6
"Lengths of scattering vectors that differ by less, relative to themselves, are one ring."
_SPACE_GROUPS = 230
_ENERGY = 1e-3
"An energy that moved by more, relative to itself, in the run, is none."


@dataclass(frozen=True, slots=True, kw_only=True)
class RingGeometry:
    """What makes a ring: a flat detector upright in the beam, and the crystal."""

    energy: float
    "Energy of the beam, keV."
    distance: float
    "From the sample to the detector, mm."
    pixel_size: float
    "Edge of a pixel, mm."
    beam_center: tuple[float, float]
    "Row and column where the beam meets the detector, px; pixel centres at integers."
    lattice_parameters: tuple[float, float, float, float, float, float]
    "a, b, c in angstrom, alpha, beta, gamma in degrees."
    space_group: int
    "Its number."

    def radius(self, length: float) -> float:
        """Return the radius of the ring of a scattering vector, px.

        By Bragg's law (International Tables for Crystallography, volume C, 2.1), sin(theta) = wavelength |G| / 2, and a
        flat detector upright in the beam, r = distance tan(2 theta). Tilts and the size of the sample are left out.

        Parameters
        ----------
        length
            |G| = 1 / d, 1/angstrom.
        """
        return self.distance / self.pixel_size * math.tan(2 * math.asin(KEV_ANGSTROM / self.energy * length / 2))

    def radii(self, n: int) -> list[float]:
        """Return the radii of the first n rings, from the beam outwards, px; fewer if there are not so many.

        Reflections that the space group forbids make no ring; those that are absent because of where its atoms are,
        as 222 of silicon, count.

        Raises
        ------
        SettingsError
            There is no such space group or cell, or gemmi is not installed.
        """
        # At 90 degrees a ring leaves the plane of the detector.
        longest = math.sqrt(2) * self.energy / KEV_ANGSTROM
        reach = min(longest, 2 / min(self.lattice_parameters[:3]))
        while True:
            lengths = self._lengths(reach)
            if len(lengths) >= n or reach >= longest:
                return [self.radius(length) for length in lengths[:n] if length < longest]
            reach = min(longest, 1.5 * reach)

    def _lengths(self, reach: float) -> list[float]:
        try:
            import gemmi
        except ImportError:
            raise SettingsError("ring: needs the package gemmi; install hedmlive[rings]") from None
        if not 1 <= self.space_group <= _SPACE_GROUPS:
            raise SettingsError(f"ring: space group {self.space_group} came; wanted a number from 1 to {_SPACE_GROUPS}")
        symmetry = gemmi.find_spacegroup_by_number(self.space_group).operations()
        cell = gemmi.UnitCell(*self.lattice_parameters)
        bounds = [int(reach * edge) for edge in self.lattice_parameters[:3]]
        axes = [np.arange(-most, most + 1) for most in bounds]
        # G and -G make the same ring.
        hkls = np.stack(np.meshgrid(axes[0][bounds[0] :], axes[1], axes[2], indexing="ij"), axis=-1).reshape(-1, 3)
        lengths = np.sqrt(cell.calculate_1_d2_array(hkls.astype(np.int32)))
        order = np.argsort(lengths, kind="stable")
        order = order[(lengths[order] > 0) & (lengths[order] <= reach)]
        found: list[float] = []
        for at in order.tolist():
            length = float(lengths[at])
            known = found and length - found[-1] <= _SAME * length
            if not known and not symmetry.is_systematically_absent(hkls[at].tolist()):
                found.append(length)
        return found


def annuli_of(
    reduction: Any, rings: int | Iterable[int], *, geometry: Mapping[str, Any] | None = None, width: float | None = None
) -> list[Annulus]:
    """Return where on the detector of a reduction some rings are.

    Parameters
    ----------
    reduction
        Client of the reduction.
    rings
        Number of a ring, or several; the innermost is 1.
    geometry
        What `RingGeometry` needs and the run does not tell; it goes before what the run tells.
    width
        Half the width of a ring, px; None takes what is nearer to it than to the next ones.

    Raises
    ------
    SettingsError
        There is no such ring, or the geometry is not known; the message says what is missing.
    """
    wanted: list[Any] = [rings] if isinstance(rings, int) else list(rings)
    if not wanted or any(type(ring) is not int or ring < 1 for ring in wanted):
        raise SettingsError(f"ring={rings!r} came; wanted whole numbers from 1, the innermost ring")
    if width is not None and not (math.isfinite(width) and width > 0):
        raise SettingsError(f"ring_width={width!r} came; wanted more than 0 px")
    known = ring_geometry(reduction, geometry or {}, f"{reduction.name}: ring={rings}")
    radii = known.radii(max(wanted) + 1)
    if len(radii) < max(wanted):
        raise SettingsError(f"{reduction.name}: ring {max(wanted)} came; wanted 1 to {len(radii)}, all in front of it")
    halfway = [(one + other) / 2 for one, other in pairwise(radii)]
    first = radii[0] - (radii[1] - radii[0]) / 2 if len(radii) > 1 else 0.0
    last = 2 * radii[-1] - halfway[-1] if halfway else 2 * radii[-1]
    edges = [max(0.0, first), *halfway, last]
    row, col = known.beam_center
    return [
        Annulus(
            row=row,
            col=col,
            inner=edges[ring - 1] if width is None else max(0.0, radii[ring - 1] - width),
            outer=edges[ring] if width is None else radii[ring - 1] + width,
        )
        for ring in wanted
    ]


def ring_geometry(reduction: Any, given: Mapping[str, Any], what: str) -> RingGeometry:
    """Return the geometry of a reduction's run: what is given, what the start document and the settings say.

    Raises
    ------
    SettingsError
        Something is missing, or is no such number.
    """
    names = [field.name for field in fields(RingGeometry)]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise SettingsError(f"{what}: geometry has {unknown}; wanted {', '.join(names)}")
    found: dict[str, Any] = {}
    for told in (given, *_told(reduction)):
        found |= {name: told[name] for name in names if name not in found and told.get(name) is not None}
    missing = [name for name in names if name not in found]
    if missing:
        raise SettingsError(
            f"{what}: the run does not tell {', '.join(missing)}; say geometry={{...}} here, or {GEOMETRY!r} in the "
            "start document"
        )
    sizes = {"beam_center": 2, "lattice_parameters": 6}
    try:
        values: dict[str, Any] = {
            name: tuple(map(float, found[name])) if name in sizes else float(found[name]) for name in names
        }
        values["space_group"] = int(values["space_group"])
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{what}: the geometry is no numbers ({error})") from None
    positive = [values[name] for name in ("energy", "distance", "pixel_size")] + list(values["lattice_parameters"])
    if any(len(values[name]) != size for name, size in sizes.items()) or not all(
        math.isfinite(each) and each > 0 for each in positive
    ):
        raise SettingsError(f"{what}: geometry {values} came; wanted positive numbers, a row and a column, and a cell")
    return RingGeometry(**values)


def _told(reduction: Any) -> Iterator[Mapping[str, Any]]:
    """Give what a run tells of its geometry, the surest first; what is no mapping is none."""
    start = reduction.start
    yield from (each for each in (_start(reduction).get(GEOMETRY), start) if isinstance(each, Mapping))
    try:
        said = reduction.metadata["settings"]
        yield (json.loads(said) if isinstance(said, str) else said)["hedm"]
    except (KeyError, TypeError, ValueError):
        pass
    summary = reduction.metadata.get(SUMMARY, {})
    low, high = summary.get("energy_min"), summary.get("energy_max")
    if low is not None and high is not None and high - low <= _ENERGY * high:
        yield {"energy": (low + high) / 2}


def _start(reduction: Any) -> Mapping[str, Any]:
    """Return the start document as it came: a reduction has only what queries can compare of it."""
    from tiled.client.constructors import from_context

    try:
        return from_context(reduction.context)[RAW, reduction.uid].metadata["start"]
    except KeyError:
        return reduction.start

"""A whole simulated station: a sample of grains, its stages, and a detector that sees it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..devices import roles_of
from ..streaming.errors import SettingsError
from .axes import SimAxis, SimEnergy, SimRotation, SimShutter, SimTranslation
from .beam import PencilBeam
from .crystal import Crystal, Grain, random_grains
from .detectors import FrameSource, SimArrayDetector, SimHDF5Detector, SimStreamHDF5Detector
from .forward import DetectorGeometry, diffract
from .frames import DetectorNoise, FrameSimulator

DetectorKind = Literal["array", "hdf5", "stream"]

GOLD = Crystal(lattice=(4.0782, 4.0782, 4.0782, 90.0, 90.0, 90.0), centring="F", space_group=225)
"""Gold at room temperature."""

# The detector's edge stays the same whatever its pixels, so that every shape sees the same rings.
_DETECTOR_EDGE = 204_800.0
_DISTANCE = 600_000.0
_ENERGY = 65.351


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStation:
    """The simulated twin of `devices.Station`, with the truth beside."""

    rotation: SimRotation
    "omega"
    translation: SimTranslation
    "L1 and L2 [mm]"
    energy: SimEnergy
    "photon energy [keV]"
    shutter: SimShutter
    "closed: dark frames"
    detector: SimArrayDetector | SimHDF5Detector | SimStreamHDF5Detector
    "the area detector"
    simulator: FrameSimulator
    "draws the frames and knows the truth"
    grains: tuple[Grain, ...]
    "the sample"
    crystal: Crystal
    "its phase"
    geometry: DetectorGeometry
    "where the detector stands"
    roles: Mapping[str, str]
    "role -> data key"
    image_key: str
    "data key of the images"
    dty: SimAxis | None = None
    "moves the sample across a narrow beam [mm]"

    @property
    def baseline(self) -> tuple[Any, ...]:
        """What a scan records once before and once after."""
        return (self.translation, self.energy)


def simulated_station(
    folder: str | Path,
    *,
    detector: DetectorKind = "hdf5",
    shape: tuple[int, int] = (512, 512),
    n_grains: int = 20,
    seed: int = 0,
    median_counts: float = 20_000.0,
    crystal: Crystal = GOLD,
    grains: Sequence[Grain] | None = None,
    noise: DetectorNoise | None = None,
    beam_width: float | None = None,
    exposure: float = 0.0,
    compress: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> SimulatedStation:
    """Make a station; equal arguments give equal frames.

    Parameters
    ----------
    folder
        Where a detector that writes files puts them; made when the first is written.
    detector
        "array" in the event, "hdf5" with Resource and Datum, "stream" with StreamResource and StreamDatum.
    shape
        Rows, columns of the detector.
    n_grains
        Number of grains of random orientation.
    seed
        Of grains and noise.
    median_counts
        Counts of the median spot, over all its pixels and frames.
    crystal
        The phase; gold without it.
    grains
        The sample, instead of a random one.
    noise
        What the detector adds to the spots.
    beam_width
        Of a beam narrower than the sample [um]: the station then has a translation across it, the role dty.
    exposure
        Time that a frame takes [s].
    compress
        Whether files are compressed (bitshuffle, LZ4).
    sleep
        Waits for the exposure.

    Raises
    ------
    SettingsError
        The kind of detector is unknown, or the sample shows no spot.
    """
    if detector not in ("array", "hdf5", "stream"):
        raise SettingsError(f"detector kind {detector!r} is unknown: use 'array', 'hdf5' or 'stream'")
    geometry = DetectorGeometry(
        shape=shape,
        distance=_DISTANCE,
        pixel_size=_DETECTOR_EDGE / max(shape),
        beam_row=(shape[0] - 1) / 2,
        beam_col=(shape[1] - 1) / 2,
        energy=_ENERGY,
    )
    sample = (
        tuple(grains)
        if grains is not None
        else random_grains(n_grains, seed, radius=300.0, height=100.0, size=(40.0, 80.0), mosaic=(0.05, 0.2))
    )
    beam = None if beam_width is None else PencilBeam(sample, beam_width)
    simulator = _simulator(sample, crystal, geometry, median_counts, {"noise": noise, "seed": seed, "beam": beam})
    rotation, shutter = SimRotation(name="rotation"), SimShutter(name="shutter")
    dty = None if beam is None else SimAxis(name="dty", egu="mm")
    source = FrameSource(simulator=simulator, rotation=rotation, shutter=shutter, dty=dty)
    made = _detector(detector, source, Path(folder), compress, {"exposure": exposure, "sleep": sleep})
    return SimulatedStation(
        rotation=rotation,
        translation=SimTranslation(name="translation", distances=(_DISTANCE / 1000, _DISTANCE / 1000 + 200)),
        energy=SimEnergy(name="energy", value=_ENERGY),
        shutter=shutter,
        detector=made,
        simulator=simulator,
        grains=sample,
        crystal=crystal,
        geometry=geometry,
        roles=roles_of("rotation", "translation", "energy") | ({} if dty is None else {"dty": dty.name}),
        image_key=made.image_key,
        dty=dty,
    )


def _simulator(
    sample: tuple[Grain, ...],
    crystal: Crystal,
    geometry: DetectorGeometry,
    median_counts: float,
    options: Mapping[str, Any],
) -> FrameSimulator:
    # Near the rotation axis a spot lasts for many frames; programs for real data leave these out too.
    spots = diffract(sample, crystal, geometry, scale=1.0, min_eta=6.0)
    if not len(spots):
        raise SettingsError(f"the {len(sample)} grains show no spot on the detector: check lattice and grains")
    scaled = replace(spots, intensity=spots.intensity * (median_counts / float(np.median(spots.intensity))))
    return FrameSimulator(geometry.shape, scaled, **options)


def _detector(
    kind: DetectorKind, source: FrameSource, folder: Path, compress: bool, timing: Mapping[str, Any]
) -> SimArrayDetector | SimHDF5Detector | SimStreamHDF5Detector:
    if kind == "array":
        return SimArrayDetector(name="detector", source=source, **timing)
    cls = SimHDF5Detector if kind == "hdf5" else SimStreamHDF5Detector
    return cls(name="detector", source=source, folder=folder, compress=compress, **timing)

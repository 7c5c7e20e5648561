"""A simulated beamline: grains -> spots -> frames -> detectors and stages that a RunEngine can drive."""

from .axes import SimAxis, SimEnergy, SimRotation, SimShutter, SimTranslation
from .beam import PencilBeam
from .crystal import Crystal, Grain, random_grains, random_orientations, reciprocal_basis, reflections
from .detectors import FrameSource, SimArrayDetector, SimHDF5Detector, SimStreamHDF5Detector
from .fly import SimFlyController, SimTriggeredDetector
from .forward import DetectorGeometry, Spots, diffract
from .frames import NOISELESS, DetectorNoise, FrameSimulator
from .score import Score, score_tracks
from .station import GOLD, SimulatedStation, simulated_station
from .truth import Truth

__all__ = [
    "GOLD",
    "NOISELESS",
    "Crystal",
    "DetectorGeometry",
    "DetectorNoise",
    "FrameSimulator",
    "FrameSource",
    "Grain",
    "PencilBeam",
    "Score",
    "SimArrayDetector",
    "SimAxis",
    "SimEnergy",
    "SimFlyController",
    "SimHDF5Detector",
    "SimRotation",
    "SimShutter",
    "SimStreamHDF5Detector",
    "SimTranslation",
    "SimTriggeredDetector",
    "SimulatedStation",
    "Spots",
    "Truth",
    "diffract",
    "random_grains",
    "random_orientations",
    "reciprocal_basis",
    "reflections",
    "score_tracks",
    "simulated_station",
]

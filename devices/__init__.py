"""ophyd devices and Bluesky plans of an HEDM station; every name and PV comes from the settings."""

from .area_detector import SwmrHDF5Plugin, area_detector_class
from .fly_controller import PsoFlyController
from .plans import DARK_STREAM, step_scan
from .stages import DetectorTranslation, MonochromatorEnergy, RotationStage
from .station import (
    AreaDetectorSettings,
    EnergySettings,
    RotationSettings,
    Station,
    StationSettings,
    TranslationSettings,
    make_station,
    roles_of,
)

__all__ = [
    "DARK_STREAM",
    "AreaDetectorSettings",
    "DetectorTranslation",
    "EnergySettings",
    "MonochromatorEnergy",
    "PsoFlyController",
    "RotationSettings",
    "RotationStage",
    "Station",
    "StationSettings",
    "SwmrHDF5Plugin",
    "TranslationSettings",
    "area_detector_class",
    "make_station",
    "roles_of",
    "step_scan",
]

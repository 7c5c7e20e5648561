"""ophyd devices and Bluesky plans of an HEDM station; every name and PV comes from the settings."""

from .area_detector import CAMS, GeFileWriter, HedmAreaDetector, SwmrHDF5Plugin, area_detector_class
from .fly_controller import PsoFlyController
from .plans import DARK_STREAM, step_scan
from .readings import MonochromatorEnergy, Sample, SampleOfSixPvs, ScalarReading
from .shutter import Shutter
from .stages import DetectorTranslation, RotationStage, SweepingRotationStage, translation_class
from .station import Station, make_station, roles_of, station_roles
from .station_settings import (
    AreaDetectorSettings,
    EnergySettings,
    FlyControllerSettings,
    ReadingSettings,
    RotationSettings,
    SampleSettings,
    ShutterSettings,
    StationSettings,
    TranslationSettings,
    load_station,
)

__all__ = [
    "CAMS",
    "DARK_STREAM",
    "AreaDetectorSettings",
    "DetectorTranslation",
    "EnergySettings",
    "FlyControllerSettings",
    "GeFileWriter",
    "HedmAreaDetector",
    "MonochromatorEnergy",
    "PsoFlyController",
    "ReadingSettings",
    "RotationSettings",
    "RotationStage",
    "Sample",
    "SampleOfSixPvs",
    "SampleSettings",
    "ScalarReading",
    "Shutter",
    "ShutterSettings",
    "Station",
    "StationSettings",
    "SweepingRotationStage",
    "SwmrHDF5Plugin",
    "TranslationSettings",
    "area_detector_class",
    "load_station",
    "make_station",
    "roles_of",
    "station_roles",
    "step_scan",
    "translation_class",
]

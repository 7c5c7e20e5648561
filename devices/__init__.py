"""ophyd devices and Bluesky plans of an HEDM station; every name and PV comes from the settings."""

from .area_detector import CAMS, GE_HEADER, GeFileWriter, HedmAreaDetector, SwmrHDF5Plugin, area_detector_class
from .darks import DARK_AFTER_STREAM, DARK_STREAM, take_darks
from .fly import Flyer, PositionedFlyer
from .fly_controller import PsoFlyController
from .fly_run import fly_run_decorator, fly_run_wrapper
from .frame_stream import FrameStream
from .frames import FileFrames, HDF5Frames, PluginFrames
from .plans import ff_scan, nf_scan, step_scan
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
from .triggered import TriggeredDetector
from .warnings import WARNING_STREAM, LiveWarnings, warnings_wrapper

__all__ = [
    "CAMS",
    "DARK_AFTER_STREAM",
    "DARK_STREAM",
    "GE_HEADER",
    "WARNING_STREAM",
    "AreaDetectorSettings",
    "DetectorTranslation",
    "EnergySettings",
    "FileFrames",
    "FlyControllerSettings",
    "Flyer",
    "FrameStream",
    "GeFileWriter",
    "HDF5Frames",
    "HedmAreaDetector",
    "LiveWarnings",
    "MonochromatorEnergy",
    "PluginFrames",
    "PositionedFlyer",
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
    "TriggeredDetector",
    "area_detector_class",
    "ff_scan",
    "fly_run_decorator",
    "fly_run_wrapper",
    "load_station",
    "make_station",
    "nf_scan",
    "roles_of",
    "station_roles",
    "step_scan",
    "take_darks",
    "translation_class",
    "warnings_wrapper",
]

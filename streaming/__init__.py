"""Kernels and incremental reducers, the schema of the tables, and the digest: numbers in, numbers out."""

from .background import Background, LitPixels
from .bitshuffle import CompressedImage
from .corrections import Corrections, Prepared, bad_pixels
from .curves import Curves, RockingCurve, Sinogram, rocking_curve, sinogram
from .digest import digest
from .errors import (
    ArchiveError,
    BatchTooLarge,
    DocumentError,
    FrameError,
    HedmLiveError,
    PublishError,
    ReplayError,
    SettingsError,
)
from .finders import Finder, FinderMaker, ThresholdFinder, finder_for, options_of
from .fitting import FitRecipe, FitStatus, Surroundings, fit_peaks
from .frame import Frame, SparseImage
from .link_rules import Candidates, Linkable, Reason, link_peaks
from .linking import Ending, Linked, Linker, Position
from .medians import RunningMedian, median_of
from .peaks import PeakFinder, PeaksOfFrame
from .projection import MAX_PROJECTION, MaxProjection
from .recipe import RECIPES, Recipe
from .reducer import Reducer
from .tables import (
    OPEN_TRACKS,
    PEAKS_FIT,
    SCAN_ROLES,
    TABLES,
    TRACK_BASE,
    Batches,
    Column,
    Columns,
    Table,
    join,
    tables_with_roles,
)
from .tracks import Tracker
from .trajectory import VIRTUAL, Axis, FromPositions, InOrder, Planned, Trajectory

__all__ = [
    "MAX_PROJECTION",
    "OPEN_TRACKS",
    "PEAKS_FIT",
    "RECIPES",
    "SCAN_ROLES",
    "TABLES",
    "TRACK_BASE",
    "VIRTUAL",
    "ArchiveError",
    "Axis",
    "Background",
    "BatchTooLarge",
    "Batches",
    "Candidates",
    "Column",
    "Columns",
    "CompressedImage",
    "Corrections",
    "Curves",
    "DocumentError",
    "Ending",
    "Finder",
    "FinderMaker",
    "FitRecipe",
    "FitStatus",
    "Frame",
    "FrameError",
    "FromPositions",
    "HedmLiveError",
    "InOrder",
    "Linkable",
    "Linked",
    "Linker",
    "LitPixels",
    "MaxProjection",
    "PeakFinder",
    "PeaksOfFrame",
    "Planned",
    "Position",
    "Prepared",
    "PublishError",
    "Reason",
    "Recipe",
    "Reducer",
    "ReplayError",
    "RockingCurve",
    "RunningMedian",
    "SettingsError",
    "Sinogram",
    "SparseImage",
    "Surroundings",
    "Table",
    "ThresholdFinder",
    "Tracker",
    "Trajectory",
    "bad_pixels",
    "digest",
    "finder_for",
    "fit_peaks",
    "join",
    "link_peaks",
    "median_of",
    "options_of",
    "rocking_curve",
    "sinogram",
    "tables_with_roles",
]

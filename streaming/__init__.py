"""Kernels and incremental reducers, the schema of the tables, and the digest: numbers in, numbers out."""

from .background import Background, LitPixels
from .bitshuffle import CompressedImage
from .corrections import Corrections, Prepared, bad_pixels
from .digest import digest
from .errors import (
    ArchiveError,
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
from .linking import OverlapLinker, Position
from .medians import RunningMedian, median_of
from .peaks import PeakFinder, PeaksOfFrame
from .recipe import RECIPES, Recipe
from .reducer import Reducer
from .tables import PEAKS_FIT, SCAN_ROLES, TABLES, TRACK_BASE, Batches, Column, Columns, Table, join, tables_with_roles
from .tracks import Tracker

__all__ = [
    "PEAKS_FIT",
    "RECIPES",
    "SCAN_ROLES",
    "TABLES",
    "TRACK_BASE",
    "ArchiveError",
    "Background",
    "Batches",
    "Column",
    "Columns",
    "CompressedImage",
    "Corrections",
    "DocumentError",
    "Finder",
    "FinderMaker",
    "FitRecipe",
    "FitStatus",
    "Frame",
    "FrameError",
    "HedmLiveError",
    "LitPixels",
    "OverlapLinker",
    "PeakFinder",
    "PeaksOfFrame",
    "Position",
    "Prepared",
    "PublishError",
    "Recipe",
    "Reducer",
    "ReplayError",
    "RunningMedian",
    "SettingsError",
    "SparseImage",
    "Surroundings",
    "Table",
    "ThresholdFinder",
    "Tracker",
    "bad_pixels",
    "digest",
    "finder_for",
    "fit_peaks",
    "join",
    "median_of",
    "options_of",
    "tables_with_roles",
]

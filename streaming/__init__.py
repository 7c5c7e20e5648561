"""Kernels and incremental reducers, the schema of the tables, and the digest: numbers in, numbers out."""

from .background import Background, LitPixels
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
from .frame import Frame, SparseImage
from .linking import OverlapLinker, Position
from .peaks import PeakFinder, PeaksOfFrame
from .recipe import Recipe
from .reducer import Reducer
from .tables import SCAN_ROLES, TABLES, TRACK_BASE, Batches, Column, Columns, Table, join, tables_with_roles
from .tracks import Tracker

__all__ = [
    "SCAN_ROLES",
    "TABLES",
    "TRACK_BASE",
    "ArchiveError",
    "Background",
    "Batches",
    "Column",
    "Columns",
    "DocumentError",
    "Frame",
    "FrameError",
    "HedmLiveError",
    "LitPixels",
    "OverlapLinker",
    "PeakFinder",
    "PeaksOfFrame",
    "Position",
    "PublishError",
    "Recipe",
    "Reducer",
    "ReplayError",
    "SettingsError",
    "SparseImage",
    "Table",
    "Tracker",
    "digest",
    "join",
    "tables_with_roles",
]

"""File formats of ours that Tiled learns: their mimetypes, and how documents bring them into a catalogue."""

SPARSE_FRAMES = "application/x-hedm-sparse+hdf5"
"""A group of a raw archive that holds frames as lists of lit pixels."""

ARCHIVE_TABLE = "application/x-hedm-table+hdf5"
"""A group of a reduced archive that holds a table, one dataset a column."""

SQL_TABLE = "application/x-tiled-sql-table"
"""Tiled's mimetype of tables that rows can be appended to."""

RAW_FRAMES = "application/x-ge-raw"
"""Frames of plain counts behind a header, as the GE detectors of APS 1-ID write them."""

RESOURCE_SPECS = {"AD_GE": RAW_FRAMES}
"""Mimetypes of the older Resource documents that bluesky-tiled-plugins does not know, by their spec."""

HDF5 = "application/x-hdf5"
"""Frames in a dataset of an HDF5 file."""

BATCH_ROWS = 10_000
"""Rows that count as one batch where a table was never appended in batches."""

PARTITION_ROWS = 1 << 18
"""Rows of a partition of a table in an archive: some 60 MB of peaks."""


def can_register(mimetype: str) -> bool:
    """Tell whether a StreamResource of this mimetype can become an array of a catalogue."""
    from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY

    register_consolidators()
    return mimetype in CONSOLIDATOR_REGISTRY


def register_consolidators() -> None:
    """Teach bluesky-tiled-plugins, in this process, to register StreamResources of our mimetypes.

    May be repeated.
    """
    # Imported here because it costs a second, and only who writes runs needs it.
    from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY

    from .consolidators import RawFramesConsolidator, SparseFramesConsolidator

    CONSOLIDATOR_REGISTRY[SPARSE_FRAMES] = SparseFramesConsolidator
    CONSOLIDATOR_REGISTRY[RAW_FRAMES] = RawFramesConsolidator

"""File formats of ours that Tiled learns: their mimetypes, and how documents bring them into a catalogue."""

SPARSE_FRAMES = "application/x-hedm-sparse+hdf5"
"""A group of a raw archive that holds frames as lists of lit pixels."""


def register_consolidators() -> None:
    """Teach bluesky-tiled-plugins, in this process, to register StreamResources of our mimetypes.

    May be repeated.
    """
    # Imported here because it costs a second, and only who writes runs needs it.
    from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY

    from .consolidators import SparseFramesConsolidator

    CONSOLIDATOR_REGISTRY[SPARSE_FRAMES] = SparseFramesConsolidator

"""What is searched for: a few plain facts of a run's newest reduction, in the metadata of its node."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .layout import SUMMARY

_SAMPLE = ("sample", "sample_name")
_TECHNIQUE = "technique"
_RANGES = {"omega": ("omega_start", "omega_end"), "energy": ("energy",)}


def facts_of_start(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the start document says of sample, technique and time; what it does not say is absent."""
    found: dict[str, Any] = {}
    for key in _SAMPLE:
        value = start.get(key)
        value = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value:
            found.setdefault("sample", value)
    if isinstance(start.get(_TECHNIQUE), str):
        found["technique"] = start[_TECHNIQUE]
    if isinstance(start.get("time"), (int, float)):
        found["time"] = float(start["time"])
    return found


def facts_of_frames(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the ranges of omega in degrees and of the energy in its unit; a role that never came has none."""
    found: dict[str, float] = {}
    for name, sources in _RANGES.items():
        there = [np.asarray(columns[source], np.float64) for source in sources if source in columns]
        values = np.concatenate([np.empty(0), *there])
        values = values[np.isfinite(values)]
        if len(values):
            found |= {f"{name}_min": float(values.min()), f"{name}_max": float(values.max())}
    return found


def wider(ranges: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Return the ranges that hold both."""
    names = {*ranges, *more}
    ends = {name: [each[name] for each in (ranges, more) if name in each] for name in names}
    return {name: (min if name.endswith("_min") else max)(values) for name, values in ends.items()}


def write_summary(
    reduction: Any,
    run: Any,
    start: Mapping[str, Any],
    counts: Mapping[str, int],
    frames: Any | None,
    ranges: Mapping[str, float] | None = None,
) -> None:
    """Write the summary of a reduction into its metadata, and into its run's.

    Parameters
    ----------
    reduction
        Client of the reduction's node; its status and digest are those of its metadata.
    run
        Client of the run's node.
    start
        The start document.
    counts
        Rows of each table, as far as they are known.
    frames
        Client of the table ``frames``, if there is one.
    ranges
        What `facts_of_frames` would find in it, if that is known; then it is not read.
    """
    from tiled.client.metadata_update import DELETE_KEY

    facts = facts_of_start(start)
    if ranges is not None:
        facts |= ranges
    elif frames is not None:
        there = frames.structure().columns
        wanted = [name for sources in _RANGES.values() for name in sources if name in there]
        read = frames.read(wanted)
        facts |= facts_of_frames({name: read[name].to_numpy() for name in wanted})
    facts |= {f"n_{name}": int(counts[name]) for name in ("frames", "peaks", "tracks") if name in counts}
    facts |= {name: reduction.metadata[name] for name in ("status", "digest") if reduction.metadata.get(name)}
    for node in (reduction, run):
        # Tiled merges: what an earlier attempt left has to be taken away.
        stale = dict.fromkeys(set(node.metadata.get(SUMMARY, {})) - set(facts), DELETE_KEY)
        node.update_metadata({SUMMARY: facts | stale}, drop_revision=True)

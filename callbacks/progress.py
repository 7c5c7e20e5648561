"""How far a run is, and what it gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..streaming import Columns
from .problems import Problem
from .worker import Lags

BRIGHTEST = 5
"""Open tracks of a detector that are published: those are what is looked at, all of them would be a table."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is; read by displays, in no table."""

    n_frames: int = 0
    "Frames reduced."
    n_rejected: int = 0
    "Frames that could not be reduced."
    n_peaks: int = 0
    "Peaks found."
    n_tracks: int = 0
    "Tracks closed."
    n_open: int = 0
    "Tracks that may still grow."
    open_tracks: tuple[Columns, ...] = ()
    """Those tracks as they were a moment ago, for each detector: rows of `OPEN_TRACKS`. A track may join another, and
    then goes on under the lower of both names."""
    frame_lag: Lags = field(default_factory=Lags)
    "From hand-over to reduced."
    warnings: tuple[Problem, ...] = ()
    "What guards of metadata said, by the first frame that shows it."

    def published(self) -> dict[str, Any]:
        """Return what the metadata of a reduction in Tiled says of it: the counts, and the brightest open tracks."""
        return {
            "n_frames": self.n_frames,
            "n_rejected": self.n_rejected,
            "n_peaks": self.n_peaks,
            "n_tracks": self.n_tracks,
            "n_open": self.n_open,
            "brightest_open": _brightest(self.open_tracks),
        }


def _brightest(detectors: Sequence[Columns]) -> list[dict[str, float | int | None]]:
    """Return the brightest open tracks of each detector, the brightest first: columns to values, none for NaN."""
    found: list[dict[str, float | int | None]] = []
    for number, rows in enumerate(detectors):
        for at in np.argsort(-rows["sum_intensity"], kind="stable")[:BRIGHTEST]:
            values = {name: column[at].item() for name, column in rows.items()}
            found.append({"detector": number, **{name: None if v != v else v for name, v in values.items()}})
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run gave."""

    uid: str
    "uid of the run."
    raw: Path | None
    "Raw archive, if one was written."
    reduced: Path | None
    "Reduced archive, if it could be written."
    digests: Mapping[int, str]
    "Attempt to digest."
    progress: Progress
    "Counts."
    problems: tuple[str, ...]
    "What went wrong, a line each."
    missing: tuple[str, ...] = ()
    "What a reconstruction wants and the raw archive has not, as `L1` or `energy`."
    warnings: tuple[Problem, ...] = ()
    "Those of them that guards of metadata said, by the first frame that shows it."

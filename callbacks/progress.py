"""How far a run is, and what it gave."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..streaming import Columns
from .problems import Problem
from .worker import Lags


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

    def counts(self) -> dict[str, int]:
        """Return the counts, by their names in the metadata of a reduction in Tiled."""
        return {
            "n_frames": self.n_frames,
            "n_rejected": self.n_rejected,
            "n_peaks": self.n_peaks,
            "n_tracks": self.n_tracks,
            "n_open": self.n_open,
        }


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

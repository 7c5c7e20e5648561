"""What is known of frames in foreign files, whatever their format, at the moment when they are looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .hdf5 import NotYet


class BeingWritten(NotYet):
    """A file cannot be read safely as long as somebody writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Frames that one StreamResource leads to."""

    mimetype: str
    "How they are read."
    uri: str
    "Where they are."
    present: Sequence[int]
    "Indices that are there, rising."
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    "What the reader must know besides."
    first: int = 0
    "Number of the frame at index 0."


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What a file or a log says of one data key."""

    values: np.ndarray
    "Shape (), or (frames,)."
    source: str
    "File and place in it."
    unit: str = ""
    "Unit, empty if nothing says it."

    @property
    def per_frame(self) -> bool:
        """Whether each frame has its own."""
        return self.values.ndim > 0

    def of(self, frame: int) -> float:
        """Return the value of one frame; NaN if it has none."""
        return float(self.values[frame]) if frame < len(self.values) else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One detector's frames, as far as they are there."""

    format: str
    "What kind of file it is."
    files: tuple[Path, ...]
    "The files."
    shape: tuple[int, int]
    "Rows and columns."
    dtype: np.dtype
    "Type of a count."
    pieces: tuple[Piece, ...]
    "Where the frames are, in acquisition order."
    values: Mapping[str, Values] = field(default_factory=dict[str, Values])
    "Data key to motor."
    lacking: tuple[str, ...] = ()
    "Data keys that the profile names and the file does not have."
    time: np.ndarray | None = None
    "Time of each frame, seconds since 1970."
    darks: Piece | None = None
    "Dark frames."
    state: Literal["growing", "closed", "unknown"] = "unknown"
    "Whether somebody writes it."
    expected: int | None = None
    "How many frames the file itself says it is going to hold."
    last_may_be_partial: bool = False
    "Whether the last frame may be half written."
    numbers: Sequence[int] | None = None
    "Numbers of the files of a series."
    name: str = "detector"
    "Name of the detector, where the file says it."
    sentinels: tuple[int, ...] = ()
    "Counts that the format prescribes for pixels that measured nothing."
    notes: tuple[str, ...] = ()
    "What is odd about it."

    @property
    def n_frames(self) -> int:
        """How many frames there are, missing ones in between included."""
        return max((piece.first + piece.present[-1] + 1 for piece in self.pieces if len(piece.present)), default=0)

"""What the settings say of foreign files: which they are, where frames and motors lie in them, when one is finished."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileSettings(_Model):
    """Where frames and motors lie in a file."""

    data: str = ""
    "Dataset of the frames; absent, the places that formats prescribe, as `/exchange/data` or `/entry/data/data`."
    dark: str = ""
    "Dataset of dark frames in the same file; the run's dark stream is made of it. `/exchange/bright` at APS 20-ID."
    dark_skip: int = Field(default=0, ge=0)
    "First dark frames that are left out, as a detector's settling frame."
    dark_frames: int | None = Field(default=None, ge=1)
    "How many dark frames it is going to hold; absent, a growing file with darks is reduced when it is finished."
    motors: dict[str, str] = {}
    "Data key to its place: a dataset, `group@attribute`, either with `[0]` for its first column, or `header:KEY` of a \
CBF or EDF file. One value, or one a frame; a growing file is not reduced further than all of them reach."
    time: str = ""
    "Place of the time of each frame."
    time_epoch: Literal["unix", "epics"] = "unix"
    "When that time begins: 1970, or 1990 as in `NDArrayTimeStamp`."
    shape: tuple[int, int] | None = None
    "Rows and columns, where the file does not say it: HEXOMAP's peaks, and GE files of another size than 2048 x 2048."
    dtype: str = "<u2"
    "Type of a count in a GE file."
    header_bytes: int = Field(default=8192, ge=0)
    "Length of the header of a GE file."


class LogSettings(_Model):
    """A log beside the frames: lines of fields parted by blanks."""

    file: Path
    "The log; a relative path begins at the folder of the frames, or at one above it."
    layout: Literal["ff", "nf", "sweeps", "dated"]
    "How lines belong to frames: `ff` and `nf` are the `_FF.par` and `_NF.par` of APS 1-ID, `sweeps` its \
`FileCount.txt`; of `dated` lines the last before the file counts, as in `fastsweep_Emon.txt`."
    fields: dict[str, int] = Field(min_length=1)
    "Data key to the number of its field, from 1: omega is 17 in both .par files, the energy 6 or 10."


class FinishedSettings(_Model):
    """When a file is finished: as soon as one of these is true."""

    stable_seconds: float = Field(default=10, gt=0)
    "It has not changed for so long."
    frames: int | None = Field(default=None, ge=1)
    "It holds so many frames; of a series of files the last could be half written, so that this says nothing."
    closed: bool = True
    "It is HDF5 of the kind that says whether a writer has it open, and none has."


class WatchSettings(_Model):
    """Foreign files: which, where things lie in them, and when they are finished."""

    patterns: dict[str, str] = {}
    "Detector to the pattern of its files below the folder, as `scan*.ge1`; `**/` for folders in folders. Files of \
several detectors that have the same text in the place of the stars are one run. Absent, every file of a known kind."
    skip: tuple[str, ...] = ()
    "Patterns of names that are no scans, as `*dark*`."
    profile: ProfileSettings = ProfileSettings()
    "Where frames and motors lie in a file."
    logs: tuple[LogSettings, ...] = ()
    "Logs that say what the files do not; what a file holds goes before them, and what they hold before the settings."
    units: dict[str, str] = {}
    "Data key to unit, for what neither file nor log says."
    finished: FinishedSettings = FinishedSettings()
    "When a file is finished."
    runs: int = Field(default=4, ge=1)
    "How many files that grow are followed side by side; each holds memory as a run does. More wait for one to end."
    poll_seconds: float = Field(default=0.5, gt=0)
    "How often to look at the folder and at the files that grow."

    @model_validator(mode="after")
    def _can_be_matched(self) -> Self:
        for detector, pattern in self.patterns.items():
            if not pattern or Path(pattern).is_absolute():
                raise ValueError(f"pattern of {detector} is {pattern!r}; wanted one below the folder, as *.h5")
        stars = {name: pattern.count("*") for name, pattern in self.patterns.items()}
        if len(stars) > 1 and len(set(stars.values())) > 1:
            raise ValueError(
                f"patterns have {stars} stars; wanted as many in each, to know which files belong together"
            )
        return self

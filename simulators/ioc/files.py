"""The files that simulated detectors write: HDF5 with the layout of beamlines, and GE raw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import h5py
import hdf5plugin
import numpy as np

from ..frames import Frame

EXCHANGE = ("/exchange/data", "/exchange/dark", "/exchange/bright")
"""Where frames go in the layout of APS, by the camera's FrameType."""

_STAGES = "/measurement/instrument/SMS"
_PARAMETERS = "/measurement/process/scan_parameters"
_PROCESS = "/measurement/process"
_FURTHER = "/WM"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanParameters:
    """What the fly controller is set to when a file opens."""

    stage: str = ""
    "name of the rotation"
    start: float = np.nan
    "[degrees]"
    end: float = np.nan
    "[degrees]"
    step: float = np.nan
    "[degrees]"
    speed: float = np.nan
    "[degrees/s]"
    steptime: float = np.nan
    "[s]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One frame with what the detector knows of it."""

    image: Frame
    "shape (rows, columns)"
    omega: float
    "the rotation when the exposure began [degrees]"
    time: float
    "when it was taken [s since 1970]"
    unique_id: int
    "counts what the camera took, from 0; a gap is a lost frame"
    dataset: str
    "where it goes"
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    "other motors: name -> position"


class FrameFile(Protocol):
    """A file of frames that is open."""

    def append(self, taken: Taken) -> None:
        """Write one frame; it can be read when this returns."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class ExchangeFile:
    """HDF5 in SWMR mode: frames by FrameType, the rotation per frame, motors and scan parameters beside.

    Parameters
    ----------
    path
        Must not exist.
    shape
        Rows, columns.
    datasets
        Where frames may go; the first is the usual one.
    parameters
        Written when the file opens.
    rotation
        Name of the rotation: a dataset with a value for each frame.
    stages
        Names of the other motors: written when the file closes.
    compress
        Bitshuffle and LZ4.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        datasets: Sequence[str],
        parameters: ScanParameters,
        *,
        rotation: str,
        stages: Sequence[str],
        compress: bool,
    ) -> None:
        # As areaDetector writes: what HDF5 1.10 can read.
        self._file = h5py.File(path, "x", libver=("v110", "latest"))
        filters = hdf5plugin.Bitshuffle(cname="lz4") if compress else {}
        self._frames = {
            name: self._file.create_dataset(
                name, (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype="<u2", **filters
            )
            for name in datasets
        }
        self._per_frame = {
            name: self._grow(place, kind)
            for name, place, kind in (
                ("omega", f"{_STAGES}/{rotation}", "<f8"),
                ("unique_id", f"{_FURTHER}/NDArrayUniqueId", "<i4"),
                ("time", f"{_FURTHER}/NDArrayTimeStamp", "<f8"),
            )
        }
        self._per_frame["omega"].attrs["units"] = "degree"
        self._stages = {
            name: self._file.create_dataset(f"{_STAGES}/{name}", data=np.nan) for name in stages if name != rotation
        }
        for part in ("stage", "start", "step", "end", "speed", "steptime"):
            value = getattr(parameters, part)
            self._file[f"{_PARAMETERS}/{part}"] = np.bytes_(value) if isinstance(value, str) else value
        self._file[f"{_PROCESS}/start_date"] = np.bytes_(_now())
        # Nothing can be made once others read (SWMR), only filled in.
        self._end = self._file.create_dataset(f"{_PROCESS}/end_date", dtype="S32", data=np.bytes_(""))
        self._last: Mapping[str, float] = {}
        self._file.swmr_mode = True

    def append(self, taken: Taken) -> None:
        """Write and flush one frame."""
        frames: Any = self._frames.get(taken.dataset, next(iter(self._frames.values())))
        # What belongs to the frame first: who sees the frame finds it.
        for name, dataset in self._per_frame.items():
            dataset.resize(dataset.shape[0] + 1, axis=0)
            dataset[-1] = getattr(taken, name)
            dataset.flush()
        frames.resize(frames.shape[0] + 1, axis=0)
        frames[-1] = taken.image
        frames.flush()
        self._last = taken.stages

    def close(self) -> None:
        """Write what is known at the end, and close."""
        for name, dataset in self._stages.items():
            if name in self._last:
                dataset[()] = self._last[name]
        self._end[()] = np.bytes_(_now())
        self._file.close()

    def _grow(self, name: str, dtype: str) -> Any:
        return self._file.create_dataset(name, (0,), maxshape=(None,), chunks=(1024,), dtype=dtype)


class GeFile:
    """GE raw: 8192 bytes of header, then frames of uint16, little-endian."""

    def __init__(self, path: Path, header_bytes: int) -> None:
        self._file: BinaryIO = path.open("xb")
        self._file.write(bytes(header_bytes))
        self._file.flush()

    def append(self, taken: Taken) -> None:
        """Write and flush one frame."""
        self._file.write(np.ascontiguousarray(taken.image, dtype="<u2").tobytes())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")

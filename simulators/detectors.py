"""Simulated detectors: the same frames, delivered in each of the three ways that Bluesky knows.

`SimArrayDetector` puts the array into the event; `SimHDF5Detector` writes HDF5 and says where in Resource and Datum,
as ophyd's area detectors do; `SimStreamHDF5Detector` says it in StreamResource and StreamDatum, as ophyd-async does.
A frame depends on the rotation's position and step, on dty and the number of triggers since staging; never on time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

from event_model import ComposeStreamResource
from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus

from ..streaming.errors import SettingsError
from .axes import CLOSED
from .frames import Frame, FrameSimulator
from .writer import DATASET, SwmrWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSource:
    """What a simulated detector looks at."""

    simulator: FrameSimulator
    "draws the frames"
    rotation: Any
    "has `position` and a `step` signal [degrees]"
    shutter: Any | None = None
    "a signal; while it reads `close` the frames are dark"
    dty: Any | None = None
    "has `position`, across the beam [mm]"

    def take(self, index: int) -> Frame:
        """Expose frame `index` of this staging: the stage sweeps one step from where it stands."""
        if self.shutter is not None and self.shutter.get() == CLOSED:
            return self.simulator.dark_frame(index)
        start = float(self.rotation.position)
        place = {} if self.dty is None else {"dty": float(self.dty.position)}
        return self.simulator.frame(start, start + float(self.rotation.step.get()), index, **place)


class _SimDetector(Device):
    """What the three detectors share: staging, triggering, and the description of the image.

    Parameters
    ----------
    name
        Name of the device; the images' key is `<name>_image`.
    source
        What it looks at.
    exposure
        Time that a trigger takes [s]; 0 takes the frame at once.
    sleep
        Waits that long.
    """

    exposure = Component(Signal, value=0.0, kind="config")

    def __init__(
        self,
        *,
        name: str,
        source: FrameSource,
        exposure: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
        **kwargs: Any,
    ) -> None:
        super().__init__("", name=name, **kwargs)
        self.exposure.put(float(exposure))
        self._source = source
        self._sleep = sleep
        self._n_taken = 0
        self._timestamp = 0.0

    @property
    def image_key(self) -> str:
        """Key of the images."""
        return f"{self.name}_image"

    @property
    def hints(self) -> dict[str, Any]:
        """Name no field: an image is nothing to plot against a motor."""
        return {"fields": []}

    def stage(self) -> list[object]:
        """Begin an acquisition: frames count from 0."""
        self._n_taken = 0
        return super().stage()

    def trigger(self) -> DeviceStatus:
        """Take one frame.

        Raises
        ------
        SettingsError
            The detector is not staged, or the rotation has no step.
        """
        if not self._staged.value == "yes":
            raise SettingsError(f"detector {self.name!r} was triggered unstaged: stage it first")
        status = DeviceStatus(self)
        exposure: Any = self.exposure.get()
        if exposure > 0:
            Thread(target=self._expose, args=(exposure, status), daemon=True).start()
        else:
            self._take()
            status.set_finished()
        return status

    def describe(self) -> dict[str, Any]:
        """Describe the image."""
        rows, cols = self._source.simulator.shape
        key = {
            "source": f"SIM:{self.name}",
            "dtype": "array",
            "dtype_numpy": "<u2",
            "shape": [rows, cols],
            "units": "counts",
        }
        described: Any = super().describe()
        described[self.image_key] = {**key, **self._describe_external(rows, cols)}
        return described

    def _expose(self, exposure: float, status: DeviceStatus) -> None:
        # Whatever goes wrong belongs to the plan that waits for this status, not to this thread.
        try:
            self._sleep(exposure)
            self._take()
        except Exception as error:
            status.set_exception(error)
        else:
            status.set_finished()

    def _take(self) -> None:
        frame = self._source.take(self._n_taken)
        self._timestamp = time.time()
        self._keep(frame)
        self._n_taken += 1

    def _keep(self, frame: Frame) -> None:
        raise NotImplementedError

    def _describe_external(self, rows: int, cols: int) -> dict[str, Any]:
        raise NotImplementedError


class SimArrayDetector(_SimDetector):
    """Puts each frame into its event, as an array under `<name>_image`."""

    def __init__(self, *, name: str, source: FrameSource, **kwargs: Any) -> None:
        super().__init__(name=name, source=source, **kwargs)
        self._frame: Frame | None = None

    def read(self) -> dict[str, Any]:
        """Read the latest frame."""
        if self._frame is None:
            raise SettingsError(f"detector {self.name!r} was read before its first frame: trigger it first")
        reading: Any = super().read()
        reading[self.image_key] = {"value": self._frame, "timestamp": self._timestamp}
        return reading

    def _keep(self, frame: Frame) -> None:
        self._frame = frame

    def _describe_external(self, rows: int, cols: int) -> dict[str, Any]:
        return {}


class _SimFileDetector(_SimDetector):
    """A detector that writes a file each time it is staged.

    Parameters
    ----------
    folder
        Where the files go, `<name>_<number>.h5`.
    compress
        Bitshuffle and LZ4.
    """

    def __init__(
        self, *, name: str, source: FrameSource, folder: str | Path, compress: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(name=name, source=source, **kwargs)
        self._folder = Path(folder).absolute()
        self._compress = compress
        self._writer: SwmrWriter | None = None
        self._assets: deque[tuple[str, dict[str, Any]]] = deque()

    def stage(self) -> list[object]:
        """Open a new file."""
        staged = super().stage()
        self._assets.clear()
        self._writer = self._open()
        self._announce(self._writer.path)
        return staged

    def unstage(self) -> list[object]:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return super().unstage()

    def _keep(self, frame: Frame) -> None:
        if self._writer is None:
            raise SettingsError(f"detector {self.name!r} has no file open: it was unstaged during an exposure")
        # On disk before any document speaks of it: a reader may open the file at the document.
        self._writer.append(frame)

    def _open(self) -> SwmrWriter:
        return SwmrWriter(self._folder, self.name, self._source.simulator.shape, compress=self._compress)

    def _announce(self, path: Path) -> None:
        raise NotImplementedError


class SimHDF5Detector(_SimFileDetector):
    """Writes HDF5 and announces it with Resource and Datum of spec AD_HDF5_SWMR; the event holds the datum's id."""

    def __init__(self, *, name: str, source: FrameSource, folder: str | Path, **kwargs: Any) -> None:
        super().__init__(name=name, source=source, folder=folder, **kwargs)
        self._resource = ""
        self._datum_id: str | None = None

    def read(self) -> dict[str, Any]:
        """Read the id of the latest frame's datum."""
        if self._datum_id is None:
            raise SettingsError(f"detector {self.name!r} was read before its first frame: trigger it first")
        reading: Any = super().read()
        reading[self.image_key] = {"value": self._datum_id, "timestamp": self._timestamp}
        return reading

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Hand over the documents made since the last call."""
        while self._assets:
            yield self._assets.popleft()

    def _announce(self, path: Path) -> None:
        self._resource = str(uuid4())
        self._datum_id = None
        resource = {
            "uid": self._resource,
            "spec": "AD_HDF5_SWMR",
            "root": str(path.parent),
            "resource_path": path.name,
            "resource_kwargs": {"frame_per_point": 1},
            "path_semantics": "posix",
        }
        self._assets.append(("resource", resource))

    def _keep(self, frame: Frame) -> None:
        super()._keep(frame)
        self._datum_id = f"{self._resource}/{self._n_taken}"
        datum = {
            "datum_id": self._datum_id,
            "resource": self._resource,
            "datum_kwargs": {"point_number": self._n_taken},
        }
        self._assets.append(("datum", datum))

    def _describe_external(self, rows: int, cols: int) -> dict[str, Any]:
        # One image a point, as ophyd's area detectors describe it.
        return {"shape": [1, rows, cols], "external": "FILESTORE:"}


class SimStreamHDF5Detector(_SimFileDetector):
    """Writes HDF5 and announces it with StreamResource and StreamDatum; the event holds nothing of the image."""

    def __init__(self, *, name: str, source: FrameSource, folder: str | Path, **kwargs: Any) -> None:
        super().__init__(name=name, source=source, folder=folder, **kwargs)
        self._compose: Any = None
        self._n_announced = 0

    def read(self) -> dict[str, Any]:
        """Read all but the image; a point that is read holds its latest frame, not one from before a pause."""
        self._n_announced = max(self._n_announced, self._n_taken - 1)
        return super().read()

    def get_index(self) -> int:
        """Frames on disk in this staging."""
        return self._n_taken

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Hand over the resource once, and one datum for all frames since the last call, up to `index`."""
        while self._assets:
            yield self._assets.popleft()
        stop = self._n_taken if index is None else min(index, self._n_taken)
        if self._compose is not None and stop > self._n_announced:
            start, self._n_announced = self._n_announced, stop
            # The RunEngine fills in descriptor and seq_nums.
            yield "stream_datum", dict(self._compose(indices={"start": start, "stop": stop}))

    def _announce(self, path: Path) -> None:
        bundle = ComposeStreamResource()(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path.as_uri().removeprefix('file://')}",
            data_key=self.image_key,
            parameters={"dataset": DATASET, "chunk_shape": [1]},
        )
        self._compose = bundle.compose_stream_datum
        self._n_announced = 0
        self._assets.append(("stream_resource", dict(bundle.stream_resource_doc)))

    def _describe_external(self, rows: int, cols: int) -> dict[str, Any]:
        return {"shape": [1, rows, cols], "external": "STREAM:"}

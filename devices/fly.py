"""Fly scans: a controller that fires the frames, detectors that write them, and one stream that tells of both."""

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ophyd import Signal
from ophyd.status import Status

from ..streaming.errors import SettingsError
from .frames import Assets, HDF5Frames, PluginFrames, Writer

logger = logging.getLogger("hedmlive")

_LOOK_SECONDS = 0.02


class FrameStream:
    """The frames of some detectors as one stream of documents, for `declare_stream(..., collect=True)` and `collect`.

    The descriptor's configuration holds what the devices of `configuration` hold, and of a fly controller
    `<name>_start`, `<name>_end`, `<name>_delta` as it has them, beside `<name>_step`, which is delta with the sign of
    the sweep, and `<name>_frames`.

    Parameters
    ----------
    writers
        The detectors. A frame is told of when all of them have it.
    name
        Name of the object.
    controller
        The fly controller, with signals `start`, `end` and `delta`.
    configuration
        Further devices and signals whose values belong to the frames.
    """

    def __init__(
        self, writers: Sequence[Any], *, name: str, controller: Any = None, configuration: Sequence[Any] = ()
    ) -> None:
        self.name = name
        self.parent = None
        self.controller = controller
        self.writers: tuple[Writer, ...] = tuple(writers)
        self.n_told = 0
        "Frames that were told of, since it was staged or begun."
        self._configured = (*(() if controller is None else (controller,)), *configuration)

    @property
    def hints(self) -> dict[str, Any]:
        """Name no field: an image is nothing to plot against a motor."""
        return {"fields": []}

    def begin(self) -> None:
        """Follow what is written from now on, by whatever arms the detectors."""
        self.n_told = 0
        for writer in self.writers:
            if isinstance(writer, HDF5Frames):
                writer.begin()

    def n_ready(self) -> int:
        """Return how many frames can be told of: as many as every detector has."""
        return min(writer.get_index() for writer in self.writers)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the images."""
        keys: dict[str, Any] = {}
        for writer in self.writers:
            keys |= getattr(writer, "describe_collect", getattr(writer, "describe", None))()  # pyright: ignore[reportOptionalCall]
        return keys

    def collect_asset_docs(self) -> Assets:
        """Give the documents of the frames since the last call, as many of each detector."""
        n = self.n_ready()
        self.n_told = max(self.n_told, n)
        for writer in self.writers:
            yield from writer.collect_asset_docs(n)

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the configuration."""
        described: dict[str, Any] = {}
        for device in self._configured:
            described |= device.describe() if isinstance(device, Signal) else device.describe_configuration()
        for key, value in self._sweep().items():
            kind = "integer" if isinstance(value, int) else "number"
            described[key] = {"source": f"computed:{self.controller.name}", "dtype": kind, "shape": []}
        return described

    def read_configuration(self) -> dict[str, Any]:
        """Read the configuration."""
        reading: dict[str, Any] = {}
        for device in self._configured:
            reading |= device.read() if isinstance(device, Signal) else device.read_configuration()
        now = time.time()
        return reading | {key: {"value": value, "timestamp": now} for key, value in self._sweep().items()}

    def _sweep(self) -> dict[str, float | int]:
        """Return the signed step of the controller's sweep and its frames; nothing before it was set up."""
        if self.controller is None:
            return {}
        start, end, delta = (float(getattr(self.controller, key).get()) for key in ("start", "end", "delta"))
        if not delta or start == end:
            return {}
        name = self.controller.name
        # Rounded: a sweep that is not a whole number of frames is the controller's to refuse.
        return {
            f"{name}_step": math.copysign(delta, end - start),
            f"{name}_frames": round(abs((end - start) / delta)),
        }


class Flyer(FrameStream):
    """A fly controller and its detectors as one Flyable, for `kickoff`, `complete` and `collect`.

    Staging arms the detectors; `kickoff` drives to the run-up and starts the sweep; `complete` is done when the sweep
    is over and every frame is written. Frames that miss then are waited for `settle` seconds, and named in the log.

    Parameters
    ----------
    controller
        `PsoFlyController`, or its simulated twin.
    detectors
        What its pulses trigger: detectors that write stream assets themselves, or area detectors of the settings.
    name
        Name of the object.
    settle
        How long to wait for a frame that does not come [s].
    configuration
        Further devices and signals whose values belong to the frames.
    """

    def __init__(
        self,
        controller: Any,
        detectors: Sequence[Any],
        *,
        name: str = "fly",
        settle: float = 5.0,
        configuration: Sequence[Any] = (),
    ) -> None:
        writers = [writer_of(detector) for detector in detectors]
        # What describes itself belongs to the frames too, as its exposure.
        described = [writer for writer in writers if hasattr(writer, "read_configuration")]
        super().__init__(writers, name=name, controller=controller, configuration=(*described, *configuration))
        self.n_frames = 0
        "Frames of the next sweep."
        self._settle = settle
        self._flying: Any = None
        self._stopped = threading.Event()

    def configure(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Prepare a sweep: `n_frames`. The controller's own signals are set by the plan."""
        old = self.read_configuration()
        self.n_frames = int(values["n_frames"])
        return old, self.read_configuration()

    def stage(self) -> list[object]:
        """Arm the detectors for the frames of the sweep."""
        self._stopped.clear()
        self.n_told = 0
        staged: list[object] = [self]
        for detector in self.writers:
            if isinstance(detector, TriggeredDetector):
                detector.n_frames = self.n_frames
            staged += list(getattr(detector, "stage", list)())
        return staged

    def unstage(self) -> list[object]:
        """Disarm the detectors, every one of them."""
        self._stopped.set()
        errors: list[Exception] = []
        for detector in reversed(self.writers):
            try:
                getattr(detector, "unstage", list)()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return [self]

    def kickoff(self) -> Status:
        """Drive to the run-up and start; done when the sweep has begun."""
        begun = Status(obj=self)

        def taxied(taxi: Any) -> None:
            # Whatever goes wrong belongs to the plan that waits for this status.
            try:
                if (error := taxi.exception(0)) is not None:
                    raise error
                if not self._stopped.is_set():
                    self._flying = self.controller.fly_status()
            except Exception as error:
                begun.set_exception(error)
            else:
                begun.set_finished()

        self._flying = None
        self.controller.taxi_status().add_callback(taxied)
        return begun

    def complete(self) -> Status:
        """Wait for the end of the sweep and for its frames."""
        status = Status(obj=self)
        threading.Thread(target=self._complete, args=(status,), name=f"{self.name}-complete", daemon=True).start()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the sweep where it is."""
        self._stopped.set()
        # Not waited for: the busy record falls when the stage has come to rest.
        self.controller.fly.set(0)

    def _complete(self, status: Status) -> None:
        try:
            while self._flying is not None and not self._flying.done and not self._stopped.wait(_LOOK_SECONDS):
                pass
            if self._flying is not None and self._flying.done and (error := self._flying.exception(0)) is not None:
                raise error
            self._wait_for_frames()
        except Exception as error:
            status.set_exception(error)
        else:
            status.set_finished()

    def _wait_for_frames(self) -> None:
        n, since = self.n_ready(), time.monotonic()
        while n < self.n_frames and time.monotonic() - since < self._settle:
            if self._stopped.wait(_LOOK_SECONDS):
                return
            if (now := self.n_ready()) > n:
                n, since = now, time.monotonic()
        if n < self.n_frames:
            each = ", ".join(f"{writer.name} {writer.get_index()}" for writer in self.writers)
            logger.warning("fly scan of %s: wanted %d frames; written: %s", self.name, self.n_frames, each)


class PositionedFlyer(Flyer):
    """A flyer that gives each frame an event, under the same keys as a scan in steps: one settings file serves both.

    The event holds where the frame starts, in the sense of the scan's step, under the rotation's name, and the motors
    that rest; the scan's step is in the configuration as `<rotation>_step`. The position is that of the controller's
    pulse, and its source says so. Frame k of a sweep that goes back is where frame n - 1 - k is on the way there.

    Parameters
    ----------
    controller, detectors
        As for `Flyer`.
    rotation
        What the controller turns.
    resting
        Motors that do not move in a sweep, read once in each.
    kwargs
        As for `Flyer`.
    """

    def __init__(
        self, controller: Any, detectors: Sequence[Any], *, rotation: Any, resting: Sequence[Any] = (), **kwargs: Any
    ) -> None:
        super().__init__(controller, detectors, configuration=(rotation,), **kwargs)
        self._rotation = rotation
        self._resting = tuple(resting)
        self._readings: dict[str, Any] = {}
        self._start = self._step = 0.0
        self._back = False
        self._n_given = 0

    def configure(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Prepare a sweep: `n_frames`, `start` and `step` on the way there, and whether it goes `back`."""
        old = self.read_configuration()
        self._start, self._step, self._back = float(values["start"]), float(values["step"]), bool(values["back"])
        super().configure(values)
        return old, self.read_configuration()

    def stage(self) -> list[object]:
        """Arm the detectors, and read the motors that rest."""
        self._n_given = 0
        self._readings = {}
        for motor in self._resting:
            self._readings |= motor.read()
        return super().stage()

    def describe_collect(self) -> dict[str, Any]:
        """Describe the images and the positions."""
        keys = {self._rotation.name: self._computed()}
        for motor in self._resting:
            keys |= motor.describe()
        return super().describe_collect() | keys

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the configuration, with the scan's step."""
        return super().describe_configuration() | {f"{self._rotation.name}_step": self._computed()}

    def read_configuration(self) -> dict[str, Any]:
        """Read the configuration, with the scan's step."""
        step = {"value": self._step, "timestamp": time.time()}
        return super().read_configuration() | {f"{self._rotation.name}_step": step}

    def collect(self) -> Iterator[dict[str, Any]]:
        """Give an event to each frame that was told of since the last call."""
        rest = {key: reading["value"] for key, reading in self._readings.items()}
        times = {key: reading["timestamp"] for key, reading in self._readings.items()}
        key = self._rotation.name
        for frame in range(self._n_given, self.n_told):
            place, now = self.n_frames - 1 - frame if self._back else frame, time.time()
            # Multiplied, not added up: the last frame is then as exact as the first.
            data = {**rest, key: self._start + place * self._step}
            yield {"data": data, "timestamps": {**times, key: now}, "time": now}
        self._n_given = self.n_told

    def _computed(self) -> dict[str, Any]:
        source = f"computed:{self.controller.name}"
        return {"source": source, "dtype": "number", "shape": [], "units": "degrees"}


class TriggeredDetector(PluginFrames):
    """An area detector whose frames the pulses trigger, and whose HDF5 plugin writes them.

    Parameters
    ----------
    device
        The device, as `area_detector_class` makes it.

    Raises
    ------
    SettingsError
        It writes something else than HDF5.
    """

    def __init__(self, device: Any) -> None:
        if not hasattr(device.hdf5, "frames_dataset"):
            raise SettingsError(
                f"detector {device.name!r} cannot fly: wanted a writer of HDF5, which tells its dataset and how many "
                "frames it has captured; scan in steps, or watch the folder of its files"
            )
        super().__init__(device.hdf5, name=device.name)
        self.device = device
        self.n_frames = 0
        "Frames to be armed for."

    def stage(self) -> list[object]:
        """Open a file and wait for the pulses."""
        self.device.use_fly(self.n_frames)
        self.begin()
        staged: Any = self.device.stage()
        self.dataset = self.device.hdf5.frames_dataset()
        self.device.cam.acquire.set(1)
        return list(staged)

    def unstage(self) -> list[object]:
        """Close the file, and go back to single frames."""
        try:
            unstaged: Any = self.device.unstage()
        finally:
            self.device.use_step()
        return list(unstaged)

    def read_configuration(self) -> dict[str, Any]:
        """Read the detector's configuration."""
        return self.device.read_configuration()

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the detector's configuration."""
        return self.device.describe_configuration()

    def _now(self) -> tuple[str, int]:
        return str(self.device.file_path), int(self.device.hdf5.num_captured.get())


def writer_of(detector: Any) -> Writer:
    """Return what tells of a detector's frames: itself if it can, or else what follows its file plugin.

    Raises
    ------
    SettingsError
        There is neither.
    """
    if hasattr(detector, "get_index") and hasattr(detector, "collect_asset_docs"):
        return detector
    if hasattr(detector, "use_fly"):
        return TriggeredDetector(detector)
    raise SettingsError(
        f"detector {getattr(detector, 'name', detector)!r} cannot fly: wanted one that writes stream assets, or an "
        "area detector of the station's settings"
    )

"""The simulated twin of a fly controller, and an area detector that runs free until pulses come: no PVs."""

import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ophyd import Component, Device, Signal
from ophyd.status import Status

from ..devices.fly_controller import PsoFlyController
from .detectors import FrameSource
from .writer import DATASET, SwmrWriter


class _Busy(Signal):
    """A busy record: setting it to 1 begins something and is done when that is over; 0 breaks it off."""

    def set(self, value: int, *, timeout: float | None = None, **_: Any) -> Status:
        """Begin, or break off."""
        status = Status(obj=self, timeout=timeout)
        device: Any = self.parent
        if not value:
            device.halt()
            status.set_finished()
            return status
        device.begin()
        self.put(1)
        threading.Thread(target=self._work, args=(status,), name=f"{self.name}-busy", daemon=True).start()
        return status

    def _work(self, status: Status) -> None:
        # Whatever goes wrong belongs to the plan that waits for this status.
        try:
            device: Any = self.parent
            device.do(self.attr_name)
        except Exception as error:
            status.set_exception(error)
        else:
            status.set_finished()
        finally:
            self.put(0)


class SimFlyController(Device):
    """The twin of `PsoFlyController`: turns the simulated rotation and triggers the detectors, pulse after pulse.

    Parameters
    ----------
    name
        Name of the device.
    rotation
        The simulated rotation.
    detectors
        What each pulse triggers.
    sleep
        Waits from pulse to pulse, as long as the speed says; without it pulses follow each other at once.
    missed
        Pulses that no detector sees, counted from 0 in each sweep.
    """

    start = Component(Signal, value=0.0, kind="config")
    end = Component(Signal, value=0.0, kind="config")
    delta = Component(Signal, value=0.0, kind="config")
    slew_speed = Component(Signal, value=0.0, kind="config")
    taxi = Component(_Busy, value=0, kind="omitted")
    fly = Component(_Busy, value=0, kind="omitted")

    def __init__(
        self,
        *,
        name: str,
        rotation: Any,
        detectors: Sequence[Any],
        sleep: Callable[[float], None] | None = None,
        missed: Collection[int] = (),
    ) -> None:
        super().__init__("", name=name)
        self._rotation = rotation
        self._detectors = tuple(detectors)
        self._sleep = sleep
        self._missed = frozenset(missed)
        self._halted = threading.Event()

    def set_scan(self, start: float, end: float, n_frames: int, exposure: float) -> dict[Any, float]:
        """Return what a scan is set up with, as `PsoFlyController.set_scan` does."""
        return PsoFlyController.set_scan(self, start, end, n_frames, exposure)  # pyright: ignore[reportArgumentType]

    def taxi_status(self, timeout: float | None = None) -> Status:
        """Drive to where the sweep starts."""
        return self.taxi.set(1, timeout=timeout)

    def fly_status(self, timeout: float | None = None) -> Status:
        """Turn, and fire the pulses."""
        return self.fly.set(1, timeout=timeout)

    def begin(self) -> None:
        """Forget that something before was broken off."""
        self._halted.clear()

    def halt(self) -> None:
        """Break off what goes on."""
        self._halted.set()

    def do(self, what: str) -> None:
        """Do what the busy record `taxi` or `fly` asks for."""
        start, end, delta, speed = (float(s.get()) for s in (self.start, self.end, self.delta, self.slew_speed))  # pyright: ignore[reportArgumentType]
        self._rotation.set(start).wait(timeout=10)
        if what == "taxi":
            return
        step = delta if end > start else -delta
        self._rotation.step.put(step)
        for pulse in range(round((end - start) / step)):
            if self._halted.is_set():
                return
            self._rotation.set(start + pulse * step).wait(timeout=10)
            if pulse not in self._missed:
                for detector in self._detectors:
                    detector.trigger().wait(timeout=10)
            if self._sleep is not None:
                self._sleep(delta / speed)
        self._rotation.set(end).wait(timeout=10)


class _SimCamera(Device):
    acquire = Component(Signal, value=0, kind="omitted")
    num_images = Component(Signal, value=1, kind="config")


class _ArraySize(Device):
    height = Component(Signal, value=0)
    width = Component(Signal, value=0)


class _Capture(Signal):
    def put(self, value: int, **kwargs: Any) -> None:
        """Open a file with 1, close it with 0."""
        plugin: Any = self.parent
        super().put(value, **kwargs)
        if plugin is not None and plugin.parent is not None:
            plugin.parent.capture(opens=bool(value))


class _SimPlugin(Device):
    capture = Component(_Capture, value=0, kind="omitted")
    num_captured = Component(Signal, value=0, kind="omitted")
    full_file_name = Component(Signal, value="", kind="omitted")
    data_type = Component(Signal, value="UInt16", kind="omitted")
    array_size = Component(_ArraySize, kind="omitted")

    def frames_dataset(self) -> str:
        """Return where the frames lie in its files."""
        return DATASET


class SimTriggeredDetector(Device):
    """An area detector as plans on bare PVs know it: a camera to arm, a plugin that captures, and no documents.

    It has the signals of `cam` and `hdf5` that such plans use, and what a flyer asks of an area detector. A trigger is
    a pulse: a frame, if the camera acquires and the plugin captures.

    Parameters
    ----------
    name
        Name of the device.
    source
        What it looks at.
    folder
        Where its files go.
    """

    cam = Component(_SimCamera)
    hdf5 = Component(_SimPlugin)

    def __init__(self, *, name: str, source: FrameSource, folder: str | Path) -> None:
        self._source = source
        self._folder = Path(folder).absolute()
        self._writer: SwmrWriter | None = None
        super().__init__("", name=name)

    @property
    def file_path(self) -> str:
        """The file that is open, or was last; empty before the first."""
        return str(self.hdf5.full_file_name.get())  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def use_fly(self, n_frames: int) -> None:
        """From the next staging on, take frames on pulses."""
        self.stage_sigs.update({"cam.num_images": n_frames, "cam.acquire": 0, "hdf5.capture": 1})

    def use_step(self) -> None:
        """From the next staging on, do nothing by itself."""
        self.stage_sigs.clear()

    def capture(self, *, opens: bool) -> None:
        """Open a new file, or close the one that is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if opens:
            shape = self._source.simulator.shape
            self._writer = SwmrWriter(self._folder, self.name, shape, compress=True)
            self.hdf5.num_captured.put(0)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            self.hdf5.full_file_name.put(str(self._writer.path))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            self.hdf5.array_size.height.put(shape[0])  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            self.hdf5.array_size.width.put(shape[1])  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def trigger(self) -> Status:
        """Take one frame, if it is armed."""
        status = Status(obj=self)
        if self._writer is not None and self.cam.acquire.get():  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            n = self._writer.n_frames
            self._writer.append(self._source.take(n))
            self.hdf5.num_captured.put(n + 1)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        status.set_finished()
        return status

"""Flyers: a controller that fires the frames, and the detectors that write them."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bluesky.utils import NoReplayAllowed
from ophyd.status import Status

from .frame_stream import FrameStream
from .triggered import TriggeredDetector, writer_of

logger = logging.getLogger("hedmlive")

_LOOK_SECONDS = 0.02


class Flyer(FrameStream):
    """A fly controller and its detectors as one Flyable, for `kickoff`, `complete` and `collect`.

    Staging arms the detectors; `kickoff` drives to the run-up and starts the sweep; `complete` is done when the sweep
    is over and every frame is written. Frames that miss then are waited for `settle` seconds, and named in the log.

    A pause at once breaks off a sweep that is under way: motion and detectors are stopped, and `broken_off` says so. It
    cannot be taken up in its middle; what is done about the rest is the plan's.

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
        self.broken_off = False
        "Whether a pause has ended the sweep before its end."
        self._settle = settle
        self._n_before = self._kept = 0
        self._under_way = False
        self._moving: Any = None
        self._stopped = threading.Event()
        # Between the thread that sees the end of the taxi, and the one that stops.
        self._lock = threading.Lock()

    def configure(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Prepare a sweep: `n_frames`. The controller's own signals are set by the plan."""
        old = self.read_configuration()
        self.n_frames = int(values["n_frames"])
        return old, self.read_configuration()

    def stage(self) -> list[object]:
        """Arm the detectors for the frames of the sweep."""
        self._stopped.clear()
        self.n_told, self.broken_off = 0, False
        staged: list[object] = [self]
        for detector in self.writers:
            if isinstance(detector, TriggeredDetector):
                detector.n_frames = self.n_frames
            staged += list(getattr(detector, "stage", list)())
        return staged

    def unstage(self) -> list[object]:
        """Disarm the detectors, every one of them."""
        self._stopped.set()
        self._under_way = False
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
                with self._lock:
                    if not self._stopped.is_set():
                        self._moving = self.controller.fly_status()
            except Exception as error:
                begun.set_exception(error)
            else:
                begun.set_finished()

        self._under_way = True
        self._moving = self.controller.taxi_status()
        self._moving.add_callback(taxied)
        return begun

    def complete(self) -> Status:
        """Wait for the end of the sweep and for its frames."""
        status = Status(obj=self)
        threading.Thread(target=self._complete, args=(status,), name=f"{self.name}-complete", daemon=True).start()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the sweep where it is."""
        self._under_way = False
        with self._lock:
            self._stopped.set()
        # Not waited for: the busy record falls when the stage has come to rest.
        self.controller.fly.set(0)

    def pause(self) -> None:
        """Break off a sweep that is under way.

        Raises
        ------
        NoReplayAllowed
            There was one: the plan goes on behind it, and does not start it a second time.
        """
        if not self._under_way:
            return
        self.broken_off = True
        detectors = [detector for detector in self.writers if isinstance(detector, TriggeredDetector)]
        # The motion first; and an error would end the RunEngine's run without the plan's own cleaning up.
        for act in (self.stop, self._count, *(detector.disarm for detector in detectors)):
            try:
                act()
            except Exception as error:
                logger.error("fly scan of %s: a pause could not stop everything (%s)", self.controller.name, error)
        n_before = self._n_before - self._n_skipped
        logger.warning(
            "fly scan of %s: paused in mid-sweep, motion and detectors are stopped; %d of %d frames are there, and the "
            "one under way is lost",
            self.controller.name,
            max(n_before + self._kept, self._n_before),
            n_before + self.n_frames,
        )
        raise NoReplayAllowed

    def resume(self) -> None:
        """Leave it to the plan what is done about the rest."""

    def _count(self) -> None:
        self._kept = self.n_told
        self._kept = self.n_ready()

    def _complete(self, status: Status) -> None:
        try:
            while not self._moving.done and not self._stopped.wait(_LOOK_SECONDS):
                pass
            if self.broken_off:
                self._wait_for_rest()
            if self._moving.done and (error := self._moving.exception(0)) is not None:
                raise error
            self._wait_for_frames()
        except Exception as error:
            status.set_exception(error)
        else:
            self._under_way = False
            status.set_finished()

    def _wait_for_rest(self) -> None:
        until = time.monotonic() + self._settle
        while not self._moving.done:
            if time.monotonic() > until:
                raise TimeoutError(
                    f"fly controller {self.controller.name!r} still moves {self._settle:g} s after a pause has stopped "
                    "it; look at the stage before the next scan"
                )
            time.sleep(_LOOK_SECONDS)

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
        What the controller turns; stopped with it.
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
        self._n_whole = self._n_given = 0
        self._limit: int | None = None

    def configure(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Prepare a sweep, or the rest of one.

        `n_frames` of the whole, `start` and `step` on the way there, and whether it goes `back`. Of one that was broken
        off `done` frames are there already; the `lead` frames before the next one settle the detector anew, and are
        not told of.
        """
        old = self.read_configuration()
        self._start, self._step, self._back = float(values["start"]), float(values["step"]), bool(values["back"])
        self._n_whole, self._n_before = int(values["n_frames"]), int(values.get("done", 0))
        self._n_skipped = int(values.get("lead", 0)) if self._n_before else 0
        super().configure({"n_frames": self._n_whole - self._n_before + self._n_skipped})
        return old, self.read_configuration()

    def stage(self) -> list[object]:
        """Arm the detectors, and read the motors that rest."""
        self._n_given, self._limit = 0, None
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
        for frame in range(max(self._n_given, self._n_skipped), self.n_told):
            there, now = self._n_before - self._n_skipped + frame, time.time()
            place = self._n_whole - 1 - there if self._back else there
            # Multiplied, not added up: the last frame is then as exact as the first.
            data = {**rest, key: self._start + place * self._step}
            yield {"data": data, "timestamps": {**times, key: now}, "time": now}
        self._n_given = self.n_told

    def n_ready(self) -> int:
        """Return how many frames can be told of; when a plan goes on after a pause, those that were there before."""
        n = super().n_ready()
        return n if self._limit is None else min(n, self._limit)

    def resume(self) -> None:
        """Leave out frames that came after the pause: the rotation was slowing down, and they are taken again."""
        if self.broken_off:
            self._limit = self._kept

    @property
    def n_done(self) -> int:
        """Frames of the whole sweep that were told of."""
        return self._n_before + max(0, self.n_told - self._n_skipped)

    def stop(self, *, success: bool = False) -> None:
        """Stop the sweep and the rotation where they are."""
        try:
            super().stop(success=success)
        finally:
            self._rotation.stop()

    def _computed(self) -> dict[str, Any]:
        source = f"computed:{self.controller.name}"
        return {"source": source, "dtype": "number", "shape": [], "units": "degrees"}

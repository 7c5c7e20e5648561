"""One sweep of the rotation, in steps or on the fly: what the scans are made of."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedPause, RunEngineControlException, short_uid

from ..streaming.errors import FrameError
from .darks import Plan
from .fly import PositionedFlyer
from .frame_stream import FrameStream

logger = logging.getLogger("hedmlive")

PRIMARY = "primary"
"""Name of the stream of frames."""

PERIOD = 0.2
"""Seconds from one look for new frames to the next."""


class Collector:
    """Tells of the frames of one stream in a run, and declares it with the first: only then is their shape known.

    Parameters
    ----------
    stream
        The frames.
    name
        Name of the stream.
    """

    def __init__(self, stream: FrameStream, name: str = PRIMARY) -> None:
        self._stream = stream
        self._name = name
        self.declared = False
        "Whether the descriptor is out."

    def collect(self) -> Plan:
        """Tell of the frames that are new; return how many."""
        told = before = self._stream.n_told
        while self._stream.n_ready() > told:
            if not self.declared:
                try:
                    self._stream.describe_collect()
                except FrameError as error:
                    # Counted, but not in the file yet: there is another look.
                    logger.warning("%s", error)
                    break
                made: Any = yield from bps.declare_stream(self._stream, name=self._name, collect=True)  # pyright: ignore[reportArgumentType]
                # A pause may have come in the middle of it: then there is no answer.
                self.declared = made is not None
                if not self.declared:
                    break
            yield from bps.collect(self._stream, name=self._name, return_payload=False)  # pyright: ignore[reportArgumentType]
            if self._stream.n_told == told:
                break
            told = self._stream.n_told
        return told - before


def step_sweep(
    detectors: Sequence[Any], rotation: Any, positions: Sequence[float], resting: Sequence[Any] = ()
) -> Plan:
    """Take one frame at each position; the detectors are staged by the caller.

    Parameters
    ----------
    detectors
        What is triggered and read.
    rotation
        Moves.
    positions
        Where each frame starts [degrees].
    resting
        Motors that are read and do not move.
    """
    for position in positions:
        yield from bps.checkpoint()
        yield from bps.mv(rotation, position)
        yield from bps.trigger_and_read([*detectors, rotation, *resting], name=PRIMARY)


def fly_sweep(
    flyer: PositionedFlyer,
    collector: Collector,
    values: Mapping[str, Any],
    frame_time: float,
    period: float = PERIOD,
) -> Plan:
    """Take the frames of one sweep on the fly.

    A deferred pause waits for its end. A pause at once, or a suspender, breaks it off: the sweep and the rotation are
    stopped, and when the plan goes on, the rest is taken in a sweep of its own, with its own run-up. When the plan ends
    early, the frames that are there are told of.

    Parameters
    ----------
    flyer
        Controller and detectors.
    collector
        Tells of the frames.
    values
        Of the sweep: `start` and signed `step` [degrees] on the way there, `n_frames`, whether it goes `back`, and
        `lead`, the frames that settle the detector whenever it is armed.
    frame_time
        From pulse to pulse [s].
    period
        From one look for new frames to the next [s].
    """
    done = 0
    while done < values["n_frames"]:
        yield from _set_up(flyer, {**values, "done": done}, frame_time)
        yield from _fly(flyer, collector, period)
        yield from bps.checkpoint()
        if not flyer.broken_off:
            return
        done = flyer.n_done


def _set_up(flyer: PositionedFlyer, values: Mapping[str, Any], frame_time: float) -> Plan:
    """Prepare controller and flyer for a sweep, from the first frame that is not done."""
    n, done = values["n_frames"], values["done"]
    skipped = done - values["lead"] if done else 0
    places = (n - skipped, 0) if values["back"] else (skipped, n)
    first, last = (values["start"] + place * values["step"] for place in places)
    settings = flyer.controller.set_scan(first, last, n - skipped, frame_time)
    yield from bps.mv(*chain(*settings.items()))
    # Makes a new descriptor, with the new values, if the stream was declared for another sweep.
    yield from bps.configure(flyer, values)  # pyright: ignore[reportArgumentType]


def _fly(flyer: PositionedFlyer, collector: Collector, period: float) -> Plan:
    """Fly what was set up."""

    def sweep() -> Plan:
        yield from bps.kickoff(flyer, wait=True)  # pyright: ignore[reportArgumentType]
        group = short_uid("fly")
        status: Any = yield from bps.complete(flyer, group=group, wait=False)  # pyright: ignore[reportArgumentType]
        while not status.done:
            if flyer.broken_off:
                # A wait that a pause has ended knows no more what it waited for.
                yield from bps.sleep(period)
            else:
                yield from bps.wait(group=group, timeout=period, error_on_timeout=False)
            yield from collector.collect()
        yield from collector.collect()

    def end_early(error: BaseException) -> Plan:
        yield from bps.stop(flyer)  # pyright: ignore[reportArgumentType]
        yield from collector.collect()

    # A replay would start the sweep a second time.
    @bpp.stage_decorator([flyer])
    def staged() -> Plan:
        yield from bpp.contingency_wrapper(bpp.rewindable_wrapper(sweep(), False), except_plan=end_early)

    yield from staged()


def end_of(error: BaseException) -> dict[str, str]:
    """Return how a run is closed after an error."""
    if isinstance(error, FailedPause):
        return {"exit_status": "abort", "reason": "a flying scan cannot be paused in its middle"}
    if isinstance(error, RunEngineControlException):
        return {"exit_status": str(getattr(error, "exit_status", "abort"))}
    return {"exit_status": "fail", "reason": str(error)}

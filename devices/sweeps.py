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
from .fly import Flyer, FrameStream

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
                yield from bps.declare_stream(self._stream, name=self._name, collect=True)  # pyright: ignore[reportArgumentType]
                self.declared = True
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
    flyer: Flyer,
    collector: Collector,
    rotation: Any,
    values: Mapping[str, Any],
    frame_time: float,
    period: float = PERIOD,
) -> Plan:
    """Take the frames of one sweep on the fly.

    A sweep cannot be taken up in its middle: a deferred pause waits for its end, and a pause at once aborts the plan.
    When it ends early, the sweep and the rotation are stopped, and the frames that are there are told of.

    Parameters
    ----------
    flyer
        Controller and detectors.
    collector
        Tells of the frames.
    rotation
        What the controller turns; stopped when the sweep fails.
    values
        Of the sweep: `start` and signed `step` [degrees] on the way there, `n_frames`, and whether it goes `back`.
    frame_time
        From pulse to pulse [s].
    period
        From one look for new frames to the next [s].
    """
    ends = [values["start"], values["start"] + values["n_frames"] * values["step"]]
    first, last = reversed(ends) if values["back"] else ends
    settings = flyer.controller.set_scan(first, last, values["n_frames"], frame_time)
    yield from bps.mv(*chain(*settings.items()))
    # Makes a new descriptor, with the new values, if the stream was declared for another sweep.
    yield from bps.configure(flyer, values)  # pyright: ignore[reportArgumentType]

    def sweep() -> Plan:
        yield from bps.clear_checkpoint()
        yield from bps.kickoff(flyer, wait=True)  # pyright: ignore[reportArgumentType]
        group, done = short_uid("fly"), False
        yield from bps.complete(flyer, group=group, wait=False)  # pyright: ignore[reportArgumentType]
        while not done:
            done = yield from bps.wait(group=group, timeout=period, error_on_timeout=False)
            yield from collector.collect()

    def end_early(error: BaseException) -> Plan:
        yield from bps.stop(flyer)  # pyright: ignore[reportArgumentType]
        yield from bps.stop(rotation)
        yield from collector.collect()

    @bpp.stage_decorator([flyer])
    def staged() -> Plan:
        yield from bpp.contingency_wrapper(sweep(), except_plan=end_early)

    yield from staged()
    yield from bps.checkpoint()


def end_of(error: BaseException) -> dict[str, str]:
    """Return how a run is closed after an error."""
    if isinstance(error, FailedPause):
        return {"exit_status": "abort", "reason": "a flying scan cannot be paused in its middle"}
    if isinstance(error, RunEngineControlException):
        return {"exit_status": str(getattr(error, "exit_status", "abort"))}
    return {"exit_status": "fail", "reason": str(error)}

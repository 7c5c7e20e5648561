"""A proper run for plans that open none: those which arm detectors and fly by writing to bare PVs."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.run_engine import WaitForTimeoutError
from bluesky.utils import Msg, ensure_generator

from .darks import Plan
from .frame_stream import FrameStream
from .sweeps import PERIOD, PRIMARY, Collector, end_of


def fly_run_wrapper(
    plan: Any,
    stream: FrameStream,
    *,
    baseline: Sequence[Any] = (),
    md: Mapping[str, Any] | None = None,
    stream_name: str = PRIMARY,
    period: float = PERIOD,
    settle: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Give a plan that flies and opens no run a run of its own, with the frames told of as they land.

    The run is opened before the plan first sets `taxi` or `fly` of the stream's controller, or else when the first new
    frame is seen; a plan that does neither, or opens a run itself, stays as it is. The stream is declared with the
    first frame, so that shape and type are those in the file, and the controller's start, end and delta those that are
    flown. The plan's messages are those that it gives, in their order; but a `wait` is waited for in parts of `period`,
    and a `sleep` slept in such parts, to look for frames between them.

    An abort closes the run with what is there. A flying scan cannot be taken up in its middle: once frames have come, a
    pause at once aborts, and a deferred one waits for the plan's next checkpoint.

    Parameters
    ----------
    plan
        The plan.
    stream
        The detectors' frames, and the controller.
    baseline
        Devices to record once when the run opens and once before it closes.
    md
        Metadata for the start document.
    stream_name
        Name of the stream of frames.
    period
        From one look for new frames to the next [s].
    settle
        How long to wait at the end of the plan for frames that are still on their way [s]: for so long none may come,
        unless as many are there as the controller's last sweep makes.
    clock
        Time [s].

    Returns
    -------
    What the plan returns.
    """
    run = _FollowedRun(stream, stream_name, baseline, md or {}, period, clock)
    stream.begin()

    def followed() -> Plan:
        result = yield from _through(ensure_generator(plan), run.around)
        yield from run.settle(settle)
        return result

    def failed(error: BaseException) -> Plan:
        yield from run.close(**end_of(error))

    return (yield from bpp.contingency_wrapper(followed(), except_plan=failed, else_plan=run.close))


def fly_run_decorator(stream: FrameStream, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Plan]]:
    """Make each call of a plan function a run of its own: `fly_run_wrapper` as a decorator."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Plan]:
        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Plan:
            return (yield from fly_run_wrapper(function(*args, **kwargs), stream, **options))

        return wrapped

    return decorate


def _through(plan: Any, around: Callable[[Msg], Plan]) -> Plan:
    """Do something around each message of a plan; answers and errors reach it as if nothing were between."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            message = plan.send(answer) if error is None else plan.throw(error)
        except StopIteration as stop:
            return stop.value
        try:
            answer, error = (yield from around(message)), None
        except GeneratorExit:
            plan.close()
            raise
        except BaseException as raised:  # the plan decides what to do about it
            error = raised


class _FollowedRun:
    """The run of a plan that opens none."""

    def __init__(
        self,
        stream: FrameStream,
        name: str,
        baseline: Sequence[Any],
        md: Mapping[str, Any],
        period: float,
        clock: Callable[[], float],
    ) -> None:
        self._stream = stream
        self._collector = Collector(stream, name)
        self._baseline = list(baseline)
        self._md = md
        self._period = period
        self._clock = clock
        self._looked = clock()
        self._is_open = False
        self._theirs = False
        self._told_before = 0
        controller = stream.controller
        self._begins = () if controller is None else (controller.taxi, controller.fly)

    def around(self, message: Msg) -> Plan:
        """Pass a message on, and look for frames when it is time."""
        self._theirs = self._theirs or (message.command == "open_run" and not self._is_open)
        if self._theirs:
            return (yield message)
        if message.command == "set" and any(_same(message.obj, signal) for signal in self._begins):
            yield from self._open()
            yield from self._look()
            self._told_before = self._stream.n_told
        if message.command == "wait":
            answer = yield from self._wait(message)
        elif message.command == "sleep":
            answer = yield from self._sleep(message)
        else:
            answer = yield message
        if self._collector.declared and message.command == "checkpoint":
            yield from bps.clear_checkpoint()
        if self._clock() - self._looked >= self._period:
            yield from self._look()
        return answer

    def settle(self, seconds: float) -> Plan:
        """Wait for the last frames."""
        if self._theirs:
            return
        since = self._clock()
        while True:
            if (yield from self._look()):
                since = self._clock()
            if not self._is_open or self._whole() or self._clock() - since >= seconds:
                return
            yield from bps.sleep(min(self._period, seconds))

    def close(self, exit_status: str | None = None, reason: str | None = None) -> Plan:
        """Close the run with what is there."""
        if not self._theirs:
            yield from self._look()
        if not self._is_open:
            return
        yield from self._read_baseline()
        self._is_open = False
        yield from bps.close_run(exit_status=exit_status, reason=reason)

    def _open(self) -> Plan:
        if self._is_open:
            return
        self._is_open = True
        names = [writer.name for writer in self._stream.writers]
        yield from bps.open_run({"detectors": names, **self._md})
        yield from self._read_baseline()

    def _read_baseline(self) -> Plan:
        if self._baseline:
            yield from bps.trigger_and_read(self._baseline, name="baseline")

    def _look(self) -> Plan:
        self._looked = self._clock()
        if not self._stream.n_ready() > self._stream.n_told:
            return 0
        yield from self._open()
        if not self._collector.declared:
            yield from bps.clear_checkpoint()
        return (yield from self._collector.collect())

    def _whole(self) -> bool:
        controller = self._stream.controller
        if controller is None:
            return False
        wanted = self._stream.read_configuration().get(f"{controller.name}_frames")
        return wanted is not None and 0 < wanted["value"] <= self._stream.n_told - self._told_before

    def _wait(self, message: Msg) -> Plan:
        kwargs = dict(message.kwargs)
        timeout = kwargs.pop("timeout", None)
        fails = kwargs.pop("error_on_timeout", True)
        due = None if timeout is None else self._clock() + timeout
        while True:
            part = self._period if due is None else max(0.0, min(self._period, due - self._clock()))
            done = yield Msg("wait", message.obj, *message.args, timeout=part, error_on_timeout=False, **kwargs)
            if done:
                return done
            if due is not None and self._clock() >= due:
                if fails:
                    raise WaitForTimeoutError
                return done
            yield from self._look()

    def _sleep(self, message: Msg) -> Plan:
        due = self._clock() + float(message.args[0])
        while (left := due - self._clock()) > self._period:
            yield Msg("sleep", None, self._period)
            yield from self._look()
        return (yield Msg("sleep", None, max(0.0, left)))


def _same(one: Any, other: Any) -> bool:
    """Tell whether two signals are one PV; a plan has its own objects for those that it writes to."""
    pv = getattr(one, "pvname", None)
    return one is other or (pv is not None and pv == getattr(other, "pvname", None))

"""Warnings of the live reduction as events of the run that they are about."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, single_gen

from .darks import Plan

WARNING_STREAM = "warnings"
"""Name of the stream of warnings."""

Deliver = Callable[[dict[str, Any]], None]


class Warned(Protocol):
    """A warning, as the callbacks' `Problem` is."""

    @property
    def kind(self) -> str:
        """Short name."""
        ...

    @property
    def frame(self) -> int | None:
        """Number of the frame, if it is about one."""
        ...

    @property
    def message(self) -> str:
        """One line."""
        ...


class LiveWarnings:
    """The latest warning of a live reduction, to be monitored in a run by `warnings_wrapper`.

    `put` may be called from any thread, and never raises or waits: the event is made by the RunEngine's own thread,
    one for each warning, in their order. Warnings that come while no run is monitored are in no document; the archives
    have them.

    Parameters
    ----------
    name
        Name of the object. Keys: `<name>_kind`, `<name>_frame` (NaN if it is about no frame), `<name>_message`.
    """

    def __init__(self, name: str = "live_warnings") -> None:
        self.name = name
        self.parent = None
        self._reading: dict[str, Any] = {}
        self._listeners: dict[Any, asyncio.AbstractEventLoop] = {}
        self._lock = threading.Lock()
        self._set("", math.nan, "")

    @property
    def hints(self) -> dict[str, Any]:
        """Name no field: there is nothing to plot."""
        return {"fields": []}

    def put(self, problem: Warned) -> None:
        """Take a warning."""
        frame = math.nan if problem.frame is None else float(problem.frame)
        with self._lock:
            reading = self._set(str(problem.kind), frame, str(problem.message))
            listeners = list(self._listeners.items())
        for listener, loop in listeners:
            try:
                loop.call_soon_threadsafe(self._deliver, listener, reading)
            except RuntimeError:
                # The RunEngine is gone, and its run with it.
                self.clear_sub(listener)

    def describe(self) -> dict[str, Any]:
        """Describe kind, frame and message."""
        dtypes = {"kind": "string", "frame": "number", "message": "string"}
        return {
            f"{self.name}_{key}": {"source": "hedmlive", "dtype": dtype, "shape": []} for key, dtype in dtypes.items()
        }

    def read(self) -> dict[str, Any]:
        """Read the latest warning; empty before the first."""
        return self._reading

    def describe_configuration(self) -> dict[str, Any]:
        """Describe nothing."""
        return {}

    def read_configuration(self) -> dict[str, Any]:
        """Read nothing."""
        return {}

    def subscribe(self, function: Deliver, **_: Any) -> None:
        """Let a RunEngine listen; called in the loop of its thread, which then calls the function."""
        with self._lock:
            self._listeners[function] = asyncio.get_running_loop()

    def clear_sub(self, function: Deliver) -> None:
        """Let it listen no more."""
        with self._lock:
            self._listeners.pop(function, None)

    def _set(self, kind: str, frame: float, message: str) -> dict[str, Any]:
        now = time.time()
        values = {"kind": kind, "frame": frame, "message": message}
        # A new one each time: the event that is on its way holds the old one.
        self._reading = {f"{self.name}_{key}": {"value": each, "timestamp": now} for key, each in values.items()}
        return self._reading

    def _deliver(self, listener: Deliver, reading: dict[str, Any]) -> None:
        # The run may have closed meanwhile.
        if listener in self._listeners:
            listener(reading)


def warnings_wrapper(
    plan: Any, warnings: LiveWarnings, *, stream_name: str = WARNING_STREAM, linger: float = 0.0
) -> Plan:
    """Record warnings in each run of a plan, in a stream of their own.

    Parameters
    ----------
    plan
        The plan.
    warnings
        Where they come from.
    stream_name
        Name of the stream.
    linger
        How long to keep a run open for the warnings of its last frames, which come a moment after them [s].
    """

    def after_open(message: Msg) -> tuple[Plan | None, Plan | None]:
        if message.command != "open_run":
            return None, None
        return single_gen(message), bps.monitor(warnings, name=stream_name)  # pyright: ignore[reportArgumentType]

    def before_close(message: Msg) -> tuple[Plan | None, Plan | None]:
        if message.command != "close_run":
            return None, None

        def end() -> Plan:
            if linger and message.kwargs.get("exit_status") in (None, "success"):
                yield from bps.sleep(linger)
            yield from bps.unmonitor(warnings)  # pyright: ignore[reportArgumentType]
            yield message

        return end(), None

    return (yield from bpp.plan_mutator(bpp.plan_mutator(plan, after_open), before_close))

"""Bluesky plans of an HEDM station."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from ..streaming.errors import SettingsError

Plan = Generator[Msg, Any, Any]

DARK_STREAM = "dark"
"""Name of the stream that holds dark frames, as in bluesky-darkframes."""


def step_scan(
    detectors: Sequence[Any],
    rotation: Any,
    start: float,
    step: float,
    n_points: int,
    *,
    dark_frames: int = 0,
    shutter: Any | None = None,
    shutter_values: tuple[Any, Any] = ("open", "close"),
    baseline: Sequence[Any] = (),
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Turn the sample in equal steps and take a frame in each.

    Frame i integrates from `start + i step` to `start + (i + 1) step`; the event holds the rotation's readback, the
    START of that interval, beside the image, and the rotation's configuration holds the step. Streams: `baseline`
    before and after, `dark` (only with `dark_frames`) before `primary`.

    Parameters
    ----------
    detectors
        What is triggered and read at each point.
    rotation
        The rotation, with a `step` signal (`RotationStage` or a simulated one).
    start, step
        Start of the first frame and sweep of each [degrees]; a negative step turns the other way.
    n_points
        Number of frames.
    dark_frames
        Frames to take with the shutter closed, before the scan.
    shutter
        Set to the second of `shutter_values` for the darks, to the first for the scan, and to the second at its end.
    shutter_values
        What opens and what closes it.
    baseline
        Devices to record once before and once after.
    md
        More metadata for the start document.

    Raises
    ------
    SettingsError
        A number makes no scan, the rotation has no `step`, or darks are asked for without a shutter.
    """
    _check(rotation, step, n_points, dark_frames, shutter)
    opened, closed = shutter_values
    metadata = _start_metadata(detectors, rotation, start, step, n_points, dark_frames) | dict(md or {})

    @bpp.baseline_decorator(list(baseline) or None)
    @bpp.run_decorator(md=metadata)
    def inner() -> Plan:
        if dark_frames:
            yield from bps.mv(shutter, closed)
            yield from _take_darks(detectors, dark_frames)
        if shutter is not None:
            yield from bps.mv(shutter, opened)
        yield from _sweep(detectors, rotation, start, step, n_points)

    def close() -> Plan:
        if shutter is not None:
            yield from bps.mv(shutter, closed)

    # Before the run, so that the first descriptor already carries the step.
    yield from bps.mv(rotation.step, step)
    return (yield from bpp.finalize_wrapper(inner(), close))


def _take_darks(detectors: Sequence[Any], n: int) -> Plan:
    # Staged on their own: their frames go to a file of their own, counted from 0. Sharing the scan's file would
    # shift the indices of the primary stream against its sequence numbers.
    @bpp.stage_decorator(list(detectors))
    def inner() -> Plan:
        for _ in range(n):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read(list(detectors), name=DARK_STREAM)

    yield from inner()


def _sweep(detectors: Sequence[Any], rotation: Any, start: float, step: float, n_points: int) -> Plan:
    @bpp.stage_decorator([*detectors, rotation])
    def inner() -> Plan:
        for i in range(n_points):
            yield from bps.checkpoint()
            # Multiplied, not added up: the last point is then as exact as the first.
            yield from bps.mv(rotation, start + i * step)
            yield from bps.trigger_and_read([*detectors, rotation])

    yield from inner()


def _check(rotation: Any, step: float, n_points: int, dark_frames: int, shutter: Any | None) -> None:
    if not 0 < abs(step) <= 360:
        raise SettingsError(
            f"step {step} degrees makes no scan: more than 0 and at most 360, of either sign, is wanted"
        )
    if n_points < 1 or dark_frames < 0:
        raise SettingsError(
            f"{n_points} points and {dark_frames} dark frames make no scan: at least 1 and 0 are wanted"
        )
    if not hasattr(rotation, "step"):
        raise SettingsError(f"rotation {rotation.name!r} has no signal 'step': use RotationStage or SimRotation")
    if dark_frames and shutter is None:
        raise SettingsError(f"{dark_frames} dark frames were asked for without a shutter: give shutter=")


def _start_metadata(
    detectors: Sequence[Any], rotation: Any, start: float, step: float, n_points: int, dark_frames: int
) -> dict[str, Any]:
    names = [detector.name for detector in detectors]
    return {
        "plan_name": "step_scan",
        "plan_args": {
            "detectors": names,
            "rotation": rotation.name,
            "start": start,
            "step": step,
            "n_points": n_points,
            "dark_frames": dark_frames,
        },
        "detectors": names,
        "motors": [rotation.name],
        "num_points": n_points,
        "num_intervals": n_points - 1,
        "num_dark_frames": dark_frames,
        "omega_step": step,
        "shape": [n_points],
        "extents": [[start, start + (n_points - 1) * step]],
        "hints": {"dimensions": [[[rotation.name], "primary"]]},
    }

"""Bluesky plans of an HEDM station."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..streaming.errors import SettingsError
from .darks import Darks, Plan
from .scans import Grid, Scan, Sweep


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
    darks = Darks(before=dark_frames, shutter=shutter, values=shutter_values)
    arguments = {"start": start, "step": step, "n_points": n_points, "dark_frames": dark_frames}
    scan = Scan("step_scan", detectors, rotation, arguments, darks, baseline, md)
    sweep = Sweep(start=start, step=step, n_frames=n_points)
    return (yield from scan.run(sweep))


def ff_scan(
    detectors: Sequence[Any],
    rotation: Any,
    start: float,
    step: float,
    n_frames: int,
    *,
    fly: Any | None = None,
    frame_time: float | None = None,
    lead_frames: int = 0,
    wrap_frames: int = 0,
    dark_frames: int = 0,
    dark_frames_after: int = 0,
    shutter: Any | None = None,
    shutter_values: tuple[Any, Any] = ("open", "close"),
    baseline: Sequence[Any] = (),
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Take a far-field scan: one sweep of the rotation, in steps or on the fly, with darks around it.

    Documents of both kinds have the same keys: the start of each frame under the rotation's name, its sweep in the
    configuration as `<rotation>_step`. On the fly, these are the positions of the controller's pulses.

    Parameters
    ----------
    detectors
        What takes the frames.
    rotation
        The rotation, with a `step` signal.
    start, step
        Start of the first frame and sweep of each [degrees]; a negative step turns the other way.
    n_frames
        Number of frames.
    fly
        The fly controller; without it the rotation steps.
    frame_time
        From pulse to pulse [s]: exposure and readout. Wanted with `fly`.
    lead_frames
        Frames to take before the first, that settle the detector: they come from `lead_frames * step` before `start`,
        and the settings leave them out with `skip_first` and `skipped_in_positions`.
    wrap_frames
        Frames to take behind the last, which repeat the first ones of a full turn.
    dark_frames, dark_frames_after
        Frames to take with the shutter closed: before the scan, stream `dark`; after it, stream `dark_after`.
    shutter, shutter_values
        What closes for the darks and at the end, and its values to open and to close.
    baseline
        Devices to record once before and once after.
    md
        More metadata for the start document.

    Raises
    ------
    SettingsError
        A number makes no scan, the rotation has no `step`, a detector cannot fly, or something is missing.
    """
    darks = Darks(before=dark_frames, after=dark_frames_after, shutter=shutter, values=shutter_values)
    arguments = {
        "start": start,
        "step": step,
        "n_frames": n_frames,
        "fly": fly and fly.name,
        "frame_time": frame_time,
        "lead_frames": lead_frames,
        "wrap_frames": wrap_frames,
        "dark_frames": dark_frames,
        "dark_frames_after": dark_frames_after,
    }
    scan = Scan("ff_scan", detectors, rotation, arguments, darks, baseline, md)
    sweep = Sweep(
        start=start, step=step, n_frames=n_frames, lead=lead_frames, wrap=wrap_frames, fly=fly, frame_time=frame_time
    )
    return (yield from scan.run(sweep))


def nf_scan(
    detectors: Sequence[Any],
    rotation: Any,
    start: float,
    step: float,
    n_frames: int,
    *,
    distance: Any,
    distance_start: float,
    distance_end: float,
    n_distances: int,
    layer: Any | None = None,
    layer_start: float = 0.0,
    layer_step: float = 0.0,
    n_layers: int = 1,
    one_run: bool = True,
    snake: bool = False,
    fly: Any | None = None,
    frame_time: float | None = None,
    wrap_frames: int = 0,
    dark_frames: int = 0,
    dark_frames_after: int = 0,
    shutter: Any | None = None,
    shutter_values: tuple[Any, Any] = ("open", "close"),
    baseline: Sequence[Any] = (),
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Take a near-field scan: a sweep of the rotation at each distance of the detector, in each layer of the sample.

    Distances are equally spaced from the first to the last; at each of them all layers are taken. Frames of different
    distances or layers are never neighbours. Returns the uids of the runs.

    Parameters
    ----------
    detectors, rotation, start, step, n_frames
        As for `ff_scan`; each sweep is the same.
    distance
        Motor of the detector's distance.
    distance_start, distance_end, n_distances
        First and last distance, both taken, and how many, in the motor's unit.
    layer
        Motor of the layers; None for one layer, where the sample is.
    layer_start, layer_step, n_layers
        First layer, way from one to the next, and how many, in the motor's unit.
    one_run
        Whether all is one run, or each sweep a run of its own, with its own baseline and darks.
    snake
        Whether every second sweep goes back.
    fly, frame_time, wrap_frames
        As for `ff_scan`.
    dark_frames, dark_frames_after, shutter, shutter_values
        As for `ff_scan`, around each run.
    baseline
        Devices to record once before and once after each run; `distance` and `layer` are always among them.
    md
        More metadata for the start documents.

    Raises
    ------
    SettingsError
        As for `ff_scan`; or the distances or layers make no scan.
    """
    darks = Darks(before=dark_frames, after=dark_frames_after, shutter=shutter, values=shutter_values)
    if n_distances < 1 or n_layers < 1 or (n_layers > 1 and (layer is None or not layer_step)):
        raise SettingsError(
            f"{n_distances} distances and {n_layers} layers of {layer_step:g} make no scan: at least 1 of each is "
            "wanted, and several layers need the motor layer= and layer_step="
        )
    motors = (distance,) if layer is None else (distance, layer)
    grid = Grid(
        motors=motors,
        ends=((distance_start, distance_end), (layer_start, layer_start + (n_layers - 1) * layer_step))[: len(motors)],
        shape=(n_distances, n_layers)[: len(motors)],
        snake=snake,
    )
    arguments = {
        "start": start,
        "step": step,
        "n_frames": n_frames,
        "distance": distance.name,
        "distance_start": distance_start,
        "distance_end": distance_end,
        "n_distances": n_distances,
        "layer": layer and layer.name,
        "layer_start": layer_start,
        "layer_step": layer_step,
        "n_layers": n_layers,
        "one_run": one_run,
        "snake": snake,
        "fly": fly and fly.name,
        "frame_time": frame_time,
        "wrap_frames": wrap_frames,
        "dark_frames": dark_frames,
        "dark_frames_after": dark_frames_after,
    }
    scan = Scan("nf_scan", detectors, rotation, arguments, darks, (*baseline, *motors), md)
    sweep = Sweep(start=start, step=step, n_frames=n_frames, wrap=wrap_frames, fly=fly, frame_time=frame_time)
    if one_run:
        return [(yield from scan.run(sweep, grid))]
    return (yield from scan.runs(sweep, grid))

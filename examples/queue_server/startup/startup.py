"""A startup folder of the queue server: a station, live reduction, and plans that it can check.

    start-re-manager --startup-dir examples/queue_server/startup --update-existing-plans-devices NEVER
    qserver environment open
    qserver queue add plan '{"name": "far_field", "kwargs": {"n_frames": 720, "step": 0.5}}'
    qserver queue start

HEDM_STATION names the station.yml of real PVs, or of those of `hedmlive simulate ioc`; without it the devices are
simulated. The queue server makes the form of each plan from its signature: so these take names and numbers, and find
the devices themselves.
"""

import os
from collections.abc import Generator
from typing import Any

from bluesky import RunEngine
from bluesky.utils import Msg

from hedmlive import devices
from hedmlive.callbacks import hedm_live_init
from hedmlive.simulators import SimAxis, SimFlyController, simulated_station

RE = RunEngine({"beamline_id": "simulated"})

_file = os.environ.get("HEDM_STATION")
_station: Any
if _file:
    _station = devices.make_station(_file)
    _station.wait_for_connection(60)
    pso, samy = _station.fly_controller, _station.motors["samY"]
else:
    _station = simulated_station("detector", detector="stream", shape=(256, 256))
    pso = SimFlyController(name="pso", rotation=_station.rotation, detectors=[_station.detector])
    samy = SimAxis(name="samy", egu="mm")
rotation, shutter, detector = _station.rotation, _station.shutter, _station.detector
translation, energy = _station.translation, _station.energy

hedm_live = hedm_live_init(
    RE,
    {
        "roles": dict(_station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "detector", "image": _station.image_key}],
        "recipe": {"background": "dark", "threshold": 30, "min_pixels": 3, "max_distance": 2.0},
        "archive": {"folder": "archives"},
    },
)
_warnings = devices.LiveWarnings()
if hedm_live is not None:
    hedm_live.on_warning(_warnings.put)


def reduced(seconds: float = 60.0) -> dict[str, Any]:
    """Wait for the live reductions, and return what each run of this session came to: for `qserver function execute`.

    Parameters
    ----------
    seconds : float
        How long to wait [s].
    """
    found = {} if hedm_live is None else hedm_live.wait(seconds)
    return {
        uid: {
            "frames": result.progress.n_frames,
            "tracks": result.progress.n_tracks,
            "digests": list(result.digests.values()),
            "problems": list(result.problems),
            "archive": str(result.raw),
        }
        for uid, result in found.items()
    }


def _options(fly: bool, frame_time: float, dark_frames: int) -> dict[str, Any]:
    return {
        "fly": pso if fly else None,
        "frame_time": frame_time,
        "dark_frames": dark_frames,
        "shutter": shutter,
        "baseline": _station.baseline,
    }


def far_field(
    start: float = 0.0,
    step: float = 1.0,
    n_frames: int = 30,
    fly: bool = True,
    frame_time: float = 0.1,
    dark_frames: int = 3,
) -> Generator[Msg, Any, Any]:
    """Take a far-field scan with darks.

    Parameters
    ----------
    start : float
        Where the first frame starts [degrees].
    step : float
        Sweep of a frame [degrees].
    n_frames : int
        Number of frames.
    fly : bool
        Whether the controller fires the frames while the rotation turns.
    frame_time : float
        From pulse to pulse [s].
    dark_frames : int
        Frames with the shutter closed, before the scan.
    """
    plan = devices.ff_scan([detector], rotation, start, step, n_frames, **_options(fly, frame_time, dark_frames))
    return (yield from devices.warnings_wrapper(plan, _warnings))


def near_field(
    start: float = 0.0,
    step: float = 1.0,
    n_frames: int = 30,
    distance_start: float = 7.0,
    distance_end: float = 9.0,
    n_distances: int = 2,
    layer_start: float = 0.0,
    layer_step: float = 0.01,
    n_layers: int = 2,
    fly: bool = True,
    frame_time: float = 0.1,
    dark_frames: int = 3,
) -> Generator[Msg, Any, Any]:
    """Take a near-field scan: a sweep at each distance, in each layer.

    Parameters
    ----------
    start : float
        Where the first frame of a sweep starts [degrees].
    step : float
        Sweep of a frame [degrees].
    n_frames : int
        Number of frames of a sweep.
    distance_start : float
        First distance [mm].
    distance_end : float
        Last distance [mm].
    n_distances : int
        Number of distances.
    layer_start : float
        First layer [mm].
    layer_step : float
        From layer to layer [mm].
    n_layers : int
        Number of layers.
    fly : bool
        Whether the controller fires the frames while the rotation turns.
    frame_time : float
        From pulse to pulse [s].
    dark_frames : int
        Frames with the shutter closed, before the scan.
    """
    plan = devices.nf_scan(
        [detector],
        rotation,
        start,
        step,
        n_frames,
        distance=translation.L1,
        distance_start=distance_start,
        distance_end=distance_end,
        n_distances=n_distances,
        layer=samy,
        layer_start=layer_start,
        layer_step=layer_step,
        n_layers=n_layers,
        **_options(fly, frame_time, dark_frames),
    )
    return (yield from devices.warnings_wrapper(plan, _warnings))

"""A startup in the style of BITS: run it, or import it in a session (`from startup import *`).

It runs from top to bottom without asking or drawing anything, so that console, notebook and queue server can use it.
"""

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from bluesky import RunEngine
from bluesky.utils import Msg

from hedmlive.devices import LiveWarnings, ff_scan, nf_scan, warnings_wrapper
from hedmlive.simulators import SimAxis, SimFlyController, simulated_station

# 1. Settings
iconfig = yaml.safe_load((Path(__file__).parent / "configs" / "iconfig.yml").read_text())

# 2. RunEngine; its usual subscribers (best-effort callback, catalogue) come here
RE = RunEngine(dict(iconfig["RUN_ENGINE"]["DEFAULT_METADATA"]))

# 3. Callbacks that a block of the settings enables
hedm_live = None
if iconfig.get("HEDM_LIVE", {}).get("ENABLE", False):
    from hedmlive.callbacks import hedm_live_init

    hedm_live = hedm_live_init(RE, iconfig)

# Its warnings become events of the run that they are about.
live_warnings = LiveWarnings()
if hedm_live is not None:
    hedm_live.on_warning(live_warnings.put)
    RE.preprocessors.append(partial(warnings_wrapper, warnings=live_warnings))

# 4. Devices; a real station has them in devices.yml
station = simulated_station("detector", detector="stream", shape=(256, 256))
rotation, shutter, detector = station.rotation, station.shutter, station.detector
detz, samy = station.translation.L1, SimAxis(name="samy", egu="mm")
pso = SimFlyController(name="pso", rotation=rotation, detectors=[detector])
around = {"dark_frames": 3, "shutter": shutter, "baseline": station.baseline}


# 5. Plans, with names and numbers alone as arguments, so that the queue server can check them
def far_field(
    start: float = 0.0, step: float = 1.0, n_frames: int = 30, fly: bool = True, frame_time: float = 0.1
) -> Generator[Msg, Any, Any]:
    """Take a far-field scan with darks and the station's baseline."""
    options: dict[str, Any] = around | ({"fly": pso, "frame_time": frame_time} if fly else {})
    yield from ff_scan([detector], rotation, start, step, n_frames, **options)


def near_field(
    start: float = 0.0,
    step: float = 1.0,
    n_frames: int = 30,
    nfz_start: float = 7.0,
    nfz_end: float = 9.0,
    ndz: int = 2,
    y0: float = 0.0,
    dy: float = 0.01,
    y_nlayers: int = 2,
) -> Generator[Msg, Any, Any]:
    """Take a near-field scan: a sweep at each distance, in each layer."""
    places = {
        "distance": detz,
        "distance_start": nfz_start,
        "distance_end": nfz_end,
        "n_distances": ndz,
        "layer": samy,
        "layer_start": y0,
        "layer_step": dy,
        "n_layers": y_nlayers,
    }
    options: dict[str, Any] = around | places
    yield from nf_scan([detector], rotation, start, step, n_frames, fly=pso, frame_time=0.1, **options)


if __name__ == "__main__":
    RE(far_field())
    if hedm_live is not None:
        for result in hedm_live.wait_writer().values():
            print(result.progress.n_tracks, "tracks in", result.reduced)
        hedm_live.close()

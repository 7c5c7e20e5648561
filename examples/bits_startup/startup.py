"""A startup in the style of BITS: run it, or import it in a session (`from startup import *`).

It runs from top to bottom without asking or drawing anything, so that console, notebook and queue server can use it.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import yaml
from bluesky import RunEngine
from bluesky.utils import Msg

from hedmlive.devices import step_scan
from hedmlive.simulators import simulated_station

# 1. Settings
iconfig = yaml.safe_load((Path(__file__).parent / "configs" / "iconfig.yml").read_text())

# 2. RunEngine; its usual subscribers (best-effort callback, catalogue) come here
RE = RunEngine(dict(iconfig["RUN_ENGINE"]["DEFAULT_METADATA"]))

# 3. Callbacks that a block of the settings enables
hedm_live = None
if iconfig.get("HEDM_LIVE", {}).get("ENABLE", False):
    from hedmlive.callbacks import hedm_live_init

    hedm_live = hedm_live_init(RE, iconfig)

# 4. Devices; a real station has them in devices.yml
station = simulated_station("detector", shape=(256, 256))
rotation, shutter, detector = station.rotation, station.shutter, station.detector


# 5. Plans
def ff_scan(start: float = 0.0, step: float = 1.0, n_points: int = 30) -> Generator[Msg, Any, Any]:
    """Take a far-field scan with darks and the station's baseline."""
    yield from step_scan(
        [detector], rotation, start, step, n_points, dark_frames=3, shutter=shutter, baseline=station.baseline
    )


if __name__ == "__main__":
    RE(ff_scan())
    if hedm_live is not None:
        for result in hedm_live.wait_writer().values():
            print(result.progress.n_tracks, "tracks in", result.reduced)
        hedm_live.close()

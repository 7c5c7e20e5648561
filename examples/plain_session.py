"""Live reduction in a plain session: three lines beside the RunEngine that is there anyway.

Run it as it stands: the station is simulated, the RunEngine, the archives and the reduction are real.
"""

import tempfile
from pathlib import Path

from bluesky import RunEngine

from hedmlive.callbacks import HedmLive
from hedmlive.devices import step_scan
from hedmlive.simulators import simulated_station

SETTINGS = """
roles: {omega: rotation, omega_step: rotation_step, L1: translation_L1, L2: translation_L2, energy: energy}
omega_marks: start
detectors: [{name: detector, image: detector_image}]
recipe: {background: dark, threshold: 30, min_pixels: 3, max_distance: 2.0}
archive: {folder: FOLDER}
"""

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="hedmlive-example-"))
    (folder / "hedmlive.yml").write_text(SETTINGS.replace("FOLDER", str(folder)))
    RE = RunEngine()
    station = simulated_station(folder / "detector", shape=(256, 256))

    live = HedmLive(folder / "hedmlive.yml")
    RE.subscribe(live)

    RE(
        step_scan(
            [station.detector],
            station.rotation,
            start=0.0,
            step=1.0,
            n_points=30,
            dark_frames=3,
            shutter=station.shutter,
            baseline=station.baseline,
        )
    )
    for uid, result in live.wait().items():
        print(uid, result.progress.n_peaks, "peaks,", result.progress.n_tracks, "tracks,", result.reduced)
    live.close()

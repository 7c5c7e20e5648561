"""A session that stores its runs in a databroker 1.2.5 catalogue, as a BITS startup does. Not a test: a process.

It runs in an environment of its own, because databroker 1.2.5 and 2.x cannot be installed beside each other. Scans in
each way in which a frame can come, and prints a line of JSON for each: way, uid and live digest.
"""

import json
import os
import sys
from pathlib import Path


def main(folder: Path) -> None:
    runs = folder / "runs"
    runs.mkdir()
    source = {"driver": "bluesky-msgpack-catalog", "args": {"paths": [str(runs / "*.msgpack")]}}
    Path(os.environ["INTAKE_PATH"], "catalogs.yml").write_text(json.dumps({"sources": {"hedm": source}}))

    import databroker  # after the catalogue is described: it looks when it is imported
    from bluesky import RunEngine

    from hedmlive.callbacks import HedmLive, load_settings
    from hedmlive.devices import step_scan
    from hedmlive.simulators import simulated_station

    catalog = databroker.catalog["hedm"]
    for way in ("array", "hdf5", "stream"):
        station = simulated_station(folder / way, detector=way, shape=(64, 64), n_grains=5)
        settings = load_settings(
            {
                "roles": dict(station.roles),
                "omega_marks": "start",
                "detectors": [{"name": "detector", "image": station.image_key}],
                "recipe": {"background": "dark", "threshold": 30},
                "archive": {"folder": str(folder / way)},
            }
        )
        (folder / f"{way}.yml").write_text(settings.to_json())  # JSON is YAML
        live = HedmLive(settings)
        engine = RunEngine({}, call_returns_result=False)
        engine.subscribe(live)
        engine.subscribe(catalog.v1.insert)
        plan = step_scan(
            [station.detector],
            station.rotation,
            0.0,
            1.0,
            12,
            dark_frames=2,
            shutter=station.shutter,
            baseline=station.baseline,
        )
        engine(plan)
        (result,) = live.wait(60).values()
        live.close()
        said = {"way": way, "uid": result.uid, "digest": result.digests[0], "problems": result.problems}
        print(json.dumps(said | {"databroker": databroker.__version__}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

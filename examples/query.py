"""Query a catalogue over Tiled: `python query.py URI`, with the key in the environment as HEDMLIVE_TILED_KEY.

`hedmlive demo --keep` leaves a server to try it with. It works while the scan runs, too.
"""

import os
import sys

from hedmlive.tiled_config import connect, disconnect

if __name__ == "__main__":
    runs = connect(sys.argv[1], os.environ["HEDMLIVE_TILED_KEY"])
    for run in runs.search(min_tracks=1):
        print(run.uid, run.status, len(run.tracks(["track"])), "tracks")
        print(run.brightest(5).to_pandas())
        brightest = run.track(run.brightest(1)["track"][0].as_py())
        curve = brightest.rocking_curve()
        for omega, counts in zip(curve.position, curve.intensity, strict=True):
            print(f"{omega:8.2f} deg {counts:10.0f} counts")
    disconnect(runs)

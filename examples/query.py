"""Query a reduction over Tiled: `python query.py URI`, with the key in the environment as HEDMLIVE_TILED_KEY.

`hedmlive demo --keep` leaves a server to try it with. It works while the scan runs, too.
"""

import os
import sys

from hedmlive.tiled_config import connect, disconnect, latest_reduction, read_table

if __name__ == "__main__":
    client = connect(sys.argv[1], os.environ["HEDMLIVE_TILED_KEY"])
    for uid in client["reduced"]:
        reduction = latest_reduction(client, uid)
        tracks = read_table(reduction["tracks"])
        print(uid, reduction.metadata["status"], len(tracks), "tracks")
        print(tracks.nlargest(5, "sum_intensity")[["track", "omega", "row", "col", "sum_intensity"]])
    disconnect(client)

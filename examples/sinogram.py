"""Where a grain lies, from the sinogram of its spots: `python sinogram.py`.

A beam of 20 um crosses a simulated sample of one grain; each of 15 rows is a full turn in steps of 2 degrees, there and
back. The frames are reduced as they come; then the tables are asked.
"""

from dataclasses import replace
from tempfile import mkdtemp

import numpy as np

from hedmlive.simulators import GOLD, Grain, simulated_station
from hedmlive.streaming import Axis, Curves, Frame, Planned, Recipe, Reducer, join

OMEGA, DTY = np.arange(0.0, 360.0, 2.0), np.arange(-0.14, 0.15, 0.02)
GRAIN = Grain(
    orientation=((0.36, 0.48, -0.8), (-0.8, 0.6, 0.0), (0.48, 0.64, 0.6)),
    position=(90.0, -50.0, 0.0),
    size=60.0,
    mosaic=0.8,
)

if __name__ == "__main__":
    crystal = replace(GOLD, hkls=((1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1)))
    station = simulated_station(mkdtemp(), shape=(64, 64), grains=[GRAIN], crystal=crystal, beam_width=20.0)
    places = [(omega, dty) for row, dty in enumerate(DTY) for omega in (OMEGA[::-1] if row % 2 else OMEGA)]
    trajectory = Planned(
        [
            Axis(name="omega", positions=np.array([omega for omega, _ in places]), period=360.0),
            Axis(name="dty", positions=np.array([dty for _, dty in places])),
        ]
    )
    reducer = Reducer(Recipe(background_level=60.0, threshold=30.0, min_pixels=3), trajectory=trajectory)
    batches = []
    for number, (omega, dty) in enumerate(places):
        image = station.simulator.frame(omega, omega + 2.0, number, dty=dty)
        frame = Frame(
            frame=number, point=number, image=image, omega_start=omega, omega_end=omega + 2.0, roles={"dty": dty}
        )
        batches.append(reducer.push(frame))
    tables = join([*batches, reducer.flush()])

    # Hot pixels are tracks too, of all frames.
    tracks = tables["tracks"]
    spots = tracks["n_frames"] < 100
    print(f"{len(tables['peaks']['frame'])} peaks, {spots.sum()} spots")

    sinogram = Curves(tables).sinogram(tracks["track"][spots], ("dty", "omega"))
    for dty, row in zip(sinogram.rows, sinogram.intensity, strict=True):
        print(f"{dty:6.2f} mm " + "".join(" .:*#"[int(min(4, np.log10(1 + each)))] for each in row))

    # Each spot is in the beam where x sin(omega) + y cos(omega) + dty is 0.
    angle = np.radians(tracks["omega"][spots])
    found = np.linalg.lstsq(np.column_stack([np.sin(angle), np.cos(angle)]), -tracks["dty"][spots], rcond=None)[0]
    print(f"the grain is at x = {1000 * found[0]:.0f} um, y = {1000 * found[1]:.0f} um; it was put at 90 and -50")

"""What an IPython profile has anyway: a RunEngine and devices, here simulated ones.

Start it with `ipython --profile-dir=examples/profile_startup`.
"""

from bluesky import RunEngine

from hedmlive.simulators import SimAxis, SimFlyController, simulated_station

RE = RunEngine({"beamline_id": "simulated"})
station = simulated_station("detector", detector="stream", shape=(256, 256))
rotation, shutter, detector = station.rotation, station.shutter, station.detector
detz, samy = station.translation.L1, SimAxis(name="samy", egu="mm")
pso = SimFlyController(name="pso", rotation=rotation, detectors=[detector])

"""A narrow beam lights each grain on its sine, and all of it once in a pass across."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedmlive.simulators import (
    NOISELESS,
    DetectorGeometry,
    FrameSimulator,
    Grain,
    PencilBeam,
    diffract,
    random_grains,
    simulated_station,
)
from hedmlive.simulators.station import GOLD
from hedmlive.streaming.errors import SettingsError

UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def naive_fraction(grain: Grain, width: float, omega: float, dty: float) -> float:
    """The discs of a sphere, one after the other."""
    cosine, sine = np.cos(np.radians(omega)), np.sin(np.radians(omega))
    centre = grain.position[0] * sine + grain.position[1] * cosine + 1000 * dty
    edges = np.linspace(-grain.size / 2, grain.size / 2, 20_001)
    u = (edges[1:] + edges[:-1]) / 2
    discs = (grain.size / 2) ** 2 - u**2
    return float(discs[np.abs(centre + u) <= width / 2].sum() / discs.sum())


def test_the_lit_part_is_that_of_the_discs() -> None:
    rng = np.random.default_rng(1)
    grains = random_grains(20, 3, radius=100.0, height=10.0, size=(5.0, 80.0), mosaic=(0.1, 0.1))
    for omega, dty, width in rng.uniform((-400, -0.1, 1), (400, 0.1, 100), (30, 3)).tolist():
        found = PencilBeam(grains, width).fractions(omega, dty)
        assert found == pytest.approx([naive_fraction(grain, width, omega, dty) for grain in grains], abs=2e-4)


def test_a_grain_is_brightest_on_its_sine_and_lit_once_in_a_pass() -> None:
    grain = Grain(orientation=UPRIGHT, position=(30.0, -40.0, 0.0), size=20.0)
    beam = PencilBeam([grain], 10.0)
    places = np.arange(-80, 81) / 1000
    for omega in (0.0, 77.0, 180.0, 271.0):
        row = np.array([beam.fractions(omega, dty)[0] for dty in places.tolist()])
        on_sine = -30e-3 * np.sin(np.radians(omega)) + 40e-3 * np.cos(np.radians(omega))
        assert places[row.argmax()] == pytest.approx(on_sine, abs=0.5e-3)
        assert row[::10].sum() == pytest.approx(1.0)  # steps as wide as the beam leave nothing out, nothing twice


def test_a_frame_holds_what_the_beam_lights() -> None:
    grains = random_grains(3, 4, radius=100.0, height=10.0, size=(20.0, 40.0), mosaic=(0.2, 0.3))
    geometry = DetectorGeometry(
        shape=(48, 48), distance=6e5, pixel_size=4000.0, beam_row=23.5, beam_col=23.5, energy=65.0
    )
    spots = diffract(grains, GOLD, geometry, scale=1.0, min_eta=6.0)
    beam = PencilBeam(grains, 15.0)
    narrow = FrameSimulator(geometry.shape, spots, noise=NOISELESS, beam=beam)
    wide = FrameSimulator(geometry.shape, spots, noise=NOISELESS)
    for start, dty in ((10.0, 0.0), (200.0, -0.03)):
        lit = beam.fractions(start + 0.5, dty)[spots.grain]
        assert narrow.fractions(start, start + 1, dty=dty) == pytest.approx(wide.fractions(start, start + 1) * lit)
    # As many rows as there are beam widths across the sample show all that a wide beam shows at once.
    rows = np.arange(-13, 14) * 0.015
    scan = [(10.0, 11.0)] * len(rows)
    truth, whole = narrow.truth(scan, dty=rows), wide.truth(scan[:1])
    assert truth.intensity.sum() == pytest.approx(whole.intensity.sum())
    images = sum(narrow.expected(10.0, 11.0, dty=dty) for dty in rows.tolist())
    assert images == pytest.approx(wide.expected(10.0, 11.0), abs=0.3)


def test_a_station_with_a_narrow_beam_moves_the_sample_across_it(tmp_path: Path) -> None:
    how: dict[str, Any] = {"shape": (24, 24), "n_grains": 3}
    station = simulated_station(tmp_path, detector="array", noise=NOISELESS, beam_width=20.0, **how)
    assert station.dty is not None
    assert (station.roles["dty"], station.dty.describe()["dty"]["units"]) == ("dty", "mm")
    station.rotation.step.put(360.0)
    images: list[np.ndarray] = []
    for dty in (0.0, 9.0):
        station.dty.set(dty).wait()
        station.detector.stage()
        station.detector.trigger().wait()
        images.append(station.detector.read()[station.image_key]["value"])
        station.detector.unstage()
    assert images[0].any()
    assert not images[1].any()
    assert simulated_station(tmp_path, **how).dty is None


def test_a_beam_without_width_is_refused() -> None:
    with pytest.raises(SettingsError, match="lights nothing"):
        PencilBeam([], 0.0)

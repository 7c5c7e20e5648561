"""The forward model against physics, and against a list of spots that others simulated."""

import csv
from pathlib import Path

import numpy as np
import pytest

from hedmlive.simulators import GOLD, DetectorGeometry, Grain, Spots, diffract, random_grains, reciprocal_basis
from hedmlive.streaming.errors import SettingsError

GEOMETRY = DetectorGeometry(
    shape=(1024, 1024), distance=600e3, pixel_size=200.0, beam_row=511.5, beam_col=511.5, energy=65.351
)


def _grains(n: int, *, radius: float) -> tuple[Grain, ...]:
    return random_grains(n, 7, radius=radius, height=radius, size=(40.0, 60.0), mosaic=(0.1, 0.1))


def _vectors(spots: Spots, grains: tuple[Grain, ...]) -> np.ndarray:
    hkl = np.column_stack([spots.h, spots.k, spots.l])
    turned = np.array([grain.orientation for grain in grains])[spots.grain] @ reciprocal_basis(GOLD.lattice)
    return np.einsum("nij,nj->ni", turned, hkl)


def test_bragg_and_the_scattered_ray() -> None:
    grains = _grains(5, radius=0.0)
    spots = diffract(grains, GOLD, GEOMETRY, scale=1.0)
    assert len(spots) > 500
    lengths = np.linalg.norm(_vectors(spots, grains), axis=1)
    sine = np.sin(np.radians(spots.two_theta) / 2)
    np.testing.assert_allclose(2 / lengths * sine, GEOMETRY.wavelength, rtol=1e-9)
    # On the detector: the radius is L tan(2 theta), and eta runs from +Z (rows) to -Y (columns).
    rows, cols = spots.row - 511.5, spots.col - 511.5
    np.testing.assert_allclose(np.hypot(rows, cols) * 200, 600e3 * np.tan(np.radians(spots.two_theta)), rtol=1e-9)
    np.testing.assert_allclose(np.degrees(np.arctan2(-cols, rows)), spots.eta, atol=1e-9)


def test_friedel_mates_lie_half_a_turn_apart_and_mirrored() -> None:
    spots = diffract(_grains(3, radius=0.0), GOLD, GEOMETRY, scale=1.0)
    keys = zip(spots.grain, spots.h, spots.k, spots.l, strict=True)
    table = {}
    for i, key in enumerate(keys):
        table.setdefault(tuple(int(v) for v in key), []).append(i)
    checked = 0
    for (grain, h, k, m), members in table.items():
        for i in members:
            apart = [j for j in table[grain, -h, -k, -m] if abs((spots.omega[j] - spots.omega[i]) % 360 - 180) < 1e-9]
            assert len(apart) == 1
            # Half a turn later the mate's ray has the same Y and the opposite Z.
            assert spots.col[apart[0]] == pytest.approx(spots.col[i], abs=1e-8)
            assert spots.row[apart[0]] - 511.5 == pytest.approx(511.5 - spots.row[i], abs=1e-8)
            assert spots.intensity[apart[0]] == pytest.approx(spots.intensity[i], rel=1e-9)
            checked += 1
    assert checked == len(spots)


def test_a_grain_off_the_axis_moves_its_spots_as_it_turns() -> None:
    (grain,) = _grains(1, radius=0.0)
    moved = Grain(orientation=grain.orientation, position=(100.0, 50.0, 30.0), size=grain.size)
    at_centre = diffract([grain], GOLD, GEOMETRY, scale=1.0)
    spots = diffract([moved], GOLD, GEOMETRY, scale=1.0)
    np.testing.assert_array_equal(spots.omega, at_centre.omega)  # a parallel beam does not care where it is
    omega = np.radians(spots.omega)
    x, y = 100 * np.cos(omega) - 50 * np.sin(omega), 100 * np.sin(omega) + 50 * np.cos(omega)
    away = np.tan(np.radians(spots.two_theta))
    eta = np.radians(spots.eta)
    np.testing.assert_allclose((spots.row - at_centre.row) * 200, 30 - x * away * np.cos(eta), atol=1e-6)
    np.testing.assert_allclose((spots.col - at_centre.col) * 200, y + x * away * np.sin(eta), atol=1e-6)


def test_intensity_is_volume_times_lorentz_times_structure_factor() -> None:
    (grain,) = _grains(1, radius=0.0)
    double = Grain(orientation=grain.orientation, size=2 * grain.size, mosaic=grain.mosaic)
    spots, bigger = (diffract([g], GOLD, GEOMETRY, scale=3.0) for g in (grain, double))
    np.testing.assert_allclose(bigger.intensity, 8 * spots.intensity)
    lorentz = 1 / np.abs(np.sin(np.radians(spots.two_theta)) * np.sin(np.radians(spots.eta)))
    sine_over_lambda = np.sin(np.radians(spots.two_theta) / 2) / GEOMETRY.wavelength
    factor = np.exp(-2 * 0.5 * sine_over_lambda**2)
    expected = 3.0 * np.pi / 6 * grain.size**3 * factor * lorentz
    np.testing.assert_allclose(spots.intensity, expected, rtol=1e-9)
    np.testing.assert_allclose(spots.sigma_omega, grain.mosaic / np.abs(np.sin(np.radians(spots.eta))), rtol=1e-9)


def test_mosaic_spread_is_what_misoriented_blocks_show() -> None:
    (grain,) = _grains(1, radius=0.0)
    spots = diffract([grain], GOLD, GEOMETRY, scale=1.0, point_spread=0.0, min_eta=20.0)
    rng = np.random.default_rng(1)
    tilts = np.radians(grain.mosaic) * rng.standard_normal((4000, 3))
    vector = _vectors(spots, (grain,))
    for i in range(0, len(spots), 20):
        omega, along_ring = _blocks(vector[i], tilts, spots.omega[i])
        assert np.std(omega) == pytest.approx(spots.sigma_omega[i], rel=0.05)
        ring = np.hypot(spots.row[i] - 511.5, spots.col[i] - 511.5)
        spread = np.hypot(ring * np.std(along_ring), grain.size / 200 / np.sqrt(20))
        assert spread == pytest.approx(spots.sigma_azimuthal[i], rel=0.05)


def _blocks(vector: np.ndarray, tilts: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Omega [degrees] and azimuth [radians] of each block, solved for one by one."""
    blocks = vector + np.cross(tilts, vector)
    blocks *= (np.linalg.norm(vector) / np.linalg.norm(blocks, axis=1))[:, None]
    needed = -GEOMETRY.wavelength * (vector @ vector) / 2
    half = np.arccos(needed / np.hypot(blocks[:, 0], blocks[:, 1]))
    phase = np.arctan2(blocks[:, 1], blocks[:, 0])
    both = np.stack([half - phase, -half - phase])
    away = (np.degrees(both) - near + 180) % 360 - 180
    pick = np.abs(away).argmin(axis=0)
    omega = both[pick, np.arange(len(blocks))]
    y = np.sin(omega) * blocks[:, 0] + np.cos(omega) * blocks[:, 1]
    return away[pick, np.arange(len(blocks))], np.arctan2(y, blocks[:, 2])


def test_spots_near_the_axis_can_be_left_out() -> None:
    grains = _grains(5, radius=100.0)
    everything = diffract(grains, GOLD, GEOMETRY, scale=1.0)
    fewer = diffract(grains, GOLD, GEOMETRY, scale=1.0, min_eta=10.0)
    distance = np.minimum(np.abs(everything.eta), 180 - np.abs(everything.eta))
    np.testing.assert_array_equal(fewer.omega, everything.omega[distance >= 10])


def test_no_grain_gives_an_empty_table() -> None:
    spots = diffract([], GOLD, GEOMETRY, scale=1.0)
    assert len(spots) == 0
    assert all(column.size == 0 for column in spots.columns().values())


def test_a_detector_without_distance_is_refused() -> None:
    with pytest.raises(SettingsError, match="distance 0 is not positive"):
        DetectorGeometry(shape=(2, 2), distance=0, pixel_size=1, beam_row=0, beam_col=0, energy=50)


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_spots_of_twenty_gold_grains_as_xrd_simulator_lists_them(shared_data: Path) -> None:
    """Every spot of the list is predicted, within what the list's grains of 48 turned tetrahedra differ."""
    folder = shared_data / "xrdsim20"
    grains = [
        Grain(
            orientation=tuple((row[f"U{i}1"], row[f"U{i}2"], row[f"U{i}3"]) for i in (1, 2, 3)),
            position=(row["x_um"], row["y_um"], row["z_um"]),
            size=row["size_um"],
            mosaic=row["mosaic_deg"],
        )
        for row in _rows(folder / "grains_truth.csv")
    ]
    # The list's rows and columns are 0.5 pixels before the frames'.
    spots = diffract(grains, GOLD, GEOMETRY, scale=1.0)
    listed = [row for row in _rows(folder / "spots_truth.csv") if row["n_elements"] >= 24]
    assert len(listed) > 1400
    predicted = {}
    for i in range(len(spots)):
        key = (int(spots.grain[i]), int(spots.h[i]), int(spots.k[i]), int(spots.l[i]))
        predicted.setdefault(key, []).append(i)
    away, width, counts = [], [], []
    for row in listed:
        candidates = predicted[int(row["grain"]), int(row["h"]), int(row["k"]), int(row["l"])]
        difference = [(spots.omega[i] - row["omega"] + 180) % 360 - 180 for i in candidates]
        best = int(np.argmin(np.abs(difference)))
        i = candidates[best]
        away.append((difference[best], spots.row[i] - row["row"], spots.col[i] - row["col"]))
        width.append(spots.sigma_omega[i])
        counts.append(row["counts"] / spots.intensity[i])
    omega, row_error, col_error = np.array(away).T
    # 48 blocks drawn from the mosaic have a mean that is off by sigma / sqrt(48); 5 of those for 1 400 spots.
    assert np.max(np.abs(omega) / np.array(width)) < 5 / np.sqrt(48)
    assert np.abs(np.median(omega)) < 0.01
    assert np.abs(np.median(row_error)) < 0.005
    assert np.abs(np.median(col_error)) < 0.005
    assert np.percentile(np.abs(row_error), 99) < 0.5
    assert np.percentile(np.abs(col_error), 99) < 0.5
    # Volume and Lorentz factor carry over a hundredfold range; what is left is gold's form factor.
    assert np.std(np.log(counts)) < 0.5 * np.std(np.log([row["counts"] for row in listed]))

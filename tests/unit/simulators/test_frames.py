"""Frames hold the spots' counts exactly, and the truth is what they hold."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from hedmlive.simulators import (
    GOLD,
    NOISELESS,
    DetectorGeometry,
    DetectorNoise,
    FrameSimulator,
    Spots,
    diffract,
    random_grains,
)
from hedmlive.streaming.errors import SettingsError

SHAPE = (96, 128)
SCAN = np.column_stack([np.arange(40) * 0.25, np.arange(1, 41) * 0.25])


def make_spots(**columns: list[float]) -> Spots:
    n = len(next(iter(columns.values())))
    floats = {
        "omega": [5.0] * n,
        "row": [40.3] * n,
        "col": [60.8] * n,
        "intensity": [5000.0] * n,
        "sigma_omega": [0.3] * n,
        "sigma_radial": [1.0] * n,
        "sigma_azimuthal": [1.6] * n,
        "two_theta": [5.0] * n,
        "eta": [30.0] * n,
    } | columns
    integers = {key: np.zeros(n, dtype=np.int64) for key in ("grain", "h", "k", "l")}
    return Spots(**integers, **{key: np.array(value, dtype=float) for key, value in floats.items()})


def naive_image(spots: Spots, start: float, end: float) -> np.ndarray:
    """Every pixel of every spot, the Gaussian in omega integrated numerically."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    image = np.zeros(SHAPE)
    for i in range(len(spots)):
        eta = np.radians(spots.eta[i])
        dr, dc = rows - spots.row[i], cols - spots.col[i]
        radial, along = dr * np.cos(eta) - dc * np.sin(eta), dr * np.sin(eta) + dc * np.cos(eta)
        sigma_r, sigma_a, width = spots.sigma_radial[i], spots.sigma_azimuthal[i], spots.sigma_omega[i]
        shape = np.exp(-0.5 * (radial / sigma_r) ** 2 - 0.5 * (along / sigma_a) ** 2) / (2 * np.pi * sigma_r * sigma_a)
        fraction = quad(norm(spots.omega[i], width).pdf, start, end)[0]
        image += spots.intensity[i] * fraction * shape
    return image


def test_expected_counts_equal_the_naive_sum() -> None:
    spots = make_spots(omega=[5.0, 5.2], row=[40.3, 1.2], col=[60.8, 126.9], eta=[30.0, -140.0])
    simulator = FrameSimulator(SHAPE, spots, noise=NOISELESS)
    for start, end in ((4.9, 5.15), (5.15, 4.9)):  # a stage that turns back exposes the same
        # Beyond 4.5 standard deviations nothing is drawn: at most 4e-5 of the brightest pixel.
        naive = naive_image(spots, 4.9, 5.15)
        np.testing.assert_allclose(simulator.expected(start, end), naive, atol=5e-5 * naive.max(), rtol=1e-9)


def test_a_scan_holds_all_counts_of_a_spot() -> None:
    simulator = FrameSimulator(SHAPE, make_spots(omega=[5.0]), noise=NOISELESS)
    total = sum(simulator.expected(a, b).sum() for a, b in SCAN.tolist())
    assert total == pytest.approx(5000.0, rel=2e-4)


def test_a_spot_at_the_seam_of_the_turn_shines_on_both_sides() -> None:
    simulator = FrameSimulator(SHAPE, make_spots(omega=[-180.0]), noise=NOISELESS)
    last, first = simulator.fractions(179.75, 180.0), simulator.fractions(-180.0, -179.75)
    assert last[0] == pytest.approx(first[0], rel=1e-12)
    assert first[0] > 0.29
    assert simulator.fractions(540.0, 540.25)[0] == pytest.approx(first[0], rel=1e-12)


def test_frames_are_a_function_of_seed_and_index_alone() -> None:
    spots = make_spots(omega=[5.0])
    one, same = FrameSimulator(SHAPE, spots, seed=4), FrameSimulator(SHAPE, spots, seed=4)
    frame = one.frame(5.0, 5.25, 20)
    assert frame.dtype == np.uint16
    assert frame.shape == SHAPE
    one.frame(0.0, 0.25, 3)
    np.testing.assert_array_equal(one.frame(5.0, 5.25, 20), frame)
    np.testing.assert_array_equal(same.frame(5.0, 5.25, 20), frame)
    assert (one.frame(5.0, 5.25, 21) != frame).any()
    assert (FrameSimulator(SHAPE, spots, seed=5).frame(5.0, 5.25, 20) != frame).any()
    np.testing.assert_array_equal(same.dark_frame(1), one.dark_frame(1))
    assert (one.dark_frame(1) != one.dark_frame(0)).any()


def test_without_noise_a_frame_is_the_rounded_expectation() -> None:
    simulator = FrameSimulator(SHAPE, make_spots(omega=[5.0]), noise=NOISELESS, poisson=False)
    np.testing.assert_array_equal(simulator.frame(5.0, 5.25, 0), np.rint(simulator.expected(5.0, 5.25)))


def test_noise_has_the_moments_that_were_asked_for() -> None:
    noise = DetectorNoise(background=25.0, dark_level=40.0, dark_spread=0.0, read_noise=3.0, n_hot=0)
    simulator = FrameSimulator((512, 512), make_spots(omega=[90.0]), noise=noise)
    frames = np.array([simulator.frame(i * 1.0, i + 1.0, i) for i in range(8)], dtype=float)
    # Rounding to whole counts adds a variance of 1/12.
    assert frames.mean() == pytest.approx(65.0, abs=0.05)
    assert frames.var() == pytest.approx(25 + 9 + 1 / 12, rel=0.01)
    darks = np.array([simulator.dark_frame(i) for i in range(8)], dtype=float)
    assert darks.mean() == pytest.approx(40.0, abs=0.05)
    assert darks.var() == pytest.approx(9 + 1 / 12, rel=0.01)
    # Rows start anywhere in the pool: no pixel remembers the frame before.
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.01


def test_spots_carry_poisson_noise() -> None:
    simulator = FrameSimulator(SHAPE, make_spots(omega=[5.0]), noise=NOISELESS)
    sums = np.array([simulator.frame(4.0, 6.0, i).sum() for i in range(400)], dtype=float)
    expected = simulator.expected(4.0, 6.0).sum()
    assert sums.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 400))
    assert sums.var() == pytest.approx(expected, rel=0.3)


def test_hot_pixels_and_pattern_stay_where_they_are() -> None:
    noise = DetectorNoise(background=0.0, read_noise=0.0, n_hot=7, hot_level=500, dark_spread=4.0)
    simulator = FrameSimulator(SHAPE, make_spots(omega=[90.0]), noise=noise, seed=2)
    dark = simulator.dark_frame(0)
    np.testing.assert_array_equal(simulator.dark_frame(9), dark)
    np.testing.assert_array_equal(simulator.frame(0.0, 0.25, 3), dark)
    assert int((dark > 300).sum()) == 7


def test_no_pixel_exceeds_full_scale() -> None:
    bright = make_spots(omega=[5.0, 5.0], intensity=[1e6, 1e6])
    noise = DetectorNoise(full_scale=15_800)
    frame = FrameSimulator(SHAPE, bright, noise=noise).frame(5.0, 5.25, 0)
    assert int(frame.max()) == 15_800
    assert int((frame == 15_800).sum()) > 5


def test_truth_is_what_the_frames_hold() -> None:
    spots = make_spots(omega=[5.06, 4.0, 60.0], row=[40.3, 70.0, 20.0], col=[60.8, 20.4, 20.0])
    simulator = FrameSimulator(SHAPE, spots, noise=NOISELESS)
    truth = simulator.truth(SCAN, min_height=5.0)
    assert truth.spot.tolist() == [0, 1]  # the third lies outside the scan
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    stack = np.array([naive_image(spots.select(np.array([0])), a, b) for a, b in SCAN.tolist()])
    per_frame, peak = stack.sum(axis=(1, 2)), stack.max(axis=(1, 2))
    assert truth.intensity[0] == pytest.approx(stack.sum(), rel=1e-9)
    assert truth.omega[0] == pytest.approx(per_frame @ SCAN.mean(axis=1) / per_frame.sum(), abs=1e-9)
    assert truth.row[0] == pytest.approx((stack.sum(axis=0) * rows).sum() / stack.sum(), abs=1e-6)
    assert truth.col[0] == pytest.approx((stack.sum(axis=0) * cols).sum() / stack.sum(), abs=1e-6)
    touched = np.flatnonzero(peak >= 5.0)
    assert (truth.first_frame[0], truth.last_frame[0]) == (touched[0], touched[-1])
    assert truth.n_frames[0] == touched.size
    assert truth.height[0] == pytest.approx(peak.max(), rel=1e-9)
    assert len(simulator.truth(SCAN, min_height=1e6)) == 0


def test_truth_of_a_spot_over_the_seam() -> None:
    spots = make_spots(omega=[-179.9])
    turn = np.column_stack([np.arange(360), np.arange(1, 361)]).astype(float)
    truth = FrameSimulator(SHAPE, spots, noise=NOISELESS).truth(turn, min_height=1.0)
    assert truth.omega[0] == pytest.approx(180.1, abs=0.1)
    assert (truth.first_frame[0], truth.last_frame[0]) == (179, 180)
    shifted = FrameSimulator(SHAPE, make_spots(omega=[0.1]), noise=NOISELESS).truth(turn, min_height=1.0)
    assert (shifted.first_frame[0], shifted.last_frame[0], shifted.n_frames[0]) == (0, 359, 2)


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (0.0, 361.0)])
def test_an_interval_that_is_no_frame_is_refused(start: float, end: float) -> None:
    with pytest.raises(SettingsError, match="set the rotation's step"):
        FrameSimulator(SHAPE, make_spots(omega=[5.0])).frame(start, end, 0)


def test_bad_noise_and_index_are_refused() -> None:
    with pytest.raises(SettingsError, match="does not fit uint16"):
        DetectorNoise(full_scale=70_000)
    with pytest.raises(SettingsError, match="negative entry"):
        DetectorNoise(read_noise=-1.0)
    with pytest.raises(SettingsError, match="more than the noise pool holds"):
        DetectorNoise(background=20_000.0)
    with pytest.raises(SettingsError, match="numbered from 0"):
        FrameSimulator(SHAPE, make_spots(omega=[5.0])).dark_frame(-1)


def test_a_sample_without_spots_is_background() -> None:
    geometry = DetectorGeometry(
        shape=SHAPE, distance=600e3, pixel_size=200.0, beam_row=48.0, beam_col=64.0, energy=65.0
    )
    grains = random_grains(1, 0, radius=1.0, height=1.0, size=(1.0, 1.0), mosaic=(0.1, 0.1))
    simulator = FrameSimulator(SHAPE, diffract(grains, GOLD, geometry, scale=1.0), noise=NOISELESS)
    assert not simulator.frame(0.0, 1.0, 0).any()
    assert len(simulator.truth(SCAN)) == 0

"""Fits of touching peaks: kernels against their twins, the optimum against scipy's, truth, hostile pixels."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_fit import naive_cost, naive_model, naive_near, naive_products, naive_profile, naive_slope
from numba import njit
from scipy import ndimage
from scipy.optimize import least_squares

from hedmlive.streaming import fit_functions, fit_kernels, fit_pixels, fit_profile
from hedmlive.streaming.errors import FrameError, SettingsError
from hedmlive.streaming.fitting import FIT_COLUMNS, FitRecipe, FitStatus, Surroundings, fit_peaks
from hedmlive.streaming.vectors import sum_products

CENTRE = (-150.0, 30.0)
THRESHOLD = 25.0


def spot(row, col, height, su=1.3, sv=2.0, mixing=0.2):
    return (row, col, height, su, sv, mixing)


def light(spots, shape=(60, 60), centre=CENTRE, reach=99):
    """What the spots add to a frame, at pixel centres, within reach of their own."""
    image = np.zeros(shape)
    for row, col, height, su, sv, mixing in spots:
        x, y = row - centre[0], col - centre[1]
        start = (math.hypot(x, y), math.atan2(y, x))
        peak = (height, start[0], 0.0, su, sv, mixing)
        for r in range(max(round(row) - reach, 0), min(round(row) + reach + 1, shape[0])):
            for c in range(max(round(col) - reach, 0), min(round(col) + reach + 1, shape[1])):
                image[r, c] += naive_profile(peak, start, r - centre[0], c - centre[1])
    return image


def noisy(image, seed=0, noise=3.0):
    rng = np.random.default_rng(seed)
    return rng.poisson(image) + rng.normal(0, noise, image.shape)


def pixels_of(image, spots, threshold=THRESHOLD) -> Any:
    """Lit pixels, their groups, and as their peak the nearest spot: row, col, intensity, group, peak, number."""
    lit = image > threshold
    labels, _ = ndimage.label(lit, np.ones((3, 3)))
    row, col = np.nonzero(lit)
    group = labels[row, col] - 1
    far = np.array([np.hypot(row - each[0], col - each[1]) for each in spots])
    # A spot that is not lit, or in another group, has no pixel of this one.
    home = np.array([labels[round(each[0]), round(each[1])] - 1 for each in spots])
    far[home[:, None] != group] = np.inf
    peak = np.where(np.isfinite(far).any(0), np.argmin(far, 0), -1)
    return row, col, image[row, col], group, peak, len(spots)


def equal(one, other) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=name != "fit_status") for name in one)


@st.composite
def joint(draw):
    """Parameters of up to three peaks, their axes and some pixels, near and far from the beam centre and eta = 180."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 3))
    radius = draw(st.sampled_from([3.0, 60.0, 900.0]))
    eta = draw(st.sampled_from([0.3, math.pi - 1e-3, -math.pi + 1e-3]))
    x, y = radius * math.cos(eta), radius * math.sin(eta)
    parameters, starts = [rng.uniform(0, 9)], []
    for _ in range(n):
        px, py = x + rng.uniform(-2, 2), y + rng.uniform(-2, 2)
        starts.append((math.hypot(px, py), math.atan2(py, px)))
        around = rng.uniform([10, -1, -1, 0.5, 0.5, 0], [900, 1, 1, 3, 4, 1])
        parameters += [around[0], starts[-1][0] + around[1], *around[2:]]
    places = np.array([x, y]) + rng.uniform(-6, 6, (draw(st.integers(1, 40)), 2))
    axes = np.array([[r, e, math.cos(e), math.sin(e), r > 20] for r, e in starts], float)
    pixels = np.array([[a, b, math.hypot(a, b), math.atan2(b, a)] for a, b in places]).T.copy()
    return np.array(parameters), starts, axes, places, pixels, rng


def equations(parameters, axes, pixels, value, offset=9.0, fixed=None):
    m = len(parameters)
    rows, power = np.empty((m + fit_profile.SCRATCH, fit_profile.CHUNK)), np.empty(fit_profile.CHUNK, np.int64)
    gradient, curvature = np.empty(m), np.zeros((m, m))
    held = np.zeros(len(value)) if fixed is None else fixed
    args = (parameters, axes, len(axes), pixels, value, held, offset, rows, power, gradient, curvature)
    return fit_profile.normal_equations(*args), gradient, curvature, rows


def spread(rng, n):
    """Numbers from the smallest to the largest, and close to 1, 0 included."""
    return np.concatenate([10.0 ** rng.uniform(-300, 300, n), 1 + rng.uniform(-1e-3, 1e-3, n), [0.0, 1.0]])


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_exponential_and_logarithm_are_those_of_the_library(seed, n):
    some = spread(np.random.default_rng(seed), n)
    power = np.empty(len(some), np.int64)
    found = -some
    fit_functions.exp_of(found, len(some), power)
    np.testing.assert_allclose(found, [math.exp(max(-each, -708.0)) for each in some], rtol=1e-15)
    found = some.copy()
    fit_functions.log_of(found, len(some), power)
    lit = some > 0
    np.testing.assert_allclose(found[lit], [math.log(each) for each in some[lit]], rtol=1e-15, atol=1e-18)
    assert np.isfinite(found).all()
    assert (found[~lit] < -700).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_products_are_summed_in_the_order_of_the_twin(seed, n):
    rows = np.random.default_rng(seed).normal(0, 1e3, 400)
    places = (80, 0, 160, 240, 320)
    assert products(rows, *places, n) == naive_products(rows.tolist(), *places, n)


@njit
def products(rows, weight, a, b, c, d, n):
    return sum_products(rows, weight, a, b, c, d, n)


@given(joint())
@settings(max_examples=80, deadline=None)
def test_model_derivatives_and_curvature_are_those_of_the_twin(drawn):
    parameters, starts, axes, places, pixels, rng = drawn
    models = [naive_model(parameters, starts, *place) for place in places]
    value = rng.uniform(0, 2, len(places)) * np.array(models)
    cost, gradient, curvature, slope = equations(parameters, axes, pixels, value)
    means = np.array(models) + 9.0
    assert cost == pytest.approx(naive_cost(means.tolist(), (value + 9.0).tolist()), rel=1e-9, abs=1e-9)
    slopes = np.array([naive_slope(lambda p, at=place: naive_model(p, starts, *at), parameters) for place in places])
    scale = np.abs(slopes).max() + 1.0
    np.testing.assert_allclose(slope[: len(parameters), : len(places)].T, slopes, atol=1e-6 * scale, rtol=1e-5)
    wanted = ((1 - (value + 9.0) / means)[:, None] * slopes).sum(0)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5 * np.abs(slopes).sum(), rtol=1e-5)
    full = slopes.T @ (slopes / means[:, None])
    np.testing.assert_allclose(np.tril(curvature), np.tril(full), atol=1e-5 * np.abs(full).max(), rtol=1e-4)


@pytest.mark.parametrize("n", [1, 127, 128, 129, 300])
def test_any_number_of_pixels_is_summed(n):
    rng = np.random.default_rng(n)
    places = rng.uniform([295, -5], [305, 5], (n, 2))
    pixels = np.array([[a, b, math.hypot(a, b), math.atan2(b, a)] for a, b in places]).T.copy()
    parameters = np.array([2.0, 100.0, 300.2, 0.1, 1.2, 1.9, 0.3])
    value = rng.uniform(0, 100, n)
    cost, *_ = equations(parameters, np.array([[300.0, 0.0, 1.0, 0.0, 1.0]]), pixels, value)
    means = [naive_model(parameters.tolist(), [(300.0, 0.0)], *place) + 9.0 for place in places]
    assert cost == pytest.approx(naive_cost(means, value + 9.0), rel=1e-9)


def minimise(parameters, low, high, axes, pixels, value, offset=9.0):
    found, m = parameters.copy(), len(parameters)
    args = (found, low, high, axes, len(axes), pixels, value, np.zeros(len(value)), offset, 200, np.zeros((m, m)))
    outcome, cost = fit_profile.minimise(*args)
    return outcome, cost, found


@pytest.mark.parametrize("n_peaks", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_is_no_worse_than_that_of_scipy(n_peaks, seed):
    rng = np.random.default_rng(100 * n_peaks + seed)
    x, y = (each.ravel() for each in np.mgrid[293:308, -10:11].astype(float))
    pixels = np.array([x, y, np.hypot(x, y), np.arctan2(y, x)])
    parameters, low, high, axes = [0.0], [-8.0], [25.0], []
    true = np.zeros(len(x)) + 5.0
    for k in range(n_peaks):
        centre = (300 + rng.uniform(-1, 1), 6.0 * (k - (n_peaks - 1) / 2))
        start = (math.hypot(*centre), math.atan2(centre[1], centre[0]))
        axes.append([*start, math.cos(start[1]), math.sin(start[1]), 1.0])
        height = float(np.exp(rng.uniform(4, 8)))
        peak = (height, start[0], 0.0, rng.uniform(1, 1.7), rng.uniform(1, 2.5), rng.uniform(0, 0.4))
        true += [naive_profile(peak, start, a, b) for a, b in zip(x, y, strict=True)]
        parameters += [0.8 * height, start[0] + rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), 1.3, 1.8, 0.2]
        low += [0.0, start[0] - 3, -4.0, 0.5, 0.5, 0.0]
        high += [10 * height, start[0] + 3, 4.0, 9.0, 9.0, 1.0]
    value = noisy(true, seed)
    parameters, low, high, axes = (np.array(each, float) for each in (parameters, low, high, axes))
    outcome, cost, found = minimise(parameters, low, high, axes, pixels, value)
    assert outcome == FitStatus.CONVERGED
    counts = np.maximum(value + 9.0, 0.0)

    def residuals(p):
        """The signed root of the deviance: its sum of squares is twice the cost."""
        means = np.array([naive_model(p, starts, a, b) for a, b in zip(x, y, strict=True)]) + 9.0
        safe = np.where(counts > 0, counts, 1.0)
        deviance = 2 * (means - counts + np.where(counts > 0, counts * np.log(safe / means), 0.0))
        return np.sign(means - counts) * np.sqrt(np.maximum(deviance, 0.0))

    starts = [tuple(each[:2]) for each in axes]
    assert cost == pytest.approx(0.5 * (residuals(found) ** 2).sum(), rel=1e-9)
    inside = np.clip(found, low + 1e-9, high - 1e-9)
    other = least_squares(residuals, inside, bounds=(low, high), xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=30)
    assert cost <= other.cost * (1 + 1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_surroundings_are_those_of_the_twin(seed, width):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    image = rng.integers(0, 50, shape).astype(np.uint16)
    lit = rng.random(shape) < rng.choice([0.05, 0.2])
    labels, n_groups = ndimage.label(lit, np.ones((3, 3)))
    row, col = (each.astype(np.int32) for each in np.nonzero(lit))
    group = (labels[row, col] - 1).astype(np.int32)
    mask = rng.random(shape) < 0.1
    start, order = np.empty(n_groups + 1, np.int64), np.empty(len(row), np.int64)
    fit_pixels.by_label(group, start, order)
    room = 200 * len(row)
    near = [np.empty(room, t) for t in (np.int32, np.int32, np.float64, np.int32)]
    begin = np.zeros(n_groups + 1, np.int64)
    background, flat = np.full(shape, 2.5), np.full(shape, 2.0)
    sentinels = np.array([7.0])
    args = (row, col, group, group, order, start, image, background, flat, mask, sentinels, width)
    state = np.zeros((shape[0] + 2) * (shape[1] + 2), np.uint8)
    n = fit_pixels.surround(*args, state, near[0], near[1], near[2], near[3], begin)
    where = dict(zip(zip(row.tolist(), col.tolist(), strict=True), group.tolist(), strict=True))
    for g in range(n_groups):
        part = slice(begin[g], begin[g + 1])
        found = list(zip(near[0][part].tolist(), near[1][part].tolist(), strict=True))
        wanted = {p for p in naive_near(where, g, shape, width) if not mask[p] and image[p] != 7}
        assert len(found) == len(set(found))
        assert set(found) == wanted
        assert near[2][part].tolist() == [(image[p] - 2.5) / 2 for p in found]
        assert set(near[3][part].tolist()) <= {g}
    assert n == begin[-1]
    # The next frame finds it as it was, but for lit pixels.
    assert np.count_nonzero(state) == len(row)


def test_truth_without_noise_is_found():
    spots = [spot(20.3, 19.6, 900.0), spot(24.1, 25.2, 500.0, 1.5, 1.2, 0.35)]
    image = light(spots) + 4.0
    found = fit_peaks(*pixels_of(image, spots), beam_centre=CENTRE, surroundings=Surroundings(image=image))
    assert found["fit_status"].tolist() == [FitStatus.CONVERGED] * 2
    names = ("fit_row", "fit_col", "fit_amplitude", "fit_sigma_radial", "fit_sigma_tangential", "fit_mixing")
    np.testing.assert_allclose(np.array([found[name] for name in names]).T, spots, rtol=2e-3)
    np.testing.assert_allclose(found["fit_background"], 4.0, atol=0.01)
    assert (found["fit_rms"] < 0.05).all()


def test_the_sum_is_the_volume_of_the_profile():
    spots = [spot(20.0, 20.0, 10.0, 1.2, 1.6, 0.3)]
    image = light(spots)
    found = fit_peaks(*pixels_of(image, spots, 1.0), beam_centre=CENTRE, surroundings=Surroundings(image=image))
    # Both parts are products of a function of u and one of v; the Lorentzian's tails lie far outside the frame.
    grid = np.arange(-30000, 30000, 0.1)
    gauss = [0.1 * np.exp(-((grid / sigma) ** 2) / 2).sum() for sigma in (1.2, 1.6)]
    lorentz = [0.1 * (1 / (1 + (grid / sigma) ** 2 / (2 * math.log(2)))).sum() for sigma in (1.2, 1.6)]
    volume = 10 * (0.7 * gauss[0] * gauss[1] + 0.3 * lorentz[0] * lorentz[1])
    assert found["fit_sum"][0] == pytest.approx(volume, rel=0.01)


def test_errors_are_as_large_as_the_deviations_from_truth():
    rng = np.random.default_rng(5)
    pulls, heights = [], []
    for seed in range(60):
        one = spot(14 + rng.uniform(-0.5, 0.5), 14 + rng.uniform(-0.5, 0.5), 500.0)
        two = spot(one[0] + 4, one[1] + 4, 400.0)
        image = noisy(light([one, two], (30, 30)) + 9.0, seed)
        pixels = pixels_of(image, [one, two])
        found = fit_peaks(
            *pixels, beam_centre=CENTRE, surroundings=Surroundings(image=image), recipe=FitRecipe(noise=3)
        )
        for k, true in enumerate((one, two)):
            pulls += [
                (found[f"fit_{n}"][k] - true[i]) / found[f"fit_{n}_error"][k] for i, n in enumerate(("row", "col"))
            ]
            heights.append((found["fit_amplitude"][k] - true[2]) / found["fit_amplitude_error"][k])
    assert 0.8 < np.std(pulls) < 1.2
    assert abs(np.mean(pulls)) < 0.25
    assert 0.7 < np.nanstd(heights) < 1.3


def crowd(seed=1, n=40) -> Any:
    rng = np.random.default_rng(seed)
    places = rng.uniform(8, 112, (n, 2)).tolist()
    spots = [spot(row, col, float(np.exp(rng.normal(6, 1)))) for row, col in places]
    image = noisy(light(spots, (120, 120), reach=20) + 9.0, seed)
    return image, pixels_of(image, spots)


def test_threads_batches_and_company_change_no_bit():
    image, pixels = crowd()
    around = Surroundings(image=image)
    one = fit_peaks(*pixels, beam_centre=CENTRE, surroundings=around)
    assert (one["fit_status"] == FitStatus.CONVERGED).sum() > 20
    for threads in (2, 3):
        assert equal(one, fit_peaks(*pixels, beam_centre=CENTRE, surroundings=around, threads=threads))
    row, col, value, group, peak, _ = pixels
    for g in np.unique(group[peak >= 0]).tolist():
        mine = group == g
        numbers = np.unique(peak[mine & (peak >= 0)])
        # The other groups stay lit, their peaks are dropped.
        alone = np.where(mine & (peak >= 0), np.searchsorted(numbers, peak), -1)
        few = fit_peaks(row, col, value, group, alone, len(numbers), beam_centre=CENTRE, surroundings=around)
        assert equal(few, {name: values[numbers] for name, values in one.items()})


def test_numbers_of_groups_and_types_and_layouts_change_nothing():
    image, (row, col, value, group, peak, n) = crowd(2, 15)
    one = fit_peaks(row, col, value, group, peak, n, beam_centre=CENTRE, surroundings=Surroundings(image=image))
    turned = group.max() - group
    swapped = Surroundings(image=np.asfortranarray(image.astype(">f8")), background=np.zeros(image.shape))
    wide = np.zeros((len(value), 2))
    wide[:, 0] = value
    other = fit_peaks(
        row.astype(np.uint16),
        col,
        wide[:, 0],
        turned.astype(np.int16),
        peak,
        n,
        beam_centre=CENTRE,
        surroundings=swapped,
    )
    assert equal(one, other)


def test_clusters_of_a_large_group_are_fitted_by_turns():
    spots = [spot(12 + 7 * i, 12 + 7 * j, 600.0, 1.3, 1.6, 0.1) for i in range(4) for j in range(4)]
    image = noisy(light(spots, (46, 46)) + 9.0, 3)
    pixels = pixels_of(image, spots, 5.0)
    assert len(np.unique(pixels[3][pixels[4] >= 0])) == 1
    for most_peaks in (1, 3, 50):
        recipe = FitRecipe(most_peaks=most_peaks)
        found = fit_peaks(*pixels, beam_centre=CENTRE, surroundings=Surroundings(image=image), recipe=recipe)
        off = np.hypot(found["fit_row"] - [s[0] for s in spots], found["fit_col"] - [s[1] for s in spots])
        assert off.max() < 0.25


@pytest.mark.parametrize("where", ["eta 180", "eta -180", "beam centre", "on it"])
def test_nothing_breaks_at_eta_180_and_at_the_beam_centre(where):
    spots = [spot(30.2, 30.3, 800.0, 1.5, 1.5, 0.1)]
    centre = {"eta 180": (300.0, 30.0), "eta -180": (300.0, 30.4), "beam centre": (35.0, 33.0), "on it": (30.2, 30.3)}
    image = noisy(light(spots, centre=(-1000.0, 30.0)) + 9.0)
    found = fit_peaks(*pixels_of(image, spots), beam_centre=centre[where], surroundings=Surroundings(image=image))
    assert found["fit_status"].tolist() == [FitStatus.CONVERGED]
    assert math.hypot(found["fit_row"][0] - 30.2, found["fit_col"][0] - 30.3) < 0.15


def line(n, value=100.0, **given):
    """One peak of n pixels beside each other."""
    some = np.arange(n)
    arguments: dict[str, Any] = {"beam_centre": CENTRE} | given
    return fit_peaks(np.full(n, 5), some, np.full(n, value), 0 * some, 0 * some, 1, **arguments)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_pixels_are_not_fitted(n):
    found = line(n)
    assert found["fit_status"].tolist() == [FitStatus.TOO_FEW_PIXELS]
    assert all(np.isnan(found[name]).all() for name in FIT_COLUMNS)
    assert found["fit_status"].dtype == np.int16


def test_no_peak_is_no_row():
    none = np.empty(0, np.int32)
    found = fit_peaks(none, none, np.empty(0), none, none, 0, beam_centre=CENTRE, threads=2)
    assert {len(values) for values in found.values()} == {0}
    assert tuple(found) == (*FIT_COLUMNS, "fit_status")


@pytest.mark.parametrize("value", [1.0, 100.0, 2.0**32])
def test_constant_pixels_end_with_a_status(value):
    image = np.zeros((12, 12))
    image[2:8, 2:8] = value
    row, col = np.nonzero(image)
    zero = np.zeros(len(row), int)
    for around in (None, Surroundings(image=image)):
        found = fit_peaks(row, col, image[row, col], zero, zero, 1, beam_centre=CENTRE, surroundings=around)
        assert found["fit_status"][0] in set(FitStatus)
        assert found["fit_status"][0] == FitStatus.SINGULAR or np.isfinite(found["fit_row"][0])


def test_saturated_and_unusable_pixels_are_left_out():
    spots = [spot(30.2, 30.3, 2000.0)]
    image = noisy(light(spots) + 9.0)
    pixels = pixels_of(image, spots)
    clipped = np.minimum(image, 1200.0)
    row, col, value, *rest = pixels
    full = value >= 1200.0
    found = fit_peaks(
        row, col, clipped[row, col], *rest, beam_centre=CENTRE, saturated=full, surroundings=Surroundings(image=clipped)
    )
    assert full.sum() > 3
    assert found["fit_amplitude"][0] == pytest.approx(2000, rel=0.1)
    assert found["fit_row"][0] == pytest.approx(30.2, abs=0.1)
    nan = np.where(full, np.nan, value)
    again = fit_peaks(row, col, nan, *rest, beam_centre=CENTRE, surroundings=Surroundings(image=clipped))
    assert equal(found, again)
    everything = fit_peaks(*pixels, beam_centre=CENTRE, saturated=np.ones(len(row), bool))
    assert everything["fit_status"].tolist() == [FitStatus.TOO_FEW_PIXELS]


def test_masked_pixels_and_sentinels_around_are_left_out():
    spots = [spot(30.2, 30.3, 800.0)]
    image = noisy(light(spots) + 9.0)
    pixels = pixels_of(image, spots)
    mask = np.zeros(image.shape, np.uint8)
    mask[:, 34:36] = ~(image > THRESHOLD)[:, 34:36]
    clean = fit_peaks(*pixels, beam_centre=CENTRE, surroundings=Surroundings(image=image, mask=mask))
    for wrong in (np.nan, -2.0, np.inf):
        bad = np.where(mask != 0, wrong, image)
        for around in (
            Surroundings(image=bad, mask=mask),
            Surroundings(image=bad, sentinels=(-2.0,)),
        ):
            assert equal(clean, fit_peaks(*pixels, beam_centre=CENTRE, surroundings=around))


def test_huge_counts():
    spots = [spot(30.2, 30.3, 2.0**32)]
    image = noisy(light(spots) + 9.0)
    found = fit_peaks(*pixels_of(image, spots, 2.0**16), beam_centre=CENTRE, surroundings=Surroundings(image=image))
    assert found["fit_status"].tolist() == [FitStatus.CONVERGED]
    assert found["fit_row"][0] == pytest.approx(30.2, abs=1e-3)


def test_a_flooded_frame_is_not_fitted():
    n = fit_pixels.MOST_PIXELS + 1
    found = line(n)
    assert found["fit_status"].tolist() == [FitStatus.TOO_LARGE]
    some = np.arange(10 * (fit_kernels.MOST_PEAKS + 1))
    many = fit_peaks(
        some, some, 1.0 + some, 0 * some, some // 10, fit_kernels.MOST_PEAKS + 1, beam_centre=CENTRE,
        surroundings=Surroundings(image=np.zeros((len(some), len(some)), np.uint8)),
    )  # fmt: skip
    assert set(many["fit_status"].tolist()) == {FitStatus.TOO_LARGE}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_pixels_end_with_a_status_and_finite_numbers(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 25)), int(rng.integers(1, 25)))
    image = rng.choice([0.0, 1.0, 1e9, 50.0], shape) * rng.uniform(-1, 1, shape)
    lit = image > rng.choice([0.0, 0.5, 20.0])
    labels, _ = ndimage.label(lit, np.ones((3, 3)))
    row, col = np.nonzero(lit)
    group = labels[row, col] - 1
    # Any split of a group: by its columns.
    _, peak = np.unique(group * 1000 + col // int(rng.integers(1, 9)), return_inverse=True)
    n = int(peak.max()) + 1 if len(peak) else 0
    centre = tuple(rng.uniform(-5, 30, 2))
    saturated = rng.random(len(row)) < 0.1
    found = fit_peaks(
        row, col, image[row, col], group, peak, n, beam_centre=centre, saturated=saturated,
        surroundings=Surroundings(image=image),
    )  # fmt: skip
    fitted = np.isin(found["fit_status"], (FitStatus.CONVERGED, FitStatus.ITERATION_CAP, FitStatus.AT_BOUND))
    for name in FIT_COLUMNS[:9]:
        assert np.array_equal(np.isfinite(found[name]), fitted)
    assert (found["fit_amplitude"][fitted] >= 0).all()
    assert ((found["fit_mixing"][fitted] >= 0) & (found["fit_mixing"][fitted] <= 1)).all()


def test_kernels_stay_inside_their_arrays():
    """Compiled code does not look whether an index is inside; this process does."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import test_fitting as t\n"
        "t.fit_profile.sum_products = t.naive_products; image, pixels = t.crowd(4, 12)\n"
        "f = t.fit_peaks(*pixels, beam_centre=t.CENTRE, surroundings=t.Surroundings(image=image))\n"
        "sys.stdout.write(f['fit_row'].tobytes().hex())\n"
    )
    folders = [__file__.rsplit("/", 1)[0], __file__.rsplit("/unit/", 1)[0]]
    image, pixels = crowd(4, 12)
    here = fit_peaks(*pixels, beam_centre=CENTRE, surroundings=Surroundings(image=image))
    done = subprocess.run(
        [sys.executable, "-c", code, *folders],
        env={"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    np.testing.assert_allclose(here["fit_row"], np.frombuffer(bytes.fromhex(done.stdout)), atol=1e-6)


GOOD = {"row": [1, 1], "col": [1, 2], "intensity": [5.0, 6.0], "group": [0, 0], "peak": [0, 0], "n_peaks": 1}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"row": [1]}, "wanted one length"),
        ({"intensity": [[5.0, 6.0]]}, "wanted one length"),
        ({"row": [1.0, 1.0]}, "row is float64"),
        ({"col": [2, 1]}, "raster order"),
        ({"col": [1, 1]}, "comes twice"),
        ({"row": [-1, 1]}, "row holds -1"),
        ({"peak": [0, -2]}, "peak holds -2"),
        ({"peak": [0, 1]}, "less than n_peaks, 1"),
        ({"group": [0, 1]}, "two groups"),
        ({"group": [0, 9]}, "group holds 9"),
        ({"surroundings": Surroundings(image=np.zeros((2, 2)))}, "outside the image"),
        ({"surroundings": Surroundings(image=np.zeros(9))}, "shape \\(9,\\)"),
        ({"surroundings": Surroundings(image=np.zeros((3, 3), complex))}, "complex128"),
        ({"surroundings": Surroundings(image=np.zeros((3, 3)), mask=np.zeros((2, 2)))}, "the mask has"),
        ({"surroundings": Surroundings(image=np.zeros((3, 3)), background=np.zeros((2, 2)))}, "the background has"),
    ],
)
def test_wrong_pixels_are_refused(wrong, words):
    given_: dict[str, Any] = {
        name: np.array(each) if isinstance(each, list) else each for name, each in (GOOD | wrong).items()
    }
    with pytest.raises(FrameError, match=words):
        fit_peaks(**given_, beam_centre=CENTRE)


@pytest.mark.parametrize(
    "wrong",
    [{"noise": 0.0}, {"noise": math.nan}, {"gain": -1.0}, {"width": 11}, {"most_peaks": 0}, {"max_steps": 0}],
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        FitRecipe(**wrong)


@pytest.mark.parametrize("wrong", [{"beam_centre": (1.0, math.nan)}, {"beam_centre": (1.0,)}, {"threads": 0}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        line(8, **wrong)

"""Noise-adaptive lit pixels: the twin, frames with known spots, photon-starved frames, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_adaptive import naive_adaptive
from unit.streaming.strategies import LAYOUTS, in_layout, sparse

from hedmlive.streaming import Background, FrameError, PeakFinder, Recipe, SettingsError
from hedmlive.streaming.adaptive import AdaptiveLit

# Without and with a known beam.
WAYS: Any = ({}, {"beam_centre": (64.0, 60.0), "n_bins": 30})


# Compiling the kernels takes longer than all else here: unsigned, signed and floating-point numbers are enough.
DTYPES = ("uint8", "uint16", "uint64", "int32", "float32")


def as_dict(lit):
    rows = zip(lit.row.tolist(), lit.col.tolist(), strict=True)
    values = zip(lit.raw.astype(float).tolist(), lit.intensity.tolist(), strict=True)
    return dict(zip(rows, values, strict=True))


@settings(max_examples=12)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_lit_pixels_are_the_naive_twin(dtype, data):
    shape = data.draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    image = rng.poisson(data.draw(st.sampled_from([0.01, 2.0, 30.0])), shape).astype(dtype)
    image[rng.random(shape) < data.draw(st.sampled_from([0.0, 0.05, 0.6, 1.0]))] += 60
    if image.dtype.kind == "f" and image.size > 1:
        image[0, 0], image[-1, -1] = np.nan, np.inf
    options: Any = data.draw(
        st.fixed_dictionaries(
            {
                "n_sigma": st.sampled_from([1.0, 3, 5.5]),
                "beam_centre": st.sampled_from([None, None, (4.5, 7.25), (-30.0, 3.0)]),
                "n_bins": st.sampled_from([1, 3, 40]),
                "window": st.sampled_from([4, 5, 8, 30]),
                "cycles": st.sampled_from([0, 1, 5]),
                "noise": st.sampled_from([0.0, 1.0]),
                "min_counts": st.sampled_from([0.0, 3.0]),
                "sentinels": st.sampled_from([(), (2, 2**64 - 1, -1)]),
            }
        )
    )
    options["invalid"] = data.draw(st.sampled_from([None, rng.random(shape) < 0.2, np.ones(shape, bool)]))
    options["dark"] = data.draw(st.sampled_from([None, rng.integers(0, 9, shape) / 4]))
    wanted, level = naive_adaptive(image, **options)
    finder = AdaptiveLit(**options)
    for _ in range(2):
        lit = as_dict(finder.push(in_layout(image, data.draw(st.sampled_from(LAYOUTS)))))
        assert lit == wanted
        assert list(lit) == sorted(wanted)
        assert finder.level == pytest.approx(level, rel=1e-14, nan_ok=True)
    if image.dtype.kind != "f":
        assert as_dict(AdaptiveLit(**options).push(sparse(image))) == wanted


def scene(rng, rings=1.0, size=512, n=60):
    """A frame as in a far-field scan: dark 100 with a pattern, weak rings, spots on rings; with dark, spots, beam."""
    row, col = np.indices((size, size))
    centre = (size / 2 + 2.3, size / 2 - 4.1)
    radius = np.hypot(row - centre[0], col - centre[1])
    radii = np.linspace(0.18, 0.48, 8) * size
    expected = 3 + 12 * np.exp(-radius / (0.25 * size))
    for each in radii:
        expected += rings * rng.uniform(1, 8) * np.exp(-0.5 * ((radius - each) / 1.5) ** 2)
    dark = 100 + rng.normal(0, 3, (size, size))
    spots = []
    while len(spots) < n:
        distance, angle = rng.choice(radii), rng.uniform(0, 2 * np.pi)
        r, c = centre[0] + distance * np.sin(angle), centre[1] + distance * np.cos(angle)
        if all(np.hypot(r - a, c - b) > 12 for a, b in spots):
            spots.append((r, c))
            along = (row - r) * np.sin(angle) + (col - c) * np.cos(angle)
            across = (row - r) * np.cos(angle) - (col - c) * np.sin(angle)
            width = rng.uniform(1, 1.7), rng.uniform(1, 3)
            height = np.clip(rng.lognormal(np.log(600), 1), 50, 20000)
            expected += height * np.exp(-0.5 * ((along / width[0]) ** 2 + (across / width[1]) ** 2))
    frame = dark + rng.poisson(expected) + rng.normal(0, 3, (size, size))
    return np.rint(frame).astype(np.uint16), dark, np.array(spots), centre


def recall_and_precision(lit, spots):
    found = PeakFinder(Recipe(threshold=0, min_pixels=3)).push(0, 0.0, lit).peaks
    apart = np.hypot(found["row"][:, None] - spots[:, 0], found["col"][:, None] - spots[:, 1])
    return (apart.min(0) < 2.5).mean(), (apart.min(1) < 2.5).mean()


@pytest.mark.parametrize("rings", [0.0, 1.0, 5.0])
def test_spots_are_found_without_a_dark_frame(rings):
    frame, dark, spots, centre = scene(np.random.default_rng(5), rings)
    plain = Background(Recipe(threshold=25, background="dark"), dark=dark).push(frame)
    ring = AdaptiveLit(n_sigma=5, beam_centre=centre).push(frame)
    recall, precision = recall_and_precision(ring, spots)
    assert recall >= 0.95
    assert precision >= 0.9
    assert recall_and_precision(plain, spots)[1] <= precision + 0.02
    if rings < 5:
        tile = AdaptiveLit(n_sigma=5).push(frame)
        assert recall_and_precision(tile, spots)[0] >= 0.95
        assert recall_and_precision(tile, spots)[1] >= 0.9


@pytest.mark.parametrize("centre", [None, (128.0, 120.0)])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_photon_starved_frames_are_not_lit_all_over(centre, noise):
    expected = np.full((256, 256), 0.0027)
    expected[60:63, 70:73] = 20
    frame = np.random.default_rng(6).poisson(expected).astype(np.uint32)
    assert (frame == 0).mean() > 0.996
    lit = AdaptiveLit(n_sigma=5, beam_centre=centre, noise=noise).push(frame)
    assert set(zip(lit.row.tolist(), lit.col.tolist(), strict=True)) == {
        (r, c) for r in (60, 61, 62) for c in (70, 71, 72)
    }


def test_noise_and_level_are_those_of_the_image():
    frame = np.random.default_rng(7).poisson(50.0, (512, 512)).astype(np.uint16)
    for options in WAYS:
        finder = AdaptiveLit(n_sigma=2, noise=0, **options)
        assert np.isnan(finder.level)
        lit = finder.push(frame)
        assert finder.level == pytest.approx(50.0, abs=0.2)
        # 2.3 % of the pixels of Poisson frames of mean 50 are above 50 + 2 sqrt(50) = 64.1, and 3.1 % above 63.
        assert 0.021 < len(lit.row) / frame.size < 0.031


def test_masked_pixels_and_sentinels_tell_nothing_and_are_never_lit():
    rng = np.random.default_rng(8)
    frame, invalid = rng.poisson(20.0, (128, 128)).astype(np.uint32), rng.random((128, 128)) < 0.3
    invalid[:, 60:70] = True
    for options in WAYS:
        finder = AdaptiveLit(n_sigma=3, invalid=invalid, sentinels=(2**32 - 1,), **options)
        wanted = as_dict(finder.push(frame))
        assert wanted
        assert not any(invalid[pixel] for pixel in wanted)
        for value in (0, 10**6, 2**32 - 1):
            assert as_dict(finder.push(np.where(invalid, np.uint32(value), frame))) == wanted
    frame[:, 30:50] = 2**32 - 1
    lit = AdaptiveLit(n_sigma=3, sentinels=(2**32 - 1,)).push(frame)
    assert len(lit.row) < 200
    assert not ((lit.col >= 30) & (lit.col < 50)).any()


def test_more_lit_pixels_than_there_is_room_for_at_first():
    frame = np.zeros((600, 600), np.uint8)
    frame[:, ::4] = 1
    frame[:300] = 0
    frame[::2] += 100
    for centre in (None, (0.0, 0.0)):
        finder = AdaptiveLit(n_sigma=0.5, noise=0, min_counts=0, window=300, beam_centre=centre, n_bins=1)
        lit = finder.push(frame)
        assert len(lit.row) == 180_000


def test_where_too_few_pixels_tell_the_noise_nothing_is_lit():
    frame = np.full((3, 5), 9, np.uint16)
    frame[1, 2] = 5000
    for options in WAYS:
        finder = AdaptiveLit(n_sigma=1, **options)
        assert len(finder.push(frame).row) == 0
        assert np.isnan(finder.level)


def test_a_bad_image_is_refused_and_the_next_is_taken():
    frame = np.random.default_rng(9).poisson(5.0, (40, 40)).astype(np.uint16)
    frame[20, 20] = 900
    finder = AdaptiveLit(n_sigma=5)
    with pytest.raises(FrameError, match="nothing but NaN"):
        finder.push(np.full((9, 9), np.nan))
    finder.push(frame)
    for bad, message in ((frame[:20], "as the frames before"), (frame.astype(np.int32), "as the frames before")):
        with pytest.raises(FrameError, match=message):
            finder.push(bad)
    assert (20, 20) in as_dict(finder.push(frame))
    with pytest.raises(FrameError, match=r"but the dark frame has \(4, 4\)"):
        AdaptiveLit(n_sigma=5, dark=np.zeros((4, 4))).push(frame)
    with pytest.raises(FrameError, match=r"but the mask has shape \(4, 4\)"):
        AdaptiveLit(n_sigma=5, invalid=np.zeros((4, 4), bool)).push(frame)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_sigma": 0}, "n_sigma is 0; wanted a finite number above 0"),
        ({"n_sigma": float("nan")}, "n_sigma is nan"),
        ({"beam_centre": (1.0, float("nan"))}, "row and column, finite"),
        ({"n_bins": 0}, "1 to 1000000"),
        ({"window": 2}, "4 to 4096"),
        ({"window": 32.0}, "a whole number, 4 to 4096"),
        ({"cycles": -1}, "0 to 100"),
        ({"noise": -1}, "0 or more"),
        ({"min_counts": float("inf")}, "0 or more"),
        ({"dark": np.full((2, 2), np.nan)}, "not finite"),
    ],
)
def test_a_wrong_number_is_refused(given: Any, message):
    with pytest.raises(SettingsError, match=message):
        AdaptiveLit(**{"n_sigma": 5} | given)

"""Near-field lit pixels: the twin, what masked pixels may not do, the peers' rules, and simulated grains."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_near_field import naive_near_field
from scipy import ndimage
from unit.streaming.strategies import DTYPES, LAYOUTS, images, in_layout, shapes, sparse

from hedmlive.streaming import FrameError, PeakFinder, Recipe, SettingsError, SparseImage
from hedmlive.streaming.filters import FAINT, filled, gaussian, laplacian_of_gaussian
from hedmlive.streaming.near_field import NearFieldLit, binarised

MIDAS = {"filter": "log", "sigma": (1.5, 1.0), "medians": 1, "rim": 1, "fill_holes": True}
HEXOMAP = {"filter": "log", "sigma": 1.5, "medians": 2, "fill_holes": True, "fraction": 0.1}
MATCHED = {"filter": "gaussian", "sigma": 0.7}


def as_dict(lit):
    rows = zip(lit.row.tolist(), lit.col.tolist(), strict=True)
    values = zip(lit.raw.astype(float).tolist(), lit.intensity.tolist(), strict=True)
    return dict(zip(rows, values, strict=True))


@settings(max_examples=12)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_lit_pixels_are_the_naive_twin(dtype, data):
    shape = data.draw(shapes())
    image = data.draw(images(shape, dtype, top=data.draw(st.sampled_from([3, 9]))))
    if image.dtype.kind == "f" and data.draw(st.booleans()) and image.size > 1:
        image[0, 0], image[-1, -1] = np.nan, np.inf
    numbers = data.draw(
        st.fixed_dictionaries(
            {
                "filter": st.sampled_from(["none", "gaussian", "log"]),
                "sigma": st.sampled_from([0.5, 0.7, 1.5]),
                "medians": st.integers(0, 2),
                "fill_holes": st.booleans(),
                "fraction": st.sampled_from([0.0, 0.25]),
            }
        )
    )
    numbers["rim"] = data.draw(st.integers(0, 2)) if numbers["filter"] == "log" else 0
    if numbers["filter"] == "log" and data.draw(st.booleans()):
        numbers["sigma"] = (1.0, 2)
    background = data.draw(st.just(1.5) | images(shape, "float64").map(lambda each: each / 4))
    invalid = data.draw(st.none() | images(shape, "uint8", top=1).map(lambda each: each == 1))
    sentinels = data.draw(st.sampled_from([(), (4, 2**32 - 1, -1)]))
    threshold = data.draw(st.sampled_from([0, 0.5, 2.25]))
    wanted = naive_near_field(image, threshold, background, invalid, sentinels, **numbers)
    finder = NearFieldLit(threshold=threshold, background=background, invalid=invalid, sentinels=sentinels, **numbers)
    lit = finder.push(in_layout(image, data.draw(st.sampled_from(LAYOUTS))))
    assert as_dict(lit) == wanted
    assert list(as_dict(lit)) == sorted(wanted)
    if image.dtype.kind != "f":
        assert as_dict(finder.push(sparse(image))) == wanted


@given(seed=st.integers(0, 2**32 - 1), fill=st.sampled_from([0.3, 0.6, 1.0]))
def test_holes_are_those_of_scipy(seed, fill):
    region = np.random.default_rng(seed).random((12, 9)) < fill
    assert np.array_equal(filled(region), ndimage.binary_fill_holes(region))


def test_filters_are_those_of_scipy_but_for_rounded_weights():
    image = np.random.default_rng(1).poisson(20.0, (60, 50)).astype(float)
    assert np.allclose(gaussian(image, 1.3), ndimage.gaussian_filter(image, 1.3, mode="constant"), atol=2e-3)
    other = ndimage.gaussian_laplace(image, 1.3, mode="constant")
    assert np.allclose(laplacian_of_gaussian(image, 1.3), -other, atol=1e-2)


@pytest.mark.parametrize("options", [{}, MATCHED, MIDAS, HEXOMAP], ids=["plain", "matched", "midas", "hexomap"])
def test_what_a_masked_pixel_holds_changes_nothing(options):
    rng = np.random.default_rng(2)
    image, other = rng.poisson(3.0, (2, 40, 40)).astype(np.uint16)
    image[10:14, 10:15] += 60
    invalid = rng.random((40, 40)) < 0.1
    finder = NearFieldLit(threshold=8, background=3.0, invalid=invalid, sentinels=(65535,), **options)
    wanted = as_dict(finder.push(image))
    assert wanted
    assert not any(invalid[pixel] for pixel in wanted)
    for value in (0, 60000, 65535):
        assert as_dict(finder.push(np.where(invalid, np.uint16(value), image))) == wanted
    assert as_dict(finder.push(np.where(invalid, other, image))) == wanted
    marked = NearFieldLit(threshold=8, background=3.0, sentinels=(65535,), **options)
    assert as_dict(marked.push(np.where(invalid, np.uint16(65535), image))) == wanted


def test_pixels_without_counts_are_lit_by_a_filter_and_weigh_next_to_nothing():
    image = np.zeros((9, 9), np.uint16)
    image[4, 3] = image[4, 5] = 8
    lit = NearFieldLit(threshold=1.0, filter="gaussian", sigma=1.0).push(image)
    assert as_dict(lit)[4, 4] == (0.0, FAINT)
    found = PeakFinder(Recipe(threshold=1)).push(0, 0.0, lit)
    faint = FAINT * (len(lit.row) - 2)
    assert found.peaks["sum_intensity"].tolist() == [16 + faint]
    assert found.peaks["n_pixels"].tolist() == [len(lit.row)]
    assert (found.peaks["row"][0], found.peaks["col"][0]) == pytest.approx((4.0, 4.0), abs=1e-9)
    hole = NearFieldLit(threshold=1, background=20.0, fill_holes=True).push(
        np.array([[30] * 3, [30, 5, 30], [30] * 3], np.uint16)
    )
    assert (len(hole.row), hole.intensity[4]) == (9, FAINT)
    alone = PeakFinder(Recipe(threshold=1)).push(0, 0.0, hole)
    assert all(np.isfinite(values).all() for values in alone.peaks.values() if values.dtype.kind == "f")


def test_a_new_background_holds_from_the_next_frame_on():
    image = np.full((2, 3), 12, np.uint16)
    level = np.full((2, 3), 10.0)
    finder = NearFieldLit(threshold=1, background=level, invalid=np.array([[True, False, False], [False] * 3]))
    level[:] = 99
    assert (finder.level, len(finder.push(image).row)) == (10.0, 5)
    finder.background = 11.5
    assert (finder.level, len(finder.push(image).row)) == (11.5, 0)
    finder.background = np.arange(6.0).reshape(2, 3)
    assert (finder.level, finder.push(image).intensity.tolist()) == (3.0, [11, 10, 9, 8, 7])


def grains(rng, counts, n=25):
    """Expected counts of disc-shaped near-field spots blurred by 0.7 pixels, and where the discs are."""
    truth = np.zeros((256, 256), np.bool_)
    expected = np.zeros((256, 256))
    row, col = np.indices((256, 256))
    for _ in range(n):
        r, c, size = *rng.uniform(10, 246, 2), rng.uniform(5, 15)
        disc = (row - r) ** 2 + ((col - c) * rng.uniform(1, 3)) ** 2 < size**2
        truth |= disc
        expected += disc * rng.uniform(*counts)
    return truth, ndimage.gaussian_filter(expected, 0.7)


@pytest.mark.parametrize(
    ("options", "threshold", "counts", "least"),
    [
        ({}, 10, (12, 60), 0.86),
        ({"medians": 1}, 10, (12, 60), 0.88),
        (MIDAS, 10, (12, 60), 0.88),
        (HEXOMAP, 4, (12, 60), 0.90),
        ({}, 4, (3, 12), 0.58),
        (MATCHED, 3, (3, 12), 0.74),
        (MIDAS, 3, (3, 12), 0.72),
    ],
)
def test_binarised_pixels_are_the_simulated_grains(options: Any, threshold, counts, least):
    rng = np.random.default_rng(3)
    truth, expected = grains(rng, counts)
    level = 8.0 + 4.0 * np.sin(np.arange(256) / 40.0)[:, None] + np.zeros((256, 256))
    background = np.median(rng.poisson(level, (15, 256, 256)), axis=0)
    lit = NearFieldLit(threshold=threshold, background=background, **options).push(
        rng.poisson(level + expected).astype(np.uint16)
    )
    found = PeakFinder(Recipe(threshold=0, min_pixels=5)).push(0, 0.0, lit)
    image = binarised(found.pixels, (256, 256))
    assert image.sum() == len(found.pixels["row"])
    assert (image & truth).sum() / (image | truth).sum() > least


def test_photon_starved_frames_need_a_threshold_in_counts():
    rng = np.random.default_rng(4)
    expected = np.full((300, 300), 0.0027)
    expected[100:108, 50:70] = 1.2
    frame = rng.poisson(expected).astype(np.uint8)
    lit = NearFieldLit(threshold=0.3, filter="gaussian", sigma=1.0).push(frame)
    found = PeakFinder(Recipe(threshold=0, min_pixels=12)).push(0, 0.0, lit)
    assert len(found.peaks["peak"]) == 1
    assert found.peaks["n_pixels"][0] > 140
    assert abs(found.peaks["sum_intensity"][0] - frame[99:109, 49:71].sum()) < 3


BAD = {
    "three dimensions": (np.ones((1, 2, 3), np.uint16), "wanted .rows, columns."),
    "no rows": (np.ones((0, 3), np.uint16), r"shape \(0, 3\); wanted"),
    "bool": (np.ones((2, 3), bool), "wanted integers"),
    "half precision": (np.ones((2, 3), np.float16), "wanted integers"),
    "other shape": (np.ones((3, 2), np.uint16), "as the frames before"),
    "other type": (np.ones((2, 3), np.int32), "as the frames before"),
    "outside": (
        SparseImage(shape=(2, 3), row=np.array([2]), col=np.array([0]), value=np.ones(1, np.uint16)),
        r"row outside 0 \.\.\. 1",
    ),
    "lengths": (
        SparseImage(shape=(2, 3), row=np.array([1, 1]), col=np.array([0]), value=np.ones(1, np.uint16)),
        "shapes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_and_the_next_is_taken(name):
    image, message = BAD[name]
    finder = NearFieldLit(threshold=0)
    good = np.ones((2, 3), np.uint16)
    finder.push(good)
    with pytest.raises(FrameError, match=message):
        finder.push(image)
    assert len(finder.push(good).row) == 6


def test_shapes_of_mask_and_background_are_the_images():
    good = np.ones((2, 3), np.uint16)
    with pytest.raises(FrameError, match=r"shape \(2, 3\), but the mask has shape \(4, 4\)"):
        NearFieldLit(threshold=0, invalid=np.zeros((4, 4), bool)).push(good)
    with pytest.raises(FrameError, match=r"shape \(2, 3\), but the background has \(4, 4\)"):
        NearFieldLit(threshold=0, background=np.zeros((4, 4))).push(good)
    with pytest.raises(FrameError, match="nothing but NaN"):
        NearFieldLit(threshold=0).push(np.full((2, 3), np.nan))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": -1}, "threshold is -1; wanted a finite number, 0 or more"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"filter": "median"}, "wanted none, gaussian or log"),
        ({"sigma": 0}, "more than 0, at most 20"),
        ({"sigma": 21}, "more than 0, at most 20"),
        ({"filter": "log", "sigma": ()}, "more than 0, at most 20"),
        ({"sigma": (1.0, 2.0), "filter": "gaussian"}, "one width"),
        ({"medians": 3}, "0, 1 or 2"),
        ({"medians": 1.0}, "0, 1 or 2"),
        ({"fill_holes": "no"}, "true or false"),
        ({"rim": 1}, "0 unless the filter is log"),
        ({"fraction": 1.0}, "below 1"),
        ({"background": np.zeros(3)}, "one number, or"),
        ({"background": np.nan}, "not finite"),
        ({"background": np.zeros((2, 3)), "invalid": np.zeros((3, 2), bool)}, "but the mask has shape"),
    ],
)
def test_a_wrong_number_is_refused(given, message):
    with pytest.raises(SettingsError, match=message):
        NearFieldLit(**{"threshold": 1} | given)

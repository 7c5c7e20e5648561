"""Lit pixels: the kernel is its naive twin for every type, layout, mask and background."""

from dataclasses import replace

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import naive_level, naive_lit
from unit.streaming.strategies import DTYPES, LAYOUTS, images, in_layout, shapes, sparse

from hedmlive.streaming import (
    Background,
    CompressedImage,
    Corrections,
    Frame,
    FrameError,
    PeakFinder,
    Recipe,
    SettingsError,
    SparseImage,
)
from hedmlive.streaming.finders import ThresholdFinder


def lit_of(image, recipe, dark=None, mask=None, flat=None):
    return listed(Background(recipe, dark=dark, mask=mask, flat=flat).push(image))


def listed(lit):
    rows = zip(lit.row.tolist(), lit.col.tolist(), strict=True)
    values = zip(lit.raw.astype(float).tolist(), lit.intensity.tolist(), strict=True)
    return dict(zip(rows, values, strict=True))


@settings(max_examples=15)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_dense_and_sparse_are_the_naive_twin(dtype, data):
    shape = data.draw(shapes())
    image = in_layout(data.draw(images(shape, dtype)), data.draw(st.sampled_from(LAYOUTS)))
    mask = data.draw(st.none() | images(shape, "uint8", top=1))
    dark = data.draw(st.none() | images(shape, "float64").map(lambda each: each / 4))
    recipe = Recipe(
        threshold=data.draw(st.sampled_from([0, 0.5, 3])),
        background="constant" if dark is None else "dark",
        background_level=1.25,
        sentinels=data.draw(st.sampled_from([(), (4, 2**64 - 1, -1)])),
    )
    # A quarter is exact, so that the order of a product and a quotient does not matter.
    flat = data.draw(st.none() | images(shape, "float64", top=4).map(lambda each: each / 4).filter(np.any))
    given_ = {"dark": dark, "mask": mask, "flat": flat}
    wanted = naive_lit(image, recipe, **given_)
    assert lit_of(image, recipe, **given_) == wanted
    assert list(lit_of(image, recipe, **given_)) == sorted(wanted)
    assert lit_of(sparse(image), recipe, **given_) == wanted


@settings(max_examples=30)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", ">u2", "float32", "uint64"])
@given(data=st.data())
def test_a_compressed_image_is_the_same_without_its_compression(dtype, data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 90)))
    image = data.draw(images(shape, dtype))
    mask = data.draw(st.none() | images(shape, "uint8", top=1))
    dark = data.draw(st.none() | images(shape, "float64").map(lambda each: each / 4))
    recipe = Recipe(
        threshold=data.draw(st.sampled_from([0, 0.5, 3])),
        background="constant" if dark is None else data.draw(st.sampled_from(["dark", "running-median"])),
        sentinels=data.draw(st.sampled_from([(), (4, 9, -1)])),
    )
    one, two = (Background(recipe, dark=dark, mask=mask) for _ in range(2))
    for _ in range(2):
        assert listed(one.push(compressed(image))) == listed(two.push(image))


def test_compressed_images_that_are_full_and_empty_by_turns_are_the_same_too():
    full, few = np.full((20, 100), 9, np.uint16), np.zeros((20, 100), np.uint16)
    few[3, 4:9] = 7
    one, two = Background(Recipe(threshold=3)), Background(Recipe(threshold=3))
    for image in (full, few, few, full, full, few):
        lit, wanted = one.push(compressed(image)), two.push(image)
        assert listed(lit) == listed(wanted)
        assert lit.runs is not None
        assert wanted.runs is not None
        assert (lit.runs[:, :-1] == wanted.runs[:, :-1]).all()
        assert (lit.runs[2] == wanted.runs[2]).all()
        one.take_back(lit)


def compressed(image):
    with h5py.File.in_memory() as file:
        chunks = (1, *image.shape)
        data = file.create_dataset("data", data=image[None], chunks=chunks, **hdf5plugin.Bitshuffle(cname="lz4"))
        _, chunk = data.id.read_direct_chunk((0, 0, 0))
    return CompressedImage(shape=image.shape, dtype=image.dtype, chunk=chunk)


def test_memory_that_was_taken_back_is_used_again():
    background = Background(Recipe(threshold=0))
    wanted = listed(background.push(GOOD))
    for image in (GOOD, np.zeros((2, 3), np.uint16), GOOD):
        lit = background.push(image)
        assert listed(lit) == (wanted if image is GOOD else {})
        held = lit.row.base if lit.row.base is not None else lit.row
        background.take_back(lit)
        again = background.push(GOOD)
        assert again.row.base is held
        assert listed(again) == wanted
        background.take_back(background.push(sparse(GOOD)))


class GivenAway(list):
    """Memory that is kept for the next frame: whoever works beside us may write to it from the first moment on."""

    def append(self, memory):
        arrays = memory if isinstance(memory, tuple) else [memory] if isinstance(memory, np.ndarray) else vars(memory)
        for array in arrays.values() if isinstance(arrays, dict) else arrays:
            if isinstance(array, np.ndarray):
                array[...] = 77
        super().append(memory)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("split", ["none", "local-maximum", "regional-maximum"])
def test_memory_that_was_given_away_is_not_looked_at_again(split, in_file):
    image = np.random.default_rng(5).poisson(3.0, (60, 70)).astype(np.uint16)
    recipe = Recipe(threshold=4.5, split=split, smooth=split == "local-maximum", saturation=9.0)
    wanted, found = (ThresholdFinder(recipe, Corrections().prepared(image.shape)) for _ in range(2))
    for part, names in ((found._background, ("_rooms", "_lists", "_frames")), (found._peaks, ("_rooms",))):
        for name in names:
            setattr(part, name, GivenAway())
    for number in range(3):
        frame = Frame(frame=number, point=number, image=image, omega_start=0.0, omega_end=1.0)
        given_ = replace(frame, image=compressed(image)) if in_file else frame
        expected, peaks = wanted.push(frame), found.push(given_)
        for table in ("peaks", "pixels"):
            for name, values in getattr(expected, table).items():
                np.testing.assert_array_equal(getattr(peaks, table)[name], values)
        np.testing.assert_array_equal(peaks.runs, expected.runs)


def test_a_flooded_frame_is_refused_however_it_comes():
    image = np.ones((20, 100), np.uint16)
    for each in (image, compressed(image), sparse(image)):
        background = Background(Recipe(threshold=0, max_lit=1999))
        with pytest.raises(FrameError, match=r"flooded: 2000 of 2000 pixels are lit, wanted 1999 at most"):
            background.push(each)
        assert len(Background(Recipe(threshold=0, max_lit=2000)).push(each).row) == 2000


def test_two_hundred_thousand_peaks_in_the_largest_frame():
    image = np.zeros((6000, 5000), np.uint8)
    image[::12, ::12] = 9
    found = PeakFinder(Recipe(threshold=0)).push(0, 0.0, Background(Recipe(threshold=0)).push(image))
    assert len(found.peaks["peak"]) == 500 * 417
    assert (found.peaks["n_pixels"] == 1).all()


@settings(max_examples=30)
@given(data=st.data())
def test_the_running_median_moves_the_cut_after_each_frame(data):
    shape = data.draw(shapes())
    dtype = data.draw(st.sampled_from(["uint16", "float32"]))
    frames = [data.draw(images(shape, dtype)) for _ in range(4)]
    start = data.draw(images(shape, "float64")) / 2
    recipe = Recipe(threshold=1, background="running-median", background_step=0.75, background_every=2)
    background, dark = Background(recipe, dark=start), start
    for number, image in enumerate(frames, 1):
        assert listed(background.push(image)) == naive_lit(image, recipe, dark)
        assert background.level == naive_level(recipe, shape, dark, None)
        if number % 2 == 0:
            dark = np.clip(image, dark - 0.75, dark + 0.75)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_are_never_lit(dtype):
    image = np.array([[np.nan, 3.5], [np.inf, -np.inf]], dtype)
    assert lit_of(image, Recipe(threshold=1)) == {(0, 1): (3.5, 3.5)}


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d[0] != "f"])
@pytest.mark.parametrize("below", [0, 1, 2])
def test_the_ends_of_the_type_compare_exactly(dtype, below):
    top = int(np.iinfo(dtype).max)
    image = np.array([[top, top - 1, 0]], dtype)
    assert (0, 0) in lit_of(image, Recipe(threshold=3))
    assert lit_of(image, Recipe(threshold=3), mask=np.ones((1, 3))) == {}
    assert (0, 0) not in lit_of(image, Recipe(threshold=3, sentinels=(top,)))
    assert lit_of(image, Recipe(threshold=2.0**64)) == {}
    if top < 2**53:
        lit = lit_of(image, Recipe(threshold=top - below))
        assert list(lit) == [(0, 0), (0, 1)][:below]


def test_full_scale_of_uint16_is_lit_unless_masked():
    image = np.full((2, 2), 65535, np.uint16)
    mask = np.array([[0, 1], [0, 0]])
    assert len(lit_of(image, Recipe(threshold=65534), mask=mask)) == 3
    assert lit_of(image, Recipe(threshold=65535)) == {}


def test_more_lit_pixels_than_there_is_room_for_at_first():
    image = np.ones((300, 300), np.uint8)
    assert len(Background(Recipe(threshold=0)).push(image).row) == 90_000


def test_a_negative_background_suits_signed_counts_only():
    recipe = Recipe(threshold=0.5, background_level=-2)
    assert lit_of(np.array([[-2, -1, 0]], np.int16), recipe) == {(0, 1): (-1.0, 1.0), (0, 2): (0.0, 2.0)}
    with pytest.raises(FrameError, match=r"background \+ threshold is -1\.5; wanted at least 0"):
        lit_of(np.zeros((1, 3), np.uint8), recipe)
    with pytest.raises(FrameError, match="sparse image needs"):
        lit_of(sparse(np.ones((1, 3), np.int16)), recipe)


def test_a_masked_pixel_of_the_dark_does_not_matter():
    dark, mask = np.array([[np.nan, -7.0, 2.0, 4.0]]), np.array([[1, 1, 0, 0]])
    recipe = Recipe(threshold=1, background="dark")
    background = Background(recipe, dark=dark, mask=mask)
    assert background.level == naive_level(recipe, (1, 4), dark, mask) == 3.0
    assert background.push(np.full((1, 4), 5, np.uint8)).col.tolist() == [2]
    assert np.isnan(Background(recipe, dark=dark, mask=np.ones((1, 4))).level)


def test_dark_and_mask_are_copied():
    dark, mask = np.zeros((1, 2)), np.zeros((1, 2))
    background = Background(Recipe(threshold=1, background="dark"), dark=dark, mask=mask)
    dark[:], mask[:] = 100, 1
    assert background.push(np.full((1, 2), 5, np.uint8)).intensity.tolist() == [5, 5]


GOOD = np.ones((2, 3), np.uint16)
BAD = {
    "no rows": (np.ones((0, 3), np.uint16), r"shape \(0, 3\); wanted"),
    "no columns": (np.ones((2, 0), np.uint16), r"shape \(2, 0\); wanted"),
    "three dimensions": (np.ones((1, 2, 3), np.uint16), "wanted .rows, columns."),
    "one dimension": (np.ones(6, np.uint16), "wanted .rows, columns."),
    "complex": (np.ones((2, 3), complex), "wanted integers"),
    "bool": (np.ones((2, 3), bool), "wanted integers"),
    "half precision": (np.ones((2, 3), np.float16), "wanted integers"),
    "other shape": (np.ones((3, 2), np.uint16), "as the frames before"),
    "other type": (np.ones((2, 3), np.uint32), "as the frames before"),
    "floats after integers": (np.ones((2, 3)), "as the frames before"),
    "twice": (
        SparseImage(shape=(2, 3), row=np.array([1, 0, 1]), col=np.array([1, 1, 1]), value=GOOD.ravel()[:3]),
        "twice",
    ),
    "outside": (
        SparseImage(shape=(2, 3), row=np.array([2]), col=np.array([0]), value=GOOD.ravel()[:1]),
        r"row outside 0 \.\.\. 1",
    ),
    "negative": (
        SparseImage(shape=(2, 3), row=np.array([0]), col=np.array([-1]), value=GOOD.ravel()[:1]),
        "column outside",
    ),
    "float index": (SparseImage(shape=(2, 3), row=np.zeros(1), col=np.zeros(1), value=GOOD.ravel()[:1]), "row outside"),
    "lengths": (SparseImage(shape=(2, 3), row=np.array([0, 1]), col=np.array([0]), value=GOOD.ravel()[:1]), "shapes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_and_the_next_is_taken(name):
    image, message = BAD[name]
    background = Background(Recipe(threshold=0))
    background.push(GOOD)
    with pytest.raises(FrameError, match=message):
        background.push(image)
    assert len(background.push(GOOD).row) == 6


def test_a_refused_first_image_does_not_fix_the_shape():
    background = Background(Recipe(threshold=0))
    with pytest.raises(FrameError, match="nothing but NaN"):
        background.push(np.full((5, 5), np.nan))
    with pytest.raises(FrameError, match="twice"):
        background.push(BAD["twice"][0])
    assert len(background.push(np.ones((4, 4), np.int32)).row) == 16


@pytest.mark.parametrize("role", ["dark", "mask"])
def test_dark_and_mask_fix_the_shape(role):
    recipe = Recipe(threshold=0, background="dark" if role == "dark" else "constant")
    known = np.zeros((2, 3))
    background = Background(recipe, dark=known) if role == "dark" else Background(recipe, mask=known)
    with pytest.raises(FrameError, match=r"the image has shape \(9, 9\), but the .* has shape \(2, 3\)"):
        background.push(np.ones((9, 9), np.uint16))
    assert len(background.push(GOOD).row) == 6


@pytest.mark.parametrize(
    ("background", "given", "message"),
    [
        ("dark", {}, "no dark frame"),
        ("constant", {"dark": np.zeros((2, 3))}, "a dark frame was given"),
        ("dark", {"dark": np.array([[np.nan, 1.0]])}, "not finite"),
        ("dark", {"dark": np.zeros((2, 3)), "mask": np.zeros((3, 2))}, "but the mask has shape"),
    ],
)
def test_a_wrong_dark_is_refused(background, given, message):
    with pytest.raises(SettingsError, match=message):
        Background(Recipe(threshold=1, background=background), **given)

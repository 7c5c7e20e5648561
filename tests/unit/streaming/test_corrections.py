"""Corrections: frames, darks, flats and masks are turned, cut and divided as their naive twins."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_corrections import naive_edge, naive_invalid, naive_lit, naive_transformed
from unit.streaming.strategies import DTYPES, LAYOUTS, images, in_layout, shapes, sparse

from hedmlive.streaming import FrameError, SettingsError, SparseImage
from hedmlive.streaming.corrections import Corrections, bad_pixels

TRANSFORMS = st.lists(st.integers(0, 3), max_size=5)
WHOLE = [dtype for dtype in DTYPES if dtype[0] != "f"]


@st.composite
def rectangles(draw, shape):
    """Panels that do not overlap: the parts of a frame that rows and columns of gaps leave."""
    rows = draw(st.sets(st.integers(0, shape[0]), min_size=2))
    cols = draw(st.sets(st.integers(0, shape[1]), min_size=2))
    rows, cols = sorted(rows), sorted(cols)
    every = [(a, b, c, d) for a, b in pairwise(rows) for c, d in pairwise(cols)]
    return draw(st.lists(st.sampled_from(every), unique=True, max_size=4))


@settings(max_examples=20)
@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
@given(data=st.data(), transforms=TRANSFORMS)
def test_transforms_are_the_naive_twin(dtype, data, transforms):
    shape = data.draw(shapes() | st.sampled_from([(1, 40), (16, 16), (33, 20), (32, 48)]))
    image = in_layout(data.draw(images(shape, dtype)), data.draw(st.sampled_from(LAYOUTS)))
    got = Corrections(transforms=tuple(transforms)).transformed(image)
    assert got.tolist() == naive_transformed(image, transforms)
    assert got.flags.c_contiguous
    assert got.dtype == image.dtype


@given(data=st.data(), transforms=TRANSFORMS)
def test_sparse_images_are_turned_as_dense_ones(data, transforms):
    image = data.draw(images(data.draw(shapes())))
    listed = sparse(image)
    small = SparseImage(shape=image.shape, row=listed.row.astype("u1"), col=listed.col.astype("u2"), value=listed.value)
    corrections = Corrections(transforms=tuple(transforms))
    for each in (listed, small):
        got = corrections.transformed_sparse(each)
        assert got.shape == corrections.transformed(image).shape
        assert np.array_equal(got.dense(), corrections.transformed(image))


def test_sparse_pixels_outside_stay_outside():
    far = SparseImage(shape=(2, 3), row=np.array([5], "u1"), col=np.array([1], "u1"), value=np.array([1]))
    assert Corrections(transforms=(2,)).transformed_sparse(far).row.tolist() == [-4]
    broken = SparseImage(shape=(2, 3), row=np.array([0.5]), col=np.array([1]), value=np.array([1]))
    with pytest.raises(FrameError, match="rows as float64"):
        Corrections(transforms=(2,)).transformed_sparse(broken)


def test_nan_keeps_its_bits():
    image = np.array([[np.nan, 1.0], [-np.inf, -0.0]], np.float32)
    turned = Corrections(transforms=(3, 1)).transformed(image)
    assert turned.tobytes() == np.ascontiguousarray(image.T[:, ::-1]).tobytes()


@settings(max_examples=25)
@pytest.mark.parametrize("dtype", WHOLE)
@given(data=st.data(), transforms=TRANSFORMS, threshold=st.sampled_from([0.0, 0.5, 2.0]))
def test_lit_pixels_and_intensities_are_the_naive_twin(dtype, data, transforms, threshold):
    shape = data.draw(shapes())
    raw = data.draw(images(shape, dtype))
    dark = data.draw(st.none() | images(shape, "float64").map(lambda each: each / 4))
    flat = data.draw(st.none() | images(shape, "float64").map(lambda each: 0.5 + each / 8))
    mask = data.draw(st.none() | images(shape, "uint8", top=1))
    if flat is not None:
        flat[data.draw(images(shape, "bool"))] = data.draw(st.sampled_from([0.0, -1.0, np.nan, np.inf]))
        flat.flat[0] = 1.0
    turned = shape[::-1] if transforms.count(3) % 2 else shape
    panels = data.draw(rectangles(turned))
    corrections = Corrections(dark=dark, flat=flat, mask=mask, transforms=tuple(transforms), panels=tuple(panels))
    prepared = corrections.prepared(shape)

    invalid = naive_invalid(shape, transforms, mask, flat, panels)
    assert (np.zeros(turned, bool) if prepared.invalid is None else prepared.invalid).tolist() == invalid
    assert prepared.shape == turned
    if panels:
        assert prepared.edge is not None
        assert prepared.edge.tolist() == naive_edge(turned, panels)
    else:
        assert prepared.edge is None

    background = 1.25 if prepared.dark is None else prepared.dark
    got = corrections.transformed(raw)
    cut = prepared.cut(background, threshold, got.dtype)
    assert cut.dtype == got.dtype
    row, col = np.nonzero(got > cut)
    intensity = prepared.intensity(got[row, col], row, col, background)
    lit = dict(zip(zip(row.tolist(), col.tolist(), strict=True), intensity.tolist(), strict=True))
    plain = np.broadcast_to(background, turned).tolist()
    responses = None if flat is None else naive_transformed(flat, transforms)
    assert lit == naive_lit(got.tolist(), invalid, plain, threshold, responses)
    if prepared.dark is not None:
        good = prepared.dark[~np.array(invalid)].tolist()
        # Not sum(), which compensates its rounding from Python 3.12 on.
        total = 0.0
        for each in good:
            total += each
        assert prepared.level == pytest.approx(total / len(good) if good else np.nan, rel=0, abs=0, nan_ok=True)


def test_frames_of_real_numbers_are_cut_without_rounding():
    flat = np.array([[0.5, 1.0, 0.0]])
    cut = Corrections(flat=flat).prepared((1, 3)).cut(10.0, 1.0, np.dtype("float32"))
    assert cut.dtype == np.float64
    assert cut.tolist() == [[10.5, 11.0, np.inf]]


@pytest.mark.parametrize("dtype", WHOLE)
def test_the_ends_of_the_type_compare_exactly(dtype):
    info = np.iinfo(dtype)
    prepared = Corrections().prepared((1, 2))
    assert prepared.cut(np.array([[np.nan, 2.0**70]]), 1.0, np.dtype(dtype)).tolist() == [[info.max, info.max]]
    assert prepared.cut(float(info.min), 0.0, np.dtype(dtype)).tolist() == [[info.min, info.min]]
    if info.max < 2**53:
        assert prepared.cut(info.max - 0.5, 0.0, np.dtype(dtype)).tolist() == [[info.max - 1, info.max - 1]]
        with pytest.raises(FrameError, match="wanted at least"):
            prepared.cut(info.min - 0.5, 0.0, np.dtype(dtype))


def test_a_cut_below_the_type_matters_only_where_valid():
    prepared = Corrections(mask=np.array([[1, 0]])).prepared((1, 2))
    assert prepared.cut(np.array([[-9.0, 3.0]]), 0.0, np.dtype("uint16")).tolist() == [[65535, 3]]


def test_dark_may_hold_anything_where_a_pixel_is_invalid():
    dark = np.array([[np.nan, 4.0, np.inf, 8.0]])
    corrections = Corrections(dark=dark, mask=np.array([[1, 0, 0, 0]]), flat=np.array([[1, 1, 0, 1]]))
    prepared = corrections.prepared((1, 4))
    assert prepared.dark is not None
    assert prepared.dark.tolist() == [[0, 4, 0, 8]]
    assert prepared.level == 6
    assert np.isnan(Corrections(dark=dark, mask=np.ones((1, 4))).prepared((1, 4)).level)


def test_nothing_given_changes_nothing():
    corrections = Corrections()
    image = np.arange(6, dtype=np.uint16).reshape(2, 3)
    listed = sparse(image)
    assert corrections.transformed(image) is image
    assert corrections.transformed_sparse(listed) is listed
    prepared = corrections.prepared((2, 3))
    assert (prepared.dark, prepared.flat, prepared.invalid, prepared.edge) == (None, None, None, None)
    # Panels that leave nothing out, and a mask of zeros, make nothing invalid.
    assert Corrections(panels=((0, 2, 0, 3),), mask=np.zeros((2, 3))).prepared((2, 3)).invalid is None


GRID = np.ones((2, 3))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"dark": GRID, "mask": GRID.T}, "the dark frame has shape (2, 3), but the mask has shape (3, 2)"),
        ({"flat": GRID, "mask": GRID[:1]}, "the flat field has shape (2, 3), but the mask has shape (1, 3)"),
        ({"dark": GRID[0]}, "the dark frame is float64 of shape (3,); wanted numbers"),
        ({"mask": np.zeros((0, 3))}, "shape (0, 3); wanted numbers"),
        ({"mask": np.array([["a"]])}, "the mask is <U1"),
        ({"dark": np.array([[1.0, np.nan]])}, "dark frame holds numbers that are not finite; mask"),
        ({"dark": np.array([[1.0, np.inf]]), "mask": np.array([[1, 0]])}, "not finite"),
        ({"flat": -GRID}, "holds no number above 0"),
        ({"transforms": (4,)}, "transforms are (4,); wanted"),
        ({"transforms": (True,)}, "transforms are (True,)"),
        ({"transforms": 1}, "transforms are 1; wanted a list"),
        ({"panels": 5}, "panels are 5; wanted a list"),
        ({"panels": ((0, 1, 0),)}, "is no rectangle"),
        ({"panels": ((0, 1, 0, 1.5),)}, "is no rectangle"),
        ({"panels": ((0, 0, 0, 1),)}, "[0, 0, 0, 1] is empty"),
        ({"panels": ((-1, 1, 0, 1),)}, "begins below 0"),
        ({"panels": ((0, 2, 0, 2), (1, 3, 1, 3))}, "[0, 2, 0, 2] and [1, 3, 1, 3] overlap"),
        ({"panels": ((0, 3, 0, 2),), "mask": GRID}, "[0, 3, 0, 2] reaches beyond the 2 rows and 3 columns"),
        ({"panels": ((0, 2, 0, 3),), "mask": GRID, "transforms": (3,)}, "beyond the 3 rows and 2 columns"),
    ],
)
def test_errors(given, complaint):
    with pytest.raises(SettingsError) as caught:
        Corrections(**given)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_that_do_not_fit():
    with pytest.raises(FrameError, match=r"image has shape \(3, 2\), but the flat field has shape \(2, 3\)"):
        Corrections(flat=GRID).prepared((3, 2))
    with pytest.raises(FrameError, match="reaches beyond"):
        Corrections(panels=((0, 3, 0, 2),)).prepared((2, 2))
    for image in (np.zeros(3), np.zeros((2, 2), complex), np.zeros((2, 2), object)):
        with pytest.raises(FrameError, match="wanted counts"):
            Corrections(transforms=(3,)).transformed(image)


def test_lists_of_a_settings_file_become_tuples():
    corrections = Corrections(transforms=[1, 2], panels=[[0, 1, 0, 1]])  # pyright: ignore[reportArgumentType]
    assert corrections.transforms == (1, 2)
    assert corrections.panels == ((0, 1, 0, 1),)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_bad_pixels_and_gaps(dtype):
    image = np.array([[-1, 0, 5], [-2, 7, -1]], dtype)
    assert bad_pixels(image, bad_intensity=-2, gap_intensity=-1).tolist() == [[True, False, False], [True, False, True]]
    assert bad_pixels(image, gap_intensity=0.0).tolist() == [[False, True, False], [False, False, False]]
    assert not bad_pixels(image).any()
    stack = np.stack([image, np.zeros_like(image)])
    assert bad_pixels(stack, bad_intensity=-2).tolist() == [[False, False, False], [True, False, False]]


def test_a_value_that_a_type_cannot_hold_marks_nothing():
    assert not bad_pixels(np.array([[65535]], np.uint16), bad_intensity=-1).any()
    assert bad_pixels(np.array([[2**32 - 1]], np.float32), bad_intensity=2**32 - 1).all()
    assert bad_pixels(np.array([[2**32 - 1]], np.uint32), bad_intensity=4294967295.0).all()
    with pytest.raises(SettingsError, match="gap_intensity is nan"):
        bad_pixels(np.zeros((1, 1)), gap_intensity=float("nan"))

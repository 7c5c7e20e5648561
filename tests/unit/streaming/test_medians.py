"""Medians: exact over a stack for every type and layout; the running one equals its naive twin frame by frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_corrections import naive_median, naive_running
from unit.streaming.strategies import DTYPES, LAYOUTS, images, in_layout, shapes

from hedmlive.streaming import FrameError, SettingsError, medians
from hedmlive.streaming.medians import RunningMedian, median_of


def with_holes(draw, image):
    """Some pixels are NaN or infinite, where the type can say so."""
    if image.dtype.kind == "f":
        image = image.copy()
        image[draw(images(image.shape, "bool"))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.1]))
    return image


@st.composite
def stacks(draw, dtype, shape, most=9):
    each = images(shape, dtype).map(lambda image: with_holes(draw, image))
    return [in_layout(draw(each), draw(st.sampled_from(LAYOUTS))) for _ in range(draw(st.integers(1, most)))]


@settings(max_examples=20)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_median_is_the_naive_twin(dtype, data):
    stack = data.draw(stacks(dtype, data.draw(shapes())))
    with np.errstate(invalid="ignore"):
        wanted = naive_median(stack)
    got = median_of(stack)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("n", [*range(1, 34), 64, 100])
def test_networks_sort(n):
    # A network sorts everything if it sorts every list of zeros and ones (Knuth 5.3.4, theorem Z); here of many.
    rng = np.random.default_rng(n)
    stack = rng.random((n, 1, 2000)) < rng.random((1, 1, 2000))
    stack = stack.astype(np.uint8)
    assert np.array_equal(median_of(list(stack)), np.median(stack, axis=0))
    real = rng.permuted(np.repeat(np.arange(n, dtype=np.float32)[:, None, None], 50, axis=2), axis=0)
    assert np.array_equal(median_of(list(real)), np.full((1, 50), (n - 1) / 2))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_bands_and_blocks_change_nothing(dtype, monkeypatch):
    stack = list(np.random.default_rng(0).integers(0, 99, (6, 37, 61)).astype(dtype))
    wanted = np.median(stack, axis=0)
    for band in (1, 3000, 1 << 20):
        monkeypatch.setattr(medians, "_BAND", band)
        assert np.array_equal(median_of(stack), wanted)


def test_the_middle_of_large_numbers():
    top = np.iinfo(np.uint64).max
    assert median_of([np.array([[top]]), np.array([[top - 1]])]) == float(top)
    pair = [np.array([[65535]], np.uint16), np.array([[65534]], np.uint16)]
    assert median_of(pair) == 65534.5


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([], "no frames"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], r"frame 1 of a median is float64 of shape \(2, 3\)"),
        ([np.zeros((2, 2)), np.zeros((2, 2), "u2")], "frame 1 of a median is uint16"),
        ([np.zeros(2)], "wanted .rows, columns."),
        ([np.zeros((0, 2))], "each 1 or more"),
        ([np.zeros((1, 2), complex)], "holds complex128"),
    ],
)
def test_what_has_no_median(frames, complaint):
    with pytest.raises(FrameError, match=complaint):
        median_of(frames)


@settings(max_examples=20)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), step=st.sampled_from([1.0, 0.25, 0.1, 3.0]), every=st.integers(1, 3))
def test_running_median_is_the_naive_twin(dtype, data, step, every):
    shape = data.draw(shapes())
    frames = data.draw(stacks(dtype, shape, most=6))
    start = data.draw(images(shape, "float64")) / 2
    invalid = data.draw(st.none() | images(shape, "uint8", top=1))
    running = RunningMedian(start, step=step, every=every, invalid=invalid)
    for number, frame in enumerate(frames, 1):
        assert running.push(frame) == (number % every == 0)
        wanted = naive_running(start, frames[:number], step, every, invalid)
        np.testing.assert_array_equal(running.background, wanted)
        valid = wanted[~np.isnan(wanted)]
        assert running.level == pytest.approx(valid.mean() if len(valid) else np.nan, rel=1e-14, nan_ok=True)


def test_whole_numbers_move_as_mcfarlane_and_schofield_say():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 30, (50, 8, 9)).astype(np.uint16)
    background = frames[0].astype(int)
    running = RunningMedian(frames[0])
    for frame in frames[1:]:
        background += np.sign(frame.astype(int) - background)
        running.push(frame)
        assert np.array_equal(running.background, background)


def test_a_spot_moves_it_by_its_frames_and_no_more():
    quiet = np.full((1, 2), 100, np.uint16)
    spot = np.array([[60000, 100]], np.uint16)
    running = RunningMedian(quiet, step=0.5)
    for _ in range(7):
        running.push(spot)
    assert running.background.tolist() == [[103.5, 100]]
    for _ in range(7):
        running.push(quiet)
    assert running.background.tolist() == [[100, 100]]


def test_it_rests_on_a_half():
    running = RunningMedian(np.array([[10.5]]))
    running.push(np.array([[10]]))
    running.push(np.array([[10]]))
    assert running.background.tolist() == [[10]]


def test_what_is_given_and_shown_is_not_what_moves():
    start = np.zeros((2, 2))
    running = RunningMedian(start)
    shown = running.background
    running.push(np.ones((2, 2)))
    assert start.sum() == 0
    with pytest.raises(ValueError, match="read-only"):
        shown[0, 0] = 3


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"step": 0}, "background_step is 0; wanted"),
        ({"step": np.nan}, "background_step is nan"),
        ({"step": np.inf}, "background_step is inf"),
        ({"every": 0}, "background_every is 0; wanted"),
        ({"start": np.zeros(3)}, r"background has shape \(3,\)"),
        ({"start": np.array([[np.inf]])}, "infinite somewhere"),
        ({"invalid": np.zeros((2, 2))}, r"shape \(1, 1\), but the mask has shape \(2, 2\)"),
    ],
)
def test_errors(given, complaint):
    with pytest.raises(SettingsError, match=complaint):
        RunningMedian(**{"start": np.zeros((1, 1))} | given)


def test_a_frame_that_does_not_fit_leaves_nothing_behind():
    running = RunningMedian(np.zeros((2, 2)), every=2)
    for frame in (np.ones((2, 3)), np.ones(4), np.ones((2, 2), complex)):
        with pytest.raises(FrameError):
            running.push(frame)
    assert not running.push(np.ones((2, 2)))
    assert running.push(np.ones((2, 2)))

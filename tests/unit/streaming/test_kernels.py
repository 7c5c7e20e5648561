"""Kernels against their naive twins, alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import is_maximum, naive_climb, naive_groups, naive_smooth
from unit.streaming.strategies import images

from hedmlive.streaming import lit_kernels, peak_kernels


def listed(image):
    row, col = (each.astype(np.int32) for each in np.nonzero(image))
    weight = image[row, col].astype(np.float64)
    lit = {(r, c): (w, w) for r, c, w in zip(row.tolist(), col.tolist(), weight.tolist(), strict=True)}
    return row, col, weight, lit


@settings(max_examples=60)
@given(data=st.data())
def test_groups_are_a_flood_fill(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 40)))
    row, col, weight, lit = listed(data.draw(images(shape, top=data.draw(st.sampled_from([2, 9])))))
    n = len(row)
    runs, (group, size) = np.full((3, n + 1), -7, np.int32), np.full((2, n + 1), -7, np.int32)
    maxima, near = np.full(n + 1, 255, np.uint8), np.full((4, n + 1), -7, np.int32)
    n_runs = peak_kernels.runs_of_pixels(row, col, runs)
    found = peak_kernels.groups(weight, runs, n_runs, group, size, maxima, near)
    first = runs[2]
    for k in (0, 1):
        assert runs[k, :n_runs].tolist() == (row, col)[k][first[:n_runs]].tolist()
    wanted = naive_groups(lit)
    assert found == len(wanted)
    assert size[:found].tolist() == [len(each) for each in wanted]
    number = {pixel: k for k, each in enumerate(wanted) for pixel in each}
    lengths = np.diff(first[: n_runs + 1])
    assert np.repeat(group[:n_runs], lengths).tolist() == [number[pixel] for pixel in lit]
    tops = [
        first[run] + k for run in range(n_runs) for k in range(lengths[run]) if maxima[first[run] + k // 8] >> k % 8 & 1
    ]
    assert tops == [i for i, pixel in enumerate(lit) if is_maximum(lit, pixel)]


@settings(max_examples=60)
@given(data=st.data())
def test_smoothing_is_nine_weights_in_their_order(data):
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 30)))
    image = data.draw(images(shape, "float64")) * data.draw(st.sampled_from([1.0, 0.1, 1e6 / 3]))
    row, col, weight, lit = listed(image)
    smoothed = np.empty(len(row) + 8, np.float32)
    peak_kernels.smooth(weight.astype(np.float32), *runs_and_near(row, col, weight), smoothed)
    assert smoothed[: len(row)].tolist() == list(naive_smooth(lit).values())


def runs_and_near(row, col, weight):
    runs, (group, size) = np.empty((3, len(row) + 1), np.int32), np.empty((2, len(row) + 1), np.int32)
    near, maxima = np.empty((4, len(row) + 1), np.int32), np.empty(len(row) + 1, np.uint8)
    n_runs = peak_kernels.runs_of_pixels(row, col, runs)
    peak_kernels.groups(weight, runs, n_runs, group, size, maxima, near)
    return runs, n_runs, near


@settings(max_examples=60)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_climbing_ends_on_the_same_maximum(dtype, data):
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 30)))
    row, col, weight, lit = listed(data.draw(images(shape, top=data.draw(st.sampled_from([2, 9])))))
    top, best = np.empty(len(row) + 8, np.int32), np.empty(len(row) + 8, dtype)
    peak_kernels.climb(weight.astype(dtype), *runs_and_near(row, col, weight), best, top)
    values = {pixel: w for pixel, (_, w) in lit.items()}
    pixels = list(lit)
    assert [pixels[i] for i in top[: len(row)]] == [naive_climb(values, pixel) for pixel in pixels]


@given(st.lists(st.tuples(st.integers(-1, 4), st.booleans())))
def test_count_labels_counts_what_is_marked(pairs):
    labels, marked = np.array([p[0] for p in pairs], np.int32), np.array([p[1] for p in pairs], np.bool_)
    counts = np.zeros(5, np.int32)
    peak_kernels.count_labels(labels, marked, counts)
    assert counts.tolist() == [pairs.count((k, True)) for k in range(5)]


@settings(max_examples=20)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])  # the others: test_lit_pixels.py
@pytest.mark.parametrize("n_cols", [1, 63, 64, 65, 130, 192])
@given(data=st.data())
def test_runs_of_wide_rows(dtype, n_cols, data):
    image = data.draw(images((data.draw(st.integers(1, 3)), n_cols), dtype))
    whole_rows = data.draw(st.booleans())
    cut = data.draw(images((1 if whole_rows else len(image), n_cols), dtype, top=5))
    top, sentinels = image.dtype.type(data.draw(st.sampled_from([7, 200]))), data.draw(st.sampled_from([(), (6, 3)]))
    lit = (image > cut) & (image <= top) & ~np.isin(image, sentinels)
    sentinels, none = np.array(sentinels, dtype), (cut, 0.0)
    runs = row, col, first = np.empty((3, lit.size + 1), np.int32)
    listed_: Any = (*np.full((2, lit.size), -7, np.int32), np.empty(lit.size, dtype), np.empty(lit.size))
    find: Any = lit_kernels.lit_pixels
    n_runs, n = find(image, cut, top, sentinels, *none, runs, *listed_)
    for found, wanted in zip(listed_, (*np.nonzero(lit), image[lit], (image - cut.astype(float))[lit]), strict=True):
        assert found[:n].tolist() == wanted.tolist()
    assert n == lit.sum() == first[n_runs]
    lengths = np.diff(first[: n_runs + 1])
    found = [(r, c + k) for r, c, m in zip(row, col, lengths, strict=False) for k in range(m)]
    assert found == list(zip(*np.nonzero(lit), strict=True))
    starts = np.diff(lit.astype(int), axis=1, prepend=0) == 1
    assert n_runs == starts.sum()
    # With less room the numbers are the same, and nothing is written beyond it.
    short = np.full((3, n_runs // 2 + 1), -7, np.int32)
    less = [each[: n // 2].copy() for each in listed_]
    assert find(image, cut, top, sentinels, *none, short, *less) == (n_runs, n)
    assert find(image, cut, top, sentinels, *none, runs, *less) == (n_runs, n)
    assert np.repeat(row[:n_runs], np.diff(first[: n_runs + 1])).tolist() == np.nonzero(lit)[0].tolist()

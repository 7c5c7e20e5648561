"""Kernels against their naive twins, alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import is_maximum, naive_climb, naive_groups, naive_smooth
from unit.streaming.strategies import images

from hedmlive.streaming import lit_kernels, peak_kernels
from hedmlive.streaming.background import narrow_cut
from hedmlive.streaming.vectors import WORD


def listed(image):
    row, col = (each.astype(np.int32) for each in np.nonzero(image))
    weight = image[row, col].astype(np.float64)
    lit = {(r, c): (w, w) for r, c, w in zip(row.tolist(), col.tolist(), weight.tolist(), strict=True)}
    return row, col, weight, lit


@settings(max_examples=60)
@given(data=st.data())
def test_groups_are_a_flood_fill(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 40) | st.sampled_from([70, 200])))
    low = data.draw(st.integers(0, 1))
    row, col, weight, lit = listed(data.draw(images(shape, top=data.draw(st.sampled_from([2, 9])))) + low)
    n = len(row)
    runs, (group, size) = np.full((3, n + 1), -7, np.int32), np.full((2, n + 1), -7, np.int32)
    maxima, near = np.full(n + 2 + n // 64, -1, np.int64), np.full((4, n + 1), -7, np.int32)
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
        first[run] + k
        for run in range(n_runs)
        for k in range(lengths[run])
        if maxima[run + first[run] // 64 + k // 64] >> k % 64 & 1
    ]
    assert tops == [i for i, pixel in enumerate(lit) if is_maximum(lit, pixel)]
    # Who does not ask for the maxima gets the same groups.
    again = [np.full_like(each, -7) for each in (group, size, near)]
    assert peak_kernels.groups(weight, runs, n_runs, again[0], again[1], np.empty(0, np.int64), again[2]) == found
    assert all(np.array_equal(*pair) for pair in zip(again, (group, size, near), strict=True))


@settings(max_examples=60)
@given(data=st.data())
def test_smoothing_is_nine_weights_in_their_order(data):
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 30)))
    image = data.draw(images(shape, "float64")) * data.draw(st.sampled_from([1.0, 0.1, 1e6 / 3]))
    row, col, weight, lit = listed(image)
    smoothed = np.empty(len(row) + 16, np.float32)
    peak_kernels.smooth(weight.astype(np.float32), *runs_and_near(row, col, weight), smoothed)
    assert smoothed[: len(row)].tolist() == list(naive_smooth(lit).values())


def runs_and_near(row, col, weight):
    runs, (group, size) = np.empty((3, len(row) + 1), np.int32), np.empty((2, len(row) + 1), np.int32)
    near, maxima = np.empty((4, len(row) + 1), np.int32), np.empty(len(row) + 2 + len(row) // 64, np.int64)
    n_runs = peak_kernels.runs_of_pixels(row, col, runs)
    peak_kernels.groups(weight, runs, n_runs, group, size, maxima, near)
    return runs, n_runs, near


@settings(max_examples=60)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_climbing_ends_on_the_same_maximum(dtype, data):
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 30)))
    row, col, weight, lit = listed(data.draw(images(shape, top=data.draw(st.sampled_from([2, 9])))))
    top, best = np.empty(len(row) + 16, np.int32), np.empty(len(row) + 16, dtype)
    peak_kernels.climb(weight.astype(dtype), *runs_and_near(row, col, weight), best, top)
    peak_kernels.settle(top, len(row))
    values = {pixel: w for pixel, (_, w) in lit.items()}
    pixels = list(lit)
    assert [pixels[i] for i in top[: len(row)]] == [naive_climb(values, pixel) for pixel in pixels]


@settings(max_examples=60)
@given(data=st.data())
def test_moments_are_sums_in_raster_order(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    # Whole and below 2^53, whole and beyond it, neither: sums in any order, and in raster order.
    image = data.draw(images(shape, "float64")) * data.draw(st.sampled_from([1.0, 0.1, 2.0**49, 2.0**49 / 3, -1.0]))
    row, col, weight, _ = listed(image)
    runs = np.empty((3, len(row) + 1), np.int32)
    n_runs = peak_kernels.runs_of_pixels(row, col, runs)
    label = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=n_runs, max_size=n_runs)), np.int32)
    sums, box, counts = np.full((3, 8), 7.0), np.full((3, 8), -7, np.int32), np.zeros(3, np.int32)
    peak_kernels.moments(weight, runs, label, n_runs, sums, box, counts)
    labels = np.repeat(label, np.diff(runs[2, : n_runs + 1]))
    for k in range(3):
        mine = labels == k
        assert counts[k] == mine.sum()
        if not mine.any():
            continue
        r, c, w = row[mine].tolist(), col[mine].tolist(), weight[mine].tolist()
        wanted = [0.0] * 6
        for y, x, v in zip(r, c, w, strict=True):
            dr, dc = float(y - r[0]), float(x - c[0])
            for m, term in enumerate((v, v * dr, v * dc, v * dr * dr, v * dc * dc, v * dr * dc)):
                wanted[m] += term
        np.testing.assert_array_equal(sums[k, :6], wanted)
        best = w.index(max(w))
        assert [sums[k, 6], *box[k]] == [w[best], r[0], c[0], min(r), max(r), min(c), max(c), r[best], c[best]]


@settings(max_examples=60)
@given(data=st.data())
def test_maxima_and_pixels_of_each_label(data):
    image = data.draw(images((data.draw(st.integers(1, 3)), data.draw(st.sampled_from([9, 70, 200])))))
    row, col, weight, _ = listed(image)
    n = len(row)
    runs, n_runs, _ = runs_and_near(row, col, weight)
    bits = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    maxima = np.zeros(2 * n + 2, np.int64)
    for run in range(n_runs):
        for k, i in enumerate(range(runs[2, run], runs[2, run + 1])):
            maxima[run + runs[2, run] // 64 + k // 64] |= np.int64(np.uint64(bits[i]) << np.uint64(k % 64))
    # Runs in stretches of any length, each with a label.
    begins = sorted({*runs[2, :n_runs].tolist(), *data.draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=9))})
    begins = begins if n else []
    stretch = np.array([[*row[begins].tolist(), 0], [*col[begins].tolist(), 0], [*begins, n]], np.int32)
    label = np.array([data.draw(st.integers(-1, 2)) for _ in begins], np.int32)
    labels = np.repeat(label, np.diff(stretch[2]))
    counts = np.zeros(3, np.int32)
    peak_kernels.count_maxima(runs, maxima, stretch, label, len(label), counts)
    assert counts.tolist() == [int((np.array(bits, np.bool_) & (labels == k)).sum()) for k in range(3)]
    marks, marked = np.zeros(image.shape, np.uint8), np.zeros(3, np.bool_)
    marks[row, col] = bits
    peak_kernels.mark_labels(marks, stretch, label, len(label), marked)
    assert marked.tolist() == [bool((np.array(bits, np.bool_) & (labels == k)).any()) for k in range(3)]
    counts = np.zeros(3, np.int32)
    reaching = weight >= 4.5
    assert peak_kernels.count_reaching(weight, 4.5, stretch, label, len(label), counts) == reaching.sum()
    assert counts.tolist() == [int((reaching & (labels == k)).sum()) for k in range(3)]
    table: Any = (*np.empty((3, n + 16), np.int32), np.empty(n + 16))
    kept = peak_kernels.table_of_pixels(weight.astype(np.uint16), stretch, label, len(label), *table)
    wanted = (labels, row, col, weight)
    assert [each[:kept].tolist() for each in table] == [each[labels >= 0].tolist() for each in wanted]


FAR = {
    "uint8": (255, 254, 9),
    "uint16": (65535, 254, 255, 256, 300),
    "uint32": (2**32 - 1, 254, 255, 256, 2**31),
    "int32": (2**31 - 1, -(2**31), 254, 300),
    "float32": (np.nan, np.inf, -np.inf, 300.5, -1e30),
}
"Numbers that lie further from others than a byte, or the type itself, can say."


@settings(max_examples=20)
@pytest.mark.parametrize("dtype", FAR)  # the others: test_lit_pixels.py
@pytest.mark.parametrize("n_cols", [1, 63, 64, 65, 130, 192])
@given(data=st.data())
def test_runs_of_wide_rows(dtype, n_cols, data):
    image = data.draw(images((data.draw(st.integers(1, 3)), n_cols), dtype))
    whole_rows = data.draw(st.booleans())
    cut = data.draw(images((1 if whole_rows else len(image), n_cols), dtype, top=5))
    far = FAR[dtype]
    image, cut = (
        np.choose(data.draw(images(each.shape, "uint8", top=len(far))), [each, *far]) for each in (image, cut)
    )
    image, cut = image.astype(dtype), np.nan_to_num(cut, nan=np.inf, posinf=np.inf, neginf=-9e9).astype(dtype)
    most = np.finfo(dtype).max if dtype == "float32" else np.iinfo(dtype).max
    top, sentinels = (
        image.dtype.type(data.draw(st.sampled_from([7, 200, most]))),
        data.draw(st.sampled_from([(), (6, 3)])),
    )
    # As it is, or in half the memory.
    narrowed = n_cols >= WORD and data.draw(st.booleans())
    narrow = (*narrow_cut(cut if narrowed and len(cut) > 1 else cut[:0]), top == most and dtype != "float32")
    lit = (image > cut) & (image <= top) & ~np.isin(image, sentinels)
    sentinels, none = np.array(sentinels, dtype), (cut, 0.0)
    runs = row, col, first = np.empty((3, lit.size + 1), np.int32)
    room = lit.size + 16
    listed_: Any = (*np.full((2, room), -7, np.int32), np.empty(room, dtype), np.empty(room))
    find: Any = lit_kernels.lit_pixels
    n_runs, n = find(image, cut, *narrow, top, sentinels, *none, runs, *listed_)
    cuts = np.broadcast_to(cut, image.shape)[lit].astype(float)
    for found, wanted in zip(listed_, (*np.nonzero(lit), image[lit], image[lit] - cuts), strict=True):
        assert found[:n].tolist() == wanted.tolist()
    assert n == lit.sum() == first[n_runs]
    lengths = np.diff(first[: n_runs + 1])
    found = [(r, c + k) for r, c, m in zip(row, col, lengths, strict=False) for k in range(m)]
    assert found == list(zip(*np.nonzero(lit), strict=True))
    starts = np.diff(lit.astype(int), axis=1, prepend=0) == 1
    assert n_runs == starts.sum()
    # With less room the numbers are the same, and nothing is written beyond it.
    short = np.full((3, n_runs // 2 + 1), -7, np.int32)
    less = [each[: n // 2 + 16].copy() for each in listed_]
    assert find(image, cut, *narrow, top, sentinels, *none, short, *less) == (n_runs, n)
    assert find(image, cut, *narrow, top, sentinels, *none, runs, *less) == (n_runs, n)
    assert np.repeat(row[:n_runs], np.diff(first[: n_runs + 1])).tolist() == np.nonzero(lit)[0].tolist()

"""Kernels against their naive twins, alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import is_maximum, naive_groups
from unit.streaming.strategies import images, shapes

from hedmlive.streaming import Background, PeakFinder, Recipe, kernels


@settings(max_examples=60)
@given(data=st.data())
def test_label_is_a_flood_fill(data):
    image = data.draw(images(data.draw(shapes()), top=3))
    row, col = (each.astype(np.int32) for each in np.nonzero(image))
    n = len(row)
    labels, is_max = np.empty(n, np.int32), np.empty(n, np.bool_)
    weight = image[row, col].astype(np.float64)
    found = kernels.label(row, col, weight, np.empty(n, np.int32), is_max, labels)
    lit = {(r, c): (w, w) for r, c, w in zip(row.tolist(), col.tolist(), weight.tolist(), strict=True)}
    groups = naive_groups(lit)
    assert found == len(groups)
    number = {pixel: k for k, group in enumerate(groups) for pixel in group}
    assert labels.tolist() == [number[pixel] for pixel in lit]
    assert is_max.tolist() == [is_maximum(lit, pixel) for pixel in lit]


@given(st.lists(st.integers(-1, 4)))
def test_count_labels_counts(labels):
    labels = [each for each in labels if each >= 0]
    counts = np.zeros(5, np.int32)
    kernels.count_labels(np.array(labels, np.int32), counts)
    assert counts.tolist() == [labels.count(k) for k in range(5)]


@settings(max_examples=60)
@given(data=st.data())
def test_shared_pixels_is_an_intersection(data):
    shape = data.draw(shapes())
    a, b = (
        PeakFinder(Recipe(threshold=0)).push(k, 0.0, Background(Recipe(threshold=0)).push(data.draw(images(shape))))
        for k in range(2)
    )
    wanted = []
    peaks_b = dict(zip(zip(b.pixels["row"], b.pixels["col"], strict=True), b.pixels["peak"], strict=True))
    n_b = len(b.peaks["peak"])
    for r, c, peak in zip(a.pixels["row"], a.pixels["col"], a.pixels["peak"], strict=True):
        if (r, c) in peaks_b:
            wanted.append(int(peak) * n_b + int(peaks_b[r, c]))
    pairs = np.empty(min(len(a.pixels["row"]), len(b.pixels["row"])), np.int64)
    p, q = a.pixels, b.pixels
    n = kernels.shared_pixels(p["row"], p["col"], p["peak"], q["row"], q["col"], q["peak"], n_b, pairs)
    assert pairs[:n].tolist() == wanted


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1, 1e6), st.floats(-1e6, 1e6))))
def test_ordered_sums_are_in_the_order_of_the_rows(rows):
    track = np.array([row[0] for row in rows], np.int64)
    weight = np.array([row[1] for row in rows])
    sums = np.zeros((4, 2))
    kernels.ordered_sums(track, weight, np.array([[row[2]] for row in rows]).reshape(len(rows), 1), sums)
    wanted = [[0.0, 0.0] for _ in range(4)]
    for k, w, value in rows:
        wanted[k][0] += w * value
        wanted[k][1] += w
    assert sums.tolist() == wanted


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15), st.integers(0, 9))
def test_tracks_of_rows_are_connected_components(links, frontier):
    n = 10
    parent, following, last = np.arange(n), np.full(n, -1), np.arange(n)
    held, mark = np.zeros(n, np.bool_), np.zeros(n, np.int64)
    held[3] = True
    a, b = (np.array([link[k] for link in links], np.int64) for k in (0, 1))
    joined = kernels.join_tracks(a, b, parent, following, last, held)
    component = [{k} for k in range(n)]
    for x, y in links:
        both = component[x] | component[y]
        for each in both:
            component[each] = both
    distinct = {frozenset(each) for each in component}
    assert joined == n - len(distinct)
    old, new = np.arange(frontier), np.arange(frontier, n)
    roots = np.empty(frontier, np.int64)
    count = kernels.ended_tracks(old, new, held, parent, mark, 1, roots)
    ended = sorted(min(each) for each in distinct if 3 not in each and max(each) < frontier)
    assert sorted(roots[:count].tolist()) == ended
    track, rows = np.empty(n, np.int64), np.empty(n, np.int64)
    wanted = np.array(ended, np.int64)
    taken = kernels.take_tracks(wanted, parent, following, track, rows)
    got = [set(rows[:taken][track[:taken] == k].tolist()) for k in range(len(ended))]
    assert got == [component[root] for root in ended]
    assert {k for k in range(n) if parent[k] == -1} == set().union(*got)

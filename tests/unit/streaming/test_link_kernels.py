"""The kernels of links and tracks are their naive twins."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.streaming.strategies import images, shapes

from hedmlive.streaming import Background, Linkable, PeakFinder, Recipe, link_kernels, track_kernels


def found_in(image, frame=0):
    recipe = Recipe(threshold=0, split="local-maximum", min_pixels=2)
    return PeakFinder(recipe).push(frame, 0.0, Background(recipe).push(image))


@settings(max_examples=80)
@given(data=st.data())
def test_runs_are_the_pixels_of_a_peak(data):
    found = found_in(data.draw(images(data.draw(shapes()))))
    runs = Linkable.of(found).runs
    np.testing.assert_array_equal(runs, Linkable.of(replace(found, runs=None)).runs)
    pixels = [(int(r), c, int(peak)) for r, first, end, peak in runs.T for c in range(int(first), int(end))]
    listed = zip(*(found.pixels[key].tolist() for key in ("row", "col", "peak")), strict=True)
    assert pixels == list(listed)
    # No run can be made longer.
    for (r, _, end, peak), (r_next, first_next, _, peak_next) in zip(runs.T[:-1], runs.T[1:], strict=True):
        assert (r, end, peak) != (r_next, first_next, peak_next)


@settings(max_examples=80)
@given(data=st.data())
def test_shared_pixels_are_an_intersection(data):
    shape = data.draw(shapes())
    a, b = (Linkable.of(found_in(data.draw(images(shape)))) for _ in range(2))
    at = [{(r, c): peak for r, first, end, peak in each.runs.T.tolist() for c in range(first, end)} for each in (a, b)]
    wanted = Counter((at[0][pixel], at[1][pixel]) for pixel in at[0].keys() & at[1].keys())
    room = a.runs.shape[1] + b.runs.shape[1] + 2
    common, chain, pairs = np.empty((3, 3, room), np.int32)
    n = link_kernels.shared_pixels(a.runs, b.runs, np.full(a.n_peaks, -1, np.int32), common, chain, pairs)
    assert [((p, q), shared) for p, q, shared in pairs[:, :n].T.tolist()] == sorted(wanted.items())


places = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=9).map(
    lambda some: np.array(some, float).reshape(-1, 2) / 2
)


@given(places, places, st.sampled_from([0.5, 1.0, 1.5]), st.integers(0, 20))
def test_near_pairs_are_those_within_reach(a, b, reach, room):
    by_row = np.argsort(b[:, 0], kind="stable")
    wanted = [(i, j) for i, p in enumerate(a) for j, q in enumerate(b) if np.hypot(*(p - q)) <= reach]
    pairs = np.empty((2, room), np.int32)
    n = link_kernels.near_pairs(a[:, 0].copy(), a[:, 1].copy(), b[:, 0].copy(), b[:, 1].copy(), by_row, reach, pairs)
    if len(wanted) > room:
        assert n == room + 1
    else:
        assert list(zip(*pairs[:, :n].tolist(), strict=True)) == wanted


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=15),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6),
)
def test_tracks_of_rows_are_connected_components(links, stretches):
    n = 10
    parent, following, last = np.arange(n), np.full(n, -1), np.arange(n)
    waiting, wraps, flag = np.ones(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    component = [{k} for k in range(n)]
    joined = 0
    for x, y, wrapping in links:
        a, b = np.array([x]), np.array([y])
        joined += track_kernels.join_tracks(a, b, wrapping, parent, following, last, waiting, wraps)
        both = component[x] | component[y]
        for each in both:
            component[each] = both
    distinct = {frozenset(each) for each in component}
    assert joined == n - len(distinct)
    resolved: set[int] = set()
    ended: list[int] = []
    for start, end in stretches:
        if start < end and not resolved & set(range(start, end)):
            roots = np.empty(end - start, np.int64)
            count = track_kernels.resolve_rows(start, end, 2, parent, waiting, flag, roots)
            before = {each for each in distinct if each <= resolved}
            resolved |= set(range(start, end))
            assert sorted(roots[:count]) == sorted(min(each) for each in distinct - before if each <= resolved)
            ended += roots[:count].tolist()
    assert set(np.flatnonzero(flag).tolist()) == resolved
    for each in distinct:
        assert wraps[min(each)] == any(wrapping and x in each for x, _, wrapping in links)
    frame, peak = np.arange(n)[::-1] // 2, np.arange(n)[::-1] % 2
    rows, starts = np.empty(n, np.int64), np.empty(len(ended) + 1, np.int64)
    track_kernels.take_tracks(np.array(ended, np.int64), parent, following, frame, peak, rows, starts)
    got = [rows[starts[k] : starts[k + 1]].tolist() for k in range(len(ended))]
    assert got == [sorted(component[root], reverse=True) for root in ended]
    assert {k for k in range(n) if parent[k] == -1} == {row for each in got for row in each}


@given(st.permutations(range(60)), st.integers(0, 60))
def test_long_tracks_are_put_in_order(numbers, n):
    frame, peak = np.array(numbers) // 7, np.array(numbers) % 7
    parent, following = np.zeros(60, np.int64), np.append(np.arange(1, 60), -1)
    following[n - 1] = -1
    rows, starts = np.empty(60, np.int64), np.empty(2, np.int64)
    roots = np.zeros(min(n, 1), np.int64)
    track_kernels.take_tracks(roots, parent, following, frame, peak, rows, starts)
    assert np.array(numbers)[rows[: starts[len(roots)]]].tolist() == sorted(numbers[:n])

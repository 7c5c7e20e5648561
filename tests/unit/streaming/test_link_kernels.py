"""The kernels of links and tracks are their naive twins."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_links import naive_weight
from unit.streaming.strategies import images, shapes

from hedmlive.streaming import Background, Linkable, PeakFinder, Recipe, link_kernels, track_kernels
from hedmlive.streaming.track_kernels import FOLLOWING, LAST, MARKS, NEAR, PARENT, PEAK, SLOT, WAITING, WRAPS


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
    room = len(a.owner) + len(b.owner)
    met = np.empty(room, np.uint64)
    chain, pairs = np.empty((2, 3, room), np.int32)
    of_a = np.empty((3, a.n_peaks), np.int32)
    n = link_kernels.shared_pixels(a.spans, b.spans, a.owner, b.owner, met, of_a, chain, pairs)
    assert [((p, q), shared) for p, q, shared in pairs[:, :n].T.tolist()] == sorted(wanted.items())


def test_a_peak_has_any_number_of_partners_in_their_order():
    # The peak meets its partners in the order 1, 2, 1, 0.
    runs = [
        np.array([[0, 1], [0, 0], [9, 9], [0, 0]], np.int32),
        np.array([[0, 0, 1, 1], [0, 6, 0, 3], [2, 9, 2, 5], [1, 2, 1, 0]], np.int32),
    ]
    spans = [np.empty((2, each.shape[1] + 1), np.uint32) for each in runs]
    owners = [np.empty(each.shape[1], np.int32) for each in runs]
    for each, span, owner in zip(runs, spans, owners, strict=True):
        link_kernels.spans_of_runs(each, span, owner)
    room = sum(map(len, owners))
    chain, pairs = np.empty((2, 3, room), np.int32)
    met, of_a = np.empty(room, np.uint64), np.empty((3, 1), np.int32)
    n = link_kernels.shared_pixels(spans[0], spans[1], owners[0], owners[1], met, of_a, chain, pairs)
    assert pairs[:, :n].T.tolist() == [[0, 0, 2], [0, 1, 4], [0, 2, 3]]


measured = st.tuples(
    st.floats(0, 9), st.floats(0, 9), st.integers(1, 99), st.floats(0, 9), st.floats(0, 9), st.floats(-3, 3)
)


@given(
    st.lists(measured, min_size=1, max_size=5),
    st.lists(measured, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), max_size=12),
    st.tuples(*[st.sampled_from(each) for each in ([0, 1, 3], [2, np.inf], [1, np.inf], [0, 0.5], [0, 0.1])]),
    st.booleans(),
)
def test_pairs_are_weighed_as_the_naive_twin_does(a, b, listed, limits, every):
    pairs = [(p % len(a), q % len(b), shared) for p, q, shared in listed]
    wanted = [(p, q, shared, *naive_weight(a[p], b[q], shared, *limits)) for p, q, shared in pairs]
    wanted = [each for each in wanted if every or each[3] == 0]
    whole, weights = np.empty((4, 12), np.int32), np.empty((2, 12))
    given_pairs = np.array(pairs, np.int32).reshape(-1, 3).T.copy()
    numbers = tuple(map(float, limits))
    n = link_kernels.weigh(given_pairs, len(pairs), np.array(a), np.array(b), numbers, every, whole, weights)
    assert list(zip(*whole[:, :n].tolist(), *weights[:, :n].tolist(), strict=True)) == wanted


@given(st.data())
def test_what_links_ask_of_peaks_lies_together(data):
    found = found_in(data.draw(images(data.draw(shapes()))))
    names = ("row", "col", "n_pixels", "var_row", "var_col", "cov_row_col", "sum_intensity")
    made = Linkable.of(found)
    assert made.peaks.tolist() == np.array([found.peaks[name] for name in names], float).T.tolist()
    for name, values in made.columns.items():
        np.testing.assert_array_equal(values, found.peaks[name])


places = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=9).map(
    lambda some: np.array(some, float).reshape(-1, 2) / 2
)


@given(places, places, st.sampled_from([0.5, 1.0, 1.5]), st.integers(0, 20))
def test_near_pairs_are_those_within_reach(a, b, reach, room):
    by_row = np.argsort(b[:, 0], kind="stable")
    wanted = [(i, j) for i, p in enumerate(a) for j, q in enumerate(b) if np.hypot(*(p - q)) <= reach]
    pairs = np.empty((2, room), np.int32)
    n = link_kernels.near_pairs(a, b, by_row, reach, pairs)
    if len(wanted) > room:
        assert n == room + 1
    else:
        assert list(zip(*pairs[:, :n].tolist(), strict=True)) == wanted


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=15),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6),
    st.sampled_from([0, NEAR]),
)
def test_tracks_of_rows_are_connected_components(links, stretches, room):
    n = 10
    whole = fresh_rows(n, room)
    component = [{k} for k in range(n)]
    joined = 0
    for x, y, wrapping in links:
        # Peaks of frames whose first rows are 1 and 2.
        a, b = np.array([x - 1], np.int32), np.array([y - 2], np.int32)
        joined += track_kernels.join_tracks(a, b, 1, 2, wrapping, whole)
        both = component[x] | component[y]
        for each in both:
            component[each] = both
    distinct = {frozenset(each) for each in component}
    assert joined == n - len(distinct)
    resolved: set[int] = set()
    ended: list[int] = []
    for start, end in stretches:
        if start < end and not resolved & set(range(start, end)):
            roots = np.full(end - start + 3, -7)
            count = track_kernels.resolve_rows(start, end, whole, roots, 2)
            before = {each for each in distinct if each <= resolved}
            resolved |= set(range(start, end))
            assert sorted(roots[2:count]) == sorted(min(each) for each in distinct - before if each <= resolved)
            ended += roots[2:count].tolist()
    for each in distinct:
        wraps = whole[min(each), MARKS] & WRAPS > 0
        assert wraps == any(wrapping and x in each for x, _, wrapping in links)
    # Row k is of a frame and has a number that fall as k rises, and the slots of frames lie in no order.
    frames = np.array([[3, 0, 0], [4, 0, 0], [0, 0, 0], [2, 0, 0], [1, 0, 0]], np.int64)
    of_frame = {3: 0, 4: 1, 0: 2, 2: 3, 1: 4}
    whole[:n, SLOT] = [of_frame[(n - 1 - k) // 2] for k in range(n)]
    whole[:n, PEAK] = [(n - 1 - k) % 2 for k in range(n)]
    rows, starts, names = np.empty(n, np.int64), np.empty(len(ended) + 1, np.int64), np.empty(len(ended), np.int64)
    ended_wraps = any(wrapping and component[root] >= {x} for root in ended for x, _, wrapping in links)
    _, wraps = track_kernels.take_tracks(np.array(ended, np.int64), whole, frames, rows, starts)
    assert wraps == ended_wraps
    got = [rows[starts[k] : starts[k + 1]].tolist() for k in range(len(ended))]
    assert got == [sorted(component[root], reverse=True) for root in ended]
    assert {k for k in range(n) if whole[k, PARENT] == -1} == {row for each in got for row in each}
    track_kernels.name_tracks(starts, rows, whole, frames, 1000, names)
    assert names.tolist() == [1000 * ((n - 1 - each[0]) // 2) + (n - 1 - each[0]) % 2 for each in got]


def fresh_rows(n, room=0):
    """Rows of n tracks of one peak each, and room for more; with much room, memory is asked for them beforehand."""
    whole = np.zeros((n + room, 8), np.int32)
    whole[:n, PARENT] = whole[:n, LAST] = np.arange(n)
    whole[:n, FOLLOWING] = -1
    whole[:n, WAITING] = 1
    return whole


@given(st.permutations(range(60)), st.integers(0, 60))
def test_long_tracks_are_put_in_order(numbers, n):
    whole = fresh_rows(60)
    whole[:, SLOT], whole[:, PEAK] = np.array(numbers) // 7, np.array(numbers) % 7
    whole[:, FOLLOWING] = np.append(np.arange(1, 60), -1)
    whole[n - 1, FOLLOWING] = -1
    frames = np.repeat(np.arange(9), 3).reshape(9, 3)
    rows, starts = np.empty(60, np.int64), np.empty(2, np.int64)
    roots = np.zeros(min(n, 1), np.int64)
    track_kernels.take_tracks(roots, whole, frames, rows, starts)
    assert np.array(numbers)[rows[: starts[len(roots)]]].tolist() == sorted(numbers[:n])


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9),
    st.lists(st.integers(0, 9), max_size=4),
    st.lists(st.integers(0, 6), min_size=10, max_size=10),
)
def test_rows_that_are_left_keep_their_order_and_their_tracks(links, taken, slots):
    n = 10
    whole, numbers = fresh_rows(n), np.arange(8.0 * n).reshape(n, 8)
    whole[:, SLOT], whole[:, PEAK] = slots, np.arange(n) + 100
    for x, y in links:
        track_kernels.join_tracks(np.array([x], np.int32), np.array([y], np.int32), 0, 0, False, whole)
    frames, motors = np.arange(21).reshape(7, 3), np.arange(14.0).reshape(7, 2)
    tracks = tracks_of(whole, frames, motors, numbers, n)
    gone = sorted({root for root in taken if whole[root, PARENT] == root})
    rows, starts = np.empty(n, np.int64), np.empty(len(gone) + 1, np.int64)
    track_kernels.take_tracks(np.array(gone, np.int64), whole, frames, rows, starts)
    left = [k for k in range(n) if whole[k, PARENT] >= 0]
    place, used = np.empty(n + 1, np.int64), np.zeros(7, np.int64)
    kept = track_kernels.sweep_rows(n, whole, numbers, place, used)
    assert place.tolist() == [left.index(k) if k in left else -1 for k in range(n)] + [-1]
    assert np.flatnonzero(used).tolist() == sorted({slots[k] for k in left})
    assert track_kernels.sweep_slots(kept, whole, used, frames, motors) == len({slots[k] for k in left})
    assert kept == len(left)
    wanted = [each for root, each in tracks.items() if root not in gone]
    assert list(tracks_of(whole, frames, motors, numbers, kept).values()) == wanted


def tracks_of(whole, frames, motors, numbers, n):
    """Tracks by their root: what is known of each of their peaks, in the order of the list."""
    tracks = {}
    for root in range(n):
        row = root if whole[root, PARENT] == root else -1
        while row >= 0:
            slot = whole[row, SLOT]
            peak = (frames[slot].tolist(), motors[slot].tolist(), whole[row, PEAK], numbers[row].tolist())
            tracks.setdefault(root, []).append(peak)
            assert whole[root, LAST] >= 0
            last, row = row, whole[row, FOLLOWING]
            assert row >= 0 or last == whole[root, LAST]
    return tracks

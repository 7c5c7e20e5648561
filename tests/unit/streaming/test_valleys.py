"""Valleys along a track: the twin, independence of what else is cut, and what is and is not a valley."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_links import naive_valley_cuts

from hedmlive.streaming.valleys import valley_cuts


def cuts(members, links, **options):
    """Cut links (a, b, distance) of members (intensity, row, column)."""
    intensity, row, col = (np.array([each[k] for each in members], float) for k in range(3))
    a, b = (np.array([each[k] for each in links], np.int64) for k in (0, 1))
    distance = np.array([each[2] for each in links], float)
    return valley_cuts(intensity, row, col, a, b, distance, **options).tolist()


def chain(intensity, shift=0.0, **options):
    """Cut a chain of members whose rows differ by shift."""
    members = [(each, k * shift, 5.0) for k, each in enumerate(intensity)]
    return cuts(members, [(k, k + 1, 0.5) for k in range(len(intensity) - 1)], **options)


@st.composite
def graphs(draw):
    """Members with ties and steps of every size, and links with ties in their distance, doubled ones too."""
    n = draw(st.integers(1, 14))
    intensity = st.sampled_from([0.0, 1.0, 5.0, 90.0, 99.0, 100.0, 101.0, 400.0, 10_000.0, 10_100.0])
    place = st.sampled_from([0.0, 0.25, 0.5, 7.0])
    members = draw(st.lists(st.tuples(intensity, place, place), min_size=n, max_size=n))
    link = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.sampled_from([0.0, 0.5, 1.0]))
    return members, draw(st.lists(link, max_size=30))


options = st.fixed_dictionaries(
    {
        "fraction": st.sampled_from([0.0, 0.5, 0.85, 1.0]),
        "apart": st.sampled_from([0.0, 0.5, 1.0, np.inf]),
        "n_sigma": st.sampled_from([0.0, 1.0, 3.0]),
    }
)


@given(graph=graphs(), options=options)
def test_cuts_are_the_naive_twin(graph, options):
    members, links = graph
    columns = [*zip(*members, strict=True), *(zip(*links, strict=True) if links else [(), (), ()])]
    assert cuts(members, links, **options) == naive_valley_cuts(*columns, **options)


@given(first=graphs(), second=graphs(), options=options)
def test_tracks_are_cut_alike_alone_and_together(first, second, options):
    n = len(first[0])
    moved = [(a + n, b + n, distance) for a, b, distance in second[1]]
    alone = cuts(*first, **options) + cuts(*second, **options)
    assert cuts(first[0] + second[0], first[1] + moved, **options) == alone
    # Their members may also be mixed, as long as each track's own keep their order.
    place = np.argsort(np.concatenate([np.arange(n) * 2, np.arange(len(second[0])) * 2 + 1]), kind="stable")
    where = np.argsort(place).tolist()
    mixed = [(first[0] + second[0])[k] for k in place]
    links = [(where[a], where[b], distance) for a, b, distance in first[1] + moved]
    assert cuts(mixed, links, **options) == alone


@given(graph=graphs(), options=options)
def test_every_spot_stays_connected_and_has_one_maximum(graph, options):
    members, links = graph
    kept = [each for each, cut in zip(links, cuts(members, links, **options), strict=True) if not cut]
    # What is whole is not cut again: a valley parts two spots, never one.
    if kept:
        assert not any(cuts(members, kept, **options))


def test_two_spots_in_one_track_are_parted_at_the_valley():
    assert chain([100, 900, 200, 1000, 50]) == [False, False, True, False]


def test_the_valley_goes_with_its_nearer_neighbour():
    members = [(1000, 5, 5), (100, 5, 5), (1000, 5, 5)]
    assert cuts(members, [(0, 1, 0.9), (1, 2, 0.2)]) == [True, False]
    assert cuts(members, [(0, 1, 0.2), (1, 2, 0.2)]) == [False, True]


@pytest.mark.parametrize(
    ("intensity", "options", "wanted"),
    [
        ([1000, 310, 1000], {}, [False, False]),
        ([1000, 290, 1000], {}, [False, True]),
        ([1000, 310, 1000], {"fraction": 0.5}, [False, True]),
        ([1000, 0, 1000], {"fraction": 0.0}, [False, False]),
        # The maxima are 0.35 pixels apart, half of 0.7: the part is 0.65.
        ([1000, 640, 1000], {"shift": 0.175}, [False, True]),
        ([1000, 660, 1000], {"shift": 0.175}, [False, False]),
        ([1000, 840, 1000], {"shift": 0.5}, [False, True]),
        ([1000, 840, 1000], {"shift": 0.5, "apart": np.inf}, [False, False]),
        # 840 is 3.7 standard deviations below 1000.
        ([1000, 840, 1000], {"shift": 0.5, "n_sigma": 4.0}, [False, False]),
        ([10, 2, 10], {}, [False, False]),
        ([10, 2, 10], {"n_sigma": 0.0}, [False, True]),
        ([1, 50, 300, 300, 20], {}, [False] * 4),
    ],
)
def test_what_a_valley_is(intensity, options, wanted):
    assert chain(intensity, **options) == wanted


def test_a_way_around_fills_a_valley():
    # A grid of two rows: the dip in one row is none, for the other row leads past it.
    around = [(0, 1, 0.1), (1, 2, 0.1), (0, 3, 0.5), (3, 4, 0.5), (4, 5, 0.5), (2, 5, 0.5)]
    assert not any(cuts([(each, 5, 5) for each in (1000, 10, 1000, 950, 960, 970)], around))


def test_nothing_to_cut():
    assert cuts([], []) == []
    assert cuts([(5.0, 1.0, 1.0)], []) == []

"""How far linked peaks may be apart: the twin, and what size and width bring."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_links import naive_distance_limit

from hedmlive.streaming.limit_kernels import distance_limit


def limits(a, b, pairs, by_size, by_width):
    a, b = np.array(a), np.array(b)
    return [distance_limit(a, p, b, q, by_size, by_width) for p, q in pairs]


place = st.floats(-5000, 5000)
variance = st.floats(0, 50)
peaks = st.tuples(place, place, st.integers(1, 1000), variance, variance, st.floats(-50, 50))


@given(
    a=st.lists(peaks, min_size=1, max_size=4),
    b=st.lists(peaks, min_size=1, max_size=4),
    by_size=st.floats(0, 3),
    by_width=st.floats(0, 2),
)
def test_limits_are_the_naive_twin(a, b, by_size, by_width):
    # What lies at the same place has no direction.
    b = [*b, a[0]]
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
    wanted = [naive_distance_limit(a[i], b[j], by_size, by_width) for i, j in pairs]
    assert limits(a, b, pairs, by_size, by_width) == wanted


@pytest.mark.parametrize(
    ("b", "wanted"),
    [
        ((5.0, 5.0, 40, 4.0, 1.0, 0.0), 0.7),
        ((6.0, 5.0, 40, 4.0, 1.0, 0.0), 0.7 + 0.25 * 2),
        ((5.0, 4.0, 40, 4.0, 1.0, 0.0), 0.7 + 0.25 * 1),
        ((5.0, 4.0, 10, 0.1, 0.1, 0.0), 2.8 + 0.25 * 1),
        ((5.0, 4.0, 80, 9.0, 9.0, 0.0), 1.4 + 0.25 * 3),
    ],
)
def test_small_peaks_may_lie_anywhere_on_a_wide_one(b, wanted):
    assert limits([(5.0, 5.0, 40, 4.0, 1.0, 0.0)], [b], [(0, 0)], 0.7, 0.25) == [pytest.approx(wanted, rel=1e-15)]

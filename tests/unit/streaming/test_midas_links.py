"""MIDAS's link rules: the twins, its own answer of a simulated scan, and each of its defects that we do not share."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_midas import Peak, by_angle, naive_distance, naive_next_order, naive_overlap, naive_spots

from hedmlive.streaming import FrameError, SettingsError
from hedmlive.streaming.link_kernels import runs_of_peaks
from hedmlive.streaming.midas_links import RingPeaks, midas_distance, midas_overlap

CENTRE = (6.0, 5.0)


def peak(row, col, *, pixels=(), **changed):
    """A peak, its angle as MIDAS has it: from +Z, negative on the side of +y."""
    z, y = row - CENTRE[0], CENTRE[1] - col
    radius = np.hypot(y, z)
    eta = np.degrees(np.arccos(z / radius)) if radius else 0.0
    given = {"radius": float(radius), "eta": float(-eta if y > 0 else eta), "intensity": 100.0}
    return Peak(row=float(row), col=float(col), pixels=list(pixels), **(given | changed))


def blob(row, cols, **changed):
    """A peak of pixels in one row."""
    return peak(row, np.mean(cols), pixels=[(row, col) for col in cols], **changed)


def ring_peaks(frame):
    names = ("row", "col", "radius", "eta", "intensity")
    return RingPeaks(**{name: np.array([getattr(each, name) for each in frame], float) for name in names})


def runs(frame):
    listed = sorted((row, col, number) for number, each in enumerate(frame) for row, col in each.pixels)
    row, col, number = np.array(listed, np.int32).reshape(-1, 3).T
    out = np.empty((4, len(row)), np.int32)
    n = runs_of_peaks(row.copy(), col.copy(), number.copy(), out)
    return out[:, :n].copy()


def by_distance(a, order, b, margin):
    return _partners(midas_distance(ring_peaks(a), np.array(order, int), ring_peaks(b), margin), order, b)


def by_overlap(a, order, b):
    return _partners(midas_overlap(ring_peaks(a), runs(a), np.array(order, int), ring_peaks(b), runs(b)), order, b)


def _partners(linked, order, b):
    peak_a, peak_b, order_b = (each.tolist() for each in linked)
    assert peak_a == sorted(peak_a)
    partner = dict(zip(peak_a, peak_b, strict=True))
    assert order_b == naive_next_order(order, partner, b)
    return partner


@st.composite
def frames(draw):
    """Peaks at quarters of a pixel, so that many are equally near, some of them faint or of another radius."""
    places = st.tuples(st.integers(0, 40), st.integers(0, 40))
    frame = [peak(row / 4, col / 4) for row, col in draw(st.lists(places, max_size=25))]
    changes = ({}, {}, {}, {"intensity": 0.5}, {"intensity": 1.0}, {"radius": 1.5}, {"eta": 10.0})
    return [peak(each.row, each.col, **draw(st.sampled_from(changes))) for each in frame]


@st.composite
def segmented(draw):
    """Peaks of scattered pixels, no pixel in two of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 8))
    label = rng.integers(-1, n, (7, 6))
    label[rng.random(label.shape) < draw(st.sampled_from([0.0, 0.5, 0.9]))] = -1
    changes = ({}, {}, {}, {"intensity": 0.5}, {"eta": 10.0})
    frame = []
    for number in range(n):
        pixels = list(zip(*map(np.ndarray.tolist, np.nonzero(label == number)), strict=True))
        row, col = rng.integers(0, 20, 2) / 2
        frame.append(peak(row, col, pixels=pixels, **draw(st.sampled_from(changes))))
    return frame


def an_order(draw, frame):
    return draw(st.permutations(by_angle(frame)))


@given(data=st.data(), margin=st.sampled_from([0.3, 1.0, 2.0, 2.25, 100.0]))
def test_distance_is_the_naive_twin(data, margin):
    a, b = data.draw(frames()), data.draw(frames())
    order = an_order(data.draw, a)
    assert by_distance(a, order, b, margin) == naive_distance(a, order, b, margin)


@given(data=st.data())
def test_overlap_is_the_naive_twin(data):
    a, b = data.draw(segmented()), data.draw(segmented())
    order = an_order(data.draw, a)
    assert by_overlap(a, order, b) == naive_overlap(a, order, b)


def test_a_crowded_frame_is_the_naive_twin():
    rng = np.random.default_rng(3)
    place = rng.uniform(0, 60, (400, 2))
    a = [peak(*each) for each in place]
    b = [peak(*each) for each in place + rng.normal(0, 0.8, place.shape)]
    order = rng.permutation(400).tolist()
    found = by_distance(a, order, b, 2.0)
    assert found == naive_distance(a, order, b, 2.0)
    assert 250 < len(found) < 400


def test_midas_answer_of_a_simulated_scan(shared_data):
    with h5py.File(shared_data / "midas" / "consolidated_Output.h5") as file:
        rows = file["peaks/per_frame/data"][()]
        members = np.stack([file[f"merge_map/{name}"][()] for name in ("MergedSpotID", "FrameNr", "PeakID")], 1)
    # Columns: FrameNr (from 1), SpotID in the frame, intensity, ..., YCen, ZCen, IMax, Radius, Eta
    spots, before, order = {}, RingPeaks(**dict.fromkeys(("row", "col", "radius", "eta", "intensity"), np.zeros(0))), []
    for frame in range(1, int(rows[:, 0].max()) + 1):
        mine = rows[rows[:, 0] == frame]
        intensity, col, row, radius, eta = (np.ascontiguousarray(mine[:, k]) for k in (2, 4, 5, 7, 8))
        here = RingPeaks(row=row, col=col, radius=radius, eta=eta, intensity=intensity)
        peak_a, peak_b, order = midas_distance(before, np.array(order, int), here, 2.0)
        linked = dict(zip(peak_b.tolist(), peak_a.tolist(), strict=True))
        ids = mine[:, 1].astype(int)
        for j in order.tolist():
            spots[frame, j] = spots[frame - 1, linked[j]] if j in linked else set()
            spots[frame, j].add((frame, int(ids[j])))
        before = here
        # The angles that are computed from the places give the same order as MIDAS's own.
        columns = {"row": row, "col": col, "sum_intensity": intensity}
        assert RingPeaks.of(columns, (1022.0, 1022.0)).by_angle().tolist() == here.by_angle().tolist()
    midas = {}
    for spot, frame, number in members.tolist():
        midas.setdefault(spot, set()).add((frame, number))
    ours = {frozenset(each) for each in spots.values()}
    assert (len(ours), len(spots)) == (292, 318)
    assert ours == {frozenset(each) for each in midas.values()}


def test_angle_and_radius():
    # Beam at row 10, column 20: above it, to its right (higher column), below, to its left, and on it.
    columns = {"row": [14, 10, 8, 10, 10], "col": [20, 23, 20, 15, 20], "sum_intensity": [5, 5, 5, 5, 5]}
    found = RingPeaks.of({name: np.array(each) for name, each in columns.items()}, (10.0, 20.0))
    assert found.radius.tolist() == [4, 3, 2, 5, 0]
    assert found.eta[:4].tolist() == [0, 90, 180, -90]
    assert found.by_angle().tolist() == [3, 0, 1, 2, 4]


def test_faint_peaks_are_in_no_order():
    a, b = [peak(1, 1, intensity=0.99)], [peak(1, 1), peak(1, 4, intensity=0.5)]
    assert by_angle(a) == []
    assert [each.tolist() for each in midas_distance(ring_peaks(a), np.zeros(0, int), ring_peaks(b), 2.0)] == [
        [],
        [],
        [0],
    ]


@pytest.mark.parametrize("margin", [0.0, -1.0, np.nan, np.inf])
def test_margin_is_above_zero(margin):
    with pytest.raises(SettingsError, match="wants a number above 0"):
        midas_distance(ring_peaks([]), np.zeros(0, int), ring_peaks([]), margin)


@pytest.mark.parametrize("order", [[0, 0], [-1], [2]])
def test_a_foreign_order_is_refused(order):
    a = [peak(1, 1), peak(4, 4)]
    with pytest.raises(FrameError, match="hand on what was returned"):
        midas_distance(ring_peaks(a), np.array(order), ring_peaks(a), 2.0)
    with pytest.raises(FrameError, match="hand on what was returned"):
        midas_overlap(ring_peaks(a), runs(a), np.array(order), ring_peaks(a), runs(a))


# What each rule is, in one example each: the differences from other rules and programs that parity.md names.


def test_the_margin_itself_is_too_far():
    assert by_distance([peak(0, 0)], [0], [peak(0, 2)], 2.0) == {}
    assert by_distance([peak(0, 0)], [0], [peak(0, 1.99)], 2.0) == {0: 0}


def test_who_is_asked_first_decides():
    # Both are nearest to peak 0 of b, and peak 1 is nearer.
    a, b = [peak(5, 5), peak(5, 6)], [peak(5, 5.7), peak(5, 4)]
    assert by_distance(a, [1, 0], b, 2.0) == {0: 1, 1: 0}
    # Asked first, peak 0 is turned away for peak 1, and is not asked again.
    assert by_distance(a, [0, 1], b, 2.0) == {1: 0}


def test_of_equally_near_ones_the_last_of_the_lowest_square_as_in_c():
    a = [peak(5, 5)]
    same_square = [peak(5.5, 5.5), peak(5.5, 4.5), peak(5.5, 5.5)]
    # Squares of 2 pixels: all lie in one, and the highest angle wins.
    assert by_angle(same_square)[-1] == 2
    assert by_distance(a, [0], same_square, 2.0) == {0: 2}
    # MIDAS's Python port gives the lowest angle.
    assert naive_distance(a, [0], same_square, 2.0, port=True) == {0: by_angle(same_square)[0]}
    # With squares of 5 pixels column 4.5 lies in a lower one than 5.5, whatever the angles are.
    assert by_distance(a, [0], same_square, 5.0) == {0: 1}


def test_radii_differ_by_no_more_than_the_margin():
    assert by_distance([peak(5, 9)], [0], [peak(5, 9, radius=7.0)], 2.0) == {}


def test_common_pixels_need_no_nearness():
    # Two long peaks that share one pixel, centroids 20 pixels apart: linked, as MIDAS does.
    a, b = [blob(3, range(21))], [blob(3, range(20, 41))]
    assert by_overlap(a, [0], b) == {0: 0}


def test_best_is_of_one_side():
    # The only peak of b shares most with peak 0. Peak 1, which has no other, gets none.
    a, b = [blob(2, range(3)), blob(2, range(3, 5))], [blob(2, range(5))]
    assert by_overlap(a, [0, 1], b) == {0: 0}
    # Peak 0 of a shares most with peak 0 of b, which asks for peak 1; it gets its second best.
    a = [blob(2, range(4)), blob(2, range(4, 10))]
    b = [blob(2, range(1, 8)), blob(2, range(1))]
    assert by_overlap(a, [0, 1], b) == {0: 1, 1: 0}


def test_every_spot_that_a_peak_meets_is_counted():
    """MIDAS's program counts 64, and would take one of them."""
    a = [*(blob(2, [col]) for col in range(64)), blob(2, range(64, 70))]
    assert by_overlap(a, by_angle(a), [blob(2, range(70))]) == {64: 0}


# MIDAS's program compares the wrong pixels; the twin shows what comes of it, and we compare the right ones.


def as_midas(a, order, b):
    return naive_overlap(a, order, b, as_midas=True)


def test_pixel_lists_stay_with_their_peaks():
    """In the program they come in the order of its file, and peaks by angle."""
    upper, lower = blob(8, [3, 4]), blob(2, [3, 4])
    assert by_angle([upper, lower]) == [1, 0]
    right = {frozenset({(0, 0), (1, 1)}), frozenset({(0, 1), (1, 0)})}
    scan = [[upper, lower], [lower, upper]]
    assert naive_spots(scan, by_overlap) == right
    assert naive_spots(scan, as_midas) == {frozenset({(0, 0), (1, 0)}), frozenset({(0, 1), (1, 1)})}
    # A faint peak moves the lists behind it, too.
    faint = blob(9, [8], intensity=0.5)
    assert naive_spots([[lower, upper], [faint, lower, upper]], by_overlap) == {
        frozenset({(0, 0), (1, 1)}),
        frozenset({(0, 1), (1, 2)}),
    }
    assert frozenset({(0, 0), (1, 2)}) in naive_spots([[lower, upper], [faint, lower, upper]], as_midas)


def test_pixel_lists_are_ordered_with_the_open_spots():
    """In the program only the spots are, from the third frame on: linked ones first."""
    new, old = blob(9, [3, 4], eta=-20.0), blob(2, [3, 4], eta=20.0)
    scan = [[old], [new, old], [new, old]]
    assert naive_spots(scan, by_overlap) == {frozenset({(0, 0), (1, 1), (2, 1)}), frozenset({(1, 0), (2, 0)})}
    assert naive_spots(scan, as_midas) == {frozenset({(0, 0), (1, 1), (2, 0)}), frozenset({(1, 0), (2, 1)})}


def test_a_peak_has_its_own_pixels():
    """The program's file holds the whole region's pixels with each of its peaks: the last paints over the others."""
    own = [blob(2, range(4)), blob(2, range(4, 8))]
    region = [(2, col) for col in range(8)]
    of_region = [peak(each.row, each.col, pixels=region) for each in own]
    order = [0, 1]
    assert by_overlap(own, order, own) == {0: 0, 1: 1}
    assert set(naive_overlap(of_region, order, of_region)) == {1}

"""Rocking curves and sinograms: the twin, and what a user asks of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_curves import naive_grid, naive_points, position_of, rows

from hedmlive.streaming import SettingsError
from hedmlive.streaming.curves import Curves, rocking_curve, sinogram

NAN = float("nan")
MOTORS = ("omega", "dty", "L1", "L2")
TURN = {"omega": 360.0}


def tables(frames, peaks, members):
    """Tables of (frame, omega, dty), (frame, peak, intensity, n_pixels) and (track, frame, peak)."""
    number, omega, dty = np.array(frames, float).reshape(-1, 3).T
    frame, peak, intensity, n_pixels = np.array(peaks, float).reshape(-1, 4).T
    track, of_frame, of_peak = np.array(members, np.int64).reshape(-1, 3).T
    nothing = np.full(len(number), NAN)
    return {
        "frames": {
            "frame": number.astype(np.int64),
            "omega_start": omega - 0.5,
            "omega_end": omega + 0.5,
            "dty": dty,
            "L1": nothing,
            "L2": nothing,
        },
        "peaks": {
            "frame": frame.astype(np.int64),
            "peak": peak.astype(np.int32),
            "sum_intensity": intensity,
            "n_pixels": n_pixels.astype(np.int32),
        },
        "members": {"track": track, "frame": of_frame, "peak": of_peak.astype(np.int32)},
    }


@st.composite
def reductions(draw):
    """A few frames at positions that come again, and tracks of their peaks."""
    n = draw(st.integers(1, 8))
    omegas = st.sampled_from([0.0, 1.0, 1.0004, 2.0, 180.0, 359.0, 360.0, 361.0, -1.0, 720.0, NAN])
    dtys = st.sampled_from([0.0, 0.0, 0.5, 0.5005, 1.0, NAN])
    frames = [(number, draw(omegas), draw(dtys)) for number in range(n)]
    peaks = [
        (number, k, draw(st.integers(1, 99)) / 7, draw(st.integers(1, 9))) for number in range(n) for k in range(2)
    ]
    members = [(draw(st.integers(0, 2)), number, k) for number, k, *_ in peaks]
    order = draw(st.permutations(range(len(peaks)))), draw(st.permutations(range(n)))
    made = tables([frames[i] for i in order[1]], [peaks[i] for i in order[0]], [members[i] for i in order[0][::-1]])
    tracks = draw(st.lists(st.sampled_from(sorted({each[0] for each in members})), min_size=1, unique=True))
    return made, tracks


@given(reductions(), st.sampled_from([("omega",), ("dty",), ("omega", "dty"), ("dty", "omega")]))
def test_points_are_those_of_the_twin(drawn, motors):
    made, tracks = drawn
    curves = Curves(made)
    own = {each["frame"] for each in rows(made["members"]) if each["track"] in tracks}
    mine = [each for each in rows(made["frames"]) if each["frame"] in own]
    if any(math.isnan(position_of(each, motor)) for each in mine for motor in motors):
        with pytest.raises(SettingsError, match="never came"):
            curves.points(tracks, motors)
        return
    found = curves.points(tracks, motors)
    wanted = naive_points(made, tracks, motors, MOTORS, TURN, 1e-3)
    assert list(zip(*(each.tolist() for each in found.values()), strict=True)) == wanted
    cells, positions = naive_grid(wanted, len(motors), 1e-3)
    if len(motors) == 1:
        curve = curves.rocking_curve(tracks, motors[0])
        assert curve.position.tolist() == positions[0]
        sums = zip(curve.intensity, curve.n_pixels, curve.n_peaks, curve.n_frames, strict=True)
        assert [list(each) for each in sums] == [cells[k,] for k in range(len(curve.position))]
    else:
        image = curves.sinogram(tracks, motors)
        assert [image.rows.tolist(), image.columns.tolist()] == positions
        for place in np.ndindex(image.intensity.shape):
            names = ("intensity", "n_pixels", "n_peaks", "n_frames")
            assert [getattr(image, name)[place] for name in names] == cells.get(place, [0, 0, 0, 0])


def grid(n_omega=5, n_dty=3):
    """A zigzag of whole degrees and tenths of a mm."""
    places = [(i if j % 2 == 0 else n_omega - 1 - i, j) for j in range(n_dty) for i in range(n_omega)]
    return [(number, float(i), j / 10) for number, (i, j) in enumerate(places)]


def test_a_track_in_a_grid():
    # Frame 1 is (1, 0.0), 8 is (1, 0.1), 6 is (3, 0.1); 7, at (2, 0.1), shows nothing; nor does 2, at (2, 0.0).
    made = tables(grid(), [(1, 0, 10, 2), (8, 0, 20, 3), (6, 0, 5, 1), (6, 1, 1, 1)], [(7, 1, 0), (7, 8, 0), (7, 6, 1)])
    curve = rocking_curve(made, 7)
    assert curve.position.tolist() == [1, 2, 3]
    assert curve.intensity.tolist() == [30, 0, 1]
    assert curve.n_pixels.tolist() == [5, 0, 1]
    assert curve.n_frames.tolist() == [2, 2, 2]
    assert rocking_curve(made, 7, "dty").intensity.tolist() == [10, 21]
    image = sinogram(made, 7)
    assert (image.rows.tolist(), image.columns.tolist()) == ([1, 2, 3], [0, 0.1])
    assert image.intensity.tolist() == [[10, 20], [0, 0], [0, 1]]
    assert image.n_frames.tolist() == [[1, 1], [1, 1], [1, 1]]
    assert sinogram(made, 7, ("dty", "omega")).intensity.tolist() == image.intensity.T.tolist()


def test_a_missing_frame_is_told_from_an_empty_one():
    frames = [each for each in grid() if each[0] != 7]
    made = tables(frames, [(1, 0, 10, 2), (6, 0, 5, 1)], [(7, 1, 0), (7, 6, 0)])
    assert sinogram(made, 7).n_frames.tolist() == [[1, 1], [1, 0], [1, 1]]


def test_several_tracks_are_added_up_over_their_common_range():
    made = tables(grid(5, 1), [(0, 0, 10, 2), (4, 0, 5, 1)], [(1, 0, 0), (2, 4, 0)])
    assert rocking_curve(made, 1).intensity.tolist() == [10]
    assert rocking_curve(made, [1, 2]).intensity.tolist() == [10, 0, 0, 0, 5]


@pytest.mark.parametrize("sense", [1, -1])
def test_a_track_over_the_end_of_the_turn(sense):
    frames = [(number, sense * (number + 0.5), NAN) for number in range(360)]
    made = tables(frames, [(0, 0, 3, 1), (358, 0, 1, 1), (359, 0, 2, 1)], [(0, 0, 0), (0, 358, 0), (0, 359, 0)])
    curve = rocking_curve(made, 0)
    assert curve.position.tolist() == sorted([sense * 0.5, sense * -0.5, sense * -1.5])
    assert curve.intensity.tolist() == [1, 2, 3][::sense]
    assert len(Curves(made, periods={}).rocking_curve(0).position) == 360


def test_a_track_all_the_way_round_begins_with_its_first_frame():
    frames = [(number, number / 4, NAN) for number in range(1440)]
    made = tables(frames, [(number, 0, 1, 1) for number in range(1440)], [(0, number, 0) for number in range(1440)])
    curve = rocking_curve(made, 0)
    assert curve.position.tolist() == [number / 4 for number in range(1440)]


def test_the_same_place_in_three_turns_is_one():
    frames = [(number, 90.0 * number, NAN) for number in range(12)]
    made = tables(frames, [(1, 0, 1, 1), (5, 0, 2, 1), (10, 0, 4, 1)], [(0, 1, 0), (0, 5, 0), (0, 10, 0)])
    curve = rocking_curve(made, 0)
    assert (curve.position.tolist(), curve.intensity.tolist()) == ([90, 180], [3, 4])
    assert curve.n_frames.tolist() == [3, 3]


def test_any_column_of_frames_is_a_motor():
    made = tables(grid(3, 1), [(0, 0, 1, 1), (2, 0, 2, 1)], [(0, 0, 0), (0, 2, 0)])
    made["frames"]["load"] = np.array([5.0, 6.0, 4.0])
    assert rocking_curve(made, 0, "load").position.tolist() == [4, 5]
    assert Curves(made, motors=("load",)).rocking_curve(0).position.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda made: rocking_curve(made, 9), r"tracks \[9\] have no members"),
        (lambda made: rocking_curve(made, []), "wanted one or more"),
        (lambda made: rocking_curve(made, 0, "load"), "load is no motor"),
        (lambda made: rocking_curve(made, 0, "L1"), "L1 of frame 0 never came"),
        (lambda made: sinogram(made, 0, ("dty", "dty")), "dty against itself"),
        (lambda made: rocking_curve(made | {"frames": {}}, 0), "table frames lacks"),
        (lambda made: rocking_curve({}, 0), "table members lacks"),
        (lambda made: rocking_curve(made | {"peaks": {k: v[:1] for k, v in made["peaks"].items()}}, 0), "names a peak"),
        (lambda made: rocking_curve(made | {"frames": {k: v[:1] for k, v in made["frames"].items()}}, 0), "a frame"),
    ],
)
def test_what_cannot_be_answered_is_said(ask, says):
    made = tables(grid(3, 1), [(0, 0, 1, 1), (2, 0, 2, 1)], [(0, 0, 0), (0, 2, 0)])
    with pytest.raises(SettingsError, match=says):
        ask(made)

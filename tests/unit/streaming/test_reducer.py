"""The whole reduction: pushed one by one, it is its naive twin, to the bit; what has closed never changes."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import naive_reduce
from unit.streaming.strategies import DTYPES, images, recipes, sparse, sweeps

from hedmlive.streaming import TABLES, Corrections, Frame, FrameError, Recipe, Reducer, digest, join, tables_with_roles
from hedmlive.streaming.link_kernels import LONGEST


def pushed(frames, recipe, **given_):
    reducer = Reducer(recipe, **given_)
    return [*(reducer.push(frame) for frame in frames), reducer.flush()]


def in_order(batches, recipe=None):
    """All rows of each table in the order of its key."""
    joined = join(batches)
    tables = tables_with_roles({}, candidates=recipe is not None and recipe.keep_candidates)
    rows = {name: joined.get(name, table.empty()) for name, table in tables.items()}
    orders = {name: np.lexsort(tuple(rows[name][key] for key in reversed(TABLES[name].key))) for name in rows}
    return {name: {key: values[orders[name]] for key, values in rows[name].items()} for name in rows}


def assert_same(got, wanted):
    assert list(got) == list(wanted)
    for name, columns in wanted.items():
        assert list(got[name]) == list(columns)
        for key, values in columns.items():
            assert got[name][key].dtype == values.dtype
            np.testing.assert_array_equal(got[name][key], values, err_msg=f"{name}.{key}")


def digest_of(batches):
    return digest(TABLES, lambda name: [batch[name] for batch in batches if name in batch])


@settings(max_examples=150)
@given(frames=sweeps(), recipe=recipes(), data=st.data())
def test_it_is_its_naive_twin(frames, recipe, data):
    shape = frames[0].image.shape if frames else (1, 1)
    mask = data.draw(st.none() | images(shape, "uint8", top=1))
    dark = data.draw(st.none() | images(shape, "float64").map(lambda each: each / 4))
    recipe = replace(recipe, background="constant" if dark is None else "dark")
    batches = pushed(frames, recipe, corrections=Corrections(dark=dark, mask=mask))
    assert_same(in_order(batches, recipe), naive_reduce(frames, recipe, dark, mask))


@settings(max_examples=25)
@given(frames=sweeps(), recipe=recipes(), dtype=st.sampled_from(DTYPES))
def test_sparse_frames_and_other_types_give_the_same(frames, recipe, dtype):
    cast = [replace(frame, image=frame.image.astype(dtype)) for frame in frames]
    thin = [replace(frame, image=sparse(frame.image)) for frame in frames]
    wanted = digest_of(pushed(frames, recipe))
    assert digest_of(pushed(cast, recipe)) == wanted
    assert digest_of(pushed(thin, recipe)) == wanted


@settings(max_examples=40)
@given(frames=sweeps(), recipe=recipes())
def test_later_frames_change_nothing_that_has_closed(frames, recipe):
    whole = in_order(pushed(frames, recipe))
    reducer = Reducer(recipe)
    for frame in frames:
        for name, rows in reducer.push(frame).items():
            keys = TABLES[name].key
            final = {tuple(row): k for k, row in enumerate(zip(*(whole[name][key] for key in keys), strict=True))}
            at = [final[row] for row in zip(*(rows[key] for key in keys), strict=True)]
            for column, values in rows.items():
                np.testing.assert_array_equal(values, whole[name][column][at])


@settings(max_examples=40)
@given(frames=sweeps(), recipe=recipes(), data=st.data())
def test_a_refused_frame_is_as_if_it_were_missing(frames, recipe, data):
    bad = data.draw(st.sets(st.sampled_from([frame.frame for frame in frames]))) if frames else set()
    reducer, batches = Reducer(recipe), []
    for frame in frames:
        if frame.frame in bad:
            with pytest.raises(FrameError):
                reducer.push(replace(frame, image=np.full((3, 4), np.nan)))
        else:
            batches.append(reducer.push(frame))
    batches.append(reducer.flush())
    assert_same(in_order(batches), in_order(pushed([f for f in frames if f.frame not in bad], recipe)))


@settings(max_examples=30)
@given(frames=sweeps(), recipe=recipes())
def test_open_tracks_are_counted(frames, recipe):
    reducer, n_peaks, n_members = Reducer(recipe), 0, 0
    for frame in frames:
        out = reducer.push(frame)
        n_peaks += len(out.get("peaks", {}).get("peak", ()))
        n_members += len(out.get("members", {}).get("peak", ()))
        assert (reducer.n_open_tracks == 0) == (n_peaks == n_members)
        assert reducer.n_open_tracks <= n_peaks - n_members
    reducer.flush()
    assert reducer.n_open_tracks == 0


def dot(number, start, end, *, lit=True, **roles):
    image = np.zeros((3, 3), np.uint16)
    image[1, 1] = 8 if lit else 0
    return Frame(frame=number, point=number, image=image, omega_start=start, omega_end=end, roles=roles)


def tracks_of(frames, **numbers):
    return in_order(pushed(frames, Recipe(threshold=0, **numbers)))["tracks"]


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("wide", [0.0, 10.0])
@pytest.mark.parametrize("begin", [-180.0, 0.0, 1234.5])
def test_a_full_turn_wraps(sense, wide, begin):
    lit = {0, 1, 5, 34, 35}
    frames = [dot(k, begin + sense * 10 * k, begin + sense * (10 * k + wide), lit=k in lit) for k in range(36)]
    tracks = tracks_of(frames)
    assert tracks["n_peaks"].tolist() == [4, 1]
    assert tracks["wraps"].tolist() == [True, False]
    middle = begin + sense * (-5 + wide / 2)
    np.testing.assert_allclose(tracks["omega"], [middle, begin + sense * (50 + wide / 2)])
    np.testing.assert_allclose(tracks["omega_width"], [30 + wide, wide])
    assert tracks_of(frames, wrap=False)["n_peaks"].tolist() == [2, 1, 2]


def test_a_wrapping_track_is_split_at_its_widest_gap():
    # Longer than half a turn on one side: the middle of its frames is no place to split it.
    frames = [dot(k, 10.0 * k, 10.0 * k + 10, lit=k < 25 or k == 35) for k in range(36)]
    tracks = tracks_of(frames)
    assert (tracks["omega_min"].tolist(), tracks["omega_max"].tolist()) == ([-10.0], [250.0])


def test_a_track_all_the_way_round_stays_as_it_is():
    tracks = tracks_of([dot(k, 10.0 * k, 10.0 * k + 10) for k in range(36)])
    assert tracks["wraps"].tolist() == [True]
    assert (tracks["omega_min"].tolist(), tracks["omega_max"].tolist()) == ([0.0], [360.0])


@pytest.mark.parametrize(("missing", "max_gap", "wraps"), [(0, 0, False), (0, 1, True), (35, 0, False), (35, 1, True)])
@pytest.mark.parametrize("wide", [0.0, 10.0])
def test_a_missing_end_of_the_turn_is_bridged_by_max_gap(missing, max_gap, wraps, wide):
    frames = [dot(k, 10.0 * k, 10.0 * k + wide) for k in range(36) if k != missing]
    frames[17] = replace(frames[17], image=np.zeros((3, 3), np.uint16))
    frames[18] = replace(frames[18], image=np.zeros((3, 3), np.uint16))
    assert tracks_of(frames, max_gap=max_gap)["wraps"].any() == wraps


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([dot(k, 5.0 * k, 5.0 * k + 5) for k in range(36)], id="half a turn"),
        pytest.param([dot(k, 10.0 * k, 10.0 * k + 10) for k in range(72)], id="two turns"),
        pytest.param([dot(k, 10.0 * k, 10.0 * k + 10, dty=float(k == 35)) for k in range(36)], id="elsewhere"),
        pytest.param([dot(k, 120.0 * k, 120.0 * k + 1) for k in range(3)], id="three narrow frames"),
        pytest.param([dot(k, float("nan"), float("nan")) for k in range(4)], id="no omega"),
        pytest.param([dot(0, 0.0, 360.0)], id="one frame"),
        pytest.param([dot(k, 360.0, 360.0) for k in range(4)], id="no motion"),
    ],
)
def test_no_full_turn_does_not_wrap(frames):
    assert not tracks_of(frames)["wraps"].any()


def test_a_track_is_closed_once_no_frame_can_join_it():
    reducer = Reducer(Recipe(threshold=0, wrap=False))
    assert "tracks" not in reducer.push(dot(0, 0.0, 1.0))
    assert "tracks" not in reducer.push(dot(1, 1.0, 2.0))
    assert reducer.n_open_tracks == 1
    closed = reducer.push(dot(2, 2.0, 3.0, lit=False))
    assert closed["tracks"]["n_peaks"].tolist() == [2]
    assert closed["members"]["frame"].tolist() == [0, 1]
    assert reducer.flush() == {}


def test_a_long_scan_with_a_hot_pixel_sweeps_out_what_has_closed():
    frames = []
    for k in range(3000):
        image = np.zeros((9, 9), np.uint16)
        image[0, 0] = 5
        image[2 + 2 * (k % 3), 2:9:3] = 1 + k % 7
        frames.append(Frame(frame=k, point=k, image=image, omega_start=k / 10, omega_end=(k + 1) / 10))
    tracks = tracks_of(frames)
    assert tracks["n_peaks"].max() == 3000
    assert len(tracks["track"]) == 1 + 3 * 3000
    assert tracks["n_peaks"].sum() == 4 * 3000


def test_nothing_pushed_is_nothing_reduced():
    reducer = Reducer(Recipe(threshold=0))
    assert reducer.flush() == {}
    reducer = Reducer(Recipe(threshold=0))
    reducer.push(dot(0, 0.0, 1.0))
    assert reducer.flush()["tracks"]["n_peaks"].tolist() == [1]
    assert reducer.flush() == {}


def test_a_frame_out_of_order_is_refused_where_the_background_follows():
    reducer = Reducer(Recipe(threshold=0, background="running-median"), corrections=Corrections(dark=np.zeros((3, 3))))
    reducer.push(dot(1, 1.0, 2.0))
    with pytest.raises(FrameError, match="frame 0 came after frame 1"):
        reducer.push(dot(0, 0.0, 1.0))


def test_a_frame_comes_once():
    reducer = Reducer(Recipe(threshold=0))
    reducer.push(dot(1, 1.0, 2.0))
    with pytest.raises(FrameError, match="frame 1 came twice"):
        reducer.push(dot(1, 0.0, 1.0))
    with pytest.raises(FrameError, match="frame -1 came; wanted a number from 0 on"):
        reducer.push(dot(-1, 0.0, 1.0))
    reducer.missing(0)
    with pytest.raises(FrameError, match="frame 0 came after it was counted as missing"):
        reducer.push(dot(0, 0.0, 1.0))


def test_the_largest_frame_is_linked_up_to_its_corners_and_a_larger_one_is_refused():
    for shape in ((1, LONGEST), (LONGEST, 1)):
        image = np.zeros(shape, np.uint8)
        image.flat[[0, 1, -2, -1]] = 9
        frames = [Frame(frame=k, point=k, image=image, omega_start=k, omega_end=k + 1) for k in range(2)]
        links = join(pushed(frames, Recipe(threshold=1)))["links"]
        assert links["n_shared_pixels"].tolist() == [2, 2]
        larger = replace(frames[0], image=np.zeros([n + (n > 1) for n in shape], np.uint8))
        with pytest.raises(FrameError, match=f"wanted {LONGEST} rows and columns at most"):
            Reducer(Recipe(threshold=1)).push(larger)


def test_more_peaks_than_a_track_id_can_number_are_refused():
    image = np.zeros((2002, 2002), np.uint8)
    image[::2, ::2] = 1
    reducer = Reducer(Recipe(threshold=0))
    with pytest.raises(FrameError, match="frame 0 has more than 1000000 peaks; raise the threshold"):
        reducer.push(Frame(frame=0, point=0, image=image))
    assert len(reducer.push(Frame(frame=1, point=1, image=np.zeros_like(image)))["frames"]["frame"]) == 1


def test_further_roles_have_their_column():
    tables = tables_with_roles({"load": "N", "dty": "mm"})
    reducer = Reducer(Recipe(threshold=0), tables=tables)
    rows = join([reducer.push(dot(0, 0.0, 1.0, load=3.5)), reducer.push(dot(1, 1.0, 2.0))])["frames"]
    assert tuple(rows) == tables["frames"].names
    np.testing.assert_array_equal(rows["load"], [3.5, np.nan])


@pytest.mark.parametrize("dtype", ["<u2", ">i4", "f4"])
def test_warm_touches_nothing_and_runs_in_any_thread(dtype):
    errors = []

    def run():
        try:
            Reducer.warm(dtype)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_warm_refuses_a_type_that_frames_cannot_have():
    with pytest.raises(FrameError, match="complex128"):
        Reducer.warm(complex)

"""A real scan, cut in two and joined again where the turn ends, has the same tracks as uncut."""

import json

import numpy as np
import pytest

from hedmlive.streaming import Axis, Frame, FromPositions, Planned, Recipe, Reducer, SparseImage, join

SHAPE = (3888, 3072)
CASES = [(0, 300, 2), (1, 0, 1), (2, 150, 3)]
UNCUT = np.arange(1440)


@pytest.fixture(scope="module")
def ruby(shared_data):
    folder = shared_data / "ruby_ff1"
    with np.load(folder / "ruby_ff1.npz") as file:
        arrays = dict(file)
    names = {"row": "row", "col": "col", "value": "data"}
    images = [
        SparseImage(shape=SHAPE, **{name: arrays[f"{k}_{key}"] for name, key in names.items()})
        for k in range(len(arrays["omega"]))
    ]
    return arrays["omega"], images, list(json.loads((folder / "expected.json").read_text()).values())


def reduced(ruby, order, recipe, trajectory):
    omega, images, _ = ruby
    reducer = Reducer(recipe, trajectory=trajectory)
    frames = (
        Frame(frame=number, point=number, image=images[k], omega_start=omega[k, 0], omega_end=omega[k, 1])
        for number, k in enumerate(order.tolist())
    )
    return join([*(reducer.push(frame) for frame in frames), reducer.flush()])


def planned(omega, order):
    return Planned([Axis(name="omega", positions=omega[order].mean(axis=1), period=360.0)])


def tracks_of(tables, order):
    """Each track as its peaks (frame of the uncut scan, peak)."""
    members, found = tables["members"], {}
    for track, frame, peak in zip(members["track"], order[members["frame"]], members["peak"], strict=True):
        found.setdefault(int(track), set()).add((int(frame), int(peak)))
    return {frozenset(each): track for track, each in found.items()}


@pytest.mark.parametrize("through", ["180 degrees", "the longest track"])
@pytest.mark.parametrize(("case", "threshold", "min_pixels"), CASES)
def test_cut_and_joined_at_the_end_of_the_turn(ruby, case, threshold, min_pixels, through):
    recipe = Recipe(threshold=threshold, min_pixels=min_pixels)
    whole = reduced(ruby, UNCUT, recipe, None)
    # What comes behind the cut was taken first: omega is read 180 to 360, then 0 to 180.
    cut = 720
    if through == "the longest track":
        cut = int(whole["tracks"]["first_frame"][whole["tracks"]["n_frames"].argmax()]) + 1
    order = np.roll(UNCUT, -cut)
    joined = reduced(ruby, order, recipe, planned(ruby[0], order))
    expected = ruby[2][case]
    keys = {"n_peaks": ("peaks", "frame"), "n_links": ("links", "axis"), "n_tracks": ("tracks", "track")}
    counts = {name: len(joined[table][column]) for name, (table, column) in keys.items()}
    assert counts == {name: expected[name] for name in counts}
    tracks, as_before = tracks_of(joined, order), tracks_of(whole, UNCUT)
    assert set(tracks) == set(as_before)
    # What was cut goes over the end of the turn now.
    over = {tracks[peaks] for peaks in tracks if {cut - 1, cut} <= {frame for frame, _ in peaks}}
    assert over or through == "180 degrees"
    assert set(joined["tracks"]["track"][joined["tracks"]["wraps"]].tolist()) == over
    width = dict(zip(joined["tracks"]["track"].tolist(), joined["tracks"]["omega_width"].tolist(), strict=True))
    before = dict(zip(whole["tracks"]["track"].tolist(), whole["tracks"]["omega_width"].tolist(), strict=True))
    assert [width[tracks[peaks]] for peaks in tracks] == pytest.approx([before[as_before[peaks]] for peaks in tracks])


def test_the_same_from_positions_alone(ruby):
    recipe, order = Recipe(threshold=300, min_pixels=2), np.roll(UNCUT, 720)
    alone = FromPositions(axes=(Axis(name="omega", period=360.0),))
    known = reduced(ruby, order, recipe, planned(ruby[0], order))
    assert tracks_of(reduced(ruby, order, recipe, alone), order) == tracks_of(known, order)

"""Rules in which a pair depends on the pair before: the same links whatever the order in which frames come."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.streaming.strategies import images
from unit.streaming.test_reducer import assert_same, in_order

from hedmlive.streaming import (
    Axis,
    Frame,
    InOrder,
    Linkable,
    Planned,
    Recipe,
    Reducer,
    Trajectory,
    join,
    link_rules,
)

CENTRE = {"beam_centre": [3.2, 2.9]}
RULES = (
    Recipe(threshold=0, link="midas-distance", max_distance=1.5, link_options=CENTRE, split="regional-maximum"),
    Recipe(threshold=0, link="midas-overlap", link_options=CENTRE),
    Recipe(threshold=0, link="midas-overlap", link_options=CENTRE, max_gap=1),
)


def chained(frames, recipe, runs_of_frames):
    """Links of lines of frames, one pair after the other."""
    links: set[tuple[int, int, int, int]] = set()
    reducer = Reducer(recipe)
    found = {frame.frame: Linkable.of(reducer.find(frame)) for frame in frames}
    for line in runs_of_frames:
        order = None
        for a, b in pairwise(line):
            order = link_rules.first_order(found[a], recipe) if order is None else order
            candidates, order = link_rules.link_in_turn(found[a], found[b], recipe, order)
            pairs = zip(candidates.peak_a.tolist(), candidates.peak_b.tolist(), strict=True)
            links |= {(a, p, b, q) for p, q in pairs}
    return links


def lines_of(planned, here, max_gap):
    """Frames that are linked one after the other, from the naive rule: the next that is here, over a gap at most."""
    line, lines, missing = [], [], 0
    for number in planned:
        if number in here:
            if line and missing > max_gap:
                lines.append(line)
                line = []
            line.append(number)
            missing = 0
        else:
            missing += 1
    return [*lines, line]


@settings(max_examples=80)
@given(
    recipe=st.sampled_from(RULES),
    n=st.integers(1, 8),
    way=st.sampled_from(["up", "interlaced", "turn", "in order"]),
    data=st.data(),
)
def test_any_order_gives_the_links_of_the_chain(recipe, n, way, data):
    order = list(range(n))
    if way == "interlaced":
        order = [*range(0, n, 2), *range(1, n, 2)]
    place = {number: k for k, number in enumerate(order)}
    step = 360.0 / n if way == "turn" else 1.0
    here = data.draw(st.sets(st.sampled_from(range(n)), min_size=1))
    frames = [
        Frame(frame=k, point=k, image=data.draw(images((7, 6))), omega_start=step * place[k], omega_end=step * place[k])
        for k in sorted(here)
    ]
    at = np.array([step * place[k] for k in range(n)])
    trajectory: Trajectory = InOrder() if way == "in order" else Planned([Axis(name="omega", positions=at, period=360)])
    reducer = Reducer(recipe, trajectory=trajectory)
    lost = [number for number in range(n) if number not in here and data.draw(st.booleans())]
    batches = [
        reducer.missing(each) if isinstance(each, int) else reducer.push(each)
        for each in data.draw(st.permutations([*frames, *lost]))
    ]
    batches.append(reducer.flush())
    assert reducer.n_open_tracks == 0
    links = join(batches).get("links", {})
    keys = ("frame_a", "peak_a", "frame_b", "peak_b")
    got = set(zip(*(links[key].tolist() for key in keys), strict=True)) if links else set()
    assert got == chained(frames, recipe, lines_of(order, here, recipe.max_gap))
    again = Reducer(recipe, trajectory=InOrder() if way == "in order" else trajectory)
    said = [*(again.push(frame) for frame in frames), *map(again.missing, lost), again.flush()]
    assert_same(in_order(said), in_order(batches))


@pytest.mark.parametrize("n", [1000])
def test_a_long_line_that_comes_backwards(n):
    image = np.zeros((3, 3), np.uint16)
    image[1, 1] = 9
    recipe = RULES[1]
    axis = Axis(name="omega", positions=np.arange(n) * 0.01, period=360.0)
    reducer = Reducer(recipe, trajectory=Planned([axis]))
    for k in reversed(range(n)):
        reducer.push(Frame(frame=k, point=k, image=image, omega_start=0.01 * k, omega_end=0.01 * k))
    tracks = reducer.flush()
    assert not tracks
    assert reducer.n_open_tracks == 0


def test_the_beam_lies_where_the_recipe_says():
    image = np.zeros((5, 5), np.uint16)
    image[1, 1] = image[3, 3] = 9
    found = Linkable.of(Reducer(RULES[1]).find(Frame(frame=0, point=0, image=image, omega_start=math.nan)))
    assert link_rules.first_order(found, RULES[1]).tolist() == [0, 1]
    other = Recipe(threshold=0, link="midas-overlap", link_options={"beam_centre": [2.0, 0.0]})
    assert link_rules.first_order(found, other).tolist() == [1, 0]

"""The digest: independent of batching, sensitive to every number that is science."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.streaming.strategies import recipes, sweeps

from hedmlive.streaming import TABLES, Frame, Recipe, Reducer, SettingsError, digest, join


def example():
    reducer, batches = Reducer(Recipe(threshold=0, wrap=False)), []
    rng = np.random.default_rng(3)
    for k in range(4):
        image = rng.integers(0, 2, (12, 12)).astype(np.uint16) * rng.integers(1, 9, (12, 12)).astype(np.uint16)
        image[::3] = image[:, ::3] = 0
        batches.append(reducer.push(Frame(frame=k, point=k, image=image, omega_start=k, omega_end=k + 1)))
    return join([*batches, reducer.flush()])


def digest_of(tables):
    return digest(TABLES, lambda name: [tables[name]] if name in tables else [])


@settings(max_examples=25)
@given(frames=sweeps(), recipe=recipes(), data=st.data())
def test_batching_does_not_matter(frames, recipe, data):
    reducer = Reducer(recipe)
    whole = join([*(reducer.push(frame) for frame in frames), reducer.flush()])

    def cut_up(name):
        columns = whole.get(name, TABLES[name].empty())
        n = len(columns[TABLES[name].key[0]])
        cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=3))), n]
        return [{key: v[a:b] for key, v in columns.items()} for a, b in pairwise(cuts)]

    assert digest(TABLES, cut_up) == digest_of(whole)


def test_the_order_of_links_and_tracks_does_not_matter():
    tables = example()
    wanted = digest_of(tables)
    for name in ("links", "tracks", "members"):
        tables[name] = {key: values[::-1] for key, values in tables[name].items()}
    assert digest_of(tables) == wanted


@pytest.mark.parametrize(("name", "column"), [(table.name, c) for table in TABLES.values() for c in table.columns])
def test_each_column_counts_exactly_when_it_is_science(name, column):
    tables = example()
    wanted = digest_of(tables)
    values = tables[name][column.name].copy()
    assert len(values)
    # The last row, and up, so that keys stay in order.
    if values.dtype == np.bool_:
        values[-1] = not values[-1]
    else:
        values[-1] = 1 if np.isnan(values[-1]) else values[-1] + 1
    tables[name][column.name] = values
    assert (digest_of(tables) != wanted) == column.in_digest


@pytest.mark.parametrize("name", list(TABLES))
def test_a_missing_row_counts(name):
    tables = example()
    wanted = digest_of(tables)
    tables[name] = {key: values[:-1] for key, values in tables[name].items()}
    assert digest_of(tables) != wanted


def test_byte_order_nan_payload_and_the_sign_of_zero_do_not_matter():
    tables = example()
    tables["frames"]["L1"][:] = 0.0
    wanted = digest_of(tables)
    other = np.frombuffer(np.array([0x7FF8000000000123] * 4, np.uint64).tobytes(), np.float64)
    tables["frames"]["L2"] = other
    tables["frames"]["L1"] = -tables["frames"]["L1"]
    tables["peaks"]["row"] = tables["peaks"]["row"].astype(">f8")
    assert digest_of(tables) == wanted


@pytest.mark.parametrize("name", ["frames", "peaks", "pixels"])
def test_rows_out_of_order_or_twice_are_refused(name):
    tables = example()
    for rows in (tables[name], {key: np.repeat(values[:1], 2) for key, values in tables[name].items()}):
        wrong = tables | {name: {key: values[::-1] for key, values in rows.items()}}
        with pytest.raises(SettingsError, match=f"table {name}: rows are not in the order"):
            digest_of(wrong)
    with pytest.raises(SettingsError, match="not in the order"):
        digest(TABLES, lambda each: [tables[each], tables[each]])


def test_no_rows_have_a_digest_that_never_changes():
    assert digest(TABLES, lambda name: []) == digest(TABLES, lambda name: [TABLES[name].empty()] * 2)

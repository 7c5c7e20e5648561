"""The schema of the tables, the recipe, the facade."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from unit.streaming.strategies import recipes

import hedmlive.streaming
from hedmlive.streaming import (
    RECIPES,
    TABLES,
    HedmLiveError,
    Recipe,
    SettingsError,
    SparseImage,
    join,
    tables_with_roles,
)


def test_all_is_sorted_and_complete():
    names = hedmlive.streaming.__all__
    assert [name for name in names if not hasattr(hedmlive.streaming, name)] == []


def test_errors_have_one_root_and_are_built_ins_too():
    kinds = [getattr(hedmlive.streaming, name) for name in hedmlive.streaming.__all__ if name.endswith("Error")]
    assert all(issubclass(kind, HedmLiveError) for kind in kinds)
    assert all(issubclass(kind, ValueError | OSError | RuntimeError) for kind in kinds if kind is not HedmLiveError)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_tables_are_little_endian_with_a_meaning_each(table):
    assert len(set(table.names)) == len(table.names)
    assert set(table.key) <= set(table.names)
    for column in table.columns:
        assert column.dtype[0] in "<|"
        assert column.meaning
    assert {name: values.dtype.str for name, values in table.empty().items()} == {
        c.name: c.dtype for c in table.columns
    }


def test_a_batch_has_the_order_and_types_of_its_table():
    members = TABLES["members"]
    batch = members.batch({"peak": np.array([1.0]), "track": np.array([2], ">i4"), "frame": np.array([0])})
    assert [(name, values.dtype.str) for name, values in batch.items()] == [(c.name, c.dtype) for c in members.columns]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"track": [1], "frame": [1]}, r"columns \['peak'\] are missing or foreign"),
        ({"track": [1], "frame": [1], "peak": [1], "x": [1]}, r"columns \['x'\] are missing or foreign"),
        ({"track": [1], "frame": [1, 2], "peak": [1]}, "differ in length"),
    ],
)
def test_a_wrong_batch_is_refused(columns, message):
    with pytest.raises(SettingsError, match=message):
        TABLES["members"].batch({name: np.array(values) for name, values in columns.items()})


def test_roles_add_columns_to_frames_only():
    tables = tables_with_roles({"load": "N", "energy": "keV"})
    assert tables["frames"].names == (*TABLES["frames"].names, "load")
    assert tables["frames"].columns[-1].unit == "N"
    assert {name: table for name, table in tables.items() if name != "frames"} == {
        name: table for name, table in TABLES.items() if name != "frames"
    }
    assert tables_with_roles({}) == TABLES


@pytest.mark.parametrize("role", ["n_peaks", "frame", "time"])
def test_a_role_with_the_name_of_a_column_is_refused(role):
    with pytest.raises(SettingsError, match=role):
        tables_with_roles({role: ""})


def test_join_keeps_the_order():
    parts = [{"a": {"x": np.array([1])}}, {}, {"a": {"x": np.array([3, 2])}, "b": {"y": np.array([0])}}]
    joined = join(parts)
    assert joined["a"]["x"].tolist() == [1, 3, 2]
    assert joined["b"]["y"].tolist() == [0]


def test_a_sparse_image_can_be_dense():
    image = SparseImage(shape=(2, 2), row=np.array([0, 1]), col=np.array([1, 0]), value=np.array([3, 4], np.uint8))
    assert image.dense().tolist() == [[0, 3], [4, 0]]
    assert image.dtype == image.dense().dtype == np.uint8


@given(recipes())
def test_a_recipe_comes_back_from_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict(), allow_nan=False))) == recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("threshold", value) for value in (-1, float("nan"), float("inf"), "300", None, True, 10**400)],
        *[("background_level", value) for value in (float("nan"), "0")],
        *[("min_pixels", value) for value in (0, 1.5, "2", True)],
        *[("min_shared_pixels", value) for value in (0, 1.0)],
        *[("saturation", value) for value in (float("nan"), "full", True)],
        *[("sentinels", value) for value in ((1.5,), (True,), (2**64,), (-(2**63) - 1,), ("x",))],
        *[("max_distance", value) for value in (0, -1.0, float("nan"))],
        *[("max_gap", value) for value in (-1, 0.5)],
        *[("place_tolerance", value) for value in (-1e-3, float("nan"))],
        ("wrap", 1),
        ("sentinels", 3),
        ("background", "mean"),
        ("split", "watershed"),
        ("smooth", True),
        ("smooth", 1),
        *[("background_frames", value) for value in (0, 1.5)],
        *[("background_step", value) for value in (0, float("inf"))],
        *[("background_every", value) for value in (0, True)],
        *[("max_lit", value) for value in (0, 2**31)],
        *[("max_maxima", value) for value in (0, 1.0)],
        *[("finder", value) for value in ("", None)],
        *[("finder_options", value) for value in (None, [1], {1: 2}, {"a": object()}, {"a": float("nan")})],
        ("link", "nearest"),
        *[("min_score", value) for value in (-0.1, 1.1, None)],
        *[("along", value) for value in (None, {"dty": 3}, {"dty": {"wrap": False}}, {1: {}})],
        ("keep_candidates", 1),
        ("max_distance_by_size", 0),
        ("max_distance_by_width", -1),
        *[("valley", value) for value in (0, 1.5, True)],
        *[(name, -1) for name in ("valley_apart", "valley_sigma")],
        *[
            ("link_options", value)
            for value in (None, {"beam_center": [1, 2]}, {"beam_centre": [1]}, {"beam_centre": 3})
        ],
    ],
)
def test_a_recipe_names_what_it_refuses(name, value):
    numbers: dict[str, Any] = {"threshold": 1} | {name: value}
    with pytest.raises(SettingsError, match=f"recipe: {name} is .*; wanted ") as told:
        Recipe(**numbers)
    assert "\n" not in str(told.value)
    with pytest.raises(SettingsError, match=name):
        Recipe.from_dict(numbers)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({}, "threshold"),
        ({"threshold": 1, "treshold": 2}, r"unknown keys \['treshold'\]"),
        ({"threshold": 1, "sentinels": 3}, "sentinels"),
    ],
)
def test_a_wrong_dictionary_is_refused(numbers, message):
    with pytest.raises(SettingsError, match=message):
        Recipe.from_dict(numbers)


def test_a_named_recipe_is_where_one_begins():
    for name in RECIPES:
        more = {"link_options": {"beam_centre": [10, 20.5]}} if name == "midas" else {}
        assert Recipe.from_dict({"like": name, "threshold": 7} | more).threshold == 7
    assert Recipe.from_dict({"like": "plain", "threshold": 7}) == Recipe(threshold=7)
    recipe = Recipe.from_dict({"like": "ff", "threshold": 7, "smooth": False})
    assert (recipe.split, recipe.smooth) == ("local-maximum", False)
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    for like in ("fff", 3, None):
        with pytest.raises(SettingsError, match=r"like is .*; wanted plain or ff or imaged11 or midas or nf"):
            Recipe.from_dict({"like": like, "threshold": 7})


def test_links_along_an_axis_must_make_sense_too():
    with pytest.raises(SettingsError, match="max_distance is None; wanted one with this link, along dty"):
        Recipe(threshold=1, along={"dty": {"link": "distance"}})
    recipe = Recipe(threshold=1, along={"dty": {"link": "distance", "max_distance": 2}})
    assert Recipe.from_dict(recipe.as_dict()) == recipe

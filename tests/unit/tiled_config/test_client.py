"""What the client makes of answers: pairs of tracks, queries of runs, facts that are searched for; no server here."""

from datetime import UTC, datetime
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hedmlive.streaming import SettingsError
from hedmlive.tiled_config import CLIENTS, SPECS, Runs
from hedmlive.tiled_config.client import register_clients
from hedmlive.tiled_config.runs_compare import compare
from hedmlive.tiled_config.runs_track import CutOut
from hedmlive.tiled_config.summary import facts_of_frames, facts_of_start


class Reduction:
    """Tracks at places, as a reduction that a server has."""

    def __init__(self, places: Any, *, digest: str = "d", recipe: dict[str, Any] | None = None, width: float = 0.5):
        self.name, self.digest, self.recipe = "reduction", digest, recipe or {}
        self._places = np.asarray(places, np.float64).reshape(-1, 3)
        self._width = width

    def tracks(self, columns: Any) -> pa.Table:
        made = dict(zip(("row", "col", "omega"), self._places.T, strict=True))
        n = len(self._places)
        return pa.table({"track": np.arange(n), **made, "sum_intensity": np.full(n, 2.0)}).select(list(columns))

    def frames(self, columns: Any) -> pa.Table:
        starts = np.arange(4) * self._width
        return pa.table({"omega_start": starts, "omega_end": starts + self._width}).select(columns)


def pairs(here: Any, there: Any, pixels: float = 1.0, degrees: float | None = None) -> set[tuple[int, int]]:
    found = compare(Reduction(here), Reduction(there), pixels=pixels, degrees=degrees).matched
    return set(zip(found["track"].to_pylist(), found["other_track"].to_pylist(), strict=True))


def naive_pairs(here: np.ndarray, there: np.ndarray, pixels: float, degrees: float) -> set[tuple[int, int]]:
    """Each beside each: mutual nearest, by the largest of the three distances in units of their limits."""
    apart = np.abs(here[:, None] - there[None])
    apart[:, :, 2] = np.minimum(apart[:, :, 2] % 360, -apart[:, :, 2] % 360)
    apart = (apart / (pixels, pixels, degrees)).max(axis=2)
    # Which of two that are as near is taken, nothing says.
    gaps: list[Any] = [np.diff(np.sort(apart, axis=axis), axis=axis) for axis in (0, 1)]
    assume(not any((each < 1e-9).any() for each in gaps))
    return {
        (i, j)
        for i in range(len(here))
        for j in range(len(there))
        if apart[i, j] <= 1 and apart[i, j] == apart[i].min() == apart[:, j].min()
    }


PLACES = st.lists(
    st.tuples(st.floats(0, 20), st.floats(0, 20), st.floats(-400, 400)), min_size=1, max_size=20, unique=True
)


@settings(max_examples=60)
@given(PLACES, st.integers(0, 2**32 - 1))
def test_tracks_are_paired_as_each_beside_each_would_be(places: Any, seed: int):
    here = np.array(places)
    there = here + np.random.default_rng(seed).uniform(-1.5, 1.5, here.shape)
    assert pairs(here, there, pixels=1.0, degrees=1.0) == naive_pairs(here, there, 1.0, 1.0)


def test_a_comparison_says_what_moved_what_is_lost_and_what_is_new():
    here = Reduction([(10, 10, 359.9), (50, 50, 20), (80, 80, 30)], recipe={"threshold": 5, "link": "overlap"})
    there = Reduction(
        [(50, 50, 20), (10, 10.5, 0.1), (80, 90, 30)], digest="e", recipe={"threshold": 9, "link": "overlap"}
    )
    found = compare(here, there, pixels=1.0, degrees=None)
    assert found.same_digest is False
    assert found.recipe == {"threshold": (5, 9)}
    assert found.counts == {"tracks": (3, 3), "sum_intensity": (6.0, 6.0)}
    assert found.moved["track"].to_pylist() == [0]
    assert found.moved["moved_omega"].to_pylist() == pytest.approx([0.2])
    assert (found.lost["track"].to_pylist(), found.new["track"].to_pylist()) == ([2], [2])
    assert "2 matched (1 moved), 1 lost, 1 new" in str(found)
    assert compare(here, Reduction([], digest=""), pixels=1, degrees=1).same_digest is None


def test_of_omega_without_width_the_limit_must_be_said():
    still = Reduction([(1, 1, 1)], width=0.0)
    with pytest.raises(SettingsError, match="its frames have no width in omega; say degrees="):
        compare(still, still, pixels=1.0, degrees=None)
    assert len(compare(still, still, pixels=1.0, degrees=0.1).matched) == 1
    with pytest.raises(SettingsError, match="wanted both above 0"):
        compare(still, still, pixels=1.0, degrees=0.0)


def test_tracks_without_omega_are_not_paired():
    assert pairs([(1, 1, np.nan), (2, 2, 2)], [(1, 1, np.nan), (2, 2, 2)]) == {(1, 1)}


def test_what_is_searched_for_is_what_was_said():
    start = {"sample": {"name": "ruby"}, "sample_name": "other", "technique": "ff-HEDM", "time": 5, "image": [1]}
    assert facts_of_start(start) == {"sample": "ruby", "technique": "ff-HEDM", "time": 5.0}
    assert facts_of_start({"technique": 3}) == {}
    columns = {
        "omega_start": np.array([0, 1, np.nan]),
        "omega_end": np.array([1.0, 2, 3]),
        "energy": np.full(3, np.nan),
    }
    assert facts_of_frames(columns) == {"omega_min": 0.0, "omega_max": 3.0}
    assert facts_of_frames({}) == {}


def asked(**criteria: Any) -> list[dict[str, Any]]:
    return [query.encode() for query in Runs(SimpleNamespace()).search(**criteria)._queries]


def test_searches_are_queries_of_tiled():
    assert asked() == []
    assert asked(sample="ruby", scan_id=3, operator="me") == [
        {"key": "summary.sample", "value": '"ruby"'},
        {"key": "start.scan_id", "value": "3"},
        {"key": "start.operator", "value": '"me"'},
    ]
    assert asked(status="comp*") == [{"key": "summary.status", "pattern": '"comp%"'}]
    assert asked(omega=(10, None)) == [{"operator": "ge", "key": "summary.omega_max", "value": "10.0"}]
    assert [each["key"] for each in asked(energy=(60, 80))] == ["summary.energy_max", "summary.energy_min"]
    assert asked(min_tracks=5) == [{"operator": "ge", "key": "summary.n_tracks", "value": "5.0"}]
    assert asked(text='a "b') == [{"text": "a"}, {"text": "b"}]
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert asked(time=(moment, None)) == asked(time=("2026-01-02T00:00+00:00", None)) == asked(
        time=(moment.timestamp(), None)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"omega": (2, 1)}, "wanted the lower end first"),
        ({"energy": 5}, r"wanted \(low, high\)"),
        ({"time": ("yesterday", None)}, r"time=.* came; wanted \(low, high\)"),
        ({"sample": "a%*"}, "wanted no %"),
        ({"operator": ["me"]}, "wanted a text or a number"),
    ],
)
def test_searches_that_mean_nothing_are_told(criteria, message):
    with pytest.raises(SettingsError, match=message) as caught:
        asked(**criteria)
    assert len(str(caught.value).splitlines()) == 1


def test_every_spec_has_its_client():
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH

    assert set(SPECS.values()) < set(CLIENTS)
    register_clients()
    register_clients()
    for spec, place in CLIENTS.items():
        module, name = place.split(":")
        wanted = getattr(import_module(module, "hedmlive.tiled_config"), name)
        assert DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"][spec] is wanted


def test_a_cut_out_knows_its_places():
    pytest.importorskip("xarray")
    cut = CutOut(
        images=np.zeros((2, 3, 4)),
        frame=np.array([5, 6]),
        omega=np.array([0.5, 1.5]),
        row=np.arange(7, 10),
        col=np.arange(1, 5),
    )
    made = cut.to_xarray()
    assert made.sel(frame=6)["omega"].item() == 1.5
    assert made["row"].values.tolist() == [7, 8, 9]

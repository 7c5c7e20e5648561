"""What differs between two reductions: recipe, counts, and the tracks, paired by where they are and at which omega."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..streaming import SettingsError

_PLACE = ("row", "col", "omega")
_COLUMNS = ("track", *_PLACE, "sum_intensity")
_TURN = 360.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a reduction, the other, differs from this one."""

    this: str
    "What this one is called."
    other: str
    "What the other one is called."
    same_digest: bool | None
    "Whether all tables are equal to the bit; None while one of them runs."
    recipe: Mapping[str, tuple[Any, Any]]
    "The keys of the recipe that differ, to the value here and there."
    counts: Mapping[str, tuple[float, float]]
    "Number of tracks, and their summed intensity in counts, here and there."
    matched: pa.Table = field(repr=False)
    "Pairs: track, other_track, how far it moved in row, col [px] and omega [deg], ratio of the intensities."
    lost: pa.Table = field(repr=False)
    "Tracks that the other one lacks."
    new: pa.Table = field(repr=False)
    "Tracks that only the other one has."

    @property
    def moved(self) -> pa.Table:
        """The pairs that are not at the very same place."""
        moved = np.zeros(len(self.matched), np.bool_)
        for name in _PLACE:
            moved |= self.matched[f"moved_{name}"].to_numpy() != 0
        return self.matched.filter(pa.array(moved))

    def __str__(self) -> str:
        same = {True: "the same digest", False: "another digest", None: "no digest yet"}[self.same_digest]
        lines = [f"{self.other} beside {self.this}: {same}"]
        lines += [f"  {key}: {here!r} -> {there!r}" for key, (here, there) in self.recipe.items()]
        lines += [f"  {name}: {here} -> {there}" for name, (here, there) in self.counts.items()]
        lines.append(
            f"  {len(self.matched)} matched ({len(self.moved)} moved), {len(self.lost)} lost, {len(self.new)} new"
        )
        return "\n".join(lines)


def compare(this: Any, other: Any, *, pixels: float, degrees: float | None) -> Comparison:
    """Return how one reduction differs from another.

    Parameters
    ----------
    this, other
        Clients of the reductions.
    pixels
        Tracks further apart are not the same one, in px.
    degrees
        The same for omega; None takes the width of a frame of `this`.

    Raises
    ------
    SettingsError
        A limit is not positive, or the frames of `this` have no width to take it from.
    """
    degrees = _frame_width(this) if degrees is None else degrees
    if not pixels > 0 or not degrees > 0:
        raise SettingsError(f"compare: pixels={pixels}, degrees={degrees} came; wanted both above 0")
    here, there = this.tracks(_COLUMNS), other.tracks(_COLUMNS)
    first, second = _pairs(_places(here, pixels, degrees), _places(there, pixels, degrees), _TURN / degrees)
    keys = sorted({*this.recipe, *other.recipe})
    digests = this.digest, other.digest
    return Comparison(
        this=this.name,
        other=other.name,
        same_digest=digests[0] == digests[1] if all(digests) else None,
        recipe={
            key: (this.recipe.get(key), other.recipe.get(key))
            for key in keys
            if this.recipe.get(key) != other.recipe.get(key)
        },
        counts={
            "tracks": (len(here), len(there)),
            "sum_intensity": (_sum(here), _sum(there)),
        },
        matched=_matched(here.take(first), there.take(second)),
        lost=here.filter(pa.array(~np.isin(np.arange(len(here)), first))),
        new=there.filter(pa.array(~np.isin(np.arange(len(there)), second))),
    )


def _pairs(here: np.ndarray, there: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of those that are each other's nearest, no further apart than 1 in all three coordinates."""
    from scipy.spatial import KDTree  # only who compares needs it

    known_here, known_there = (np.flatnonzero(np.isfinite(each).all(axis=1)) for each in (here, there))
    if not len(known_here) or not len(known_there):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # A box that is closed in omega only; that of the detector is larger than it.
    whole = np.concatenate([here[known_here], there[known_there]])
    low = whole.min(axis=0)
    box = np.append(whole.max(axis=0)[:2] - low[:2] + 4, period)
    trees = [KDTree(_wrapped(each - low, period), boxsize=box) for each in (here[known_here], there[known_there])]
    to_there = trees[1].query(trees[0].data, p=np.inf, distance_upper_bound=1 + 1e-9)[1]
    to_here = trees[0].query(trees[1].data, p=np.inf, distance_upper_bound=1 + 1e-9)[1]
    found = np.flatnonzero(to_there < len(known_there))
    mutual = found[to_here[to_there[found]] == found]
    return known_here[mutual], known_there[to_there[mutual]]


def _wrapped(places: np.ndarray, period: float) -> np.ndarray:
    places = places.copy()
    places[:, 2] %= period
    places[places[:, 2] >= period, 2] = 0.0
    return places


def _matched(here: pa.Table, there: pa.Table) -> pa.Table:
    moved = {f"moved_{name}": there[name].to_numpy() - here[name].to_numpy() for name in _PLACE}
    turned = moved["moved_omega"]
    moved["moved_omega"] = turned - _TURN * np.round(turned / _TURN)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = there["sum_intensity"].to_numpy() / here["sum_intensity"].to_numpy()
    return pa.table({"track": here["track"], "other_track": there["track"], **moved, "intensity_ratio": ratio})


def _places(tracks: pa.Table, pixels: float, degrees: float) -> np.ndarray:
    """Return where tracks are, in units of what may lie between two that are the same, shape (n, 3)."""
    return np.column_stack([tracks[name].to_numpy() for name in _PLACE]) / (pixels, pixels, degrees)


def _frame_width(reduction: Any) -> float:
    frames = reduction.frames(["omega_start", "omega_end"])
    widths = np.abs(frames["omega_end"].to_numpy() - frames["omega_start"].to_numpy())
    widths = widths[np.isfinite(widths) & (widths > 0)]
    if not len(widths):
        raise SettingsError(f"{reduction.name}: its frames have no width in omega; say degrees=")
    return float(np.median(widths))


def _sum(tracks: pa.Table) -> float:
    return float(tracks["sum_intensity"].to_numpy().sum())

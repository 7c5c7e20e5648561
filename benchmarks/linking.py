"""How well rules of linking find the spots of simulated scans: each on the same peaks, against the truth.

Usage: python benchmarks/linking.py [--scenes NAME ...] [--frames N] [--seed N] [--write-docs]

Peaks are those of the `ff` recipe. A rule that a recipe can name is measured with the reducer itself; others, which
show what was tried, are made here of the reducer's candidates.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rotation_scan import MAY_FIND, MUST_FIND, Crystal, RotationScan, Spots, simulate
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from hedmlive.streaming import Frame, PeaksOfFrame, Recipe, Reducer
from hedmlive.streaming.corrections import Corrections
from hedmlive.streaming.limit_kernels import distance_limit
from hedmlive.streaming.link_rules import Linkable, link_peaks
from hedmlive.streaming.valleys import valley_cuts

Array = NDArray[Any]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "link-accuracy.md"
THRESHOLD = 25.0
FF = Recipe(background="dark", threshold=THRESHOLD, min_pixels=3, split="local-maximum", smooth=True)
"What finds peaks in the `ff` recipe, with every link by overlap."
OF_LIMITS = ("row", "col", "n_pixels", "var_row", "var_col", "cov_row_col")
REACH, STEPS = 2.5, 1.0
"A track is that of a spot no further away than this: px, and frames along omega."


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A simulated scan."""

    about: str
    n_spots: int
    crystal: Crystal


SCENES = {
    "sparse": Scene(about="50 spots a frame", n_spots=50, crystal=Crystal()),
    "typical": Scene(about="500 spots a frame", n_spots=500, crystal=Crystal()),
    "crowded": Scene(about="3000 spots a frame", n_spots=3000, crystal=Crystal()),
    "moving": Scene(
        about="500 spots a frame, which move by up to 1 pixel a frame", n_spots=500, crystal=Crystal(drift=1.0)
    ),
    "fast": Scene(
        about="500 spots a frame, which move by up to 2 pixels a frame", n_spots=500, crystal=Crystal(drift=2.0)
    ),
    "rough": Scene(
        about="500 spots a frame, twice as wide in omega, with rocking curves that are rough by 30 %",
        n_spots=500,
        crystal=Crystal(widen=2.0, rough=0.3),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """Tracks of a scan."""

    place: Array
    "Row [px], column [px] and omega [frames], weighted by intensity, shape (n, 3)."
    ends: Array
    "First and last frame, shape (n, 2)."
    max_intensity: Array
    n_peaks: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Peaks of a scan, all frames after each other, and its candidates: pairs of peaks that share pixels."""

    peaks: dict[str, Array]
    "Columns of the table `peaks`."
    a: Array
    "Place of the peak of the earlier frame, shape (candidates,)."
    b: Array
    "Place of that of the later one."
    n_shared: Array
    distance: Array
    "Of the centroids, px."

    @classmethod
    def of(cls, found: Sequence[PeaksOfFrame]) -> "Pairs":
        start = np.cumsum([0, *(len(each.peaks["peak"]) for each in found)])
        frames = [Linkable.of(each) for each in found]
        each = [link_peaks(a, b, FF) for a, b in pairwise(frames)]
        return cls(
            peaks={name: np.concatenate([one.peaks[name] for one in found]) for name in found[0].peaks},
            a=np.concatenate([some.peak_a + start[k] for k, some in enumerate(each)]),
            b=np.concatenate([some.peak_b + start[k + 1] for k, some in enumerate(each)]),
            n_shared=np.concatenate([some.n_shared_pixels for some in each]),
            distance=np.concatenate([some.distance for some in each]),
        )

    def limits(self, by_size: float, by_width: float) -> Array:
        """Return how far apart the centroids of each candidate may be."""
        peaks = np.stack([self.peaks[name] for name in OF_LIMITS], axis=1)
        pairs = zip(self.a.tolist(), self.b.tolist(), strict=True)
        return np.array([distance_limit(peaks, p, peaks, q, by_size, by_width) for p, q in pairs])

    def tracks(self, keep: Array) -> Tracks:
        """Return the connected components of some candidates."""
        n, peaks = len(self.peaks["row"]), self.peaks
        graph = coo_matrix((np.ones(keep.sum()), (self.a[keep], self.b[keep])), (n, n))
        n_tracks, track = connected_components(graph, directed=False)
        weight = peaks["sum_intensity"]
        total = np.bincount(track, weight)
        place = [np.bincount(track, weight * peaks[name]) / total for name in ("row", "col", "omega")]
        first, last, top = np.full(n_tracks, np.inf), np.full(n_tracks, -np.inf), np.zeros(n_tracks)
        np.minimum.at(first, track, peaks["frame"])
        np.maximum.at(last, track, peaks["frame"])
        np.maximum.at(top, track, peaks["max_intensity"])
        return Tracks(
            place=np.stack(place, axis=1),
            ends=np.stack([first, last], axis=1),
            max_intensity=top,
            n_peaks=np.bincount(track),
        )

    def without_valleys(self, keep: Array, **options: float) -> Array:
        """Return which of some candidates are left when their tracks are cut at valleys."""
        kept = np.flatnonzero(keep)
        intensity, row, col = (self.peaks[name] for name in ("sum_intensity", "row", "col"))
        cut = valley_cuts(intensity, row, col, self.a[kept], self.b[kept], self.distance[kept], **options)
        left = np.zeros_like(keep)
        left[kept[~cut]] = True
        return left


# ---------------------------------------------------------------- rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a rule is given."""

    truth: RotationScan
    frames: list[Frame]
    found: list[PeaksOfFrame]
    pairs: Pairs


Rule = Callable[[Scan], Tracks]


def recipe(**numbers: Any) -> Rule:
    """Return the rule of a recipe, by the reducer itself."""

    def rule(scan: Scan) -> Tracks:
        reducer = Reducer(replace(FF, **numbers), corrections=Corrections(dark=scan.truth.dark, mask=scan.truth.mask))
        batches = [reducer.link(frame, found) for frame, found in zip(scan.frames, scan.found, strict=True)]
        tables = [each["tracks"] for each in [*batches, reducer.flush()] if "tracks" in each]
        tracks = {name: np.concatenate([each[name] for each in tables]) for name in tables[0]}
        return Tracks(
            place=np.stack([tracks[name] for name in ("row", "col", "omega")], axis=1),
            ends=np.stack([tracks["first_frame"], tracks["last_frame"]], axis=1),
            max_intensity=tracks["max_intensity"],
            n_peaks=tracks["n_peaks"],
        )

    return rule


def by_size(size: float, width: float = 0.0, **valley: float) -> Rule:
    """Return the rule that limits distances by the size and width of peaks."""
    return recipe(max_distance_by_size=size, max_distance_by_width=width, **valley)


def one_partner(scan: Scan) -> Tracks:
    """Return the tracks when each peak has one partner at most each way."""
    pairs = scan.pairs
    cost = pairs.distance / pairs.limits(SIZE, WIDTH)
    return pairs.tracks(pairs.without_valleys(assigned(pairs, cost, cost <= 1), fraction=0.3))


def assigned(pairs: Pairs, cost: Array, keep: Array) -> Array:
    """Return the candidates that give each peak one partner at most each way, at the least sum of cost - 1."""
    kept = np.flatnonzero(keep)
    n = len(pairs.peaks["row"])
    graph = coo_matrix((np.ones(len(kept)), (pairs.a[kept], pairs.b[kept] + n)), (2 * n, 2 * n))
    group = connected_components(graph, directed=False)[1][pairs.a[kept]]
    order = np.argsort(group, kind="stable")
    left = np.zeros_like(keep)
    for some in np.split(kept[order], np.flatnonzero(np.diff(group[order])) + 1):
        rows, row = np.unique(pairs.a[some], return_inverse=True)
        cols, col = np.unique(pairs.b[some], return_inverse=True)
        gain, which = np.zeros((len(rows), len(cols))), np.full((len(rows), len(cols)), -1)
        gain[row, col], which[row, col] = cost[some] - 1, some
        best = which[linear_sum_assignment(gain)]
        left[best[best >= 0]] = True
    return left


def by_truth(scan: Scan) -> Tracks:
    """Candidates whose peaks are of the same spot: what a rule could reach with these peaks."""
    spots, peaks = scan.truth.spots, scan.pairs.peaks
    label = np.full(len(peaks["row"]), -1)
    for number in range(len(scan.frames)):
        steps = number - spots.omega
        height = spots.height * np.exp(-0.5 * (steps / spots.width) ** 2)
        seen = np.flatnonzero(height > MAY_FIND)
        row = spots.row + spots.drift * steps * np.cos(spots.eta)
        col = spots.col - spots.drift * steps * np.sin(spots.eta)
        here = np.flatnonzero(peaks["frame"] == number)
        centre = np.stack([peaks["row"][here], peaks["col"][here]], axis=1)
        apart, near = KDTree(np.stack([row[seen], col[seen]], axis=1)).query(centre, k=6)
        near = seen[np.minimum(near, len(seen) - 1)]
        share = np.where(apart < 3, height[near] * np.exp(-0.5 * (apart / 1.2) ** 2), 0)
        best = share.argmax(axis=1)[:, None]
        mine = np.take_along_axis(near, best, 1)[:, 0]
        label[here] = np.where(np.take_along_axis(share, best, 1)[:, 0] > 0, mine, -1)
    same = (label[scan.pairs.a] == label[scan.pairs.b]) & (label[scan.pairs.a] >= 0)
    return scan.pairs.tracks(same)


SIZE, WIDTH = 0.65, 0.25
CENTRE = {"beam_centre": [1024.0, 1024.0]}
RULES: dict[str, Rule] = {
    "any shared pixel (ImageD11)": recipe(),
    "half of the smaller shared": recipe(min_score=0.5),
    "mutual best overlap": recipe(link="mutual-best-overlap"),
    "MIDAS, UsePixelOverlap 1": recipe(link="midas-overlap", link_options=CENTRE),
    "MIDAS, centroids < 2 px": recipe(link="midas-distance", max_distance=2.0, link_options=CENTRE),
    "mutual nearest, <= 2 px": recipe(link="distance", max_distance=2.0),
    **{f"shared, <= {gate:g} px": recipe(max_distance=gate) for gate in (0.7, 0.8, 1.0, 1.2, 1.4, 1.6)},
    "shared, <= 1 px; valleys": recipe(max_distance=1.0, valley=0.3),
    "shared, <= 1.6 px; valleys": recipe(max_distance=1.6, valley=0.3),
    "by size, 1.1 px": by_size(1.1),
    "by size, 1.1 px; valleys": by_size(1.1, valley=0.3),
    f"by size and width, {SIZE:g} px + {WIDTH:g}": by_size(SIZE, WIDTH),
    "the same; one partner; valleys": one_partner,
    "the same; valleys 0.5, wherever the maxima": by_size(SIZE, WIDTH, valley=0.5, valley_apart=1e9),
    "the same; valleys 0.85, wherever the maxima": by_size(SIZE, WIDTH, valley=0.85, valley_apart=1e9),
    "**the same; valleys**": by_size(SIZE, WIDTH, valley=0.3),
    "0.8 px + 0.25; valleys": by_size(0.8, 0.25, valley=0.3),
    "1.1 px + 0.25; valleys": by_size(1.1, 0.25, valley=0.3),
    "2 px + 0.25; valleys": by_size(2.0, 0.25, valley=0.3),
    "by the truth": by_truth,
}


# ---------------------------------------------------------------- agreement with the truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    recall: float
    precision: float
    bright: float
    "Precision of the tracks that are higher than MUST_FIND."
    position: float
    omega: float
    longest: int


def score(scan: Scan, tracks: Tracks) -> Score:
    """Compare tracks with spots, one to one, the nearest first; distances in REACH and STEPS."""
    spots, last = scan.truth.spots, len(scan.frames) - 1
    unit = np.array([REACH, REACH, STEPS])
    must, may = wanted(spots, scan.truth.mask, last)
    place = np.stack([spots.row, spots.col, spots.omega], axis=1) / unit
    centre = tracks.place / unit
    spot, track = one_to_one(place[must], centre)
    good = np.zeros(len(centre), np.bool_)
    good[track] = True
    # What is left over may be a spot that is too faint to be asked for, or not wholly inside the scan.
    rest = np.flatnonzero(~good)
    good[rest[one_to_one(place[may], centre[rest])[1]]] = True
    inside = (tracks.ends[:, 0] > 0) & (tracks.ends[:, 1] < last)
    error = (place[must][spot] - centre[track]) * unit
    return Score(
        recall=len(spot) / must.sum(),
        precision=float(good[inside].mean()),
        bright=float(good[inside & (tracks.max_intensity > MUST_FIND)].mean()),
        position=float(np.sqrt((error[:, :2] ** 2).sum(axis=1).mean())),
        omega=float(np.sqrt((error[:, 2] ** 2).mean())),
        longest=int(tracks.n_peaks.max()),
    )


def wanted(spots: Spots, mask: Array, last: int) -> tuple[Array, Array]:
    """Tell which spots have to be found, and which others may be."""
    clear = mask[np.rint(spots.row).astype(int), np.rint(spots.col).astype(int)] == 0
    seen = spots.height * np.exp(-0.5 * ((np.rint(spots.omega) - spots.omega) / spots.width) ** 2)
    half = spots.half_length(THRESHOLD)
    must = clear & (seen > MUST_FIND) & (spots.omega - half >= 0) & (spots.omega + half <= last)
    return must, clear & (spots.height > MAY_FIND) & ~must


def one_to_one(place: Array, centre: Array) -> tuple[Array, Array]:
    """Return indices of the places and centres that belong together: within 1 in the plane, and along omega."""
    if not len(place) or not len(centre):
        return np.zeros(0, int), np.zeros(0, int)
    near = KDTree(place).sparse_distance_matrix(KDTree(centre), np.sqrt(2), output_type="ndarray")
    apart = place[near["i"]] - centre[near["j"]]
    near = near[(np.hypot(apart[:, 0], apart[:, 1]) <= 1) & (np.abs(apart[:, 2]) <= 1)]
    near = near[np.lexsort((near["j"], near["i"], near["v"]))]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for i, j in zip(near["i"].tolist(), near["j"].tolist(), strict=True):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return np.array(list(pairs), int), np.array(list(pairs.values()), int)


# ---------------------------------------------------------------- what is printed


def measure(scene: Scene, n_frames: int, seed: int) -> list[str]:
    """Return the table of a scene."""
    truth = simulate(scene.n_spots, n_frames=n_frames, seed=seed, crystal=scene.crystal)
    reducer = Reducer(FF, corrections=Corrections(dark=truth.dark, mask=truth.mask))
    frames = [
        Frame(frame=k, point=k, image=image, omega_start=k - 0.5, omega_end=k + 0.5)
        for k, image in enumerate(truth.frames)
    ]
    found = [reducer.find(frame) for frame in frames]
    scan = Scan(truth=truth, frames=frames, found=found, pairs=Pairs.of(found))
    lines = [
        "| rule | recall | precision | above 50 counts | position rms [px] | omega rms [frames] | longest |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rule in RULES.items():
        it = score(scan, rule(scan))
        lines.append(
            f"| {name} | {it.recall:.3f} | {it.precision:.3f} | {it.bright:.3f} | {it.position:.3f} | {it.omega:.3f} "
            f"| {it.longest} |"
        )
    return lines


PAGE_HEAD = """# Accuracy of links and tracks

Made by `python benchmarks/linking.py --write-docs`. Every rule links the same peaks, those of the `ff` recipe, in scans
of {n_frames} simulated frames of 2048 x 2048 pixels; [accuracy of the peak search](accuracy.md) says what the frames
hold, and [rules of linking](../explanations/link-rules.md) what the rules are.

* **recall**: part of the spots that were found, of those that are higher than 50 counts in a frame and wholly inside
  the scan: all their frames of more than 25 counts, the threshold. A track is that of a spot where its centre is within
  2.5 px and 1 frame of omega; one to one, the nearest first.
* **precision**: part of the tracks that are a spot, one that is higher than 10 counts; tracks that touch the first or
  last frame are not asked. So each part of a spot that is a track of its own, however faint, counts as a mistake.
* **above 50 counts**: precision of the tracks that are higher than 50 counts, as the spots that are asked for.
* **position, omega**: root mean square of the distance of track and spot, for all that were found.
* **longest**: peaks of the largest track.

The last row links peaks by the truth: no rule can be better by much with these peaks.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="scans to measure")
    parser.add_argument("--frames", type=int, default=60, help="frames of each scan")
    parser.add_argument("--seed", type=int, default=7, help="another seed gives another scan")
    parser.add_argument("--write-docs", action="store_true", help="write docs/reference/link-accuracy.md")
    given = parser.parse_args()
    sections: list[str] = []
    for name in given.scenes:
        scene = SCENES[name]
        table = measure(scene, given.frames, given.seed)
        sections.append("\n".join([f"## {name.capitalize()}", "", f"{scene.about}.", "", *table, ""]))
        print(sections[-1], flush=True)
    if given.write_docs:
        PAGE.write_text("\n".join([PAGE_HEAD.format(n_frames=given.frames), *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()

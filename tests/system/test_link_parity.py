"""The objects of other programs: ImageD11's peaks table and MIDAS's merge, from the same lit pixels and peaks.

The programs stay in environments of their own. Where HEDMLIVE_IMAGED11_PYTHON or HEDMLIVE_MIDAS_PYTHON names the
interpreter of one, it is asked; the twins of both programs' rules are asked always.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from naive_imaged11 import naive_objects
from naive_midas import Peak, naive_distance, naive_overlap, naive_spots

from hedmlive.streaming import Axis, Frame, PeakFinder, Planned, Recipe, Reducer, join
from hedmlive.streaming.background import Background
from hedmlive.streaming.link_kernels import runs_of_peaks
from hedmlive.streaming.midas_links import RingPeaks, midas_distance, midas_overlap

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
SIZE = 40
LABELS: dict[str, dict[str, Any]] = {
    "lmlabel": {"min_pixels": 3, "split": "local-maximum", "smooth": True},
    "cplabel": {},
}
"ImageD11's name of a labelling, and what our recipe calls it."


def program(name, module, script, *arguments):
    """What a program answers, line by line of JSON."""
    python = os.environ.get(f"HEDMLIVE_{name}_PYTHON") or (sys.executable if find_spec(module) else "")
    if not python:
        pytest.skip(f"needs {module}: HEDMLIVE_{name}_PYTHON names the interpreter of an environment that has it")
    if not (PEERS / script).is_file():
        pytest.skip(f"needs {PEERS / script}: these tests run beside benchmarks/")
    threads = {f"{each}_NUM_THREADS": "1" for each in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | threads
    ran = subprocess.run([python, PEERS / script, *arguments], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def spot_scan(seed, omega, dty, *, n_spots=60):
    """Counts (rows, frames, SIZE, SIZE) of spots that last a few frames and rows; some frames are empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    expected = np.zeros((*omega.shape, SIZE, SIZE))
    span = np.ptp(omega) + 1e-9
    for _ in range(n_spots):
        row, col = rng.uniform(2, SIZE - 3, 2)
        shape = np.exp(-((y - row) ** 2 + (x - col) ** 2) / 2 / rng.uniform(0.8, 1.6) ** 2)
        where = (omega - rng.uniform(omega.min(), omega.max())) / (span * rng.uniform(0.02, 0.08))
        beside = (dty - rng.uniform(dty.min(), dty.max() + 1e-9)) / rng.uniform(0.5, 1.5)
        expected += rng.uniform(20, 200) * np.exp(-(where**2 + beside**2) / 2)[..., None, None] * shape
    counts = rng.poisson(expected).astype(np.uint16)
    counts[counts < 6] = 0
    counts[rng.random(omega.shape) < 0.05] = 0
    return counts


def reduce(counts, omega, dty, recipe, *, period=None, reach=None, tolerance=1e-3, order=None):
    """Tracks as sets of (row, frame, peak), and the table of each peak's pixels, of a scan of rows of frames."""
    axes = [Axis(name="omega", positions=omega.ravel(), period=period, reach=reach, tolerance=tolerance)]
    if len(omega) > 1:
        axes.append(Axis(name="dty", positions=dty.ravel()))
    reducer = Reducer(recipe, trajectory=Planned(axes))
    frames = [
        Frame(frame=k, point=k, image=image, omega_start=start, omega_end=start, roles={"dty": float(place)})
        for k, (image, start, place) in enumerate(
            zip(counts.reshape(-1, SIZE, SIZE), omega.ravel(), dty.ravel(), strict=True)
        )
    ]
    batches = [reducer.push(frames[k]) for k in (range(len(frames)) if order is None else order)]
    tables = join([*batches, reducer.flush()])
    tracks = {}
    members = tables["members"]
    for track, frame, peak in zip(*(members[name].tolist() for name in ("track", "frame", "peak")), strict=True):
        tracks.setdefault(track, set()).add((*divmod(frame, omega.shape[1]), peak))
    pixels = tables["pixels"]
    place = np.lexsort((pixels["col"], pixels["row"], pixels["frame"]))
    return {frozenset(each) for each in tracks.values()}, {name: column[place] for name, column in pixels.items()}


def labelled(pixels, omega):
    """What the twin of ImageD11 wants."""
    rows = [(list(each), [{} for _ in each]) for each in omega.tolist()]
    for frame, peak, row, col in zip(*(pixels[name].tolist() for name in ("frame", "peak", "row", "col")), strict=True):
        scan, number = divmod(frame, omega.shape[1])
        rows[scan][1][number][row, col] = peak
    return rows


def sizes(tracks, pixels, n_frames):
    """Pixels, peaks and summed intensity of each track."""
    keys = list(zip(*divmod(pixels["frame"], n_frames), pixels["peak"].tolist(), strict=True))
    n_pixels, intensity = Counter(keys), Counter()
    for key, value in zip(keys, pixels["intensity"].astype(int).tolist(), strict=True):
        intensity[key] += value
    return [[sum(n_pixels[k] for k in each), len(each), sum(intensity[k] for k in each)] for each in tracks]


def grid(n_rows, n_frames, step=0.5, *, snaked=False):
    omega = np.tile(np.arange(n_frames) * step, (n_rows, 1))
    if snaked:
        omega[1::2] = omega[1::2, ::-1]
    return omega, np.repeat(np.arange(n_rows, dtype=float), n_frames).reshape(n_rows, n_frames)


SCANS = {
    "sweep": (1, grid(1, 60)),
    "falling": (2, (-grid(1, 60)[0], grid(1, 60)[1])),
    "grid": (3, grid(5, 24)),
    "snaked": (4, grid(4, 24, snaked=True)),
}


def scan_of(name):
    seed, (omega, dty) = SCANS[name]
    return spot_scan(seed, omega, dty), omega, dty


# Where ImageD11 differs: each scan with how many objects it makes of it, and how many tracks we make, and when.


def still(omega, dty=None, *, dark=()):
    """One spot that shines in every frame but the dark ones."""
    omega = np.atleast_2d(np.array(omega, float))
    counts = np.zeros((*omega.shape, SIZE, SIZE), np.uint16)
    counts[:, :, 10:12, 20:23] = 9
    for row, frame in dark:
        counts[row, frame] = 0
    dty = np.zeros(omega.shape) if dty is None else np.repeat(dty, omega.shape[1]).reshape(omega.shape)
    return counts, omega, np.asarray(dty, float)


def over_the_end():
    """One spot in the first frame of two rows, and another in the last two frames of one."""
    apart = [(0, 1), (0, 2), (1, 1), (1, 2)]
    counts, omega, dty = still([[359.99, 361, 362], [360.01, 361.2, 362.2]], [0, 1], dark=apart)
    counts[0, 1:, 30, 30] = 9  # ImageD11 ends with an error where no two peaks overlap
    return counts, omega, dty


TURN = np.arange(0, 360, 20)
DIFFERENCES: dict[str, Any] = {
    "the turn is not closed": (still(TURN, dark=[(0, 9)]), 2, {"period": 360.0}, 1),
    "and with turns apart it is not for us": (still(TURN, dark=[(0, 9)]), 2, {}, 2),
    "absent frames are bridged": (still([0, 1, 2, 3, 50, 51, 52]), 1, {}, 2),
    "and by us as far as is said": (still([0, 1, 2, 3, 50, 51, 52]), 1, {"reach": 47.0}, 1),
    "an empty frame is not bridged": (still([0, 1, 2, 3, 4], dark=[(0, 2)]), 2, {}, 2),
    "rows are 0.051 degrees apart at most": (still([[0, 1, 2], [0.06, 1.06, 2.06]], [0, 1]), 2, {"tolerance": 0.1}, 1),
    "and by us as far as is said, too": (still([[0, 1, 2], [0.06, 1.06, 2.06]], [0, 1]), 2, {}, 2),
    "359.99 and 0.01 are a turn apart": (over_the_end(), 3, {"tolerance": 0.1}, 2),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", SCANS)
def test_tracks_are_the_objects_of_imaged11(name, labels):
    counts, omega, dty = scan_of(name)
    recipe = Recipe(threshold=0, wrap=False, **LABELS[labels])
    tracks, pixels = reduce(counts, omega, dty, recipe)
    assert tracks == naive_objects(labelled(pixels, omega))
    assert max(len(each) for each in tracks) > 5
    backwards, _ = reduce(counts, omega, dty, recipe, order=range(omega.size - 1, -1, -1))
    assert backwards == tracks


@pytest.mark.parametrize("name", DIFFERENCES)
def test_known_differences_from_imaged11(name):
    scan, theirs, options, ours = DIFFERENCES[name]
    counts, omega, dty = scan
    tracks, pixels = reduce(counts, omega, dty, Recipe(threshold=0), **options)
    assert (len(naive_objects(labelled(pixels, omega))), len(tracks)) == (theirs, ours)


COUNTS = {"cut": 1.9, "faint": 0.9}
"Counts of every pixel of a scan."


@pytest.fixture(scope="module")
def imaged11(tmp_path_factory):
    """Our tracks and pixels of each scan, and the objects that ImageD11 makes of the pixels."""
    scans: dict[tuple[str, str], Any] = {
        (name, labels): (scan_of(name), LABELS[labels]) for name in SCANS for labels in LABELS
    }
    scans |= {(name, "cplabel"): (scan, {}) for name, (scan, *_) in DIFFERENCES.items()}
    scans |= {(name, "cplabel"): (still([0, 1]), {}) for name in COUNTS}
    scans["apart", "cplabel"] = (still([0, 1, 2], dark=[(0, 1)]), {})
    reduced, folder = {}, tmp_path_factory.mktemp("imaged11")
    for number, (key, ((counts, omega, dty), numbers)) in enumerate(scans.items()):
        tracks, pixels = reduce(counts, omega, dty, Recipe(threshold=0, wrap=False, **numbers))
        if key[0] in COUNTS:
            pixels["intensity"] = np.full(len(pixels["row"]), COUNTS[key[0]])
        reduced[key] = (tracks, pixels, omega.shape[1])
        scan, frame = divmod(pixels["frame"], omega.shape[1])
        columns: dict[str, Any] = {name: pixels[name] for name in ("row", "col", "intensity")}
        columns |= {"scan": scan, "frame": frame, "omega": omega, "dty": dty, "shape": (SIZE, SIZE), "labels": key[1]}
        np.savez(folder / f"{number:03}.npz", **columns)
    found = program("IMAGED11", "ImageD11", "imaged11_tracks.py", *sorted(folder.iterdir()))
    return {key: (*ours, theirs) for (key, ours), theirs in zip(reduced.items(), found, strict=True)}


def test_imaged11_itself_finds_the_same_objects(imaged11):
    for name in SCANS:
        for labels in LABELS:
            tracks, pixels, n_frames, theirs = imaged11[name, labels]
            assert sorted(theirs) == sorted(sizes(tracks, pixels, n_frames)), (name, labels)


def test_imaged11_numbers_its_objects_in_the_order_of_our_tracks(imaged11):
    """By their first peak; but from 0, where we keep the name of that peak, which is known before the scan ends."""
    tracks, pixels, n_frames, theirs = imaged11["grid", "cplabel"]
    assert theirs == sizes(sorted(tracks, key=min), pixels, n_frames)


def test_imaged11_itself_differs_as_said(imaged11):
    found = {name: len(imaged11[name, "cplabel"][-1]) for name in DIFFERENCES}
    assert found == {name: theirs for name, (_, theirs, _, _) in DIFFERENCES.items()}


def test_imaged11_cuts_counts_to_whole_numbers(imaged11):
    """Weights are cast to int64: 1.9 counts are 1."""
    *_, theirs = imaged11["cut", "cplabel"]
    assert theirs == [[12, 2, 12]]
    # Nothing is left of 0.9.
    *_, theirs = imaged11["faint", "cplabel"]
    assert "bad data" in theirs


def test_imaged11_ends_where_no_two_peaks_overlap(imaged11):
    tracks, *_, theirs = imaged11["apart", "cplabel"]
    assert len(tracks) == 2
    assert "Error" in theirs


# MIDAS: its merge takes the same frame peaks.

CENTRE = (20.0, 20.0)


def frame_peaks(seed=5):
    """Peaks of crowded frames, as MIDAS splits them: what the twin, our functions and MIDAS's program take."""
    omega, dty = grid(1, 12)
    counts = spot_scan(seed, omega, dty, n_spots=250)
    recipe = Recipe(threshold=0, min_pixels=2, split="regional-maximum")
    finder, background = PeakFinder(recipe), Background(recipe)
    frames = []
    for number, image in enumerate(counts[0]):
        found = finder.push(number, 0.0, background.push(image))
        around = RingPeaks.of(found.peaks, CENTRE)
        pixels = found.pixels
        runs = np.empty((4, len(pixels["row"])), np.int32)
        runs = runs[:, : runs_of_peaks(pixels["row"], pixels["col"], pixels["peak"], runs)]
        listed = [[] for _ in around.row]
        for peak, row, col in zip(*(pixels[name].tolist() for name in ("peak", "row", "col")), strict=True):
            listed[peak].append((row, col))
        numbers = (each.tolist() for each in (around.row, around.col, around.radius, around.eta, around.intensity))
        frames.append((around, runs, [Peak(*each) for each in zip(*numbers, listed, strict=True)]))
    return frames


def merged(frames, link):
    """Sets of (frame, peak), linked pair by pair as a line of frames is."""
    spots, order = {}, []
    for number, (b, runs_b, _) in enumerate(frames):
        before = {}
        if number:
            a, runs_a, _ = frames[number - 1]
            peak_a, peak_b, order = link(a, runs_a, order, b, runs_b)
            before = dict(zip(peak_b.tolist(), peak_a.tolist(), strict=True))
        else:
            order = b.by_angle()
        for j in order.tolist():
            spot = spots[number - 1, before[j]] if j in before else set()
            spots[number, j] = spot
            spot.add((number, j))
    return {frozenset(each) for each in spots.values()}


def by_distance(a, _runs_a, order, b, _runs_b):
    return midas_distance(a, order, b, 2.0)


def test_spots_are_those_of_midas():
    frames = frame_peaks()
    peaks = [listed for _, _, listed in frames]
    by_two = merged(frames, by_distance)
    assert by_two == naive_spots(peaks, partial(naive_distance, margin=2.0))
    assert Counter(map(len, by_two)).keys() > {1, 2, 3, 4}
    assert merged(frames, midas_overlap) == naive_spots(peaks, naive_overlap)


def test_midas_itself_merges_the_same_spots(tmp_path):
    frames = frame_peaks()
    peaks = [listed for _, _, listed in frames]
    names = ("row", "col", "radius", "eta", "intensity")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(around, name) for around, _, _ in frames]) for name in names
    }
    columns["frame"] = np.repeat(np.arange(len(frames)), [len(listed) for listed in peaks])
    pixels = [each.pixels for listed in peaks for each in listed]
    row, col = np.concatenate([np.array(each) for each in pixels]).T
    np.savez(tmp_path / "distance.npz", **columns, margin=2.0)
    lists: dict[str, Any] = {"n_pixels": [len(each) for each in pixels], "pixel_row": row, "pixel_col": col}
    np.savez(tmp_path / "overlap.npz", **columns, **lists, margin=2.0)
    paths = (tmp_path / "distance.npz", tmp_path / "overlap.npz")
    by_two, by_pixels = program("MIDAS", "midas_transforms", "midas_merge.py", *paths)
    assert {frozenset(map(tuple, spot)) for spot in by_two} == merged(frames, by_distance)
    by_pixels = {frozenset(map(tuple, spot)) for spot in by_pixels}
    # The port decides otherwise where a peak shares as many pixels with two, and nowhere else.
    assert by_pixels == naive_spots(peaks, partial(naive_overlap, port=True))
    assert 0 < len(by_pixels - merged(frames, midas_overlap)) < len(by_pixels) / 10

"""Scans that a beamline runs, with a real RunEngine: live is replay is any order, and tracks are those of the truth.

Frames hold their expected counts exactly, and which spots light which frames is known: a true track is a part of a
spot's frames that hangs together in the scan, with the rows cut out that never came.
"""

import re
import runpy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import list_scan
from ophyd.status import Status

from hedmlive.callbacks import HedmLive, ReducedArchiveReader, RunResult, load_settings, open_source, process
from hedmlive.simulators import (
    GOLD,
    NOISELESS,
    FrameSimulator,
    FrameSource,
    PencilBeam,
    SimulatedStation,
    random_grains,
    simulated_station,
)
from hedmlive.streaming import Axis, Batches, Columns, Frame, Planned, Recipe, Reducer, digest, join, tables_with_roles
from hedmlive.streaming.curves import Curves

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sinogram.py"
THRESHOLD = 20
CRYSTAL = replace(GOLD, hkls=((1, 1, 1), (-1, -1, -1), (2, 0, 0), (-2, 0, 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    digest: str
    tables: Batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """A source whose frames are flooded where dty says so: as if the beam stop had fallen."""

    source: FrameSource
    dty: float

    @property
    def simulator(self) -> FrameSimulator:
        return self.source.simulator

    def take(self, index: int) -> np.ndarray:
        assert self.source.dty is not None
        frame = self.source.take(index)
        return np.full_like(frame, 60_000) if abs(self.source.dty.position - self.dty) < 1e-6 else frame


def station_of(folder: Path, *, narrow: bool, seed: int) -> SimulatedStation:
    """A station whose frames hold their expected counts, rounded. With this seed no spot touches another."""
    grains = random_grains(3, seed, radius=120.0, height=20.0, size=(50.0, 90.0), mosaic=(0.5, 0.9))
    made = simulated_station(
        folder / "frames",
        detector="array",
        shape=(64, 64),
        grains=grains,
        crystal=CRYSTAL,
        noise=NOISELESS,
        beam_width=20.0 if narrow else None,
    )
    beam = PencilBeam(grains, 20.0) if narrow else None
    exact = FrameSimulator((64, 64), made.simulator.spots, noise=NOISELESS, poisson=False, beam=beam)
    source = FrameSource(simulator=exact, rotation=made.rotation, shutter=made.shutter, dty=made.dty)
    made.detector._source = source
    return replace(made, simulator=exact)


class Rows:
    """Turns the sample while the detector takes a row of frames, and hands their events over in one page."""

    name, parent = "rows", None

    def __init__(self, station: SimulatedStation) -> None:
        self._station = station
        self._events: list[dict[str, Any]] = []
        self.line: list[float] = []

    def kickoff(self) -> Status:
        return _done()

    def complete(self) -> Status:
        rotation, dty, detector = self._station.rotation, self._station.dty, self._station.detector
        assert dty is not None
        for omega in self.line:
            rotation.set(omega).wait()
            detector.trigger().wait()
            readings = {**rotation.read(), **dty.read(), **detector.read()}
            data = {key: readings[key]["value"] for key in self.describe_collect()}
            self._events.append({"data": data, "timestamps": dict.fromkeys(data, 0.0), "time": time.time()})
        return _done()

    def describe_collect(self) -> dict[str, Any]:
        station = self._station
        assert station.dty is not None
        described = {**station.rotation.describe(), **station.dty.describe(), **station.detector.describe()}
        return {key: described[key] for key in (station.rotation.name, station.dty.name, station.image_key)}

    def describe_configuration(self) -> dict[str, Any]:
        return dict(self._station.rotation.describe_configuration())

    def read_configuration(self) -> dict[str, Any]:
        return dict(self._station.rotation.read_configuration())

    def collect(self) -> Iterator[dict[str, Any]]:
        events, self._events = self._events, []
        yield from events


def _done() -> Status:
    status = Status()
    status.set_finished()
    return status


def zigzag(station: SimulatedStation, omegas: np.ndarray, dtys: np.ndarray) -> Any:
    """Rows of a full turn, there and back."""
    rows = Rows(station)
    md = {
        "motors": ["dty", "rotation"],
        "shape": [len(dtys), len(omegas)],
        "extents": [[float(dtys[0]), float(dtys[-1])], [float(omegas[0]), float(omegas[-1])]],
        "snaking": [False, True],
        "hints": {"dimensions": [[["dty"], "primary"], [["rotation"], "primary"]]},
    }

    @bpp.stage_decorator([station.detector])
    @bpp.baseline_decorator(list(station.baseline))
    @bpp.run_decorator(md=md)
    def plan() -> Any:
        yield from bps.declare_stream(rows, name="primary", collect=True)  # type: ignore[arg-type]
        for number, dty in enumerate(dtys.tolist()):
            yield from bps.mv(station.dty, dty)
            rows.line = omegas[:: 1 - 2 * (number % 2)].tolist()
            yield from bps.kickoff(rows, wait=True)  # type: ignore[arg-type]
            yield from bps.complete(rows, wait=True)  # type: ignore[arg-type]
            yield from bps.collect(rows, name="primary", return_payload=False)  # type: ignore[arg-type]

    return plan()


def settings(station: SimulatedStation, folder: Path) -> dict[str, Any]:
    return {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "det", "image": station.image_key}],
        "recipe": {"threshold": THRESHOLD, "max_lit": 2000},
        "archive": {"folder": str(folder)},
    }


def measured(plan: Any, said: Mapping[str, Any], lost: int = 0) -> RunResult:
    """Run a plan; the event of the given number never comes."""
    live = HedmLive(said)
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(lambda name, doc: None if name == "event" and doc["seq_num"] == lost else live(name, doc))
    try:
        engine(plan)
        return live.wait(60)[live.uids[-1]]
    finally:
        live.close()


def replayed(result: RunResult, folder: Path) -> dict[int, str]:
    assert result.raw is not None
    source = open_source(str(result.raw))
    assert source.settings is not None
    made = load_settings({**source.settings, "archive": {"folder": str(folder / "again")}})
    return dict(process(source.documents, made).digests)


def tables_of(result: RunResult) -> Batches:
    assert result.reduced is not None
    with ReducedArchiveReader(result.reduced) as reader:
        return {name: reader.read(0, name) for name in ("frames", "peaks", "links", "tracks", "members")}


def shuffled(station: SimulatedStation, rows: Columns, axes: list[Axis], recipe: Recipe) -> Reduced:
    """Reduce the frames of a run again in another order; those that it lacks are missing."""
    schema = tables_with_roles({}, motors=["dty"])
    reducer = Reducer(recipe, tables=schema, trajectory=Planned(axes))
    here = dict(zip(rows["frame"].tolist(), range(len(rows["frame"])), strict=True))
    batches: list[Batches] = []
    for number in np.random.default_rng(5).permutation(len(axes[0].positions)).tolist():
        if number not in here:
            batches.append(reducer.missing(number))
            continue
        start, end = (float(rows[name][here[number]]) for name in ("omega_start", "omega_end"))
        roles = {role: float(rows[role][here[number]]) for role in ("dty", "L1", "L2", "energy")}
        place = {} if np.isnan(roles["dty"]) else {"dty": roles["dty"]}
        image = station.simulator.frame(start, end, number, **place)
        frame = Frame(frame=number, point=number, image=image, omega_start=start, omega_end=end, roles=roles)
        batches.append(reducer.push(frame))
    batches.append(reducer.flush())
    tables = join(batches)
    for name, columns in tables.items():
        order = np.lexsort([columns[key] for key in schema[name].key[::-1]])
        tables[name] = {column: values[order] for column, values in columns.items()}
    return Reduced(digest=digest(schema, lambda name: [tables[name]]), tables=tables)


def lit_frames(station: SimulatedStation, omegas: np.ndarray, step: float, dtys: np.ndarray) -> np.ndarray:
    """Whether each spot is lit in each frame, shape (spots, frames)."""
    exact, whole = station.simulator, []
    for number, omega in enumerate(exact.spots.omega.tolist()):
        alone = FrameSimulator(exact.shape, exact.spots.select(np.array([number])), noise=NOISELESS)
        # The expected counts of its brightest pixel, were the whole spot in one frame.
        whole.append(alone.expected(omega - 180.0, omega + 180.0).max())
    frames = zip(omegas.tolist(), dtys.tolist(), strict=True)
    parts = np.column_stack([exact.fractions(omega, omega + step, dty=dty) for omega, dty in frames])
    return np.rint(parts * np.array(whole)[:, None]) > THRESHOLD


def true_tracks(lit: np.ndarray, neighbours: list[tuple[int, int]]) -> list[frozenset[int]]:
    """The frames of each track of a perfect reduction."""
    found: list[frozenset[int]] = []
    for spot in lit:
        together = {frame: {frame} for frame in np.flatnonzero(spot).tolist()}
        for a, b in neighbours:
            if a in together and b in together and together[a] is not together[b]:
                together[a] |= together[b]
                together |= dict.fromkeys(together[b], together[a])
        found += {id(each): frozenset(each) for each in together.values()}.values()
    return sorted(found, key=sorted)


def tracks_of(tables: Batches) -> list[frozenset[int]]:
    members = tables["members"]
    tracks = tables["tracks"]["track"].tolist()
    return sorted((frozenset(members["frame"][members["track"] == track].tolist()) for track in tracks), key=sorted)


def on_circle(omegas: np.ndarray) -> list[tuple[int, int]]:
    """Neighbours on the circle, by their place there."""
    order = np.argsort(np.mod(omegas, 360.0), kind="stable")
    return list(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))


def test_a_grid_with_a_dropped_row(tmp_path: Path) -> None:
    n_omega, n_dty, lost = 180, 40, 17
    station = station_of(tmp_path, narrow=True, seed=3)
    omegas, dtys, step = 2.0 * np.arange(n_omega), 0.01 * np.arange(n_dty) - 0.2, 2.0
    station.rotation.step.put(step)
    station.detector._source = Flooded(source=station.detector._source, dty=float(dtys[lost]))  # type: ignore[assignment]
    said = settings(station, tmp_path)
    result = measured(zigzag(station, omegas, dtys), said)
    assert [line for line in result.problems if "flooded" not in line] == []
    assert (result.progress.n_frames, result.progress.n_rejected) == (n_omega * n_dty - n_omega, n_omega)
    tables = tables_of(result)

    # Frame numbers by row and column of the grid.
    grid = np.arange(n_omega * n_dty).reshape(n_dty, n_omega)
    grid[1::2] = grid[1::2, ::-1].copy()
    at_omega, at_dty = np.empty(grid.size), np.empty(grid.size)
    at_omega[grid], at_dty[grid] = omegas[None, :], dtys[:, None]
    lit = lit_frames(station, at_omega, step, at_dty)
    lit[:, grid[lost]] = False
    rows = [(a, b) for row in grid for a, b in zip(row.tolist(), np.roll(row, -1).tolist(), strict=True)]
    across = [pair for a, b in pairwise(grid) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert tracks_of(tables) == true_tracks(lit, rows + across)

    assert replayed(result, tmp_path) == dict(result.digests)
    axes = [
        Axis(name="omega", positions=at_omega, period=360.0),
        Axis(name="dty", positions=at_dty),
    ]
    recipe = load_settings(said).recipe
    assert shuffled(station, tables["frames"], axes, recipe).digest == result.digests[0]
    bridged = shuffled(station, tables["frames"], axes, replace(recipe, along={"dty": {"max_gap": 1}}))
    over = list(zip(grid[lost - 1].tolist(), grid[lost + 1].tolist(), strict=True))
    assert tracks_of(bridged.tables) == true_tracks(lit, rows + across + over) != tracks_of(tables)

    # Each grain is on its sine.
    curves, tracks = Curves(bridged.tables), bridged.tables["tracks"]
    spots = station.simulator.spots
    places = zip(*(tracks[name].tolist() for name in ("track", "omega", "row", "col")), strict=True)
    for track, omega, row, col in places:
        turn = np.abs((spots.omega - omega + 180.0) % 360.0 - 180.0)
        spot = int(np.argmin(np.hypot(spots.row - row, spots.col - col) + turn))
        x, y, _ = station.grains[spots.grain[spot]].position
        curve = curves.rocking_curve(track, "dty")
        if abs(curve.position - dtys[lost]).min() > 0.015:
            sine = -1e-3 * (x * np.sin(np.radians(omega)) + y * np.cos(np.radians(omega)))
            assert np.average(curve.position, weights=curve.intensity) == pytest.approx(sine, abs=3e-3)


def test_an_interlaced_scan_back_and_forth(tmp_path: Path) -> None:
    station = station_of(tmp_path, narrow=False, seed=3)
    omegas, step = np.concatenate([np.arange(0, 360, 4.0), np.arange(2, 360, 4.0)[::-1]]), 2.0
    station.rotation.step.put(step)
    lit = lit_frames(station, omegas, step, np.zeros(len(omegas)))
    # Of the spot that is seen longest the brightest frame never comes.
    spot = int(lit.sum(axis=1).argmax())
    away = (omegas + step / 2 - station.simulator.spots.omega[spot] + 180.0) % 360.0 - 180.0
    gone = int(np.abs(away).argmin())
    said = settings(station, tmp_path)
    plan = list_scan([station.detector], station.rotation, omegas.tolist())
    result = measured(plan, said, lost=gone + 1)
    assert (result.progress.n_frames, result.progress.n_rejected) == (len(omegas) - 1, 1)
    tables = tables_of(result)
    lit[:, gone] = False
    tracks = true_tracks(lit, on_circle(omegas))
    assert tracks_of(tables) == tracks
    assert sum(min(track) < 90 <= max(track) for track in tracks) > len(tracks) / 2
    assert replayed(result, tmp_path) == dict(result.digests)
    axes = [Axis(name="omega", positions=omegas, period=360.0)]
    assert shuffled(station, tables["frames"], axes, load_settings(said).recipe).digest == result.digests[0]


def test_an_irrational_step_over_three_turns(tmp_path: Path) -> None:
    station = station_of(tmp_path, narrow=False, seed=3)
    omegas, step = 1.8 * (1.0 + np.sqrt(5.0)) * np.arange(185), 2.0
    assert 1065 < omegas[-1] < 1080
    station.rotation.step.put(step)
    lit = lit_frames(station, omegas, step, np.zeros(len(omegas)))
    said = settings(station, tmp_path)
    result = measured(list_scan([station.detector], station.rotation, omegas.tolist()), said)
    assert (result.progress.n_frames, result.progress.n_rejected) == (len(omegas), 0)
    tables = tables_of(result)
    tracks = true_tracks(lit, on_circle(omegas))
    assert tracks_of(tables) == tracks
    turns = [{int(omegas[frame] // 360) for frame in track} for track in tracks]
    assert sum(len(each) > 1 for each in turns) > len(tracks) / 2
    assert replayed(result, tmp_path) == dict(result.digests)
    axes = [Axis(name="omega", positions=omegas, period=360.0)]
    assert shuffled(station, tables["frames"], axes, load_settings(said).recipe).digest == result.digests[0]


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the examples lie in the repository, not in the package")
def test_the_example_finds_the_grain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert [int(number) for number in re.findall(r"-?\d+", last)] == pytest.approx([90, -50, 90, -50], abs=3)

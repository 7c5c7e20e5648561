"""What a scientist types, against a real server in another process: live, after the run, and beside the archive."""

import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import httpx
import numpy as np
import pyarrow as pa
import pytest
import yaml
from bluesky import RunEngine

from hedmlive.callbacks import (
    HedmLive,
    ReducedArchiveReader,
    RunResult,
    load_settings,
    make_sink,
    open_source,
    process,
)
from hedmlive.devices import step_scan
from hedmlive.simulators import NOISELESS, simulated_station
from hedmlive.streaming import Curves, ReplayError, SettingsError
from hedmlive.tiled_config import connect, disconnect

KEY = "clienttestkey0123456789"
N_FRAMES = 24


class Scanned:
    """A server, and a run in its catalogue that was asked while it went on."""

    result: RunResult

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, Any] = {}
        file = folder / "serve.yml"
        file.write_text(yaml.safe_dump({"folder": "tiled", "readable": ["."], "port": 0, "api_key": KEY}))
        command = [sys.executable, "-m", "hedmlive.tiled_config", str(file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.uri = self.process.stdout.readline().strip()
        self.runs = connect(self.uri, KEY)

    def end(self) -> None:
        disconnect(self.runs)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def scan(self, detector: Any = "array", then: Callable[[], bool] = lambda: True) -> RunResult:
        """Scan; two thirds through, do not go on before `then()` is true."""
        station = simulated_station(
            self.folder / detector, detector=detector, shape=(128, 128), n_grains=12, noise=NOISELESS, seed=3
        )
        settings = {
            "roles": dict(station.roles),
            "omega_marks": "start",
            "detectors": [{"name": "detector", "image": station.image_key}],
            "recipe": {"threshold": 20, "wrap": False},
            "archive": {"folder": str(self.folder / "archives" / detector)},
            "tiled": {"uri": self.uri},
        }
        live = HedmLive(settings, sink=lambda: make_sink("tiled", self.uri, KEY))
        engine = RunEngine({}, call_returns_result=False)
        engine.subscribe(live)
        md = {"sample_name": f"ruby {detector}", "technique": "ff-HEDM", "scan_id": 41}

        def gated() -> Any:
            taken = 0
            plan = step_scan([station.detector], station.rotation, 0.0, 1.0, N_FRAMES, baseline=station.baseline, md=md)
            for message in plan:
                taken += message.command == "save"
                if taken == 2 * N_FRAMES // 3 and message.command == "checkpoint":
                    deadline = time.monotonic() + 90
                    while not then():
                        assert time.monotonic() < deadline, "what was waited for did not happen"
                        yield from bps.sleep(0.05)
                    taken += 1000
                yield message

        engine(gated())
        (result,) = live.wait(120).values()
        live.close()
        assert result.problems == ()
        return result


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scanned]:
    made = Scanned(tmp_path_factory.mktemp("client"))

    def asked() -> bool:
        """Ask while the scan waits, as soon as there are tracks."""
        if not len(made.runs):
            return False
        run = made.runs.latest()
        # Nodes are made one by one.
        ready = run.attempts and {"tracks", "peaks"} <= set(run.reduction)
        tracks = run.tracks(omega=(2, 10)) if ready else pa.table({})
        if len(tracks):
            made.seen = {"tracks": tracks, "status": run.status, "peaks": run.peaks(frame=(2, 5), min_n_pixels=3)}
        return bool(len(tracks))

    try:
        made.result = made.scan(then=asked)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def archived(scanned: Scanned) -> dict[str, dict[str, np.ndarray]]:
    assert scanned.result.reduced is not None
    with ReducedArchiveReader(scanned.result.reduced) as archive:
        return {name: archive.read(0, name) for name in ("frames", "peaks", "links", "tracks", "members")}


@pytest.fixture(scope="module")
def run(scanned: Scanned) -> Any:
    return scanned.runs[scanned.result.uid]


def assert_rows(found: pa.Table, table: dict[str, np.ndarray], chosen: np.ndarray, key: tuple[str, ...]) -> None:
    """The rows are those of the archive's table that a mask chooses, in the order of the key."""
    order = np.lexsort([table[name][chosen] for name in reversed(key)])
    for name in found.column_names:
        np.testing.assert_array_equal(found[name].to_numpy(), table[name][chosen][order])
        assert found[name].type.to_pandas_dtype() == table[name].dtype.type
    assert len(found) == chosen.sum()


# ---------------------------------------------------------------- rows


def test_filtered_rows_are_those_of_the_archive(run, archived):
    peaks, tracks, links = archived["peaks"], archived["tracks"], archived["links"]
    key = ("frame", "peak")
    assert_rows(run.peaks(), peaks, np.ones(len(peaks["frame"]), bool), key)
    inside = (peaks["omega"] >= 3) & (peaks["omega"] <= 9.5)
    assert 0 < inside.sum() < len(inside)
    bright = peaks["sum_intensity"] >= 500
    assert_rows(run.peaks(omega=(3, 9.5), min_intensity=500), peaks, inside & bright, key)
    assert_rows(run.peaks(["row", "omega"], omega=(3, 9.5)), peaks, inside, key)
    assert run.peaks(["row", "omega"], omega=(3, 9.5)).column_names == ["row", "omega"]
    long = tracks["n_frames"] >= 3
    assert_rows(run.tracks(min_n_frames=3, on_edge=False), tracks, long & ~tracks["on_edge"], ("track",))
    chosen = np.isin(links["frame_a"], [2, 4])
    assert_rows(run.links(frame_a=[2, 4]), links, chosen, ("frame_a", "peak_a", "frame_b", "peak_b", "axis"))
    assert len(run.peaks(limit=7)) == 7
    assert len(run.peaks(omega=(5000, None))) == 0


def test_the_answer_during_the_run_is_the_answer_after_it(scanned, run, archived):
    assert scanned.seen["status"] == "running"
    assert run.status == "complete"
    then, now = scanned.seen["tracks"], run.tracks(omega=(2, 10))
    # Tracks that closed since are new; what had closed stays as it was.
    assert then.equals(now.filter(pa.array(np.isin(now["track"].to_numpy(), then["track"].to_numpy()))))
    assert scanned.seen["peaks"].equals(run.peaks(frame=(2, 5), min_n_pixels=3))


def test_large_results_come_in_pages(run, archived, monkeypatch):
    table = run.reduction["peaks"]
    pages = list(table.pages(["frame"], limit=10))
    assert sum(map(len, pages)) == 10
    asked: list[int] = []
    whole = table.query()

    def page(asked_for: Any, after: str | None, limit: int | None) -> Any:
        asked.append(1)
        return type(table)._page(table, asked_for, after, 50)

    monkeypatch.setattr(table, "_page", page)
    assert table.query().equals(whole)
    assert len(asked) == -(-len(whole) // 50)


def test_a_track_has_its_peaks_its_curve_and_its_sinogram(run, archived):
    tracks = archived["tracks"]
    number = int(tracks["track"][tracks["n_frames"].argmax()])
    track = run.track(number)
    mine = archived["members"]["track"] == number
    expected = sorted(zip(archived["members"]["frame"][mine], archived["members"]["peak"][mine], strict=True))
    peaks = track.peaks(["frame", "peak"])
    assert list(zip(peaks["frame"].to_pylist(), peaks["peak"].to_pylist(), strict=True)) == expected
    curve, whole = track.rocking_curve(), Curves(archived).rocking_curve(number)
    np.testing.assert_array_equal(curve.position, whole.position)
    np.testing.assert_array_equal(curve.intensity, whole.intensity)
    assert curve.intensity.sum() == pytest.approx(track.values["sum_intensity"])
    with pytest.raises(SettingsError, match="dty of frame"):  # it was not scanned
        track.sinogram()
    assert f"track {number}" in repr(track)
    assert str(number) in track._repr_html_()


@pytest.mark.parametrize("detector", ["array", "hdf5", "stream"])
def test_the_raw_pixels_around_a_track_come_as_a_cut_out(scanned, detector):
    result = scanned.result if detector == "array" else scanned.scan(detector)
    run = scanned.runs[result.uid]
    tracks = run.tracks(n_frames=(2, None), on_edge=False).to_pandas()
    track = run.track(tracks["track"][tracks["sum_intensity"].idxmax()])
    found = track.frames(margin=3)
    assert result.reduced is not None
    with ReducedArchiveReader(result.reduced) as archive:
        pixels = archive.read(0, "pixels")
    # Every lit pixel of the archive that lies in the box has the counts of the cut-out.
    row, col = pixels["row"] - found.row[0], pixels["col"] - found.col[0]
    inside = np.isin(pixels["frame"], found.frame)
    inside &= (row >= 0) & (row < len(found.row)) & (col >= 0) & (col < len(found.col))
    nth = np.searchsorted(found.frame, pixels["frame"][inside])
    assert inside.sum() >= track.values["n_pixels"]
    np.testing.assert_array_equal(found.images[nth, row[inside], col[inside]], pixels["intensity"][inside])
    assert found.images.shape == (len(found.frame), len(found.row), len(found.col))
    assert found.frame[0] == track.values["first_frame"]
    assert track.values["omega_min"] <= found.omega[0] <= track.values["omega_max"]
    labelled = found.to_xarray()
    assert labelled.dims == ("frame", "row", "col")


# ---------------------------------------------------------------- runs


def test_runs_are_found_by_what_is_known_of_them(scanned, run):
    runs, uid = scanned.runs, scanned.result.uid
    tracks = scanned.result.progress.n_tracks

    def found(**criteria: Any) -> bool:
        return uid in {each.uid for each in runs.search(**criteria)}

    assert found(sample="ruby array", status="complete", scan_id=41, technique="ff*", omega=(20, 400))
    assert found(min_tracks=tracks)
    assert found(text="ruby array")
    assert found(time=(run.summary["time"] - 1, run.summary["time"] + 1))
    assert found(plan_name=run.start["plan_name"])
    for criteria in (
        {"sample": "emerald*"}, {"status": "failed"}, {"scan_id": 42}, {"omega": (N_FRAMES + 1, None)},
        {"min_tracks": tracks + 1}, {"time": (None, "2001-01-01")}, {"text": "emerald"}, {"plan_name": "none"},
    ):  # fmt: skip
        assert not found(**criteria), criteria
    if (energy := run.summary.get("energy_min")) is not None:
        assert found(energy=(energy - 1, energy + 1))
        assert not found(energy=(energy + 1, None))
    assert runs[41].scan_id == 41
    assert runs[uid[:8]].uid == uid
    assert runs.latest().uid == next(iter(runs)).uid
    assert uid in runs
    assert "0000" not in runs
    assert uid[:8] in repr(runs)
    assert uid[:8] in runs._repr_html_()
    assert "ruby" in run._repr_html_()


def test_another_recipe_is_another_attempt_beside_the_first(scanned, run):
    source = open_source(str(scanned.result.raw))
    settings = dict(source.settings or {}) | {"archive": {"folder": str(scanned.folder / "again")}}
    settings["recipe"] = dict(settings["recipe"]) | {"threshold": 60}
    sink = lambda: make_sink("tiled", scanned.uri, KEY)  # noqa: E731
    again = process(source.documents, load_settings(settings), sink=sink)
    assert run.attempts == [0, 1]
    first, second = run.attempt(0), run.attempt(1)
    assert run.digest == second.digest == again.digests[0]
    assert first.digest == scanned.result.digests[0]
    assert first.warnings == []
    assert run.attempt(detector="detector").attempt_number == 1
    compared = first.compare(run)
    assert compared.same_digest is False
    assert compared.recipe["threshold"] == (20, 60)
    n_first, n_second = compared.counts["tracks"]
    assert len(compared.matched) + len(compared.lost) == n_first
    assert len(compared.matched) + len(compared.new) == n_second
    assert len(compared.matched) > 0.5 * n_second
    assert np.abs(compared.matched["moved_row"].to_numpy()).max() <= 1
    same = first.compare(first)
    assert (same.same_digest, len(same.matched), len(same.moved)) == (True, n_first, 0)
    assert "threshold: 20 -> 60" in str(compared)


# ---------------------------------------------------------------- who may ask, and what cannot be asked


def test_plain_tiled_gives_the_same_clients(scanned):
    from tiled.client import from_uri

    client = from_uri(scanned.uri, api_key=KEY)
    try:
        run = client["reduced"][scanned.result.uid]
        assert len(run.tracks()) == len(run["attempt-0000"]["tracks"].read()) > 0 or len(run.attempts) > 1
    finally:
        disconnect(client)


def test_who_has_no_key_gets_no_rows(scanned):
    place = f"{scanned.uri}/hedm/rows/reduced/{scanned.result.uid}/attempt-0000/peaks"
    assert httpx.get(place).status_code == 401
    assert httpx.get(place, params={"api_key": "f" * 32}).status_code == 401
    answer = httpx.get(place, params={"api_key": KEY, "limit": 3})
    with pa.ipc.open_stream(answer.content) as reader:
        assert len(reader.read_all()) == 3
    assert answer.headers["x-hedmlive-next"]


@pytest.mark.parametrize(
    ("query", "code", "detail"),
    [
        ({"where": "omega;--:ge:1"}, 400, "column 'omega;--' came; wanted one of frame"),
        ({"where": "omega:ge:1 OR 1=1"}, 400, "wanted a number"),
        ({"column": 'row" FROM x; --'}, 400, "came; wanted some of"),
        ({"after": "1;2"}, 400, "wanted whole numbers for frame, peak"),
        ({"limit": 0}, 422, "greater than or equal to 1"),
    ],
)
def test_what_a_table_does_not_have_is_refused(scanned, query, code, detail):
    place = f"{scanned.uri}/hedm/rows/reduced/{scanned.result.uid}/attempt-0000/peaks"
    answer = httpx.get(place, params={"api_key": KEY, **query})
    assert answer.status_code == code
    assert detail in str(answer.json()["detail"])


def test_mistakes_are_told_in_one_line(scanned, run):
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: run.peaks(rung=2), SettingsError, "peaks: column 'rung' came; wanted one of frame"),
        (lambda: run.peaks(ring=2), SettingsError, "ring=2: the run does not tell .*distance, pixel_size, beam_center"),
        (lambda: run.tracks(["rows"]), SettingsError, r"tracks: columns \['rows'\] came"),
        (lambda: run.query("spots"), SettingsError, "table 'spots' came; wanted one of"),
        (lambda: run.track(-5), SettingsError, "track -5 came; wanted one of its closed tracks"),
        (lambda: run.attempt(7), SettingsError, "reduction 7 came; wanted one of"),
        (lambda: run.compare(run, pixels=0), SettingsError, "pixels=0"),
        (lambda: scanned.runs["f" * 8], KeyError, "no run begins so"),
        (lambda: scanned.runs[9999], KeyError, "scan 9999 came"),
        (lambda: scanned.runs.search(omega=3), SettingsError, "omega=3 came"),
    ]
    for ask, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1


def test_a_server_without_our_queries_is_told(tmp_path, monkeypatch):
    from hedmlive.streaming import TABLES
    from hedmlive.tiled_config import EmbeddedServer, TiledSink, server

    plain = server.server_configuration
    monkeypatch.setattr(server, "server_configuration", lambda *args: {**plain(*args), "routers": []})
    with warnings.catch_warnings(), EmbeddedServer(tmp_path) as served:
        runs = connect(served.uri, served.api_key)
        TiledSink(runs).open_reduction("r", 0, start={"uid": "r"}, metadata={}, tables={"peaks": TABLES["peaks"]})
        with pytest.raises(ReplayError, match="this server does not filter rows"):
            runs["r"].peaks()
        disconnect(runs)

"""The demonstration: a real RunEngine, a real Tiled server in its own process, a simulated sample with known truth."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bluesky import RunEngine
from bluesky.callbacks.core import CallbackBase
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..callbacks import (
    HedmLive,
    Progress,
    RawArchiveReader,
    ReducedArchiveReader,
    RunResult,
    Settings,
    load_settings,
    make_sink,
    process,
)
from ..devices import step_scan
from ..simulators import Score, SimulatedStation, score_tracks, simulated_station
from ..streaming import ArchiveError, SettingsError
from ..tiled_config import connect, disconnect, latest_reduction
from .display import console, error_console, show_problems

_STEP = 0.5
_THRESHOLD = 30.0
_VISIBLE = 60.0
"""Spots count as visible from here on: their brightest pixel is expected twice the threshold above the dark."""
_FAINT = 3.0
_SERVER_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """The Tiled server in its own process."""

    uri: str
    key: str
    process: subprocess.Popen[str]


def run_demo(*, out: Path | None, keep: bool, n_frames: int, detector: str) -> None:
    """Run the demonstration and print what it showed.

    Parameters
    ----------
    out
        Folder to keep everything in; None for a temporary one.
    keep
        Whether to leave the server running, and its data.
    n_frames
        Frames of the scan.
    detector
        How frames come: `array`, `hdf5` or `stream`.

    Raises
    ------
    SettingsError
        The kind of detector is unknown, or `out` holds something already.
    ArchiveError
        The scan gave no digest, or the replay another one.
    """
    if detector not in ("array", "hdf5", "stream"):
        raise SettingsError(f"--detector {detector!r} is unknown; wanted array, hdf5 or stream")
    with ExitStack() as stack:
        folder = _folder(out, keep, stack)
        console.print(f"Starting a Tiled server over {folder} ...")
        starting = _start_server(folder, detach=keep)
        if not keep:
            stack.callback(_stop_server, starting)
        station = simulated_station(folder / "detector", detector=detector, shape=(1024, 1024), exposure=0.02)  # pyright: ignore[reportArgumentType]
        server = _await_server(starting, folder)
        settings = _settings(folder, station, server.uri)
        result, live, seconds = _scan(settings, station, server, n_frames)
        score = _score(result, station, n_frames)
        digest = next(iter(result.digests.values()), "")
        replayed = _replay(result, settings, folder)
        _report(score, live, seconds, n_frames, digest, replayed)
        _show_query(server, result.uid, keep, folder)
        show_problems(result)
    if not digest or digest != replayed:
        raise ArchiveError(f"replay gave {replayed or 'no digest'}, live {digest or 'none'}; they must be equal")


def _folder(out: Path | None, keep: bool, stack: ExitStack) -> Path:
    if out is None:
        folder = Path(tempfile.mkdtemp(prefix="hedmlive-demo-"))
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"--out {out}: holds something already; give an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()


def _settings(folder: Path, station: SimulatedStation, uri: str) -> Settings:
    return load_settings(
        {
            "roles": dict(station.roles),
            "omega_marks": "start",
            "detectors": [{"name": "detector", "image": station.image_key}],
            "recipe": {
                "background": "dark",
                "threshold": _THRESHOLD,
                "min_pixels": 3,
                "max_distance": 2.0,
                "saturation": float(station.simulator.noise.full_scale),
            },
            "archive": {"folder": str(folder / "archives")},
            "tiled": {"uri": uri},
        }
    )


# The server


def _start_server(folder: Path, *, detach: bool) -> subprocess.Popen[str]:
    file = folder / "serve.yml"
    file.write_text(yaml.safe_dump({"folder": "tiled", "readable": ["."], "port": 0}), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "HEDMLIVE_TILED_KEY"}
    command = [sys.executable, "-m", "hedmlive.tiled_config", str(file)]
    # A server that stays must not hold on to our own output: whoever reads that through a pipe would wait for its end.
    with (folder / "server.err").open("w") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=detach,
        )


def _await_server(starting: subprocess.Popen[str], folder: Path) -> _Server:
    pipe = starting.stdout
    ready = pipe is not None and select.select([pipe], [], [], _SERVER_SECONDS)[0]
    uri = pipe.readline().strip() if pipe is not None and ready else ""
    if not uri:
        raise ArchiveError(f"the Tiled server did not start; see {folder / 'server.err'}")
    key = (folder / "tiled" / "api_key").read_text(encoding="utf-8").strip()
    return _Server(uri=uri, key=key, process=starting)


def _stop_server(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


# The scan


class _Clock(CallbackBase):
    """Notes when a run began and ended for the RunEngine."""

    def __init__(self) -> None:
        super().__init__()
        self.began = self.ended = 0.0

    def descriptor(self, doc: Any) -> None:
        if doc["name"] == "primary":
            self.began = time.monotonic()

    def stop(self, doc: Any) -> None:
        self.ended = time.monotonic()


def _scan(
    settings: Settings, station: SimulatedStation, server: _Server, n_frames: int
) -> tuple[RunResult, HedmLive, float]:
    engine = RunEngine({}, call_returns_result=False)
    live = HedmLive(settings, sink=lambda: make_sink("tiled", server.uri, server.key))
    engine.subscribe(live)
    clock = _Clock()
    engine.subscribe(clock)
    plan = step_scan(
        [station.detector],
        station.rotation,
        0.0,
        _STEP,
        n_frames,
        dark_frames=5,
        shutter=station.shutter,
        baseline=station.baseline,
        md={"sample_name": "simulated gold", "plan_name": "ff_demo"},
    )
    if not live.ready(3):
        console.print("Loading what finds and links the spots; the first time it is compiled ...")
        live.ready(300)
    with _watching(live, server, n_frames):
        engine(plan)
        results = live.wait(120)
    live.close()
    result = next(iter(results.values()), None)
    if result is None:
        raise ArchiveError("the scan gave no result; run again with --debug")
    return result, live, clock.ended - clock.began


@contextmanager
def _watching(live: HedmLive, server: _Server, n_frames: int) -> Generator[None]:
    """Show progress; what a client of its own sees over Tiled, beside what the reduction has."""
    watcher = _Watcher(live, server, n_frames)
    watcher.start()
    try:
        if console.is_terminal:
            with Live(get_renderable=watcher.table, console=console, refresh_per_second=8):
                yield
        else:
            yield
    finally:
        watcher.stop()
    if watcher.first_seen is not None:
        console.print(
            f"A Tiled client saw the first closed tracks when frame {watcher.first_seen} of {n_frames} was reduced."
        )


class _Watcher(threading.Thread):
    """Polls the server as any user would."""

    def __init__(self, live: HedmLive, server: _Server, n_frames: int) -> None:
        super().__init__(name="hedmlive-demo-watch", daemon=True)
        self._live, self._server, self._n_frames = live, server, n_frames
        self._over = threading.Event()
        self._seen = 0
        self.first_seen: int | None = None

    def run(self) -> None:
        client = connect(self._server.uri, self._server.key)
        while not self._over.wait(0.5):
            uids = self._live.uids
            if not uids:
                continue
            try:
                self._seen = len(latest_reduction(client, uids[-1])["tracks"].read(["track"]))
            except KeyError:
                continue
            if self._seen and self.first_seen is None:
                self.first_seen = self._live.progress().n_frames
        disconnect(client)

    def stop(self) -> None:
        self._over.set()
        self.join(10)

    def table(self) -> Table:
        progress, publisher = self._live.progress(), self._live.publisher()
        done = progress.n_frames
        bar = "━" * round(30 * done / self._n_frames)
        table = Table(show_header=False, box=None)
        table.add_row("frames", f"[green]{bar:<30}[/] {done}/{self._n_frames}")
        table.add_row("peaks", str(progress.n_peaks))
        table.add_row("tracks", f"{progress.n_tracks} closed, {progress.n_open} open")
        brightest = _brightest(progress)
        if brightest:
            table.add_row("brightest open one", brightest)
        table.add_row("seen over Tiled", f"{self._seen} tracks")
        for problem in progress.warnings[:3]:
            table.add_row("warning", Text(problem.message, "yellow"))
        if publisher is not None:
            table.add_row("lag to published", f"{publisher.lag.percentile(50):.2f} s (median)")
        return table


def _brightest(progress: Progress) -> str:
    """Say where the brightest open track is, and for how long it has been there."""
    rows = progress.open_tracks[0] if progress.open_tracks else {}
    if not rows or not len(rows["track"]):
        return ""
    at = int(rows["sum_intensity"].argmax())
    row, col, counts, n = (rows[name][at] for name in ("row", "col", "sum_intensity", "n_peaks"))
    return f"{counts:.0f} counts at row {row:.0f}, column {col:.0f}, in {n} frames so far"


# What it showed


def _score(result: RunResult, station: SimulatedStation, n_frames: int) -> Score:
    if result.reduced is None:
        raise ArchiveError("the scan wrote no reduced archive; see the problems above")
    scan = [(i * _STEP, (i + 1) * _STEP) for i in range(n_frames)]
    truth = station.simulator.truth(scan, min_height=_VISIBLE)
    faint = station.simulator.truth(scan, min_height=_FAINT)
    with ReducedArchiveReader(result.reduced) as archive:
        return score_tracks(archive.read(0, "tracks"), truth, faint, degrees=_STEP)


def _replay(result: RunResult, settings: Settings, folder: Path) -> str:
    if result.raw is None:
        raise ArchiveError("the scan wrote no raw archive; see the problems above")
    again = settings.model_copy(
        update={"archive": settings.archive.model_copy(update={"folder": folder / "replayed"}), "tiled": None}
    )
    with RawArchiveReader(result.raw) as archive:
        replayed = process(archive.documents(), again)
    return next(iter(replayed.digests.values()), "")


def _report(score: Score, live: HedmLive, seconds: float, n_frames: int, digest: str, replayed: str) -> None:
    publisher = live.publisher()
    lag = live.progress().frame_lag
    same = "[green]equal[/]" if digest == replayed else "[red]DIFFERENT[/]"
    rows = [
        ("spots found", f"{score.n_found} of {score.n_true} visible ones (recall {score.recall:.3f})"),
        ("false tracks", f"{score.n_false} of {score.n_tracks}"),
        ("centroid error", f"{score.centroid_error:.3f} px (median)"),
        ("omega error", f"{score.omega_error:.4f} degrees (median)"),
        ("scan", f"{n_frames} frames in {seconds:.1f} s, {n_frames / max(seconds, 1e-9):.1f} frames/s"),
        ("frame to reduced", f"{lag.percentile(50):.3f} s median, {lag.percentile(95):.3f} s 95 %"),
        ("digest, live", digest),
        ("digest, replay", f"{replayed}  {same}"),
    ]
    if publisher is not None:
        both = publisher.lag
        published = f"{both.percentile(50):.2f} s median, {both.percentile(95):.2f} s 95 %"
        rows.insert(6, ("frame to published", published))
    for name, value in rows:
        console.print(f"{name:<19} {value}")


def _show_query(server: _Server, uid: str, keep: bool, folder: Path) -> None:
    where = f'connect("{server.uri}", "{server.key}")' if keep else f'connect("{server.uri}", KEY)'
    console.print("\nQuery what it made:\n")
    for line in (
        "from hedmlive.tiled_config import connect",
        f'run = {where}["{uid[:8]}"]',
        'tracks = run.tracks(["track", "omega", "row", "col"], omega=(10, 20), min_intensity=500)',
        "tracks.to_pandas()",
        'run.track(tracks["track"][0].as_py()).rocking_curve()',
    ):
        console.print(f"    {line}", markup=False)
    if keep:
        console.print(f"\nThe server runs on (process {server.process.pid}); end it with: kill {server.process.pid}")
        console.print(f"Everything is in {folder}")
    else:
        error_console.print("\n(--keep leaves the server running to try it.)", style="dim")

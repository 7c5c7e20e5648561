"""`hedmlive watch` as a beamline runs it: files that another process writes, Ctrl-C, a kill, and the shared data."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import foreign_scans as scans
import h5py
import numpy as np
import pytest
import yaml

from hedmlive.callbacks import FolderWatch, RunResult, load_settings, make_sink
from hedmlive.tiled_config import connect, disconnect, latest_reduction

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
# Tests that run in the background of a shell have Ctrl-C switched off, and what they start inherits that.
CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = (sys.executable, "-c", CTRL_C + "from hedmlive.cli import main; main()")
WRITER = (
    "import sys; from pathlib import Path; import foreign_scans as scans\n"
    "name, writer, _ = scans.GROWING[sys.argv[1]]\n"
    "steps = writer(Path(sys.argv[2]) / name, scans.images())\n"
    "for line in sys.stdin:\n"
    "    print(next(steps, 'done'), flush=True)\n"
)


def environment() -> dict[str, str]:
    paths = [str(ROOT / ".namespace"), str(ROOT / "tests"), *(path for path in sys.path if path)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def running(*command: object, **options: Any) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen([str(each) for each in command], env=environment(), text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def digests_of(path: Path) -> list[str]:
    with h5py.File(path) as file:
        return [str(group.attrs["digest"]) for group in file.values()]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done


def written(path: Path, said: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(said))))
    return path


@pytest.mark.parametrize("kind", list(scans.GROWING))
def test_a_file_that_another_process_writes(tmp_path: Path, kind: str) -> None:
    folder, out = tmp_path / "frames", tmp_path / "out"
    folder.mkdir()
    name, _, changes = scans.GROWING[kind]
    said = scans.settings(out, **changes)
    # Only of a series nothing but time says that it is finished; on a busy machine a frame may take seconds.
    finished = {"stable_seconds": 15 if kind == "tiff" else 600, "frames": scans.N_FRAMES}
    said["watch"] |= {"poll_seconds": 0.02, "finished": finished}
    settings = written(tmp_path / "hedmlive.yml", said)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        running(sys.executable, "-c", WRITER, kind, folder, **pipes) as writer,
        running(*COMMAND, "watch", folder, "--settings", settings, "--out", out, stderr=subprocess.PIPE) as watch,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert watch.stderr is not None
        # Importing takes seconds, in which a file that does not change would count as finished.
        assert "watching" in watch.stderr.readline()
        began = False
        while True:
            writer.stdin.write("\n")
            writer.stdin.flush()
            if writer.stdout.readline().strip() == "done":
                break
            if not began and kind != "hdf5" and len(list(folder.iterdir())) and _has_frames(folder, name):
                # From here on it is followed; one that is not SWMR is read when it is closed.
                began = bool(wait_for(lambda: list(out.glob("*_raw.h5"))))
        writer.stdin.close()
        reduced = wait_for(lambda: [p for p in out.glob("*_reduced.h5") if _is_finished(p)])[0]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(PATIENCE) == 0
        assert "Traceback" not in watch.stderr.read()
    assert digests_of(reduced) == [scans.expected_digest()]
    first = folder / name
    command("reduce", first, "--settings", settings, "--out", tmp_path / "whole")
    assert digests_of(tmp_path / "whole" / reduced.name) == digests_of(reduced)


def test_a_watch_that_is_killed_in_mid_scan_and_started_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "frames", tmp_path / "out"
    folder.mkdir()
    name, writer, changes = scans.GROWING["ge"]
    said = scans.settings(out, **changes)
    said["watch"] |= {"poll_seconds": 0.02, "finished": {"stable_seconds": 600, "frames": scans.N_FRAMES}}
    watch = (*COMMAND, "watch", folder, "--settings", written(tmp_path / "hedmlive.yml", said), "--out", out)
    steps = writer(folder / name, scans.images())
    # Half of the frames and half of the next one: each is written in two steps.
    for _ in range(scans.N_FRAMES + 1):
        next(steps)
    with running(*watch, stderr=subprocess.DEVNULL) as first:
        wait_for(lambda: any(_n_reduced(path) for path in out.glob("*_reduced.h5")))
        first.kill()
        first.wait()
    (left,) = out.glob("*_reduced.h5")
    assert not _is_finished(left)
    for _ in steps:
        pass
    command(*watch[len(COMMAND) :], "--once")
    assert digests_of(left) == [scans.expected_digest()]
    assert [path.name for path in out.glob("*_raw.h5")] == [left.name.replace("_reduced", "_raw")]


def test_two_files_that_grow_at_once_and_ctrl_c_between(tmp_path: Path) -> None:
    folder, out = tmp_path / "frames", tmp_path / "out"
    folder.mkdir()
    _, writer, changes = scans.GROWING["ge"]
    said = scans.settings(out, **changes)
    said["watch"] |= {"poll_seconds": 0.02, "finished": {"stable_seconds": 600, "frames": scans.N_FRAMES}}
    watch = (*COMMAND, "watch", folder, "--settings", written(tmp_path / "hedmlive.yml", said), "--out", out)
    # The second scan begins when the first has all but its last frame, and is over before that comes.
    first, second = (writer(folder / f"scan_{i}.ge1", scans.images()) for i in (1, 2))
    for _ in range(2 * scans.N_FRAMES - 1):
        next(first)
    with running(*watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as began:
        for _ in range(scans.N_FRAMES + 1):
            next(second)
        wait_for(lambda: len([path for path in out.glob("*_reduced.h5") if _n_reduced(path)]) == 2)
        began.send_signal(signal.SIGINT)
        assert began.wait(PATIENCE) == 0
        assert began.stderr is not None
        assert "Traceback" not in began.stderr.read()
    assert not any(map(_is_finished, out.glob("*_reduced.h5")))
    with running(*watch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as again:
        assert again.stdout is not None
        for _ in second:
            pass
        wait_for(lambda: _is_finished(out / "scan_2_reduced.h5"))
        assert not _is_finished(out / "scan_1_reduced.h5")
        for _ in first:
            pass
        wait_for(lambda: _is_finished(out / "scan_1_reduced.h5"))
        again.send_signal(signal.SIGINT)
        assert again.wait(PATIENCE) == 0
        # In the order in which they ended.
        files = [line.split()[1] for line in again.stdout if line.startswith("file")]
    assert files == ["scan_2.ge1", "scan_1.ge1"]
    for i in (1, 2):
        assert digests_of(out / f"scan_{i}_reduced.h5") == [scans.expected_digest()]


def test_foreign_runs_are_published_with_their_frames(tmp_path: Path) -> None:
    key = "systemtestkey0123456789"
    served = {"folder": "tiled", "readable": ["."], "port": 0, "api_key": key}
    file = written(tmp_path / "serve.yml", served)
    results: dict[str, RunResult] = {}
    with running(sys.executable, "-m", "hedmlive.tiled_config", file, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        uri = server.stdout.readline().strip()
        for kind in ("ge", "swmr"):
            name, writer, changes = scans.GROWING[kind]
            folder, said = tmp_path / kind, scans.settings(tmp_path / f"{kind}_out", **changes)
            folder.mkdir()
            scans.whole(writer, folder / name)
            said["watch"] |= {"finished": {"frames": scans.N_FRAMES}}
            settings = load_settings(said | {"tiled": {"uri": uri}})
            (outcome,) = FolderWatch(folder, settings, sink=partial(make_sink, "tiled", uri, key)).run(once=True)
            assert outcome.result is not None, outcome
            results[kind] = outcome.result
        client = connect(uri, key)
        runs = {kind: client["raw"][result.uid] for kind, result in results.items()}
        assert {run.metadata["stop"]["exit_status"] for run in runs.values()} == {"success"}
        for run in runs.values():
            array = run["primary"][scans.IMAGE].read()
            assert np.array_equal(array.reshape(-1, *scans.SHAPE), np.stack(scans.images()))
        for result in results.values():
            assert latest_reduction(client, result.uid).metadata["digest"] == scans.expected_digest()
        disconnect(client)
    assert [result.problems for result in results.values()] == [(), ()]


def test_a_foreign_run_is_published_without_the_frames_that_tiled_cannot_serve(tmp_path: Path) -> None:
    key = "systemtestkey0123456789"
    file = written(tmp_path / "serve.yml", {"folder": "tiled", "readable": ["."], "port": 0, "api_key": key})
    (tmp_path / "frames").mkdir()
    scans.write_fabio(tmp_path / "frames" / "scan_000001.edf")
    said = scans.settings(tmp_path / "out")
    said["watch"] |= {"finished": {"frames": scans.N_FRAMES}}
    with running(sys.executable, "-m", "hedmlive.tiled_config", file, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        uri = server.stdout.readline().strip()
        settings = load_settings(said | {"tiled": {"uri": uri}})
        (outcome,) = FolderWatch(tmp_path / "frames", settings, sink=partial(make_sink, "tiled", uri, key)).run(
            once=True
        )
        assert outcome.result is not None, outcome
        client = connect(uri, key)
        run = client["raw"][outcome.result.uid]
        assert run.metadata["stop"]["exit_status"] == "success"
        assert scans.IMAGE not in run["primary"]
        (digest,) = outcome.result.digests.values()
        assert latest_reduction(client, outcome.result.uid).metadata["digest"] == digest
        disconnect(client)
    (left_out,) = outcome.result.problems
    assert f"{scans.IMAGE}: Tiled serves no frames of " in left_out


def _n_reduced(path: Path) -> int:
    try:
        with h5py.File(path, "r", swmr=True, libver="latest") as file:
            return len(file["reduction_0000/frames/frame"])
    except (OSError, KeyError):
        return 0


def _has_frames(folder: Path, name: str) -> bool:
    """Tell whether there is more than can be half written."""
    if name.endswith(".h5"):
        with h5py.File(folder / name, "r", swmr=True, libver="latest") as file:
            return len(file["exchange/theta"]) > 1
    if name.endswith(".tif"):
        return len(list(folder.iterdir())) > 2
    return (folder / name).stat().st_size > 64 + 2 * 84


def _is_finished(path: Path) -> bool:
    try:
        return all(digests_of(path))
    except (OSError, KeyError):
        return False


# ---------------------------------------------------------------- the shared data


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ruby": (
        "ruby_ff1/ruby_ff1.npz",
        {"threshold": 300, "min_pixels": 2},
        {"roles": {"omega_start": "omega_start", "omega_end": "omega_end"}},
    ),
    "xrdsim20": (
        "xrdsim20/clean.h5",
        {"threshold": 200},
        {"roles": {"omega_start": "omega_start", "omega_end": "omega_end"}},
    ),
    "edf": ("frames/F2K_Seb_Lyso0675.edf.bz2", {"threshold": 3000}, {}),
    "cbf": ("frames/run2_1_00148.cbf.bz2", {"threshold": 200, "sentinels": [-1, -2]}, {}),
    "tif": ("frames/oPPA_5grains_0001.tif.bz2", {"threshold": 50}, {}),
}


def both_ways(tmp_path: Path, files: dict[str, Path], said: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Reduce a file, and watch the folder that it lies in; return the digests of each."""
    settings = written(tmp_path / "hedmlive.yml", said)
    folder = tmp_path / "frames"
    folder.mkdir(exist_ok=True)
    for name, path in files.items():
        (folder / name).symlink_to(path)
    command("reduce", folder / next(iter(files)), "--settings", settings, "--out", tmp_path / "reduced")
    command("watch", folder, "--settings", settings, "--out", tmp_path / "watched", "--once")
    found: list[list[str]] = []
    for out in ("reduced", "watched"):
        (reduced,) = (tmp_path / out).glob("*_reduced.h5")
        found.append(digests_of(reduced))
    return found[0], found[1]


def settings_of(tmp_path: Path, recipe: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {
        "detectors": [{"name": "detector", "image": "image"}],
        "recipe": recipe,
        "archive": {"folder": str(tmp_path)},
        "hedm": {"frames": "copy"},
        **more,
    }


@pytest.mark.parametrize("case", list(CASES))
def test_watched_is_as_reduced(tmp_path: Path, shared_data: Path, case: str) -> None:
    name, recipe, more = CASES[case]
    path = shared_data / name
    reduced, watched = both_ways(tmp_path, {path.name: path}, settings_of(tmp_path, recipe, more))
    assert reduced == watched
    assert all(reduced)
    if case == "cbf":
        with h5py.File(next((tmp_path / "watched").glob("*_reduced.h5"))) as file:
            assert int(file["reduction_0000/pixels/intensity"][:].min()) > 200


@pytest.mark.slow
def test_the_noisy_series_watched_is_as_reduced(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "xrdsim20"
    subprocess.run([sys.executable, folder / "add_noise.py", folder / "clean.h5", tmp_path / "raw.h5"], check=True)
    roles = {"roles": {"omega_start": "omega_start", "omega_end": "omega_end"}}
    dark = {"watch": {"profile": {"dark": "/exchange/dark"}}}
    recipe = {"threshold": 200, "background": "dark"}
    reduced, watched = both_ways(tmp_path, {"raw.h5": tmp_path / "raw.h5"}, settings_of(tmp_path, recipe, roles | dark))
    assert reduced == watched


@pytest.mark.slow
def test_near_field_gold_watched_is_as_reduced(tmp_path: Path, shared_data: Path) -> None:
    with tarfile.open(shared_data / "nf_gold" / "Au_reduced_1degree.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    files = {path.name: path for path in sorted((tmp_path / "Au_reduced_1degree").iterdir())}
    names = [f"z{i}" for i in range(4)]
    said = settings_of(tmp_path, {"threshold": 0, "min_pixels": 4}, {}) | {
        "detectors": [{"name": name, "image": name} for name in names],
        "trajectory": {"axes": {"omega": {"start": -90, "step": 1, "count": 180, "marks": "start"}}},
        "watch": {
            "patterns": {name: f"*.bin{i}" for i, name in enumerate(names)},
            "profile": {"shape": [2048, 2048]},
        },
    }
    reduced, watched = both_ways(tmp_path, files, said)
    assert reduced == watched
    assert len(set(reduced)) == 4
    with h5py.File(next((tmp_path / "watched").glob("*_raw.h5"))) as file:
        starts = file["entry/instrument/z0/sparse/frame_start"][:]
        # The list of frame 10 names 7385 pixels, some of them several times.
        counts = file["entry/instrument/z0/sparse/value"][starts[10] : starts[11]]
        assert float(np.sum(counts, dtype=np.float64)) > len(counts)


@pytest.mark.slow
def test_silicon_watched_is_as_reduced(tmp_path: Path, shared_data: Path) -> None:
    """The first of its 180 500 frames: each way takes three minutes for all of them."""
    n, said = 20_000, settings_of(tmp_path, {"threshold": 0}, {"roles": {"omega": "omega", "dty": "dty"}})
    path = tmp_path / "silicon.h5"
    with (
        h5py.File(shared_data / "silicon" / "silicon_fullscan_strong_sparse.h5") as whole,
        h5py.File(path, "w") as part,
    ):
        scan: Any = whole["1.1"]
        whole.copy("1.1", part, shallow=True)
        made: Any = part["1.1"]
        end = int(scan["nnz"][:n].sum())
        for name, rows in {"row": end, "col": end, "intensity": end, "frame": end, "nnz": n}.items():
            del made[name]
            made[name] = scan[name][:rows]
        del made["measurement"], made["instrument"]
        made["measurement/rot_center"] = scan["measurement/rot_center"][:n]
        scan.copy("instrument", made)
        made.attrs["nframes"] = n
    reduced, watched = both_ways(tmp_path, {path.name: path}, said)
    assert reduced == watched
    with h5py.File(next((tmp_path / "reduced").glob("*_reduced.h5"))) as file:
        assert file["reduction_0000/frames/frame"].shape == (n,)

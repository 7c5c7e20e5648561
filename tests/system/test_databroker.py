"""Runs of databroker catalogues, replayed: 2.x, which is Tiled, and 1.2.5, which APS instruments pin."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bluesky import RunEngine

from hedmlive.callbacks import HedmLive, RunResult, load_settings, make_sink
from hedmlive.devices import step_scan
from hedmlive.simulators import simulated_station

ROOT = Path(__file__).resolve().parents[2]
KEY = "systemtestkey0123456789"
REPLAY = ["-c", "from hedmlive.cli import main; main()", "replay"]


def environment(**more: str) -> dict[str, str]:
    # The source alone: another environment must not see this one's packages.
    return os.environ | {"PYTHONPATH": str(ROOT / ".namespace")} | more


def replay(python: Path | str, where: str, settings: Path, out: Path, env: dict[str, str]) -> Any:
    command = [str(python), *REPLAY, where, "--settings", str(settings), "--out", str(out)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=settings.parent)


def example(python: Path | str, catalog: str, uid: str, settings: Path, env: dict[str, str]) -> str:
    """Run the example as it stands; return the digest that it prints."""
    command = [str(python), str(ROOT / "examples" / "replay_databroker.py"), catalog, uid, str(settings)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=settings.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


def digest_of(done: Any) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("digest"))


# ---------------------------------------------------------------- 2.x


def scan_into(uri: str, folder: Path) -> RunResult:
    station = simulated_station(folder / "frames", detector="stream", shape=(64, 64), n_grains=5)
    settings = load_settings(
        {
            "roles": dict(station.roles),
            "omega_marks": "start",
            "detectors": [{"name": "detector", "image": station.image_key}],
            "recipe": {"threshold": 30, "background_level": 60},
            "archive": {"folder": str(folder / "live")},
            "tiled": {"uri": uri},
        }
    )
    (folder / "hedmlive.yml").write_text(settings.to_json())  # JSON is YAML
    live = HedmLive(settings, sink=lambda: make_sink("tiled", uri, KEY))
    engine = RunEngine({}, call_returns_result=False)
    engine.subscribe(live)
    engine(step_scan([station.detector], station.rotation, 0.0, 1.0, 12, baseline=station.baseline))
    (result,) = live.wait(60).values()
    live.close()
    assert result.problems == ()
    assert result.progress.n_peaks > 10
    return result


@pytest.mark.slow
def test_a_run_of_databroker_2_is_replayed(tmp_path: Path) -> None:
    pytest.importorskip("databroker", minversion="2.0", reason="needs databroker 2.x: install hedmlive[databroker]")
    file = tmp_path / "serve.yml"
    file.write_text(yaml.safe_dump({"folder": "tiled", "readable": ["."], "port": 0, "api_key": KEY}))
    command = [sys.executable, "-m", "hedmlive.tiled_config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as server:
        try:
            assert server.stdout is not None
            uri = server.stdout.readline().strip()
            result = scan_into(uri, tmp_path)
            (tmp_path / "profiles").mkdir()
            profiles = {"station": {"uri": uri}, "station-raw": {"uri": f"{uri}/metadata/raw"}}
            (tmp_path / "profiles" / "station.yml").write_text(yaml.safe_dump(profiles))
            env = environment(TILED_PROFILES=str(tmp_path / "profiles"), TILED_API_KEY=KEY)
            for run in (
                f"databroker://station/raw/{result.uid}",
                f"databroker://station-raw/{result.uid[:8]}",
                f"databroker://station-raw/{result.uid[:8]}?frames=files",
                f"tiled://station-raw/{result.uid[:8]}",
            ):
                out = tmp_path / run.replace("/", "_")
                done = replay(sys.executable, run, tmp_path / "hedmlive.yml", out, env)
                assert digest_of(done) == result.digests[0]
            done = replay(
                sys.executable, "databroker://station-raw/nosuchrun", tmp_path / "hedmlive.yml", tmp_path, env
            )
            assert done.returncode == 1
            assert done.stderr.startswith("hedmlive: databroker://station-raw/nosuchrun: no such run (")
            assert len(done.stderr.splitlines()) == 1
        finally:
            server.terminate()


# ---------------------------------------------------------------- 1.2.5


@pytest.fixture(scope="module")
def databroker_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with databroker 1.2.5 and hedmlive, and all that they require."""
    folder = tmp_path_factory.mktemp("databroker-1")
    constraints = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "databroker==" not in line]
    (folder / "constraints.txt").write_text("\n".join(constraints))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "-c", folder / "constraints.txt", "databroker==1.2.5", "-e", ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"databroker 1.2.5 cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_runs_of_databroker_1_are_replayed(tmp_path: Path, databroker_1: Path) -> None:
    (tmp_path / "catalogs").mkdir()
    env = environment(INTAKE_PATH=str(tmp_path / "catalogs"))
    session = [str(databroker_1), str(Path(__file__).with_name("databroker_session.py")), str(tmp_path)]
    done = subprocess.run(session, env=env, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = {run["way"]: run for run in map(json.loads, done.stdout.splitlines())}
    assert [run["databroker"] for run in runs.values()] == ["1.2.5"] * 3
    assert [run["problems"] for run in runs.values()] == [[]] * 3
    assert len({run["digest"] for run in runs.values()}) == 1
    for way in ("array", "hdf5"):
        where, settings = f"databroker://hedm/{runs[way]['uid']}", tmp_path / f"{way}.yml"
        done = replay(databroker_1, where, settings, tmp_path / f"{way}-again", env)
        assert digest_of(done) == runs[way]["digest"]
        assert example(databroker_1, "hedm", runs[way]["uid"], settings, env) == runs[way]["digest"]
    # 1.2.5 was made before stream documents: what it would give back has no frames.
    where = f"databroker://hedm/{runs['stream']['uid']}"
    done = replay(databroker_1, where, tmp_path / "stream.yml", tmp_path / "stream-again", env)
    assert done.returncode == 1
    assert "databroker 1.2.5 does not give back stream_resource" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "stream-again").exists()

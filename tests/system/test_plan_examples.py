"""The startups for plans run as they stand: BITS, an IPython profile, the queue server."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples lie in the repository, not in the package")

REPORT = """
results = hedm_live.wait(60)
hedm_live.close()
for result in results.values():
    print("RESULT", result.progress.n_frames, result.progress.n_tracks, len(result.problems))
"""


def python(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"IPYTHONDIR": str(cwd / "ipython")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def results(printed: str) -> list[tuple[int, int, int]]:
    lines = [line.split()[1:] for line in printed.splitlines() if line.startswith("RESULT")]
    return [(int(frames), int(tracks), int(problems)) for frames, tracks, problems in lines]


def check(printed: str, *n_frames: int) -> None:
    found = results(printed)
    assert [frames for frames, _, _ in found] == list(n_frames)
    assert all(tracks > 10 and not problems for _, tracks, problems in found)


def test_bits(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES / 'bits_startup')!r})\nfrom startup import *\n"
    check(python("-c", f"{code}RE(near_field(n_frames=6))\n{REPORT}", cwd=tmp_path), 24)


@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="IPython is not installed")
def test_an_ipython_profile(tmp_path: Path) -> None:
    scan = (
        "RE(ff_scan([detector], rotation, 0.0, 1.0, 12, fly=pso, frame_time=0.1,"
        " dark_frames=2, shutter=shutter, baseline=station.baseline))\n"
    )
    profile = tmp_path / "profile"
    (profile / "startup").mkdir(parents=True)
    for source in (EXAMPLES / "profile_startup" / "startup").glob("*.py"):
        (profile / "startup" / source.name).write_text(source.read_text())
    check(python("-m", "IPython", f"--profile-dir={profile}", "-c", scan + REPORT, cwd=tmp_path), 12)


def test_the_queue_servers_startup(tmp_path: Path) -> None:
    startup = EXAMPLES / "queue_server" / "startup" / "startup.py"
    scans = "RE(far_field(n_frames=12, fly=False))\nRE(near_field(n_frames=6))\n"
    check(python("-c", f"exec(open({str(startup)!r}).read())\n{scans}{REPORT}", cwd=tmp_path), 12, 24)


@pytest.mark.skipif(importlib.util.find_spec("bluesky_queueserver") is None, reason="the queue server is not installed")
def test_the_queue_server_knows_the_plans(tmp_path: Path) -> None:
    code = f"""
import json
from bluesky_queueserver import validate_plan
from bluesky_queueserver.manager.profile_ops import existing_plans_and_devices_from_nspace, load_startup_script
space = load_startup_script({str(EXAMPLES / "queue_server" / "startup" / "startup.py")!r})
plans, devices, _, _ = existing_plans_and_devices_from_nspace(nspace=space)
def valid(name, **kwargs):
    return validate_plan({{"name": name, "kwargs": kwargs}}, allowed_plans=plans, allowed_devices=devices)[0]
said = [p["name"] for p in plans["near_field"]["parameters"]]
checks = [valid("far_field", n_frames=12), valid("far_field", n_frames="many"), valid("near_field", n_layers=3)]
print("RESULT", json.dumps([sorted(plans), sorted(devices), said, checks]))
space["hedm_live"].close()
"""
    [line] = [line for line in python("-c", code, cwd=tmp_path).splitlines() if line.startswith("RESULT")]
    plans, devices, said, checks = json.loads(line.removeprefix("RESULT"))
    assert {"far_field", "near_field"} <= set(plans)
    assert {"rotation", "detector", "pso", "samy"} <= set(devices)
    assert {"n_distances", "n_layers", "fly", "frame_time"} <= set(said)
    assert checks == [True, False, True]

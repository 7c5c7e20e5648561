"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hedmlive.callbacks import load_settings, make_sink, open_source, process
from hedmlive.tiled_config import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
KEY = "examplestestkey012345"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples lie in the repository, not in the package")


def run(script: str, *arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"TMPDIR": str(cwd)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_session(tmp_path: Path) -> None:
    (line,) = [line for line in run("plain_session.py", cwd=tmp_path).splitlines() if "tracks" in line]
    uid, n_peaks, _, n_tracks, _, reduced = line.split()
    assert int(n_peaks) >= int(n_tracks) > 0
    assert Path(reduced).is_file()
    assert uid[:8] in reduced


def test_bits_startup(tmp_path: Path) -> None:
    (line,) = [line for line in run("bits_startup/startup.py", cwd=tmp_path).splitlines() if "tracks in" in line]
    assert int(line.split()[0]) > 0
    assert sorted(path.name.split("_")[-1] for path in (tmp_path / "archives").iterdir()) == ["raw.h5", "reduced.h5"]


def test_bits_startup_with_the_block_disabled(tmp_path: Path) -> None:
    startup = tmp_path / "bits"
    (startup / "configs").mkdir(parents=True)
    text = (EXAMPLES / "bits_startup/configs/iconfig.yml").read_text()
    (startup / "configs/iconfig.yml").write_text(
        text.replace("HEDM_LIVE:\n  ENABLE: true", "HEDM_LIVE:\n  ENABLE: false")
    )
    (startup / "startup.py").write_text((EXAMPLES / "bits_startup/startup.py").read_text())
    run(str(startup / "startup.py"), cwd=tmp_path)
    assert not (tmp_path / "archives").exists()


def test_query(tmp_path: Path) -> None:
    run("plain_session.py", cwd=tmp_path)
    raw = next(tmp_path.glob("hedmlive-example-*/*_raw.h5"))
    with EmbeddedServer(tmp_path / "tiled", readable=[tmp_path], api_key=KEY) as server:
        source = open_source(str(raw))
        assert source.settings is not None
        plain = dict(source.settings) | {
            "archive": {"folder": str(tmp_path / "again")},
            "tiled": {"uri": server.uri},
        }
        result = process(
            source.documents, load_settings(plain), sink=lambda: make_sink("tiled", server.uri, server.api_key)
        )
        assert result.problems == ()
        shown = run("query.py", server.uri, cwd=tmp_path, HEDMLIVE_TILED_KEY=KEY)
    assert f"{result.uid} complete {result.progress.n_tracks} tracks" in shown

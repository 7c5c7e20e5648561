"""A real scan through the command, against the numbers that others' means gave: tables are read with h5py alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

RECIPE = "--threshold 300 --min-pixels 2 --split none --link overlap"


class Ruby(NamedTuple):
    folder: Path
    source: Path
    ended: Any

    @property
    def raw(self) -> Path:
        return self.folder / "ruby_ff1_raw.h5"

    @property
    def reduced(self) -> Path:
        return self.folder / "ruby_ff1_reduced.h5"


@pytest.fixture(scope="module")
def ruby(shared_data: Path, tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Any]) -> Ruby:
    folder, source = tmp_path_factory.mktemp("ruby") / "reduced", shared_data / "ruby_ff1" / "ruby_ff1.npz"
    ended = run("reduce", source, "--threshold", 300, "--min-pixels", 2, "--out", folder)
    return Ruby(folder, source, ended)


def test_the_counts_and_sums_are_those_expected(ruby: Ruby) -> None:
    expected = json.loads(ruby.source.with_name("expected.json").read_text())[RECIPE]
    with h5py.File(ruby.reduced) as file:
        peaks, links, tracks, pixels = (file["reduction_0000"][name] for name in ("peaks", "links", "tracks", "pixels"))
        found = {
            "n_peaks": len(peaks["peak"]),
            "n_links": len(links["score"]),
            "n_tracks": len(tracks["track"]),
            "n_pixels": len(pixels["row"]),
            "sum_intensity": int(pixels["intensity"][:].astype(np.int64).sum()),
            "shared": int(links["n_shared_pixels"][:].sum()),
            "longest_track": int(tracks["n_peaks"][:].max()),
            "brightest_track": int(tracks["sum_intensity"][:].max()),
            "busiest_frame": int(np.bincount(peaks["frame"][:]).max()),
        }
        means = [peaks[name][:].mean() for name in ("row", "col")]
        sums = [int(table["sum_intensity"][:].sum()) for table in (peaks, tracks)]
        assert file["reduction_0000"].attrs["digest"] == ruby.ended.digest
    assert found == {name: value for name, value in expected.items() if not name.startswith("mean")}
    np.testing.assert_allclose(means, [expected["mean_row"], expected["mean_col"]], rtol=1e-12)
    assert sums == [expected["sum_intensity"]] * 2


def test_it_says_what_it_made_and_nothing_more(ruby: Ruby) -> None:
    lines = ruby.ended.out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["frames", "1440"],
        ["peaks", "1817"],
        ["tracks", "1619"],
        ["written", str(ruby.raw)],
        ["written", str(ruby.reduced)],
    ]
    # What the file did not bring is said, and nothing is made up.
    assert lines[5].startswith("missing")
    assert {"L1", "L2", "energy", "space_group"} <= set(lines[5].replace(",", " ").split())
    assert lines[6].split()[::2] == ["digest", "reduction_0000"]
    assert len(lines) == 7


def test_replayed_elsewhere_and_twice_it_has_the_same_digest(
    ruby: Ruby, tmp_path: Path, run: Callable[..., Any]
) -> None:
    again = tmp_path / "again"
    assert run("replay", ruby.raw, "--out", again).digest == ruby.ended.digest
    second = run("replay", ruby.raw, "--out", again)
    assert second.said["digest"].split() == [ruby.ended.digest, "reduction_0001"]
    assert [path.name for path in again.iterdir()] == ["ruby_ff1_reduced.h5"]
    for file, attempts in ((ruby.reduced, [0]), (again / "ruby_ff1_reduced.h5", [0, 1])):
        lines = [line.split() for line in run("digest", file).out.splitlines()]
        assert lines == [[ruby.ended.digest, str(file), f"reduction_{i:04d}", "ok"] for i in attempts]

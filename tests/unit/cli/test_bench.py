"""The measurement: every stage has a figure, the right pixels are compared, and wrong use is one line."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from typer.testing import CliRunner

from hedmlive.cli.app import app
from hedmlive.cli.bench import DTYPES, Measurement, compare_only, open_scene, simulate, whole_cut
from hedmlive.streaming import Background, CompressedImage, PeakFinder, Recipe, SettingsError

Run = Callable[..., Any]
STAGES = ("compare only", "lit pixels", "peaks", "links", "tracks", "whole reducer")


@pytest.fixture
def frames_file(tmp_path: Path) -> Path:
    """Six frames with spots, twice: as they are, and compressed."""
    frames = np.stack([np.asarray(frame.image) for frame in simulate((64, 64), "uint16", 6, 6).frames])
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["entry/data/data"] = frames
        file.create_dataset("packed", data=frames, chunks=(1, 64, 64), compression=hdf5plugin.Bitshuffle())
        file.create_dataset("zipped", data=frames, chunks=(2, 64, 64), compression="gzip")
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_is_measured(dtype: str) -> None:
    given = ["--shape", "40", "50", "--dtype", dtype, "--spots", "6", "--frames", "4", "--threads", "2"]
    ended = CliRunner().invoke(app, ["bench", *given])
    assert ended.exit_code == 0, ended.output
    assert f"40 x 50 {dtype}" in ended.output
    assert not [each for each in (*STAGES, "finding peaks, threads: 2") if each not in ended.output]
    last = ended.output.splitlines()[-1]
    assert last.startswith("keeps up with ")
    assert "frames/s: reducing takes" in last


def test_a_pipe_gets_no_bar(run: Run) -> None:
    ended = run("bench", "--shape", 32, 32, "--spots", 0, "--frames", 3)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize(
    ("dataset", "compression"),
    [("/entry/data/data", "not compressed"), ("/packed", "bitshuffle-lz4"), ("/zipped", "gzip")],
)
def test_frames_of_a_file_are_read_too(run: Run, frames_file: Path, dataset: str, compression: str) -> None:
    ended = run("bench", "--file", frames_file, "--dataset", dataset, "--threshold", 60, "--frames", 5)
    assert (ended.code, ended.err) == (0, "")
    assert f"reading ({compression})" in ended.out
    assert "reading and finding, threads: 2" in ended.out
    assert "64 x 64 uint16" in ended.out
    assert "5 frames" in ended.out
    assert "reading and reducing take" in ended.out.splitlines()[-1]


def test_the_simulated_spots_are_found() -> None:
    scene = simulate((256, 256), "uint16", 30, 4)
    measured = Measurement(scene)
    measured.run(n_threads=2)
    # A few overlap.
    assert 25 * 4 <= measured.n_peaks <= 30 * 4
    assert {name: len(each) for name, each in measured.seconds.items()} == dict.fromkeys(STAGES, 4) | {
        "finding peaks, threads: 2": 1
    }


def test_the_background_of_a_file_is_its_median(frames_file: Path) -> None:
    with ExitStack() as stack:
        scene = open_scene(stack, frames_file, "packed", 5, 60.0)
        assert scene.dark is not None
        np.testing.assert_array_equal(scene.dark, np.median([np.asarray(each.image) for each in scene.frames], axis=0))
        assert scene.read is not None
        image = scene.read(3)
        assert isinstance(image, CompressedImage)
        np.testing.assert_array_equal(image.dense(), np.asarray(scene.frames[3].image))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (8, 8), (5, 64), (31, 67)])
def test_the_comparison_counts_what_is_lit(shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng(shape)
    image = rng.integers(0, 120, shape).astype(dtype)
    dark = rng.uniform(20, 30, shape)
    dark.flat[0] = 1e12  # more than most of the types hold
    recipe = Recipe(background="dark", threshold=60.5)
    lit = Background(recipe, dark=dark).push(image)
    cut = whole_cut(image, recipe, dark)
    assert cut.dtype == image.dtype
    assert compare_only(image, cut) == len(lit.row) == np.count_nonzero(image > dark + 60.5)
    assert PeakFinder(recipe).push(0, 0.0, lit).n_lit == len(lit.row)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--shape", 8, 64), "--shape is 8 64; wanted rows and columns, each 16 or more"),
        (("--dtype", "complex64"), "--dtype is complex64; wanted uint8, uint16"),
        (("--threshold", 5), "--threshold is for real frames; give --file too"),
        (("--file", "scan.h5"), "no threshold: give --threshold"),
    ],
)
def test_wrong_use_is_one_line(run: Run, options: tuple[object, ...], wanted: str) -> None:
    ended = run("bench", *options)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert wanted in ended.err


def test_a_number_out_of_range_is_usage(run: Run) -> None:
    for option, value in (("--frames", 1), ("--threads", 0), ("--spots", -1), ("--shape", 64)):
        assert run("bench", option, value).code == 2


def test_what_holds_no_frames_is_named(run: Run, frames_file: Path, tmp_path: Path) -> None:
    ended = run("bench", "--file", frames_file, "--threshold", 5, "--dataset", "/entry")
    assert (ended.code, "--dataset /entry: is a group in" in ended.err) == (2, True)
    ended = run("bench", "--file", frames_file, "--threshold", 5, "--dataset", "/nowhere")
    assert (ended.code, "--dataset /nowhere: is nothing in" in ended.err) == (2, True)
    ended = run("bench", "--file", tmp_path / "no.h5", "--threshold", 5)
    assert (ended.code, "no.h5: no such file" in ended.err) == (1, True)
    (tmp_path / "notes.h5").write_text("not HDF5")
    ended = run("bench", "--file", tmp_path / "notes.h5", "--threshold", 5)
    assert (ended.code, "notes.h5: not an HDF5 file" in ended.err) == (1, True)


def test_an_unknown_type_is_refused_before_any_work() -> None:
    with pytest.raises(SettingsError, match="float16"):
        simulate((64, 64), "float16", 5, 3)

"""Backgrounds, flat fields, masks and transforms from the settings; peak finders by name."""

import threading
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import HedmLive, ReducedArchiveReader, load_settings, open_source, process
from hedmlive.callbacks.hdf5 import NotYet
from hedmlive.callbacks.readers import HDF5Reader
from hedmlive.streaming import (
    CompressedImage,
    Corrections,
    FitStatus,
    Frame,
    Recipe,
    Reducer,
    SettingsError,
    digest,
    finder_for,
    median_of,
    tables_with_roles,
)

ROLES = {"L1": 600.0, "energy": 65.3}


def expected(recipe: dict[str, Any], corrections: Corrections, absent: tuple[int, ...] = ()) -> str:
    reducer = Reducer(Recipe(**hostile.RECIPE | recipe), corrections=corrections)
    batches = [
        reducer.push(
            Frame(
                frame=i,
                point=i,
                image=hostile.image(i),
                omega_start=hostile.STEP * i,
                omega_end=hostile.STEP * (i + 1),
                roles=ROLES,
            )
        )
        for i in range(hostile.N_FRAMES)
        if i not in absent
    ]
    batches.append(reducer.flush())
    return digest(tables_with_roles({}), lambda name: [batch[name] for batch in batches if name in batch])


def live_and_replayed(docs: hostile.Documents, settings: dict[str, Any]) -> tuple[str, list[str]]:
    """Reduce live, replay the raw archive, and reduce at once: all digests are one."""
    live = HedmLive(settings)
    for name, doc in docs:
        live(name, doc)
    [result] = live.wait(120).values()
    live.close()
    assert result.raw is not None
    again = process(open_source(str(result.raw)).documents, load_settings(settings))
    assert again.digests == {1: result.digests[0]}
    assert again.problems == result.problems
    return result.digests[0], list(result.problems)


@pytest.mark.parametrize("recipe", [{}, {"background": "median", "background_frames": 3}, {"finder": "near-field"}])
def test_a_compressed_file_gives_the_same(recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = hostile.settings(tmp_path / "archives", recipe=hostile.RECIPE | recipe)
    docs = hostile.run("stream", tmp_path)
    [path] = tmp_path.glob("*.h5")
    with h5py.File(path, "r+") as file:
        frames = file["entry/data/data"][...]
        del file["entry/data/data"]
        chunks = (1, *frames.shape[1:])
        file.create_dataset("entry/data/data", data=frames, chunks=chunks, **hdf5plugin.Bitshuffle(cname="lz4"))
    median = median_of(list(frames[:3])) if "background" in recipe else None
    assert live_and_replayed(docs, settings) == (expected(recipe, Corrections(dark=median)), [])
    reader = HDF5Reader(path, {}, 1)
    images = reader.read(0)
    assert isinstance(images, tuple)
    assert [type(image) for image in images] == [CompressedImage]
    reader.close()


def test_a_compressed_file_that_grows_is_read_compressed(tmp_path: Path) -> None:
    path = tmp_path / "growing.h5"
    reader = HDF5Reader(path, {}, 1)
    with h5py.File(path, "w", libver="latest") as file:
        shape, chunks = (None, *hostile.SHAPE), (1, *hostile.SHAPE)
        compression = hdf5plugin.Bitshuffle(cname="lz4")
        data = file.create_dataset(
            "entry/data/data", (0, *hostile.SHAPE), "u2", maxshape=shape, chunks=chunks, compression=compression
        )
        file.swmr_mode = True
        for k in range(3):
            with pytest.raises(NotYet):
                reader.read(k)
            data.resize(k + 1, axis=0)
            data[k] = hostile.image(k)
            data.flush()
            images = reader.read(k)
            assert isinstance(images, tuple)
            np.testing.assert_array_equal(images[0].dense(), hostile.image(k))
        reader.close()


@pytest.mark.parametrize("way", hostile.WAYS)
@pytest.mark.parametrize("background", ["median", "running-median"])
@pytest.mark.parametrize("n", [3, hostile.N_FRAMES, 1000])
def test_the_first_frames_make_the_background(way: str, background: str, n: int, tmp_path: Path) -> None:
    recipe = {"background": background, "background_frames": n}
    settings = hostile.settings(tmp_path / "archives", recipe=hostile.RECIPE | recipe)
    median = median_of([hostile.image(i) for i in range(min(n, hostile.N_FRAMES))])
    wanted = expected(recipe, Corrections(dark=median))
    assert live_and_replayed(hostile.run(way, tmp_path), settings) == (wanted, [])


@pytest.mark.parametrize("recipe", [{"split": "local-maximum"}, {"background": "running-median"}])
def test_threads_change_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    docs = hostile.run("stream", tmp_path, n_frames=40, n_detectors=2)
    results = [
        process(
            docs,
            load_settings(
                hostile.settings(
                    tmp_path / str(n), n_detectors=2, recipe=hostile.RECIPE | recipe, worker={"threads": n}
                )
            ),
        )
        for n in (1, 2, 7)
    ]
    assert len({tuple(result.digests.values()) for result in results}) == 1
    assert [result.problems for result in results] == [()] * 3
    assert [result.progress.n_frames for result in results] == [80] * 3
    assert not [each.name for each in threading.enumerate() if each.name.startswith("hedmlive-peaks")]


def test_a_first_frame_that_is_no_image_is_left_out_of_the_median(tmp_path: Path) -> None:
    recipe = {"background": "median", "background_frames": 3}
    docs = hostile.run()
    for name, doc in docs:
        if name == "event" and doc["seq_num"] == 2 and "det0_image" in doc["data"]:
            doc["data"]["det0_image"] = np.zeros(hostile.SHAPE, complex)
    settings = hostile.settings(tmp_path, recipe=hostile.RECIPE | recipe)
    found, [problem] = live_and_replayed(docs, settings)
    assert "frame 1" in problem
    median = median_of([hostile.image(0), hostile.image(2)])
    assert found == expected(recipe, Corrections(dark=median), absent=(1,))


def test_files_of_a_detector(tmp_path: Path) -> None:
    shape = hostile.SHAPE
    rng = np.random.default_rng(3)
    darks = rng.integers(0, 4, (3, *shape)).astype(np.int32)
    darks[0, 3, 3] = -2
    flat, mask = rng.uniform(0.5, 1.5, shape), np.zeros(shape, np.uint8)
    mask[0, 0] = 1
    with h5py.File(tmp_path / "known.h5", "w") as file:
        file["entry/dark"], file["entry/mask"] = darks, mask
    np.save(tmp_path / "flat.npy", flat)
    detector = {
        "name": "det0",
        "image": "det0_image",
        "dark": f"{tmp_path / 'known.h5'}:/entry/dark",
        "flat": str(tmp_path / "flat.npy"),
        "mask": f"{tmp_path / 'known.h5'}:/entry/mask",
        "bad_intensity": -2,
        "gap_intensity": 500,
        "transforms": [3, 1],
        "panels": [[0, shape[1], 0, 3], [0, shape[1], 3, shape[0]]],
    }
    recipe = {"background": "dark"}
    settings = hostile.settings(tmp_path / "archives", recipe=hostile.RECIPE | recipe, detectors=[detector])
    bad = mask.astype(bool)
    bad[3, 3] = True
    corrections = Corrections(
        dark=darks.mean(axis=0),
        flat=flat,
        mask=bad,
        transforms=(3, 1),
        panels=((0, shape[1], 0, 3), (0, shape[1], 3, shape[0])),
    )
    wanted = expected(recipe | {"sentinels": (-2, 500)}, corrections)
    assert live_and_replayed(hostile.run(), settings) == (wanted, [])


def test_a_flooded_frame_is_named_and_the_others_are_reduced(tmp_path: Path) -> None:
    docs = hostile.run()
    for name, doc in docs:
        if name == "event" and doc["seq_num"] == 4 and "det0_image" in doc["data"]:
            doc["data"]["det0_image"] = np.full(hostile.SHAPE, 1000, np.uint16)
    recipe = {"max_lit": 20}
    found, [problem] = live_and_replayed(docs, hostile.settings(tmp_path, recipe=hostile.RECIPE | recipe))
    n_pixels = hostile.SHAPE[0] * hostile.SHAPE[1]
    assert f"frame 3: flooded: {n_pixels} of {n_pixels} pixels are lit" in problem
    assert found == expected(recipe, Corrections(), absent=(3,))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"finder": "neural"}, "finder is 'neural'; installed are .*near-field.*threshold"),
        ({"finder_options": {"k": 3}}, "has no option k"),
        ({"finder": "near-field", "finder_options": {"filter": "sobel"}}, "filter is 'sobel'"),
        ({"finder": "noise-adaptive", "finder_options": {"n_sigma": -1}}, "n_sigma is -1"),
        ({"finder": "noise-adaptive", "finder_options": {"n_sigma": "5"}}, "n_sigma|finder_options"),
    ],
)
def test_a_finder_that_does_not_suit_is_known_before_the_scan(
    recipe: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        HedmLive(hostile.settings(tmp_path, recipe=hostile.RECIPE | recipe))


@pytest.mark.parametrize("finder", ["near-field", "noise-adaptive"])
def test_the_same_run_by_another_finder(finder: str, tmp_path: Path) -> None:
    recipe = {"finder": finder, "split": "local-maximum", "smooth": True}
    wanted = expected(recipe, Corrections())
    assert live_and_replayed(hostile.run(), hostile.settings(tmp_path, recipe=hostile.RECIPE | recipe)) == (wanted, [])


FIT: dict[str, Any] = {
    "fit": "pseudo-voigt",
    "fit_options": {"beam_centre": [100.0, 3.5], "noise": 1.0},
    "background_level": 3.0,
}


def test_a_fit_is_a_reduction_of_its_own_beside_the_live_one(tmp_path: Path) -> None:
    settings = hostile.settings(tmp_path)
    plain, _ = live_and_replayed(hostile.run(), settings)
    [raw] = tmp_path.glob("*_raw.h5")
    fitted = load_settings(hostile.settings(tmp_path, recipe=hostile.RECIPE | FIT))
    results = [process(open_source(str(raw)).documents, fitted) for _ in range(2)]
    assert [result.problems for result in results] == [(), ()]
    assert results[0].reduced is not None
    with ReducedArchiveReader(results[0].reduced) as archive:
        assert archive.attempts == (0, 1, 2, 3)
        assert archive.digest(0) == archive.digest(1) == plain
        assert archive.digest(2) == archive.digest(3)
        one, two = (archive.read(attempt, "peaks") for attempt in (2, 3))
        assert "fit_row" not in archive.read(0, "peaks")
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
    fitted_ones = one["fit_status"] == FitStatus.CONVERGED
    assert (one["fit_status"] >= 0).all()
    assert np.isfinite(one["fit_row"][fitted_ones]).all()
    assert np.isnan(one["fit_row"][one["fit_status"] == FitStatus.TOO_FEW_PIXELS]).all()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"fit": "pseudo-voigt"}, "beam_centre is None"),
        ({"fit": "pseudo-voigt", "fit_options": {"beam_centre": [1]}}, r"beam_centre is \[1\]"),
        (FIT | {"fit_options": {"beam_centre": [1, 2], "sigma": 3}}, r"\['sigma'\] are unknown"),
        (FIT | {"fit_options": {"beam_centre": [1, 2], "noise": -3}}, "noise is -3"),
        (FIT | {"fit_options": {"beam_centre": [1, 2], "noise": "x"}}, "wanted numbers"),
        (FIT | {"finder": "near-field"}, "'near-field' fits nothing"),
        (FIT | {"background": "running-median"}, "a background that stays"),
    ],
)
def test_a_fit_that_cannot_be_is_known_beforehand(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        finder_for(Recipe(**hostile.RECIPE | recipe), flat=False)


def test_no_fit_in_a_live_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give it to `hedmlive replay`"):
        HedmLive(hostile.settings(tmp_path, recipe=hostile.RECIPE | FIT))


def test_fits_do_not_depend_on_threads_or_compression() -> None:
    rng = np.random.default_rng(5)
    rows, cols = np.mgrid[:40, :50]
    image = rng.poisson(100 + 900 * np.exp(-((rows - 12.3) ** 2 + (cols - 20.6) ** 2) / 5)).astype(np.uint16)
    recipe = Recipe(
        threshold=40, background_level=100, min_pixels=4, fit="pseudo-voigt", fit_options=FIT["fit_options"]
    )
    with h5py.File.in_memory() as file:
        data = file.create_dataset("data", data=image[None], chunks=(1, 40, 50), **hdf5plugin.Bitshuffle(cname="lz4"))
        _, chunk = data.id.read_direct_chunk((0, 0, 0))
    reducer = Reducer(recipe, tables=tables_with_roles({}, fit=True))
    whole = CompressedImage(shape=image.shape, dtype=image.dtype, chunk=chunk)
    one, two = (reducer.find(Frame(frame=k, point=k, image=each)).peaks for k, each in enumerate((image, whole)))
    assert reducer.parallel
    assert one["fit_status"].tolist() == [FitStatus.CONVERGED]
    assert abs(one["fit_row"][0] - 12.3) < 0.05
    assert abs(one["fit_col"][0] - 20.6) < 0.05
    for name in set(one) - {"frame"}:
        np.testing.assert_array_equal(one[name], two[name])

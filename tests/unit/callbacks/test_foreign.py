"""Foreign files: each kind gives the tables that its frames give, and says where every value came from."""

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import foreign_scans as scans
import h5py
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import RawArchiveReader, RunResult, load_settings, open_source, process
from hedmlive.callbacks.hdf5 import NotYet
from hedmlive.callbacks.readers import HDF5Reader
from hedmlive.streaming import ReplayError, SettingsError

pytest.importorskip("fabio")

Write = Callable[[Path], Path]
GE, TIFF, SWMR, HDF5 = (scans.GROWING[kind] for kind in ("ge", "tiff", "swmr", "hdf5"))


def reduced(path: Path, out: Path, said: dict[str, Any] | None = None) -> RunResult:
    """Reduce a file as the command does."""
    settings = None if said is None else load_settings(said)
    source = open_source(str(path), settings=settings)
    if settings is None:
        plain: dict[str, Any] = dict(source.settings or {})
        recipe = {**plain.get("recipe", {}), **hostile.RECIPE}
        settings = load_settings({**plain, "recipe": recipe, "archive": {"folder": str(out)}})
    return process(
        source.documents, settings, stem=source.stem, write_raw=source.write_raw, aside=source.aside, parts=None
    )


# ---------------------------------------------------------------- kinds of files


@pytest.mark.parametrize(
    ("name", "write"),
    [("scan.npz", scans.write_npz), ("scan.fch5", scans.write_fch5), ("scan_master.h5", scans.write_eiger)],
)
def test_a_file_that_says_all_needs_no_settings(tmp_path: Path, name: str, write: Write) -> None:
    result = reduced(write(tmp_path / name), tmp_path / "out")
    assert (result.digests, result.problems) == ({0: scans.expected_digest()}, ())


@pytest.mark.parametrize("kind", list(scans.GROWING))
def test_a_finished_file(tmp_path: Path, kind: str) -> None:
    name, writer, changes = scans.GROWING[kind]
    path = scans.whole(writer, tmp_path / name)
    result = reduced(path, tmp_path / "out", scans.settings(tmp_path / "out", **changes))
    assert (result.digests, result.problems) == ({0: scans.expected_digest()}, ())


@pytest.mark.parametrize("name", ["scan_0001.cbf", "scan_0001.edf", "scan_0001.edf.bz2", "scan_0001.cbf.bz2"])
def test_what_fabio_reads(tmp_path: Path, name: str) -> None:
    path = scans.write_fabio(tmp_path / name)
    said = scans.settings(tmp_path / "out")
    if "cbf" in name:
        said["recipe"] = hostile.RECIPE | {"sentinels": [-1, -2]}
    result = reduced(path, tmp_path / "out", said)
    assert (result.digests, result.problems) == ({0: scans.expected_digest()}, ())


def test_hexomaps_peaks(tmp_path: Path) -> None:
    path = scans.write_hexomap(tmp_path / "scan_z0_000000.bin0")
    result = reduced(path, tmp_path / "out", scans.settings(tmp_path / "out", profile={"shape": [6, 7]}))
    assert (result.progress.n_frames, result.problems) == (scans.N_FRAMES, ())
    with h5py.File(tmp_path / "out" / "scan_z0_reduced.h5") as file:
        pixels = file["reduction_0000/pixels"]
        found = {tuple(row) for row in np.stack([pixels[n][:] for n in ("frame", "row", "col", "intensity")], axis=1)}
    lit = {(i, r, c, im[r, c]) for i, im in enumerate(scans.images()) for r, c in zip(*np.nonzero(im > 10))}  # noqa: B905
    assert found == lit


def test_imaged11s_sparse_frames_with_their_motors(tmp_path: Path) -> None:
    path = scans.write_imaged11(tmp_path / "scan.h5")
    result = reduced(path, tmp_path / "out")
    assert result.problems == ()
    with h5py.File(tmp_path / "out" / "scan_reduced.h5") as file:
        frames = file["reduction_0000/frames"]
        np.testing.assert_array_equal(frames["omega_start"][:], scans.STEP * (np.arange(scans.N_FRAMES) + 0.5))
        assert set(frames["dty"][:]) == {0.25}


@pytest.mark.parametrize("name", ["scan.npz", "scan.fch5", "scan.h5", "scan_000000.bin0"])
def test_files_of_lit_pixels_are_taken_into_the_archive(tmp_path: Path, name: str) -> None:
    writers = {"npz": scans.write_npz, "fch5": scans.write_fch5, "h5": scans.write_imaged11}
    path = writers.get(name.split(".")[1], scans.write_hexomap)(tmp_path / name)
    said = scans.settings(tmp_path / "out", profile={"shape": [6, 7]}) if "bin" in name else None
    first = reduced(path, tmp_path / "out", said)
    for each in tmp_path.glob("scan*"):
        each.unlink()
    assert first.raw is not None
    source = open_source(str(first.raw))
    again = process(source.documents, load_settings({**(source.settings or {}), "archive": {"folder": str(tmp_path)}}))
    assert (again.digests, again.problems) == (first.digests, ())


def test_sentinels_of_the_format_are_in_the_recipe(tmp_path: Path) -> None:
    for path, wanted in (
        (scans.write_eiger(tmp_path / "a_master.h5"), [2**32 - 1]),
        (scans.write_fabio(tmp_path / "b_0001.cbf"), [-2, -1]),
    ):
        assert (open_source(str(path)).settings or {})["recipe"] == {"sentinels": wanted}


# ---------------------------------------------------------------- frames


def test_a_number_that_is_missing_in_a_series(tmp_path: Path) -> None:
    path = scans.whole(TIFF[1], tmp_path / TIFF[0])
    (tmp_path / "scan_000008.tif").unlink()
    result = reduced(path, tmp_path / "out", scans.settings(tmp_path / "out"))
    assert result.digests == {0: scans.expected_digest(absent=[3])}
    (problem,) = result.problems
    assert "frame 3" in problem
    assert "missing" in problem


def test_any_file_of_a_series_means_the_series(tmp_path: Path) -> None:
    scans.whole(TIFF[1], tmp_path / TIFF[0])
    (tmp_path / "other_000001.tif").write_bytes((tmp_path / TIFF[0]).read_bytes())
    result = reduced(tmp_path / "scan_000009.tif", tmp_path / "out", scans.settings(tmp_path / "out"))
    assert (result.digests, result.problems) == ({0: scans.expected_digest()}, ())


def test_two_detectors_are_one_run(tmp_path: Path) -> None:
    for number in (1, 2):
        scans.whole(GE[1], tmp_path / f"scan.ge{number}", scans.images(number - 1))
    said = scans.settings(tmp_path / "out", patterns={"ge1": "*.ge1", "ge2": "*.ge2"}, **GE[2])
    said["detectors"] = [{"name": name, "image": f"{name}_image"} for name in ("ge1", "ge2")]
    result = reduced(tmp_path / "scan.ge2", tmp_path / "out", said)
    expected = {number: scans.expected_digest(detector=number) for number in (0, 1)}
    assert (result.digests, result.problems) == (expected, ())
    del said["watch"]["patterns"]
    with pytest.raises(SettingsError, match=r"wanted one for each of \['ge1', 'ge2'\]"):
        open_source(str(tmp_path / "scan.ge2"), settings=load_settings(said))


def test_darks_of_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["exchange/data"] = np.stack(scans.images()) + np.uint16(50)
        file["exchange/dark"] = np.zeros((3, *scans.SHAPE), np.uint16)
        # The first dark frame is a settling one.
        file["exchange/bright"] = np.full((3, *scans.SHAPE), 50, np.uint16)
        file["exchange/bright"][0] = 7
    profile = {"dark": "/exchange/bright", "dark_skip": 1}
    said = scans.settings(tmp_path / "out", profile=profile) | {"recipe": {**hostile.RECIPE, "background": "dark"}}
    result = reduced(path, tmp_path / "out", said)
    assert result.problems == ()
    with h5py.File(tmp_path / "out" / "scan_reduced.h5") as file:
        assert set(file["reduction_0000/frames/background_level"][:]) == {50}
        assert int(file["reduction_0000/pixels/intensity"][:].max()) == max(int(im.max()) for im in scans.images()) + 50


def test_a_throw_away_frame_is_skipped_in_the_trajectory_and_nowhere_else(tmp_path: Path) -> None:
    path = scans.whole(GE[1], tmp_path / GE[0], [np.zeros(scans.SHAPE, np.uint16), *scans.images()])
    said = scans.settings(tmp_path / "out", **GE[2])
    said["trajectory"] = {**scans.PLANNED, "skip_first": 1}
    result = reduced(path, tmp_path / "out", said)
    assert (result.progress.n_frames, result.problems) == (scans.N_FRAMES + 1, ())
    with h5py.File(tmp_path / "out" / "scan_reduced.h5") as file:
        assert '"skip_first": 1' in file["reduction_0000"].attrs["trajectory"]
        omega = file["reduction_0000/frames/omega_start"][:]
    assert np.isnan(omega[0])
    np.testing.assert_array_equal(omega[1:], scans.STEP * np.arange(scans.N_FRAMES))


# ---------------------------------------------------------------- motors


def raw_dataset(result: RunResult, name: str) -> tuple[Any, dict[str, Any]]:
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        data = file[f"entry/hedm/{name}"]
        return data[()], dict(data.attrs)


def test_each_value_says_where_it_came_from(tmp_path: Path) -> None:
    path = scans.whole(HDF5[1], tmp_path / HDF5[0])
    said = scans.settings(tmp_path / "out", planned=False, roles=scans.HDF5_ROLES | {"energy": "keV"})
    said["watch"] |= {**scans.HDF5_WATCH, "units": {"keV": "keV"}}
    said["watch"]["logs"] = [{"file": "energy.txt", "layout": "dated", "fields": {"keV": 6}}]
    lines = [f"Mon Jan 05 {hour}:00:00 2015 {energy} 0.0\r\n" for hour, energy in ((10, 65.351), (11, 80.725))]
    (tmp_path / "energy.txt").write_text("".join(lines), newline="")
    between = datetime(2015, 1, 5, 10, 45).timestamp()
    os.utime(path, (between, between))
    result = reduced(path, tmp_path / "out", said)
    value, about = raw_dataset(result, "omega_per_frame")
    np.testing.assert_array_equal(value[:, 0], scans.STEP * np.arange(scans.N_FRAMES))
    assert about["source"] == "scan.h5:exchange/theta"
    value, about = raw_dataset(result, "energy")
    assert (float(value), about["units"]) == (65.351, "keV")
    assert about["source"] == f"{tmp_path / 'energy.txt'}: field 6"


FAR_FIELD = "Wed Aug 21 10:00:{s:02d} 2019 GE3 scan x aero {b} {e} 0 0 0 0 0 {omega} 0 0.3 {file} {frame}"
NEAR_FIELD = "Wed Aug 21 10:00:{s:02d} 2019 retiga scan {image} aero 0 0.5 0 0 0 0 0 {omega} 0"


def far_field_log(path: Path, omegas: dict[int, float], file: int = 7, twice: tuple[float, ...] = ()) -> None:
    rows = [(1, each) for each in twice] + list(omegas.items())
    lines = [FAR_FIELD.format(s=i, b=0, e=4, omega=w, file=file, frame=i) for i, w in rows]
    path.write_text("".join(f"{line}\r\n" for line in [*lines, "half a line"]), newline="")


def logged_settings(out: Path, **log: Any) -> dict[str, Any]:
    said = scans.settings(out, planned=False, **GE[2])
    said["watch"]["logs"] = [{"file": "*.par", "fields": {"omega": 17}, **log}]
    return said | {"roles": {"omega": "omega"}}


def omegas_of(result: RunResult) -> list[float]:
    assert result.reduced is not None
    with h5py.File(result.reduced) as file:
        return [float(each) for each in file["reduction_0000/frames/omega_start"][:]]


def test_omega_from_a_log_beside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = scans.whole(GE[1], tmp_path / "images" / "scan_00007.ge3")
    angles = {i + 1: -180.25 + 0.25 * i for i in range(scans.N_FRAMES)}
    # The start of a sweep is logged twice.
    far_field_log(tmp_path / "beam_FF.par", angles, twice=(angles[1],))
    said = logged_settings(tmp_path / "out", layout="ff") | {"omega_sign": -1}
    result = reduced(path, tmp_path / "out", said)
    assert omegas_of(result) == [-each for each in angles.values()]
    assert [line for line in result.problems if "twice" not in line] == []
    assert "1 lines stand there twice, with the same values" in result.problems[0]
    assert raw_dataset(result, "omega_per_frame")[1]["source"] == f"{tmp_path / 'beam_FF.par'}: field 17"


def test_a_twin_with_another_angle_is_named(tmp_path: Path) -> None:
    path = scans.whole(GE[1], tmp_path / "scan_00007.ge3")
    angles = {i + 1: 0.25 * i for i in range(scans.N_FRAMES - 1)}
    far_field_log(tmp_path / "beam_FF.par", angles, twice=(-0.25,))
    result = reduced(path, tmp_path / "out", logged_settings(tmp_path / "out", layout="ff"))
    assert omegas_of(result)[:-1] == list(angles.values())
    assert np.isnan(omegas_of(result)[-1])
    said = "\n".join(result.problems)
    assert "image 1 is logged twice, with [-0.25] and [0.0]" in said
    assert f"no line for 1 of {scans.N_FRAMES} frames" in said


def test_omega_of_a_series_from_a_near_field_log_and_its_sweeps(tmp_path: Path) -> None:
    path = scans.whole(TIFF[1], tmp_path / TIFF[0])
    lines = [NEAR_FIELD.format(s=i, image=5 + i, omega=scans.STEP * i) for i in range(scans.N_FRAMES)]
    (tmp_path / "beam_NF.par").write_text("\n".join(lines))
    sweep = "Wed Aug 21 10:00:00 2019 0 0 0 0 {z} retiga 1 0 0 scan {first} {end}"
    sweeps = [sweep.format(z=7.0, first=5, end=9), sweep.format(z=9.0, first=9, end=14)]
    (tmp_path / "FileCount.txt").write_text("\n".join(sweeps))
    said = logged_settings(tmp_path / "out", layout="nf")
    said["watch"]["logs"].append({"file": "FileCount.txt", "layout": "sweeps", "fields": {"DetZ": 10}})
    said["roles"]["L1"] = "DetZ"
    result = reduced(path, tmp_path / "out", said)
    assert omegas_of(result) == [scans.STEP * i for i in range(scans.N_FRAMES)]
    with h5py.File(tmp_path / "out" / "scan_reduced.h5") as file:
        assert list(file["reduction_0000/frames/L1"][:]) == [7.0] * 4 + [9.0] * 4
    assert "images of scan end before 14, files before 13" in "\n".join(result.problems)


def test_omega_from_headers(tmp_path: Path) -> None:
    path = scans.write_fabio(tmp_path / "scan_0001.edf")
    said = scans.settings(tmp_path / "out", planned=False, profile={"motors": {"omega": "header:Omega"}})
    result = reduced(path, tmp_path / "out", said | {"roles": {"omega": "omega"}})
    assert omegas_of(result) == [scans.STEP * i for i in range(scans.N_FRAMES)]


def test_a_file_without_its_angles_is_reduced_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    hostile.write_frames(path, scans.images())
    said = scans.settings(tmp_path / "out", planned=False, roles={"omega": "theta", "energy": "keV"})
    said["watch"] |= {"profile": {"motors": {"theta": "exchange/theta"}}}
    said.pop("omega_marks")
    result = reduced(path, tmp_path / "out", said)
    assert result.progress.n_frames == scans.N_FRAMES
    assert all(np.isnan(omegas_of(result)))
    assert [role for role in ("role omega", "role energy") if role not in "\n".join(result.problems)] == []


def test_more_angles_than_frames_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["exchange/data"] = np.stack(scans.images())
        file["exchange/theta"] = np.arange(scans.N_FRAMES + 1.0)
    result = reduced(path, tmp_path / "out")
    assert [f"holds {scans.N_FRAMES + 1} values for {scans.N_FRAMES} frames" in line for line in result.problems] == [
        True
    ]


# ---------------------------------------------------------------- uids


def test_the_same_content_is_the_same_run(tmp_path: Path) -> None:
    path = scans.write_npz(tmp_path / "scan.npz")
    (tmp_path / "moved").mkdir()
    shutil.copy(path, tmp_path / "moved" / "other.npz")
    uids = [next(iter(open_source(str(each)).documents))[1]["uid"] for each in (path, tmp_path / "moved" / "other.npz")]
    assert uids[0] == uids[1]


# ---------------------------------------------------------------- what is wrong


def broken(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npz", b"no zip", "not a HEXRD frame-cache"),
        ("a.h5", b"no hdf5", "not a raw archive|no HDF5 file"),
        ("a.ge2", b"short", "wanted a header of 8192"),
        ("a.ge2", b"\0" * 9000, "holds no frames"),
        ("a_0001.tif", b"II*\0 and nothing", "not a TIFF image|wanted one image"),
        ("a_0001.cbf", b"###CBF", "cannot be read"),
        ("a_0001.edf.bz2", b"no bz2", "cannot be read"),
        ("a_0001.bin0", b"\0\0\x80?" * 20, "watch.profile.shape"),
        ("a.xyz", b"", "not a raw archive|not a kind of file"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = broken(tmp_path / name, content)
    with pytest.raises((ReplayError, OSError), match=says) as raised:
        open_source(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_hexomaps_peaks_that_are_cut_off(tmp_path: Path) -> None:
    path = scans.write_hexomap(tmp_path / "scan_000000.bin0")
    (tmp_path / "scan_000003.bin0").write_bytes((tmp_path / "scan_000003.bin0").read_bytes()[:100])
    with pytest.raises(ReplayError, match=r"scan_000003\.bin0: no peaks as HEXOMAP writes them"):
        open_source(str(path), settings=load_settings(scans.settings(tmp_path, profile={"shape": [6, 7]})))
    with pytest.raises(ReplayError, match="lies outside the shape"):
        open_source(str(path), settings=load_settings(scans.settings(tmp_path, profile={"shape": [5, 5]})))


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    path = hostile.write_frames(tmp_path / "scan.h5", scans.images())
    for profile in ({"data": "/exchange/data"}, {"dark": "/exchange/bright"}):
        settings = load_settings(scans.settings(tmp_path, profile=profile))
        with pytest.raises(ReplayError, match=r"no dataset /exchange/.*entry/data/data"):
            open_source(str(path), settings=settings)


def test_frames_in_two_places(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["a"] = file["b"] = np.stack(scans.images())
    with pytest.raises(ReplayError, match=r"2 datasets of frames \['a', 'b'\]; say which in profile.data"):
        open_source(str(tmp_path / "scan.h5"))


def test_a_tail_that_is_no_frame(tmp_path: Path) -> None:
    path = scans.whole(GE[1], tmp_path / GE[0])
    with path.open("ab") as file:
        file.write(b"12345")
    result = reduced(path, tmp_path / "out", scans.settings(tmp_path / "out", **GE[2]))
    assert result.digests == {0: scans.expected_digest()}
    assert ["ends with 5 bytes that are no whole frame" in line for line in result.problems] == [True]


def test_a_file_of_the_older_kind_that_has_grown_is_opened_anew(tmp_path: Path) -> None:
    # It cannot be refreshed: HDF5 would lose track of its chunks.
    path, longer = tmp_path / "scan.h5", tmp_path / "longer.h5"
    for each, n_frames in ((path, 3), (longer, scans.N_FRAMES)):
        with h5py.File(each, "w", libver="earliest") as file:
            stack = np.stack(scans.images(n_frames=n_frames))
            file.create_dataset("data", data=stack, chunks=(1, *scans.SHAPE), maxshape=(None, *scans.SHAPE))
    reader = HDF5Reader(path, {"dataset": "data"}, 1)
    assert np.array_equal(np.asarray(reader.read(2))[0], scans.images()[2])
    with pytest.raises(NotYet, match="holds 3"):
        reader.read(5)
    longer.replace(path)
    assert np.array_equal(np.asarray(reader.read(5))[0], scans.images()[5])
    reader.close()


def test_an_archive_is_no_foreign_file(tmp_path: Path) -> None:
    first = reduced(scans.write_npz(tmp_path / "scan.npz"), tmp_path / "out")
    assert first.raw is not None
    assert not open_source(str(first.raw)).write_raw
    with RawArchiveReader(first.raw) as archive:
        assert archive.finished

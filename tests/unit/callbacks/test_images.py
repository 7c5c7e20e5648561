"""Images from files: each format gives the same numbers, and what is wrong with a file is said in one line."""

import bz2
import sys

import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from hedmlive.callbacks.images import load_image, load_stack
from hedmlive.streaming import SettingsError
from hedmlive.streaming.corrections import Corrections, bad_pixels

IMAGE = np.arange(12, dtype=np.uint16).reshape(3, 4)
STACK = np.stack([IMAGE, 3 * IMAGE, IMAGE + 1])


def write_npy(path, array):
    file = path.with_suffix(".npy")
    np.save(file, array)
    return file


def write_tiff(path, array):
    file = path.with_suffix(".tif")
    tifffile.imwrite(file, array, photometric="minisblack")
    return file


def write_hdf5(path, array):
    file = path.with_suffix(".h5")
    with h5py.File(file, "w") as h5:
        h5["entry/instrument/omega"] = np.arange(3.0)
        h5.create_dataset("entry/data/data", data=array, chunks=array.shape, **hdf5plugin.Bitshuffle(cname="lz4"))
    return file


WRITERS = [write_npy, write_tiff, write_hdf5]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_an_image_keeps_its_type(write, dtype, tmp_path):
    file = write(tmp_path / "mask", IMAGE.astype(dtype))
    for reduce in (None, "mean", "median"):
        for spec in (file, str(file)):
            got = load_image(spec, reduce=reduce)
            assert got.dtype == dtype
            assert np.array_equal(got, IMAGE)
    assert load_stack(file).shape == (1, 3, 4)
    # What was read stays, whatever becomes of the file.
    got = load_image(file)
    file.write_bytes(b"")
    assert np.array_equal(got, IMAGE)


@pytest.mark.parametrize("write", WRITERS)
def test_a_stack_becomes_its_mean_or_median(write, tmp_path):
    file = write(tmp_path / "dark", STACK)
    assert np.array_equal(load_image(file, reduce="mean"), STACK.mean(axis=0))
    assert np.array_equal(load_image(file, reduce="median"), np.median(STACK, axis=0))
    assert np.array_equal(load_stack(file), STACK)
    with pytest.raises(SettingsError, match=r"dark\..* holds 3 images; wanted one"):
        load_image(file)


def test_marks_are_found_before_the_mean_hides_them(tmp_path):
    stack = np.zeros((2, 1, 3), np.int32)
    stack[:, 0, 0] = -1
    stack[:, 0, 2] = 6, -2
    file = write_npy(tmp_path / "dark", stack)
    bad = bad_pixels(load_stack(file), bad_intensity=-2, gap_intensity=-1)
    assert bad.tolist() == [[True, False, True]]
    assert bad_pixels(load_image(file, reduce="mean"), bad_intensity=-2, gap_intensity=-1).tolist() != bad.tolist()


def test_a_dataset_by_its_path(tmp_path, monkeypatch):
    file = tmp_path / "masters.h5"
    with h5py.File(file, "w") as h5:
        h5["exchange/data"] = STACK
        h5["exchange/dark"] = IMAGE
        h5["exchange/theta"] = np.arange(3.0)
        h5["exchange/name"] = "x"
    assert np.array_equal(load_image(f"{file}:/exchange/dark"), IMAGE)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(load_image("masters.h5:exchange/dark"), IMAGE)
    for spec, complaint in (
        ("masters.h5", "masters.h5 holds 2 datasets of images"),
        ("masters.h5:/exchange/flat", "masters.h5:/exchange/flat is no dataset; the file's"),
        ("masters.h5:/exchange", "masters.h5:/exchange is no dataset"),
        ("masters.h5:/exchange/theta", r"masters.h5:/exchange/theta has shape \(3,\); wanted \(rows"),
        ("masters.h5:/exchange/name", "masters.h5:/exchange/name holds object; wanted numbers"),
    ):
        with pytest.raises(SettingsError, match=complaint):
            load_image(spec)


@pytest.mark.parametrize("name", ["none.npy", "none.tif", "none.h5", "none.h5:/data", "folder.npy", "mask.png", "mask"])
def test_files_that_are_not_there_or_of_another_kind(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(SettingsError, match=r"wanted a \.npy, \.tif, \.tiff or \.h5 file") as caught:
        load_image(name)
    assert str(caught.value).startswith(name.partition(":")[0])


@pytest.mark.parametrize("suffix", ["npy", "tif", "TIFF", "h5", "nxs"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"II*\x00\xff\xff\xff\xff", b"not an image\n" * 40])
def test_damaged_files(suffix, content, tmp_path):
    file = tmp_path / f"dark.{suffix}"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"dark\.") as caught:
        load_image(file)
    assert "\n" not in str(caught.value)


def test_truncated_files(tmp_path):
    for write in WRITERS:
        file = write(tmp_path / "dark", np.zeros((64, 64)))
        file.write_bytes(file.read_bytes()[:-900])
        with pytest.raises(SettingsError, match="dark"):
            load_image(file)


def test_nothing_is_unpickled(tmp_path):
    file = tmp_path / "mask.npy"
    np.save(file, np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_image(file)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros(4), r"has shape \(4,\)"),
        (np.zeros((1, 1, 2, 2)), r"has shape \(1, 1, 2, 2\)"),
        (np.zeros((0, 3)), r"has shape \(0, 3\)"),
        (np.zeros((2, 2), complex), "holds complex128; wanted numbers"),
        (np.array([["a"]]), "holds <U1"),
    ],
)
def test_arrays_that_are_no_images(array, complaint, tmp_path):
    with pytest.raises(SettingsError, match=complaint):
        load_image(write_npy(tmp_path / "mask", array))


def test_colours_are_no_stack(tmp_path):
    file = tmp_path / "photo.tif"
    tifffile.imwrite(file, np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(SettingsError, match=r"photo\.tif holds images of axes \['YXS'\]"):
        load_image(file)


def test_without_tifffile(tmp_path, monkeypatch):
    file = write_tiff(tmp_path / "mask", IMAGE)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(SettingsError, match="TIFF needs the package tifffile"):
        load_image(file)


def test_a_real_frame(shared_data, tmp_path):
    packed = shared_data / "frames" / "oPPA_5grains_0001.tif.bz2"
    file = tmp_path / "grains.tif"
    file.write_bytes(bz2.decompress(packed.read_bytes()))
    image = load_image(file)
    assert (image.shape, image.dtype, image.max()) == ((2048, 2048), np.uint16, 2979)
    for transforms in ((), (3,), (1, 3), (2, 1)):
        corrections = Corrections(transforms=transforms)
        turned = corrections.transformed(image)
        for threshold, groups in ((0, 157), (10, 79)):
            lit = turned > corrections.prepared((2048, 2048)).cut(10.0, threshold, turned.dtype)
            assert ndimage.label(lit, np.ones((3, 3)))[1] == groups

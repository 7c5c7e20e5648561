"""Frames in foreign HDF5 files: area detectors', Data Exchange, Eiger masters, ImageD11's and HEXRD's sparse ones.

A file of the newest kind says whether a writer has it open (superblock version 3, consistency flags); one of an older
kind does not, and can only be read when its writer is done.
"""

import fcntl
import re
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ..streaming import ReplayError
from .foreign_look import BeingWritten, Look, Piece, Values
from .foreign_readers import FRAME_CACHE_HDF5, IMAGED11_SPARSE
from .hdf5 import SWMR_SUPERBLOCK, NotYet, dataset, open_growing, refresh, subgroup
from .readers import file_uri
from .watch_settings import ProfileSettings

_HDF5 = "application/x-hdf5"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WRITING, _SWMR = 1, 4
_USUAL = ("exchange/data", "entry/data/data", "entry/instrument/detector/data", "entry_0000/measurement/data")
_EIGER = "entry/data/data_000001"
_EPICS_EPOCH = 631_152_000
_PLACE = re.compile(r"(?P<path>[^@\[]+)(?:@(?P<attribute>[^\[]+))?(?:\[(?P<column>\d+)\])?")
_ROTATIONS = ("rot_center", "rot", "diffrz_center", "diffrz")


def state_of(path: Path) -> Literal["growing", "writing", "closed", "unknown"]:
    """Tell whether an HDF5 file is written just now: `growing` ones (SWMR) can be followed, `writing` ones cannot.

    Raises
    ------
    NotYet
        It is not there, or no HDF5 file yet.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
            if head[:8] != _SIGNATURE:
                raise NotYet(f"{path} is no HDF5 file, or is not yet")
            if head[8] >= SWMR_SUPERBLOCK:
                return "growing" if head[11] & _SWMR else "writing" if head[11] & _WRITING else "closed"
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return "writing"
            except OSError:
                # A file system without locks.
                return "unknown"
            return "unknown"
    except FileNotFoundError:
        raise NotYet(f"no file {path}") from None


def look_hdf5(path: Path, profile: ProfileSettings, *, finished: bool) -> Look:
    """Return what an HDF5 file holds.

    Parameters
    ----------
    path
        The file.
    profile
        Where things lie in it.
    finished
        Whether it is not going to change any more.

    Raises
    ------
    NotYet
        It cannot be read yet.
    ReplayError
        It holds no frames, or not where the profile says.
    """
    state = state_of(path)
    if state == "writing":
        if not finished:
            raise BeingWritten(f"{path} is written; it is read when that is done")
        state = "unknown"
    with open_growing(path) as file:
        if _is_ours(file):
            raise ReplayError(f"{path}: is an archive of hedmlive; wanted a file of frames (use `hedmlive replay`)")
        try:
            look = _look(file, path, profile, finished)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ReplayError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
        return replace(look, state=state)


def _look(file: h5py.File, path: Path, profile: ProfileSettings, finished: bool) -> Look:
    if "HEXRD_FRAMECACHE_VERSION" in file.attrs:
        return _look_frame_cache(file, path, profile)
    sparse = [name for name in file if not profile.data and _is_sparse(file.get(name))]
    if sparse:
        return _look_imaged11(file, path, sparse, profile)
    if not profile.data and file.get(_EIGER, getlink=True) is not None:
        return _look_eiger(file, path, profile, finished)
    place = profile.data or _find_frames(file, path)
    if place not in file:
        if not finished:
            raise NotYet(f"no dataset {place} in {path}")
        raise ReplayError(f"{path}: no dataset {place}; its datasets of frames are {_frames_in(file)[:5]}")
    data = _grown(file, place)
    if data.ndim not in (2, 3) or data.dtype.kind not in "uif":
        raise ReplayError(f"{path}:{place} has shape {data.shape} of {data.dtype}; wanted (frames, rows, columns)")
    if data.ndim == 2:
        raise ReplayError(f"{path}:{place} is one image of shape {data.shape}; wanted (frames, rows, columns)")
    n_frames = len(data) if finished else _written(data)
    piece = _piece(path, place, n_frames)
    look = Look(
        format="hdf5",
        files=(path,),
        shape=(int(data.shape[1]), int(data.shape[2])),
        dtype=data.dtype,
        pieces=(piece,),
        darks=_darks(file, path, profile, finished),
    )
    usual = () if profile.motors else _usual_motors(place)
    return _with_motors(look, file, path, profile, usual, finished)


# Kinds of files


def _look_frame_cache(file: h5py.File, path: Path, profile: ProfileSettings) -> Look:
    rows, cols = (int(n) for n in dataset(file, "shape")[()])
    n_frames = int(dataset(file, "nframes")[()])
    look = Look(
        format="fch5",
        files=(path,),
        shape=(rows, cols),
        dtype=dataset(file, "data").dtype,
        pieces=(Piece(mimetype=FRAME_CACHE_HDF5, uri=file_uri(path), present=range(n_frames)),),
    )
    return _with_motors(look, file, path, profile, _start_and_end("metadata/omega"), finished=True)


def _look_imaged11(file: h5py.File, path: Path, scans: list[str], profile: ProfileSettings) -> Look:
    if len(scans) > 1:
        raise ReplayError(f"{path}: holds {len(scans)} scans {scans[:5]}; wanted one, or profile.data with its name")
    group = subgroup(file, scans[0])
    n_frames, n_listed = len(dataset(group, "nnz")), int(dataset(group, "nnz")[()].sum(dtype=np.int64))
    if n_listed != len(dataset(group, "row")):
        raise ReplayError(f"{path}: nnz counts {n_listed} pixels, {len(dataset(group, 'row'))} are there")
    parameters = {"dataset": f"/{scans[0]}"}
    look = Look(
        format="imaged11",
        files=(path,),
        shape=(int(group.attrs["shape0"]), int(group.attrs["shape1"])),
        dtype=dataset(group, "intensity").dtype,
        pieces=(Piece(mimetype=IMAGED11_SPARSE, uri=file_uri(path), parameters=parameters, present=range(n_frames)),),
    )
    rotation = [("omega", f"{scans[0]}/measurement/{name}") for name in _ROTATIONS]
    dty = [("dty", f"{scans[0]}/{where}/dty") for where in ("measurement", "instrument/positioners")]
    return _with_motors(look, file, path, profile, (*rotation, *dty), finished=True)


def _look_eiger(file: h5py.File, path: Path, profile: ProfileSettings, finished: bool) -> Look:
    """Follow a master's links to the files that hold the frames; one that is not there yet ends the frames so far."""
    group = subgroup(file, "entry/data")
    pieces: list[Piece] = []
    shape, dtype, n_frames = (0, 0), np.dtype(np.uint32), 0
    files = [path]
    for name in sorted(name for name in group if name.startswith("data_")):
        link = group.get(name, getlink=True)
        outside = isinstance(link, h5py.ExternalLink)
        target = path.parent / link.filename if outside else path
        place = link.path.strip("/") if outside else f"entry/data/{name}"
        if not target.exists():
            break
        with open_growing(target) as part:
            if place not in part:
                break
            data = _grown(part, place)
            shape, dtype = (int(data.shape[-2]), int(data.shape[-1])), data.dtype
            count = len(data) if finished else _written(data)
        if outside:
            files.append(target)
        pieces.append(replace(_piece(target, place, count), first=n_frames))
        n_frames += count
    if not pieces:
        raise NotYet(f"{path}: none of its data files is there")
    detail = file.get("entry/instrument/detector/detectorSpecific")
    expected = None
    if isinstance(detail, h5py.Group) and "nimages" in detail:
        triggers = int(dataset(detail, "ntrigger")[()]) if "ntrigger" in detail else 1
        expected = int(dataset(detail, "nimages")[()]) * triggers
    look = Look(
        format="eiger",
        files=tuple(files),
        shape=shape,
        dtype=dtype,
        pieces=tuple(pieces),
        expected=expected,
        # What a module's gap or a dead pixel reads.
        sentinels=(int(np.iinfo(dtype).max),) if dtype.kind == "u" else (),
    )
    places = "entry/sample/goniometer/omega"
    usual = () if profile.motors else (("omega_start", places), ("omega_end", f"{places}_end"))
    return _with_motors(look, file, path, profile, usual, finished)


def _piece(path: Path, place: str, n_frames: int) -> Piece:
    parameters = {"dataset": f"/{place.strip('/')}", "chunk_shape": [1]}
    return Piece(mimetype=_HDF5, uri=file_uri(path), parameters=parameters, present=range(n_frames))


def _darks(file: h5py.File, path: Path, profile: ProfileSettings, finished: bool) -> Piece | None:
    if not profile.dark:
        return None
    if profile.dark not in file:
        if finished:
            raise ReplayError(f"{path}: no dataset {profile.dark} of darks; its datasets are {_frames_in(file)[:5]}")
        return None
    data = _grown(file, profile.dark)
    end = min(len(data), profile.dark_frames or len(data))
    return replace(_piece(path, profile.dark, end), present=range(profile.dark_skip, end))


# Motors


def _usual_motors(place: str) -> tuple[tuple[str, str], ...]:
    """Return where Data Exchange and hexrd keep omega beside frames at a place."""
    parent = place.strip("/").rpartition("/")[0] or "/"
    simple = [("omega", where) for where in ("exchange/theta", "measurement/omega")]
    return (*_start_and_end(f"{parent}@omega"), *simple)


def _start_and_end(place: str) -> tuple[tuple[str, str], ...]:
    return (("omega_start", f"{place}[0]"), ("omega_end", f"{place}[1]"))


def _with_motors(
    look: Look,
    file: h5py.File,
    path: Path,
    profile: ProfileSettings,
    usual: tuple[tuple[str, str], ...],
    finished: bool,
) -> Look:
    values: dict[str, Values] = {}
    for key, place in usual:
        # Of several usual places the first that is there counts.
        known = key in values or (key == "omega" and "omega_start" in values)
        if not known and (found := _values(file, path, place)) is not None:
            values[key] = found
    for key, place in profile.motors.items():
        found = _values(file, path, place)
        if found is not None:
            values[key] = found
    lacking = tuple(key for key in profile.motors if key not in values)
    notes = [
        f"{each.source} holds {len(each.values)} values for {look.n_frames} frames; the first are taken"
        for each in values.values()
        if finished and each.per_frame and len(each.values) > look.n_frames
    ]
    time = None
    if profile.time:
        stamps = _values(file, path, profile.time)
        if stamps is not None and stamps.per_frame:
            time = stamps.values + (_EPICS_EPOCH if profile.time_epoch == "epics" else 0)
    return replace(look, values=values, lacking=lacking, time=time, notes=tuple(notes))


def _values(file: h5py.File, path: Path, place: str) -> Values | None:
    """Return the numbers at a place; None if there is none."""
    parts = _PLACE.fullmatch(place)
    if parts is None or parts["path"] not in file:
        return None
    unit: Any = ""
    if parts["attribute"]:
        attributes = file[parts["path"]].attrs
        if parts["attribute"] not in attributes:
            return None
        array, scalar = np.asarray(attributes[parts["attribute"]]), False
    else:
        found = file[parts["path"]]
        if not isinstance(found, h5py.Dataset):
            raise ReplayError(f"{path}:{place} is no dataset; wanted numbers")
        found = _grown(file, parts["path"])
        array, unit = np.asarray(found[()]), found.attrs.get("units", "")
        # What can hold one value only is no motor of each frame.
        scalar = found.shape == (1,) and found.maxshape == (1,)
    if array.dtype.kind not in "uif":
        raise ReplayError(f"{path}:{place} holds {array.dtype}; wanted numbers")
    if parts["column"] and array.ndim == 2:
        array = array[:, int(parts["column"])]
    if array.ndim > 1:
        raise ReplayError(f"{path}:{place} has shape {array.shape}; wanted one value a frame, or `{place}[0]`")
    array = array.astype(np.float64)
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    return Values(values=array.reshape(()) if scalar else array, source=f"{path.name}:{place}", unit=unit)


# Datasets


def _is_ours(file: h5py.File) -> bool:
    entry = file.get("entry")
    said = [file.attrs.get("format"), entry.attrs.get("format") if isinstance(entry, h5py.Group) else None]
    return any(str(each).startswith("hedmlive-") for each in said)


def _is_sparse(item: Any) -> bool:
    return isinstance(item, h5py.Group) and {"row", "col", "intensity", "nnz"} <= set(item)


def _grown(file: h5py.File, place: str) -> h5py.Dataset:
    """Return a dataset as long as it is now: in this process the file may be open already, and known as it was."""
    data = dataset(file, place)
    refresh(data)
    return data


def _written(data: h5py.Dataset) -> int:
    """Return how many frames of a growing dataset are written; some writers give it its length beforehand."""
    if data.chunks is None or data.chunks[0] != 1:
        return len(data)

    def is_there(i: int) -> bool:
        return data.id.get_chunk_info_by_coord((i, 0, 0)).byte_offset is not None

    if len(data) and is_there(len(data) - 1):
        return len(data)
    return bisect_left(range(len(data)), True, key=lambda i: not is_there(i))


def _find_frames(file: h5py.File, path: Path) -> str:
    for place in _USUAL:
        if isinstance(file.get(place), h5py.Dataset):
            return place
    found = _frames_in(file)
    if len(found) != 1:
        raise ReplayError(f"{path}: holds {len(found)} datasets of frames {found[:5]}; say which in profile.data")
    return found[0]


def _frames_in(file: h5py.File) -> list[str]:
    found: list[str] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "uif":
            found.append(name)

    file.visititems(look)
    return found

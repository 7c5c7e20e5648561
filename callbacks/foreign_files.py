"""Frames in foreign files that are not HDF5: which files belong together, and what they hold."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..streaming import FrameError, ReplayError
from .foreign_hdf5 import look_hdf5
from .foreign_look import Look, Piece, Values
from .foreign_readers import (
    FABIO_FRAMES,
    FABIO_SERIES,
    GE_RAW,
    HEXOMAP_PEAKS,
    load_tiff,
    open_fabio,
    read_hexomap,
)
from .hdf5 import NotYet
from .readers import FRAME_CACHE, file_uri, text
from .watch_settings import ProfileSettings

_TIFF_SERIES = "multipart/related;type=image/tiff"
_HDF5 = (".h5", ".hdf5", ".hdf", ".nxs", ".fch5")
_GE = re.compile(r"\.ge\d?$", re.IGNORECASE)
_GE_SHAPE = (2048, 2048)
_SERIES = re.compile(
    r"(?P<prefix>.*?)(?P<number>\d*)(?P<suffix>\.(?P<kind>tiff?|cbf|edf|bin\d)(?P<packed>\.(?:gz|bz2))?)", re.IGNORECASE
)
_CBF_VALUE = re.compile(r"#\s*(?P<key>[A-Za-z_]+)\s+(?P<value>[-+.\deE]+)")
_PILATUS_MARKS = (-2, -1)


def is_known(path: Path) -> bool:
    """Tell whether the name of a file is one of files that hold frames."""
    name = path.name
    return path.suffix.lower() in (*_HDF5, ".npz") or bool(_GE.search(name) or _SERIES.fullmatch(name))


def first_of(path: Path) -> Path:
    """Return the file that a series begins with, or the file itself if it stands alone."""
    match = _SERIES.fullmatch(path.name)
    if match is None or not match["number"]:
        return path
    return min(_members(path, match), key=lambda each: each[0], default=(0, path))[1]


def series_of(path: Path) -> list[Path]:
    """Return the files of a series by their numbers, or the file itself if it stands alone."""
    match = _SERIES.fullmatch(path.name)
    if match is None or not match["number"]:
        return [path]
    return [file for _, file in sorted(_members(path, match))]


def firsts_of(paths: Iterable[Path]) -> list[Path]:
    """Return the files but for those of a series, of which only the first is kept."""
    firsts: dict[tuple[Path, str, str], tuple[int, Path]] = {}
    for path in paths:
        match = _SERIES.fullmatch(path.name)
        series = match is not None and bool(match["number"])
        key = (path.parent, match["prefix"], match["suffix"]) if match and series else (path, "", "")
        found = (int(match["number"]) if match and series else 0, path)
        firsts[key] = min(found, firsts.get(key, found))
    return [path for _, path in firsts.values()]


def scan_name(path: Path) -> str:
    """Return the name of what a file holds: without suffix, of a series without number too."""
    match = _SERIES.fullmatch(path.name)
    if match is None:
        return path.stem
    stem = match["prefix"].rstrip("_-.")
    # A single image keeps the number that it has.
    alone = not match["number"] or len(_members(path, match)) < 2
    return (match["prefix"] + match["number"]) if alone or not stem else stem


def look_file(path: Path, profile: ProfileSettings, *, finished: bool) -> Look:
    """Return what a file, or the series that it begins, holds.

    Parameters
    ----------
    path
        The file; of a series the first.
    profile
        Where things lie in it.
    finished
        Whether it is not going to change any more.

    Raises
    ------
    NotYet
        It is not there, or cannot be read yet.
    ReplayError
        It is no file of frames, or broken.
    """
    try:
        if path.suffix.lower() in _HDF5:
            return look_hdf5(path, profile, finished=finished)
        if not path.is_file():
            raise NotYet(f"no file {path}")
        if path.suffix.lower() == ".npz":
            return _look_frame_cache(path, finished=finished)
        if _GE.search(path.name):
            return _look_ge(path, profile, finished=finished)
        match = _SERIES.fullmatch(path.name)
        if match is not None:
            return _look_series(path, match, profile, finished=finished)
    except FrameError as error:
        if not finished:
            raise NotYet(str(error)) from None
        raise ReplayError(str(error)) from None
    raise ReplayError(
        f"{path}: not a kind of file that is known; wanted HDF5, a frame-cache, GE, TIFF, CBF, EDF or HEXOMAP's .bin0"
    )


def _look_frame_cache(path: Path, *, finished: bool) -> Look:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            rows, cols = (int(n) for n in file["shape"])
            n_frames = int(file["nframes"])
            dtype = np.dtype(text(file["dtype"]))
            omega = np.asarray(file["omega"], np.float64) if "omega" in names else None
            name = text(file["panel_id"]) if "panel_id" in names else "detector"
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        if not finished:
            # Its directory is written last.
            raise NotYet(why) from None
        raise ReplayError(f"{path}: not a HEXRD frame-cache ({why}); wanted shape, nframes, dtype and frames") from None
    if omega is not None and omega.shape != (n_frames, 2):
        raise ReplayError(f"{path}: omega has shape {omega.shape}; wanted ({n_frames}, 2), start and end of each frame")
    lacking = [i for i in range(n_frames) if f"{i}_data" not in names]
    if lacking:
        raise ReplayError(f"{path}: frames {lacking[:5]} are missing; wanted 0 to {n_frames - 1}")
    ends = {} if omega is None else {"omega_start": omega[:, 0], "omega_end": omega[:, 1]}
    return Look(
        format="frame_cache",
        files=(path,),
        shape=(rows, cols),
        dtype=dtype,
        pieces=(Piece(mimetype=FRAME_CACHE, uri=file_uri(path), present=range(n_frames), parameters=_EACH),),
        values={key: Values(values=each, source=f"{path.name}: omega", unit="degree") for key, each in ends.items()},
        # One that can be read is whole.
        state="closed",
        name=name,
    )


def _look_ge(path: Path, profile: ProfileSettings, *, finished: bool) -> Look:
    shape, dtype = profile.shape or _GE_SHAPE, np.dtype(profile.dtype)
    size = path.stat().st_size - profile.header_bytes
    n_frames, rest = divmod(max(0, size), shape[0] * shape[1] * dtype.itemsize)
    if finished and size < 0:
        raise ReplayError(f"{path}: has {size + profile.header_bytes} bytes; wanted a header of {profile.header_bytes}")
    notes = (f"{path.name} ends with {rest} bytes that are no whole frame; they are left out",) if rest else ()
    parameters = {"shape": list(shape), "dtype": dtype.str, "header_bytes": profile.header_bytes, **_EACH}
    return Look(
        format="ge",
        files=(path,),
        shape=shape,
        dtype=dtype,
        pieces=(Piece(mimetype=GE_RAW, uri=file_uri(path), present=range(n_frames), parameters=parameters),),
        notes=notes if finished else (),
    )


_EACH = {"chunk_shape": [1]}


def _members(path: Path, match: re.Match[str]) -> list[tuple[int, Path]]:
    """Return numbers and files of a series, those with as many digits as it has."""
    width, prefix, suffix = len(match["number"]), match["prefix"], match["suffix"]
    found: list[tuple[int, Path]] = []
    if not path.parent.is_dir():
        return found
    with os.scandir(path.parent) as entries:
        for entry in entries:
            name = entry.name
            digits = name[len(prefix) : len(name) - len(suffix)]
            whole = name == f"{prefix}{digits}{suffix}" and digits.isascii() and digits.isdigit()
            if whole and (len(digits) == width or (len(digits) > width and digits[0] != "0")):
                found.append((int(digits), path.parent / name))
    return found


def _look_series(path: Path, match: re.Match[str], profile: ProfileSettings, *, finished: bool) -> Look:
    kind = match["kind"].lower()
    if not match["number"]:
        numbers, files = [0], [path]
    else:
        members = sorted(_members(path, match))
        numbers, files = [number for number, _ in members], [file for _, file in members]
    if not files[0].stat().st_size:
        raise NotYet(f"{files[0]} is empty")
    if kind in ("cbf", "edf"):
        return _look_fabio(match, numbers, files, profile)
    if kind.startswith("bin"):
        if profile.shape is None:
            raise ReplayError(f"{path}: does not say how large its images are; give watch.profile.shape in --settings")
        if finished:
            for file in files:
                read_hexomap(file, profile.shape)
        shape, dtype, mimetype = profile.shape, np.dtype("<f4"), HEXOMAP_PEAKS
        piece = _series_piece(match, numbers, files, mimetype, {"shape": list(shape)})
        return _series("hexomap", numbers, files, piece, shape, dtype)
    image = _first_tiff(files[0])
    piece = _series_piece(match, numbers, files, _TIFF_SERIES)
    return _series("tiff", numbers, files, piece, (image.shape[0], image.shape[1]), image.dtype)


def _first_tiff(path: Path) -> np.ndarray:
    try:
        image = load_tiff(path)
    except FrameError:
        raise
    except Exception as error:
        # A damaged file makes its reader raise anything.
        raise FrameError(f"{path}: not a TIFF image that can be read ({' '.join(str(error).split())})") from None
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise FrameError(f"{path}: holds {image.dtype} of shape {image.shape}; wanted one image of rows and columns")
    return image


def _series_piece(
    match: re.Match[str],
    numbers: Sequence[int],
    files: Sequence[Path],
    mimetype: str,
    parameters: dict[str, object] | None = None,
) -> Piece:
    present = [number - numbers[0] for number in numbers]
    if not match["number"]:
        return Piece(mimetype=mimetype, uri=file_uri(files[0]), present=present, parameters=parameters or {})
    place = {"template": f"{match['prefix']}%0{len(match['number'])}d{match['suffix']}", "first": numbers[0], **_EACH}
    return Piece(
        mimetype=mimetype,
        uri=file_uri(files[0].parent).rstrip("/") + "/",
        present=present,
        parameters=place | (parameters or {}),
    )


def _series(
    kind: str, numbers: Sequence[int], files: Sequence[Path], piece: Piece, shape: tuple[int, int], dtype: np.dtype
) -> Look:
    return Look(
        format=kind,
        files=tuple(files),
        shape=shape,
        dtype=dtype.newbyteorder("="),
        pieces=(piece,),
        last_may_be_partial=True,
        numbers=tuple(numbers),
    )


def _look_fabio(match: re.Match[str], numbers: Sequence[int], files: Sequence[Path], profile: ProfileSettings) -> Look:
    with open_fabio(files[0]) as image:
        n_frames = int(image.nframes)
        shape, dtype = image.data.shape, image.data.dtype
    if len(shape) != 2:
        raise ReplayError(f"{files[0]}: holds an array of shape {shape}; wanted rows and columns")
    kind = match["kind"].lower()
    if n_frames > 1:
        if len(files) > 1:
            raise ReplayError(f"{files[0]}: holds {n_frames} images, as do its neighbours; wanted one file of several")
        piece = Piece(mimetype=FABIO_FRAMES, uri=file_uri(files[0]), present=range(n_frames), parameters=_EACH)
    else:
        piece = _series_piece(match, numbers, files, FABIO_SERIES)
    look = _series(kind, numbers, files, piece, (int(shape[0]), int(shape[1])), dtype)
    values = {
        key: found
        for key, place in profile.motors.items()
        if (found := _header_values(place, numbers, files, n_frames)) is not None
    }
    lacking = tuple(key for key in profile.motors if key not in values)
    # Gaps and dead pixels of Pilatus detectors, whose files miniCBF is.
    marks = _PILATUS_MARKS if kind == "cbf" and dtype.kind == "i" else ()
    return replace(look, values=values, lacking=lacking, sentinels=marks)


def _header_values(place: str, numbers: Sequence[int], files: Sequence[Path], n_frames: int) -> Values | None:
    """Return what the headers of a series, or of the frames of one file, say under a key; None if nothing."""
    scheme, _, key = place.partition(":")
    if scheme != "header" or not key:
        return None
    values = np.full(n_frames if n_frames > 1 else numbers[-1] - numbers[0] + 1, np.nan)
    for number, file in zip(numbers, files, strict=True):
        for i in range(n_frames):
            at = i if n_frames > 1 else number - numbers[0]
            values[at] = _header_value(file, file.stat().st_mtime_ns, i, key)
    if not np.isfinite(values).any():
        return None
    return Values(values=values, source=f"{files[0].name}: header {key}")


@lru_cache(maxsize=10_000)  # a series that grows is looked at again and again
def _header_value(file: Path, _written: int, index: int, key: str) -> float:
    try:
        with open_fabio(file) as image:
            header = dict(image.header if index == 0 else image.get_frame(index).header)
    except FrameError:
        # The frame itself will be named.
        return float("nan")
    lines = str(header.get("_array_data.header_contents", "")).splitlines()
    mini = {m["key"]: m["value"] for line in lines if (m := _CBF_VALUE.match(line)) is not None}
    try:
        return float(str(header.get(key, mini.get(key))))
    except ValueError:
        return float("nan")

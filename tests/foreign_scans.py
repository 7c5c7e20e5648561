"""The small run of `hostile` as files of other programs and detectors, whole or written frame by frame."""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import hostile
import numpy as np
import tifffile

N_FRAMES, SHAPE, STEP = hostile.N_FRAMES, hostile.SHAPE, hostile.STEP
IMAGE = "image"
SETTLED = 10.0  # seconds after which a file counts as finished
PLANNED: dict[str, Any] = {"axes": {"omega": {"start": 0, "step": STEP, "count": N_FRAMES, "marks": "start"}}}


def images(detector: int = 0, n_frames: int = N_FRAMES) -> list[np.ndarray]:
    return [hostile.image(i, detector) for i in range(n_frames)]


def settings(out: Path, *, planned: bool = True, roles: dict[str, str] | None = None, **watch: Any) -> dict[str, Any]:
    """Settings of one detector; omega comes from them if it is planned, else from the files."""
    said: dict[str, Any] = {
        "roles": roles or {},
        "detectors": [{"name": "det", "image": IMAGE}],
        "recipe": hostile.RECIPE,
        "archive": {"folder": str(out)},
        "worker": {"file_seconds": 0.05},
        # What is not HDF5 no archive can link to.
        "hedm": {"frames": "copy"},
        "watch": {"finished": {"stable_seconds": SETTLED}, "poll_seconds": 1.0, **watch},
    }
    if planned:
        said["trajectory"] = PLANNED
    elif said["roles"]:
        said["omega_marks"] = "start"
    return said


def expected_digest(**changes: Any) -> str:
    return hostile.expected_digest(roles={}, **changes)


GE_PROFILE: dict[str, Any] = {"profile": {"shape": list(SHAPE), "header_bytes": 64}}


# Each writer makes the file and gives its frames one by one: what has been asked for is on the disk.


def write_ge(path: Path, frames: Sequence[np.ndarray]) -> Iterator[int]:
    with path.open("wb") as file:
        file.write(b"\1" * 64)
        for i, frame in enumerate(frames):
            content = frame.astype("<u2").tobytes()
            # A reader may come between the two halves of a frame.
            file.write(content[:10])
            file.flush()
            yield i
            file.write(content[10:])
            file.flush()
            yield i


def write_tiff(path: Path, frames: Sequence[np.ndarray]) -> Iterator[int]:
    """Path is that of the first file; a file is there, half written, before it is whole."""
    prefix, digits = path.stem.rstrip("0123456789"), path.stem[len(path.stem.rstrip("0123456789")) :]
    for i, frame in enumerate(frames):
        each = path.with_name(f"{prefix}{int(digits) + i:0{len(digits)}d}{path.suffix}")
        tifffile.imwrite(each, frame)
        whole = each.read_bytes()
        each.write_bytes(whole[: len(whole) // 2])
        yield i
        each.write_bytes(whole)
        yield i


def write_swmr(path: Path, frames: Sequence[np.ndarray]) -> Iterator[int]:
    """A file that can be read while it is written, with the angle of each frame, which comes a little later."""
    with h5py.File(path, "w", libver="latest") as file:
        grow: dict[str, Any] = {"maxshape": (None, *SHAPE), "chunks": (1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")}
        data = file.create_dataset("exchange/data", (0, *SHAPE), "u2", **grow)
        theta = file.create_dataset("exchange/theta", (0,), "f8", maxshape=(None,), chunks=(16,))
        theta.attrs["units"] = "degree"
        file["measurement/step"] = STEP
        file.swmr_mode = True
        for i, frame in enumerate(frames):
            data.resize(i + 1, axis=0)
            data.flush()
            yield i
            data[i] = frame
            data.flush()
            yield i
            theta.resize(i + 1, axis=0)
            theta[i] = STEP * i
            theta.flush()
            yield i


def write_hdf5(path: Path, frames: Sequence[np.ndarray]) -> Iterator[int]:
    """A file of the older kind, which nobody can read before it is closed."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("exchange/data", (0, *SHAPE), "u2", maxshape=(None, *SHAPE), chunks=(1, *SHAPE))
        file["measurement/step"] = STEP
        for i, frame in enumerate(frames):
            data.resize(i + 1, axis=0)
            data[i] = frame
            file.flush()
            yield i
        file["exchange/theta"] = STEP * np.arange(len(frames))
        file["exchange/theta"].attrs["units"] = "degree"


HDF5_WATCH: dict[str, Any] = {"profile": {"motors": {"theta": "exchange/theta", "step": "measurement/step"}}}
HDF5_ROLES = {"omega": "theta", "omega_step": "step"}

Writer = Callable[[Path, Sequence[np.ndarray]], Iterator[int]]
GROWING: dict[str, tuple[str, Writer, dict[str, Any]]] = {
    "ge": ("scan.ge3", write_ge, GE_PROFILE),
    "tiff": ("scan_000005.tif", write_tiff, {}),
    "swmr": ("scan.h5", write_swmr, {**HDF5_WATCH, "planned": False, "roles": HDF5_ROLES}),
    "hdf5": ("scan.h5", write_hdf5, {**HDF5_WATCH, "planned": False, "roles": HDF5_ROLES}),
}
"""Kinds of files that grow: name, writer, and what settings they need."""


def whole(writer: Writer, path: Path, frames: Sequence[np.ndarray] | None = None) -> Path:
    for _ in writer(path, images() if frames is None else frames):
        pass
    return path


# Files that come whole


def _lit(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, col = np.nonzero(image)
    return row.astype(np.uint16), col.astype(np.uint16), image[row, col]


def write_npz(path: Path) -> Path:
    frames = {f"{i}_{n}": each for i, im in enumerate(images()) for n, each in zip(("row", "col", "data"), _lit(im))}  # noqa: B905
    omega = STEP * np.stack([np.arange(N_FRAMES), np.arange(N_FRAMES) + 1], axis=1)
    np.savez(path, shape=SHAPE, nframes=N_FRAMES, dtype="uint16", omega=omega, **frames)  # type: ignore[arg-type]
    return path


def write_fch5(path: Path) -> Path:
    lists = [_lit(image) for image in images()]
    ends = np.cumsum([len(row) for row, _, _ in lists])
    with h5py.File(path, "w") as file:
        file.attrs["HEXRD_FRAMECACHE_VERSION"] = 1
        file["shape"], file["nframes"], file["dtype"] = SHAPE, N_FRAMES, "uint16"
        file["data"] = np.concatenate([value for _, _, value in lists])[:, np.newaxis]
        file["indices"] = np.concatenate([np.stack([row, col], axis=1) for row, col, _ in lists])
        file["frame_ids"] = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).reshape(-1).astype(np.uint64)
        file["metadata/omega"] = STEP * np.stack([np.arange(N_FRAMES), np.arange(N_FRAMES) + 1], axis=1)
    return path


def write_imaged11(path: Path) -> Path:
    lists = [_lit(image) for image in images()]
    with h5py.File(path, "w") as file:
        group = file.create_group("1.1")
        group.attrs.update({"itype": "uint16", "nframes": N_FRAMES, "shape0": SHAPE[0], "shape1": SHAPE[1]})
        for at, name in enumerate(("row", "col", "intensity")):
            group[name] = np.concatenate([each[at] for each in lists])
        group["nnz"] = [len(row) for row, _, _ in lists]
        group["measurement/rot_center"] = STEP * (np.arange(N_FRAMES) + 0.5)
        group["instrument/positioners/dty"] = 0.25
    return path


def write_hexomap(first: Path, detector: int = 0) -> Path:
    """HEXOMAP's reduced peaks; columns count from the last one. Each pixel stands there twice, with half its counts."""
    prefix = first.stem.rstrip("0123456789")
    for i, image in enumerate(images(detector)):
        row, col, value = (np.concatenate([each, each]) for each in _lit(image))
        x = (SHAPE[1] - 1 - col.astype(np.int64)).astype("<u2")
        lists = {
            "PixelCoord0": x,
            "PixelCoord1": row.astype("<u2"),
            "Intensity": (value / 2).astype("<f4"),
            "PeakID": np.zeros(len(row), "<u2"),
        }
        blocks = [_block(name, 0, each.tobytes()) for name, each in lists.items()]
        offsets = np.cumsum([4 + 20 + len("PeakFile") + 1 + 20, *map(len, blocks[:-1])])
        about = np.array([*offsets, 1], "<u4").tobytes()
        head = _block("PeakFile", 4, about, size=sum(map(len, blocks)) + len(about) + 9)
        first.with_name(f"{prefix}{i:06d}{first.suffix}").write_bytes(struct.pack("<f", 1.0) + head + b"".join(blocks))
    return first


def _block(name: str, children: int, payload: bytes, size: int | None = None) -> bytes:
    said = name.encode() + b"\0"
    size = len(said) + len(payload) if size is None else size
    return struct.pack("<I4HI2H", 0xFEEDBEEF, 1, 1, children, len(said), size, 0, 0) + said + payload


def write_eiger(path: Path, per_file: int = 3) -> Path:
    """A master and its data files; the counts that mark a gap stand in two pixels that are dark otherwise."""
    frames = [image.astype(np.uint32) for image in images()]
    for image in frames:
        image[3, 0], image[3, 6] = (2**32 - 1,) * 2
    with h5py.File(path, "w", libver="latest") as master:
        group = master.create_group("entry/data")
        for number, first in enumerate(range(0, N_FRAMES, per_file), 1):
            part = path.with_name(f"{path.stem.removesuffix('_master')}_data_{number:06d}.h5")
            with h5py.File(part, "w", libver="latest") as file:
                stack = np.stack(frames[first : first + per_file])
                file.create_dataset("entry/data/data", data=stack, chunks=(1, *SHAPE))
            group[f"data_{number:06d}"] = h5py.ExternalLink(part.name, "/entry/data/data")
        detail = master.create_group("entry/instrument/detector/detectorSpecific")
        detail["nimages"], detail["ntrigger"] = N_FRAMES, 1
        omega = master.create_group("entry/sample/goniometer")
        omega["omega"] = STEP * np.arange(N_FRAMES)
        omega["omega_end"] = STEP * np.arange(1, N_FRAMES + 1)
    return path


def write_fabio(first: Path) -> Path:
    """A series of CBF or EDF files, one compressed if the name says so, with the angle in each EDF header."""
    import bz2

    import fabio.cbfimage
    import fabio.edfimage

    name = first.name.removesuffix(".bz2")
    stem, suffix = name.rsplit(".", 1)
    prefix, width = stem.rstrip("0123456789"), len(stem) - len(stem.rstrip("0123456789"))
    for i, image in enumerate(images()):
        path = first.with_name(f"{prefix}{i + 1:0{width}d}.{suffix}")
        if suffix == "cbf":
            marked = image.astype(np.int32)
            marked[3, 0], marked[3, 6] = -1, -2
            fabio.cbfimage.CbfImage(data=marked).write(str(path))
        else:
            header = {"Omega": f"{STEP * i}"}
            fabio.edfimage.EdfImage(data=image, header=header).write(str(path))
        if first.suffix == ".bz2":
            path.with_name(f"{path.name}.bz2").write_bytes(bz2.compress(path.read_bytes()))
            path.unlink()
    return first

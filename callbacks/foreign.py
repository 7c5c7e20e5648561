"""Foreign files as documents."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from event_model import compose_run

from ..streaming import ReplayError
from .readers import FRAME_CACHE, file_uri, text

IMAGE = "image"


def frame_cache_documents(path: Path) -> tuple[int, Iterator[tuple[str, Mapping[str, Any]]]]:
    """Return the number of frames of a HEXRD frame-cache, and the documents of a run that would have recorded it.

    The format is that of hexrd's ``imageseries.load.framecache``: ``shape``, ``nframes``, ``dtype``, ``omega`` with
    start and end of each frame in degrees, and ``<i>_row``, ``<i>_col``, ``<i>_data``. The uid follows from the file's
    content, so that the same file is always the same run; events are dated by the file.

    Raises
    ------
    ReplayError
        The file is not a frame-cache, or its omega does not fit its frames.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            shape = [int(n) for n in file["shape"]]
            n_frames = int(file["nframes"])
            dtype = np.dtype(text(file["dtype"]))
            omega = np.asarray(file["omega"], np.float64) if "omega" in names else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise ReplayError(f"{path}: not a HEXRD frame-cache ({why}); wanted shape, nframes, dtype and frames") from None
    if omega is not None and omega.shape != (n_frames, 2):
        raise ReplayError(f"{path}: omega has shape {omega.shape}; wanted ({n_frames}, 2), start and end of each frame")
    lacking = [i for i in range(n_frames) if f"{i}_data" not in names]
    if lacking:
        raise ReplayError(f"{path}: frames {lacking[:5]} are missing; wanted 0 to {n_frames - 1}")
    return n_frames, _documents(path, n_frames, shape, dtype, omega)


def frame_cache_settings(path: Path) -> dict[str, Any]:
    """Return the settings, but for recipe and archive, that go with `frame_cache_documents`."""
    with np.load(path, allow_pickle=False) as file:
        name = text(file["panel_id"]) if "panel_id" in file.files else "detector"
        roles = {"omega_start": "omega_start", "omega_end": "omega_end"} if "omega" in file.files else {}
    return {"roles": roles, "detectors": [{"name": name, "image": IMAGE}]}


def _documents(
    path: Path, n_frames: int, shape: list[int], dtype: np.dtype, omega: np.ndarray | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as file:
        uid = str(uuid5(NAMESPACE_URL, hashlib.file_digest(file, "sha256").hexdigest()))
    when = path.stat().st_mtime
    metadata = {"plan_name": "frame_cache", "scan_id": 0, "title": path.name, "detectors": [IMAGE]}
    run = compose_run(uid=uid, time=when, metadata=metadata)
    yield "start", run.start_doc
    keys = {"omega_start": "start of the frame", "omega_end": "end of the frame"} if omega is not None else {}
    source = f"{path.name}: omega"
    data_keys: dict[str, Any] = {
        key: {"source": source, "dtype": "number", "shape": [], "units": "degree"} for key in keys
    }
    data_keys[IMAGE] = {
        "source": path.name,
        "dtype": "array",
        "shape": [1, *shape],
        "dtype_numpy": dtype.str,
        "external": "STREAM:",
    }
    descriptor = run.compose_descriptor(name="primary", data_keys=data_keys, time=when)
    yield "descriptor", descriptor.descriptor_doc
    compose_resource: Any = run.compose_stream_resource
    resource = compose_resource(
        mimetype=FRAME_CACHE,
        uri=file_uri(path),
        data_key=IMAGE,
        parameters={"chunk_shape": [1]},
    )
    yield "stream_resource", resource.stream_resource_doc
    for i in range(n_frames):
        datum = resource.compose_stream_datum(
            indices={"start": i, "stop": i + 1},
            seq_nums={"start": i + 1, "stop": i + 2},
            descriptor=descriptor.descriptor_doc,
        )
        yield "stream_datum", datum
        motors = {} if omega is None else {"omega_start": float(omega[i, 0]), "omega_end": float(omega[i, 1])}
        yield (
            "event",
            descriptor.compose_event(data=motors, timestamps=dict.fromkeys(motors, when), time=when, seq_num=i + 1),
        )
    yield "stop", run.compose_stop(time=when)

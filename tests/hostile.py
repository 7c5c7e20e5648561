"""Documents of a small good run, and the corpus of hostile ones: what is done to the good, and what must be said of it.

Every case must give exactly one problem, and the rest of the run must be reduced as if the frames it costs had never
been. Unit and system tests share it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hedmlive.streaming import Frame, Recipe, Reducer, digest, tables_with_roles

N_FRAMES = 8
SHAPE = (6, 7)
STEP = 0.5
UID = "11111111-2222-3333-4444-555555555555"
RECIPE: dict[str, Any] = {"threshold": 10.0}
WAYS = ("array", "datum", "stream")

Documents = list[tuple[str, dict[str, Any]]]


def image(i: int, detector: int = 0) -> np.ndarray:
    """A spot that moves a pixel a frame, one that comes and goes, and a last one that stays."""
    made = np.full(SHAPE, 3, np.uint16)
    made[0:2, i % 6 : i % 6 + 2] = 100 + 7 * i + detector
    made[5, 1] = 500 if i % 3 else 0
    made[4:6, 5] = 40 + detector
    return made


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    detectors = changes.pop("n_detectors", 1)
    return {
        "roles": {"omega": "omega", "omega_step": "omega_step", "L1": "L1", "energy": "energy"},
        "omega_marks": "start",
        "detectors": [{"name": f"det{d}", "image": f"det{d}_image"} for d in range(detectors)],
        "recipe": RECIPE,
        "archive": {"folder": str(folder), **changes.pop("archive", {})},
        "worker": {"file_seconds": 0.05, **changes.pop("worker", {})},
        **changes,
    }


def write_frames(path: Path, frames: Iterable[np.ndarray]) -> Path:
    with h5py.File(path, "w", libver="latest") as file:
        file["entry/data/data"] = np.stack(list(frames))
    return path


def run(
    way: str = "array", folder: Path | None = None, *, n_frames: int = N_FRAMES, n_detectors: int = 1, uid: str = UID
) -> Documents:
    """The documents of a good run; ways other than "array" write their files to the folder."""
    detectors = range(n_detectors)
    keys = [f"det{d}_image" for d in detectors]
    external = {"array": {}, "datum": {"external": "FILESTORE:"}, "stream": {"external": "STREAM:"}}[way]
    shape = list(SHAPE) if way == "array" else [1, *SHAPE]
    described = {"source": "SIM", "dtype": "array", "shape": shape, "dtype_numpy": "<u2", **external}
    number = {"source": "ca://X:m1", "dtype": "number", "shape": [], "units": "degree"}
    docs: Documents = [("start", {"uid": uid, "time": 1.0, "scan_id": 7, "plan_name": "test"})]
    docs += _baseline(uid)
    configuration = {"rot": {"data": {"omega_step": STEP}, "timestamps": {"omega_step": 0.0}, "data_keys": {}}}
    docs.append(
        (
            "descriptor",
            {
                "uid": f"{uid}-primary",
                "run_start": uid,
                "name": "primary",
                "time": 1.0,
                "data_keys": {"omega": number, **dict.fromkeys(keys, described)},
                "configuration": configuration,
            },
        )
    )
    for d, key in enumerate(keys):
        docs += _resource(way, folder, uid, key, [image(i, d) for i in range(n_frames)])
    for i in range(n_frames):
        data: dict[str, Any] = {"omega": STEP * i}
        for d, key in enumerate(keys):
            if way == "array":
                data[key] = image(i, d)
            elif way == "datum":
                data[key] = f"{uid}-{key}/{i}"
                kwargs = {"point_number": i}
                docs.append(("datum", {"datum_id": data[key], "resource": f"{uid}-{key}", "datum_kwargs": kwargs}))
            else:
                docs.append(("stream_datum", stream_datum(uid, key, i, i + 1)))
        docs.append(("event", event(uid, i, data)))
    stop = {"uid": f"{uid}-stop", "run_start": uid, "time": 9.0, "exit_status": "success"}
    docs.append(("stop", stop | {"num_events": {"primary": n_frames, "baseline": 1}}))
    return docs


def event(uid: str, i: int, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "uid": f"{uid}-event-{i}",
        "descriptor": f"{uid}-primary",
        "seq_num": i + 1,
        "time": 2.0 + i,
        "data": data,
        "timestamps": dict.fromkeys(data, 2.0 + i),
        "filled": {key: False for key, value in data.items() if isinstance(value, str)},
    }


def stream_datum(uid: str, key: str, start: int, stop: int) -> dict[str, Any]:
    return {
        "uid": f"{uid}-{key}/{start}",
        "stream_resource": f"{uid}-{key}",
        "descriptor": f"{uid}-primary",
        "indices": {"start": start, "stop": stop},
        "seq_nums": {"start": start + 1, "stop": stop + 1},
    }


def _baseline(uid: str) -> Documents:
    keys = {key: {"source": f"ca://X:{key}", "dtype": "number", "shape": [], "units": "mm"} for key in ("L1", "energy")}
    descriptor = {"uid": f"{uid}-baseline", "run_start": uid, "name": "baseline", "time": 1.0, "data_keys": keys}
    data = {"L1": 600.0, "energy": 65.3}
    values = {"uid": f"{uid}-b1", "descriptor": f"{uid}-baseline", "seq_num": 1, "time": 1.0, "filled": {}}
    return [
        ("descriptor", descriptor | {"configuration": {}}),
        ("event", values | {"data": data, "timestamps": dict.fromkeys(data, 1.0)}),
    ]


def _resource(way: str, folder: Path | None, uid: str, key: str, frames: list[np.ndarray]) -> Documents:
    if way == "array" or folder is None:
        return []
    path = write_frames(folder / f"{key}.h5", frames)
    if way == "datum":
        resource = {"uid": f"{uid}-{key}", "spec": "AD_HDF5", "root": str(folder), "resource_path": path.name}
        return [("resource", resource | {"resource_kwargs": {"frame_per_point": 1}, "path_semantics": "posix"})]
    parameters = {"dataset": "/entry/data/data", "chunk_shape": [1]}
    resource = {"uid": f"{uid}-{key}", "run_start": uid, "data_key": key, "mimetype": "application/x-hdf5"}
    return [("stream_resource", resource | {"uri": f"file://localhost{path}", "parameters": parameters})]


def expected_digest(
    absent: Iterable[int] = (),
    *,
    n_frames: int = N_FRAMES,
    detector: int = 0,
    without_omega: Iterable[int] = (),
    roles: Mapping[str, float] | None = None,
) -> str:
    """The digest of the frames that are left, by the reducer alone: no document, no archive, no thread."""
    reducer, tables = Reducer(Recipe(**RECIPE)), tables_with_roles({})
    batches = []
    for i in sorted(set(range(n_frames)) - set(absent)):
        omega = math.nan if i in set(without_omega) else STEP * i
        batches.append(
            reducer.push(
                Frame(
                    frame=i,
                    point=i,
                    image=image(i, detector),
                    detector=detector,
                    omega_start=omega,
                    omega_end=omega + STEP,
                    roles={"L1": 600.0, "energy": 65.3} if roles is None else roles,
                )
            )
        )
    batches.append(reducer.flush())
    return digest(tables, lambda name: [batch[name] for batch in batches if name in batch])


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that goes wrong."""

    name: str
    way: str = "array"
    change: Callable[[Documents, Path], Documents]
    frame: int | None
    "Frame that the problem names."
    says: str
    "Part of its message."
    absent: tuple[int, ...] = ()
    "Frames that it costs."
    without_omega: tuple[int, ...] = ()
    roles: Mapping[str, float] | None = None
    stops: bool = True
    "Whether the run has a stop document."
    also_live: bool = True
    "Whether it means anything to the router of live documents."


def _put(i: int, value: Any) -> Callable[[Documents, Path], Documents]:
    """Replace the image of frame i."""

    def change(docs: Documents, folder: Path) -> Documents:
        return [
            (name, {**doc, "data": {**doc["data"], "det0_image": value}} if _is_event(name, doc, i) else doc)
            for name, doc in docs
        ]

    return change


def _drop(test: Callable[[str, dict[str, Any]], bool]) -> Callable[[Documents, Path], Documents]:
    return lambda docs, folder: [(name, doc) for name, doc in docs if not test(name, doc)]


def _edit(test: Callable[[str, dict[str, Any]], bool], **changes: Any) -> Callable[[Documents, Path], Documents]:
    return lambda docs, folder: [(name, {**doc, **changes} if test(name, doc) else doc) for name, doc in docs]


def _insert(at: int, *more: tuple[str, dict[str, Any]]) -> Callable[[Documents, Path], Documents]:
    return lambda docs, folder: [*docs[:at], *more, *docs[at:]]


def _is_event(name: str, doc: dict[str, Any], i: int) -> bool:
    return name == "event" and doc["descriptor"].endswith("primary") and doc["seq_num"] == i + 1


def _without(i: int, key: str) -> Callable[[Documents, Path], Documents]:
    def change(docs: Documents, folder: Path) -> Documents:
        return [
            (
                name,
                {**doc, "data": {k: v for k, v in doc["data"].items() if k != key}} if _is_event(name, doc, i) else doc,
            )
            for name, doc in docs
        ]

    return change


def _twice(docs: Documents, folder: Path) -> Documents:
    at = next(at for at, (name, doc) in enumerate(docs) if _is_event(name, doc, 3))
    again = {**docs[at][1], "data": {**docs[at][1]["data"], "det0_image": image(6)}}
    return [*docs[: at + 1], ("event", again), *docs[at + 1 :]]


def _short_file(docs: Documents, folder: Path) -> Documents:
    write_frames(folder / "det0_image.h5", [image(i) for i in range(N_FRAMES - 1)])
    return docs


def _wrong_file(docs: Documents, folder: Path) -> Documents:
    (folder / "det0_image.h5").write_bytes(b"this is no HDF5 file" * 100)
    return docs


def _no_dataset(docs: Documents, folder: Path) -> Documents:
    with h5py.File(folder / "det0_image.h5", "w") as file:
        file["entry/other"] = np.zeros(3)
    return docs


def _is(wanted: str) -> Callable[[str, dict[str, Any]], bool]:
    return lambda name, doc: name == wanted


def _objects() -> np.ndarray:
    made = np.empty(SHAPE, object)
    made[:] = None
    return made


_ALL = tuple(range(N_FRAMES))
_LATER_DATUM = {"datum_id": "nowhere/0", "resource": "nowhere", "datum_kwargs": {"point_number": 0}}

CASES = (
    Case(
        name="image missing", change=_without(3, "det0_image"), frame=3, says="its event came without it", absent=(3,)
    ),
    Case(name="first image missing", change=_without(0, "det0_image"), frame=0, says="came without it", absent=(0,)),
    Case(name="event missing", change=_drop(lambda n, d: _is_event(n, d, 4)), frame=4, says="missing", absent=(4,)),
    Case(
        name="three events missing",
        change=_drop(lambda n, d: any(_is_event(n, d, i) for i in (2, 3, 4))),
        frame=2,
        says="frames 2 to 4",
        absent=(2, 3, 4),
    ),
    Case(
        name="last event missing",
        change=_drop(lambda n, d: _is_event(n, d, 7)),
        frame=7,
        says="stop says 8",
        absent=(7,),
    ),
    Case(name="wrong shape", change=_put(2, image(2)[:3]), frame=2, says="shape (3, 7)", absent=(2,)),
    Case(name="wrong shape first", change=_put(0, image(0).T), frame=0, says="shape (7, 6)", absent=(0,)),
    Case(name="all NaN", change=_put(3, np.full(SHAPE, np.nan)), frame=3, says="NaN", absent=(3,)),
    Case(name="all NaN first", change=_put(0, np.full(SHAPE, np.nan)), frame=0, says="NaN", absent=(0,)),
    Case(name="NaN scalar", change=_put(3, math.nan), frame=3, says="shape ()", absent=(3,)),
    Case(name="None", change=_put(3, None), frame=3, says="shape ()", absent=(3,)),
    Case(name="text", change=_put(3, "no image"), frame=3, says="shape ()", absent=(3,)),
    Case(name="ragged list", change=_put(3, [[1, 2, 3], [4, 5]]), frame=3, says="ragged", absent=(3,)),
    Case(name="objects", change=_put(3, _objects()), frame=3, says="left out", absent=(3,)),
    Case(name="objects first", change=_put(0, _objects()), frame=0, says="left out", absent=(0,)),
    Case(name="mapping", change=_put(3, {"not": "an image"}), frame=3, says="left out", absent=(3,)),
    Case(
        name="too large counts", change=_put(5, image(5).astype(np.int64) + 70_000), frame=5, says="fits", absent=(5,)
    ),
    Case(name="negative counts", change=_put(5, image(5).astype(np.int64) - 70), frame=5, says="fits", absent=(5,)),
    Case(name="fractions", change=_put(5, image(5) + 0.25), frame=5, says="fits", absent=(5,)),
    Case(name="huge integers", change=_put(5, [[10**40] * 7] * 6), frame=5, says="left out", absent=(5,)),
    Case(name="no motor", change=_without(3, "omega"), frame=3, says="'omega'", without_omega=(3,)),
    Case(
        name="infinite motor",
        change=lambda docs, folder: [
            (n, {**d, "data": {**d["data"], "omega": math.inf}} if _is_event(n, d, 3) else d) for n, d in docs
        ],
        frame=3,
        says="'omega'",
        without_omega=(3,),
    ),
    Case(
        name="motor is text",
        change=lambda docs, folder: [
            (n, {**d, "data": {**d["data"], "omega": "moving"}} if _is_event(n, d, 3) else d) for n, d in docs
        ],
        frame=3,
        says="'omega'",
        without_omega=(3,),
    ),
    Case(
        name="role never came",
        change=_drop(lambda n, d: n == "event" and d["descriptor"].endswith("baseline") and d["data"].pop("L1", 0) < 0),
        frame=None,
        says="'L1' never came",
        roles={"energy": 65.3},
    ),
    Case(name="event twice", change=_twice, frame=3, says="twice"),
    Case(name="stop says more", change=_edit(_is("stop"), num_events={"primary": 11}), frame=8, says="11 events"),
    Case(name="stop says less", change=_edit(_is("stop"), num_events={"primary": 5}), frame=None, says="5 events"),
    Case(name="no stop", change=_drop(_is("stop")), frame=None, says="stop document never came", stops=False),
    Case(
        name="seq_num 0", change=_insert(-1, ("event", event(UID, -1, {"omega": 1.0}))), frame=None, says="seq_num is 0"
    ),
    Case(
        name="huge seq_num",
        change=_insert(-1, ("event", event(UID, 10**14, {"omega": 1.0}))),
        frame=None,
        says="seq_num is 100000000000001",
    ),
    Case(
        name="event that is nothing",
        change=_insert(-1, ("event", {"descriptor": f"{UID}-primary"})),
        frame=None,
        says="'data'",
    ),
    Case(
        name="descriptor that is nothing",
        change=_insert(-1, ("descriptor", {"run_start": UID, "uid": "d9"})),
        frame=None,
        says="name",
    ),
    Case(
        name="unknown descriptor",
        change=_insert(-2, ("event", {**event(UID, 3, {"omega": 1.0}), "descriptor": "nobody"})),
        frame=None,
        says="nobody",
    ),
    Case(
        name="second start",
        change=_insert(5, ("start", {"uid": UID, "time": 2.0})),
        frame=None,
        says="second start",
    ),
    Case(
        name="object in metadata",
        change=_edit(_is("stop"), reason=object()),
        frame=None,
        says="type object",
    ),
    Case(
        name="stream datum missing",
        way="stream",
        change=_drop(lambda n, d: n == "stream_datum" and d["indices"]["start"] == 2),
        frame=2,
        says="missing",
        absent=(2,),
    ),
    Case(
        name="datum missing",
        way="datum",
        change=_drop(lambda n, d: n == "datum" and d["datum_kwargs"]["point_number"] == 2),
        frame=2,
        says="never came",
        absent=(2,),
    ),
    Case(
        name="datum without resource",
        way="datum",
        change=lambda docs, folder: [
            (n, {**d, "resource": "nowhere"} if n == "datum" and d["datum_kwargs"]["point_number"] == 2 else d)
            for n, d in docs
        ],
        frame=2,
        says="unknown resource nowhere",
        absent=(2,),
    ),
    Case(
        name="stream datum without resource",
        way="stream",
        change=lambda docs, folder: [
            (n, {**d, "stream_resource": "nowhere"} if n == "stream_datum" and d["indices"]["start"] == 2 else d)
            for n, d in docs
        ],
        frame=2,
        says="unknown resource nowhere",
        absent=(2,),
    ),
    Case(
        name="foreign mimetype",
        way="stream",
        change=_edit(_is("stream_resource"), mimetype="video/mp4"),
        frame=0,
        says="video/mp4",
        absent=_ALL,
    ),
    Case(
        name="http uri",
        way="stream",
        change=_edit(_is("stream_resource"), uri="http://127.0.0.1/frames.h5"),
        frame=0,
        says="http://127.0.0.1/frames.h5",
        absent=_ALL,
    ),
    Case(
        name="missing file",
        way="stream",
        change=_edit(_is("stream_resource"), uri="file://localhost/nowhere/frames.h5"),
        frame=0,
        says="/nowhere/frames.h5",
        absent=_ALL,
    ),
    Case(
        name="foreign spec",
        way="datum",
        change=_edit(_is("resource"), spec="MOVIE"),
        frame=0,
        says="octet-stream",
        absent=_ALL,
    ),
    Case(name="short file", way="stream", change=_short_file, frame=7, says="holds 7", absent=(7,)),
    Case(name="no HDF5", way="stream", change=_wrong_file, frame=0, says="not in its file", absent=_ALL),
    Case(name="no dataset", way="stream", change=_no_dataset, frame=0, says="no dataset", absent=_ALL),
    Case(
        name="huge range",
        way="stream",
        change=_insert(-1, ("stream_datum", stream_datum(UID, "det0_image", 8, 10**13))),
        frame=None,
        says="number of frames",
    ),
)
"""Every case, but for those that belong to no run."""

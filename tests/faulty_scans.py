"""Documents of scans whose metadata are right: nothing may be said of any of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

Documents = list[tuple[str, dict[str, Any]]]

UID = "22222222-3333-4444-5555-666666666666"
SHAPE = (32, 40)
DARK, SCATTER = 100, 20
T0 = 1.0e9


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """A scan: what is read at each point, and what its start document says."""

    omega: np.ndarray
    "Readback, degrees, shape (points,)."
    start: Mapping[str, Any] = field(default_factory=dict)
    "More of the start document."
    read: Mapping[str, np.ndarray] = field(default_factory=dict)
    "Further roles that are read at each point."
    stamps: Mapping[str, np.ndarray] = field(default_factory=dict)
    "Time stamps, where they are not the event's time."
    times: np.ndarray | None = None
    "Times of the events, seconds; one a second by default."
    baseline: Mapping[str, float] = field(default_factory=dict)
    "What is read once, before."
    darks: tuple[np.ndarray, ...] = ()
    "Frames of the dark stream."
    image: Callable[[int], np.ndarray] = field(default_factory=lambda: image)
    "Gives the frame of a point."
    configuration: Mapping[str, Any] = field(default_factory=dict)
    "Configuration of the detector."
    settings: Mapping[str, Any] = field(default_factory=dict)
    "More of the settings."
    guards: Mapping[str, Any] = field(default_factory=dict)
    "The settings' block `guards`."
    stop: Mapping[str, Any] = field(default_factory=dict)
    "More of the stop document."

    def __len__(self) -> int:
        return len(self.omega)


def image(i: int, *, n_spots: int = 4) -> np.ndarray:
    """Pedestal, scattered background, and spots that move on with each frame."""
    rng = np.random.default_rng(i)
    made = rng.normal(DARK + SCATTER, 3.0, SHAPE)
    for spot in range(n_spots):
        row, col = 4 + 7 * (spot % 4), 3 + (i // 2 + 9 * (spot // 4)) % (SHAPE[1] - 6)
        made[row - 1 : row + 2, col - 1 : col + 2] += 400 + 100 * rng.random((3, 3))
    return np.rint(made).astype(np.uint16)


def dark(i: int) -> np.ndarray:
    """A good dark frame."""
    return np.rint(np.random.default_rng(1000 + i).normal(DARK, 2.0, SHAPE)).astype(np.uint16)


def planned(start: float, stop: float, n: int, motor: str = "omega") -> dict[str, Any]:
    """What `bluesky.plans.scan` says of its way."""
    return {
        "plan_name": "scan",
        "motors": [motor],
        "num_points": n,
        "plan_pattern": "linspace",
        "plan_pattern_args": {"start": start, "stop": stop, "num": n},
        "hints": {"dimensions": [[[motor], "primary"]]},
    }


def settings(scan: Scan, folder: Path) -> dict[str, Any]:
    """Settings of a scan."""
    keys = [*scan.read, *scan.baseline]
    more = dict(scan.settings)
    recipe = {"threshold": 60.0, "min_pixels": 3} | more.pop("recipe", {})
    recipe |= {"background": "dark"} if scan.darks else {"background_level": float(DARK + SCATTER)}
    return {
        "roles": {"omega": "omega", **{key: key for key in keys}},
        "detectors": [{"name": "det", "image": "det_image"}],
        "recipe": recipe,
        "archive": {"folder": str(folder)},
        "guards": dict(scan.guards),
        **more,
    }


def documents(scan: Scan, uid: str = UID) -> Documents:
    """The documents of a scan."""
    docs: Documents = [("start", {"uid": uid, "time": T0, "scan_id": 3, **scan.start})]
    number = {"source": "ca://X:m1", "dtype": "number", "shape": []}
    frames = {"source": "SIM", "dtype": "array", "shape": list(SHAPE), "dtype_numpy": "<u2"}
    if scan.baseline:
        docs.append(_descriptor(uid, "baseline", dict.fromkeys(scan.baseline, number)))
        docs.append(_event(uid, "baseline", 0, dict(scan.baseline), T0))
    if scan.darks:
        docs.append(_descriptor(uid, "dark", {"det_image": frames}))
        docs += [_event(uid, "dark", i, {"det_image": each}, T0 + i) for i, each in enumerate(scan.darks)]
    keys = dict.fromkeys(("omega", *scan.read), number)
    name, doc = _descriptor(uid, "primary", {**keys, "det_image": frames})
    told = dict(scan.configuration)
    doc["configuration"] = {"det": {"data": told, "timestamps": dict.fromkeys(told, T0), "data_keys": {}}}
    docs.append((name, doc))
    times = T0 + 100 + np.arange(len(scan)) if scan.times is None else scan.times
    for i, omega in enumerate(scan.omega):
        data = {"omega": float(omega), **{key: float(values[i]) for key, values in scan.read.items()}}
        stamps = {key: float(values[i]) for key, values in scan.stamps.items()}
        docs.append(_event(uid, "primary", i, {**data, "det_image": scan.image(i)}, float(times[i]), stamps))
    stop = {"uid": f"{uid}-stop", "run_start": uid, "time": T0 + 999, "exit_status": "success"}
    docs.append(("stop", stop | {"num_events": {"primary": len(scan)}} | dict(scan.stop)))
    return docs


def _descriptor(uid: str, stream: str, keys: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    doc = {"uid": f"{uid}-{stream}", "run_start": uid, "name": stream, "time": T0, "data_keys": dict(keys)}
    return "descriptor", doc | {"configuration": {}}


def _event(
    uid: str, stream: str, i: int, data: dict[str, Any], time: float, stamps: Mapping[str, float] | None = None
) -> tuple[str, dict[str, Any]]:
    doc = {"uid": f"{uid}-{stream}-{i}", "descriptor": f"{uid}-{stream}", "seq_num": i + 1, "time": time, "data": data}
    return "event", doc | {"timestamps": dict.fromkeys(data, time) | dict(stamps or {}), "filled": {}}


# Right scans

N = 24
STEP = 0.25


def sweep(n: int = N, *, step: float = STEP, start: float = 10.0) -> Scan:
    """A sweep that nobody planned."""
    return Scan(omega=start + step * np.arange(n))


def planned_sweep(n: int = N) -> Scan:
    """A sweep with its plan."""
    scan = sweep(n)
    return replace(scan, start=planned(float(scan.omega[0]), float(scan.omega[-1]), n))


def with_beam(scan: Scan) -> Scan:
    """The same with monitor and energy at each point."""
    wave = 1 + 0.02 * np.sin(np.arange(len(scan)))
    return replace(scan, read={"monitor": 1e5 * wave, "energy": 63.3138 * (1 + 1e-5 * wave)})


def with_darks(scan: Scan) -> Scan:
    """The same with dark frames."""
    return replace(scan, darks=tuple(dark(i) for i in range(3)))


def two_distances(n: int = 10) -> Scan:
    """Omega at two distances, planned as a grid, with the stage that moves the detector."""
    omega = np.tile(STEP * np.arange(n), 2)
    far = np.repeat([7.0, 9.0], n)
    plan = {
        "plan_name": "grid_scan",
        "motors": ["L1", "omega"],
        "shape": [2, n],
        "num_points": 2 * n,
        "extents": [[7.0, 9.0], [0.0, STEP * (n - 1)]],
        "snaking": [False, False],
        "hints": {"dimensions": [[["L1"], "primary"], [["omega"], "primary"]]},
    }
    # What the stage reads is far from the distance: only its differences are.
    return Scan(omega=omega, read={"L1": far, "detector_z": far + 181.0}, start=plan)


CLEAN: dict[str, Scan] = {
    "sweep": sweep(),
    "planned sweep": planned_sweep(),
    "backwards": sweep(step=-STEP),
    "no time stamps": replace(sweep(), stamps={"omega": np.zeros(N)}),
    "beam": with_beam(planned_sweep()),
    "darks": with_darks(sweep()),
    "two distances": two_distances(),
    "a turn and its wrap": replace(sweep(26, step=15.0, start=-180.0), start={"num_points": 24}),
    "readback of one turn": Scan(omega=np.mod(300 + 5.0 * np.arange(N), 360.0)),
    "leading throw-away": replace(
        sweep(), omega=np.r_[9.9, sweep().omega], settings={"trajectory": {"skip_first": 1}}, start={"num_points": N}
    ),
    "a throw-away that nobody told": replace(sweep(), omega=np.r_[10.0, sweep().omega]),
    "at rest": Scan(omega=np.full(N, 3.0)),
    "golden angle": Scan(omega=(3 - math.sqrt(5)) * 180 * np.arange(N)),
    "rows": Scan(omega=np.tile(STEP * np.arange(8), 3), read={"dty": np.repeat([0.0, 0.1, 0.2], 8)}),
    "rows that nobody told": Scan(omega=np.tile(STEP * np.arange(8), 3)),
    "snake that nobody told": Scan(omega=STEP * np.r_[np.arange(9), np.arange(9)[::-1], np.arange(9)]),
    "interlaced": Scan(omega=STEP * np.r_[np.arange(0, 24, 2), np.arange(1, 24, 2)]),
    "interlaced and flipped": Scan(omega=STEP * np.r_[np.arange(0, 24, 2), np.arange(1, 24, 2)[::-1]]),
    "aborted": replace(planned_sweep(), omega=planned_sweep().omega[:9], stop={"exit_status": "abort"}),
    "many spots": replace(sweep(), image=lambda i: image(i, n_spots=16)),
}
"""Scans in which nothing is wrong."""

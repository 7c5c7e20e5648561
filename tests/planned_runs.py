"""Runs along trajectories with a few spots in each image, their settings, and the digest of the reducer alone."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hostile
import numpy as np

from hedmlive.callbacks import load_settings
from hedmlive.streaming import (
    Batches,
    Frame,
    FromPositions,
    Planned,
    Recipe,
    Reducer,
    digest,
    tables_with_roles,
)

SHAPE = (9, 10)
RECIPE: dict[str, Any] = {"threshold": 10.0}
ROLES = {"omega": "rot", "dty": "dty", "L1": "det_z"}


def settings(folder: Path, trajectory: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    detectors = changes.pop("n_detectors", 1)
    return load_settings(
        {
            "roles": ROLES,
            "detectors": [{"name": f"det{d}", "image": f"det{d}_image"} for d in range(detectors)],
            "recipe": RECIPE | changes.pop("recipe", {}),
            "archive": {"folder": str(folder)},
            "worker": {"reorder_points": 3, "role_points": 2},
            "trajectory": trajectory or {},
            **changes,
        }
    )


def image(frame: int, detector: int = 0) -> np.ndarray:
    """A few spots here and there: any two images share some, so that the digest says which were neighbours."""
    noise = np.random.default_rng([frame, detector])
    made = np.full(SHAPE, 3, np.uint16)
    for row, col in zip(noise.integers(0, 8, 8), noise.integers(0, 9, 8), strict=True):
        made[row : row + 2, col] = noise.integers(20, 90)
    return made


def run(
    read: Mapping[str, Iterable[float]],
    /,
    *,
    lost: Iterable[int] = (),
    refused: Iterable[int] = (),
    n_detectors: int = 1,
    configuration: Mapping[str, Any] | None = None,
    **start: Any,
) -> hostile.Documents:
    """A run of events with images inside; those that are lost never come, refused ones have another shape."""
    uid = hostile.UID
    columns = {key: list(values) for key, values in read.items()}
    n = len(next(iter(columns.values()))) if columns else int(start["num_points"])
    keys = [f"det{d}_image" for d in range(n_detectors)]
    numbers = {key: {"source": "SIM", "dtype": "number", "shape": []} for key in columns}
    described = {"source": "SIM", "dtype": "array", "shape": list(SHAPE), "dtype_numpy": "<u2"}
    descriptor = {
        "uid": f"{uid}-primary",
        "run_start": uid,
        "name": "primary",
        "time": 1.0,
        "data_keys": {**numbers, **dict.fromkeys(keys, described)},
        "configuration": {"pso": {"data": configuration or {}, "timestamps": {}, "data_keys": {}}},
    }
    docs: hostile.Documents = [("start", {"uid": uid, "time": 1.0, **start}), ("descriptor", descriptor)]
    for i in sorted(set(range(n)) - set(lost)):
        data: dict[str, Any] = {key: values[i] for key, values in columns.items()}
        data |= {key: image(i, d)[: 4 if i in set(refused) else None] for d, key in enumerate(keys)}
        docs.append(("event", hostile.event(uid, i, data)))
    stop = {"uid": f"{uid}-stop", "run_start": uid, "time": 9.0, "exit_status": "success", "num_events": {"primary": n}}
    return [*docs, ("stop", stop)]


def direct(
    trajectory: Planned | FromPositions | None,
    roles: Mapping[str, Iterable[float]],
    *,
    absent: Iterable[int] = (),
    detector: int = 0,
    half: float = 0.0,
    seed: int = 0,
) -> str:
    """The digest of the reducer alone, its frames in any order, told of no missing one before the end."""
    reducer = Reducer(Recipe(**RECIPE), trajectory=trajectory)
    columns = {role: list(values) for role, values in roles.items()}
    frames = sorted(set(range(len(columns["omega"]))) - set(absent))
    random.Random(seed).shuffle(frames)
    pushed: dict[int, Batches] = {}
    for i in frames:
        others = {role: values[i] for role, values in columns.items() if role != "omega"}
        start, end = columns["omega"][i] - half, columns["omega"][i] + half
        pushed[i] = reducer.push(
            Frame(
                frame=i,
                point=i,
                image=image(i, detector),
                detector=detector,
                omega_start=start,
                omega_end=end,
                roles=others,
            )
        )
    batches = [*(pushed[i] for i in sorted(pushed)), reducer.flush()]
    return digest(tables_with_roles({}), lambda name: [batch[name] for batch in batches if name in batch])

"""The corpus of scans in which one thing is wrong.

Every fault must give exactly its one warning, and change nothing in the tables.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from faulty_scans import (
    DARK,
    SCATTER,
    SHAPE,
    STEP,
    T0,
    N,
    Scan,
    dark,
    image,
    planned_sweep,
    sweep,
    two_distances,
    with_beam,
    with_darks,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fault:
    """One thing that is wrong with a scan."""

    name: str
    kind: str
    "The one warning."
    scan: Scan
    frame: int | None
    "The first frame that shows it."
    last: int | None = None
    "The last one, if several do."
    times: int = 1
    says: str = ""
    "Part of the message."


def _at(values: np.ndarray, i: int, value: float) -> np.ndarray:
    made = values.copy()
    made[i] = value
    return made


def _from(values: np.ndarray, first: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.r_[values[:first], change(values[first:])]


_BEAM = with_beam(planned_sweep())
_OMEGA = planned_sweep().omega
_TIMES = T0 + 100 + np.arange(N)


def _omega(values: np.ndarray) -> Scan:
    return replace(planned_sweep(), omega=values)


def _alone(values: np.ndarray) -> Scan:
    """Without a plan."""
    return replace(sweep(), omega=values)


def _read(role: str, values: np.ndarray, **guards: Any) -> Scan:
    return replace(_BEAM, read={**_BEAM.read, role: values}, guards=guards)


_STUCK = np.where(np.arange(N) < 12, _OMEGA, _OMEGA[11])
_TWICE = np.r_[_OMEGA[:12], _OMEGA[11:-1]]
_LOST = np.r_[_OMEGA[:12], _OMEGA[12:] + STEP]
_JERK = _at(_OMEGA, 12, _OMEGA[10])
_ONCE = _at(_OMEGA, 12, _OMEGA[11])
_DISTANT = two_distances()


def _saturated(i: int) -> np.ndarray:
    return np.minimum(image(i), 450).astype(np.uint16)


FAULTS = (
    Fault(
        name="edge",
        kind="energy-mismatch",
        scan=replace(_BEAM, guards={"energy_edge": "Hf"}),
        frame=0,
        last=N - 1,
        times=N,
        says="energy is 63.3144 keV, and the K edge of Hf says 65.3508, -3.12 %",
    ),
    Fault(
        name="value",
        kind="energy-mismatch",
        scan=replace(sweep(), baseline={"energy": 95.0}, guards={"energy_value": 96.0}),
        frame=0,
        last=N - 1,
        times=N,
        says="energy is 95 keV, and the settings says 96",
    ),
    Fault(
        name="set-point",
        kind="energy-mismatch",
        scan=replace(sweep(), baseline={"energy": 95.0, "energy_setpoint": 96.0}),
        frame=0,
        last=N - 1,
        times=N,
        says="the set-point says 96",
    ),
    Fault(
        name="drift",
        kind="energy-mismatch",
        scan=_read("energy", 63.3138 * (1 + 1e-4 * np.arange(N))),
        frame=11,
        last=N - 1,
        times=N - 11,
        says="+0.11 %",
    ),
    Fault(
        name="distance jumps",
        kind="distance-mismatch",
        scan=_read("L1", np.where(np.arange(N) < 15, 600.0, 601.0)),
        frame=15,
        says="L1 jumps by 1 to 601 within a sweep",
    ),
    Fault(
        name="distance jumps, no plan",
        kind="distance-mismatch",
        scan=replace(sweep(), read={"L1": np.where(np.arange(N) < 15, 600.0, 601.0)}),
        frame=15,
        says="L1 jumps by 1",
    ),
    Fault(
        name="detector sits still",
        kind="distance-mismatch",
        scan=replace(_DISTANT, read={"L1": _DISTANT.read["L1"], "detector_z": np.full(20, 188.0)}),
        frame=10,
        last=19,
        times=10,
        says="detector_z has gone 0, and L1 has gone 2",
    ),
    Fault(
        name="distance is not the plan's",
        kind="distance-mismatch",
        scan=replace(_DISTANT, read={"L1": np.full(20, 7.0)}),
        frame=10,
        last=19,
        times=10,
        says="L1 is 7, and the plan moves it by 2 from 7",
    ),
    Fault(
        name="stage against L1 and L2",
        kind="distance-mismatch",
        scan=replace(
            _DISTANT,
            baseline={"L1": 7.0, "L2": 10.0},
            read={"detector_z": _DISTANT.read["detector_z"]},
            start={},
        ),
        frame=10,
        says="detector_z has gone 2, and L1 and L2 are 3 apart",
    ),
    Fault(
        name="dark is zero",
        kind="dark-zero",
        scan=replace(sweep(), darks=(np.zeros(SHAPE, np.uint16),) * 3, settings={"recipe": {"threshold": 200.0}}),
        frame=0,
        last=2,
        times=3,
        says="dark frame 0 of det is zero in every pixel",
    ),
    Fault(
        name="dark is saturated",
        kind="dark-saturated",
        scan=replace(sweep(), darks=(np.full(SHAPE, 65535, np.uint16),)),
        frame=0,
        says="65535 counts or more",
    ),
    Fault(
        name="dark with light",
        kind="dark-bright",
        scan=replace(sweep(), darks=tuple((1.5 * dark(i)).astype(np.uint16) for i in range(3))),
        frame=0,
        last=N - 1,
        times=N,
        says="of its dark 150",
    ),
    Fault(
        name="subtracted already",
        kind="no-pedestal",
        scan=replace(with_darks(sweep()), image=lambda i: np.maximum(image(i), 118).astype(np.uint16) - np.uint16(118)),
        frame=0,
        last=N - 1,
        times=N,
    ),
    Fault(name="stuck", kind="omega-stuck", scan=_omega(_STUCK), frame=12, last=N - 1, times=12, says="12.75 degrees"),
    Fault(
        name="stuck for a while",
        kind="omega-stuck",
        scan=_omega(np.r_[_OMEGA[:12], [_OMEGA[11]] * 5, _OMEGA[12:-5]]),
        frame=12,
        last=16,
        times=5,
    ),
    Fault(name="stuck, no plan", kind="omega-stuck", scan=_alone(_STUCK), frame=12, last=N - 1, times=12),
    Fault(name="twice", kind="omega-repeated", scan=_omega(_TWICE), frame=12, says="12.75 to 12.75"),
    Fault(name="twice, no plan", kind="omega-repeated", scan=_alone(_TWICE), frame=12),
    Fault(name="late once", kind="omega-repeated", scan=_omega(_ONCE), frame=12),
    Fault(name="late once, no plan", kind="omega-repeated", scan=_alone(_ONCE), frame=12),
    Fault(
        name="lost",
        kind="omega-missing",
        scan=replace(_omega(_LOST[:-1]), stop={"exit_status": "abort"}),
        frame=12,
        says="from 12.75 to 13.25 degrees: the plan has 1 more between",
    ),
    Fault(name="lost, no plan", kind="omega-missing", scan=_alone(_LOST), frame=12),
    Fault(name="jerk", kind="omega-backwards", scan=_omega(_JERK), frame=12, says="12.75 to 12.5"),
    Fault(name="jerk, no plan", kind="omega-backwards", scan=_alone(_JERK), frame=12),
    Fault(
        name="falls back",
        kind="omega-backwards",
        scan=_omega(_from(_OMEGA, 12, lambda rest: rest - 2 * STEP)),
        frame=12,
    ),
    Fault(
        name="other way",
        kind="omega-sign",
        scan=_omega(20.0 - _OMEGA),
        frame=1,
        last=N - 1,
        times=N - 1,
        says="turns the other way than the plan",
    ),
    Fault(
        name="other way from a far start",
        kind="omega-sign",
        scan=_omega(-_OMEGA),
        frame=0,
        last=N - 1,
        times=N,
    ),
    Fault(
        name="other way than the step",
        kind="omega-sign",
        scan=replace(
            sweep(step=-STEP),
            configuration={"omega_step": STEP},
            settings={
                "roles": {"omega": "omega", "omega_step": "omega_step"},
                "omega_marks": "start",
            },
        ),
        frame=5,
        says="a frame is said to sweep 0.25",
    ),
    Fault(
        name="elsewhere",
        kind="off-plan",
        scan=_omega(_OMEGA + 0.7 * STEP),
        frame=0,
        last=N - 1,
        times=N,
        says="0.175 degrees away",
    ),
    Fault(
        name="monitor is stale",
        kind="stale-timestamp",
        scan=replace(_BEAM, stamps={"monitor": np.minimum(_TIMES, _TIMES[9])}),
        frame=12,
        last=N - 1,
        times=12,
        says="time stamp of monitor stands still",
    ),
    Fault(
        name="stamps of omega are stale",
        kind="stale-timestamp",
        scan=replace(sweep(), stamps={"omega": np.full(N, T0)}),
        frame=3,
        last=N - 1,
        times=N - 3,
    ),
    Fault(
        name="stuck, and its time too",
        kind="omega-stuck",
        scan=replace(_omega(_STUCK), stamps={"omega": np.minimum(_TIMES, _TIMES[11])}),
        frame=12,
        last=N - 1,
        times=12,
        says="the motor stands, or its PV is dead",
    ),
    Fault(
        name="read long ago",
        kind="stale-timestamp",
        scan=replace(
            _BEAM,
            read={**_BEAM.read, "energy": np.full(N, 63.3138)},
            stamps={"energy": np.full(N, _TIMES[0])},
            guards={"stale_seconds": 10},
        ),
        frame=11,
        last=N - 1,
        times=N - 11,
        says="energy was read 11 s before its event",
    ),
    Fault(
        name="clock goes back",
        kind="stale-timestamp",
        scan=replace(sweep(), times=_from(_TIMES, 10, lambda rest: rest - 30)),
        frame=10,
        says="29 s before that of the frame before",
    ),
    Fault(
        name="period",
        kind="stale-timestamp",
        scan=replace(sweep(), configuration={"period": 0.0339}, guards={"frame_period": "period"}),
        frame=8,
        says="a period of 0.0339 s, and frames come every 1 s",
    ),
    Fault(
        name="the plan failed",
        kind="run-failed",
        scan=replace(
            planned_sweep(), omega=_OMEGA[:9], stop={"exit_status": "fail", "reason": "samr is not connected"}
        ),
        frame=None,
        says="the plan failed after 9 points: samr is not connected",
    ),
    Fault(
        name="fewer",
        kind="frame-count",
        scan=replace(planned_sweep(), omega=_OMEGA[:-2]),
        frame=None,
        says="the plan has 24 frames, and 22 came",
    ),
    Fault(
        name="fewer, no positions",
        kind="frame-count",
        scan=replace(sweep(), start={"num_points": 30}),
        frame=None,
        says="the plan has 30 points, and 24 came",
    ),
    Fault(
        name="more",
        kind="frame-count",
        scan=replace(sweep(), start={"num_points": 22}),
        frame=22,
        last=23,
        times=2,
        says="the plan has 22 points, and this is one more",
    ),
    Fault(
        name="saturated",
        kind="frame-saturated",
        scan=replace(sweep(), image=_saturated, settings={"recipe": {"saturation": 450.0}}),
        frame=0,
        last=N - 1,
        times=N,
        says="lit pixels of det are saturated",
    ),
    Fault(
        name="monitor falls",
        kind="frame-dark",
        scan=_read("monitor", np.where(np.arange(N) // 3 == 5, 12.0, _BEAM.read["monitor"])),
        frame=15,
        last=17,
        times=3,
        says="the monitor is at 12, and usually at",
    ),
    Fault(
        name="frames are dark",
        kind="frame-dark",
        scan=replace(with_darks(sweep()), image=lambda i: dark(i) if 15 <= i < 18 else image(i)),
        frame=15,
        last=17,
        times=3,
        says="det shows no more than its dark",
    ),
    Fault(
        name="frames without peaks",
        kind="frame-dark",
        scan=replace(
            sweep(),
            image=lambda i: np.full(SHAPE, DARK + SCATTER, np.uint16) if i == 15 else image(i, n_spots=16),
            settings={"recipe": {"min_pixels": 1, "split": "local-maximum"}},
        ),
        frame=15,
        says="det shows no more than its dark",
    ),
    Fault(
        name="beyond full scale",
        kind="scaling",
        scan=replace(sweep(), guards={"full_scale": 400.0}),
        frame=0,
        last=N - 1,
        times=N,
        says="full_scale is 400",
    ),
    Fault(
        name="stored times 64",
        kind="scaling",
        scan=replace(
            sweep(),
            image=lambda i: 64 * image(i),
            settings={"recipe": {"threshold": 3840.0}},
        ),
        frame=1,
        says="multiples of 64; wanted of 1",
    ),
)
"""Every fault that can be named."""

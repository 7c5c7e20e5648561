"""Documents of ophyd-async detectors and motors, stepped and flown, through a real RunEngine into live reduction."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd_async.core import AutoIncrementFilenameProvider, StaticPathProvider, TriggerInfo, init_devices
from ophyd_async.sim import SimBlobDetector, SimMotor

from hedmlive.callbacks import HedmLive, RunResult, hedm_live_init, load_settings, open_source, process

SHAPE = (240, 320)
WARM_UP = 180.0
"Seconds in which the kernels are compiled, if no earlier test has."

Devices = tuple[SimBlobDetector, SimMotor]


@pytest.fixture
def RE() -> RunEngine:
    return RunEngine({})


@pytest.fixture
def devices(RE: RunEngine, tmp_path: Path) -> Devices:
    folder = tmp_path / "frames"
    folder.mkdir()
    with init_devices():
        det = SimBlobDetector(StaticPathProvider(AutoIncrementFilenameProvider("blobs"), folder))
        samr = SimMotor(units="degrees")
    return det, samr


@contextmanager
def live_reduction(RE: RunEngine, folder: Path, **more: Any) -> Generator[HedmLive]:
    live = hedm_live_init(
        RE,
        {
            "roles": {"omega": "samr"},
            "detectors": [{"name": "blobs", "image": "det"}],
            "recipe": {"threshold": 3},  # a blob has 7 counts in its middle, and 1 in the corners
            "archive": {"folder": str(folder)},
            **more,
        },
    )
    assert live is not None
    try:
        live.ready(WARM_UP)
        yield live
    finally:
        live.close()


def replayed(result: RunResult, folder: Path) -> dict[int, str]:
    source = open_source(str(result.raw))
    assert source.settings is not None
    made = load_settings({**source.settings, "archive": {"folder": str(folder)}})
    return dict(process(source.documents, made).digests)


def omega_per_frame(result: RunResult) -> Any:
    with h5py.File(str(result.raw)) as raw:
        assert raw["exchange/data"].shape == (result.progress.n_frames, *SHAPE)
        hedm: Any = raw["entry/hedm"]
        return hedm["omega_per_frame"][()]


def test_a_stepped_scan(RE: RunEngine, devices: Devices, tmp_path: Path) -> None:
    det, samr = devices
    with live_reduction(RE, tmp_path) as live:
        RE(bp.scan([det], samr, 0.0, 2.0, 5))
        result = live.wait(60)[live.uids[-1]]
    assert result.problems == ()
    assert "omega" not in result.missing
    assert result.progress.n_frames == result.progress.n_peaks == 5
    np.testing.assert_array_equal(omega_per_frame(result)[:, 0], [0.0, 0.5, 1.0, 1.5, 2.0])
    assert replayed(result, tmp_path / "again") == dict(result.digests)


@pytest.mark.parametrize("per_event", [1, 2])
def test_a_flown_scan(RE: RunEngine, devices: Devices, tmp_path: Path, per_event: int) -> None:
    # Nothing but the frames' whereabouts is in the documents of such a stream: omega is what the plan says.
    det, _ = devices
    n_events = 6
    n_frames = n_events * per_event
    frames = TriggerInfo(number_of_events=n_events, collections_per_event=per_event, livetime=0.1, deadtime=0.01)
    axis = {"start": "fly_start", "step": "fly_step", "count": n_frames, "marks": "start"}

    @bpp.stage_decorator([det])
    @bpp.run_decorator(md={"fly_start": 10.0, "fly_step": -0.25})
    def fly() -> Any:
        yield from bps.prepare(det, frames, wait=True)
        yield from bps.declare_stream(det, name="primary")
        yield from bps.kickoff(det, wait=True)
        yield from bps.collect_while_completing([det], [det], flush_period=0.05, stream_name="primary")

    with live_reduction(RE, tmp_path, roles={}, trajectory={"axes": {"omega": axis}}) as live:
        RE(fly())
        result = live.wait(60)[live.uids[-1]]
    assert result.problems == ()
    assert result.progress.n_frames == result.progress.n_peaks == n_frames
    start = 10.0 - 0.25 * np.arange(n_frames)
    np.testing.assert_allclose(omega_per_frame(result), np.stack([start, start - 0.25], axis=1))
    assert replayed(result, tmp_path / "again") == dict(result.digests)

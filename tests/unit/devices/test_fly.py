"""Flyers, the run around plans that open none, and warnings in the run."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from unit.devices.scanning import Session, after, controller, published, station, triggered

from hedmlive.devices import (
    FileFrames,
    Flyer,
    FrameStream,
    LiveWarnings,
    PluginFrames,
    ff_scan,
    fly_run_decorator,
    fly_run_wrapper,
    step_scan,
    warnings_wrapper,
)
from hedmlive.streaming.errors import FrameError


@dataclass(frozen=True, kw_only=True)
class Warned:
    """A warning, as the callbacks give it."""

    kind: str
    frame: int | None
    message: str


def indices(session: Session) -> list[tuple[int, int]]:
    return [(doc["indices"]["start"], doc["indices"]["stop"]) for doc in session.of("stream_datum")]


def seq_nums(session: Session) -> list[int]:
    ranges = [doc["seq_nums"] for doc in session.of("stream_datum")]
    return [number for each in ranges for number in range(each["start"], each["stop"])]


# Flyers


def test_a_flyer_in_a_plan_of_ones_own(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    pso = controller(made)
    flyer = Flyer(pso, [made.detector], name="sweep")

    @bpp.stage_decorator([flyer])
    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.declare_stream(flyer, name="primary", collect=True)  # type: ignore[arg-type]
        yield from bps.kickoff(flyer, wait=True)
        yield from bps.collect_while_completing([flyer], [flyer], flush_period=0.02, stream_name="primary")

    def prepared() -> Any:
        yield from bps.mv(*(each for pair in pso.set_scan(10.0, 4.0, 12, 0.01).items() for each in pair))
        yield from bps.configure(flyer, {"n_frames": 12})
        yield from plan()

    session(prepared())
    [descriptor] = session.stream("primary")
    said = descriptor["configuration"]["sweep"]["data"]
    assert {key: said[f"pso_{key}"] for key in ("start", "end", "delta", "step", "frames")} == {
        "start": 10.0,
        "end": 4.0,
        "delta": 0.5,
        "step": -0.5,
        "frames": 12,
    }
    assert said["detector_exposure"] == 0.0
    assert seq_nums(session) == list(range(1, 13))
    assert session.counts["stream_resource"] == 1
    assert made.detector._staged.value == "no"


def test_two_detectors_are_told_of_together(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    second = triggered(made, tmp_path)
    pso = controller(made, made.detector, second)
    session(ff_scan([made.detector, second], made.rotation, 0.0, 1.0, 10, fly=pso, frame_time=0.01))
    by_key: dict[str, list[int]] = {}
    keys = {doc["uid"]: doc["data_key"] for doc in session.of("stream_resource")}
    for datum in session.of("stream_datum"):
        numbers = range(datum["seq_nums"]["start"], datum["seq_nums"]["stop"])
        by_key.setdefault(keys[datum["stream_resource"]], []).extend(numbers)
    assert by_key == {"detector_image": list(range(1, 11)), "ge_image": list(range(1, 11))}
    assert (second.cam.acquire.get(), second.hdf5.capture.get()) == (0, 0)


def test_a_pulse_that_a_detector_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = station(tmp_path)
    flyer = Flyer(controller(made, missed={3}), [made.detector], name="sweep", settle=0.1)
    flyer.configure({"n_frames": 5})
    for signal, value in flyer.controller.set_scan(0.0, 5.0, 5, 0.01).items():
        signal.put(value)
    flyer.stage()
    try:
        flyer.kickoff().wait(timeout=10)
        flyer.complete().wait(timeout=10)
    finally:
        flyer.unstage()
    assert flyer.n_ready() == 4
    assert "fly scan of sweep: wanted 5 frames; written: detector 4" in caplog.text


def test_a_controller_that_fails_fails_the_plan(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    pso = controller(made)

    def stuck(_: Any) -> Any:
        raise RuntimeError("following error")

    made.rotation.set = stuck  # type: ignore[method-assign]
    plan = ff_scan([made.detector], made.rotation, 0.0, 1.0, 5, fly=pso, frame_time=0.01, shutter=made.shutter)
    with pytest.raises(FailedStatus) as failed:
        session(plan)
    assert "following error" in str(failed.value.__cause__)
    assert session.of("stop")[0]["exit_status"] == "fail"
    assert made.shutter.get() == "close"
    assert made.detector._staged.value == "no"


def test_an_aborted_fly_scan_is_a_run_of_what_is_there(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    reached, gone_on = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        # The seventh pulse has been fired; the rest waits for the abort.
        if made.detector.get_index() == 7:
            reached.set()
            gone_on.wait(10)

    pso = controller(made, sleep=sleep)
    stop = pso.halt
    pso.halt = lambda: (stop(), gone_on.set())  # type: ignore[method-assign]

    def abort(name: str, doc: Any) -> None:
        if name == "stream_datum" and reached.wait(10) and not aborted:
            aborted.append(threading.Thread(target=session.RE.abort, args=("lost beam",)))
            aborted[0].start()

    aborted: list[threading.Thread] = []
    session.RE.subscribe(abort)
    plan = ff_scan([made.detector], made.rotation, 0.0, 1.0, 20, fly=pso, frame_time=0.01, shutter=made.shutter)
    with pytest.raises(RunEngineInterrupted):
        session(plan)
    aborted[0].join(10)
    [document] = session.of("stop")
    assert (document["exit_status"], document["num_events"]) == ("abort", {"primary": 7})
    assert seq_nums(session) == list(range(1, 8))
    assert made.shutter.get() == "close"
    assert made.detector._staged.value == "no"
    # Its thread ends by itself, a moment after the run.
    idle = threading.Event()
    pso.fly.subscribe(lambda value, **_: value == 0 and idle.set())
    assert idle.wait(10)


# The run around plans that open none


def frames(way: str, detector: Any, folder: Path) -> Any:
    if way == "plugin":
        return PluginFrames(detector.hdf5, name="ge")
    return FileFrames(folder, "ge_*.h5", name="ge")


@pytest.mark.parametrize("way", ["plugin", "files"])
def test_a_published_plan_gets_a_run(tmp_path: Path, way: str) -> None:
    made, session = station(tmp_path), Session()
    detector = triggered(made, tmp_path)
    pso = controller(made, detector)
    # What is there from the scan before is not told of.
    session(published(pso, detector, 0.0, 3.0, 3))
    assert session.documents == []
    stream = FrameStream([frames(way, detector, tmp_path)], name="frames", controller=pso)
    plan = published(pso, detector, 5.0, -5.0, 20)
    uids = session(fly_run_wrapper(plan, stream, baseline=made.baseline, md={"sample_name": "gold"}, period=0.02))
    [start], [stop] = session.of("start"), session.of("stop")
    assert uids == (start["uid"],)
    assert (start["sample_name"], start["detectors"]) == ("gold", ["ge"])
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"baseline": 2, "primary": 20})
    [descriptor] = session.stream("primary")
    image = descriptor["data_keys"]["ge_image"]
    assert (image["shape"], image["dtype_numpy"], image["external"]) == ([1, 16, 12], "<u2", "STREAM:")
    said = descriptor["configuration"]["frames"]["data"]
    assert (said["pso_start"], said["pso_step"], said["pso_frames"]) == (5.0, -0.5, 20)
    [resource] = session.of("stream_resource")
    assert resource["uri"] == f"file://localhost{tmp_path / 'ge_000001.h5'}"
    assert seq_nums(session) == list(range(1, 21))
    with h5py.File(tmp_path / "ge_000001.h5") as file:
        assert file[resource["parameters"]["dataset"]].shape == (20, 16, 12)  # type: ignore[union-attr]


def test_frames_are_told_of_while_they_land(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    detector = triggered(made, tmp_path)
    told = threading.Event()

    def sleep(_: float) -> None:
        # The sweep goes on only when its first frames were told of.
        assert detector.hdf5.num_captured.get() < 3 or told.wait(10)

    session.RE.subscribe(lambda name, doc: told.set() if name == "stream_datum" else None)
    pso = controller(made, detector, sleep=sleep)
    stream = FrameStream([PluginFrames(detector.hdf5, name="ge")], name="frames", controller=pso)
    session(fly_run_wrapper(published(pso, detector, 0.0, 6.0, 6), stream, period=0.02))
    assert len(indices(session)) > 1
    assert seq_nums(session) == list(range(1, 7))


@pytest.mark.parametrize("way", ["plugin", "files"])
def test_sweeps_in_several_files(tmp_path: Path, way: str) -> None:
    made, session = station(tmp_path), Session()
    detector = triggered(made, tmp_path)
    pso = controller(made, detector)
    stream = FrameStream([frames(way, detector, tmp_path)], name="frames", controller=pso)

    @fly_run_decorator(stream, period=0.02)
    def sweeps() -> Any:
        for sweep in range(3):
            yield from published(pso, detector, 0.0, 4.0, 4 + sweep)

    session(sweeps())
    assert session.counts["stream_resource"] == 3
    # Indices are those in each file; numbers go on.
    assert [start for start, _ in indices(session)].count(0) == 3
    assert seq_nums(session) == list(range(1, 16))
    assert session.of("stop")[0]["num_events"] == {"primary": 15}


def test_a_plan_with_a_run_of_its_own_stays_as_it_is(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    stream = FrameStream([FileFrames(tmp_path / "other", name="ge")], name="frames", controller=controller(made))
    plan = ff_scan([made.detector], made.rotation, 0.0, 1.0, 4, fly=controller(made), frame_time=0.01)
    session(fly_run_wrapper(plan, stream))
    assert session.counts["start"] == session.counts["stop"] == 1
    assert session.of("start")[0]["plan_name"] == "ff_scan"
    assert session.of("stop")[0]["num_events"] == {"primary": 4}


def test_messages_answers_and_errors_pass_through(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    stream = FrameStream([FileFrames(tmp_path / "none", name="ge")], name="frames")
    answers: list[Any] = []

    def plan() -> Any:
        answers.append((yield from bps.rd(made.energy)))
        answers.append((yield from bps.wait(group="nothing")))
        yield from bps.sleep(0.05)
        try:
            yield from bps.mv(made.shutter, "ajar")
        except FailedStatus as error:
            answers.append(str(error.__cause__))
        return "done"

    def outer() -> Any:
        answers.append((yield from fly_run_wrapper(plan(), stream, period=0.01, settle=0.0)))

    session(outer())
    assert answers[0] == pytest.approx(made.energy.get())
    assert answers[1] is True
    assert "ajar" in answers[2]
    assert answers[3] == "done"
    # Nothing flew, so that there is nothing to tell.
    assert session.documents == []


def test_a_wait_that_runs_out_of_time_does_so(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    stream = FrameStream([FileFrames(tmp_path / "none", name="ge")], name="frames")
    go_on = threading.Event()
    pso = controller(made, sleep=lambda _: go_on.wait(10) and None)

    def plan() -> Any:
        made.detector.stage()
        yield from bps.mv(*(each for pair in pso.set_scan(0.0, 2.0, 2, 0.01).items() for each in pair))
        yield from bps.abs_set(pso.fly, 1, group="fly")
        done = yield from bps.wait("fly", timeout=0.05, error_on_timeout=False)
        assert done is False
        try:
            yield from bps.wait("fly", timeout=0.05)
        finally:
            go_on.set()
            made.detector.unstage()

    with pytest.raises(TimeoutError):
        session(fly_run_wrapper(plan(), stream, period=0.02, settle=0.0))


@pytest.mark.parametrize("how", ["abort", "fail"])
def test_a_published_plan_that_ends_early(tmp_path: Path, how: str) -> None:
    made, session = station(tmp_path), Session()
    detector = triggered(made, tmp_path)
    pso = controller(made, detector)
    stream = FrameStream([PluginFrames(detector.hdf5, name="ge")], name="frames", controller=pso)

    def plan() -> Any:
        yield from published(pso, detector, 0.0, 4.0, 4)
        if how == "fail":
            raise RuntimeError("beam lost")
        # Frames have come: a pause cannot be taken up again, and aborts.
        yield from bps.pause()

    error = RuntimeError if how == "fail" else Exception
    with pytest.raises(error):
        session(fly_run_wrapper(plan(), stream, period=0.02))
    if session.RE.state != "idle":
        session.RE.abort()
    [stop] = session.of("stop")
    assert (stop["exit_status"], stop["num_events"]) == (how, {"primary": 4})


def test_the_shape_is_not_known_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="'ge' has no frame in /entry/data/data yet"):
        FileFrames(tmp_path, name="ge").describe_collect()


def test_a_file_that_is_not_written_in_swmr_mode_shows_when_it_is_closed(tmp_path: Path) -> None:
    follower = FileFrames(tmp_path, name="ge", dataset="/exchange/data")
    follower.begin()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = np.zeros((3, 4, 5), np.int32)
    (tmp_path / "b.h5").write_bytes(b"no HDF5 at all")
    assert follower.get_index() == 3
    described = follower.describe_collect()["ge_image"]
    assert (described["shape"], described["dtype_numpy"]) == ([1, 4, 5], "<i4")


def test_the_same_folder_on_another_computer(tmp_path: Path) -> None:
    made = station(tmp_path)
    detector = triggered(made, tmp_path)
    follower = PluginFrames(detector.hdf5, name="ge", read_root={r"D:\data": str(tmp_path)})
    follower.begin()
    detector.hdf5.full_file_name.put("D:\\data\\night\\ge_7.h5")
    detector.hdf5.num_captured.put(2)
    [(_, resource), _] = list(follower.collect_asset_docs())
    assert resource["uri"] == f"file://localhost{tmp_path}/night/ge_7.h5"


# Warnings


def test_warnings_become_events_of_the_run(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    warnings = LiveWarnings()
    put = {3: Warned(kind="dark-zero", frame=None, message="all zero"), 5: None}

    def warn(name: str, doc: Any) -> None:
        # From a thread of its own, as the reduction does.
        if name == "event" and "rotation" in doc["data"]:
            frame = doc["seq_num"] - 1
            problem = put.get(frame) or Warned(kind="omega", frame=frame, message=f"frame {frame}")
            thread = threading.Thread(target=warnings.put, args=(problem,))
            thread.start()
            thread.join()

    session.RE.subscribe(warn)
    warnings.put(Warned(kind="early", frame=0, message="no run is open"))
    session(warnings_wrapper(step_scan([made.detector], made.rotation, 0.0, 1.0, 6), warnings, linger=0.1))
    [descriptor] = session.stream("warnings")
    events = [doc["data"] for doc in session.of("event") if doc["descriptor"] == descriptor["uid"]]
    assert [data["live_warnings_kind"] for data in events] == ["omega"] * 3 + ["dark-zero"] + ["omega"] * 2
    np.testing.assert_array_equal([data["live_warnings_frame"] for data in events], [0, 1, 2, np.nan, 4, 5])
    assert session.of("stop")[0]["num_events"] == {"primary": 6, "warnings": 6}
    warnings.put(Warned(kind="late", frame=0, message="the run is closed"))
    assert session.documents[-1][0] == "stop"


def test_warnings_never_reach_a_runengine_that_is_gone(tmp_path: Path) -> None:
    made, session = station(tmp_path), Session()
    warnings = LiveWarnings()
    with pytest.raises(RunEngineInterrupted):
        session(
            after(
                warnings_wrapper(step_scan([made.detector], made.rotation, 0.0, 1.0, 6), warnings), "save", 2, bps.pause
            )
        )
    warnings.put(Warned(kind="paused", frame=1, message="while the plan is paused"))
    session.RE.resume()
    assert session.of("stop")[0]["exit_status"] == "success"

"""Fly scans that are paused, suspended, resumed and given up."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import Msg, NoReplayAllowed, RunEngineInterrupted
from unit.devices.scanning import Session, station, triggered
from unit.devices.test_plans_scans import near_field, positions

from hedmlive.devices import Flyer, ff_scan
from hedmlive.simulators import SimFlyController, SimulatedStation

N = 12
Act = Callable[[], None]


class Controller(SimFlyController):
    """Does something right after a pulse, counted from 1 over all sweeps, and goes on when it was stopped."""

    def __init__(self, made: SimulatedStation, *detectors: Any, **acts: Act) -> None:
        self._acts = {int(name.removeprefix("at_")): act for name, act in acts.items()}
        self._n_fired = 0
        self.goes_on = threading.Event()
        super().__init__(
            name="pso", rotation=made.rotation, detectors=detectors or [made.detector], sleep=self._after_pulse
        )

    def halt(self) -> None:
        super().halt()
        self.goes_on.set()

    def _after_pulse(self, _: float) -> None:
        self._n_fired += 1
        act = self._acts.get(self._n_fired)
        if act is not None:
            self.goes_on.clear()
            act()
            assert self.goes_on.wait(20)


@pytest.fixture
def made(tmp_path: Path) -> SimulatedStation:
    return station(tmp_path)


def sweep(made: SimulatedStation, pso: Any, *detectors: Any, **options: Any) -> Any:
    return ff_scan(
        detectors or [made.detector], made.rotation, 0.0, 1.0, N, fly=pso, frame_time=0.01, shutter=made.shutter,
        **options,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not after 20 s"
        time.sleep(0.005)


def numbers(session: Session) -> list[int]:
    return [i for doc in session.of("stream_datum") for i in range(doc["seq_nums"]["start"], doc["seq_nums"]["stop"])]


def frames_of(session: Session) -> list[tuple[int, int]]:
    """Return file and index of every frame that was told of."""
    files = {doc["uid"]: number for number, doc in enumerate(session.of("stream_resource"))}
    return [
        (files[doc["stream_resource"]], i)
        for doc in session.of("stream_datum")
        for i in range(doc["indices"]["start"], doc["indices"]["stop"])
    ]


@pytest.mark.parametrize("pulses", [(5,), (1,), (N,), (3, 8)])
def test_what_is_there_stays_and_the_rest_is_taken(
    made: SimulatedStation, caplog: pytest.LogCaptureFixture, pulses: tuple[int, ...]
) -> None:
    session = Session()
    pso = Controller(made, **{f"at_{n}": session.RE.request_pause for n in pulses})
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso))
    for number, pulse in enumerate(pulses):
        assert session.RE.state == "paused"
        wait_for(lambda: not pso.fly.get())
        assert f"fly scan of pso: paused in mid-sweep, motion and detectors are stopped; {pulse} of {N}" in caplog.text
        if number + 1 < len(pulses):
            with pytest.raises(RunEngineInterrupted):
                session.RE.resume()
    session.RE.resume()
    [stop] = session.of("stop")
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": N})
    assert numbers(session) == list(range(1, N + 1))
    assert positions(session, "rotation") == [(float(i),) for i in range(N)]
    ends = [*pulses, N]
    pieces = [end - begin for begin, end in zip([0, *pulses], ends, strict=True)]
    assert frames_of(session) == [(file, i) for file, n in enumerate(pieces) for i in range(n)]
    assert made.shutter.get() == "close"
    assert made.detector._staged.value == "no"


def test_frames_that_come_after_the_pause_are_taken_again(made: SimulatedStation) -> None:
    session = Session()

    def pause() -> None:
        session.RE.request_pause()
        pso.goes_on.wait(20)
        # Two were on their way while the rotation slowed down.
        for _ in range(2):
            made.detector.trigger().wait(10)

    pso = Controller(made, at_5=pause)
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso))
    session.RE.resume()
    assert frames_of(session) == [(0, i) for i in range(5)] + [(1, i) for i in range(N - 5)]
    assert positions(session, "rotation") == [(float(i),) for i in range(N)]


def test_a_detector_settles_anew(made: SimulatedStation) -> None:
    session = Session()
    pso = Controller(made, at_7=session.RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso, lead_frames=2))
    session.RE.resume()
    # The first two frames of the second file lead, as those of the first do; these alone are told of.
    assert frames_of(session) == [(0, i) for i in range(7)] + [(1, 2 + i) for i in range(N + 2 - 7)]
    assert positions(session, "rotation") == [(float(i),) for i in range(-2, N)]
    assert numbers(session) == list(range(1, N + 3))
    start = session.stream("primary")[-1]["configuration"]["fly"]["data"]["pso_start"]
    assert start == -2.0 + 7 - 2


@pytest.mark.parametrize("how", ["abort", "stop"])
def test_a_scan_that_is_given_up_keeps_what_is_there(made: SimulatedStation, tmp_path: Path, how: str) -> None:
    session = Session()
    second = triggered(made, tmp_path)
    pso = Controller(made, made.detector, second, at_5=session.RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso, made.detector, second))
    # No pulse is waited for while the plan rests.
    wait_for(lambda: not second.cam.acquire.get())
    assert second.hdf5.capture.get() == 1
    getattr(session.RE, how)()
    [stop] = session.of("stop")
    assert stop["exit_status"] == {"abort": "abort", "stop": "success"}[how]
    assert stop["num_events"] == {"primary": 5}
    assert positions(session, "rotation") == [(float(i),) for i in range(5)]
    assert (second.hdf5.capture.get(), made.shutter.get()) == (0, "close")


def test_a_pause_on_the_way_to_the_run_up(made: SimulatedStation) -> None:
    session = Session()
    pso = Controller(made)
    taxi, asked = pso.do, threading.Event()

    def do(what: str) -> None:
        if what == "taxi" and not asked.is_set():
            asked.set()
            session.RE.request_pause()
            assert pso.goes_on.wait(20)
        taxi(what)

    pso.do = do  # type: ignore[method-assign]
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso))
    assert made.detector.get_index() == 0
    session.RE.resume()
    assert session.of("stop")[0]["num_events"] == {"primary": N}
    assert positions(session, "rotation") == [(float(i),) for i in range(N)]


@pytest.mark.parametrize("snake", [False, True])
def test_a_near_field_scan_goes_on_with_the_sweep_that_was_broken_off(made: SimulatedStation, *, snake: bool) -> None:
    session = Session()
    # The third frame of the second sweep, which goes back in a snake.
    pso = Controller(made, at_7=session.RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        session(near_field(made, snake=snake, fly=pso, frame_time=0.01))
    session.RE.resume()
    turns = [range(3, -1, -1) if snake and number % 2 else range(4) for number in range(6)]
    assert positions(session, "rotation") == [(float(i),) for turn in turns for i in turn]
    layers = [layer for (layer,) in positions(session, "samy")]
    assert layers == ([8.0] * 4 + [7.5] * 4) * 3
    assert session.of("stop")[0]["num_events"] == {"baseline": 2, "primary": 24}


def test_a_deferred_pause_waits_for_the_end_of_the_sweep(made: SimulatedStation) -> None:
    session = Session()

    def later() -> None:
        session.RE.request_pause(True)
        pso.goes_on.set()

    pso = Controller(made, at_6=later)
    with pytest.raises(RunEngineInterrupted):
        session(near_field(made, fly=pso, frame_time=0.01))
    assert numbers(session) == list(range(1, 9))
    assert made.detector._staged.value == "no"
    session.RE.resume()
    assert numbers(session) == list(range(1, 25))
    assert session.counts["stream_resource"] == 6


def test_a_suspender_waits_for_the_beam(made: SimulatedStation) -> None:
    session = Session()
    beam: list[asyncio.Event] = []

    def lost() -> None:
        session.RE.loop.call_soon_threadsafe(lambda: beam.append(asyncio.Event()))
        session.RE.request_suspend(lambda: beam[0].wait())
        assert pso.goes_on.wait(20)
        session.RE.loop.call_soon_threadsafe(lambda: beam[0].set())

    pso = Controller(made, at_5=lost)
    session(sweep(made, pso))
    assert session.of("stop")[0]["num_events"] == {"primary": N}
    assert positions(session, "rotation") == [(float(i),) for i in range(N)]


def test_a_flyer_in_a_plan_of_ones_own_ends_with_what_is_there(made: SimulatedStation) -> None:
    session = Session()
    pso = Controller(made, at_5=session.RE.request_pause)
    flyer = Flyer(pso, [made.detector], name="sweep", settle=0.1)

    @bpp.stage_decorator([flyer])
    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.declare_stream(flyer, name="primary", collect=True)  # type: ignore[arg-type]
        yield from bps.kickoff(flyer, wait=True)
        yield from bps.collect_while_completing([flyer], [flyer], flush_period=0.02, stream_name="primary")

    flyer.configure({"n_frames": N})
    for signal, value in pso.set_scan(0.0, 12.0, N, 0.01).items():
        signal.put(value)
    with pytest.raises(RunEngineInterrupted):
        session(plan())
    session.RE.resume()
    assert flyer.broken_off
    assert numbers(session) == list(range(1, 6))
    assert session.of("stop")[0]["exit_status"] == "success"


def test_a_pause_while_the_stream_is_declared(made: SimulatedStation) -> None:
    session = Session()
    pso = Controller(made)
    tasks: list[Any] = []

    def hook(message: Msg) -> None:
        if message.command == "declare_stream" and not tasks:
            # It is in the middle of that message when its turn comes.
            tasks.append(session.RE.loop.create_task(session.RE._request_pause_coro()))

    session.RE.msg_hook = hook  # type: ignore[assignment]
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso))
    assert session.stream("primary") == []
    session.RE.resume()
    assert session.of("stop")[0]["num_events"] == {"primary": N}
    assert positions(session, "rotation") == [(float(i),) for i in range(N)]


def test_a_pause_stops_what_can_be_stopped(made: SimulatedStation, caplog: pytest.LogCaptureFixture) -> None:
    session = Session()
    pso = Controller(made, at_5=session.RE.request_pause)
    fly, stopped = pso.fly.set, threading.Event()

    def gone(value: int, **kwargs: Any) -> Any:
        if not value:
            pso.halt()
            raise TimeoutError("no answer")
        return fly(value, **kwargs)

    pso.fly.set = gone  # type: ignore[method-assign]
    made.rotation.stop = lambda **_: stopped.set()  # type: ignore[method-assign]
    with pytest.raises(RunEngineInterrupted):
        session(sweep(made, pso))
    assert stopped.is_set()
    assert "fly scan of pso: a pause could not stop everything (no answer)" in caplog.text
    session.RE.resume()
    assert positions(session, "rotation") == [(float(i),) for i in range(N)]


def test_a_stage_that_does_not_come_to_rest_is_an_error(made: SimulatedStation) -> None:
    pso, fired = Controller(made), threading.Event()
    flyer = Flyer(pso, [made.detector], name="sweep", settle=0.1)
    halt, pso.halt = pso.halt, lambda: None  # type: ignore[method-assign]
    pso._acts[2] = fired.set
    flyer.configure({"n_frames": N})
    for signal, value in pso.set_scan(0.0, 12.0, N, 0.01).items():
        signal.put(value)
    flyer.stage()
    try:
        flyer.kickoff().wait(10)
        assert fired.wait(10)
        with pytest.raises(NoReplayAllowed):
            flyer.pause()
        error = flyer.complete().exception(10)
    finally:
        halt()
        flyer.unstage()
    assert "fly controller 'pso' still moves 0.1 s after a pause" in str(error)

"""Several files that grow at once: followed side by side, each until its own end, in whatever order they come."""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_scans as scans
import pytest
from unit.callbacks.test_watch import GE, SWMR, TIFF, Beamline, digests, watch

from hedmlive.callbacks import FolderWatch, Outcome, load_settings
from hedmlive.callbacks.watch import Clock

ENOUGH = {"stable_seconds": 1e6, "frames": scans.N_FRAMES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


def together(*writers: Iterator[Any]) -> Iterator[int]:
    """Let each write in turn, until all have written everything."""
    left = list(writers)
    while left:
        left = [writer for writer in left if next(writer, None) is not None]
        yield len(left)


def alone(tmp_path: Path, detector: int) -> str:
    """Return the digest of a file that is watched alone."""
    (folder := tmp_path / f"alone{detector}").mkdir()
    scans.whole(GE[1], folder / "scan.ge1", scans.images(detector))
    [digest] = digests(watch(folder, scans.settings(tmp_path / f"of{detector}", **GE[2])))
    return digest


class Shown:
    """Notes which runs go on at the same time, and how many documents of each were taken."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.now: list[str] = []
        self.most: list[str] = []

    @contextmanager
    def __call__(self, name: str, n_frames: int | None) -> Generator[Any]:
        self.now.append(name)
        self.most = max(self.most, list(self.now), key=len)
        try:
            yield lambda progress: self.taken.update([name])
        finally:
            self.now.remove(name)


def run(folder: Path, said: dict[str, Any], beamline: Beamline, shown: Shown | None = None) -> list[Outcome]:
    made = FolderWatch(folder, load_settings(said), clock=beamline.clock, show=shown or Shown())
    return list(made.run(once=True))


def names(outcomes: list[Outcome]) -> list[str]:
    return [outcome.scan.first.name for outcome in outcomes]


@pytest.mark.parametrize("every", [1, 7])
def test_files_of_several_kinds_grow_at_once(folder: Path, tmp_path: Path, every: int) -> None:
    writers = [writer(folder / name, scans.images()) for name, writer, _ in (GE, TIFF, SWMR)]
    growing = together(*writers)
    next(growing)
    shown = Shown()
    said = scans.settings(tmp_path / "out", **GE[2])
    outcomes = run(folder, said, Beamline(growing, every=every), shown)
    assert digests(outcomes) == [scans.expected_digest()] * 3
    assert sorted(shown.most) == sorted(names(outcomes))


def test_a_scan_that_begins_before_the_one_before_is_closed(folder: Path, tmp_path: Path) -> None:
    """The first detector's program keeps its file open; nothing but time says that it is over."""

    def written() -> Iterator[int]:
        # All but the last frame, which comes when the next scan is over.
        first = GE[1](folder / "a.ge1", scans.images())
        for _ in range(2 * scans.N_FRAMES - 2):
            yield next(first)
        yield from GE[1](folder / "b.ge1", scans.images(1))
        yield from first

    growing = written()
    next(growing)
    outcomes = run(folder, scans.settings(tmp_path / "out", finished=ENOUGH, **GE[2]), Beamline(growing))
    assert names(outcomes) == ["b.ge1", "a.ge1"]
    assert digests(outcomes) == [alone(tmp_path, 1), alone(tmp_path, 0)]


@pytest.mark.parametrize("runs", [1, 2])
def test_no_more_than_so_many_are_followed(folder: Path, tmp_path: Path, runs: int) -> None:
    growing = together(*(GE[1](folder / f"scan_{i}.ge1", scans.images(i % 2)) for i in range(4)))
    next(growing)
    shown = Shown()
    said = scans.settings(tmp_path / "out", finished=ENOUGH, runs=runs, **GE[2])
    outcomes = run(folder, said, Beamline(growing, every=2), shown)
    # Beside them, one that was finished before its turn came.
    assert runs <= len(shown.most) <= runs + 1
    by_name = dict(zip(names(outcomes), digests(outcomes), strict=True))
    expected = [alone(tmp_path, 0), alone(tmp_path, 1)] * 2
    assert by_name == {f"scan_{i}.ge1": digest for i, digest in enumerate(expected)}


def test_finished_files_go_in_order_and_hold_up_nobody(folder: Path, tmp_path: Path) -> None:
    for number in (3, 1, 2):
        scans.whole(GE[1], folder / f"old_{number}.ge1")
    growing = GE[1](folder / "a_new.ge1", scans.images())
    for _ in range(4):
        next(growing)
    shown, outcomes = Shown(), list[Outcome]()

    class Ticks(Beamline):
        """Time goes on with each look at the clock, so that no turn takes long."""

        @property
        def clock(self) -> Clock:
            return replace(super().clock, now=self.tick)

        def tick(self) -> float:
            self.now += 0.4
            return self.now

    settings = load_settings(scans.settings(tmp_path / "out", finished=ENOUGH, **GE[2]))
    for outcome in FolderWatch(folder, settings, clock=Ticks(growing).clock, show=shown).run(once=True):
        if not outcomes:
            # Of the one that grows at least the first frames were taken meanwhile.
            assert outcome.scan.first.name == "old_1.ge1"
            assert shown.taken["a_new.ge1"] >= 5
        outcomes.append(outcome)
    assert [name for name in names(outcomes) if name != "a_new.ge1"] == [f"old_{number}.ge1" for number in (1, 2, 3)]
    assert digests(outcomes) == [scans.expected_digest()] * 4


def test_files_of_one_name_have_archives_of_their_own(folder: Path, tmp_path: Path) -> None:
    growing = together(*(GE[1](folder / f"scan.ge{i}", scans.images(i - 1)) for i in (1, 2)))
    next(growing)
    said = scans.settings(tmp_path / "out", finished=ENOUGH, **GE[2])
    outcomes = run(folder, said, Beamline(growing))
    assert digests(outcomes) == [alone(tmp_path, 0), alone(tmp_path, 1)]
    assert len(list((tmp_path / "out").glob("scan*_raw.h5"))) == 2
    assert watch(folder, said) == []


def test_a_broken_one_ends_alone(folder: Path, tmp_path: Path) -> None:
    def shrinks() -> Iterator[int]:
        yield from list(GE[1](folder / "bad.ge1", scans.images(n_frames=4)))
        (folder / "bad.ge1").write_bytes(b"\1" * 64)
        yield 0

    growing = together(shrinks(), GE[1](folder / "good.ge1", scans.images()))
    next(growing)
    said = scans.settings(tmp_path / "out", **GE[2])
    outcomes = run(folder, said, Beamline(growing))
    assert names(outcomes) == ["bad.ge1", "good.ge1"]
    assert str(folder / "bad.ge1") in outcomes[0].error
    assert digests(outcomes[1:]) == [scans.expected_digest()]


def test_what_is_left_when_it_ends_is_begun_again(folder: Path, tmp_path: Path) -> None:
    growing = together(*(GE[1](folder / f"scan_{i}.ge1", scans.images(i)) for i in range(2)))
    for _ in range(6):
        next(growing)
    said = scans.settings(tmp_path / "out", finished=ENOUGH, **GE[2])
    beamline = Beamline(growing)
    first = FolderWatch(folder, load_settings(said), clock=beamline.clock)
    assert list(first.run(stopped=lambda: beamline.slept == 3)) == []
    left = list((tmp_path / "out").glob("*_raw.h5"))
    assert len(left) == 2
    assert digests(run(folder, said, Beamline(growing))) == [alone(tmp_path, i) for i in range(2)]
    assert sorted((tmp_path / "out").glob("*_raw.h5")) == sorted(left)

"""A folder that is watched: files that are there, that come, that grow, that are broken; and what a restart finds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_scans as scans
import hostile
import pytest

from hedmlive.callbacks import FolderWatch, Outcome, RawArchiveReader, load_settings
from hedmlive.callbacks.watch import Clock
from hedmlive.streaming import ArchiveError, SettingsError

GE, TIFF, SWMR, HDF5 = (scans.GROWING[kind] for kind in ("ge", "tiff", "swmr", "hdf5"))


class Beamline:
    """A clock whose sleep lets a detector write what comes next; when it has written all, the user goes home."""

    def __init__(self, writer: Iterator[Any] | None = None, *, every: int = 1, goes_home: bool = True) -> None:
        self.now = 1e9
        self.slept = 0
        self._writer = writer
        self._every = every
        self._goes_home = goes_home

    @property
    def clock(self) -> Clock:
        # Files of tests are dated by the real clock: they are as old as they are.
        return Clock(now=lambda: self.now, wall=lambda: 0.0, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1
        assert self.slept < 1000, "it waits for what never comes"
        for _ in range(self._every):
            if self._writer is not None and next(self._writer, None) is None:
                self._writer = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


def watch(folder: Path, said: dict[str, Any], beamline: Beamline | None = None) -> list[Outcome]:
    beamline = beamline or Beamline()
    return list(FolderWatch(folder, load_settings(said), clock=beamline.clock).run(once=True))


def digests(outcomes: list[Outcome]) -> list[str]:
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    assert [result.problems for result in results if result.problems] == []
    return [result.digests[0] for result in results]


@pytest.mark.parametrize("kind", list(scans.GROWING))
@pytest.mark.parametrize("every", [1, 5])
def test_a_file_that_grows(folder: Path, tmp_path: Path, kind: str, every: int) -> None:
    name, writer, changes = scans.GROWING[kind]
    growing = writer(folder / name, scans.images())
    next(growing)
    outcomes = watch(folder, scans.settings(tmp_path / "out", **changes), Beamline(growing, every=every))
    assert digests(outcomes) == [scans.expected_digest()]


@pytest.mark.parametrize("kind", ["ge", "tiff", "swmr"])
def test_frames_are_reduced_while_it_grows(folder: Path, tmp_path: Path, kind: str) -> None:
    name, writer, changes = scans.GROWING[kind]
    seen: list[int] = []
    settings = load_settings(scans.settings(tmp_path / "out", **changes))

    def written() -> Iterator[int]:
        for i in writer(folder / name, scans.images()):
            # What the archive of the run holds while the file grows, when the next frame has begun.
            found = list((tmp_path / "out").glob("*_raw.h5"))
            if found:
                with RawArchiveReader(found[0]) as archive:
                    seen.append(sum(name == "event" for name, _ in archive.documents(lazy=True)) - i)
            yield i

    growing = written()
    next(growing)
    outcomes = list(FolderWatch(folder, settings, clock=Beamline(growing).clock).run(once=True))
    assert digests(outcomes) == [scans.expected_digest()]
    # One frame is being written; of a series the last one waits for the next. Documents are flushed in time.
    assert max(seen) >= -1


def test_a_finished_frame_count_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    scans.whole(GE[1], folder / GE[0])
    said = scans.settings(tmp_path / "out", finished={"stable_seconds": 1e6, "frames": scans.N_FRAMES}, **GE[2])
    beamline = Beamline()
    assert digests(watch(folder, said, beamline)) == [scans.expected_digest()]
    assert beamline.slept <= 2


def test_a_closed_file_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    scans.whole(SWMR[1], folder / SWMR[0])
    said = scans.settings(tmp_path / "out", finished={"stable_seconds": 1e6}, **SWMR[2])
    beamline = Beamline()
    assert digests(watch(folder, said, beamline)) == [scans.expected_digest()]
    assert beamline.slept <= 2


def test_a_master_says_how_many_frames_will_come(folder: Path, tmp_path: Path) -> None:
    scans.write_eiger(folder / "scan_master.h5")
    said = scans.settings(tmp_path / "out", patterns={"det": "*_master.h5"}, finished={"stable_seconds": 1e6})
    said |= {"recipe": {**hostile.RECIPE, "sentinels": [2**32 - 1]}}
    said["watch"]["finished"]["closed"] = False
    beamline = Beamline()
    assert digests(watch(folder, said, beamline)) == [scans.expected_digest()]
    assert beamline.slept <= 2


def test_darks_that_come_last_hold_a_growing_file_up(folder: Path, tmp_path: Path) -> None:
    """How many darks there will be nobody has said: what is reduced before the end would have another background."""
    import h5py

    def written() -> Iterator[int]:
        with h5py.File(folder / "scan.h5", "w", libver="latest") as file:
            grow = {"maxshape": (None, *scans.SHAPE), "chunks": (1, *scans.SHAPE), "dtype": "u2"}
            data, dark = (file.create_dataset(f"exchange/{n}", (0, *scans.SHAPE), **grow) for n in ("data", "bright"))
            file.swmr_mode = True
            for dataset, frames in ((data, scans.images()), (dark, [scans.images()[0] * 0 + 3] * 2)):
                for i, frame in enumerate(frames):
                    dataset.resize(i + 1, axis=0)
                    dataset[i] = frame
                    dataset.flush()
                    yield i

    growing = written()
    next(growing)
    recipe = {**hostile.RECIPE, "background": "dark"}
    said = scans.settings(tmp_path / "out", profile={"dark": "exchange/bright"}) | {"recipe": recipe}
    first = watch(folder, said, Beamline(growing))
    again = watch(folder, said | {"archive": {"folder": str(tmp_path / "again")}})
    assert digests(first) == digests(again)


def test_files_one_after_the_other_and_a_broken_one_between(folder: Path, tmp_path: Path) -> None:
    for number in (1, 3):
        scans.whole(GE[1], folder / f"scan_{number}.ge1")
    (folder / "scan_2.ge1").write_bytes(b"too short")
    (folder / "notes.txt").write_text("not a file of frames")
    (folder / "dark_0.ge1").write_bytes(b"skipped")
    outcomes = watch(folder, scans.settings(tmp_path / "out", skip=["dark*"], **GE[2]))
    errors = {outcome.scan.first.name: outcome.error for outcome in outcomes}
    assert {name: bool(error) for name, error in errors.items()} == {
        "scan_1.ge1": False,
        "scan_2.ge1": True,
        "scan_3.ge1": False,
    }
    assert str(folder / "scan_2.ge1") in errors["scan_2.ge1"]
    assert "\n" not in errors["scan_2.ge1"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*_reduced.h5")) == [
        "scan_1_reduced.h5",
        "scan_3_reduced.h5",
    ]


def test_what_was_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    scans.whole(GE[1], folder / GE[0])
    scans.whole(TIFF[1], folder / TIFF[0])
    said = scans.settings(tmp_path / "out", **GE[2])
    assert digests(watch(folder, said)) == [scans.expected_digest()] * 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.h5")}
    assert watch(folder, said) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.h5")} == before


def test_a_sweep_that_is_repeated_under_its_name_is_another_run(folder: Path, tmp_path: Path) -> None:
    said = scans.settings(tmp_path / "out", **GE[2])
    scans.whole(GE[1], folder / GE[0])
    first = watch(folder, said)
    scans.whole(GE[1], folder / GE[0], scans.images(detector=1))
    second = watch(folder, said)
    elsewhere = watch(folder, said | {"archive": {"folder": str(tmp_path / "elsewhere")}})
    assert digests(first) == [scans.expected_digest()] != digests(second) == digests(elsewhere)
    assert len(list((tmp_path / "out").glob("scan_*_raw.h5"))) == 1
    assert (tmp_path / "out" / "scan_raw.h5").exists()


class Killed(BaseException):
    """The process dies; nothing that runs afterwards counts."""


@pytest.mark.parametrize("kind", ["ge", "swmr"])
def test_after_a_kill_it_is_done_again(folder: Path, tmp_path: Path, kind: str) -> None:
    name, writer, changes = scans.GROWING[kind]
    growing = writer(folder / name, scans.images())
    next(growing)
    said = scans.settings(tmp_path / "out", **changes)

    class Dies(Beamline):
        def sleep(self, seconds: float) -> None:
            if self.slept == 12:
                raise Killed
            super().sleep(seconds)

    with pytest.raises(Killed):
        watch(folder, said, Dies(growing))
    assert list((tmp_path / "out").glob("scan_raw.h5"))
    assert digests(watch(folder, said, Beamline(growing))) == [scans.expected_digest()]
    assert len(list((tmp_path / "out").glob("*_raw.h5"))) == 1
    assert watch(folder, said) == []


def test_archives_that_died_young_are_made_again(folder: Path, tmp_path: Path) -> None:
    scans.whole(GE[1], folder / GE[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scan_raw.h5").write_bytes(b"")
    assert digests(watch(folder, scans.settings(tmp_path / "out", **GE[2]))) == [scans.expected_digest()]


def test_archives_of_another_file_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    said = scans.settings(tmp_path / "out", **GE[2])
    scans.whole(GE[1], tmp_path / "other" / GE[0])
    watch(tmp_path / "other", said)
    before = (tmp_path / "out" / "scan_raw.h5").read_bytes()
    scans.whole(GE[1], folder / GE[0])
    assert digests(watch(folder, said)) == [scans.expected_digest()]
    assert (tmp_path / "out" / "scan_raw.h5").read_bytes() == before
    assert len(list((tmp_path / "out").glob("*_raw.h5"))) == 2


def test_a_file_that_goes_on_after_its_end(folder: Path, tmp_path: Path) -> None:
    scans.whole(GE[1], folder / GE[0], scans.images(n_frames=5))
    said = scans.settings(tmp_path / "out", **GE[2])
    watch(folder, said)
    with (folder / GE[0]).open("ab") as file:
        file.write(scans.images()[5].tobytes())
    (outcome,) = watch(folder, said)
    assert "holds 6 frames, its archive" in outcome.error
    assert "raise stable_seconds" in outcome.error


def test_archives_inside_the_folder_are_not_reduced(folder: Path) -> None:
    scans.write_npz(folder / "scan.npz")
    said = scans.settings(folder, planned=False, roles={"omega_start": "omega_start", "omega_end": "omega_end"})
    del said["omega_marks"]
    assert digests(watch(folder, said)) == [scans.expected_digest()]
    assert watch(folder, said) == []


def test_detectors_whose_files_come_at_different_times(folder: Path, tmp_path: Path) -> None:
    said = scans.settings(tmp_path / "out", patterns={"ge1": "*.ge1", "ge2": "*.ge2"}, **GE[2])
    said["detectors"] = [{"name": name, "image": f"{name}_image"} for name in ("ge1", "ge2")]

    def both() -> Iterator[int]:
        yield from GE[1](folder / "scan.ge1", scans.images(0))
        yield from GE[1](folder / "scan.ge2", scans.images(1))

    growing = both()
    next(growing)
    (outcome,) = watch(folder, said, Beamline(growing, every=3))
    assert outcome.result is not None
    assert outcome.result.digests == {number: scans.expected_digest(detector=number) for number in (0, 1)}


def test_a_detector_that_never_comes(folder: Path, tmp_path: Path) -> None:
    said = scans.settings(tmp_path / "out", patterns={"ge1": "*.ge1", "ge2": "*.ge2"}, **GE[2])
    said["detectors"] = [{"name": name, "image": f"{name}_image"} for name in ("ge1", "ge2")]
    scans.whole(GE[1], folder / "scan.ge1")
    (outcome,) = watch(folder, said)
    assert outcome.result is not None
    assert outcome.result.digests[0] == scans.expected_digest()
    assert "ge2_image" in "\n".join(outcome.result.problems)


def test_one_watch_for_one_folder_of_archives(folder: Path, tmp_path: Path) -> None:
    scans.whole(GE[1], folder / GE[0])
    settings = load_settings(scans.settings(tmp_path / "out", **GE[2]))
    first = FolderWatch(folder, settings, clock=Beamline().clock).run()
    next(first)
    with pytest.raises(ArchiveError, match="another `hedmlive watch`"):
        next(FolderWatch(folder, settings, clock=Beamline().clock).run())
    first.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("patterns", "says"),
    [({"nobody": "*.h5"}, "the detectors are"), ({"det": "/abs/*.h5"}, "below the folder"), ({"det": ""}, "pattern")],
)
def test_patterns_that_mean_nothing(folder: Path, tmp_path: Path, patterns: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        FolderWatch(folder, load_settings(scans.settings(tmp_path, patterns=patterns)))


def test_it_ends_when_it_is_told_to(folder: Path, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    running = FolderWatch(folder, load_settings(scans.settings(tmp_path / "out")), clock=Beamline().clock)
    assert list(running.run(stopped=lambda: next(asked))) == []
    assert next(asked, None) is None


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such folder"):
        FolderWatch(tmp_path / "nowhere", load_settings(scans.settings(tmp_path)))

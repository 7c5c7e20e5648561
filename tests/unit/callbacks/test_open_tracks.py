"""Open tracks are shown while a run goes on, and none is left when it is over."""

import json
from pathlib import Path

import hostile

from hedmlive.callbacks import Parts, Progress, RunReduction, load_settings
from hedmlive.streaming import OPEN_TRACKS


def test_open_tracks_are_what_may_still_grow(tmp_path: Path) -> None:
    now = [0.0]
    parts = Parts(clock=lambda: now[0])
    made = load_settings(hostile.settings(tmp_path, worker={"threads": 1}))
    docs = hostile.run("array", tmp_path)
    reduction = RunReduction(made, docs[0][1], tmp_path / "reduced.h5", parts=parts)
    seen: list[int] = []
    for name, doc in docs:
        now[0] += 1
        reduction.push(name, doc)
        shown = reduction.progress.open_tracks
        if reduction.progress.n_frames:
            assert len(shown[0]["track"]) == reduction.progress.n_open
            assert (shown[0]["n_peaks"] > 0).all()
            seen.append(len(shown[0]["track"]))
            check_published(reduction.progress)
    assert max(seen) > 0
    reduction.finish()
    reduction.close()
    assert reduction.progress.open_tracks == ()
    assert reduction.progress.published()["brightest_open"] == []


def check_published(progress: Progress) -> None:
    """The brightest are published, as JSON has no NaN and no type of numpy."""
    rows, found = progress.open_tracks[0], json.loads(json.dumps(progress.published(), allow_nan=False))
    assert found["n_open"] == progress.n_open
    brightest = found["brightest_open"]
    assert [each["sum_intensity"] for each in brightest] == sorted(rows["sum_intensity"].tolist(), reverse=True)[:5]
    for each in brightest:
        (at,) = (rows["track"] == each["track"]).nonzero()[0]
        assert each["detector"] == 0
        assert all(each[name] == rows[name][at] for name in OPEN_TRACKS.names)

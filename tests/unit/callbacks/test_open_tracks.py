"""Open tracks are shown while a run goes on, and none is left when it is over."""

from pathlib import Path

import hostile

from hedmlive.callbacks import Parts, RunReduction, load_settings


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
    assert max(seen) > 0
    reduction.finish()
    reduction.close()
    assert reduction.progress.open_tracks == ()

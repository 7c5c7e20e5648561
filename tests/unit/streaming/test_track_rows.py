"""The rows of open tracks: free when their track closes, in memory that grows."""

import numpy as np
import pytest

from hedmlive.streaming import Background, PeakFinder, Recipe
from hedmlive.streaming.linking import Linker, Position
from hedmlive.streaming.track_rows import Memory
from hedmlive.streaming.tracks import Tracker
from hedmlive.streaming.trajectory import InOrder


@pytest.mark.parametrize("looked_at", [False, True])
def test_memory_keeps_what_it_holds_when_it_grows(looked_at: bool) -> None:
    memory = Memory(4)
    values = np.frombuffer(memory.grown(3), np.int32)
    values[:] = 1, 2, 3
    kept = values if looked_at else None
    del values
    more = np.frombuffer(memory.grown(1_000_000), np.int32)
    more[-1] = 7
    assert (more[:4].tolist(), more[-1], len(more)) == ([1, 2, 3, 0], 7, 1_000_000)
    assert kept is None or kept.tolist() == [1, 2, 3]
    del more
    assert np.frombuffer(memory.grown(2), np.int32).tolist() == [1, 2]


def test_memory_follows_what_is_open_and_not_what_closed() -> None:
    """Beside a pixel that is lit in every frame, whose track closes last."""
    recipe = Recipe(threshold=5, min_pixels=1, wrap=False)
    background, finder = Background(recipe), PeakFinder(recipe)
    linker, tracker = Linker(recipe), Tracker(recipe, InOrder())
    rng = np.random.default_rng(4)
    n_frames, n_bytes, n_closed = 200, [], 0
    for number in range(n_frames):
        image = np.zeros((64, 64), np.uint16)
        image[0, 0] = 100
        image[2::4, 2::4] = np.where(rng.random((16, 16)) < 0.5, 100, 0)
        found = finder.push(number, number + 0.5, background.push(image))
        at = Position(frame=number, omega_start=number, omega_end=number + 1, place=(0.0, 0.0, 0.0))
        closed = tracker.push(at, found, linker.push(at, found))
        n_closed += len(closed["tracks"]["track"]) if "tracks" in closed else 0
        n_bytes.append(tracker.n_bytes)
    assert n_closed > 10 * tracker.n_open
    assert n_bytes[-1] < 1.5 * n_bytes[20]
    end = tracker.follow(linker.flush())
    assert end["tracks"]["n_frames"].max() == n_frames

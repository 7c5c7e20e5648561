"""What the scripts beside this one share: they search frames in a peer's own environment, on request, with numpy only.

A request is a line of JSON on standard input, its answer a line on standard output; see `serve`. Whoever starts them
sees to it that libraries use one thread.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
Found = tuple[Array, Array, Array]
"Rows, columns and summed intensity of the peaks of a frame."
Search = Callable[[Array], Found]
Prepare = Callable[[Array, Array], Search]
"Dark (float32) and mask (0 where valid) to a search."

THRESHOLD = 25.0
MIN_PIXELS = 3


def serve(searches: dict[str, Prepare], others: dict[str, Callable[[Path], None]] | None = None) -> None:
    """Answer requests until standard input ends.

    ``{"folder": F, "search": NAME, "frames": N}`` searches the first N frames of F/frames.npy one by one; the answer
    holds the seconds that the processor spent on each, and the peaks are written to F/NAME.npz.
    ``{"other": NAME, "folder": F}`` calls one of `others` with the folder.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    ready: dict[tuple[str, str], Search] = {}
    frames: dict[str, Array] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        if "other" in asked:
            (others or {})[asked["other"]](folder)
            answer: dict[str, Any] = {}
        else:
            key = (asked["folder"], asked["search"])
            if asked["folder"] not in frames:
                frames = {asked["folder"]: np.load(folder / "frames.npy")}
            images = frames[asked["folder"]]
            if key not in ready:
                ready[key] = searches[asked["search"]](np.load(folder / "dark.npy"), np.load(folder / "mask.npy"))
                ready[key](images[0])
            answer = {"seconds": _search(ready[key], images[: asked["frames"]], folder / f"{asked['search']}.npz")}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def sums_by_label(above: Array, labels: Array, n: int) -> Found:
    """Return the centroids and sums of the labels with enough pixels."""
    place = np.flatnonzero(labels)
    label, value = labels.ravel()[place], above.ravel()[place]
    row, col = np.divmod(place, above.shape[1])
    n_pixels = np.bincount(label, minlength=n + 1)
    total, by_row, by_col = (
        np.bincount(label, weights=each, minlength=n + 1) for each in (value, value * row, value * col)
    )
    keep = n_pixels >= MIN_PIXELS
    keep[0] = False
    return by_row[keep] / total[keep], by_col[keep] / total[keep], total[keep]


def _search(search: Search, images: Array, path: Path) -> list[float]:
    seconds: list[float] = []
    found: list[Found] = []
    for image in images:
        start = time.process_time()
        peaks = search(image)
        seconds.append(time.process_time() - start)
        found.append(peaks)
    number = np.repeat(np.arange(len(found)), [len(each[0]) for each in found])
    row, col, intensity = (np.concatenate([np.asarray(each[k], float) for each in found]) for k in range(3))
    np.savez(path, frame=number, row=row, col=col, intensity=intensity)
    return seconds

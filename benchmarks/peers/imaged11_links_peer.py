"""ImageD11's links and merged spots of peaks that a file holds, from its parts, as its own scripts put them together.

For each line on standard input it links all of them once and answers with the seconds that the processor spent.
"""

import json
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
from ImageD11 import sparseframe  # pyright: ignore[reportMissingImports]
from ImageD11.sinograms import properties  # pyright: ignore[reportMissingImports]

Array = Any


class Row:
    """The frames at one dty: what `properties` asks of a `SparseScan`."""

    def __init__(self, given: dict[str, Array], frames: Array, number: int) -> None:
        ends = np.cumsum(given["nnz"])
        self._slices = [slice(int(ends[each] - given["nnz"][each]), int(ends[each])) for each in frames]
        self._given = given
        self.nnz, self.nlabels = given["nnz"][frames], given["n_peaks"][frames]
        self.motors = {"omega": given["omega"][frames]}
        self.sinorow = number

    def getframe(self, i: int) -> Any:
        where = self._slices[i]
        row, col, labels = (self._given[name][where] for name in ("row", "col", "labels"))
        return sparseframe.sparse_frame(row, col, (2048, 2048), itype=np.uint16, pixels={"labels": labels})


def main() -> None:
    given: dict[str, Array] = dict(np.load(sys.argv[1]))
    given |= {name: given[name].astype(np.uint16) for name in ("row", "col")}
    given["labels"] = given["peak"].astype(np.int32) + 1
    places = [np.flatnonzero(given["dty"] == each) for each in np.unique(given["dty"])]
    order = np.concatenate(places)
    rows = [Row(given, frames, number) for number, frames in enumerate(places)]
    offsets = np.concatenate([[0], np.cumsum(given["n_peaks"][order])])
    sums = _sums(given, order)
    answers, sys.stdout = sys.stdout, sys.stderr
    _link(rows, offsets, sums, given, order)
    for _ in sys.stdin:
        start = time.process_time()
        n = _link(rows, offsets, sums, given, order)
        answers.write(json.dumps({"seconds": time.process_time() - start, "n_tracks": n}) + "\n")
        answers.flush()


def _sums(given: dict[str, Array], order: Array) -> Array:
    """Return pixels, intensity, its moments and the frame of each peak: they are there before anything is linked."""
    ends = np.cumsum(given["nnz"])
    parts: list[Array] = []
    for place, frame in enumerate(order.tolist()):
        where = slice(int(ends[frame] - given["nnz"][frame]), int(ends[frame]))
        labels, weight = given["labels"][where], given["intensity"][where].astype(np.int64)
        row, col = given["row"][where], given["col"][where]
        n = int(given["n_peaks"][frame]) + 1
        weights = (None, weight, weight * row, weight * col)
        found = [np.bincount(labels, weights=each, minlength=n)[1:] for each in weights]
        parts.append(np.array([*found, np.full(n - 1, place)], np.int64))
    return np.concatenate(parts, axis=1)


def _link(rows: list[Row], offsets: Array, sums: Array, given: dict[str, Array], order: Array) -> int:
    starts = np.concatenate([[0], np.cumsum([len(row.nnz) for row in rows])])
    pairs = [properties.pairrow(row, number) for number, row in enumerate(rows)]
    pairs += [properties.pairscans(b, a) for a, b in pairwise(rows)]
    n = sum(count for some in pairs for count, _ in some.values())
    joined = np.empty((2, n), np.int64)
    end = 0
    for some in pairs:
        for (row_a, frame_a, row_b, frame_b), (count, labels) in some.items():
            if count:
                joined[0, end : end + count] = offsets[starts[row_a] + frame_a] + labels[:, 0] - 1
                joined[1, end : end + count] = offsets[starts[row_b] + frame_b] + labels[:, 1] - 1
                end += count
    n_tracks, label = properties.find_ND_labels(joined[0], joined[1], sums.shape[1], verbose=0)
    out = np.zeros((7, n_tracks))
    properties.numbapkmerge(label, sums, given["omega"][order], given["dty"][order], out)
    return int(n_tracks)


if __name__ == "__main__":
    main()

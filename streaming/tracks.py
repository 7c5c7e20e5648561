"""Tracks: connected components of the links, closed as soon as no frame still to come can join them."""

import numpy as np

from . import kernels
from .linking import Position
from .peaks import PeaksOfFrame
from .tables import MEMBERS, TRACK_BASE, TRACKS, Batches, Columns

_NUMBERS = ("sum_intensity", "max_intensity", "row", "col", "n_pixels", "n_saturated", "on_edge")
_LISTS = ("parent", "following", "last", "mark")
_ROW = np.dtype(
    [(name, np.int64) for name in ("frame", "peak", *_LISTS)]
    + [("held", np.bool_)]
    + [(name, np.float64) for name in ("omega_start", "omega_end", *_NUMBERS)]
)
_FIRST_CAPACITY = 1024


class _Rows:
    """The peaks of open tracks, one row each, in order of (frame, peak).

    A track is a linked list of rows (`kernels.join_tracks`). Rows of closed tracks are swept out now and then. Only the
    numbers that a track needs are kept: a hot pixel, a track that never ends, must not keep whole frames in memory.
    """

    def __init__(self) -> None:
        self.n = 0
        self._n_taken = 0
        self._tick = 0
        self._rows = np.empty(_FIRST_CAPACITY, _ROW)

    def append(self, position: Position, found: PeaksOfFrame, *, held: bool) -> None:
        """Add the peaks of one frame, each a track of its own."""
        count = len(found.peaks["peak"])
        if self.n + count > len(self._rows):
            self._rows = np.resize(self._rows[: self.n], max(self.n + count, 2 * len(self._rows)))
        new = self._rows[self.n : self.n + count]
        new["frame"] = found.frame
        new["peak"] = found.peaks["peak"]
        new["parent"] = new["last"] = np.arange(self.n, self.n + count)
        new["following"] = -1
        new["mark"] = 0
        new["held"] = held
        new["omega_start"] = position.omega_start
        new["omega_end"] = position.omega_end
        for name in _NUMBERS:
            new[name] = found.peaks[name]
        self.n += count

    def join(self, row_a: np.ndarray, row_b: np.ndarray) -> int:
        """Join the tracks of linked rows; return how many tracks fewer there are."""
        rows = self._rows
        return kernels.join_tracks(row_a, row_b, rows["parent"], rows["following"], rows["last"], rows["held"])

    def ended(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Return the roots of the tracks that have a row in `old`, none in `new`, and are not held."""
        self._tick += 1
        roots = np.empty(len(old), np.int64)
        rows = self._rows
        n = kernels.ended_tracks(old, new, rows["held"], rows["parent"], rows["mark"], self._tick, roots)
        # A root is the lowest row, so this is the order of the first peaks.
        return np.sort(roots[:n])

    def roots(self) -> np.ndarray:
        """Return the roots of all tracks."""
        return np.flatnonzero(self._rows["parent"][: self.n] == np.arange(self.n))

    def take(self, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Take tracks out: return the place in `roots`, the row and the numbers of each of their rows, in order."""
        track, row = np.empty(self.n, np.int64), np.empty(self.n, np.int64)
        n = kernels.take_tracks(roots, self._rows["parent"], self._rows["following"], track, row)
        self._n_taken += n
        track, row = track[:n], row[:n]
        row = row[np.lexsort((row, track))]
        taken = self._rows[row]
        return track, row, {name: np.ascontiguousarray(taken[name]) for name in _ROW.names or () if name not in _LISTS}

    def sweep(self) -> None:
        """Forget the rows that were taken, once they are more than the others."""
        if 2 * self._n_taken <= self.n:
            return
        keep = np.flatnonzero(self._rows["parent"][: self.n] >= 0)
        place = np.full(self.n + 1, -1)
        place[keep] = np.arange(len(keep))
        kept = self._rows[keep]
        for name in ("parent", "following", "last"):
            # The end of a list, -1, picks the last place, which is -1. Only a root's `last` is ever read.
            kept[name] = place[kept[name]]
        self._rows[: len(keep)] = kept
        self.n, self._n_taken = len(keep), 0


class Tracker:
    """Follows connected peaks from frame to frame.

    A track without a peak in the newest frame is closed, for only the newest frame can still get a neighbour; if the
    scan may turn out to be a full turn, tracks that touch its first frame stay open to the end. What has closed never
    changes. Sums run over the members in order of (frame, peak), so that they do not depend on how a track grew.

    Parameters
    ----------
    wrap
        Whether the last frame may be linked with the first.
    """

    def __init__(self, *, wrap: bool) -> None:
        self._wrap = wrap
        self._rows = _Rows()
        self._n_first: int | None = None
        self._n_newest = 0
        self._n_open = 0

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._n_open

    def push(self, position: Position, found: PeaksOfFrame, links: Columns) -> Batches:
        """Take in one frame and its links with the frame before; return the tracks that closed."""
        rows = self._rows
        held = self._wrap and self._n_first is None
        start = rows.n
        old = self._newest()
        rows.append(position, found, held=held)
        new = np.arange(start, rows.n)
        self._n_newest = len(new)
        if self._n_first is None:
            self._n_first = len(new) if held else 0
        self._n_open += len(new)
        if len(links["peak_a"]):
            self._n_open -= rows.join(old[links["peak_a"]], new[links["peak_b"]])
        return self._close(rows.ended(old, new), old[:0], 0.0)

    def flush(self, wrap_links: Columns, direction: float) -> Batches:
        """Link the last frame with the first, close every track and return it.

        Parameters
        ----------
        wrap_links
            Links of the last frame with the first.
        direction
            Sense of the sweep, 1 or -1, to unwrap the rotation of tracks that wrap.
        """
        # The peaks of the first frame are the first rows, for their tracks are held.
        first = np.arange(self._n_first or 0)[wrap_links["peak_b"]]
        last = self._newest()[wrap_links["peak_a"]]
        self._n_open -= self._rows.join(last, first)
        self._n_newest = self._n_first = 0
        return self._close(self._rows.roots(), last, 360.0 * direction)

    def _newest(self) -> np.ndarray:
        """Return the rows of the newest frame: the last ones, for none of its peaks is in a closed track."""
        return np.arange(self._rows.n - self._n_newest, self._rows.n)

    def _close(self, roots: np.ndarray, wrapped: np.ndarray, turn: float) -> Batches:
        if not len(roots):
            return {}
        track, row, numbers = self._rows.take(roots)
        self._rows.sweep()
        self._n_open -= len(roots)
        starts = np.flatnonzero(np.diff(track, prepend=-1))
        wraps = np.logical_or.reduceat(np.isin(row, wrapped), starts)
        _unwrap(numbers, starts, wraps, turn)
        return _summary(track, starts, wraps, numbers)


def _unwrap(numbers: Columns, starts: np.ndarray, wraps: np.ndarray, turn: float) -> None:
    """Turn back what lies after the widest gap in the frames of a wrapping track; one all the way round has no gap."""
    ends = np.append(starts[1:], len(numbers["frame"]))
    for start, end in zip(starts[wraps].tolist(), ends[wraps].tolist(), strict=True):
        gaps = np.diff(numbers["frame"][start:end])
        if gaps.max() > 1:
            late = start + 1 + int(gaps.argmax())
            numbers["omega_start"][late:end] -= turn
            numbers["omega_end"][late:end] -= turn


def _summary(track: np.ndarray, starts: np.ndarray, wraps: np.ndarray, numbers: Columns) -> Batches:
    """Return the tables `tracks` and `members` of tracks whose members follow each other, track k from starts[k]."""
    frame, peak = numbers["frame"], numbers["peak"]
    first, last = numbers["omega_start"], numbers["omega_end"]
    name = frame[starts] * TRACK_BASE + peak[starts]
    sums = np.zeros((len(starts), 4))
    values = np.stack([numbers["row"], numbers["col"], 0.5 * (first + last)], axis=1)
    kernels.ordered_sums(track, numbers["sum_intensity"], values, sums)
    omega_min = np.minimum.reduceat(np.minimum(first, last), starts)
    omega_max = np.maximum.reduceat(np.maximum(first, last), starts)
    new_frame = np.diff(frame, prepend=-1) != 0
    new_frame[starts] = True
    saturated = np.add.reduceat(numbers["n_saturated"], starts)
    tracks = {
        "track": name,
        "n_peaks": np.diff(starts, append=len(track)),
        "n_frames": np.add.reduceat(new_frame.astype(np.int64), starts),
        "first_frame": np.minimum.reduceat(frame, starts),
        "last_frame": np.maximum.reduceat(frame, starts),
        "omega": sums[:, 2] / sums[:, 3],
        "omega_min": omega_min,
        "omega_max": omega_max,
        "omega_width": omega_max - omega_min,
        "row": sums[:, 0] / sums[:, 3],
        "col": sums[:, 1] / sums[:, 3],
        "sum_intensity": sums[:, 3],
        "max_intensity": np.maximum.reduceat(numbers["max_intensity"], starts),
        "n_pixels": np.add.reduceat(numbers["n_pixels"], starts),
        # One unknown full scale makes all unknown: -1 of every member, not a sum of them.
        "n_saturated": np.where(numbers["n_saturated"][starts] < 0, -1, saturated),
        "on_edge": np.maximum.reduceat(numbers["on_edge"], starts) > 0,
        "wraps": wraps,
    }
    members = {"track": name[track], "frame": frame, "peak": peak}
    return {"tracks": TRACKS.batch(tracks), "members": MEMBERS.batch(members)}

"""Tracks: connected components of the links, closed as soon as no frame still to come can join them."""

import math
from collections.abc import Mapping

import numpy as np

from . import track_kernels
from .linking import Ending, Linked, Position
from .peaks import PeaksOfFrame
from .tables import MEMBERS, OPEN_TRACKS, TABLES, TRACK_BASE, Batches, Columns, Table, motors_of_tracks
from .trajectory import Trajectory

_OF_PEAKS = (
    "sum_intensity",
    "max_intensity",
    "row",
    "col",
    "var_row",
    "var_col",
    "cov_row_col",
    "n_pixels",
    "n_saturated",
    "on_edge",
)
_LISTS = ("parent", "following", "last")
_WHOLE = (*_LISTS, "frame", "peak", "level", "waiting", "wraps", "flags")
_FIRST_CAPACITY = 1024


class _Rows:
    """The peaks of open tracks, one row each, in the order in which their frames came.

    Rows of closed tracks are swept out now and then. Only the numbers that a track needs are kept: a hot pixel, a track
    that never ends, must not keep whole frames in memory. Each number has an array of its own: numpy copies one that is
    contiguous several times as fast as a field of records.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.n = 0
        self._n_taken = 0
        self.names = names
        self._whole = np.empty((len(_WHOLE), _FIRST_CAPACITY), np.int64)
        self._numbers = np.empty((len(names), _FIRST_CAPACITY))
        self._starts: dict[int, tuple[int, int]] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return all rows of one whole number."""
        return self._whole[_WHOLE.index(name)]

    def append(self, frame: int, peaks: np.ndarray, level: int, numbers: Mapping[str, np.ndarray | float]) -> None:
        """Add the peaks of one frame, each a track of its own that waits for the neighbours of that frame."""
        start, end = self.n, self.n + len(peaks)
        if end > self._whole.shape[1]:
            more = max(end, 2 * self._whole.shape[1]) - self._whole.shape[1]
            self._whole = np.pad(self._whole, ((0, 0), (0, more)))
            self._numbers = np.pad(self._numbers, ((0, 0), (0, more)))
        new = self._whole[:, start:end]
        own = np.arange(start, end)
        for place, values in enumerate((own, -1, own, frame, peaks, level, 1, 0, 0)):
            new[place] = values
        for place, name in enumerate(self.names):
            self._numbers[place, start:end] = numbers[name]
        self._starts[frame] = (start, end)
        self.n = end

    def join(self, linked: Linked) -> int:
        """Join the tracks of linked peaks; return how many tracks fewer there are."""
        fewer = 0
        kept = (self["parent"], self["following"], self["last"], self["waiting"], self["wraps"])
        for joined in linked.joined:
            row_a = self._starts[joined.frame_a][0] + joined.peak_a.astype(np.int64)
            row_b = self._starts[joined.frame_b][0] + joined.peak_b.astype(np.int64)
            fewer += track_kernels.join_tracks(row_a, row_b, joined.wraps, *kept)
        return fewer

    def resolve(self, frame: int, ending: Ending) -> np.ndarray:
        """Take in that a frame's neighbours are known; return the roots of the tracks that wait for no other."""
        start, end = self._starts.pop(frame)
        roots = np.empty(end - start, np.int64)
        kept = (self["parent"], self["waiting"], self["flags"])
        n = track_kernels.resolve_rows(start, end, int(ending), *kept, roots)
        return roots[:n]

    def take(self, roots: np.ndarray) -> tuple[np.ndarray, Columns]:
        """Take tracks out: return the number of the track, and the numbers, of each of their peaks.

        Tracks are numbered from 0 in the order of their first peak; their peaks follow each other in order.
        """
        track, row = np.empty(self.n, np.int64), np.empty(self.n, np.int64)
        n = track_kernels.take_tracks(roots, self["parent"], self["following"], track, row)
        self._n_taken += n
        track, row = track[:n], row[:n]
        order = np.lexsort((self["peak"][row], self["frame"][row], track))
        track, row = track[order], row[order]
        # The root is the row that came first; a track is named for the peak that is first in number.
        starts = np.flatnonzero(np.diff(track, prepend=-1))
        first = row[starts]
        by_name = np.lexsort((self["peak"][first], self["frame"][first]))
        if (by_name != np.arange(len(by_name))).any():
            rank = np.empty(len(by_name), np.int64)
            rank[by_name] = np.arange(len(by_name))
            order = np.argsort(rank[track], kind="stable")
            track, row = rank[track][order], row[order]
        return track, self._picked(row)

    def open(self) -> tuple[np.ndarray, Columns]:
        """Return the number of the track, and the numbers, of each peak of an open track."""
        row = np.flatnonzero(self["parent"][: self.n] >= 0)
        parent = self["parent"]
        root = parent[row]
        while (parent[root] != root).any():
            root = parent[root]
        order = np.lexsort((self["peak"][row], self["frame"][row], root))
        return np.cumsum(np.diff(root[order], prepend=-1) != 0) - 1, self._picked(row[order])

    def sweep(self) -> None:
        """Forget the rows that were taken, once they are more than the others."""
        if 2 * self._n_taken <= self.n:
            return
        keep = np.flatnonzero(self["parent"][: self.n] >= 0)
        place = np.full(self.n + 1, -1)
        place[keep] = np.arange(len(keep))
        whole = self._whole[:, keep]
        # The end of a list, -1, picks the last place, which is -1. Only a root's `last` is ever read.
        whole[: len(_LISTS)] = place[whole[: len(_LISTS)]]
        self._whole[:, : len(keep)] = whole
        self._numbers[:, : len(keep)] = self._numbers[:, keep]
        # No row of a frame that waits is ever taken: they stay next to each other.
        n_before = np.cumsum(place[:-1] >= 0)
        for frame, (start, end) in self._starts.items():
            now = int(n_before[start]) - 1 if end > start else 0
            self._starts[frame] = (now, now + end - start)
        self.n, self._n_taken = len(keep), 0

    def _picked(self, row: np.ndarray) -> Columns:
        whole, numbers = self._whole[:, row], self._numbers[:, row]
        return dict(zip(_WHOLE, whole, strict=True)) | dict(zip(self.names, numbers, strict=True))


class Tracker:
    """Follows linked peaks through the scan.

    A track is open while a frame that holds one of its peaks waits for a neighbour; then it closes, and never changes.
    Sums run over its peaks in the order of (frame, peak), so that they do not depend on how it grew.

    Parameters
    ----------
    trajectory
        Says where a frame lies on the circle.
    table
        The table ``tracks``, as `tables_with_roles` makes it.
    """

    def __init__(self, trajectory: Trajectory, table: Table | None = None) -> None:
        self._trajectory = trajectory
        self._table = table or TABLES["tracks"]
        self._motors = tuple(name for name, _ in motors_of_tracks(self._table))
        self._rows = _Rows(("omega_start", "omega_end", *self._motors, *_OF_PEAKS))
        self._n_open = 0

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._n_open

    def push(self, position: Position, found: PeaksOfFrame, linked: Linked) -> Batches:
        """Take in one frame and what its links are; return the tracks that closed."""
        frame = position.frame
        turn = self._trajectory.turn(frame)
        numbers: dict[str, np.ndarray | float] = {
            "omega_start": position.omega_start - turn,
            "omega_end": position.omega_end - turn,
            **{name: position.roles.get(name, math.nan) for name in self._motors},
            **{name: found.peaks[name] for name in _OF_PEAKS},
        }
        self._rows.append(frame, found.peaks["peak"], self._trajectory.level(frame), numbers)
        self._n_open += len(found.peaks["peak"])
        return self.follow(linked)

    def follow(self, linked: Linked) -> Batches:
        """Take in links, and frames whose neighbours are known; return the tracks that closed."""
        self._n_open -= self._rows.join(linked)
        ended = [self._rows.resolve(frame, ending) for frame, ending in linked.resolved]
        roots = np.concatenate(ended) if ended else np.empty(0, np.int64)
        if not len(roots):
            return {}
        track, numbers = self._rows.take(roots)
        self._rows.sweep()
        self._n_open -= len(roots)
        starts = np.flatnonzero(np.diff(track, prepend=-1))
        numbers["wraps"] = np.maximum.reduceat(numbers["wraps"], starts)
        self._unwrap(numbers, starts)
        name, columns = self._summary(track, starts, numbers)
        members = {"track": name[track], "frame": numbers["frame"], "peak": numbers["peak"]}
        return {"tracks": self._table.batch(columns), "members": MEMBERS.batch(members)}

    def open_tracks(self) -> Columns:
        """Return the open tracks as they are now: rows of `OPEN_TRACKS`.

        A track may still join another; it then goes on under the lower of both names.
        """
        track, numbers = self._rows.open()
        if not len(track):
            return OPEN_TRACKS.empty()
        starts = np.flatnonzero(np.diff(track, prepend=-1))
        numbers["wraps"] = np.maximum.reduceat(numbers["wraps"], starts)
        _, columns = self._summary(track, starts, numbers)
        return OPEN_TRACKS.batch({name: columns[name] for name in OPEN_TRACKS.names})

    def _unwrap(self, numbers: Columns, starts: np.ndarray) -> None:
        """Turn back what lies after the widest gap of a wrapping track; one all the way round has no gap."""
        ends = np.append(starts[1:], len(numbers["frame"]))
        wraps = numbers["wraps"] > 0
        for start, end in zip(starts[wraps].tolist(), ends[wraps].tolist(), strict=True):
            level = numbers["level"][start:end]
            taken = np.unique(level)
            gaps = np.diff(taken)
            if len(gaps) and gaps.max() > 1:
                late = start + np.flatnonzero(level > taken[int(gaps.argmax())])
                numbers["omega_start"][late] -= 360.0 * self._trajectory.sense
                numbers["omega_end"][late] -= 360.0 * self._trajectory.sense

    def _summary(self, track: np.ndarray, starts: np.ndarray, numbers: Columns) -> tuple[np.ndarray, Columns]:
        """Return the names and columns of tracks whose peaks follow each other, those of track k from starts[k]."""
        frame, weight = numbers["frame"], numbers["sum_intensity"]
        first, last = numbers["omega_start"], numbers["omega_end"]
        omega = 0.5 * (first + last)
        means = _means(track, len(starts), weight, [numbers["row"], numbers["col"], omega])
        row, col, turn, total = means
        d_row, d_col, d_turn = numbers["row"] - row[track], numbers["col"] - col[track], omega - turn[track]
        moments = _means(
            track,
            len(starts),
            weight,
            [
                numbers["var_row"] + d_row * d_row,
                numbers["var_col"] + d_col * d_col,
                numbers["cov_row_col"] + d_row * d_col,
                d_turn * d_turn,
                d_row * d_turn,
                d_col * d_turn,
                (last - first) ** 2,
            ],
        )
        omega_min = np.minimum.reduceat(np.minimum(first, last), starts)
        omega_max = np.maximum.reduceat(np.maximum(first, last), starts)
        new_frame = np.diff(frame, prepend=-1) != 0
        new_frame[starts] = True
        saturated = np.add.reduceat(numbers["n_saturated"], starts)
        flags = np.bitwise_or.reduceat(numbers["flags"], starts)
        name = frame[starts] * TRACK_BASE + numbers["peak"][starts]
        columns = {
            "track": name,
            "n_peaks": np.diff(starts, append=len(track)),
            "n_frames": np.add.reduceat(new_frame.astype(np.int64), starts),
            "first_frame": np.minimum.reduceat(frame, starts),
            "last_frame": np.maximum.reduceat(frame, starts),
            "omega": turn,
            "omega_min": omega_min,
            "omega_max": omega_max,
            "omega_width": omega_max - omega_min,
            "row": row,
            "col": col,
            "sum_intensity": total,
            "max_intensity": np.maximum.reduceat(numbers["max_intensity"], starts),
            "n_pixels": np.add.reduceat(numbers["n_pixels"], starts),
            # One unknown full scale makes all unknown: -1 of every member, not a sum of them.
            "n_saturated": np.where(numbers["n_saturated"][starts] < 0, -1, saturated),
            "on_edge": np.maximum.reduceat(numbers["on_edge"], starts) > 0,
            "wraps": numbers["wraps"] > 0,
            **dict(zip(_MOMENTS, moments, strict=False)),
            # Sheppard's correction: a frame gathers what lies within its width s, which adds s^2 / 12 to the variance.
            "omega_sigma": np.sqrt(np.maximum(moments[3] - moments[6] / 12, 0.0)),
            "at_scan_end": (flags & Ending.SCAN_END) > 0,
            "beside_missing": (flags & Ending.MISSING) > 0,
        }
        for motor in self._motors:
            mean = _means(track, len(starts), weight, [numbers[motor]])[0]
            columns[motor] = mean
            columns[f"var_{motor}"] = _means(track, len(starts), weight, [(numbers[motor] - mean[track]) ** 2])[0]
        return name, columns


_MOMENTS = ("var_row", "var_col", "cov_row_col", "var_omega", "cov_row_omega", "cov_col_omega")


def _means(track: np.ndarray, n_tracks: int, weight: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
    """Return the weighted means over each track, and in the last row the sum of the weights."""
    sums = np.zeros((len(values) + 1, n_tracks))
    track_kernels.ordered_sums(track, weight, np.stack(values), sums)
    sums[:-1] /= sums[-1]
    return sums

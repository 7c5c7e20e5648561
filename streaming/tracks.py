"""Tracks: connected components of the links, closed as soon as no frame still to come can join them."""

import math
from operator import itemgetter

import numpy as np

from . import track_kernels
from .link_rules import Reason
from .linking import Ending, JoinedFrames, Linked, Position
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import MEMBERS, OPEN_TRACKS, TABLES, TRACK_BASE, Batches, Columns, Table, motors_of_tracks
from .track_kernels import (
    BEHIND,
    COL,
    FLAGS,
    FOLLOWING,
    FRAME,
    LAST,
    LEVEL,
    MARKS,
    PARENT,
    PEAK,
    ROW,
    SLOT,
    SUM,
    WIDTH,
    WRAPS,
)
from .trajectory import Trajectory
from .valleys import valley_cuts

_SUMS_OF_PEAKS = ("sum_intensity", "max_intensity", "row", "col", "var_row", "var_col", "cov_row_col")
# What `track_kernels.summaries` writes, in its order.
_LONG = ("track", "first_frame", "last_frame", "n_pixels", "n_saturated")
_COUNTS = ("n_peaks", "n_frames")
_TOLD = ("on_edge", "wraps", "on_mask", "at_scan_end", "beside_missing")
_SUMS = (
    "omega",
    "omega_min",
    "omega_max",
    "omega_width",
    "row",
    "col",
    "sum_intensity",
    "max_intensity",
    "var_row",
    "var_col",
    "cov_row_col",
    "var_omega",
    "cov_row_omega",
    "cov_col_omega",
    "omega_sigma",
)
_SPARE = 4096
"Rows for which there is room beyond those that are needed, at least."
_FIRST_CAPACITY = 1024


class _Rows:
    """The peaks of open tracks, one row each, in the order in which their frames came (`track_kernels`).

    Rows of closed tracks are swept out now and then. Only the numbers that a track needs are kept: a hot pixel, a track
    that never ends, must not keep whole frames in memory.
    """

    def __init__(self, n_motors: int) -> None:
        self.n = 0
        self._n_taken = 0
        self._n_motors = n_motors
        # First and last row, and slot, of each frame that waits for a neighbour.
        self._starts: dict[int, tuple[int, int, int]] = {}
        self._take_memory(_FIRST_CAPACITY)
        self._n_slots = 0
        self._take_slots(_FIRST_CAPACITY // 4)

    def _take_memory(self, capacity: int) -> None:
        self._whole, self._numbers = np.empty((capacity, WIDTH), np.int32), _lines(capacity)

    def _take_slots(self, capacity: int) -> None:
        self._frames = np.empty((capacity, 3), np.int64)
        self._motors = np.empty((capacity, 2 + self._n_motors))

    @property
    def parent(self) -> np.ndarray:
        """Row that leads to the root of each row; -1 of those that were taken."""
        return self._whole[:, PARENT]

    def number(self, place: int) -> np.ndarray:
        """Return all rows of one number."""
        return self._numbers[:, place]

    def append(self, frame: int, peaks: Columns, level: int, motors: list[float]) -> None:
        """Add the peaks of one frame, each a track of its own that waits for the neighbours of that frame.

        Parameters
        ----------
        frame
            Number of the frame.
        peaks
            Rows of the table ``peaks``.
        level
            Rank of the frame's rotation on the circle.
        motors
            omega_start, omega_end, and the further motors of the frame.
        """
        start, slot = self.n, self._n_slots
        end = start + len(peaks["peak"])
        self._starts[frame] = (start, end, slot)
        if end == start:
            return
        self._frames[slot] = (frame, level, 0)
        self._motors[slot] = motors
        track_kernels.append_rows(
            peaks["peak"],
            tuple([peaks[name] for name in _SUMS_OF_PEAKS]),
            peaks["n_pixels"],
            peaks["n_saturated"],
            peaks["on_edge"],
            peaks["on_mask"],
            start,
            slot,
            self._whole,
            self._numbers,
        )
        self._n_slots = slot + 1
        self.n = end

    def join(self, linked: Linked) -> int:
        """Join the tracks of linked peaks; return how many tracks fewer there are."""
        fewer = 0
        for joined in linked.joined:
            start_a, start_b = self._starts[joined.frame_a][0], self._starts[joined.frame_b][0]
            peak_a, peak_b = joined.rows["peak_a"], joined.rows["peak_b"]
            fewer += track_kernels.join_tracks(peak_a, peak_b, start_a, start_b, joined.wraps, self._whole)
        return fewer

    def rows_of(self, joined: JoinedFrames) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of linked peaks."""
        row_a = self._starts[joined.frame_a][0] + joined.rows["peak_a"].astype(np.int64)
        return row_a, self._starts[joined.frame_b][0] + joined.rows["peak_b"].astype(np.int64)

    def resolve(self, resolved: list[tuple[int, Ending]]) -> np.ndarray:
        """Take in that neighbours of frames are known; return the roots of the tracks that wait for no other."""
        places = [(*self._starts.pop(frame), int(ending)) for frame, ending in resolved]
        # The kernel writes one place more than counts.
        roots = np.empty(1 + sum([end - start for start, end, _, _ in places]), np.int64)
        n = 0
        for start, end, slot, flags in places:
            if end > start:
                self._frames[slot, FLAGS] = flags
                n = track_kernels.resolve_rows(start, end, self._whole, roots, n)
        return roots[:n]

    def take(self, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Take tracks out: return their rows in order, until `make_room`, where each starts, and if any wraps."""
        rows, starts = np.empty(self.n, np.int64), np.empty(len(roots) + 1, np.int64)
        n, wraps = track_kernels.take_tracks(roots, self._whole, self._numbers, self._frames, rows, starts)
        self._n_taken += n
        return rows[:n], starts, wraps

    def open(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of all open tracks in order, and where those of each track start."""
        parent = self.parent[: self.n]
        rows = np.flatnonzero(parent >= 0)
        root = parent[rows]
        while (parent[root] != root).any():
            root = parent[root]
        order = np.lexsort((self._whole[rows, PEAK], self._frames[self._whole[rows, SLOT], FRAME], root))
        starts = np.flatnonzero(np.diff(root[order], prepend=-1, append=-1))
        return rows[order], starts

    def mark_wraps(self, rows: np.ndarray, wrapping: np.ndarray) -> None:
        """Say anew which of some rows have a link over the end of the turn."""
        self._whole[rows, MARKS] &= ~WRAPS
        self._whole[wrapping, MARKS] |= WRAPS

    def unwrap(self, rows: np.ndarray, starts: np.ndarray) -> None:
        """Mark what lies after the widest gap of a wrapping track; one all the way round has no gap."""
        wraps = self._whole[rows, MARKS] & WRAPS
        for k in np.flatnonzero(np.bitwise_or.reduceat(wraps, starts[:-1])).tolist():
            own = rows[starts[k] : starts[k + 1]]
            level = self._frames[self._whole[own, SLOT], LEVEL]
            taken = np.unique(level)
            gaps = np.diff(taken)
            if len(gaps) and gaps.max() > 1:
                self._whole[own[level > taken[int(gaps.argmax())]], MARKS] |= BEHIND

    def summaries(
        self, rows: np.ndarray, starts: np.ndarray, sense: float
    ) -> tuple[list[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return the columns of tracks, in the order of their names, and track, frame and peak of their members.

        Columns are in the order of `_LONG`, `_COUNTS`, `_TOLD`, `_SUMS`, then mean and variance of each motor.
        """
        n = len(starts) - 1
        names = np.empty(n, np.int64)
        track_kernels.name_tracks(starts, rows, self._whole, self._frames, TRACK_BASE, names)
        long, counts = np.empty((len(_LONG), n), np.int64), np.empty((len(_COUNTS), n), np.int32)
        told, sums = np.empty((len(_TOLD), n), np.bool_), np.empty((len(_SUMS) + 2 * self._n_motors, n))
        members, peaks = np.empty((2, len(rows)), np.int64), np.empty(len(rows), np.int32)
        given = (self._whole, self._numbers, self._frames, self._motors, 360.0 * sense)
        made = (long, counts, told, sums, members, peaks)
        # No two have the same name.
        track_kernels.summaries(names.argsort(), starts, rows, names, *given, *made)
        track, frame = members
        return [*long, *counts, *told, *sums], (track, frame, peaks)

    def make_room(self, n_new: int) -> np.ndarray | None:
        """Make room for new rows; return the new place of each row if they moved, -1 if it is gone.

        When the memory is full, rows that were taken are forgotten if they are a third or more; if that is not enough,
        or far too much, half as much again as is needed is taken, or a few thousand rows. With these, rows that stay
        move less often: a quarter off what the tracks of 500 peaks a frame cost. More than the near cache holds costs
        more.
        """
        if self._n_slots == len(self._frames):
            frames, motors = self._frames, self._motors
            self._take_slots(2 * len(frames))
            self._frames[: len(frames)], self._motors[: len(motors)] = frames, motors
        if self.n + n_new <= len(self._numbers):
            return None
        place = self._forget() if 3 * self._n_taken >= self.n else None
        needed, capacity = max(self.n + n_new, _FIRST_CAPACITY), len(self._numbers)
        wanted = needed + max(needed // 2, _SPARE)
        if 3 * needed > 2 * capacity or 4 * wanted < capacity:
            whole, numbers = self._whole, self._numbers
            self._take_memory(wanted)
            self._whole[: self.n], self._numbers[: self.n] = whole[: self.n], numbers[: self.n]
        return place

    def _forget(self) -> np.ndarray:
        place, used = np.empty(self.n + 1, np.int64), np.zeros(self._n_slots, np.int64)
        kept = track_kernels.sweep_rows(self.n, self._whole, self._numbers, place, used)
        self._n_slots = track_kernels.sweep_slots(kept, self._whole, used, self._frames, self._motors)
        # No row of a frame that waits is ever taken: they stay next to each other.
        for frame, (start, end, slot) in self._starts.items():
            now = int(place[start]) if end > start else 0
            self._starts[frame] = (now, now + end - start, int(used[slot]) if end > start else 0)
        self.n, self._n_taken = kept, 0
        return place


def _lines(n: int) -> np.ndarray:
    """Return n rows of numbers, each a line of the processor's cache: a twentieth off tracks in rows of a grid."""
    room = np.empty((n + 1) * WIDTH)
    start = -(room.ctypes.data // room.itemsize) % WIDTH
    return room[start : start + n * WIDTH].reshape(n, WIDTH)


class _HeldLinks:
    """Links of open tracks, which wait for their track to be cut."""

    def __init__(self) -> None:
        self.n = 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, Columns]] = []

    def append(self, joined: JoinedFrames, row_a: np.ndarray, row_b: np.ndarray) -> None:
        """Add the links of two frames, with the rows of their peaks."""
        self._parts.append((row_a, row_b, np.full(len(row_a), joined.wraps), joined.rows))
        self.n += len(row_a)

    def take(self, parent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Columns]:
        """Take out the links of taken tracks: rows of both peaks, whether they wrap, and rows of the table."""
        rows_a, rows_b, all_wraps, tables = zip(*self._parts, strict=True)
        row_a, row_b, wraps = map(np.concatenate, (rows_a, rows_b, all_wraps))
        links = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        taken = parent[row_a] < 0
        left = ~taken
        self._parts = [(row_a[left], row_b[left], wraps[left], {name: each[left] for name, each in links.items()})]
        self.n = int(left.sum())
        return row_a[taken], row_b[taken], wraps[taken], {name: each[taken] for name, each in links.items()}

    def sweep(self, place: np.ndarray | None) -> None:
        """Follow the rows to their new places."""
        if place is not None:
            self._parts = [(place[row_a], place[row_b], wraps, rows) for row_a, row_b, wraps, rows in self._parts]


class Tracker:
    """Follows linked peaks through the scan.

    A track is open while a frame that holds one of its peaks waits for a neighbour; then it closes, and never changes.
    Where the recipe cuts at valleys of the intensity, it is cut then, and its links are given out with it. Sums run
    over its peaks in the order of (frame, peak), so that they do not depend on how it grew.

    Parameters
    ----------
    recipe
        Says whether tracks are cut at valleys.
    trajectory
        Says where a frame lies on the circle.
    table
        The table ``tracks``, as `tables_with_roles` makes it.
    """

    def __init__(self, recipe: Recipe, trajectory: Trajectory, table: Table | None = None) -> None:
        self._recipe = recipe
        self._trajectory = trajectory
        self._table = table or TABLES["tracks"]
        self._motors = tuple(name for name, _ in motors_of_tracks(self._table))
        made = [*_LONG, *_COUNTS, *_TOLD, *_SUMS, *[each for name in self._motors for each in (name, f"var_{name}")]]
        self._in_order = itemgetter(*[made.index(name) for name in self._table.names])
        self._shown = itemgetter(*[made.index(name) for name in OPEN_TRACKS.names])
        self._rows = _Rows(len(self._motors))
        self._n_open = 0
        self._links = _HeldLinks()

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._n_open

    def push(self, position: Position, found: PeaksOfFrame, linked: Linked) -> Batches:
        """Take in one frame and what its links are; return the tracks that closed."""
        frame = position.frame
        turn = self._trajectory.turn(frame)
        motors = [position.roles.get(name, math.nan) for name in self._motors]
        at = [position.omega_start - turn, position.omega_end - turn, *motors]
        self._links.sweep(self._rows.make_room(len(found.peaks["peak"])))
        self._rows.append(frame, found.peaks, self._trajectory.level(frame), at)
        self._n_open += len(found.peaks["peak"])
        return self.follow(linked)

    def follow(self, linked: Linked) -> Batches:
        """Take in links, and frames whose neighbours are known; return new rows of links, tracks and members."""
        self._n_open -= self._rows.join(linked)
        cuts = self._recipe.valley is not None
        links = [] if cuts else [joined.rows for joined in linked.joined]
        if cuts:
            for joined in linked.joined:
                self._links.append(joined, *self._rows.rows_of(joined))
        roots = self._rows.resolve(linked.resolved)
        closed: Batches = {}
        if len(roots):
            rows, starts, wraps = self._rows.take(roots)
            if cuts and self._links.n:
                kept, rows, starts = self._cut(rows, starts)
                links.append(kept)
            if wraps:
                self._rows.unwrap(rows, starts)
            columns, members = self._rows.summaries(rows, starts, self._trajectory.sense)
            self._n_open -= len(roots)
            # As the tables have them: columns, order and types.
            closed = {
                "tracks": dict(zip(self._table.names, self._in_order(columns), strict=True)),
                "members": dict(zip(MEMBERS.names, members, strict=True)),
            }
        links += linked.others
        if links:
            closed["links"] = links[0]
            if len(links) > 1:
                closed["links"] = {name: np.concatenate([rows[name] for rows in links]) for name in links[0]}
        return closed

    def _cut(self, rows: np.ndarray, starts: np.ndarray) -> tuple[Columns, np.ndarray, np.ndarray]:
        """Cut tracks at valleys of their intensity; return their links, and rows and starts of what they become."""
        row_a, row_b, wraps, links = self._links.take(self._rows.parent)
        member = np.empty(self._rows.n, np.int64)
        member[rows] = np.arange(len(rows))
        # Of equally short links the first counts: they must not lie as they came.
        order = np.lexsort((links["axis"], member[row_b], member[row_a]))
        row_a, row_b, wraps = row_a[order], row_b[order], wraps[order]
        links = {name: values[order] for name, values in links.items()}
        intensity, row, col = (self._rows.number(place)[rows] for place in (SUM, ROW, COL))
        cut = valley_cuts(
            intensity,
            row,
            col,
            member[row_a],
            member[row_b],
            links["distance"],
            fraction=self._recipe.valley or 0.0,
            apart=self._recipe.valley_apart,
            n_sigma=self._recipe.valley_sigma,
        )
        if cut.any():
            rows, starts = _parts(rows, member[row_a[~cut]], member[row_b[~cut]])
            self._rows.mark_wraps(rows, row_a[wraps & ~cut])
        if self._recipe.keep_candidates:
            links["reason"][cut] = Reason.VALLEY
        else:
            links = {name: values[~cut] for name, values in links.items()}
        return links, rows, starts

    def open_tracks(self) -> Columns:
        """Return the open tracks as they are now: rows of `OPEN_TRACKS`.

        A track may still join another; it then goes on under the lower of both names.
        """
        rows, starts = self._rows.open()
        if not len(rows):
            return OPEN_TRACKS.empty()
        columns, _ = self._rows.summaries(rows, starts, self._trajectory.sense)
        return dict(zip(OPEN_TRACKS.names, self._shown(columns), strict=True))


def _parts(rows: np.ndarray, member_a: np.ndarray, member_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of each set of linked members, in order, and where each starts."""
    n = len(rows)
    own, whole = np.arange(n), np.zeros((n, WIDTH), np.int32)
    # Members are in order already: all are peaks of one frame, numbered as they lie.
    whole[:, PARENT] = whole[:, LAST] = whole[:, PEAK] = own
    whole[:, FOLLOWING] = -1
    track_kernels.join_tracks(member_a, member_b, 0, 0, False, whole)
    roots = np.flatnonzero(whole[:, PARENT] == own)
    members, starts = np.empty(n, np.int64), np.empty(len(roots) + 1, np.int64)
    track_kernels.take_tracks(roots, whole, np.empty((n, WIDTH)), np.zeros((1, 3), np.int64), members, starts)
    return rows[members], starts

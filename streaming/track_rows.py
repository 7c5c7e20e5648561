"""The rows of open tracks: what is kept of each peak until its track closes."""

import mmap

import numpy as np

from . import track_kernels
from .linking import Ending, JoinedFrames, Linked
from .tables import TRACK_BASE, Columns
from .track_kernels import BEHIND, FLAGS, FRAME, LEVEL, MARKS, PARENT, PEAK, SLOT, WIDTH, WRAPS

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
SUMMARIES = (*_LONG, *_COUNTS, *_TOLD, *_SUMS)
"What is written of each track, before the mean and the variance of each motor: names of columns of the table."
_SPARE = 4096
"Rows for which there is room beyond those that are needed, at least."
_FIRST_CAPACITY = 1024


class Rows:
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
        self._memory_whole, self._memory_numbers = Memory(4 * WIDTH), Memory(8 * WIDTH)
        self._take_memory(_FIRST_CAPACITY)
        self._n_slots = 0
        self._take_slots(_FIRST_CAPACITY // 4)

    def _take_memory(self, capacity: int) -> None:
        # Nothing may look at the memory while it grows.
        self._whole, self._numbers = np.empty((0, WIDTH), np.int32), np.empty((0, WIDTH))
        self._whole = np.frombuffer(self._memory_whole.grown(capacity), np.int32).reshape(-1, WIDTH)
        self._numbers = np.frombuffer(self._memory_numbers.grown(capacity), np.float64).reshape(-1, WIDTH)

    def _take_slots(self, capacity: int) -> None:
        self._frames = np.empty((capacity, 3), np.int64)
        self._motors = np.empty((capacity, 2 + self._n_motors))

    @property
    def n_bytes(self) -> int:
        """Memory that the rows take, bytes."""
        return self.n * (self._memory_whole.item + self._memory_numbers.item)

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
            peak_a, peak_b = joined.candidates.peak_a, joined.candidates.peak_b
            fewer += track_kernels.join_tracks(peak_a, peak_b, start_a, start_b, joined.wraps, self._whole)
        return fewer

    def rows_of(self, joined: JoinedFrames) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of linked peaks."""
        row_a = self._starts[joined.frame_a][0] + joined.candidates.peak_a.astype(np.int64)
        return row_a, self._starts[joined.frame_b][0] + joined.candidates.peak_b.astype(np.int64)

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
        roots = roots[:n]
        # Rows of tracks that lie as they come are nearer to each other.
        roots.sort()
        return roots

    def take(self, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Take tracks out: return their rows in order, until `make_room`, where each starts, and if any wraps."""
        rows, starts = np.empty(self.n, np.int64), np.empty(len(roots) + 1, np.int64)
        n, wraps = track_kernels.take_tracks(roots, self._whole, self._frames, rows, starts)
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

        Columns are in the order of `SUMMARIES`, then mean and variance of each motor.
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
        place = self.forget() if 3 * self._n_taken >= self.n else None
        needed, capacity = max(self.n + n_new, _FIRST_CAPACITY), len(self._numbers)
        wanted = needed + max(needed // 2, _SPARE)
        if 3 * needed > 2 * capacity or 4 * wanted < capacity:
            self._take_memory(wanted)
        return place

    def forget(self) -> np.ndarray:
        """Forget the rows that were taken; return the new place of each row, -1 if it is gone."""
        place, used = np.empty(self.n + 1, np.int64), np.zeros(self._n_slots, np.int64)
        kept = track_kernels.sweep_rows(self.n, self._whole, self._numbers, place, used)
        self._n_slots = track_kernels.sweep_slots(kept, self._whole, used, self._frames, self._motors)
        # No row of a frame that waits is ever taken: they stay next to each other.
        for frame, (start, end, slot) in self._starts.items():
            now = int(place[start]) if end > start else 0
            self._starts[frame] = (now, now + end - start, int(used[slot]) if end > start else 0)
        self.n, self._n_taken = kept, 0
        return place


class Memory:
    """Anonymous memory that grows without being copied, where the system can; what was never used takes no room.

    To copy a hundred megabytes into fresh ones took up to 0.3 s, while frames waited.

    Parameters
    ----------
    item
        Bytes of an item; what is asked for is a number of them.
    """

    def __init__(self, item: int) -> None:
        self.item = item
        self._map = _anonymous(item)

    def grown(self, n: int) -> mmap.mmap:
        """Return the memory with room for n items, more or fewer; nobody may use what was returned before."""
        try:
            self._map.resize(n * self.item)
        except (BufferError, OSError, SystemError, ValueError):
            # Not on this system; or it is looked at from somewhere, which then sees what was before.
            before, self._map = self._map, _anonymous(n * self.item)
            kept = min(len(before), len(self._map))
            self._map[:kept] = before[:kept]
        return self._map


def _anonymous(n_bytes: int) -> mmap.mmap:
    """Return fresh memory; private, as shared memory cannot grow."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, n_bytes)
    return mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

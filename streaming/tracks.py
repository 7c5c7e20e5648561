"""Tracks: connected components of the links, closed as soon as no frame still to come can join them."""

import math

import numpy as np

from . import track_kernels
from .link_rules import Reason
from .linking import Ending, JoinedFrames, Linked, Position
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import MEMBERS, OPEN_TRACKS, TABLES, TRACK_BASE, Batches, Columns, Table, motors_of_tracks
from .trajectory import Trajectory
from .valleys import valley_cuts

# The kernels take numbers by their place.
_SUMS_OF_PEAKS = ("sum_intensity", "max_intensity", "row", "col", "var_row", "var_col", "cov_row_col")
_NUMBERS = ("omega_start", "omega_end", *_SUMS_OF_PEAKS, "n_pixels", "n_saturated", "on_edge", "on_mask")
_LISTS = ("parent", "following", "last")
_WHOLE = (*_LISTS, "level", "waiting", "frame", "peak", "wraps", "flags")
_COUNTS = (
    "track",
    "n_peaks",
    "n_frames",
    "first_frame",
    "last_frame",
    "n_pixels",
    "n_saturated",
    "on_edge",
    "wraps",
    "flags",
    "on_mask",
)
_SUMS = (
    "omega",
    "omega_min",
    "omega_max",
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
    """The peaks of open tracks, one row each, in the order in which their frames came.

    Rows of closed tracks are swept out now and then. Only the numbers that a track needs are kept: a hot pixel, a track
    that never ends, must not keep whole frames in memory.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.n = 0
        self._n_taken = 0
        self.names = names
        self._starts: dict[int, tuple[int, int]] = {}
        self._take_memory(_FIRST_CAPACITY)

    def _take_memory(self, capacity: int) -> None:
        self._whole = np.empty((len(_WHOLE), capacity), np.int64)
        self._numbers = np.empty((capacity, len(self.names)))
        self._by_name: dict[str, np.ndarray] = dict(zip(_WHOLE, self._whole, strict=True))

    def __getitem__(self, name: str) -> np.ndarray:
        """Return all rows of one whole number."""
        return self._by_name[name]

    def append(self, frame: int, peaks: Columns, level: int, motors: np.ndarray) -> None:
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
        start, end = self.n, self.n + len(peaks["peak"])
        sums = tuple(peaks[name] for name in _SUMS_OF_PEAKS)
        track_kernels.append_rows(
            peaks["peak"],
            sums,
            peaks["n_pixels"],
            peaks["n_saturated"],
            peaks["on_edge"],
            peaks["on_mask"],
            motors,
            start,
            frame,
            level,
            self._whole,
            self._numbers,
        )
        self._starts[frame] = (start, end)
        self.n = end

    def join(self, linked: Linked) -> int:
        """Join the tracks of linked peaks; return how many tracks fewer there are."""
        fewer = 0
        kept = (self["parent"], self["following"], self["last"], self["waiting"], self["wraps"])
        for joined in linked.joined:
            row_a, row_b = self.rows_of(joined)
            fewer += track_kernels.join_tracks(row_a, row_b, joined.wraps, *kept)
        return fewer

    def rows_of(self, joined: JoinedFrames) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of linked peaks."""
        row_a = self._starts[joined.frame_a][0] + joined.rows["peak_a"].astype(np.int64)
        return row_a, self._starts[joined.frame_b][0] + joined.rows["peak_b"].astype(np.int64)

    def resolve(self, frame: int, ending: Ending) -> np.ndarray:
        """Take in that a frame's neighbours are known; return the roots of the tracks that wait for no other."""
        start, end = self._starts.pop(frame)
        roots = np.empty(end - start, np.int64)
        kept = (self["parent"], self["waiting"], self["flags"])
        n = track_kernels.resolve_rows(start, end, int(ending), *kept, roots)
        return roots[:n]

    def take(self, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take tracks out: return their rows in order, until `make_room`, and where those of each track start."""
        rows, starts = np.empty(self.n, np.int64), np.empty(len(roots) + 1, np.int64)
        kept = (self["parent"], self["following"], self["frame"], self["peak"])
        n = track_kernels.take_tracks(roots, *kept, rows, starts)
        self._n_taken += n
        return rows[:n], starts

    def open(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of all open tracks in order, and where those of each track start."""
        rows = np.flatnonzero(self["parent"][: self.n] >= 0)
        parent = self["parent"]
        root = parent[rows]
        while (parent[root] != root).any():
            root = parent[root]
        order = np.lexsort((self["peak"][rows], self["frame"][rows], root))
        starts = np.flatnonzero(np.diff(root[order], prepend=-1, append=-1))
        return rows[order], starts

    def unwrap(self, rows: np.ndarray, starts: np.ndarray, sense: float) -> None:
        """Turn back what lies after the widest gap of a wrapping track; one all the way round has no gap."""
        wraps = self["wraps"].take(rows)
        if not np.count_nonzero(wraps):
            return
        for k in np.flatnonzero(np.bitwise_or.reduceat(wraps, starts[:-1])).tolist():
            own = rows[starts[k] : starts[k + 1]]
            level = self["level"][own]
            taken = np.unique(level)
            gaps = np.diff(taken)
            if len(gaps) and gaps.max() > 1:
                late = own[level > taken[int(gaps.argmax())]]
                self._numbers[late, :2] -= 360.0 * sense

    def summaries(self, rows: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return counts, sums and members of tracks, in the order of their names (`track_kernels.summaries`)."""
        n, n_motors = len(starts) - 1, len(self.names) - len(_NUMBERS)
        first = rows.take(starts[:-1])
        order = (TRACK_BASE * self["frame"].take(first) + self["peak"].take(first)).argsort(kind="stable")
        counts, sums = np.empty((len(_COUNTS), n), np.int64), np.empty((len(_SUMS) + 2 * n_motors, n))
        members = np.empty((3, len(rows)), np.int64)
        whole = self._whole[_WHOLE.index("frame") :]
        track_kernels.summaries(order, starts, rows, whole, self._numbers, TRACK_BASE, counts, sums, members)
        return counts, sums, members

    def number(self, name: str) -> np.ndarray:
        """Return all rows of one number."""
        return self._numbers[:, self.names.index(name)]

    def make_room(self, n_new: int) -> np.ndarray | None:
        """Make room for new rows; return the new place of each row if they moved, -1 if it is gone.

        When the memory is full, rows that were taken are forgotten if they are a third or more; if that is not enough,
        or far too much, half as much again as is needed is taken, or a few thousand rows. With these, rows that stay
        move less often: a quarter off what the tracks of 500 peaks a frame cost. More than the near cache holds costs
        more.
        """
        if self.n + n_new <= self._whole.shape[1]:
            return None
        place = self._forget() if 3 * self._n_taken >= self.n else None
        needed, capacity = max(self.n + n_new, _FIRST_CAPACITY), self._whole.shape[1]
        wanted = needed + max(needed // 2, _SPARE)
        if 3 * needed > 2 * capacity or 4 * wanted < capacity:
            whole, numbers = self._whole, self._numbers
            self._take_memory(wanted)
            self._whole[:, : self.n], self._numbers[: self.n] = whole[:, : self.n], numbers[: self.n]
        return place

    def _forget(self) -> np.ndarray:
        place = np.empty(self.n + 1, np.int64)
        kept = track_kernels.sweep_rows(self.n, self._whole, self._numbers, place)
        # No row of a frame that waits is ever taken: they stay next to each other.
        for frame, (start, end) in self._starts.items():
            now = int(place[start]) if end > start else 0
            self._starts[frame] = (now, now + end - start)
        self.n, self._n_taken = kept, 0
        return place


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
        self._of_motors = tuple(each for name in self._motors for each in (name, f"var_{name}"))
        self._rows = _Rows((*_NUMBERS, *self._motors))
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
        at = np.array([position.omega_start - turn, position.omega_end - turn, *motors])
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
        ended = [self._rows.resolve(frame, ending) for frame, ending in linked.resolved]
        roots = np.concatenate(ended) if ended else np.empty(0, np.int64)
        closed: Batches = {}
        if len(roots):
            rows, starts = self._rows.take(roots)
            if cuts and self._links.n:
                kept, rows, starts = self._cut(rows, starts)
                links.append(kept)
            self._rows.unwrap(rows, starts, self._trajectory.sense)
            columns, members = self._columns(rows, starts)
            self._n_open -= len(roots)
            closed = {"tracks": self._table.batch(columns), "members": MEMBERS.batch(members)}
        links += linked.others
        if links:
            closed["links"] = links[0]
            if len(links) > 1:
                closed["links"] = {name: np.concatenate([rows[name] for rows in links]) for name in links[0]}
        return closed

    def _cut(self, rows: np.ndarray, starts: np.ndarray) -> tuple[Columns, np.ndarray, np.ndarray]:
        """Cut tracks at valleys of their intensity; return their links, and rows and starts of what they become."""
        row_a, row_b, wraps, links = self._links.take(self._rows["parent"])
        member = np.empty(self._rows.n, np.int64)
        member[rows] = np.arange(len(rows))
        # Of equally short links the first counts: they must not lie as they came.
        order = np.lexsort((links["axis"], member[row_b], member[row_a]))
        row_a, row_b, wraps = row_a[order], row_b[order], wraps[order]
        links = {name: values[order] for name, values in links.items()}
        intensity, row, col = (self._rows.number(name)[rows] for name in ("sum_intensity", "row", "col"))
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
            self._rows["wraps"][rows] = 0
            self._rows["wraps"][row_a[wraps & ~cut]] = 1
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
        columns, _ = self._columns(rows, starts)
        return OPEN_TRACKS.batch({name: columns[name] for name in OPEN_TRACKS.names})

    def _columns(self, rows: np.ndarray, starts: np.ndarray) -> tuple[Columns, Columns]:
        """Return the columns of the tables ``tracks`` and ``members``."""
        counts, sums, members = self._rows.summaries(rows, starts)
        columns = dict(zip((*_SUMS, *self._of_motors), sums, strict=True)) | dict(zip(_COUNTS, counts, strict=True))
        flags = columns.pop("flags")
        columns["omega_width"] = columns["omega_max"] - columns["omega_min"]
        columns |= {name: columns[name] > 0 for name in ("on_edge", "on_mask", "wraps")}
        # numpy asks an enumeration for a dozen things before it takes it for a number: 9 us.
        columns["at_scan_end"] = (flags & int(Ending.SCAN_END)) > 0
        columns["beside_missing"] = (flags & int(Ending.MISSING)) > 0
        return columns, dict(zip(MEMBERS.names, members, strict=True))


def _parts(rows: np.ndarray, member_a: np.ndarray, member_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of each set of linked members, in order, and where each starts."""
    n = len(rows)
    own, none = np.arange(n), np.zeros(n, np.int64)
    parent, following, last = own.copy(), np.full(n, -1), own.copy()
    track_kernels.join_tracks(member_a, member_b, False, parent, following, last, none, none)
    roots = np.flatnonzero(parent == own)
    members, starts = np.empty(n, np.int64), np.empty(len(roots) + 1, np.int64)
    # Members are in order already.
    track_kernels.take_tracks(roots, parent, following, own, own, members, starts)
    return rows[members], starts

"""Tracks: connected components of the links, closed as soon as no frame still to come can join them."""

import math
from operator import itemgetter

import numpy as np

from . import track_kernels
from .link_rules import Reason
from .linking import JoinedFrames, Linked, Position, rows_of_links
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import MEMBERS, OPEN_TRACKS, TABLES, Batches, Columns, Table, motors_of_tracks
from .track_kernels import COL, FOLLOWING, LAST, PARENT, PEAK, ROW, SUM, WIDTH
from .track_rows import SUMMARIES, Rows
from .trajectory import Trajectory
from .valleys import valley_cuts


class _HeldLinks:
    """Links of open tracks, which wait for their track to be cut."""

    def __init__(self, *, reasons: bool) -> None:
        self.n = 0
        self._reasons = reasons
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, Columns]] = []

    def append(self, joined: JoinedFrames, row_a: np.ndarray, row_b: np.ndarray) -> None:
        """Add the links of two frames, with the rows of their peaks."""
        links = rows_of_links([joined], reasons=self._reasons)
        self._parts.append((row_a, row_b, np.full(len(row_a), joined.wraps), links))
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
        made = [*SUMMARIES, *[each for name in self._motors for each in (name, f"var_{name}")]]
        self._in_order = itemgetter(*[made.index(name) for name in self._table.names])
        self._shown = itemgetter(*[made.index(name) for name in OPEN_TRACKS.names])
        self._rows = Rows(len(self._motors))
        self._n_open = 0
        self._links = _HeldLinks(reasons=recipe.keep_candidates)

    @property
    def n_bytes(self) -> int:
        """Memory that the peaks of open tracks take, bytes; Python knows nothing of it."""
        return self._rows.n_bytes

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._n_open

    def sweep(self) -> None:
        """Forget what closed tracks were made from now, and not when the memory for it is full."""
        self._links.sweep(self._rows.forget())

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
        joined_now = linked.others if cuts else [*linked.joined, *linked.others]
        links: list[Columns] = []
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
        if joined_now:
            links.append(rows_of_links(joined_now, reasons=self._recipe.keep_candidates))
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
    track_kernels.join_tracks(member_a.astype(np.int32), member_b.astype(np.int32), 0, 0, False, whole)
    roots = np.flatnonzero(whole[:, PARENT] == own)
    members, starts = np.empty(n, np.int64), np.empty(len(roots) + 1, np.int64)
    track_kernels.take_tracks(roots, whole, np.zeros((1, 3), np.int64), members, starts)
    return rows[members], starts

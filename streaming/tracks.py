"""Tracks: connected components of the links, closed as soon as no frame still to come can join them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from . import kernels
from .linking import Position
from .peaks import PeaksOfFrame
from .tables import MEMBERS, TRACK_BASE, TRACKS, Batches, Columns

Peak = tuple[int, int]
"""(frame, peak)."""


@dataclass(slots=True, kw_only=True)
class _Seen:
    """A frame whose peaks belong to open tracks."""

    position: Position
    peaks: Columns
    open_peaks: int


@dataclass(slots=True, kw_only=True)
class _Open:
    """An open track."""

    members: list[Peak] = field(default_factory=list[Peak])
    touches_first: bool = False
    wraps: bool = False


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
        self._first_frame: int | None = None
        self._seen: dict[int, _Seen] = {}
        self._track_of: dict[Peak, _Open] = {}
        self._frontier: list[Peak] = []
        self._open: dict[int, _Open] = {}

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return len(self._open)

    def push(self, position: Position, found: PeaksOfFrame, links: Columns) -> Batches:
        """Take in one frame and its links with the frame before; return the tracks that closed."""
        if self._first_frame is None:
            self._first_frame = found.frame
        before, self._frontier = self._frontier, [(found.frame, peak) for peak in range(len(found.peaks["peak"]))]
        if self._frontier:
            self._seen[found.frame] = _Seen(position=position, peaks=found.peaks, open_peaks=len(self._frontier))
        for peak in self._frontier:
            track = _Open(members=[peak], touches_first=self._wrap and found.frame == self._first_frame)
            self._track_of[peak] = track
            self._open[id(track)] = track
        self._merge(links)
        alive = {id(self._track_of[peak]) for peak in self._frontier}
        return self._close(
            {
                id(track): track
                for track in (self._track_of[peak] for peak in before)
                if id(track) not in alive and not track.touches_first
            }.values()
        )

    def flush(self, wrap_links: Columns, direction: float) -> Batches:
        """Link the last frame with the first, close every track and return it.

        Parameters
        ----------
        wrap_links
            Links of the last frame with the first.
        direction
            Sense of the sweep, 1 or -1, to unwrap the rotation of tracks that wrap.
        """
        self._merge(wrap_links)
        for frame, peak in zip(wrap_links["frame_a"].tolist(), wrap_links["peak_a"].tolist(), strict=True):
            self._track_of[frame, peak].wraps = True
        self._frontier = []
        return self._close(list(self._open.values()), turn=360.0 * direction)

    def _merge(self, links: Columns) -> None:
        columns = (links[name].tolist() for name in ("frame_a", "peak_a", "frame_b", "peak_b"))
        for frame_a, peak_a, frame_b, peak_b in zip(*columns, strict=True):
            small, large = self._track_of[frame_a, peak_a], self._track_of[frame_b, peak_b]
            if small is large:
                continue
            if len(small.members) > len(large.members):
                small, large = large, small
            for peak in small.members:
                self._track_of[peak] = large
            large.members += small.members
            large.touches_first |= small.touches_first
            del self._open[id(small)]

    def _close(self, tracks: Iterable[_Open], turn: float = 0.0) -> Batches:
        closing = sorted(tracks, key=lambda track: min(track.members))
        if not closing:
            return {}
        for track in closing:
            track.members.sort()
        rows = [self._rows(track, turn if track.wraps else 0.0) for track in closing]
        counts = np.array([len(track.members) for track in closing])
        batch = _summary(counts, {name: np.concatenate([r[name] for r in rows]) for name in rows[0]})
        batch["tracks"]["wraps"] = np.array([track.wraps for track in closing])
        for track in closing:
            self._forget(track)
        return batch

    def _rows(self, track: _Open, turn: float) -> Columns:
        """Return what the sums need, one row a member; the late part of a track that wraps is turned back."""
        late = 0.5 * (track.members[0][0] + track.members[-1][0])
        names = ("sum_intensity", "max_intensity", "row", "col", "n_pixels", "n_saturated", "on_edge")
        values: list[tuple[float, ...]] = []
        for frame, peak in track.members:
            seen = self._seen[frame]
            back = turn if frame > late else 0.0
            omegas = (seen.position.omega_start - back, seen.position.omega_end - back)
            values.append((frame, peak, *omegas, *(seen.peaks[name][peak] for name in names)))
        columns = np.array(values, np.float64).T
        return dict(zip(("frame", "peak", "omega_start", "omega_end", *names), columns, strict=True))

    def _forget(self, track: _Open) -> None:
        del self._open[id(track)]
        for peak in track.members:
            del self._track_of[peak]
            seen = self._seen[peak[0]]
            seen.open_peaks -= 1
            if seen.open_peaks == 0:
                del self._seen[peak[0]]


def _summary(counts: np.ndarray, rows: Columns) -> Batches:
    """Return tables `tracks` (without `wraps`) and `members` of tracks whose members follow each other."""
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    member_of = np.repeat(np.arange(len(counts)), counts)
    frame, peak = rows["frame"].astype(np.int64), rows["peak"].astype(np.int64)
    track = frame[starts] * TRACK_BASE + peak[starts]
    omega = 0.5 * (rows["omega_start"] + rows["omega_end"])
    sums = np.zeros((len(counts), 4))
    values = np.stack([rows["row"], rows["col"], omega], axis=1)
    kernels.ordered_sums(member_of, rows["sum_intensity"], values, sums)
    omega_min = np.minimum.reduceat(np.minimum(rows["omega_start"], rows["omega_end"]), starts)
    omega_max = np.maximum.reduceat(np.maximum(rows["omega_start"], rows["omega_end"]), starts)
    new_frame = np.concatenate(([True], (np.diff(frame) != 0) | (np.diff(member_of) != 0)))
    saturated = np.add.reduceat(rows["n_saturated"], starts)
    tracks = {
        "track": track,
        "n_peaks": counts,
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
        "max_intensity": np.maximum.reduceat(rows["max_intensity"], starts),
        "n_pixels": np.add.reduceat(rows["n_pixels"], starts),
        # One unknown full scale makes all unknown: -1 of every member, not a sum of them.
        "n_saturated": np.where(rows["n_saturated"][starts] < 0, -1, saturated),
        "on_edge": np.maximum.reduceat(rows["on_edge"], starts) > 0,
        "wraps": np.zeros(len(counts), np.bool_),
    }
    members = {"track": track[member_of], "frame": frame, "peak": peak}
    return {"tracks": TRACKS.batch(tracks), "members": MEMBERS.batch(members)}

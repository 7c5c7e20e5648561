"""Rocking curves and sinograms: what a track has at each scan point, asked of the tables of a reduction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import SettingsError
from .tables import TRACK_BASE, Batches, Columns

TrackIds = int | Sequence[int] | np.ndarray
"""One track, or several that are added up."""

_MOTORS = ("omega", "dty", "L1", "L2")
_TURN = {"omega": 360.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RockingCurve:
    """What tracks have at each position of one motor."""

    along: str
    "The motor."
    position: np.ndarray
    "Its positions in ascending order, in its own unit, shape (n,)."
    intensity: np.ndarray
    "Sum of the intensity of their peaks there, counts, shape (n,)."
    n_pixels: np.ndarray
    "Lit pixels of their peaks there, shape (n,)."
    n_peaks: np.ndarray
    "Their peaks there, shape (n,); 0 where a scan point inside their range shows none."
    n_frames: np.ndarray
    "Frames that were taken there, shape (n,)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinogram:
    """What tracks have at each pair of positions of two motors."""

    axes: tuple[str, str]
    "Motor of the rows and of the columns, such as omega and dty."
    rows: np.ndarray
    "Positions of the first, ascending, in its own unit, shape (n,)."
    columns: np.ndarray
    "Positions of the second, ascending, shape (m,)."
    intensity: np.ndarray
    "Sum of the intensity of their peaks, counts, shape (n, m)."
    n_pixels: np.ndarray
    "Lit pixels of their peaks, shape (n, m)."
    n_peaks: np.ndarray
    "Their peaks, shape (n, m)."
    n_frames: np.ndarray
    "Frames that were taken there, shape (n, m): 0 where a frame is missing, or the scan has no such point."


class Curves:
    """Asks tables for what tracks have at each scan point.

    The scan points of a track are the frames inside its range: no motor is beyond where the track's own frames are. So
    a scan point at which it shows no peak counts, with zeros, and one beside it does not. Several tracks that are asked
    for together, such as the reflections of a grain, are added up over their common range.

    Parameters
    ----------
    tables
        ``members``, ``peaks`` and ``frames``, in any order of their rows.
    motors
        The motors that may bound the range. One that never came bounds nothing.
    periods
        After how much a motor is back where it was. Its positions then do not jump at the end of a turn: they go up
        from the end of the widest gap between the track's own, counted in the turn in which the first of its frames
        was taken.
    tolerance
        Positions that differ by no more than this are one.

    Raises
    ------
    SettingsError
        A table or a column is missing, or `members` names what is not in the other tables.
    """

    def __init__(
        self,
        tables: Batches,
        *,
        motors: Sequence[str] = _MOTORS,
        periods: Mapping[str, float] = _TURN,
        tolerance: float = 1e-3,
    ) -> None:
        members, peaks, frames = (_table(tables, name, columns) for name, columns in _NEEDED.items())
        self._motors, self._periods, self._tolerance = tuple(motors), dict(periods), tolerance
        by_frame = np.argsort(frames["frame"], kind="stable")
        self._frames = {name: values[by_frame] for name, values in frames.items()}
        order = np.lexsort((members["peak"], members["frame"], members["track"]))
        self._track, frame, peak = (members[name][order] for name in ("track", "frame", "peak"))
        self._frame = _places(self._frames["frame"], frame, "members", "a frame")
        keys = np.asarray(peaks["frame"], np.int64) * TRACK_BASE + peaks["peak"]
        by_key = np.argsort(keys, kind="stable")
        at = by_key[_places(keys[by_key], frame * TRACK_BASE + peak, "members", "a peak")]
        self._intensity, self._n_pixels = peaks["sum_intensity"][at], peaks["n_pixels"][at]

    def points(self, track: TrackIds, motors: Sequence[str] = ("omega", "dty")) -> Columns:
        """Return what tracks have in each frame of their range: frame, each motor, intensity, n_pixels, n_peaks.

        Rows are in the order of the frames.

        Raises
        ------
        SettingsError
            There is no such track or motor, or a frame of it has no position.
        """
        own = self._rows_of(track)
        at = self._frame[own]
        inside = np.ones(len(self._frames["frame"]), np.bool_)
        positions: Columns = {}
        for motor in dict.fromkeys((*motors, *self._motors)):
            ours = self._positions(motor)[at]
            asked = motor in motors
            if asked and np.isnan(ours).any():
                number = self._frames["frame"][at[np.isnan(ours)][0]]
                raise SettingsError(f"curves: {motor} of frame {number} never came; ask for another motor")
            if np.isnan(ours).all():
                continue
            unwrapped = self._unwrapped(motor, at)
            least, most = np.nanmin(unwrapped[at]), np.nanmax(unwrapped[at])
            # A frame whose position is not known is not outside.
            inside &= ~((unwrapped < least - self._tolerance) | (unwrapped > most + self._tolerance))
            if asked:
                inside &= np.isfinite(unwrapped)
                positions[motor] = unwrapped
        n = len(inside)
        columns = {
            "frame": self._frames["frame"],
            **positions,
            "intensity": np.bincount(at, self._intensity[own], n),
            "n_pixels": np.bincount(at, self._n_pixels[own], n).astype(np.int64),
            "n_peaks": np.bincount(at, minlength=n),
        }
        return {name: values[inside] for name, values in columns.items()}

    def rocking_curve(self, track: TrackIds, along: str = "omega") -> RockingCurve:
        """Return what tracks have at each position of one motor, summed over the others.

        Raises
        ------
        SettingsError
            There is no such track or motor, or a frame of it has no position.
        """
        points = self.points(track, (along,))
        level, position = _levels(points[along], self._tolerance)
        return RockingCurve(along=along, position=position, **_sums(points, level, len(position)))

    def sinogram(self, track: TrackIds, axes: tuple[str, str] = ("omega", "dty")) -> Sinogram:
        """Return what tracks have at each pair of positions of two motors, summed over the others.

        Raises
        ------
        SettingsError
            There is no such track or motor, a frame of it has no position, or both motors are the same.
        """
        if axes[0] == axes[1]:
            raise SettingsError(f"curves: a sinogram of {axes[0]} against itself was asked for; wanted two motors")
        points = self.points(track, axes)
        (row, rows), (column, columns) = (_levels(points[axis], self._tolerance) for axis in axes)
        shape = (len(rows), len(columns))
        sums = _sums(points, row * shape[1] + column, shape[0] * shape[1])
        return Sinogram(
            axes=axes, rows=rows, columns=columns, **{name: each.reshape(shape) for name, each in sums.items()}
        )

    def _rows_of(self, track: TrackIds) -> np.ndarray:
        """Return the rows of the members, those of a frame in the order of their tracks."""
        asked = np.unique(np.atleast_1d(np.asarray(track, np.int64)))
        starts, ends = (np.searchsorted(self._track, asked, side) for side in ("left", "right"))
        if not len(asked) or (starts == ends).any():
            unknown = asked[starts == ends].tolist()
            raise SettingsError(f"curves: tracks {unknown} have no members; wanted one or more closed tracks")
        return np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])

    def _positions(self, motor: str) -> np.ndarray:
        if motor == "omega":
            return 0.5 * (self._frames["omega_start"] + self._frames["omega_end"])
        if motor not in self._frames:
            raise SettingsError(f"curves: {motor} is no motor of the table frames; it has {sorted(self._frames)}")
        return self._frames[motor]

    def _unwrapped(self, motor: str, own: np.ndarray) -> np.ndarray:
        """Return the position of every frame, in the turn in which those of a track do not jump."""
        positions, period = self._positions(motor), self._periods.get(motor)
        if period is None:
            return positions
        first = positions[own[np.isfinite(positions[own])].min()]
        ahead = np.mod(positions - first, period)
        # What lies a hair before the first is there, not a turn away.
        ahead[ahead >= period - self._tolerance] -= period
        taken = np.unique(ahead[own][np.isfinite(ahead[own])])
        gaps = np.append(np.diff(taken), period - taken[-1] + taken[0])
        # Of equal gaps the last: what goes all the way round begins with its first frame.
        begin = taken[np.flatnonzero(gaps >= gaps.max() - self._tolerance)[-1]]
        ahead[ahead > begin + self._tolerance] -= period
        # Whole turns only, so that what needs none stays as it was read.
        return positions + period * np.round((ahead - (positions - first)) / period)


_NEEDED = {
    "members": ("track", "frame", "peak"),
    "peaks": ("frame", "peak", "sum_intensity", "n_pixels"),
    "frames": ("frame", "omega_start", "omega_end"),
}


def rocking_curve(tables: Batches, track: TrackIds, along: str = "omega") -> RockingCurve:
    """Return what tracks have at each position of one motor; `Curves` answers many questions faster.

    Raises
    ------
    SettingsError
        As `Curves` and its methods.
    """
    return Curves(tables).rocking_curve(track, along)


def sinogram(tables: Batches, track: TrackIds, axes: tuple[str, str] = ("omega", "dty")) -> Sinogram:
    """Return what tracks have at each pair of positions of two motors; `Curves` answers many questions faster.

    Raises
    ------
    SettingsError
        As `Curves` and its methods.
    """
    return Curves(tables).sinogram(track, axes)


def _table(tables: Batches, name: str, needed: tuple[str, ...]) -> Columns:
    columns = tables.get(name, {})
    missing = [column for column in needed if column not in columns]
    if missing:
        raise SettingsError(f"curves: the table {name} lacks {missing}; wanted members, peaks and frames")
    return {column: np.asarray(values) for column, values in columns.items()}


def _places(ascending: np.ndarray, wanted: np.ndarray, table: str, what: str) -> np.ndarray:
    place = np.searchsorted(ascending, wanted)
    known = place < len(ascending)
    if not known.all() or (ascending[place] != wanted).any():
        raise SettingsError(f"curves: the table {table} names {what} that is not there; wanted tables of one reduction")
    return place


def _levels(positions: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which distinct position each is at, and these positions, each as the first frame there has it."""
    order = np.argsort(positions, kind="stable")
    level = np.empty(len(positions), np.int64)
    level[order] = np.cumsum(np.diff(positions[order], prepend=positions[order[:1]]) > tolerance)
    first = np.unique(level, return_index=True)[1]
    return level, positions[first]


def _sums(points: Columns, level: np.ndarray, n: int) -> Columns:
    counts = {name: np.bincount(level, points[name], n).astype(np.int64) for name in ("n_pixels", "n_peaks")}
    return {
        "intensity": np.bincount(level, points["intensity"], n),
        **counts,
        "n_frames": np.bincount(level, minlength=n),
    }

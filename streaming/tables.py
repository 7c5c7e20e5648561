"""The one schema of the reduced tables: HDF5, Arrow, the documentation and the digest are made from it.

Identity is positional, so that it depends on nothing but the data: a peak is ``(frame, peak)``, a track has the id of
its first peak. What depends on when things happened is in no table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .errors import SettingsError

Columns = dict[str, np.ndarray]
"""One batch of one table: column name to 1-D array, all of one length."""

Batches = dict[str, Columns]
"""What a reducer gives: table name to the new rows. Tables without new rows are absent."""

TRACK_BASE = 1_000_000
"""A track's id is ``frame * TRACK_BASE + peak`` of its first peak: readable, and more than any frame has peaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    name: str
    "Name, the same in HDF5, Arrow and the documentation."
    dtype: str
    "Numpy type string, little-endian."
    unit: str
    "Unit as NeXus writes it; empty for counts of things and indices."
    meaning: str
    "What the number is."
    in_digest: bool = True
    "False for bookkeeping (clock, document number), which is not science."


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a reduction."""

    name: str
    "Name of the table."
    row: str
    "What one row stands for."
    key: tuple[str, ...]
    "Columns that identify a row; the digest sorts by them."
    columns: tuple[Column, ...]
    "The columns, in order."

    # Asked for with each batch, some hundred times a second.
    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def _types(self) -> dict[str, np.dtype]:
        return {column.name: np.dtype(column.dtype) for column in self.columns}

    def empty(self) -> Columns:
        """Return a batch of no rows."""
        return {column.name: np.empty(0, column.dtype) for column in self.columns}

    def batch(self, columns: Mapping[str, np.ndarray]) -> Columns:
        """Return the columns in the table's order and types.

        Raises
        ------
        SettingsError
            A column is missing, foreign, or of another length than the first.
        """
        if columns.keys() != self._types.keys():
            odd = sorted(set(columns) ^ set(self.names))
            raise SettingsError(f"table {self.name}: columns {odd} are missing or foreign; wanted {self.names}")
        made = {name: np.ascontiguousarray(columns[name], dtype) for name, dtype in self._types.items()}
        if len(set(map(len, made.values()))) > 1:
            lengths = {name: len(values) for name, values in made.items()}
            raise SettingsError(f"table {self.name}: columns differ in length: {lengths}")
        return made


def _column(name: str, dtype: str, unit: str, meaning: str, *, in_digest: bool = True) -> Column:
    return Column(name=name, dtype=dtype, unit=unit, meaning=meaning, in_digest=in_digest)


_FRAME = _column("frame", "<i8", "", "number of the frame in acquisition order, per detector, from 0")
_PEAK = _column("peak", "<i4", "", "number of the peak in its frame, in raster order of its first lit pixel, from 0")

SCAN_ROLES = ("L1", "L2", "energy", "dty", "monitor")
"""Scalar roles that every ``frames`` table has a column for; a settings file may add more."""

_ROLE_UNITS = {"L1": "mm", "L2": "mm", "energy": "keV", "dty": "mm", "monitor": ""}

FRAMES = Table(
    name="frames",
    row="frame",
    key=("frame",),
    columns=(
        _FRAME,
        _column("point", "<i8", "", "scan point, in acquisition order from 0"),
        _column("seq_num", "<i8", "", "seq_num of the event, 0 if it never came", in_digest=False),
        _column("detector", "<i2", "", "number of the detector in the settings, from 0"),
        _column("omega_start", "<f8", "deg", "rotation when the frame began; NaN if it never came"),
        _column("omega_end", "<f8", "deg", "rotation when the frame ended; NaN if it never came"),
        *(
            _column(role, "<f8", _ROLE_UNITS[role], f"value of the role {role}, in its own unit; NaN if it never came")
            for role in SCAN_ROLES
        ),
        _column("time", "<f8", "s", "time of the event, seconds since 1970; NaN if it never came", in_digest=False),
        _column("n_lit", "<i8", "", "lit pixels"),
        _column("n_peaks", "<i4", "", "peaks kept"),
        _column("n_dropped", "<i4", "", "groups of lit pixels below min_pixels"),
        _column("n_saturated", "<i8", "", "lit pixels at or above full scale; -1 if full scale is not known"),
        _column("max_intensity", "<f8", "counts", "largest intensity of a lit pixel; 0 if none is lit"),
        _column("sum_intensity", "<f8", "counts", "sum of the intensity of the peaks"),
        _column("background_level", "<f8", "counts", "mean of the background"),
    ),
)

PEAKS = Table(
    name="peaks",
    row="peak",
    key=("frame", "peak"),
    columns=(
        _FRAME,
        _PEAK,
        _column("n_pixels", "<i4", "", "lit pixels of the peak"),
        _column("sum_intensity", "<f8", "counts", "sum of raw minus background"),
        _column("max_intensity", "<f8", "counts", "largest raw minus background"),
        _column("row", "<f8", "px", "intensity-weighted centroid, pixel centres at integers"),
        _column("col", "<f8", "px", "intensity-weighted centroid, pixel centres at integers"),
        _column("row_max", "<i4", "px", "row of the brightest pixel, the first in raster order"),
        _column("col_max", "<i4", "px", "column of the brightest pixel"),
        _column("var_row", "<f8", "px^2", "intensity-weighted variance"),
        _column("var_col", "<f8", "px^2", "intensity-weighted variance"),
        _column("cov_row_col", "<f8", "px^2", "intensity-weighted covariance"),
        _column("row_min", "<i4", "px", "first row of the bounding box"),
        _column("row_end", "<i4", "px", "one past the last row of the bounding box"),
        _column("col_min", "<i4", "px", "first column of the bounding box"),
        _column("col_end", "<i4", "px", "one past the last column of the bounding box"),
        _column("n_maxima", "<i4", "", "pixels that no 8-neighbour exceeds, ties to the lower raster index"),
        _column("n_saturated", "<i4", "", "pixels at or above full scale; -1 if full scale is not known"),
        _column("on_edge", "|b1", "", "the bounding box touches the edge of the detector"),
        _column("omega", "<f8", "deg", "rotation at the middle of the frame; NaN if it never came"),
        # Not in the digest: it follows from the pixels and the mask, and a digest must not change when it is added.
        _column("on_mask", "|b1", "", "a lit pixel of it has a masked neighbour, as beside a gap", in_digest=False),
    ),
)

PEAKS_FIT = (
    # Not in the digest: exponentials may differ in their last bit from one machine to another.
    *(
        _column(name, "<f8", unit, meaning, in_digest=False)
        for name, unit, meaning in (
            ("fit_row", "px", "centre of the fitted profile, pixel centres at integers; NaN where not fitted"),
            ("fit_col", "px", "centre of the fitted profile"),
            ("fit_amplitude", "counts", "height of the profile"),
            ("fit_sigma_radial", "px", "width along the radius from the beam, sigma of the Gaussian part"),
            ("fit_sigma_tangential", "px", "width across it"),
            ("fit_mixing", "", "share of the Lorentzian part, 0 to 1"),
            ("fit_background", "counts", "background under it, beyond what was subtracted"),
            ("fit_sum", "counts", "volume of the profile"),
            ("fit_rms", "counts", "root mean square of the residuals of its joint fit"),
            ("fit_row_error", "px", "standard deviation of fit_row"),
            ("fit_col_error", "px", "standard deviation of fit_col"),
            ("fit_amplitude_error", "counts", "standard deviation of fit_amplitude"),
        )
    ),
    _column(
        "fit_status",
        "<i2",
        "",
        "0 converged, 1 out of steps, 2 too few pixels, 3 at a bound, 4 not determined, 5 group too large",
        in_digest=False,
    ),
)
"""Further columns of ``peaks`` with `Recipe.fit`."""

LINKS = Table(
    name="links",
    row="pair of linked peaks",
    key=("frame_a", "peak_a", "frame_b", "peak_b", "axis"),
    columns=(
        _column("frame_a", "<i8", "", "frame of the peak that comes first along the axis"),
        _column("peak_a", "<i4", "", "its number in its frame"),
        _column("frame_b", "<i8", "", "frame of the peak that comes next along the axis"),
        _column("peak_b", "<i4", "", "its number in its frame"),
        _column("axis", "<i2", "", "axis of the trajectory, 0 is omega"),
        _column("n_shared_pixels", "<i4", "", "pixels lit in both peaks"),
        _column("score", "<f8", "", "shared pixels over the pixels of the smaller peak"),
        _column("distance", "<f8", "px", "distance of the centroids"),
    ),
)

LINKS_WITH_REASONS = replace(
    LINKS,
    row="pair of peaks of neighbouring frames that may be linked",
    columns=(
        *LINKS.columns,
        _column(
            "reason",
            "<i2",
            "",
            "0 linked, 1 too few shared pixels, 2 centroids too far apart, 3 score too low, 4 a better partner, "
            "5 cut at an intensity valley",
        ),
    ),
)
"""``links`` with `Recipe.keep_candidates`."""

TRACKS = Table(
    name="tracks",
    row="closed track",
    key=("track",),
    columns=(
        _column("track", "<i8", "", "frame * 1000000 + peak of its first peak"),
        _column("n_peaks", "<i4", "", "peaks"),
        _column("n_frames", "<i4", "", "different frames"),
        _column("first_frame", "<i8", "", "smallest frame number"),
        _column("last_frame", "<i8", "", "largest frame number"),
        _column("omega", "<f8", "deg", "intensity-weighted mean of the middles of the frames, unwrapped if it wraps"),
        _column("omega_min", "<f8", "deg", "smallest rotation at which a frame of it began or ended"),
        _column("omega_max", "<f8", "deg", "largest rotation at which a frame of it began or ended"),
        _column("omega_width", "<f8", "deg", "omega_max - omega_min"),
        _column("row", "<f8", "px", "intensity-weighted centroid"),
        _column("col", "<f8", "px", "intensity-weighted centroid"),
        _column("sum_intensity", "<f8", "counts", "sum over its peaks"),
        _column("max_intensity", "<f8", "counts", "largest over its peaks"),
        _column("n_pixels", "<i8", "", "lit pixels over its peaks"),
        _column("n_saturated", "<i8", "", "saturated pixels over its peaks; -1 if full scale is not known"),
        _column("on_edge", "|b1", "", "a peak of it touches the edge of the detector"),
        _column("wraps", "|b1", "", "it joins the last frame of a full turn with the first"),
        # Not in the digest: they follow from other tables, and a digest must not change when one is added.
        *(
            _column(name, "<f8", unit, meaning, in_digest=False)
            for name, unit, meaning in (
                ("var_row", "px^2", "intensity-weighted variance over its pixels"),
                ("var_col", "px^2", "intensity-weighted variance over its pixels"),
                ("cov_row_col", "px^2", "intensity-weighted covariance over its pixels"),
                ("var_omega", "deg^2", "intensity-weighted variance of the middles of its frames"),
                ("cov_row_omega", "px deg", "intensity-weighted covariance over its peaks"),
                ("cov_col_omega", "px deg", "intensity-weighted covariance over its peaks"),
                ("omega_sigma", "deg", "square root of var_omega less what the width of the frames adds to it"),
                ("dty", "mm", "intensity-weighted mean of dty; NaN if it never came"),
                ("var_dty", "mm^2", "intensity-weighted variance of dty"),
            )
        ),
        _column("on_mask", "|b1", "", "a lit pixel of it has a masked neighbour, as beside a gap", in_digest=False),
        _column("at_scan_end", "|b1", "", "a frame of it lacks a neighbour, for the scan ends there", in_digest=False),
        _column("beside_missing", "|b1", "", "a frame of it is the neighbour of a missing one", in_digest=False),
    ),
)

OPEN_TRACKS = Table(
    name="open_tracks",
    row="track that a frame still to come could join",
    key=("track",),
    columns=tuple(
        column
        for column in TRACKS.columns
        if column.name
        in ("track", "n_peaks", "first_frame", "last_frame", "omega", "row", "col", "sum_intensity", "max_intensity")
    ),
)
"""What is shown of open tracks while a scan runs; it depends on when one looks, and is in no archive."""

MEMBERS = Table(
    name="members",
    row="peak of a closed track",
    key=("track", "frame", "peak"),
    columns=(_column("track", "<i8", "", "id of the track"), _FRAME, _PEAK),
)

PIXELS = Table(
    name="pixels",
    row="lit pixel of a peak",
    key=("frame", "row", "col"),
    columns=(
        _FRAME,
        _PEAK,
        _column("row", "<i4", "px", "row"),
        _column("col", "<i4", "px", "column"),
        _column("intensity", "<f8", "counts", "raw counts"),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in (FRAMES, PEAKS, LINKS, TRACKS, MEMBERS, PIXELS)}
"""Every table of a reduction, in the order in which the digest takes them."""


def motors_of_tracks(tracks: Table) -> list[tuple[str, str]]:
    """Return the name and unit of each motor, beside omega, that the table ``tracks`` has a mean of."""
    units = {column.name: column.unit for column in tracks.columns}
    known = ("row", "col", "omega")
    names = [name.removeprefix("var_") for name in tracks.names if name.startswith("var_")]
    return [(name, units[name]) for name in names if name not in known]


def tables_with_roles(
    roles: Mapping[str, str], *, fit: bool = False, candidates: bool = False, motors: Iterable[str] = ()
) -> dict[str, Table]:
    """Return the tables of a reduction whose ``frames`` have a column for each further role.

    Parameters
    ----------
    roles
        Further scalar roles, name to unit; those of `SCAN_ROLES` have their column already.
    fit
        Whether ``peaks`` has the columns of a fit.
    candidates
        Whether ``links`` names the candidates that are no links too.
    motors
        Further roles that the scan moves: ``tracks`` has the mean and the variance of each.

    Raises
    ------
    SettingsError
        A role has the name of another column of ``frames``.
    """
    extra = [role for role in roles if role not in SCAN_ROLES]
    clash = sorted(set(extra) & set(FRAMES.names))
    if clash:
        raise SettingsError(f"roles {clash} have the name of a column of the table frames; rename them")
    columns = tuple(
        _column(role, "<f8", roles[role], f"value of the role {role}; NaN if it never came") for role in extra
    )
    frames = Table(name=FRAMES.name, row=FRAMES.row, key=FRAMES.key, columns=FRAMES.columns + columns)
    peaks = replace(PEAKS, columns=PEAKS.columns + PEAKS_FIT) if fit else PEAKS
    more = tuple(each for motor in motors if motor not in TRACKS.names for each in _of_motor(motor, roles))
    tracks = replace(TRACKS, columns=TRACKS.columns + more)
    links = LINKS_WITH_REASONS if candidates else LINKS
    return TABLES | {FRAMES.name: frames, PEAKS.name: peaks, LINKS.name: links, TRACKS.name: tracks}


def _of_motor(motor: str, units: Mapping[str, str]) -> tuple[Column, Column]:
    unit = units.get(motor) or _ROLE_UNITS.get(motor, "")
    return (
        _column(motor, "<f8", unit, f"intensity-weighted mean of {motor}; NaN if it never came", in_digest=False),
        _column(
            f"var_{motor}",
            "<f8",
            f"{unit}^2" if unit else "",
            f"intensity-weighted variance of {motor}",
            in_digest=False,
        ),
    )


def join(batches: Iterable[Batches]) -> Batches:
    """Return the rows of many batches as one, table by table, in the order given."""
    parts: dict[str, list[Columns]] = {}
    for batch in batches:
        for name, columns in batch.items():
            parts.setdefault(name, []).append(columns)
    return {name: {key: np.concatenate([c[key] for c in some]) for key in some[0]} for name, some in parts.items()}

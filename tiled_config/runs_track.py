"""A track: its peaks, its rocking curve, its sinogram, and the raw pixels around it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tiled.client.constructors import from_context

from ..streaming import Curves, ReplayError, RockingCurve, SettingsError, Sinogram
from .layout import RAW

if TYPE_CHECKING:
    import xarray

_MOTORS = ("dty", "L1", "L2")
_SHOWN = ("n_peaks", "n_frames", "omega", "row", "col", "sum_intensity")
PRIMARY = "primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOut:
    """Raw pixels around a track."""

    images: np.ndarray
    "Raw counts, shape (n_frames, rows, columns)."
    frame: np.ndarray
    "Number of each frame, shape (n_frames,)."
    omega: np.ndarray
    "Middle of each frame, degrees, shape (n_frames,)."
    row: np.ndarray
    "Row of the detector of each row of the images."
    col: np.ndarray
    "Column of the detector of each of their columns."

    def to_xarray(self) -> "xarray.DataArray":
        """Return it as an `xarray.DataArray` with its coordinates; needs xarray."""
        import xarray

        coords = {"frame": self.frame, "row": self.row, "col": self.col, "omega": ("frame", self.omega)}
        return xarray.DataArray(self.images, coords, ("frame", "row", "col"), name="counts")


class Track:
    """One closed track of a reduction.

    Parameters
    ----------
    reduction
        Client of the reduction.
    values
        Its row of the table ``tracks``.
    """

    def __init__(self, reduction: Any, values: Mapping[str, Any]) -> None:
        self._reduction = reduction
        self.values = dict(values)

    @property
    def track(self) -> int:
        """Its id."""
        return int(self.values["track"])

    def peaks(self, columns: Sequence[str] | None = None, **criteria: Any) -> pa.Table:
        """Return its peaks."""
        return self._reduction.peaks(columns, track=self.track, **criteria)

    def rocking_curve(self, along: str = "omega") -> RockingCurve:
        """Return its intensity at each position of a motor, as `hedmlive.streaming.Curves` does.

        Raises
        ------
        SettingsError
            There is no such motor, or a frame of it has no position.
        """
        return self._curves(along).rocking_curve(self.track, along)

    def sinogram(self, axes: tuple[str, str] = ("omega", "dty")) -> Sinogram:
        """Return its intensity at each pair of positions of two motors.

        Raises
        ------
        SettingsError
            There is no such motor, or a frame of it has no position.
        """
        return self._curves(*axes).sinogram(self.track, axes)

    def frames(self, margin: int = 5, *, more_frames: int = 0) -> CutOut:
        """Return the raw pixels around it: in each frame from its first to its last, the box of all its peaks.

        Only the box travels. A frame in between that was refused or never came is left out.

        Parameters
        ----------
        margin
            Pixels around the box, as far as the detector goes.
        more_frames
            Frames before the first and after the last.

        Raises
        ------
        SettingsError
            The images were turned before they were reduced, so that its pixels lie elsewhere.
        ReplayError
            The catalogue does not hold the images of the run.
        """
        box = self.peaks(["row_min", "row_end", "col_min", "col_end"])
        first, last = self.values["first_frame"] - more_frames, self.values["last_frame"] + more_frames
        columns = ["frame", "seq_num", "omega_start", "omega_end"]
        # A whole event has its frames in order, of which those asked for may be the last ones.
        taken = self._reduction.frames(columns, frame=(first, last)).to_pandas()
        taken = taken[taken["seq_num"] > 0]
        node = self._images()
        rows, cols = (
            slice(max(0, _least(box, f"{axis}_min") - margin), min(size, _most(box, f"{axis}_end") + margin))
            for axis, size in zip(("row", "col"), node.shape[-2:], strict=True)
        )
        places = self._places(taken, node)
        pieces = [node[(*place, rows, cols)] for place in _joined(places)]
        shape = (len(taken), rows.stop - rows.start, cols.stop - cols.start)
        images = (
            np.concatenate([np.reshape(piece, (-1, *shape[1:])) for piece in pieces]) if pieces else np.empty(shape)
        )
        return CutOut(
            images=images,
            frame=taken["frame"].to_numpy(),
            omega=0.5 * (taken["omega_start"] + taken["omega_end"]).to_numpy(),
            row=np.arange(rows.start, rows.stop),
            col=np.arange(cols.start, cols.stop),
        )

    def _curves(self, *along: str) -> Curves:
        there = self._reduction["frames"].structure().columns
        motors = [name for name in dict.fromkeys((*_MOTORS, *along)) if name in there]
        tables = {
            "members": self._reduction.members(track=self.track),
            "peaks": self.peaks(["frame", "peak", "sum_intensity", "n_pixels"]),
            "frames": self._reduction.frames(["frame", "omega_start", "omega_end", *motors]),
        }
        return Curves({name: _columns(table) for name, table in tables.items()}, motors=("omega", *motors))

    def _images(self) -> Any:
        """Return the node of the images of the detector of this reduction."""
        reduction = self._reduction
        detector = _detector(reduction.metadata)
        if detector.get("transforms"):
            raise SettingsError(f"{reduction.name}: its images were turned ({detector['transforms']}); ask the raw run")
        return images_of(reduction)

    def _places(self, taken: Any, node: Any) -> list[tuple[int, ...]]:
        """Return where in the array of the run each frame lies: its event, and which frame of the event."""
        event = taken["seq_num"].to_numpy() - 1
        if node.ndim == 3 and not _several(self._reduction, taken):
            return [(int(each),) for each in event]
        if node.ndim == 4:
            starts = self._reduction.frames(["frame", "seq_num"], seq_num=_ends(taken["seq_num"])).to_pandas()
            first = starts.groupby("seq_num")["frame"].min()
            nth = taken["frame"].to_numpy() - first.loc[taken["seq_num"]].to_numpy()
            return [(int(each), int(n)) for each, n in zip(event, nth, strict=True)]
        # Events of several frames each, one after the other in one array.
        return [(int(each),) for each in taken["frame"]]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {_short(self.values[name])}" for name in _SHOWN)
        return f"<track {self.track} of {self._reduction.name}: {shown}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{_short(value)}</td></tr>" for name, value in self.values.items()
        )
        return f"<table><caption>track {self.track} of {escape(self._reduction.name)}</caption>{rows}</table>"


def images_of(reduction: Any) -> Any:
    """Return the node of the images that a reduction was made of.

    Raises
    ------
    ReplayError
        The catalogue does not hold them.
    """
    detector = _detector(reduction.metadata)
    try:
        return from_context(reduction.context)[RAW, reduction.uid, PRIMARY, str(detector["image"])]
    except KeyError as error:
        raise ReplayError(f"{reduction.name}: its images are not in the catalogue ({error})") from None


def _detector(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the detector that a reduction is of."""
    try:
        settings = metadata["settings"]
        detectors = (json.loads(settings) if isinstance(settings, str) else settings)["detectors"]
        (found,) = [each for each in detectors if each["name"] == metadata["detector"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"its metadata do not say which images it was made of ({error!r})") from None
    return found


def _several(reduction: Any, taken: Any) -> bool:
    """Return whether an event of the scan holds several frames."""
    around = reduction.frames(["seq_num"], seq_num=_ends(taken["seq_num"])).to_pandas()["seq_num"]
    return bool(around.duplicated().any())


def _ends(values: Any) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _joined(places: Sequence[tuple[int, ...]]) -> list[tuple[Any, ...]]:
    """Join neighbouring places to slices, each of which is one request."""
    joined: list[list[Any]] = []
    for *event, last in places:
        if joined and joined[-1][:-1] == event and joined[-1][-1].stop == last:
            joined[-1][-1] = slice(joined[-1][-1].start, last + 1)
        else:
            joined.append([*event, slice(last, last + 1)])
    return [tuple(each) for each in joined]


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy() for name in table.column_names}


def _least(table: pa.Table, name: str) -> int:
    return int(table[name].to_numpy().min())


def _most(table: pa.Table, name: str) -> int:
    return int(table[name].to_numpy().max())


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

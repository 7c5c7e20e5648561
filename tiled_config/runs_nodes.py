"""The clients of the nodes below ``/reduced``: a run, and a reduction of it. Plain ``from_uri`` gives them too."""

from collections.abc import Callable, Generator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from tiled.client.container import Container

from ..streaming import MAX_PROJECTION, SettingsError
from .layout import REDUCTION_UID, SUMMARY, attempt_key
from .live import LiveBatch, Subscription, follow
from .rings import annuli_of
from .runs_compare import Comparison, compare
from .runs_results import Result, ResultList, results_of
from .runs_shown import Shown
from .runs_track import Track


class ReductionView(Shown, Container):
    """What can be asked of a reduction; a run answers for its newest one."""

    @property
    def reduction(self) -> "Reduction":
        """The reduction that is asked."""
        raise NotImplementedError

    @property
    def uid(self) -> str:
        """Uid of the raw run."""
        return str(self.metadata["raw_run_uid"])

    @property
    def start(self) -> Mapping[str, Any]:
        """What can be compared of the run's start document."""
        return self.metadata.get("start", {})

    @property
    def scan_id(self) -> int | None:
        """Number of the scan, if it has one."""
        return self.start.get("scan_id")

    @property
    def summary(self) -> Mapping[str, Any]:
        """What `search` compares: sample, technique, ranges, counts, status."""
        return self.metadata.get(SUMMARY, {})

    @property
    def status(self) -> str:
        """How far the reduction is: running, complete or failed."""
        return str(self.reduction.metadata.get("status", "unknown"))

    @property
    def digest(self) -> str:
        """The digest of its tables; empty while it runs."""
        return str(self.reduction.metadata.get("digest", ""))

    @property
    def warnings(self) -> list[str]:
        """What went wrong or looks wrong, one line each."""
        return list(self.reduction.metadata.get("warnings", []))

    @property
    def recipe(self) -> dict[str, Any]:
        """The numbers that decided the reduction."""
        return dict(self.reduction.metadata.get("recipe", {}))

    def query(
        self,
        table: str,
        columns: Iterable[str] | None = None,
        *,
        ring: int | Iterable[int] | None = None,
        ring_width: float | None = None,
        geometry: Mapping[str, Any] | None = None,
        **criteria: Any,
    ) -> pa.Table:
        """Return the rows of a table that fulfil all criteria, as `ReducedTable.query` says.

        Parameters
        ----------
        table
            Its name.
        columns
            The columns wanted; all but ``batch`` if None.
        ring
            Number of a ring of the powder pattern, the innermost 1, or several: only rows that lie there.
        ring_width
            Half the width of a ring, px; None takes what is nearer to it than to the next ones.
        geometry
            What `RingGeometry` needs and the run does not tell.
        **criteria
            What `ReducedTable.query` takes.

        Raises
        ------
        SettingsError
            There is no such table or column, the range is none, or the geometry of the rings is not known.
        """
        reduction = self.reduction
        try:
            node = reduction[table]
        except KeyError:
            raise SettingsError(f"{reduction.name}: table {table!r} came; wanted one of {sorted(reduction)}") from None
        if ring is not None:
            criteria["annuli"] = annuli_of(reduction, ring, geometry=geometry, width=ring_width)
        return node.query(columns, **criteria)

    def peaks(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return peaks, such as ``peaks(omega=(10, 20), min_intensity=9)``, ``peaks(ring=2)`` or ``peaks(track=5)``."""
        return self.query("peaks", columns, **criteria)

    def tracks(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return closed tracks, such as ``tracks(omega=(10, 20), min_n_frames=3)`` or ``tracks(ring=2)``."""
        return self.query("tracks", columns, **criteria)

    def links(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return links between peaks, such as ``links(frame_a=12)``."""
        return self.query("links", columns, **criteria)

    def members(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return which peaks make which closed tracks, such as ``members(track=5000012)``."""
        return self.query("members", columns, **criteria)

    def frames(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return what is known of each frame, such as ``frames(["frame", "energy"], omega_start=(0, 90))``."""
        return self.query("frames", columns, **criteria)

    def live(self, *tables: str, timeout: float | None = None) -> Generator[LiveBatch]:
        """Give each batch of new rows as it is stored, those of before first, until the reduction is over.

        ``for batch in run.live("peaks", "tracks"): batch.table, batch.to_pandas()``. A batch of frames comes after the
        peaks of its frames.

        Parameters
        ----------
        *tables
            Names of tables; all five of a reduction if there are none.
        timeout
            Seconds without anything new after which this ends with an error; None waits on.

        Raises
        ------
        SettingsError
            There is no such table.
        TimeoutError
            Nothing new came for so long.
        """
        return follow(self.reduction, tables, timeout=timeout)

    def subscribe(self, table: str, on_batch: Callable[[LiveBatch], object]) -> Subscription:
        """Call a function with each batch of new rows of a table, as `live` gives them, from a thread.

        Returns
        -------
        Its `stop` ends it, its `wait` waits for the end of the reduction.
        """
        return Subscription(self.reduction, table, on_batch)

    def pixels(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return lit pixels, such as ``pixels(frame=12)``; served where the archive is, and so after the reduction."""
        return self.query("pixels", columns, **criteria)

    def max_projection(self) -> np.ndarray:
        """Return the largest raw count of each pixel among the frames in which it was lit, shape (rows, columns).

        0 where it never was. It is there when the reduction is over.

        Raises
        ------
        SettingsError
            It is not there yet, or the reduction was made before there was one.
        """
        reduction = self.reduction
        if MAX_PROJECTION not in reduction:
            raise SettingsError(
                f"{reduction.name}: has no {MAX_PROJECTION}; wanted a reduction that is over, of this version or newer"
            )
        return np.asarray(reduction[MAX_PROJECTION][:])

    @property
    def results(self) -> ResultList:
        """What reconstructions made of it: of a run all, of a reduction those that were made from it."""
        reduction_uid = self.metadata.get(REDUCTION_UID)
        return results_of(self.context, self.uid, **({REDUCTION_UID: reduction_uid} if reduction_uid else {}))

    def track(self, track: int) -> Track:
        """Return one closed track, to be asked for its rocking curve, its sinogram and its raw frames.

        Raises
        ------
        SettingsError
            There is no such track, or it is not closed yet.
        """
        reduction = self.reduction
        found = reduction.tracks(track=track).to_pylist()
        if not found:
            raise SettingsError(f"{reduction.name}: track {track} came; wanted one of its closed tracks")
        return Track(reduction, found[0])

    def brightest(self, n: int = 5) -> pa.Table:
        """Return the brightest closed tracks so far, the brightest first."""
        found = self.tracks(["track", "omega", "row", "col", "sum_intensity"])
        return found.sort_by([("sum_intensity", "descending")]).slice(0, n)

    def compare(
        self, other: "ReductionView | Result", *, pixels: float = 1.0, degrees: float | None = None
    ) -> Comparison:
        """Return how another reduction differs from this one: recipe, counts, tracks moved, lost and new.

        Parameters
        ----------
        other
            A reduction, a run for its newest one, or a result for that which it was made from.
        pixels
            Tracks further apart than this are not the same one, in px.
        degrees
            The same for omega; None takes the width of a frame of this reduction.
        """
        return compare(self.reduction, other.reduction, pixels=pixels, degrees=degrees)

    def _facts(self) -> dict[str, str]:
        reduction, summary = self.reduction, dict(self.summary)
        counts = [f"{summary[f'n_{what}']} {what}" for what in ("frames", "peaks", "tracks") if f"n_{what}" in summary]
        facts = {
            "scan": str(self.scan_id or ""),
            "sample": str(summary.get("sample", "")),
            "time": _when(summary.get("time")),
            "technique": str(summary.get("technique", "")),
            "omega": _range(summary, "omega", "deg"),
            "energy": _range(summary, "energy", "keV"),
            "counts": ", ".join(counts),
            "status": str(reduction.metadata.get("status", "")),
            "digest": str(reduction.metadata.get("digest", ""))[:16],
            "warnings": str(len(reduction.metadata.get("warnings", [])) or ""),
        }
        return {name: text for name, text in facts.items() if text}


class Reduction(ReductionView):
    """One attempt at reducing a run, for one detector."""

    @property
    def reduction(self) -> "Reduction":
        """Itself."""
        return self

    @property
    def attempt_number(self) -> int:
        """Number of the attempt, from 0."""
        return int(self.item["id"].rpartition("-")[2])

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"reduction {self.attempt_number} of run {self.uid[:8]}"


class Run(ReductionView):
    """A run that was reduced once or more often."""

    @property
    def reduction(self) -> Reduction:
        """The newest reduction, asked for anew each time.

        Raises
        ------
        SettingsError
            The run has none yet.
        """
        return self.attempt()

    @property
    def attempts(self) -> list[int]:
        """The numbers of its reductions."""
        return sorted(int(key.rpartition("-")[2]) for key in self)

    def attempt(self, number: int | None = None, *, detector: str | None = None) -> Reduction:
        """Return one of its reductions.

        Parameters
        ----------
        number
            Its number; None takes the newest.
        detector
            Name of the detector whose newest reduction is wanted; None does not ask.

        Raises
        ------
        SettingsError
            There is no such reduction.
        """
        from tiled.queries import Key

        try:
            if number is not None:
                return self[attempt_key(number)]
            found = self if detector is None else self.search(Key("detector") == detector)
            # By when they were made: the number in the metadata is that of the archive.
            return found.sort(("", -1)).values().first()
        except (KeyError, IndexError):
            which = "reduction" if detector is None else f"reduction of detector {detector!r}"
            named = which if number is None else f"{which} {number}"
            raise SettingsError(f"{self.name}: {named} came; wanted one of {self.attempts}") from None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"run {self.uid[:8]}"


def _when(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(" ", "seconds")


def _range(summary: Mapping[str, Any], name: str, unit: str) -> str:
    low, high = summary.get(f"{name}_min"), summary.get(f"{name}_max")
    if low is None or high is None:
        return ""
    return f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"

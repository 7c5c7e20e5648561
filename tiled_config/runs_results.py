"""The clients of the nodes below ``/results``: what reconstructions made of runs. Plain ``from_uri`` gives them."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tiled.client.constructors import from_context
from tiled.client.container import Container

from ..streaming import ReplayError, SettingsError
from .layout import RAW, REDUCED, REDUCTION_UID, RESULTS
from .runs_shown import Shown
from .runs_track import images_of

if TYPE_CHECKING:
    from .runs_compare import Comparison
    from .runs_nodes import Reduction, ReductionView, Run

_SHOWN = 5


class Result(Shown, Container):
    """What one reconstruction made of a run: ranked solutions, and where they come from."""

    @property
    def uid(self) -> str:
        """Uid of the raw run."""
        return str(self.metadata["raw_run_uid"])

    @property
    def attempt_number(self) -> int:
        """Number of the result, from 0."""
        return int(self.item["id"].rpartition("-")[2])

    @property
    def program(self) -> str:
        """Who made it, with the version where it is known."""
        return f"{self.metadata.get('program', '')} {self.metadata.get('program_version', '')}".strip()

    @property
    def parameters(self) -> dict[str, Any]:
        """What it was made with."""
        return dict(self.metadata.get("parameters", {}))

    @property
    def status(self) -> str:
        """How far it is: running while it is sent, then complete."""
        return str(self.metadata.get("status", "unknown"))

    @property
    def digest(self) -> str:
        """The digest of its solutions."""
        return str(self.metadata.get("digest", ""))

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"result {self.attempt_number} of run {self.uid[:8]}"

    def solutions(self, columns: Iterable[str] | None = None, **criteria: Any) -> pa.Table:
        """Return its solutions, such as ``solutions(rank=1)``, ``solutions(min_completeness=0.8)`` or ``(item=3)``.

        An item is a grain, or a voxel of a map; orientations, positions and strains are in the axes that
        ``metadata["axes"]`` says. The server filters, as `ReducedTable.query` says.

        Raises
        ------
        SettingsError
            There is no such column, or the range is none.
        """
        return self["solutions"].query(columns, **criteria)

    @property
    def reduction(self) -> "Reduction":
        """The reduction that it was made from.

        Raises
        ------
        SettingsError
            It was made from none, or that is not in the catalogue.
        """
        from tiled.queries import Key

        wanted = self.metadata.get(REDUCTION_UID)
        if not wanted:
            raise SettingsError(f"{self.name}: does not say which reduction it was made from; ask its raw run")
        for found in self.run.search(Key(REDUCTION_UID) == wanted).values():
            return found
        raise SettingsError(f"{self.name}: reduction {wanted} that it was made from is not in the catalogue")

    @property
    def run(self) -> "Run":
        """The run with its reductions.

        Raises
        ------
        SettingsError
            None of its reductions is in the catalogue.
        """
        try:
            return from_context(self.context)[REDUCED, self.uid]
        except KeyError:
            raise SettingsError(f"{self.name}: run {self.uid} has no reduction in the catalogue; see `raw`") from None

    @property
    def raw(self) -> Any:
        """The raw run, as Tiled's own client gives it.

        Raises
        ------
        ReplayError
            It is not in the catalogue.
        """
        try:
            return from_context(self.context)[RAW, self.uid]
        except KeyError:
            raise ReplayError(f"{self.name}: raw run {self.uid} is not in the catalogue") from None

    @property
    def frames(self) -> Any:
        """The images that its reduction was made of, to be sliced; nothing travels before that.

        Raises
        ------
        SettingsError, ReplayError
            As `reduction`; or the images are not in the catalogue.
        """
        return images_of(self.reduction)

    def compare(self, other: "ReductionView | Result", **options: Any) -> "Comparison":
        """Return how the reductions of two results differ, as `Reduction.compare` does."""
        return self.reduction.compare(other, **options)

    def _facts(self) -> dict[str, str]:
        said = self.metadata
        made_from = f"reduction {said['reduction']}" if said.get(REDUCTION_UID) else str(said.get("raw_archive", ""))
        facts = {
            "by": self.program,
            "method": str(said.get("method", "")),
            "made from": made_from,
            "parameters": ", ".join(f"{name}={value}" for name, value in self.parameters.items()),
            "created": str(said.get("created", "")),
            "author": str(said.get("author", "")),
            "status": self.status,
            "digest": self.digest[:16],
            "note": str(said.get("note", "")),
        }
        return {name: text for name, text in facts.items() if text}


class ResultSet(Container):
    """The results of a run, by their keys."""

    def __repr__(self) -> str:
        return repr(ResultList(self.values()))


class ResultList(list[Result]):
    """Results of a run, in the order of their numbers."""

    def __repr__(self) -> str:
        shown = [f"  {each!r}" for each in self[:_SHOWN]]
        return "\n".join([f"<{len(self)} results>", *shown, *(["  ..."] * (len(self) > _SHOWN))])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(repr(each))}</td></tr>" for each in self)
        return f"<table><caption>{len(self)} results</caption>{rows}</table>"


def results_of(context: Any, uid: str, **criteria: Any) -> ResultList:
    """Return the results of a run.

    Parameters
    ----------
    context
        Tiled's connection.
    uid
        Uid of the run.
    **criteria
        Key of their metadata, and its value.
    """
    from tiled.queries import Key

    try:
        found = from_context(context)[RESULTS, uid]
    except KeyError:
        return ResultList()
    for name, value in criteria.items():
        found = found.search(Key(name) == value)
    return ResultList(sorted(found.values(), key=lambda each: each.attempt_number))

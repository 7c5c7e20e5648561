"""All runs of a catalogue that were reduced: found by what is known of them, newest first, by queries of the server."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from ..streaming import SettingsError
from .layout import RAW, REDUCED, RESULTS, SUMMARY

if TYPE_CHECKING:
    from .runs_nodes import Run

Range = tuple[float | None, float | None]
Moment = float | str | datetime
"""Seconds since 1970, an ISO text such as ``2026-11-21T08:00``, or a datetime; without a zone it is local time."""

_SHOWN = 5


class Runs:
    """The reduced runs of a catalogue; iterating gives them, newest first.

    Parameters
    ----------
    root
        Client of the root of the catalogue.
    queries
        What the runs must fulfil, as Tiled's queries.
    """

    def __init__(self, root: Any, queries: tuple[Any, ...] = ()) -> None:
        self.root = root
        self._queries = queries

    @property
    def context(self) -> Any:
        """Tiled's connection."""
        return self.root.context

    def search(
        self,
        text: str | None = None,
        *,
        sample: str | None = None,
        scan_id: int | None = None,
        time: tuple[Moment | None, Moment | None] | None = None,
        technique: str | None = None,
        omega: Range | None = None,
        energy: Range | None = None,
        status: str | None = None,
        min_tracks: int | None = None,
        **start: Any,
    ) -> "Runs":
        """Return the runs of these that fulfil all that is said; the server looks for them.

        Parameters
        ----------
        text
            Words that their metadata hold, in any order.
        sample, technique, status
            What these are called; ``*`` stands for any letters.
        scan_id
            Number of the scan.
        time
            When they began, from and to; None for an open end.
        omega
            Range in degrees that they reach into.
        energy
            Range in keV that they reach into.
        min_tracks
            So many closed tracks at least.
        **start
            Any other key of the start document, and its value.

        Raises
        ------
        SettingsError
            A range is none.
        """
        found: list[Any] = []
        found += _of_text(text)
        for name, value in (("sample", sample), ("technique", technique), ("status", status)):
            found += _of_name(f"{SUMMARY}.{name}", value)
        found += _of_range(f"{SUMMARY}.time", f"{SUMMARY}.time", "time", time, _seconds)
        for name, ends in (("omega", omega), ("energy", energy)):
            found += _of_range(f"{SUMMARY}.{name}_min", f"{SUMMARY}.{name}_max", name, ends, float)
        found += _of_range(
            f"{SUMMARY}.n_tracks", f"{SUMMARY}.n_tracks", "min_tracks", min_tracks and (min_tracks, None), float
        )
        wanted = start if scan_id is None else {"scan_id": int(scan_id), **start}
        found += [_equal(f"start.{name}", value) for name, value in wanted.items()]
        return Runs(self.root, (*self._queries, *found))

    def latest(self) -> "Run":
        """Return the one that began last.

        Raises
        ------
        KeyError
            There is none.
        """
        return self[-1]

    def __getitem__(self, which: str | int) -> Any:
        """Return a run.

        Parameters
        ----------
        which
            Its uid, or the beginning of it; the number of its scan, of which the newest counts; or how many from the
            end, -1 the newest. ``"raw"``, ``"reduced"`` and ``"results"`` give these nodes, as Tiled's own client does.

        Raises
        ------
        KeyError
            There is no such run, or several begin so.
        """
        if which in (RAW, REDUCED, RESULTS):
            return self.root[which]
        if isinstance(which, str):
            return self._by_uid(which)
        if which >= 0:
            for run in self.search(scan_id=which):
                return run
            raise KeyError(f"scan {which} came; wanted the number of one of {len(self)} runs")
        runs = self._nodes()
        found = [] if runs is None else list(runs.values()[-which - 1 : -which])
        if not found:
            raise KeyError(f"run {which} came; wanted -1 to -{len(self)}, the newest first")
        return found[0]

    def __iter__(self) -> Iterator["Run"]:
        runs = self._nodes()
        return iter(()) if runs is None else iter(runs.values())

    def __len__(self) -> int:
        runs = self._nodes()
        return 0 if runs is None else len(runs)

    def __contains__(self, which: object) -> bool:
        try:
            return isinstance(which, (str, int)) and self[which] is not None
        except KeyError:
            return False

    def _by_uid(self, uid: str) -> "Run":
        from tiled.queries import Like

        runs = self._nodes()
        if runs is None or not re.fullmatch(r"[A-Za-z0-9-]+", uid):
            raise KeyError(f"run {uid!r} came; wanted the uid of one of {len(self)} runs")
        try:
            return runs[uid]
        except KeyError:
            found = list(runs.search(Like("raw_run_uid", f"{uid}%")).values()[:2])
        if len(found) != 1:
            n = "several runs begin" if found else "no run begins"
            raise KeyError(f"run {uid!r} came, and {n} so; wanted the uid of one of {len(self)} runs")
        return found[0]

    def _nodes(self) -> Any:
        """Return the container of the runs that are meant; None if nothing was ever reduced."""
        try:
            runs = self.root[REDUCED]
        except KeyError:
            return None
        for query in self._queries:
            runs = runs.search(query)
        return runs.sort((f"{SUMMARY}.time", -1), ("", -1))

    def __repr__(self) -> str:
        n, shown = self._shown()
        return "\n".join([f"<{n} runs, newest first>", *(f"  {run!r}" for run in shown), *(["  ..."] * (n > _SHOWN))])

    def _repr_html_(self) -> str:
        n, shown = self._shown()
        rows = "".join(f"<tr><td>{escape(repr(run))}</td></tr>" for run in shown)
        return f"<table><caption>{n} runs, newest first</caption>{rows}</table>"

    def _shown(self) -> tuple[int, list["Run"]]:
        runs = self._nodes()
        return (0, []) if runs is None else (len(runs), list(runs.values()[:_SHOWN]))


def _of_text(text: str | None) -> list[Any]:
    from tiled.queries import FullText

    # One by one: how words are joined is another language with each database.
    return [FullText(word) for word in re.findall(r"\w+", text or "")]


def _of_name(key: str, name: str | None) -> list[Any]:
    from tiled.queries import Like

    if name is None:
        return []
    if "*" not in name:
        return [_equal(key, name)]
    if re.search(r"[%_\\]", name):
        raise SettingsError(f"search: {key.rpartition('.')[2]}={name!r} came; wanted no %, _ or \\ beside *")
    return [Like(key, name.replace("*", "%"))]


def _of_range(low_key: str, high_key: str, name: str, ends: Any, number: Callable[[Any], float]) -> list[Any]:
    """Return what a range must be that reaches into another."""
    from tiled.queries import Key

    if ends is None:
        return []
    try:
        low, high = (None if end is None else number(end) for end in ends)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"search: {name}={ends!r} came; wanted (low, high), or None for one of them") from error
    if low is not None and high is not None and low > high:
        raise SettingsError(f"search: {name}={ends!r} came; wanted the lower end first")
    found = [] if low is None else [Key(high_key) >= low]
    return found if high is None else [*found, Key(low_key) <= high]


def _equal(key: str, value: Any) -> Any:
    from tiled.queries import Key

    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, (str, int, float, bool)):
        raise SettingsError(f"search: {key}={value!r} came; wanted a text or a number")
    return Key(key) == plain


def _seconds(moment: Moment) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.astimezone(UTC)).timestamp()
    return float(moment)

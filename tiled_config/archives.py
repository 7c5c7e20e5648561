"""Archives found in folders as nodes of a catalogue: served from their files, and rows that were sent given back.

A reduction that nobody published is registered; of one that was published live, once it is over, the tables are
handed over: first their rows are compared with the file, then their data source is changed in one transaction of the
catalogue, and only later, when no reader can still be at them, the rows leave the SQL storage.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..streaming import MAX_PROJECTION, HedmLiveError, Table
from .archives_links import check_links
from .archives_nodes import (
    Behind,
    Place,
    ResultPlace,
    batches_of,
    check_counts,
    is_archived,
    register_projection,
    register_table,
    rows_to_drop,
    swap_table,
    without_rows,
)
from .layout import REDUCED, SUMMARY, ensure_root, run_tags
from .sink import LIVE_EVENTS, TiledSink
from .summary import write_summary

LEAVE = 60.0
"""Seconds since the last change of a file in which it is left to the publisher that its settings name."""

GRACE = 60.0
"""Seconds that rows are kept after their table was handed over: a request takes less."""

_GIVEN_UP = 3600.0
"Seconds after which nobody waits any longer for the publisher of a file."
_LOG = logging.getLogger(__name__)


class TablesReader(Protocol):
    """What is wanted of an archive of tables; `hedmlive.callbacks.ReducedArchiveReader` is one."""

    run_uid: str

    @property
    def attempts(self) -> tuple[int, ...]:
        """Numbers of the reductions, or results."""
        ...

    def attributes(self, attempt: int) -> dict[str, Any]:
        """Return what is written about one."""
        ...

    def tables(self, attempt: int) -> dict[str, Table]:
        """Return the schema of one."""
        ...

    def digest(self, attempt: int) -> str:
        """Compute the digest of one from its tables."""
        ...


class RunReader(Protocol):
    """What is wanted of a raw archive."""

    run_uid: str
    finished: bool
    published: bool
    "Whether its settings name a server."

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the documents, with references for images."""
        ...


class Readers(Protocol):
    """Opens archives; this package knows no documents and no format of archives."""

    def reduced(self, path: Path) -> AbstractContextManager[TablesReader]:
        """Open a reduced archive."""
        ...

    def results(self, path: Path) -> AbstractContextManager[TablesReader]:
        """Open a results archive."""
        ...

    def run(self, path: Path) -> AbstractContextManager[RunReader]:
        """Open a raw archive."""
        ...


@dataclass(slots=True)
class _Feed:
    """A run that grows: what has been sent of it."""

    sink: TiledSink
    n_sent: int = 0


class Archives:
    """Looks after the archives of some folders.

    Parameters
    ----------
    client
        Client of the catalogue's root that may register files.
    folders
        Folders with archives, which the server may read; folders below them count too, hidden ones do not.
    readers
        Opens archives.
    hand_over
        Whether tables that were published are served from the archives as soon as these are finished.
    drop
        Deletes rows: address of the database, SQL table, number of the dataset. None keeps them.
    grace
        Seconds that rows are kept after the hand-over.
    clock
        Gives the time, seconds since 1970.
    may
        Tells whether a file may be opened for nodes of some access tags. None: all that lies in `folders` may.
    """

    def __init__(
        self,
        client: Any,
        folders: Sequence[Path],
        readers: Readers,
        *,
        hand_over: bool = True,
        drop: Callable[[str, str, int], object] | None = None,
        grace: float = GRACE,
        clock: Callable[[], float] = time.time,
        may: Callable[[Path, Collection[str]], bool] | None = None,
    ) -> None:
        self._client = client
        self._folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self._readers = readers
        self._hand_over = hand_over
        self._drop = drop
        self._grace = grace
        self._clock = clock
        self._may = may
        self._settled: dict[Path, tuple[int, int, int]] = {}
        self._feeds: dict[str, _Feed] = {}
        self._told: dict[Path, str] = {}
        self.n_reductions = self.n_results = self.n_runs = self.n_handed_over = self.n_dropped = 0

    def scan(self, stopped: Callable[[], bool] = lambda: False) -> tuple[str, ...]:
        """Look at every archive that changed since the last time.

        Parameters
        ----------
        stopped
            Ends the scan, between two archives, when it is true.

        Returns
        -------
        What could not be served, a line each; what was said before is not said again.
        """
        ensure_root(self._client)
        before = dict(self._told)
        for path in self._found():
            if stopped():
                break
            self._look(path)
        return tuple(f"{path}: {why}" for path, why in self._told.items() if before.get(path) != why)

    def _found(self) -> Iterator[Path]:
        for top in self._folders:
            for folder, below, names in os.walk(top):
                below[:] = sorted(name for name in below if not name.startswith("."))
                for name in sorted(names):
                    if name.endswith(("_raw.h5", "_reduced.h5", "_results.h5")):
                        yield Path(folder, name)

    def _look(self, path: Path) -> None:
        stamp: tuple[int, int, int] | None = None
        try:
            if path.is_symlink() and not self._holds(path):
                raise HedmLiveError("is a link that leads out of the folders; it is not served")
            info = path.stat()
            stamp = (info.st_ino, info.st_size, info.st_mtime_ns)
            if self._settled.get(path) == stamp:
                return
            looks = {"reduced.h5": self._reduced, "results.h5": self._results, "raw.h5": self._run}
            if looks[path.name.rpartition("_")[2]](path, self._clock() - info.st_mtime):
                self._settled[path] = stamp
            self._told.pop(path, None)
        except FileNotFoundError:
            return  # swapped or taken away in between
        except ConnectionError as error:
            self._tell(path, error)  # looked at again the next time
        except Exception as error:
            # Whatever a broken file makes a reader raise, the others are looked at.
            self._tell(path, error)
            if stamp is not None and not isinstance(error, Behind):
                self._settled[path] = stamp

    def _tell(self, path: Path, error: Exception) -> None:
        why = " ".join((str(error) if isinstance(error, HedmLiveError) else repr(error)).split())
        self._told[path] = why.removeprefix(f"{path}: ")

    def _holds(self, path: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(folder) for folder in self._folders)

    # Reductions

    def _reduced(self, path: Path, age: float) -> bool:
        """Serve the reductions of a file; tell whether nothing is left to do until it changes."""
        check_links(path, "/", self._holds, deep=True)
        with self._readers.reduced(path) as reader:
            settled = [self._attempt(Place(path, reader, attempt), age) for attempt in reader.attempts]
        return all(settled)

    def _results(self, path: Path, age: float) -> bool:
        """Serve the results of a file; tell whether nothing is left to do until it changes."""
        check_links(path, "/", self._holds, deep=True)
        with self._readers.results(path) as reader:
            settled = [self._attempt(ResultPlace(path, reader, attempt), age) for attempt in reader.attempts]
        return all(settled)

    def _attempt(self, place: Place, age: float) -> bool:
        attributes = place.attributes
        published = json.loads(str(attributes.get("settings", "{}"))).get("tiled") is not None
        node = self._find(place)
        if node is not None:
            self._check_owner(place.path, node.access_tags)
        else:
            if published and age < LEAVE:
                return False
            metadata = {"attempt": place.attempt, **attributes, "served_from": "archive"}
            start = start_beside(place.path, place.uid, self._readers, self._holds)
            self._check_owner(place.path, run_tags(self._client, start))
            node = place.ensure(self._client, start, metadata)
            if place.top == REDUCED:
                self.n_reductions += 1
            else:
                self.n_results += 1
        children = {name: child for name, child in node.include_data_sources().items() if name in place.tables}
        sent = {name: child for name, child in children.items() if not is_archived(child)}
        over = node.metadata.get("status") != "running" and node.metadata.get("digest") == attributes["digest"]
        ours = node.metadata.get("served_from") == "archive"
        if sent and not (self._hand_over and over and attributes["digest"]):
            return not self._hand_over or age > _GIVEN_UP
        if sent:
            self._give(place, node, sent)
        if ours or sent:
            for name in (name for name in place.tables if name not in children):
                register_table(node, place, name)
            self._serve_projection(place, node)
        if ours and not sent:
            self._describe(place, node)
        return self._drop_rows(place, children) and not sent

    def _check_owner(self, path: Path, tags: Collection[str] | None) -> None:
        """Refuse an archive that says it is of a proposal and lies in, or leads to, the folder of another."""
        may, of = self._may, tags or ()
        if may is not None:
            check_links(path, "/", lambda each: may(each, of), deep=True)

    def _describe(self, place: Place, node: Any) -> None:
        """Bring what is said of a reduction up to date: what its file says, and what it is searched by."""
        if any(node.metadata.get(name) != value for name, value in place.attributes.items()):
            node.update_metadata(place.attributes)
        elif SUMMARY in node.metadata:
            return
        if place.top == REDUCED:
            write_summary(
                node, self._client[REDUCED][place.uid], node.metadata["start"], place.counts(), node.get("frames")
            )

    def _serve_projection(self, place: Place, node: Any) -> None:
        """Serve the image of a reduction from its archive, in place of one that was sent."""
        if place.top != REDUCED or not place.attributes["digest"]:
            return
        there = node.include_data_sources().get(MAX_PROJECTION)
        if there is not None and not is_archived(there):
            node.delete_contents([MAX_PROJECTION], external_only=False)
            there = None
        if there is None:
            register_projection(node, place)

    def _find(self, place: Place) -> Any:
        """Return the node of a reduction, wherever it is; None if there is none."""
        top = self._client[place.top]
        if place.uid not in top:
            return None
        for node in top[place.uid].values():
            if node.metadata.get(place.uid_name) == place.own_uid:
                return node
        return None

    def _give(self, place: Place, node: Any, sent: Mapping[str, Any]) -> None:
        for name, child in sent.items():
            check_counts(child, place, name)
        place.verify()
        # Compared before anything is changed: all tables are handed over, or none.
        batches = {name: batches_of(child, place) for name, child in sent.items() if name in place.tables}
        node.update_metadata({"served_from": "archive"}, drop_revision=True)
        for name, counts in batches.items():
            swap_table(sent[name], place, name, counts, self._clock())
        self.n_handed_over += 1
        _LOG.info("%s: %s %d is served from the archive", place.path, place.kind, place.attempt)

    def _drop_rows(self, place: Place, children: Mapping[str, Any]) -> bool:
        """Drop rows that waited long enough; tell whether none are left."""
        waiting = {name: rows for name, child in children.items() if (rows := rows_to_drop(child)) is not None}
        if not waiting or self._drop is None:
            return True
        if any(self._clock() - rows.since < self._grace for rows in waiting.values()):
            return False
        place.verify()
        for name, rows in waiting.items():
            self._drop(rows.uri, rows.table_name, rows.dataset_id)
            without_rows(children[name])
        self.n_dropped += 1
        return True

    # Runs

    def _run(self, path: Path, age: float) -> bool:
        """Serve the run of a raw archive; tell whether nothing is left to do until it changes."""
        _check_documents(path, self._holds)
        with self._readers.run(path) as reader:
            uid = reader.run_uid
            feed = self._feeds.get(uid)
            if feed is None:
                start = next((doc for name, doc in reader.documents() if name == "start"), {})
                tags = run_tags(self._client, start) or ()
                if self._may is not None and not self._may(path, tags):
                    raise HedmLiveError(f"lies outside the folders of {', '.join(tags) or 'its proposal'}")
                sink = TiledSink(self._client, batch_size=LIVE_EVENTS)
                if sink.has_run(uid):
                    return True
                if reader.published and age < LEAVE:
                    return False
                feed = self._feeds[uid] = _Feed(sink)
                feed.sink.raw_reset(uid)
                self.n_runs += 1
            try:
                for number, (name, doc) in enumerate(reader.documents()):
                    if number >= feed.n_sent:
                        feed.sink.raw_document(name, doc)
                        feed.n_sent = number + 1
            except BaseException:
                # What is there of the run is not known any more: the next time it is sent anew.
                del self._feeds[uid]
                raise
            if reader.finished:
                del self._feeds[uid]
            return True


def start_beside(
    path: Path, uid: str, readers: Readers, holds: Callable[[Path], bool] = lambda path: True
) -> Mapping[str, Any]:
    """Return the start document of a reduction's run, from the raw archive beside it; else all that is known of it."""
    raw = path.with_name(f"{path.name.rpartition('_')[0]}_raw.h5")
    try:
        _check_documents(raw, holds)
        with readers.run(raw) as run:
            if run.run_uid == uid:
                return next((doc for name, doc in run.documents() if name == "start"), {"uid": uid})
    except HedmLiveError:
        pass  # said where the raw archive itself is looked at
    return {"uid": uid}


def _check_documents(path: Path, holds: Callable[[Path], bool]) -> None:
    # Frames may lie in files elsewhere, which the server refuses by itself; the documents must be in this one.
    for name in ("/entry/documents/bytes", "/entry/documents/end", "/entry/instrument"):
        check_links(path, name, lambda each: each == path and holds(each))

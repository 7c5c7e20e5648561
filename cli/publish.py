"""The commands `publish` and `serve`: archives as nodes of a Tiled catalogue."""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..callbacks import RawArchiveReader, ReducedArchiveReader, ResultsArchiveReader
from ..callbacks.external import ExternalDocuments
from ..callbacks.results_origin import KINDS
from ..streaming import ArchiveError, HedmLiveError, PublishError, SettingsError
from .display import console, error_console

if TYPE_CHECKING:
    from ..tiled_config import TiledSink

_BATCH_ROWS = 50_000
"Rows that are sent at once: some 10 MB of peaks."
_ORDER = ("tracks", "members", "peaks", "links", "frames")
_WANTED = "*_raw.h5, *_reduced.h5 or *_results.h5"

Advance = Callable[[int], object]


class _Run:
    """The run in a raw archive, as Tiled is told of it."""

    def __init__(self, reader: RawArchiveReader) -> None:
        self._reader = reader
        self.run_uid = reader.run_uid
        self.finished = reader.finished
        self._settings = reader.settings()
        self.published = self._settings.tiled is not None

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the documents, with references to the archive for the images in it."""
        keys = tuple(detector.image for detector in self._settings.detectors)
        # References to what was copied are the reader's own work.
        external = ExternalDocuments(self._reader.path, {}, keys)
        for name, doc in self._reader.documents(lazy=True):
            yield from external.push(name, doc)


class ArchiveReaders:
    """Opens archives for the server, which knows no format of them."""

    def reduced(self, path: Path) -> ReducedArchiveReader:
        """Open a reduced archive."""
        return ReducedArchiveReader(path)

    def results(self, path: Path) -> ResultsArchiveReader:
        """Open a results archive."""
        return ResultsArchiveReader(path)

    @contextmanager
    def run(self, path: Path) -> Generator[_Run]:
        """Open a raw archive."""
        with RawArchiveReader(path) as reader:
            yield _Run(reader)


def run_serve(settings: Path | None, archives: Sequence[Path], port: int | None) -> None:
    """Serve until Ctrl-C.

    Raises
    ------
    SettingsError
        Nothing to serve was named, or a folder is not there.
    """
    from ..tiled_config import read_serve_settings, serve

    if settings is None and not archives:
        raise SettingsError("nothing to serve: give a settings file, or --archives FOLDER")
    for folder in archives:
        if not folder.is_dir():
            raise SettingsError(f"--archives {folder}: no such folder")
    with tempfile.TemporaryDirectory(prefix="hedmlive-") as catalogue:
        said = read_serve_settings({"folder": catalogue, "port": 0} if settings is None else settings)
        changes: dict[str, Any] = {} if port is None else {"port": port}
        changes["archives"] = (*said.archives, *(folder.absolute() for folder in archives))
        said = said.model_copy(update=changes)
        keyfile = said.keyfile or said.folder / "api_key"
        where = "keys are made by `hedmlive key`" if said.facility else f"the key is in {keyfile}"
        serve(
            said,
            ready=lambda uri, _key: typer.echo(f"{uri}  (Ctrl-C ends it; {where})"),
            readers=ArchiveReaders(),
            tell=lambda line: error_console.print(f"! {line}", style="yellow", markup=False),
        )


def run_publish(archives: Sequence[Path], uri: str, *, raw: bool) -> None:
    """Send archives to a Tiled server, each row once however often it is called.

    Parameters
    ----------
    archives
        Raw, reduced and results archives, or folders of them.
    uri
        The server.
    raw
        Whether the run itself is sent with a reduced archive, if its raw archive lies beside it.

    Raises
    ------
    ArchiveError
        Something was not published; what it was is said on standard error.
    """
    from ..callbacks import make_sink

    paths = list(dict.fromkeys(path for given in archives for path in _files(given, raw=raw)))
    n_failed = 0
    for path in paths:
        try:
            sink: Any = make_sink("tiled", uri, os.environ.get("HEDMLIVE_TILED_KEY"))
        except OSError as error:
            raise PublishError(f"{uri}: no server answers there: {error}") from None
        try:
            n_failed += _SENDERS[path.name.rpartition("_")[2]](path, sink)
        except (ConnectionError, HedmLiveError) as error:
            why = str(error).removeprefix(f"{path}: ")
            error_console.print(f"! {path}: {why}", style="yellow", markup=False)
            n_failed += 1
        finally:
            sink.close()
    if n_failed:
        raise ArchiveError(f"{n_failed} of {len(paths)} archives were not published whole; see above, and try again")


def _files(given: Path, *, raw: bool) -> Iterator[Path]:
    if given.is_dir():
        found = sorted(path for kind in KINDS for path in given.rglob(f"*_{kind}.h5"))
        if not found:
            raise ArchiveError(f"{given}: holds no archive; wanted {_WANTED}")
        yield from (path for path in found if raw or not path.name.endswith("_raw.h5"))
        return
    if not given.exists():
        raise ArchiveError(f"{given}: no such file; wanted an archive, or a folder of them")
    if not given.name.endswith(tuple(f"_{kind}.h5" for kind in KINDS)):
        raise ArchiveError(f"{given}: wanted {_WANTED}")
    beside = given.with_name(f"{given.name.rpartition('_')[0]}_raw.h5")
    if raw and beside != given and beside.exists():
        yield beside
    yield given


@contextmanager
def _bar(what: str, total: int) -> Generator[Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(
        *columns, TimeElapsedColumn(), console=error_console, disable=not error_console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)


def _publish_run(path: Path, sink: "TiledSink") -> bool:
    """Publish a run; tell whether something is missing."""
    from ..tiled_config.archives_moved import leads_nowhere
    from ..tiled_config.layout import RAW

    with RawArchiveReader(path) as reader:
        if not reader.finished:
            raise ArchiveError(f"{path}: is not finished; the run is still going on, or was killed")
        if sink.has_run(reader.run_uid) and not leads_nowhere(sink.client[RAW][reader.run_uid], path.absolute()):
            console.print(f"{path.name}: run {reader.run_uid[:8]} is there already", markup=False)
            return False
        sink.raw_reset(reader.run_uid)
        with _bar(path.name, len(reader)) as advance:
            for name, doc in _Run(reader).documents():
                why = sink.raw_document(name, doc)
                if why is not None:
                    error_console.print(f"! {path.name}: {why}", style="yellow", markup=False)
                advance(1)
        console.print(f"{path.name}: run {reader.run_uid[:8]}, {len(reader)} documents", markup=False)
        return False


def _publish_reductions(path: Path, sink: "TiledSink") -> bool:
    """Publish the reductions of an archive; tell whether one is missing."""
    from ..tiled_config.archives import start_beside
    from ..tiled_config.archives_moved import lead_to_archive
    from ..tiled_config.archives_nodes import Place, batches_of

    with ReducedArchiveReader(path) as reader:
        start = start_beside(path, reader.run_uid, ArchiveReaders())
        missing = False
        for attempt in reader.attempts:
            place = Place(path.absolute(), reader, attempt)
            if not place.attributes["digest"]:
                error_console.print(f"! {path}: reduction {attempt} was never finished", style="yellow", markup=False)
                missing = True
                continue
            place.verify()
            tables = {name: table for name, table in place.tables.items() if name != "pixels"}
            if lead_to_archive(sink.client, place):
                console.print(f"{path.name}: reduction_{attempt:04d} is served from its new place", markup=False)
            opened = {**place.attributes, "attempt": attempt, "status": "running"}
            sink.open_reduction(reader.run_uid, attempt, start=start, metadata=opened, tables=tables)
            n_rows = _send(path, reader, attempt, sink)
            for name in tables:
                batches_of(sink.table(name), place)
            if sink.metadata.get("status") == "running":
                image = reader.max_projection(attempt)
                if image is not None:
                    sink.put_projection(image)
                sink.close_reduction(place.attributes)
            said = f"{n_rows} rows" if n_rows else "is there already"
            console.print(f"{path.name}: {place.attributes['digest']}  reduction_{attempt:04d}: {said}", markup=False)
        return missing


def _publish_results(path: Path, sink: "TiledSink") -> bool:
    """Publish the results of an archive; tell whether one is missing."""
    from ..tiled_config.archives import start_beside
    from ..tiled_config.archives_moved import lead_to_archive
    from ..tiled_config.archives_nodes import ResultPlace
    from ..tiled_config.results import publish_result

    with ResultsArchiveReader(path) as reader:
        start = start_beside(path, reader.run_uid, ArchiveReaders())
        for attempt in reader.attempts:
            place = ResultPlace(path.absolute(), reader, attempt)
            if lead_to_archive(sink.client, place):
                console.print(f"{path.name}: result_{attempt:04d} is served from its new place", markup=False)
            n_rows = publish_result(sink.client, place, start)
            said = f"{n_rows} rows" if n_rows else "is there already"
            console.print(f"{path.name}: {place.attributes['digest']}  result_{attempt:04d}: {said}", markup=False)
        return False


def _send(path: Path, reader: ReducedArchiveReader, attempt: int, sink: "TiledSink") -> int:
    """Send the rows that are not there yet, and return how many that were."""
    n_sent = 0
    n_all = sum(reader.n_rows(attempt, table) for table in _ORDER)
    with _bar(f"{path.name} {attempt}", n_all) as advance:
        for table in _ORDER:
            batch, first = sink.stored(table)
            advance(first)
            n_rows = reader.n_rows(attempt, table)
            while first < n_rows:
                end = min(first + _BATCH_ROWS, n_rows)
                batch += 1
                _patiently(sink, table, batch, reader.read(attempt, table, first, end))
                advance(end - first)
                n_sent += end - first
                first = end
    return n_sent


def _patiently(sink: "TiledSink", table: str, batch: int, columns: Any) -> None:
    for left in (2, 1, 0):
        try:
            sink.append(table, batch, columns)
            return
        except ConnectionError:
            if not left:
                raise


_SENDERS = {"raw.h5": _publish_run, "reduced.h5": _publish_reductions, "results.h5": _publish_results}

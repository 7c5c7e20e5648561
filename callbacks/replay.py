"""Replay: documents of an archived run through the same callbacks, which must give the same digest."""

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py

from ..streaming import ArchiveError, DocumentError, ReplayError
from .detector_files import settings_of_copies
from .foreign import Aside, default_settings, result_of, scan_documents, scan_of
from .foreign_files import is_known
from .foreign_scan import Finished
from .hdf5 import open_growing
from .live import SinkMaker, run_stem
from .parts import Parts
from .problems import Problems
from .progress import Progress, RunResult
from .publisher import Publisher
from .raw_archive import RawArchive
from .raw_reader import RawArchiveReader
from .replay_tiled import SCHEMES, open_tiled, tiled_documents
from .run import RunReduction
from .settings import Settings

Documents = Iterable[tuple[str, Mapping[str, Any]]]

_PUBLISH_SLICE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Documents of one run, and what is known of them beforehand."""

    documents: Documents
    "The documents."
    settings: Mapping[str, Any] | None
    "Settings that go with them, as plain values; None if they must be given."
    n_frames: int | None = None
    "Number of frames, if it is known."
    stem: str | None = None
    "Name for the archives; None for the one that the settings say."
    write_raw: bool = False
    "Whether the documents have no raw archive yet."
    aside: Aside | None = None
    "What is said beside them."


def process(
    documents: Documents,
    settings: Settings,
    *,
    stem: str | None = None,
    write_raw: bool = False,
    sink: SinkMaker | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    publish_seconds: float = 60,
    parts: Parts | None = None,
    aside: Aside | None = None,
) -> RunResult:
    """Send the documents of one run through the callbacks, in this thread, as fast as they are reduced.

    Parameters
    ----------
    documents
        (name, document) of one run.
    settings
        Everything that the settings say; the archives go to `ArchiveSettings.folder`.
    stem
        Name of the archives; by default the one that the settings say.
    write_raw
        Whether to write a raw archive too.
    sink
        Makes what results are published to.
    watch
        Called after each document.
    publish_seconds
        How long to wait at the end until all is published.
    parts
        What the run is reduced with.
    aside
        Of documents that are made of files: what is said beside them.

    Raises
    ------
    ReplayError
        There is no start document.
    ArchiveError
        An archive cannot be written.
    """
    return result_of(
        process_in_steps(
            documents,
            settings,
            stem=stem,
            write_raw=write_raw,
            sink=sink,
            watch=watch,
            publish_seconds=publish_seconds,
            parts=parts,
            aside=aside,
        )
    )


def process_in_steps(
    documents: Iterable[tuple[str, Mapping[str, Any]] | None],
    settings: Settings,
    *,
    stem: str | None = None,
    write_raw: bool = False,
    sink: SinkMaker | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    publish_seconds: float = 60,
    parts: Parts | None = None,
    aside: Aside | None = None,
) -> Generator[bool, None, RunResult]:
    """Do what `process` does, document by document, so that several runs can go side by side in one thread.

    It gives True after each document, and False when there was nothing to do: where the documents gave None, because
    the next one is not there yet, and while it waits until all is published. Closed early, it leaves archives that are
    not finished. The first document must be there.
    """
    iterator = iter(documents)
    name, start = next(iterator, None) or ("nothing", {})
    if name != "start" or "uid" not in start:
        raise ReplayError(f"the first document is {name}; wanted a start document with a uid")
    stem = stem or run_stem(settings, start)
    problems = Problems(str(start["uid"]))
    parts = parts or Parts()
    folder = settings.archive.folder
    raw = parts.raw_archive(folder / f"{stem}_raw.h5", settings, start) if write_raw else None
    try:
        reduction = RunReduction(
            settings, start, folder / f"{stem}_reduced.h5", raw=raw, problems=problems, parts=parts
        )
        if reduction.archive is None:
            raise ArchiveError(problems.kept[-1].message)
        if aside is not None:
            aside.join(problems)
        return (yield from _process(reduction, chain([(name, start)], iterator), raw, sink, watch, publish_seconds))
    finally:
        if raw is not None:
            raw.close()
            raw.release()


def _process(
    reduction: RunReduction,
    documents: Iterable[tuple[str, Mapping[str, Any]] | None],
    raw: RawArchive | None,
    sink: SinkMaker | None,
    watch: Callable[[Progress], None],
    publish_seconds: float,
) -> Generator[bool, None, RunResult]:
    archive, problems, publisher = reduction.archive, reduction.problems, None
    tiled = reduction.settings.tiled
    if sink is not None and tiled is not None and archive is not None:
        publisher = Publisher(sink, archive, reduction.uid, reduction.start, tiled, problems, raw=raw)
    try:
        for each in documents:
            if each is not None:
                name, doc = each
                archived = None if raw is None else _archive(raw, name, doc, problems)
                reduction.push(name, doc, archived=archived)
            else:
                _idle(reduction, raw, publisher)
            watch(reduction.progress)
            yield each is not None
        result = reduction.finish()
        if publisher is not None:
            publisher.finish({"digest": next(iter(result.digests.values()), "")})
            until = time.monotonic() + publish_seconds
            while not (published := publisher.wait(_PUBLISH_SLICE)) and time.monotonic() < until:
                yield False
            if not published:
                problems.add("publish", "not everything was published; the archives hold it all")
        return replace(result, problems=tuple(problems.lines()))
    finally:
        if publisher is not None:
            publisher.give_up()
        reduction.close()


def _idle(reduction: RunReduction, raw: RawArchive | None, publisher: Publisher | None) -> None:
    """Do what must not wait for a document that is not there yet."""
    reduction.settle()
    n_flushes = reduction.n_flushes
    reduction.flush_if_due(wanted=publisher is not None and publisher.hungry)
    if publisher is not None and reduction.n_flushes > n_flushes:
        publisher.feed()
    if raw is not None:
        raw.flush_if_due()


def _archive(raw: RawArchive, name: str, doc: Mapping[str, Any], problems: Problems) -> Mapping[str, Any] | None:
    try:
        return raw.append(name, doc)
    except DocumentError as error:
        problems.add("document", str(error))
        return None


def open_source(where: str, *, api_key: str | None = None, settings: Settings | None = None) -> Source:
    """Return the documents of a run.

    Parameters
    ----------
    where
        A raw archive (.h5), a file of frames (HDF5, HEXRD's frame-cache, GE, TIFF, CBF, ...), documents (.jsonl, or
        .json with a list), ``tiled://HOST:PORT/UID`` as `open_tiled` knows it, or ``databroker://CATALOG/UID``.
    api_key
        Key of the Tiled server; by default that of the environment variable ``HEDMLIVE_TILED_KEY``, then Tiled's own.
    settings
        What says where things lie in a file of frames; by default where formats prescribe it.

    Raises
    ------
    ReplayError, ArchiveError
        There is no such run, or it cannot be read.
    """
    if where.partition("://")[0] in SCHEMES:
        return _from_tiled(where, api_key or os.environ.get("HEDMLIVE_TILED_KEY"))
    if where.startswith("databroker://"):
        return _from_databroker(where)
    path = Path(where)
    if not path.is_file():
        raise ReplayError(
            f"{where}: no such file; wanted a raw archive, a frame-cache, documents, tiled:// or databroker://"
        )
    if path.suffix in (".json", ".jsonl"):
        return Source(documents=_read_json(path), settings=None, stem=path.stem, write_raw=True)
    if is_known(path) and not _is_archive(path):
        return _from_foreign(path, settings)
    return _from_raw_archive(path)


def _is_archive(path: Path) -> bool:
    """Tell whether an HDF5 file is an archive of ours, or nothing that could be read as another."""
    if path.suffix == ".npz" or not h5py.is_hdf5(path):
        return path.suffix in (".h5", ".hdf5")
    with open_growing(path) as file:
        entry = file.get("entry")
        said = (file.attrs.get("format"), entry.attrs.get("format") if isinstance(entry, h5py.Group) else None)
    return any(str(each).startswith("hedmlive-") for each in said)


def _from_raw_archive(path: Path) -> Source:
    reader = RawArchiveReader(path)
    settings = settings_of_copies(reader.file, path, reader.settings())
    stem = path.stem.removesuffix("_raw")
    # Images that have to wait are read when they are needed: the file stays open as long as one of them is kept.
    documents = reader.documents(lazy=True)
    return Source(documents=documents, settings=settings, n_frames=reader.n_points(), stem=stem)


def _from_foreign(path: Path, settings: Settings | None) -> Source:
    scan = scan_of(path, settings)
    aside = Aside()
    look = Finished(scan=scan)()
    return Source(
        documents=scan_documents(scan, aside),
        settings=None if settings is not None else default_settings(look),
        n_frames=look.n_frames,
        stem=scan.name,
        write_raw=True,
        aside=aside,
    )


def _from_tiled(where: str, api_key: str | None) -> Source:
    found = open_tiled(where, api_key)
    documents = run_documents(found.run, from_files=found.from_files)
    return Source(documents=documents, settings=found.settings)


def _from_databroker(where: str) -> Source:
    try:
        import databroker
    except ImportError:
        raise ReplayError(f"{where}: databroker is not installed; install hedmlive[databroker]") from None
    parts = urlsplit(where)
    from_files = parts.query == "frames=files"
    if parts.query and not from_files:
        raise ReplayError(f"{where}: wanted databroker://CATALOG/UID, with ?frames=files or nothing behind")
    try:
        run = databroker.catalog[parts.netloc][parts.path.strip("/")]
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ReplayError(f"{where}: no such run ({why}); wanted databroker://CATALOG/UID") from None
    return Source(documents=run_documents(run, from_files=from_files), settings=None, stem=None)


def run_documents(run: Any, *, from_files: bool = False) -> Documents:
    """Return the documents of a run of Tiled or of databroker (1.2.5 or 2.x).

    Parameters
    ----------
    run
        The run. Of one that a Tiled server holds, images are fetched from there in blocks when they are needed.
    from_files
        Leave references to files as they are, so that images are read from files that lie on this machine.

    Raises
    ------
    ReplayError
        The object has no documents, or databroker 1.2.5 has lost those of its frames.
    """
    if not hasattr(run, "documents"):
        raise ReplayError(f"{run!r} has no documents(); wanted a run of a databroker catalogue")
    fill = signature(run.documents).parameters.get("fill")
    # 1.2.5 asks for `fill` and knows "no"; for 2.x references are the default, and "no" would count as true.
    if fill is not None and fill.default is Parameter.empty:
        _refuse_streams(run)
        documents = run.documents(fill="no")
    elif hasattr(run, "context") and not from_files:
        return tiled_documents(run)
    else:
        documents = run.documents()
    # A run that never stopped has a stop document that is None.
    return ((name, doc) for name, doc in documents if doc)


def _refuse_streams(run: Any) -> None:
    """Raise if frames were told in stream documents, which databroker 1.2.5 drops without a word."""
    descriptors = [descriptor for stream in run for descriptor in run[stream].metadata["descriptors"]]
    lost = {
        key
        for descriptor in descriptors
        for key, about in descriptor["data_keys"].items()
        if about.get("external") == "STREAM:"
    }
    if lost:
        raise ReplayError(
            f"run {str(run.metadata['start']['uid'])[:8]}: databroker 1.2.5 does not give back stream_resource and "
            f"stream_datum, where the frames of {sorted(lost)} are; replay the raw archive, or from databroker 2"
        )


def _read_json(path: Path) -> Documents:
    try:
        content = path.read_text(encoding="utf-8")
        loaded = json.loads(content) if path.suffix == ".json" else [json.loads(each) for each in content.splitlines()]
        return [(each["name"], each["doc"]) if isinstance(each, dict) else (each[0], each[1]) for each in loaded]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DocumentError(f"{path}: not documents: {type(error).__name__}: {error}") from None

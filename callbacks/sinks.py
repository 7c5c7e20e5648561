"""Sinks: where a publisher sends things to, found by the name of an entry point."""

import socket
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from ..streaming import Columns, SettingsError, Table

SINKS = "hedmlive.sinks"
"""Entry-point group of sinks; `tiled` is ours."""

_IMPORTING = threading.Lock()
"""Packages that import each other in a circle, dask among them, break where two threads begin with different ones."""


class ResultSink(Protocol):
    """Where a publisher sends things to; one object for one reduction."""

    def open_reduction(
        self,
        uid: str,
        attempt: int,
        *,
        start: Mapping[str, Any],
        metadata: Mapping[str, Any],
        tables: Mapping[str, Table],
    ) -> None:
        """Make the place of a reduction, or find it again."""
        ...

    def stored(self, table: str) -> tuple[int, int]:
        """Return the number of the last batch and of the rows that are stored."""
        ...

    def append_all(self, batches: Mapping[str, tuple[int, Columns]]) -> None:
        """Append a numbered batch to each of some tables, in this order; a second time does nothing.

        Raises
        ------
        BatchTooLarge
            The server takes smaller ones.
        PublishError
            It is refused for good.
        ConnectionError
            Nobody knows what of it is stored: open the reduction anew.
        """
        ...

    def update(self, metadata: Mapping[str, Any]) -> None:
        """Say more of a reduction that goes on."""
        ...

    def put_projection(self, image: np.ndarray) -> None:
        """Store the maximum projection of a reduction that is over; a second time replaces it."""
        ...

    def close_reduction(self, metadata: Mapping[str, Any]) -> None:
        """Say that the reduction is over, and how."""
        ...

    def raw_document(self, name: str, doc: dict[str, Any]) -> str | None:
        """Publish a document of the run itself; return why the frames that it names are left out, if they are."""
        ...

    def raw_reset(self, uid: str) -> None:
        """Remove what there is of the run itself, so that all its documents can be sent anew."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def make_sink(name: str, uri: str, api_key: str | None) -> ResultSink:
    """Return a sink by the name of its entry point.

    Raises
    ------
    SettingsError
        No package offers it.
    OSError
        Nobody listens there.
    """
    maker = _loaded(name)
    _probe(uri)
    return maker(uri, api_key=api_key)


def _probe(uri: str) -> None:
    """See whether anybody listens: Tiled's client would try for 45 s, and meanwhile cannot be stopped."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.hostname:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname, port), timeout=2).close()


def preload_sink(name: str) -> None:
    """Import what a sink needs: seconds that the first run should not wait for.

    Raises
    ------
    SettingsError
        No package offers it.
    """
    _loaded(name)


def _loaded(name: str) -> Any:
    with _IMPORTING:
        maker = _sink_maker(name)
        preload = getattr(maker, "preload", None)
        if preload is not None:
            preload()
        return maker


def _sink_maker(name: str) -> Any:
    found = [point for point in entry_points(group=SINKS) if point.name == name]
    if not found:
        raise SettingsError(f"no sink {name!r} is installed; install hedmlive as a package, so that it is found")
    return found[0].load()


def why(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

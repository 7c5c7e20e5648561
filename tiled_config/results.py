"""Sends results of an archive to a catalogue: each row once, however often it is called."""

from collections.abc import Mapping
from typing import Any

from ..streaming import PublishError
from .archives_nodes import ResultPlace, batches_of, is_archived
from .layout import BATCH, ensure_result, ensure_root, ensure_table
from .sink import append_batch

_ROWS = 50_000
"Rows that are sent at once: some 10 MB."


def publish_result(client: Any, place: ResultPlace, start: Mapping[str, Any]) -> int:
    """Send a result, and compare what is stored with its archive.

    Parameters
    ----------
    client
        Client of the catalogue's root.
    place
        The result.
    start
        The start document of its run.

    Returns
    -------
    The number of rows that were not there before.

    Raises
    ------
    ArchiveError
        Its solutions are not those of which the digest was written, or what is stored differs from them.
    PublishError
        The server refuses it for good.
    ConnectionError
        Nobody answers; try again later.
    """
    import httpx

    place.verify()
    what = f"{place.path}: result {place.attempt}"
    try:
        return _publish(getattr(client, "root", client), place, start)
    except httpx.HTTPStatusError as error:
        if error.response.is_server_error:
            raise ConnectionError(f"{what}: the server answered {error.response.status_code}") from error
        raise PublishError(f"{what}: refused with {error}") from error
    except httpx.HTTPError as error:
        raise ConnectionError(f"{what}: no answer: {error!r}") from error


def _publish(client: Any, place: ResultPlace, start: Mapping[str, Any]) -> int:
    ensure_root(client)
    said = {**place.attributes, "attempt": place.attempt}
    node = ensure_result(client, place.uid, place.attempt, start, said | {"status": "running"})
    n_sent = 0
    for name, table in place.tables.items():
        child = ensure_table(node, place.uid, table)
        if is_archived(node.include_data_sources()[name]):
            continue  # read from the file itself
        n_sent += _send(child, place, name)
        batches_of(child, place)
    if node.metadata.get("status") == "running":
        node.update_metadata(place.attributes)
    return n_sent


def _send(node: Any, place: ResultPlace, name: str) -> int:
    numbers = node.read([BATCH])[BATCH].to_numpy()
    batch, first = (int(numbers.max()), len(numbers)) if len(numbers) else (0, 0)
    n_before, n_rows = first, place.counts()[name]
    while first < n_rows:
        batch, end = batch + 1, min(first + _ROWS, n_rows)
        append_batch(node, batch, place.read(name, first, end))
        first = end
    return n_rows - n_before

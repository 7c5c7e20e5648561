"""Helpers for clients: connect, find the newest reduction of a run, read its tables."""

import os
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .layout import BATCH, REDUCED, REDUCTION_SPEC, RESULT_SET_SPEC, RESULT_SPEC, SET_SPEC, SPECS, table_identity

if TYPE_CHECKING:
    import pandas as pd

    from .runs import Runs

CLIENTS: dict[str, str] = {
    SET_SPEC: ".runs_nodes:Run",
    REDUCTION_SPEC: ".runs_nodes:Reduction",
    RESULT_SET_SPEC: ".runs_results:ResultSet",
    RESULT_SPEC: ".runs_results:Result",
    **dict.fromkeys(SPECS.values(), ".tables:ReducedTable"),
}
"""Spec to the class of its client."""

_RETRIES = {"TILED_RETRY_ATTEMPTS": "3", "TILED_RETRY_TIMEOUT": "10"}
"""Tiled's own budget, 10 attempts in 45 s, makes a server that is away look like a hang of over a minute."""


def connect(uri: str, api_key: str | None = None) -> "Runs":
    """Return the reduced runs of a catalogue, to be searched and asked.

    Parameters
    ----------
    uri
        The server's address, such as ``http://127.0.0.1:8000``.
    api_key
        The key; without it Tiled looks into the environment variable ``TILED_API_KEY``.

    Raises
    ------
    httpx.HTTPError
        Nobody answers there, or the key is wrong.
    """
    from .runs import Runs

    return Runs(catalogue(uri, api_key))


def catalogue(uri: str, api_key: str | None = None) -> Any:
    """Return a Tiled client of the root of a catalogue; arguments and errors as `connect`."""
    limit_retries()
    from tiled.client import from_uri

    register_clients()
    return from_uri(uri, api_key=api_key)


def register_clients() -> None:
    """Teach Tiled's client, in this process, the classes of our nodes; may be repeated.

    An installed package says so by its entry points; this is for those that were installed before it had them.
    """
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH, Container

    Container.discover_clients_from_entrypoints()
    for clients in DEFAULT_STRUCTURE_CLIENT_DISPATCH.values():
        for spec, place in CLIENTS.items():
            if spec not in clients:
                clients.set(spec, partial(_load, place))


def _load(place: str) -> type:
    module, _, name = place.partition(":")
    return getattr(import_module(module, __package__), name)


def limit_retries() -> None:
    """Make Tiled's client give up soon; to be called before it is imported, for it reads this once."""
    for name, value in _RETRIES.items():
        os.environ.setdefault(name, value)


def disconnect(client: Any) -> None:
    """Close the connections of a client, and of every node that it gave out."""
    client.context.close()


def latest_reduction(client: Any, uid: str) -> Any:
    """Return the node of the newest attempt at reducing a run.

    Raises
    ------
    KeyError
        The run has no reduction in this catalogue.
    """
    attempts = client[REDUCED][uid]
    newest = max(attempts, default=None)
    if newest is None:
        raise KeyError(f"run {uid} has no reduction in this catalogue")
    return attempts[newest]


def tables_of(reduction: Any) -> dict[str, Any]:
    """Return the tables of a reduction, name to node."""
    return {name: node for name, node in reduction.items() if node.structure_family == "table"}


def read_table(node: Any) -> "pd.DataFrame":
    """Return the rows of a table of a reduction, each once, in the order in which they were stored.

    The column ``batch``, which only counts appends, is left out.
    """
    frame = node.read()
    identity = table_identity(node.structure().arrow_schema_decoded)
    if identity:
        frame = frame.drop_duplicates(list(identity), ignore_index=True)
    return frame.drop(columns=BATCH, errors="ignore")

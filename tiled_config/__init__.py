"""Tiled for HEDM: an embedded server, its adapters, the layout of what we store, and helpers for clients."""

from .client import CLIENTS, catalogue, connect, disconnect, latest_reduction, read_table, tables_of
from .formats import SPARSE_FRAMES, register_consolidators
from .layout import SPECS, ensure_root, table_identity
from .queries import Annulus
from .runs import Runs
from .server import EmbeddedServer, serve, server_configuration
from .settings import ServeSettings, read_serve_settings
from .sink import TiledSink, append_batch

__all__ = [
    "CLIENTS",
    "SPARSE_FRAMES",
    "SPECS",
    "Annulus",
    "EmbeddedServer",
    "Runs",
    "ServeSettings",
    "TiledSink",
    "append_batch",
    "catalogue",
    "connect",
    "disconnect",
    "ensure_root",
    "latest_reduction",
    "read_serve_settings",
    "read_table",
    "register_consolidators",
    "serve",
    "server_configuration",
    "table_identity",
    "tables_of",
]

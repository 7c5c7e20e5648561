"""A Tiled server over local folders, in a thread of this process: for one user, on loopback, behind a key.

With the settings of a facility the same server has its databases in PostgreSQL, live messages in Redis, and many users.
"""

import gc
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..streaming import SettingsError
from .client import catalogue, disconnect
from .facility import FacilitySettings, facility_configuration
from .facility_access import AccessFile, make_server_key, prepare
from .folders import Folders
from .formats import ARCHIVE_TABLE, RAW_FRAMES, SPARSE_FRAMES, SQL_TABLE
from .guard import ClosedRoutes, RootPath
from .settings import LOOPBACK, ServeSettings, check_host, check_key, read_serve_settings

if TYPE_CHECKING:
    from .archives import Readers

START_LIMIT = 60.0
"""Seconds that a server may take to answer: imports and the first catalogue take 3 to 8 s."""

CLOSE_LIMIT = 10.0
"""Seconds that a thread may take to end; requests get a third of it."""

_ADAPTERS = f"{__package__}.adapters"
_LOG = logging.getLogger(__name__)
_LOGGERS = (__package__, "uvicorn", "tiled.server", "tiled.catalog", "tiled.adapters", "sqlalchemy.pool")
_OVERRIDES = tuple(
    f"TILED_{name}"
    for name in (
        *("ACCESS_", "ALLOW_ORIGINS", "AUTHENTICATION", "AUTHN", "CATALOG_", "DATABASE", "EXPOSE_", "MEDIA_TYPES"),
        *("METRICS", "REJECT_", "ROUTERS", "SPECS", "STREAMING_", "TREES", "UVICORN", "VALIDATORS", "WEBHOOKS"),
    )
)


def server_configuration(folder: Path, readable: Sequence[Path], api_key: str) -> dict[str, Any]:
    """Return the configuration of a Tiled server, as its YAML file would hold it.

    Parameters
    ----------
    folder
        Folder of the catalogue (``catalog.db``), the tables (``tables.db``) and uploaded arrays (``data``).
    readable
        Folders whose files may be registered and served.
    api_key
        The one key that lets in.
    """
    catalog = {
        "uri": f"sqlite:///{folder / 'catalog.db'}",
        "init_if_not_exists": True,
        "writable_storage": [f"file://localhost{folder / 'data'}", f"sqlite:///{folder / 'tables.db'}"],
        "readable_storage": [f"file://localhost{path}" for path in readable],
        "adapters_by_mimetype": {
            SQL_TABLE: f"{_ADAPTERS}:LockedSQLAdapter",
            SPARSE_FRAMES: f"{_ADAPTERS}:SparseFramesAdapter",
            RAW_FRAMES: f"{_ADAPTERS}_raw:RawFramesAdapter",
            ARCHIVE_TABLE: f"{__package__}.archives_tables:ArchiveTableAdapter",
            "application/x-hdf5": f"{__package__}.archives_tables:CheckedHDF5Adapter",
        },
    }
    return {
        # The key "catalog" would do, but loads the adapters early and then warns that they are no strings.
        "trees": [{"path": "/", "tree": "catalog", "args": catalog}],
        "streaming_cache": {"uri": "memory"},
        "routers": [f"{__package__}.{name}:router" for name in ("tables_server", "append_server", "live_page")],
        # Downloads of registered files pass by the check of readable_storage: any file could be fetched.
        "expose_raw_assets": False,
        "media_types": {
            "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"},
            "table": {"application/json-seq": f"{__package__}.serializers:json_lines"},
        },
        "authentication": {"single_user_api_key": api_key, "allow_anonymous_access": False},
    }


class EmbeddedServer:
    """A Tiled server in a daemon thread; a context manager.

    Parameters
    ----------
    folder
        Folder of the catalogue, the tables and uploaded arrays; made if missing, kept when the server closes.
    readable
        Folders whose files may be registered and served.
    api_key
        The key, at least 16 letters and digits; None makes one.
    host
        Address to listen on.
    port
        Port; 0 takes a free one.
    allow_remote
        True lets `host` be an address that other machines reach.
    facility
        Databases, users and access tags of a facility, instead of files in `folder` and the one key.
    archives
        Whether the server publishes archives itself; in a facility it has a key of its own for that.
    tell
        Called with each line about the access tags of a facility.

    Raises
    ------
    SettingsError
        The address is taken or open to other machines, the key is weak, or the server did not start.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        readable: Sequence[Path | str] = (),
        api_key: str | None = None,
        host: str = LOOPBACK,
        port: int = 0,
        allow_remote: bool = False,
        facility: FacilitySettings | None = None,
        archives: bool = False,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        refuse_overrides()
        try:
            check_host(host, allow_remote=allow_remote)
            self.api_key = secrets.token_hex(32) if api_key is None else check_key(api_key)
        except ValueError as error:
            raise SettingsError(f"embedded server: {error}") from None
        self.folder = Path(folder).resolve()
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        # Documents name files as their writer spelled them, and Tiled compares spellings: both must be known.
        spelled = [Path(path).absolute() for path in readable]
        folders = list(dict.fromkeys([*spelled, *(path.resolve() for path in spelled)]))
        self._log = _log_to(self.folder / "server.log")
        self._log.__enter__()
        try:
            self._listening = _listen(host, port)
            name = f"[{host}]" if ":" in host else host
            self.uri = f"http://{name}:{self._listening.getsockname()[1]}/api/v1"
            configuration = server_configuration(self.folder, folders, self.api_key)
            if facility is not None:
                self.api_key = _prepare(facility, self.folder, archives, tell)
                configuration = facility_configuration(configuration, facility, self.folder / "data")
            own, prefix = (facility.proposal.folders, facility.proposal.prefix) if facility else ((), "")
            self.folders = Folders(folders, self.folder, own, prefix)
            self._server = _make_server(self.folders, configuration, facility)
            self._thread = threading.Thread(
                target=self._server.run, args=([self._listening],), name="hedmlive-tiled", daemon=True
            )
            self._thread.start()
            self._wait_until_started()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """True while the server answers."""
        return self._thread.is_alive()

    def client(self) -> Any:
        """Return a Tiled client of the root of the catalogue."""
        return catalogue(self.uri, self.api_key)

    def close(self) -> None:
        """End the server's thread, and close what it had open; may be repeated."""
        server, thread = getattr(self, "_server", None), getattr(self, "_thread", None)
        if server is not None and thread is not None:
            server.should_exit = True
            thread.join(CLOSE_LIMIT)
        if listening := getattr(self, "_listening", None):
            listening.close()
        self._log.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + START_LIMIT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise SettingsError(f"the server did not start; see {self.folder / 'server.log'}")
            time.sleep(0.01)


def serve(
    config: Mapping[str, Any] | Path | str | ServeSettings,
    *,
    ready: Callable[[str, str], object] = lambda uri, key: None,
    stop: threading.Event | None = None,
    readers: "Readers | None" = None,
    tell: Callable[[str], object] = lambda line: None,
) -> None:
    """Serve in the foreground until SIGINT, SIGTERM or `stop`.

    Parameters
    ----------
    config
        Settings, a mapping of them, or the YAML file that holds them.
    ready
        Called once with the server's URI and key, when it answers.
    stop
        Ends the server when set; signals are heeded in the main thread only.
    readers
        Opens archives, if the settings name folders of them.
    tell
        Called with each line about archives that could not be served.

    Raises
    ------
    SettingsError
        The settings are wrong, the server cannot start, or it ended by itself.
    """
    settings = config if isinstance(config, ServeSettings) else read_serve_settings(config)
    stop = stop or threading.Event()
    if settings.archives and readers is None:
        raise SettingsError("archives: only `hedmlive serve` can serve them; start it instead")
    with (
        _signals_set(stop),
        EmbeddedServer(
            settings.folder,
            readable=[*settings.readable, *settings.archives],
            api_key=None if settings.facility else settings.find_key(),
            host=settings.host,
            port=settings.port,
            allow_remote=settings.allow_remote,
            facility=settings.facility,
            archives=bool(settings.archives),
            tell=tell,
        ) as server,
    ):
        if threading.current_thread() is threading.main_thread():
            # The process is ours, and what is there now stays: to look through it again and again took 0.3 s each time,
            # for which every request waited.
            gc.collect()
            gc.freeze()
        ready(server.uri, server.api_key)
        access = None if settings.facility is None else AccessFile(settings.facility, tell)
        with _looking_after(server, settings, readers, tell):
            while not stop.wait(0.5):
                if not server.alive:
                    raise SettingsError(f"the server ended by itself; see {server.folder / 'server.log'}")
                if access is not None:
                    access.look()


def _prepare(facility: FacilitySettings, folder: Path, archives: bool, tell: Callable[[str], object]) -> str:
    """Prepare the databases; return the key of the server itself, empty if it needs none."""
    import asyncio

    try:
        prepare(facility, tell)
    except ImportError as error:
        raise SettingsError(f"a server needs the module {error.name}; install hedmlive[server]") from error
    return asyncio.run(make_server_key(facility, folder)) if archives else ""


@contextmanager
def _looking_after(
    server: EmbeddedServer, settings: ServeSettings, readers: "Readers | None", tell: Callable[[str], object]
) -> Generator[None]:
    """Look into the folders of archives at once, each few seconds, and at the signal SIGHUP."""
    if not settings.archives or readers is None:
        yield
        return
    ended, wake = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=_look_after, args=(server, settings, readers, tell, ended, wake), name="hedmlive-archives", daemon=True
    )
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGHUP, lambda *_: wake.set()) if main else None
    thread.start()
    try:
        yield
    finally:
        ended.set()
        wake.set()
        thread.join(CLOSE_LIMIT)
        if main:
            signal.signal(signal.SIGHUP, before)


def _look_after(
    server: EmbeddedServer,
    settings: ServeSettings,
    readers: "Readers",
    tell: Callable[[str], object],
    ended: threading.Event,
    wake: threading.Event,
) -> None:
    from .adapters import drop_rows  # needs the server's packages, which are there by now
    from .archives import Archives

    client = server.client()
    try:
        archives = Archives(
            client,
            settings.archives,
            readers,
            hand_over=settings.hand_over,
            drop=drop_rows,
            grace=settings.keep_rows,
            may=server.folders.hold if settings.facility and settings.facility.proposal.folders else None,
        )
        while not ended.is_set():
            wake.clear()
            try:
                for line in archives.scan(ended.is_set):
                    tell(line)
            except Exception as error:
                # A server that is busy or ending: the folders are looked at again.
                _LOG.warning("archives: %r", error)
            if not ended.is_set():
                wake.wait(settings.scan_every)
    finally:
        disconnect(client)


@contextmanager
def _signals_set(stop: threading.Event) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_overrides() -> None:
    """Raise `SettingsError` if the environment has variables that Tiled would let win over the settings."""
    # The catalogue, or the key, would be another one.
    found = sorted(name for name in os.environ if name.startswith(_OVERRIDES))
    if found:
        raise SettingsError(f"environment variables {found} would override the server's settings; unset them")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
        # asyncio sets it only on sockets that say their protocol. Without it each answer waits 40 ms for the client's
        # delayed acknowledgement: an append takes 66 ms instead of 28.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise SettingsError(f"port {port} of {host} is not free: {error.strerror}; choose another") from error


def _make_server(folders: Folders, configuration: Mapping[str, Any], facility: FacilitySettings | None) -> Any:
    try:
        import uvicorn
        from tiled.config import Config, construct_build_app_kwargs
        from tiled.server.app import build_app
    except ImportError as error:
        raise SettingsError(f"a server needs the module {error.name}; install hedmlive[server]") from error
    from .dependencies import remember_dependencies
    from .guard_catalogue import keep_inside
    from .readiness import Readiness, checks_of

    remember_dependencies()

    # Its import sets it to INFO, with a handler to the terminal of its own.
    logging.getLogger("tiled.server.app").setLevel(logging.WARNING)
    app = build_app(**construct_build_app_kwargs(Config.model_validate(configuration)))
    proxied: dict[str, Any] = {}
    keep_inside(app.state.root_tree, folders)
    if facility is not None:
        proxied = {"root_path": facility.root_path, "forwarded_allow_ips": list(facility.trusted_proxies)}
    return uvicorn.Server(
        uvicorn.Config(
            RootPath(Readiness(ClosedRoutes(app), checks_of(app, folders.uploads))),
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            # Compressing messages costs five times the time of sending them on one machine.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=int(CLOSE_LIMIT / 3),
            **proxied,
        )
    )


@contextmanager
def _log_to(path: Path) -> Generator[None]:
    """Send the server's warnings to a file, and nothing of it to the terminal."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()

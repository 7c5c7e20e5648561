"""What is looked at before a Tiled server is relied upon: each setting, and each service behind it, seen to go wrong.

`check_settings` looks at a settings file and what it names, from the server's machine; `check_server` at a server that
runs, as a client with the key in the environment sees it.
"""

import asyncio
import importlib
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ..streaming import SettingsError
from .facility import FacilitySettings
from .settings import LOOPBACK, ServeSettings, check_host, read_serve_settings

State = Literal["ok", "doubtful", "bad"]

MEASURED = "0.2.20"
"""Version of Tiled that everything was measured with."""

MOST_SKEW = 2.0
"""Seconds that clocks may differ: times of keys and of live messages come from several machines."""

FREE = 1 << 30
"""Bytes that should be free below the server's folder."""

LIVE_SECONDS = 600
"""A live message that is kept shorter may be gone before somebody who joins has read the tables."""

_MODULES = ("tiled.server.app", "bluesky_tiled_plugins.exporters", "adbc_driver_sqlite", "aiosqlite")
_FACILITY_MODULES = ("adbc_driver_postgresql", "asyncpg", "redis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found of one thing."""

    item: str
    state: State
    came: str
    wanted: str = ""
    advice: str = ""


def check_settings(config: Path | str) -> list[Check]:
    """Return what is to be said of a settings file of `hedmlive serve`; no error is raised for what is found."""
    return list(_of_settings(config))


def _of_settings(config: Path | str) -> Iterator[Check]:
    try:
        settings = read_serve_settings(config)
    except SettingsError as error:
        yield Check(item="settings", state="bad", came=str(error), wanted="settings that are understood")
        return
    yield Check(item="settings", state="ok", came=str(config))
    yield from _versions(settings)
    yield _environment()
    yield from _address(settings)
    yield from _folders(settings)
    if settings.facility is None:
        yield from _one_user(settings)
    else:
        yield from _facility(settings.facility)


def _versions(settings: ServeSettings) -> Iterator[Check]:
    names = (*_MODULES, *(_FACILITY_MODULES if settings.facility else ()))
    missing = [name for name in names if not _importable(name)]
    if missing:
        advice = "install hedmlive[server]"
        yield Check(item="packages", state="bad", came=f"without {', '.join(missing)}", wanted="all", advice=advice)
    yield _tiled_version("tiled", version("tiled"))


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _tiled_version(item: str, came: str) -> Check:
    if came == MEASURED:
        return Check(item=item, state="ok", came=came)
    advice = "run the tests of hedmlive with it, or install that one"
    return Check(item=item, state="doubtful", came=came, wanted=f"{MEASURED}, which was measured", advice=advice)


def _environment() -> Check:
    from .server import refuse_overrides

    try:
        refuse_overrides()
    except SettingsError as error:
        return Check(item="environment", state="bad", came=str(error), wanted="none of them", advice="unset them")
    return Check(item="environment", state="ok", came="nothing overrides the settings")


def _address(settings: ServeSettings) -> Iterator[Check]:
    host, place = settings.host, f"{settings.host}:{settings.port}"
    try:
        check_host(host, allow_remote=False)
        yield Check(item="address", state="ok", came=f"{place}, this machine only")
    except ValueError:
        advice = "let it listen on 127.0.0.1 behind a proxy that speaks TLS"
        came = f"{place}, open to other machines, not encrypted"
        yield Check(item="address", state="doubtful", came=came, wanted=LOOPBACK, advice=advice)
    if settings.port == 0:
        advice = "name a port"
        yield Check(item="port", state="doubtful", came="0: another at each start", wanted="one", advice=advice)
        return
    try:
        socket.create_server((host, settings.port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        yield Check(item="port", state="ok", came=f"{settings.port} is free")
    except OSError as error:
        advice = "if it is not this very server, choose another"
        yield Check(
            item="port",
            state="doubtful",
            came=f"{place}: {os.strerror(error.errno or 0)}",
            wanted="free",
            advice=advice,
        )


def _folders(settings: ServeSettings) -> Iterator[Check]:
    folder = settings.folder
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK) or not there.is_dir():
        advice = "give it to the user that runs the server"
        yield Check(item="folder", state="bad", came=f"{there}: not writable", wanted="writable", advice=advice)
    else:
        free = shutil.disk_usage(there).free
        state: State = "ok" if free >= FREE else "doubtful"
        came = f"{folder}: {free / 1e9:.1f} GB free"
        yield Check(item="folder", state=state, came=came, wanted="" if state == "ok" else f"{FREE / 1e9:.1f} GB")
    for kind, paths in (("readable", settings.readable), ("archives", settings.archives)):
        for path in paths:
            yield _readable(kind, path)
    if not settings.readable and not settings.archives:
        advice = "name the folders of archives and detector's files, or no frames are served"
        yield Check(item="readable", state="doubtful", came="no folder", wanted="folders", advice=advice)


def _readable(kind: str, path: Path) -> Check:
    if not path.is_dir():
        return Check(
            item=kind, state="bad", came=f"{path}: no such folder", wanted="a folder", advice="make or mount it"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        advice = "give the server's user leave to read it"
        return Check(item=kind, state="bad", came=f"{path}: not readable", wanted="readable", advice=advice)
    if path.resolve() == Path("/"):
        return Check(item=kind, state="bad", came="/: every file of the machine", wanted="folders of data")
    real = path.resolve()
    return Check(item=kind, state="ok", came=str(path) if real == path else f"{path} -> {real}")


def _one_user(settings: ServeSettings) -> Iterator[Check]:
    keyfile = settings.keyfile or settings.folder / "api_key"
    if settings.api_key is None and "HEDMLIVE_TILED_KEY" not in os.environ and not keyfile.exists():
        yield Check(item="key", state="ok", came=f"{keyfile}: is made at the first start")
    else:
        try:
            settings.find_key()
            yield Check(item="key", state="ok", came="one, long enough, not readable by others")
        except SettingsError as error:
            yield Check(item="key", state="bad", came=str(error), wanted="a key of the owner alone")
    yield Check(item="databases", state="ok", came="SQLite behind one lock: one server process, one user")
    yield Check(item="stream", state="ok", came="in memory: 1000 messages, those who join later read the tables")
    catalogue = settings.folder / "catalog.db"
    if catalogue.exists() and stat.S_IMODE(catalogue.stat().st_mode) & 0o022:
        yield Check(
            item="catalogue", state="bad", came=f"{catalogue}: others may write", wanted="0644", advice="chmod it"
        )


def _facility(facility: FacilitySettings) -> Iterator[Check]:
    from .preflight_facility import examine

    yield from asyncio.run(examine(facility))


# ---------------------------------------------------------------- a server that runs


def check_server(uri: str, key: str | None) -> list[Check]:
    """Return what is to be said of a server that runs, as a client with this key sees it."""
    import httpx

    base = uri.rstrip("/").removesuffix("/api/v1")
    headers = {} if not key else {"Authorization": f"Apikey {key}"}
    with httpx.Client(timeout=10, headers=headers, follow_redirects=True) as client:
        return list(_of_server(client, base, key))


def _of_server(client: Any, base: str, key: str | None) -> Iterator[Check]:
    import httpx

    began = time.time()
    try:
        alive = client.get(f"{base}/healthz")
    except httpx.HTTPError as error:
        advice = "start it, or look at the address, the proxy and the firewall"
        yield Check(item="server", state="bad", came=f"{base}: {error!r}", wanted="an answer", advice=advice)
        return
    good = alive.status_code == HTTPStatus.OK
    came = f"{base}/healthz: {alive.status_code}"
    yield Check(item="server", state="ok" if good else "bad", came=came, wanted="" if good else "200")
    yield _ready(client, base)
    yield _encrypted(base)
    yield _skew("clock", alive.headers.get("date"), began, time.time())
    yield _anonymous(base)
    with suppress(httpx.HTTPError, ValueError):
        about = client.get(f"{base}/api/v1/").json()
        yield _tiled_version("tiled", str(about.get("library_version")))
        yield _exporter(about)
        yield from _key(client, base, key, about)
        yield _links(base, about)


def _ready(client: Any, base: str) -> Check:
    answer = client.get(f"{base}/readyz")
    try:
        away = answer.json()["away"]
    except (KeyError, TypeError, ValueError):
        advice = "start it with `hedmlive serve`: another server lacks our adapters and guards"
        came = f"{base}/readyz: {answer.status_code}"
        return Check(item="ready", state="doubtful", came=came, wanted="200", advice=advice)
    if away:
        return Check(item="ready", state="bad", came=f"away: {', '.join(away)}", wanted="all", advice="start them")
    return Check(item="ready", state="ok", came="databases, live messages and disk answer")


def _encrypted(base: str) -> Check:
    host = base.partition("://")[2].partition("/")[0].rpartition(":")[0] or base.partition("://")[2]
    try:
        check_host(host.strip("[]"), allow_remote=base.startswith("https://"))
    except ValueError:
        came, advice = f"{base}: keys travel in clear text", "put a proxy that speaks TLS before it"
        return Check(item="transport", state="bad", came=came, wanted="https", advice=advice)
    return Check(item="transport", state="ok", came="https" if base.startswith("https://") else "this machine only")


def _skew(item: str, date: str | None, began: float, ended: float) -> Check:
    from email.utils import parsedate_to_datetime

    if date is None:
        return Check(item=item, state="doubtful", came="the answer has no date", wanted="a date")
    # It counts whole seconds.
    there = parsedate_to_datetime(date).timestamp()
    return skew(item, max(began - (there + 1), there - ended, 0.0))


def skew(item: str, seconds: float) -> Check:
    """Return what is to be said of two clocks that differ."""
    if seconds <= MOST_SKEW:
        return Check(item=item, state="ok", came=f"differs by less than {MOST_SKEW:.0f} s")
    came, advice = f"differs by {seconds:.0f} s", "run NTP on both machines"
    return Check(item=item, state="bad", came=came, wanted=f"less than {MOST_SKEW:.0f} s", advice=advice)


def _anonymous(base: str) -> Check:
    import httpx

    code = httpx.get(f"{base}/api/v1/metadata/", timeout=10).status_code
    if code == HTTPStatus.UNAUTHORIZED:
        return Check(item="without a key", state="ok", came="401")
    advice = "set authentication.allow_anonymous_access to false"
    return Check(item="without a key", state="bad", came=str(code), wanted="401", advice=advice)


def _exporter(about: Any) -> Check:
    formats = about.get("formats", {}).get("BlueskyRun", ())
    if "application/json-seq" in formats:
        return Check(item="documents", state="ok", came="runs are given as documents")
    advice = "set media_types.BlueskyRun as docs/how-to/serve.md says"
    came = "no exporter of documents: replay from this server fails with 406"
    return Check(item="documents", state="bad", came=came, wanted="application/json-seq", advice=advice)


def _links(base: str, about: Any) -> Check:
    link = str(about.get("links", {}).get("self", base))
    if link.startswith(base):
        return Check(item="links", state="ok", came=link)
    advice = "let the proxy set X-Forwarded-Proto and X-Forwarded-Host, and root_path be its path"
    return Check(item="links", state="bad", came=f"lead to {link}", wanted=base, advice=advice)


def _key(client: Any, base: str, key: str | None, about: Any) -> Iterator[Check]:
    if not key:
        advice = "set HEDMLIVE_TILED_KEY"
        yield Check(item="key", state="doubtful", came="none", wanted="one", advice=advice)
        return
    code = client.get(f"{base}/api/v1/metadata/").status_code
    if code != HTTPStatus.OK:
        advice = "make a new one: `hedmlive key`; see to it that `access` names its owner"
        yield Check(item="key", state="bad", came=f"refused with {code}", wanted="200", advice=advice)
        return
    if not about.get("authentication", {}).get("providers"):
        yield Check(item="key", state="ok", came="the one key of a server for one user")
        return
    said = client.get(f"{base}/api/v1/auth/apikey").json()
    came = f"{said.get('first_eight')}..., {' '.join(sorted(said.get('scopes') or ()))}"
    yield Check(item="key", state="ok", came=came)
    yield _may("publishing", said, ("write:metadata", "write:data", "create:node", "register"), "publisher")
    yield _may("subscribing", said, ("create:apikeys", "revoke:apikeys"), "subscriber")
    yield _lasts(said.get("expiration_time"))


def _may(item: str, said: Any, wanted: Sequence[str], role: str) -> Check:
    missing = sorted(set(wanted) - set(said.get("scopes") or ()))
    if not missing:
        return Check(item=item, state="ok", came="allowed")
    advice = f"if it is wanted: `hedmlive key --role {role}`"
    return Check(item=item, state="ok", came=f"not allowed: without {' '.join(missing)}", advice=advice)


def _lasts(until: str | None) -> Check:
    from datetime import datetime

    if until is None:
        return Check(item="key ends", state="ok", came="never")
    days = (datetime.fromisoformat(until).timestamp() - time.time()) / 86400
    state: State = "ok" if days > 7 else "doubtful"
    return Check(item="key ends", state=state, came=f"in {days:.1f} days", wanted="" if state == "ok" else "a week")

"""Who may do what on a facility's server: the databases it needs, access tags, and keys of people and services."""

import asyncio
import hashlib
import logging
import secrets
import uuid
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from ..streaming import SettingsError
from .facility import SHARED_TAG, FacilitySettings

ROLES: dict[str, tuple[str, ...]] = {
    "reader": ("read:metadata", "read:data"),
    "subscriber": ("read:metadata", "read:data", "create:apikeys", "revoke:apikeys"),
    "publisher": (
        *("read:metadata", "read:data", "write:metadata", "write:data"),
        *("create:node", "delete:node", "delete:revision", "register"),
    ),
    "metrics": ("metrics",),
}
"""What a key is for, to its scopes. Tiled's client makes a short-lived key to subscribe, hence the second."""

SERVICE = "service:"
"""Before the name of a service, where the file of `access` names somebody."""

_LOG = logging.getLogger(__name__)
_KEY_BYTES = 36
_SERVER = "hedmlive-server"
_SERVER_SCOPES = (*ROLES["publisher"], "admin:apikeys")


def service_uuid(name: str) -> uuid.UUID:
    """Return the uuid that a service has in every catalogue: Tiled knows services by nothing else."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"hedmlive:service:{name}")


def read_access(facility: FacilitySettings) -> dict[str, Any]:
    """Return the roles, tags and owners, as Tiled's compiler of access tags takes them.

    To those of the file come the tag of the containers that all share, and for each tag the publishers.

    Raises
    ------
    SettingsError
        The file cannot be read, or says what is not understood.
    """
    path = facility.access
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return _definitions(facility, content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{path}: {said(error)}; wanted the keys roles, groups and tags") from None


def _definitions(facility: FacilitySettings, content: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(content) - {"roles", "groups", "tags", "tag_owners"}):
        raise ValueError(f"keys {unknown} came")
    if SHARED_TAG in content["tags"]:
        raise ValueError(f"tag {SHARED_TAG!r} came, which is the server's own")
    if facility.proposal.otherwise not in (None, *content["tags"]):
        raise ValueError(f"tag {facility.proposal.otherwise!r} of proposal.otherwise is missing")
    groups = {name: [_name(each) for each in members] for name, members in (content.get("groups") or {}).items()}
    writers = [{"name": str(service_uuid(name)), "scopes": list(ROLES["publisher"])} for name in facility.publishers]
    tags, everybody = {}, set[str]()
    for tag, members in content["tags"].items():
        people = [{**each, "name": _name(each["name"])} for each in members.get("users") or ()]
        for group in members.get("groups") or ():
            if group["name"] not in groups:
                raise ValueError(f"tag {tag!r}: group {group['name']!r} is not defined")
            everybody.update(groups[group["name"]])
        everybody.update(each["name"] for each in people)
        tags[tag] = {**members, "users": [*people, *writers]}
    # Reading data of a shared container would be to hear of every proposal's new nodes.
    readers = [{"name": name, "scopes": ["read:metadata"]} for name in sorted(everybody)]
    tags[SHARED_TAG] = {"users": [*readers, *writers]}
    owners = {tag: {"users": [{"name": each["name"]} for each in writers]} for tag in tags}
    for tag, given in (content.get("tag_owners") or {}).items():
        owners[tag] = {**given, "users": [*(given.get("users") or ()), *owners[tag]["users"]]}
    roles = {"reader": {"scopes": list(ROLES["reader"])}} | (content.get("roles") or {})
    return {"roles": roles, "tags": tags, "tag_owners": owners, "groups": groups}


def _name(name: str) -> str:
    return str(service_uuid(name.removeprefix(SERVICE))) if name.startswith(SERVICE) else name


async def write_access(facility: FacilitySettings, tell: Callable[[str], object]) -> None:
    """Write into the catalogue who may do what, as the file of `access` says.

    Raises
    ------
    SettingsError
        The file is wrong; what was written before holds on.
    """
    from tiled.access_control.access_tags import AccessTagsCompiler
    from tiled.access_control.scopes import ALL_SCOPES
    from tiled.server.connection_pool import close_database_connection_pool

    definitions = read_access(facility)
    groups: dict[str, list[str]] = definitions.pop("groups")
    database = _settings(facility.catalogue.get_secret_value())
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            compiler = AccessTagsCompiler(ALL_SCOPES, definitions, database, groups.__getitem__)
            compiler.load_tag_config()
            await compiler.compile()
        for each in warned:
            tell(f"{facility.access}: {' '.join(str(each.message).split())}")
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(f"{facility.access}: {said(error)}") from None
    finally:
        await close_database_connection_pool(database)


class AccessFile:
    """Writes the access tags anew when their file has changed.

    Parameters
    ----------
    facility
        The settings, whose tags were written already.
    tell
        Called with a line about what was read, or why not.
    """

    def __init__(self, facility: FacilitySettings, tell: Callable[[str], object]) -> None:
        self._facility = facility
        self._tell = tell
        self._seen = _modified(facility.access)

    def look(self) -> None:
        """Look whether the file has changed; to be called outside of an event loop."""
        path = self._facility.access
        time = _modified(path)
        if time in (None, self._seen):
            return
        try:
            asyncio.run(write_access(self._facility, self._tell))
            self._tell(f"{path}: read again")
        except SettingsError as error:
            self._tell(f"{error}; what was read before holds on")
        except Exception as error:
            # The database is away: tried again at the next look.
            _LOG.warning("access tags: %r", error)
            return
        self._seen = time


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def prepare(facility: FacilitySettings, tell: Callable[[str], object] = lambda line: None) -> None:
    """Make the tables of new databases, and write the access tags; to be called outside of an event loop.

    Raises
    ------
    SettingsError
        A database does not answer, is another program's, or of another version of Tiled.
    """
    from tiled.authn_database import alembic_constants as accounts_alembic
    from tiled.authn_database import core as accounts
    from tiled.catalog import alembic_constants as catalogue_alembic
    from tiled.catalog import core as catalogue

    for what, uri, core, alembic in (
        ("catalogue", facility.catalogue, catalogue, catalogue_alembic),
        ("accounts", facility.accounts, accounts, accounts_alembic),
    ):
        _initialize(what, uri.get_secret_value(), core, alembic)
    asyncio.run(write_access(facility, tell))


def _initialize(what: str, uri: str, core: Any, alembic: Any) -> None:
    from tiled.alembic_utils import stamp_head
    from tiled.utils import ensure_specified_sql_driver

    if asyncio.run(_make_tables(what, uri, core)):
        stamp_head(alembic.ALEMBIC_INI_TEMPLATE_PATH, alembic.ALEMBIC_DIR, ensure_specified_sql_driver(uri))


async def _make_tables(what: str, uri: str, core: Any) -> bool:
    from tiled.alembic_utils import UninitializedDatabase, check_database

    async with engine_of(uri) as engine:
        try:
            await check_database(engine, core.REQUIRED_REVISION, core.ALL_REVISIONS)
        except UninitializedDatabase:
            await core.initialize_database(engine)
            return True
        except Exception as error:
            raise SettingsError(f"database of facility.{what}: {said(error)}") from None
    return False


@asynccontextmanager
async def engine_of(uri: str) -> AsyncGenerator[Any]:
    """Give an engine of a database, of this event loop alone."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.utils import ensure_specified_sql_driver

    engine = create_async_engine(ensure_specified_sql_driver(uri), connect_args={"timeout": 5})
    try:
        yield engine
    finally:
        await engine.dispose()


async def make_key(
    facility: FacilitySettings,
    name: str,
    role: str,
    *,
    seconds: float | None,
    tags: Sequence[str] = (),
    note: str = "made by hedmlive",
) -> str:
    """Return a new key; of it only a hash is kept.

    Parameters
    ----------
    facility
        The settings.
    name
        A user, as the first provider names them, or ``service:`` and the name of a service.
    role
        What the key is for, one of `ROLES`.
    seconds
        How long it is good for; None for ever.
    tags
        Tags that it is confined to; none to be good for all that its owner may see.
    note
        What the list of keys says of it.

    Raises
    ------
    SettingsError
        The role is unknown, or the database does not answer.
    """
    if role not in ROLES:
        raise SettingsError(f"role {role!r} came; wanted {', '.join(ROLES)}")
    return await _make_key(facility, name, role, ROLES[role], seconds, tags, note)


async def _make_key(
    facility: FacilitySettings,
    name: str,
    role: str,
    scopes: Collection[str],
    seconds: float | None,
    tags: Sequence[str],
    note: str,
) -> str:
    from sqlalchemy.ext.asyncio import AsyncSession
    from tiled.authn_database import orm

    secret = secrets.token_bytes(_KEY_BYTES)
    ends = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    try:
        async with (
            engine_of(facility.accounts.get_secret_value()) as engine,
            AsyncSession(engine, expire_on_commit=False) as session,
        ):
            owner = await _owner(session, facility, name, role, scopes)
            session.add(
                orm.APIKey(
                    principal_id=owner.id,
                    expiration_time=ends,
                    note=note,
                    scopes=sorted(scopes),
                    # The containers on the way to a run carry the shared tag.
                    access_tags=sorted({SHARED_TAG, *tags}) if tags else None,
                    first_eight=secret.hex()[:8],
                    hashed_secret=hashlib.sha256(secret).digest(),
                )
            )
            await session.commit()
    except Exception as error:
        raise SettingsError(f"database of facility.accounts: {said(error)}") from None
    return secret.hex()


async def make_server_key(facility: FacilitySettings, folder: Path) -> str:
    """Return a new key with which the server itself publishes archives, in place of that of its last start."""
    from sqlalchemy import delete
    from tiled.authn_database import orm

    note = f"server of {folder}"
    key = await _make_key(facility, f"{SERVICE}{_SERVER}", _SERVER, _SERVER_SCOPES, None, (), note)
    async with engine_of(facility.accounts.get_secret_value()) as engine, engine.begin() as connection:
        await connection.execute(delete(orm.APIKey).where(orm.APIKey.note == note, orm.APIKey.first_eight != key[:8]))
    return key


async def revoke_key(facility: FacilitySettings, first_eight: str) -> None:
    """Make a key worthless, named by its first eight characters.

    Raises
    ------
    SettingsError
        There is no such key, or the database does not answer.
    """
    from sqlalchemy import delete
    from tiled.authn_database import orm

    try:
        async with engine_of(facility.accounts.get_secret_value()) as engine, engine.begin() as connection:
            found = await connection.execute(delete(orm.APIKey).where(orm.APIKey.first_eight == first_eight[:8]))
    except Exception as error:
        raise SettingsError(f"database of facility.accounts: {said(error)}") from None
    if not found.rowcount:
        raise SettingsError(f"no key begins with {first_eight[:8]!r}; it was revoked already, or expired")


async def _owner(session: Any, facility: FacilitySettings, name: str, role: str, scopes: Collection[str]) -> Any:
    """Return who a key belongs to, made if new: with a role of their own if it is a service."""
    from sqlalchemy import select
    from tiled.authn_database import core, orm
    from tiled.server.schemas import PrincipalType

    if not name.startswith(SERVICE):
        found = select(orm.Principal).join(orm.Identity)
        found = found.where(orm.Identity.provider == facility.provider, orm.Identity.id == name)
        owner = (await session.execute(found)).unique().scalar()
        return owner or await core.create_user(session, facility.provider, name)
    wanted = select(orm.Role).where(orm.Role.name == f"hedmlive-{role}")
    granted = (await session.execute(wanted)).unique().scalar() or orm.Role(name=f"hedmlive-{role}")
    granted.scopes = sorted(scopes)
    number = service_uuid(name.removeprefix(SERVICE))
    owner = (await session.execute(select(orm.Principal).where(orm.Principal.uuid == number))).unique().scalar()
    if owner is None:
        owner = orm.Principal(uuid=number, type=PrincipalType.service, roles=[granted])
        session.add(owner)
    elif granted not in owner.roles:
        owner.roles.append(granted)
    await session.commit()
    return owner


def _settings(uri: str) -> Any:
    from tiled.server.settings import DatabaseSettings
    from tiled.utils import ensure_specified_sql_driver

    # Unlike the server's own in its numbers: engines are kept by these, and belong to one event loop.
    return DatabaseSettings(uri=ensure_specified_sql_driver(uri), pool_size=2, max_overflow=1, pool_pre_ping=True)


def said(error: BaseException) -> str:
    """Return an error as one line."""
    # Without the statement and its parameters, which SQLAlchemy adds.
    return f"{type(error).__name__}: {' '.join(str(error).partition('[SQL:')[0].split())}"[:300]

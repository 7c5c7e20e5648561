"""The part of the preflight that asks a facility's databases, live messages and access tags."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from ..streaming import SettingsError
from .facility import FacilitySettings
from .facility_access import engine_of, read_access, said, service_uuid
from .layout import SQL_PREFIX
from .preflight import LIVE_SECONDS, Check, skew

_POOL = 15
"""Connections that one server process opens to a database at most, each of three."""

_LIMIT = 6.0


async def examine(facility: FacilitySettings) -> list[Check]:
    """Return what is to be said of the services of a facility."""
    from tiled.authn_database import core as accounts
    from tiled.catalog import core as catalogue

    found: list[Check] = []
    runs = None
    for what, uri, core in (
        ("catalogue", facility.catalogue, catalogue),
        ("tables", facility.tables, None),
        ("accounts", facility.accounts, accounts),
    ):
        found += [each async for each in _database(what, uri.get_secret_value(), core)]
        if what == "catalogue" and found[-1].state != "bad":
            runs = await _number_of_nodes(facility)
    found += [each async for each in _stream(facility, runs)]
    found += await asyncio.to_thread(_access, facility)
    found += [each async for each in _publishers(facility)]
    return found


async def _database(what: str, uri: str, core: Any) -> AsyncIterator[Check]:
    from sqlalchemy import text

    try:
        async with engine_of(uri) as engine, engine.connect() as connection:
            began = time.time()
            rows = await connection.execute(
                text("SELECT now(), current_setting('server_version'), current_setting('max_connections')")
            )
            now, number, most = rows.one()
            yield Check(item=what, state="ok", came=f"PostgreSQL {number}")
            if what == "catalogue":
                yield skew("clock of PostgreSQL", abs(now.timestamp() - began))
                yield _connections(int(most))
            if core is None:
                yield await _indexes(connection)
            else:
                yield await _revision(what, engine, core)
    except Exception as error:
        advice = "start it, make the database, look at name and password"
        yield Check(item=what, state="bad", came=said(error), wanted="an answer", advice=advice)


def _connections(most: int) -> Check:
    if most >= 3 * _POOL:
        return Check(item="connections", state="ok", came=f"{most} at most")
    advice = "raise max_connections of PostgreSQL"
    wanted = f"{3 * _POOL} for each server process"
    return Check(item="connections", state="doubtful", came=f"{most} at most", wanted=wanted, advice=advice)


async def _indexes(connection: Any) -> Check:
    """Without the unique index of a table a batch that comes late, and twice, would be stored twice."""
    from sqlalchemy import text

    rows = await connection.execute(text(f"SELECT tablename FROM pg_tables WHERE tablename LIKE '{SQL_PREFIX}%'"))
    tables = set(rows.scalars())
    rows = await connection.execute(text("SELECT indexname FROM pg_indexes"))
    bare = sorted(tables - {name.removesuffix("_identity") for name in rows.scalars() if name.endswith("_identity")})
    if bare:
        came, advice = f"none on {', '.join(bare)}", "publish with this server, which makes them"
        return Check(item="indexes", state="bad", came=came, wanted="one on each table", advice=advice)
    return Check(item="indexes", state="ok", came=f"{len(tables)} tables, each with its unique index")


async def _revision(what: str, engine: Any, core: Any) -> Check:
    from tiled.alembic_utils import UninitializedDatabase, check_database

    item = f"revision of {what}"
    try:
        await check_database(engine, core.REQUIRED_REVISION, core.ALL_REVISIONS)
    except UninitializedDatabase:
        return Check(item=item, state="ok", came="new: tables are made at the first start")
    except Exception as error:
        kind = "catalog" if what == "catalogue" else "admin"
        advice = f"back it up, then `tiled {kind} upgrade-database URI`"
        return Check(item=item, state="bad", came=said(error), wanted=core.REQUIRED_REVISION, advice=advice)
    return Check(item=item, state="ok", came=core.REQUIRED_REVISION)


async def _number_of_nodes(facility: FacilitySettings) -> int | None:
    """Return how many there are; None if that cannot be known."""
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    try:
        async with engine_of(facility.catalogue.get_secret_value()) as engine, engine.connect() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM nodes WHERE id > 0"))).scalar_one())
    except ProgrammingError:
        return 0  # a new database, without the table
    except Exception:
        # Away, or its password is wrong (which comes as an error of the driver): its own check says so. To call it
        # empty would make every message in Redis another's.
        return None


async def _stream(facility: FacilitySettings, nodes: int | None) -> AsyncIterator[Check]:
    from redis.asyncio import Redis

    client: Any = Redis.from_url(
        facility.stream.get_secret_value(), socket_timeout=_LIMIT, socket_connect_timeout=_LIMIT
    )
    try:
        about = await client.info()
        seconds, microseconds = await client.time()
        yield Check(item="stream", state="ok", came=f"Redis {about['redis_version']}")
        yield skew("clock of Redis", abs(time.time() - (seconds + microseconds * 1e-6)))
        yield _old_messages(await client.dbsize(), nodes)
        yield _memory(int(about.get("maxmemory", 0)), str(about.get("maxmemory_policy", "")))
    except Exception as error:
        advice = "start it, look at address and password"
        yield Check(item="stream", state="bad", came=said(error), wanted="an answer", advice=advice)
    finally:
        await client.aclose()
    if facility.stream_seconds < LIVE_SECONDS:
        came, advice = f"{facility.stream_seconds} s", "who joins late reads tables first: give them time"
        wanted = f"{LIVE_SECONDS} s"
        yield Check(item="stream_seconds", state="doubtful", came=came, wanted=wanted, advice=advice)
    else:
        yield Check(item="stream_seconds", state="ok", came=f"{facility.stream_seconds} s")


def _old_messages(keys: int, nodes: int | None) -> Check:
    if keys and nodes == 0:
        came = f"{keys} keys, while the catalogue is empty: another's messages would be given as ours"
        advice = "name another database number, or flush this one"
        return Check(item="messages", state="bad", came=came, wanted="a Redis database of its own", advice=advice)
    return Check(item="messages", state="ok", came=f"{keys} keys")


def _memory(most: int, policy: str) -> Check:
    if not most:
        advice = "set maxmemory, and maxmemory-policy volatile-ttl"
        return Check(item="memory of Redis", state="doubtful", came="no limit", wanted="one", advice=advice)
    if policy.startswith("allkeys") or policy == "noeviction":
        came, advice = f"maxmemory-policy {policy}", "counters of messages must stay, old messages may go"
        return Check(item="memory of Redis", state="doubtful", came=came, wanted="volatile-ttl", advice=advice)
    return Check(item="memory of Redis", state="ok", came=f"{most / 1e6:.0f} MB, {policy}")


def _access(facility: FacilitySettings) -> list[Check]:
    try:
        tags = read_access(facility)["tags"]
    except SettingsError as error:
        return [Check(item="access", state="bad", came=str(error), wanted="roles, groups and tags")]
    n_publishers = len(facility.publishers)
    empty = [tag for tag, each in tags.items() if len(each.get("users", ())) <= n_publishers and not each.get("groups")]
    found = [Check(item="access", state="ok", came=f"{len(tags) - 1} tags")]
    if empty:
        came, advice = f"nobody reads {', '.join(sorted(empty))}", "name users or groups"
        found.append(Check(item="readers", state="doubtful", came=came, wanted="somebody", advice=advice))
    if facility.proposal.otherwise is None:
        came, advice = "none: only administrators see runs without a proposal", "set proposal.otherwise"
        found.append(Check(item="proposal", state="doubtful", came=came, wanted="a tag for them", advice=advice))
    if not facility.proposal.folders:
        came, advice = "none: a publisher of one proposal may register files of another", "set proposal.folders"
        found.append(Check(item="proposal", state="doubtful", came=came, wanted="a folder for each", advice=advice))
    return found


async def _publishers(facility: FacilitySettings) -> AsyncIterator[Check]:
    from sqlalchemy import select
    from sqlalchemy.exc import ProgrammingError
    from tiled.authn_database import orm

    for name in facility.publishers:
        item, advice = f"key of {name}", f"`hedmlive key FILE service:{name} --role publisher`"
        wanted = select(orm.APIKey.expiration_time).join(orm.Principal)
        wanted = wanted.where(orm.Principal.uuid == service_uuid(name))
        try:
            async with engine_of(facility.accounts.get_secret_value()) as engine, engine.connect() as connection:
                ends = list((await connection.execute(wanted)).scalars())
        except ProgrammingError:
            ends = []  # a new database, without the table
        except Exception:
            return  # away, or as above: whether there are keys is not known
        now = datetime.now(UTC)
        if any(end is None or end > now for end in ends):
            yield Check(item=item, state="ok", came="there is one")
        else:
            yield Check(item=item, state="doubtful", came="none that is good", wanted="one", advice=advice)

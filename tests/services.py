"""Real PostgreSQL, Redis and a facility's server for tests: on loopback, on ports of their own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from hedmlive.tiled_config import EmbeddedServer, read_serve_settings
from hedmlive.tiled_config.facility import FacilitySettings
from hedmlive.tiled_config.facility_access import make_key

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "facility"

LIMIT = 60.0
USER = "hedmlive"
PASSWORD = "p@ss/w%rd:?"
"""With all that an address would take for something else."""

SECRETS = {
    "HEDM_DATABASE_PASSWORD": PASSWORD,
    "HEDM_ALICE": "word-of-alice",
    "HEDM_BOB": "word-of-bob",
    "HEDM_ROOT": "word-of-root",
    "signature": "signs-all-sessions-0123456789abcdef",
}
"""What no message, log or representation may hold."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait(what: str, done) -> None:
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline, f"{what}: waited for {LIMIT:.0f} s"
        time.sleep(0.05)


def idle_until(what: str, done: Callable[[], bool]) -> Iterator[None]:
    """Give None to who asks for documents, so that what came before is written and published meanwhile."""
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline, f"{what}: waited for {LIMIT:.0f} s"
        yield
        time.sleep(0.02)


def _run(folder: Path, *command: str) -> None:
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    done = subprocess.run(command, cwd=folder, user=user, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


class Postgres:
    """A cluster that can be stopped and started again; in the background, hence no child of the tests."""

    def __init__(self, folder: Path, *databases: str) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "password").write_text(PASSWORD)
        shutil.chown(folder / "password", *_owner(folder))
        options = ("--username", USER, "--pwfile", str(folder / "password"), "--auth", "scram-sha-256")
        _run(folder, "initdb", "--pgdata", str(folder / "data"), "--no-sync", "--no-locale", "-E", "UTF8", *options)
        self.start()
        asyncio.run(self._create(databases))

    def uri(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F -c max_connections=60"
        _run(
            self.folder, "pg_ctl", "start", "-w", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options
        )

    def stop(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            _run(self.folder, "pg_ctl", "stop", "-w", "-m", "immediate", "-D", f"{self.folder}/data")

    async def _create(self, databases: tuple[str, ...]) -> None:
        import asyncpg

        at = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": PASSWORD}
        connection = await asyncpg.connect(database="postgres", **at)
        try:
            for name in databases:
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()


class Redis:
    """A server that keeps nothing over a stop; in the background, hence no child of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        files = ("--pidfile", f"{self.folder}/pid", "--logfile", f"{self.folder}/log", "--dir", str(self.folder))
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no")
        _run(self.folder, "redis-server", "--daemonize", "yes", *options, *files)
        wait("Redis", lambda: listens(self.port))

    def stop(self) -> None:
        if listens(self.port):
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"SHUTDOWN NOSAVE\r\n")
                connection.recv(1)
        wait("end of Redis", lambda: not listens(self.port))


def _owner(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_uid, stat.st_gid


@contextmanager
def _folder(*programs: str) -> Generator[Path]:
    """Give a folder to a service; skip the test where it is not installed."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not on PATH: install PostgreSQL and Redis, and put their bin folders there")
    # Not in pytest's folder, which nobody but its owner may enter; sockets have short paths, too.
    with tempfile.TemporaryDirectory(prefix="hedm-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, "nobody")
        yield Path(name)


@contextmanager
def postgres(*databases: str) -> Generator[Postgres]:
    with _folder("initdb", "pg_ctl", "postgres") as folder:
        made = Postgres(folder, *databases)
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def redis() -> Generator[Redis]:
    with _folder("redis-server") as folder:
        made = Redis(folder)
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def services(*databases: str) -> Generator[tuple[Postgres, Redis]]:
    with redis() as stream, postgres(*databases) as store:
        yield store, stream


class Facility:
    """A server of `examples/facility` in a process of its own, over real services."""

    def __init__(self, folder: Path, postgres: Postgres, redis: Redis, root_path: str) -> None:
        self.folder, self.postgres, self.redis = folder, postgres, redis
        self.port = free_port()
        self.file = folder / "serve.yml"
        self.process: subprocess.Popen[str] | None = None
        text = (EXAMPLE / "serve.yml").read_text()
        for written, here in (("5432/", postgres.port), ("6379/", redis.port)):
            assert f":{written}" in text
            text = text.replace(f":{written}", f":{here}/")
        self.file.write_text(
            text.replace("port: 8000", f"port: {self.port}\nscan_every: 1") + f"  root_path: {root_path or '/'}\n"
        )
        shutil.copy(EXAMPLE / "access.yml", folder)
        (folder / "secret_key").write_text(SECRETS["signature"])
        for name in ("data", "archives"):
            (folder / name).mkdir()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> FacilitySettings:
        settings = read_serve_settings(self.file).facility
        assert settings is not None
        return settings

    def start(self) -> None:
        # What a key is asked for on the command line is what the tests ask for: the command itself.
        command = [sys.executable, "-c", "from hedmlive.cli import main; main()", "serve", str(self.file)]
        with (self.folder / "said").open("a") as said:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            line = lines.readline()
        assert line.startswith(self.address), (self.folder / "said").read_text()
        with (self.folder / "said").open("a") as said:
            said.write(line)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def key(self, name: str, role: str, seconds: float | None = 3600, *tags: str) -> str:
        return asyncio.run(make_key(self.settings, name, role, seconds=seconds, tags=tags))

    def away(self) -> list[str]:
        """Names of what the server misses; an answer comes in any case."""
        answer = httpx.get(f"{self.address}/readyz", timeout=30)
        assert answer.status_code == (503 if answer.json()["away"] else 200)
        assert answer.json()["ready"] is not bool(answer.json()["away"])
        return sorted(answer.json()["away"])


@contextmanager
def facility(folder: Path, postgres: Postgres, redis: Redis, root_path: str = "") -> Generator[Facility]:
    made = Facility(folder, postgres, redis, root_path)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()


class SmallFacility:
    """A server with users, keys and access tags in this process: SQLite and memory stand for the services.

    Quicker than `facility`, and enough where it does not matter what keeps the catalogue.
    """

    def __init__(self, folder: Path, root_path: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in SECRETS.items():
                patch.setenv(name, value)
            for name in ("serve.yml", "access.yml"):
                shutil.copy(EXAMPLE / name, folder)
            (folder / "secret_key").write_text(SECRETS["signature"])
            self._told = read_serve_settings(folder / "serve.yml")
        assert self._told.facility is not None
        self.folder, self.port, self.starts = folder, free_port(), 0
        databases = {name: SecretStr(f"sqlite:///{folder}/{name}.db") for name in ("catalogue", "tables", "accounts")}
        # Not validated: a facility's settings take PostgreSQL and Redis only.
        changes = {**databases, "stream": SecretStr("memory"), "root_path": root_path}
        self.settings = self._told.facility.model_copy(update=changes)
        self._readable = (*self._told.readable, *self._told.archives)
        for each in self._readable:
            each.mkdir()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.starts += 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No path_separator found")  # in Tiled's settings of alembic
            self.served = EmbeddedServer(
                self._told.folder, readable=self._readable, facility=self.settings, port=self.port
            )

    def key(self, name: str, role: str, *tags: str) -> str:
        return asyncio.run(make_key(self.settings, name, role, seconds=3600, tags=tags))

    def ask(self, method: str, path: str, key: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Apikey {key}"}
        return httpx.request(method, f"{self.served.uri}{path}", headers=headers, timeout=30, **options)


@contextmanager
def small_facility(folder: Path, root_path: str = "") -> Generator[SmallFacility]:
    made = SmallFacility(folder, root_path)
    made.start()
    try:
        yield made
    finally:
        made.served.close()

"""Real PostgreSQL and Redis for tests: on loopback, on ports of their own, in a folder that goes away."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("initdb", "pg_ctl", "postgres", "redis-server")
LIMIT = 60.0
USER = "hedmlive"
PASSWORD = "p@ss/w%rd:?"
"""With all that an address would take for something else."""


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
def services(*databases: str) -> Generator[tuple[Postgres, Redis]]:
    """Start both; skip the test where they are not installed."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not on PATH: install PostgreSQL and Redis, and put their bin folders there")
    # Not in pytest's folder, which nobody but its owner may enter; sockets have short paths, too.
    with tempfile.TemporaryDirectory(prefix="hedm-") as name:
        folders = [Path(name) / kind for kind in ("postgres", "redis")]
        Path(name).chmod(0o755)
        for folder in folders:
            folder.mkdir()
            if os.geteuid() == 0:
                shutil.chown(folder, "nobody")
        redis = postgres = None
        try:
            redis = Redis(folders[1])
            postgres = Postgres(folders[0], *databases)
            yield postgres, redis
        finally:
            for each in (postgres, redis):
                if each is not None:
                    each.stop()

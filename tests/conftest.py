"""What holds for every test: no address beyond this machine, nothing left running, the shared data found."""

import ipaddress
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
GRACE = 5.0  # seconds that threads and children get to end after a test

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def _free_port() -> int:
    with socket.socket() as stream:
        stream.bind(("127.0.0.1", 0))
        return int(stream.getsockname()[1])


# EPICS reads these when ophyd is imported, once: this machine only, at a port of this process.
os.environ.update(
    EPICS_CA_ADDR_LIST="127.0.0.1",
    EPICS_CA_AUTO_ADDR_LIST="NO",
    EPICS_CA_SERVER_PORT=str(_free_port()),
    EPICS_CA_REPEATER_PORT=str(_free_port()),
)


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_foreign_addresses(event: str, args: tuple[object, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto"):
        return
    address = args[1]
    # A file's path (AF_UNIX) is a string, an internet address a tuple that begins with the host.
    if isinstance(address, tuple) and not _is_loopback(address[0]):
        raise RuntimeError(f"tests reach this machine only, and {event} was called with {address!r}")


# An audit hook sees every library's sockets, and none can undo it.
sys.addaudithook(_refuse_foreign_addresses)


def _stray_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads since `before` that are ours, or would keep the interpreter from ending."""
    return [
        thread
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("hedmlive")
        # Executors' idle threads belong to their libraries, which keep them for the next call.
        or not (thread.daemon or thread.name.startswith(("ThreadPoolExecutor", "asyncio_")))
    ]


def _children() -> set[int]:
    """Ids of this process's child processes, without the one that multiprocessing keeps for itself."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in listing.read_text().split())
        except OSError:  # the thread ended in between
            continue
    return {pid for pid in found if not _is_helper_or_gone(pid)}


def _is_helper_or_gone(pid: int) -> bool:
    try:
        return b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail a test that leaves a thread of ours or a child process behind."""
    threads, children = set(threading.enumerate()), _children()
    yield
    deadline = time.monotonic() + GRACE
    left: list[object] = []
    while True:
        left = [*_stray_threads(threads), *(_children() - children)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    assert not left, f"still running {GRACE:.0f} s after the test: {left}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("HEDMLIVE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set HEDMLIVE_DATA)")
    return folder

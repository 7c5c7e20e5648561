"""A server that is killed and started again at will, with the cache of live messages that is chosen; rows for it."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hedmlive.streaming import TABLES
from hedmlive.tiled_config import EmbeddedServer, TiledSink, connect

KEY = "livetestkey0123456789"
UID = "live-run"
NAMES = ("tracks", "members", "peaks", "links", "frames")

_SERVER = """
import asyncio, socket, sys, uvicorn
from pathlib import Path
from tiled.config import Config, construct_build_app_kwargs
from tiled.server.app import build_app
from hedmlive.tiled_config import server_configuration
folder, key, cache, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
(folder / "data").mkdir(parents=True, exist_ok=True)
said = server_configuration(folder, [], key)
del said["streaming_cache"]
if cache:
    said["streaming_cache"] = {"uri": cache}
app = build_app(**construct_build_app_kwargs(Config.model_validate(said)))
listening = socket.create_server(("127.0.0.1", port))
listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets=sockets)
        print(listening.getsockname()[1], flush=True)

options = dict(log_level="critical", access_log=False, ws_per_message_deflate=False, timeout_graceful_shutdown=1)
Server(uvicorn.Config(app, loop="asyncio", lifespan="on", **options)).run([listening])
"""


class LiveServer:
    """A server of Tiled's own configuration with our parts, in a process of its own.

    Parameters
    ----------
    folder
        Where its catalogue lies.
    cache
        Address of the cache of live messages, as ``memory``; empty for none, and no websocket.
    """

    def __init__(self, folder: Path, cache: str) -> None:
        self._folder, self.cache = folder, cache
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    def start(self) -> None:
        arguments = (str(self._folder), KEY, self.cache, str(self.port))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *arguments], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


class Feeder:
    """Publishes made-up rows of a reduction, frame after frame, as a publisher does."""

    def __init__(self, server: "LiveServer | EmbeddedServer", uid: str = UID, *, key: str = KEY, **start: Any) -> None:
        self._server, self._uid, self._key = server, uid, key
        self._start = {"uid": uid, "time": 0.0, "sample": "gold", **start}
        self._numbers = dict.fromkeys(NAMES, 0)
        self.n_frames = 0
        self.sent: dict[str, list[tuple[int, ...]]] = {name: [] for name in NAMES}
        self.connect()

    def connect(self) -> None:
        """Open the reduction, or open it again."""
        self.sink = TiledSink(connect(self._server.uri, self._key))
        tables = {name: TABLES[name] for name in NAMES}
        self.sink.open_reduction(
            self._uid,
            0,
            start=self._start,
            metadata={"status": "running"},
            tables=tables,
        )

    def close(self) -> None:
        self.sink.close()

    def push(self, n_frames: int = 1, n_peaks: int = 5) -> None:
        """Publish a batch of frames with their peaks, links and tracks; tracks close in no order of their names."""
        batches: dict[str, tuple[int, dict[str, np.ndarray]]] = {}
        first, end = self.n_frames, self.n_frames + n_frames
        frames = np.repeat(np.arange(first, end), n_peaks)
        peaks = np.tile(np.arange(n_peaks), n_frames)
        for name in NAMES:
            self._numbers[name] += 1
            if name == "frames":
                columns = columns_of(name, np.arange(first, end), 0)
                columns["n_peaks"][:] = n_peaks
                columns["time"][:] = time.time()
            else:
                columns = columns_of(name, frames, peaks)
            batches[name] = (self._numbers[name], columns)
            key = zip(*(columns[column].tolist() for column in TABLES[name].key), strict=True)
            self.sent[name] += sorted(key)
        self.sink.append_all(batches)
        self.n_frames = end

    def end(self) -> None:
        """Say that the reduction is over."""
        self.sink.close_reduction({"status": "complete", "digest": "0"})


def columns_of(name: str, frames: np.ndarray, peaks: np.ndarray | int) -> dict[str, np.ndarray]:
    table = TABLES[name]
    columns: dict[str, Any] = {column.name: np.zeros(len(frames), column.dtype) for column in table.columns}
    values = {
        "frame": frames,
        "frame_a": frames,
        "frame_b": frames + 1,
        "peak": peaks,
        "peak_a": peaks,
        "peak_b": peaks,
        "track": 10**9 - 1000 * frames - peaks,
        "omega": 0.25 * frames,
        "omega_start": 0.25 * frames,
        "row": 20 + (53 * peaks + 7 * (frames // 4)) % 470,
        "col": 20 + (91 * peaks + 30 * (frames // 4)) % 470,
    }
    for key, value in values.items():
        if key in columns:
            columns[key] = np.asarray(value).astype(columns[key].dtype)
    return columns

"""Measure replay over HTTP beside Tiled's own bulk read: one server, both by turns.

Usage: python benchmarks/replay_http.py [N_FRAMES]

The server runs in a process of its own and serves a detector's HDF5 file of 2048 x 2048 frames of 16 bits, one chunk a
frame, as it lies there. Tiled's client reads the same blocks of frames one after the other.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import yaml

from hedmlive.callbacks import load_settings, process
from hedmlive.callbacks.replay_tiled import open_tiled, tiled_documents
from hedmlive.callbacks.served_frames import BLOCK_BYTES, ServedFrames
from hedmlive.tiled_config import TiledSink, catalogue, disconnect

KEY = "benchmark0123456789abcdef"
SHAPE = (2048, 2048)
SPOTS = 500
REPEATS = 3
UID = "benchmark"


def frames(n: int) -> Any:
    """Give frames with a noisy pedestal and small bright spots."""
    rng = np.random.default_rng(0)
    pedestal = rng.normal(200, 5, SHAPE).astype(np.uint16)
    for i in range(n):
        image = np.roll(pedestal, i, axis=1)
        rows, cols = rng.integers(2, 2045, SPOTS), rng.integers(2, 2045, SPOTS)
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                image[rows + dr, cols + dc] += 800
        yield image


def documents(path: Path, n: int) -> Any:
    """Give the documents of a run with a file of frames."""
    number = {"source": "x", "dtype": "number", "shape": [], "dtype_numpy": "<f8"}
    image = {"source": "x", "dtype": "array", "shape": [1, *SHAPE], "dtype_numpy": "<u2", "external": "STREAM:"}
    of_run = {"uid": "d", "run_start": UID, "name": "primary", "time": 1.0, "configuration": {}}
    yield "start", {"uid": UID, "time": 1.0, "scan_id": 1}
    yield "descriptor", {**of_run, "data_keys": {"omega": number, "image": image}}
    parameters = {"dataset": "/entry/data/data", "chunk_shape": [1]}
    resource = {"uid": "r", "run_start": UID, "data_key": "image", "mimetype": "application/x-hdf5"}
    yield "stream_resource", {**resource, "uri": f"file://localhost{path}", "parameters": parameters}
    indices, numbers = {"start": 0, "stop": n}, {"start": 1, "stop": n + 1}
    datum = {"uid": "r/0", "stream_resource": "r", "descriptor": "d", "indices": indices, "seq_nums": numbers}
    yield "stream_datum", datum
    for i in range(n):
        data = {"omega": 0.25 * i}
        event = {"uid": f"e{i}", "descriptor": "d", "seq_num": i + 1, "time": 2.0 + i, "filled": {}}
        yield "event", {**event, "data": data, "timestamps": {"omega": 2.0 + i}}
    stop = {"uid": "s", "run_start": UID, "time": 9e9, "exit_status": "success", "num_events": {"primary": n}}
    yield "stop", stop


def rate(n: int, read: Callable[[], None]) -> float:
    began = time.perf_counter()
    read()
    return n / (time.perf_counter() - began)


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        with h5py.File(folder / "frames.h5", "w", libver="latest") as file:
            data = file.create_dataset("entry/data/data", (n, *SHAPE), "u2", chunks=(1, *SHAPE))
            for i, image in enumerate(frames(n)):
                data[i] = image
        said = {"folder": "store", "readable": ["."], "port": 0, "api_key": KEY}
        (folder / "serve.yml").write_text(yaml.safe_dump(said))
        command = [sys.executable, "-m", "hedmlive.tiled_config", str(folder / "serve.yml")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                measure(server.stdout.readline().strip(), folder, n)
            finally:
                server.terminate()


def measure(uri: str, folder: Path, n: int) -> None:
    client = catalogue(uri, KEY)
    sink = TiledSink(client, batch_size=n)
    for name, doc in documents(folder / "frames.h5", n):
        sink.raw_document(name, doc)
    node = client["raw"][UID]["primary"]["image"]
    block = max(1, BLOCK_BYTES // (2 * SHAPE[0] * SHAPE[1]))
    where = uri.replace("http://", "tiled://").replace("/api/v1", f"/{UID}")
    settings = {
        "roles": {"omega": "omega"},
        "detectors": [{"name": "detector", "image": "image"}],
        "recipe": {"threshold": 100, "background_level": 200},
    }

    def bulk() -> None:
        for first in range(0, n, block):
            assert len(node[first : first + block]) == min(block, n - first)

    def read() -> None:
        served = ServedFrames(node)
        for i in range(n):
            assert served.read(i).shape == SHAPE
        served.close()

    def replay() -> None:
        out = {"archive": {"folder": str(folder / f"out{time.monotonic_ns()}")}}
        result = process(tiled_documents(open_tiled(where, KEY).run), load_settings({**settings, **out}))
        assert result.progress.n_frames == n, result.problems

    bulk()
    rates: dict[str, list[float]] = {"Tiled's bulk read": [], "replay, reading": [], "replay, with reduction": []}
    for _ in range(REPEATS):
        for name, do in zip(rates, (bulk, read, replay), strict=True):
            rates[name].append(rate(n, do))
    reference = median(rates["Tiled's bulk read"])
    for name, each in rates.items():
        print(f"{name:<24} {median(each):6.1f} frames/s   {median(each) / reference:5.2f} of Tiled's")
    disconnect(client)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("n_frames", nargs="?", type=int, default=60, help="frames of the run; 60")
    main(parser.parse_args().n_frames)

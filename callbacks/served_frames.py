"""Frames of an array that a Tiled server holds: fetched in blocks, a few ahead of the one that is read.

One request a frame costs 30 ms whatever the size of the frame, so that frames are asked for in blocks. The first blocks
tell whether it pays to have them compressed: on the same machine it costs time, over a slow line it saves more.
"""

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from math import prod
from typing import Any

import numpy as np

from ..streaming import FrameError

SERVED = "application/x-hedm-served"
"""Mimetype of a StreamResource whose parameter ``frames`` is the `ServedFrames` itself."""

BLOCK_BYTES = 32 << 20
"""Bytes of a request at most, unless one event has more."""

IN_FLIGHT = 3
"""Requests at once."""

PATIENCE = 60.0
"""Seconds in which a server that went away may come back."""

_TRIED = 3
"Blocks that are fetched one after the other: the first is slow whatever it is, then one as it is, one compressed."
_TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
_RETRIES = 2
_OCTETS = "application/octet-stream"


@dataclass(slots=True)
class _Encoding:
    """How blocks travel: as they are, or as the server compresses them."""

    seconds: tuple[float, ...] = ()
    "How long each of the first blocks took, per event."

    def headers(self, block: int) -> dict[str, str]:
        """Return the headers to ask for a block with; without the one, the client's own, which takes compression."""
        plain = {"Accept": _OCTETS, "Accept-Encoding": "identity"}
        if len(self.seconds) >= _TRIED:
            return {"Accept": _OCTETS} if self.seconds[2] < self.seconds[1] else plain
        return {"Accept": _OCTETS} if len(self.seconds) == _TRIED - 1 else plain


class ServedFrames:
    """Reads the images of an array node, event by event; a `Reader` as those of files are.

    Parameters
    ----------
    node
        Client of the array, shape (events, [images,] rows, columns) or (images, rows, columns).
    per_event
        Images an event.
    block_bytes, in_flight
        Bytes of a request, and how many of them are under way: what it holds in memory is twice their product at most.
    patience
        Seconds in which a server that went away may come back.
    clock, sleep
        How time passes, in seconds.
    """

    def __init__(
        self,
        node: Any,
        per_event: int = 1,
        *,
        block_bytes: int = BLOCK_BYTES,
        in_flight: int = IN_FLIGHT,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.name = "/".join(node.path_parts)
        self._node = node
        self._shape: tuple[int, ...] = tuple(node.shape)
        self._dtype: np.dtype[Any] = node.dtype
        of_a_row = prod(self._shape[1:-2])
        if per_event % of_a_row or len(self._shape) < 3:
            raise FrameError(f"{self.name} has shape {self._shape}; wanted {per_event} images an event")
        self._rows = per_event // of_a_row
        self.n_events = self._shape[0] // self._rows
        self._per_block = self._block_size(block_bytes, node.chunks[0])
        self._in_flight = in_flight
        self._patience, self._clock, self._sleep = patience, clock, sleep
        self._encoding = _Encoding()
        self._blocks: dict[int, Future[np.ndarray]] = {}
        self._lock = threading.Lock()
        self._broken = False
        self.lost = ""
        "Why the server is given up; empty while it is not."
        self._pool = ThreadPoolExecutor(in_flight, "hedmlive-fetch")
        # An image that waits to be reduced keeps this, and this the connection.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def read(self, index: int) -> np.ndarray:
        """Return the images of an event, shape (k, rows, columns) or (rows, columns).

        Raises
        ------
        FrameError
            There is no such event, or the server does not give it.
        """
        if not 0 <= index < self.n_events:
            raise FrameError(f"{self.name} holds {self.n_events} events; wanted event {index}")
        number = index // self._per_block
        found = self._block(number).result()
        first = (index - number * self._per_block) * self._rows
        images = found[first : first + self._rows].reshape(-1, *self._shape[-2:])
        return images[0] if len(images) == 1 else images

    def close(self) -> None:
        """Fetch no more; what is on its way is let go of."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _block_size(self, block_bytes: int, chunks: tuple[int, ...]) -> int:
        """Return how many events are asked for at once: whole chunks of the array, if they are not too large."""
        of_an_event = max(1, prod(self._shape[1:]) * self._rows * self._dtype.itemsize)
        events = max(1, block_bytes // of_an_event)
        of_a_chunk = max(chunks, default=1) // self._rows
        return events // of_a_chunk * of_a_chunk if 1 < of_a_chunk <= events else events

    def _block(self, number: int) -> Future[np.ndarray]:
        # Until it is known how they travel best, one is fetched after the other.
        ahead = self._in_flight if len(self._encoding.seconds) >= _TRIED else 0
        end = -(-self.n_events // self._per_block)
        with self._lock:
            for each in range(number, min(number + ahead + 1, end)):
                if each not in self._blocks:
                    self._blocks[each] = self._pool.submit(self._fetch, each)
            for each in [each for each in self._blocks if not number - 1 <= each <= number + ahead]:
                self._blocks.pop(each).cancel()
            return self._blocks[number]

    def _fetch(self, block: int) -> np.ndarray:
        if self.lost:
            raise FrameError(self.lost)
        first = block * self._per_block * self._rows
        end = min(first + self._per_block * self._rows, self.n_events * self._rows)
        shape = (end - first, *self._shape[1:])
        if 0 in shape:
            return np.empty(shape, self._dtype)
        params = {"slice": f"{first}:{end}", "expected_shape": ",".join(map(str, shape))}
        began = self._clock()
        content = self._patiently(params, self._encoding.headers(block))
        if len(self._encoding.seconds) < _TRIED:
            self._encoding.seconds += ((self._clock() - began) / (end - first),)
        return np.frombuffer(content, self._dtype).reshape(shape)

    def _patiently(self, params: dict[str, str], headers: dict[str, str]) -> bytes:
        import httpx

        deadline, pause, errors = self._clock() + self._patience, 0.1, 0
        while True:
            try:
                answer = self._node.context.http_client.get(
                    self._node.item["links"]["full"], params=params, headers=headers
                )
                if answer.is_success:
                    return answer.read()
                code, why = answer.status_code, _reason(answer)
            except (httpx.TimeoutException, httpx.TransportError) as error:
                code, why = 0, f"{type(error).__name__}: {' '.join(str(error).split())}"
            wanted = f"{self.name}: images {params['slice']} did not come: {why}"
            if code == HTTPStatus.INTERNAL_SERVER_ERROR:
                errors += 1
                if self._broken or errors > _RETRIES:
                    # The server is there, and cannot read them: the next ones are asked for once.
                    self._broken = True
                    raise FrameError(f"{wanted}; see the server's log")
            elif code and code not in _TRANSIENT:
                self._give_up(f"{wanted}; wanted a key that may read the run")
            elif self._clock() + pause > deadline:
                self._give_up(f"{wanted}, for {self._patience:g} s; replay again when the server is back")
            self._sleep(pause)
            pause = min(2 * pause, 2.0)

    def _give_up(self, why: str) -> None:
        self.lost = self.lost or why
        raise FrameError(why)


class ServedImage:
    """Stands in an event for images that a server holds, and are fetched when they are needed.

    Parameters
    ----------
    frames
        Where they come from.
    index
        The event's place there.
    """

    def __init__(self, frames: ServedFrames, index: int) -> None:
        self._frames = frames
        self._index = index

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._frames.read(self._index), dtype)


def _reason(answer: Any) -> str:
    """Return what a server says of its refusal, without the address."""
    try:
        detail = " ".join(str(answer.json()["detail"]).split())[:200]
    except (ValueError, KeyError, TypeError):
        detail = str(answer.reason_phrase)
    return f"{answer.status_code} {detail}".strip()

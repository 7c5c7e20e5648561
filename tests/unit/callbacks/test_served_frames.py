"""Images of a server, block by block: which are asked for, what happens when it does not answer, what is kept."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from hedmlive.callbacks.served_frames import ServedFrames, ServedImage
from hedmlive.streaming import FrameError

IMAGES = np.arange(20 * 3 * 4, dtype=np.uint16).reshape(20, 3, 4)
SIZE = IMAGES[0].nbytes
Answer = Callable[[httpx.Request], httpx.Response]


def served(images: np.ndarray, request: httpx.Request) -> httpx.Response:
    first, _, end = request.url.params["slice"].partition(":")
    wanted = images[int(first) : int(end)]
    assert request.url.params["expected_shape"] == ",".join(map(str, wanted.shape))
    return httpx.Response(200, content=wanted.tobytes())


class Time:
    """A clock that goes on only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """A server that notes what it is asked for."""

    def __init__(self, images: np.ndarray, answer: Answer | None = None, chunk: int = 1) -> None:
        self.asked: list[str] = []
        self.encodings: list[str] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._answer = answer or (lambda request: served(images, request))
        self.http = httpx.Client(transport=httpx.MockTransport(self._handle))
        self.node = SimpleNamespace(
            path_parts=("raw", "run", "primary", "det"),
            shape=images.shape,
            dtype=images.dtype,
            chunks=((chunk,) * (len(images) // chunk), *((n,) for n in images.shape[1:])),
            item={"links": {"full": "http://server/array/full/raw/run/primary/det"}},
            context=SimpleNamespace(http_client=self.http),
        )

    def _handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.asked.append(request.url.params["slice"])
            self.encodings.append(request.headers["accept-encoding"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self._answer(request)
        finally:
            with self._lock:
                self.at_once -= 1


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Server, ServedFrames]]]:
    opened: list[Any] = []

    def make(images: np.ndarray = IMAGES, answer: Answer | None = None, chunk: int = 1, **options: Any) -> Any:
        server = Server(images, answer, chunk)
        opened.append((server.http, frames := ServedFrames(server.node, **options)))
        return server, frames

    yield make
    for client, frames in opened:
        frames.close()
        client.close()


def test_every_image_comes_once_in_blocks(made):
    server, frames = made(block_bytes=3 * SIZE)
    for i, image in enumerate(IMAGES):
        np.testing.assert_array_equal(frames.read(i), image)
    assert sorted(server.asked, key=lambda each: int(each.split(":")[0])) == [
        "0:3", "3:6", "6:9", "9:12", "12:15", "15:18", "18:20",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(ServedImage(frames, 19)), IMAGES[19])
    assert server.most_at_once <= 3


def test_only_a_few_blocks_are_kept(made):
    _, frames = made(block_bytes=SIZE, in_flight=2)
    for i in range(20):
        frames.read(i)
        assert len(frames._blocks) <= 4
    # Backwards it is fetched anew.
    np.testing.assert_array_equal(frames.read(0), IMAGES[0])


@pytest.mark.parametrize(
    ("shape", "per_event", "n_events"), [((20, 3, 4), 5, 4), ((4, 5, 3, 4), 5, 4), ((20, 1, 3, 4), 1, 20)]
)
def test_events_may_hold_several_images(made, shape, per_event, n_events):
    _, frames = made(IMAGES.reshape(shape), per_event=per_event, block_bytes=7 * SIZE)
    assert frames.n_events == n_events
    for event in range(n_events):
        expected = IMAGES[event * per_event : (event + 1) * per_event]
        np.testing.assert_array_equal(frames.read(event), expected[0] if per_event == 1 else expected)
    with pytest.raises(FrameError, match=f"holds {n_events} events; wanted event {n_events}"):
        frames.read(n_events)


def test_whole_chunks_are_asked_for(made):
    server, frames = made(chunk=5, block_bytes=7 * SIZE)
    frames.read(0)
    assert server.asked == ["0:5"]


def test_an_array_of_another_kind_is_refused(made):
    with pytest.raises(FrameError, match="wanted 2 images an event"):
        made(IMAGES.reshape(4, 5, 3, 4), per_event=2)
    with pytest.raises(FrameError, match="wanted 1 images an event"):
        made(IMAGES.reshape(20, 12))


@pytest.mark.parametrize(("slow", "compressed"), [("identity", True), ("gzip", False)])
def test_blocks_travel_the_way_that_was_faster(made, slow, compressed):
    now = Time()

    def answer(request: httpx.Request) -> httpx.Response:
        now.sleep(1.0 if slow in request.headers["accept-encoding"] else 0.1)
        return served(IMAGES, request)

    server, frames = made(answer=answer, block_bytes=SIZE, clock=now.clock, sleep=now.sleep)
    for i in range(20):
        frames.read(i)
    plain = [encoding == "identity" for encoding in server.encodings]
    assert plain[:3] == [True, True, False]
    assert set(plain[3:]) == {not compressed}


def test_a_server_that_comes_back_is_waited_for(made):
    now, down = Time(), [httpx.ConnectError("refused"), httpx.ReadError("reset"), 503, 502]

    def answer(request: httpx.Request) -> httpx.Response:
        if not down:
            return served(IMAGES, request)
        failure = down.pop()
        if isinstance(failure, int):
            return httpx.Response(failure, json={"detail": "not yet"})
        raise failure

    _, frames = made(answer=answer, clock=now.clock, sleep=now.sleep)
    np.testing.assert_array_equal(frames.read(7), IMAGES[7])
    assert 0 < now.now < 5
    assert frames.lost == ""


def test_a_server_that_stays_away_is_given_up_once(made):
    now = Time()

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    server, frames = made(answer=answer, block_bytes=SIZE, patience=10, clock=now.clock, sleep=now.sleep)
    with pytest.raises(FrameError, match=r"did not come: ConnectError: refused, for 10 s; replay again"):
        frames.read(0)
    assert 8 < now.now <= 10
    asked = len(server.asked)
    with pytest.raises(FrameError, match="replay again when the server is back"):
        frames.read(5)
    assert (len(server.asked), frames.lost != "") == (asked, True)


def test_a_key_that_is_refused_is_told_at_once(made):
    now = Time()
    server, frames = made(
        answer=lambda request: httpx.Response(401, json={"detail": "Not\nenough"}), clock=now.clock, sleep=now.sleep
    )
    with pytest.raises(FrameError, match="401 Not enough; wanted a key that may read the run"):
        frames.read(0)
    assert (len(server.asked), now.now) == (1, 0.0)


def test_a_file_that_the_server_cannot_read_costs_little(made):
    now = Time()
    server, frames = made(
        answer=lambda request: httpx.Response(500), block_bytes=SIZE, clock=now.clock, sleep=now.sleep
    )
    for i in range(20):
        with pytest.raises(FrameError, match=r"500 Internal Server Error; see the server's log"):
            frames.read(i)
    assert now.now < 1
    assert len(server.asked) == 22
    assert frames.lost == ""

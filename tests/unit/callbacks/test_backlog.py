"""The hand-over: whatever the interleaving and the limits, everything comes in order, once, in bounded memory."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedmlive.callbacks.worker import Backlog


def event(i: int, n_bytes: int) -> dict[str, Any]:
    return {"number": i, "data": {"image": np.zeros(n_bytes, np.uint8)}}


def held(backlog: Backlog) -> int:
    return sum(item.doc["data"]["image"].nbytes for _, item, _ in backlog._ring)


@given(
    sizes=st.lists(st.integers(0, 60), max_size=40),
    takes=st.lists(st.integers(0, 5), max_size=60),
    documents=st.integers(1, 6),
    n_bytes=st.integers(1, 100),
)
def test_order_and_bounds(sizes: list[int], takes: list[int], documents: int, n_bytes: int) -> None:
    archived: list[dict[str, Any]] = []
    backlog = Backlog(documents, n_bytes, lambda i: ("event", archived[i]), clock=lambda: 0.0)
    seen: list[int] = []
    for i, size in enumerate(sizes):
        archived.append(event(i, size))
        backlog.put("event", archived[i])
        assert len(backlog._ring) <= documents
        assert held(backlog) <= max(n_bytes, *sizes[: i + 1])
        for _ in range(takes[i] if i < len(takes) else 0):
            item = backlog.get(0)
            seen += [] if item is None else [item.doc["number"]]
    backlog.close()
    while not backlog.drained:
        item = backlog.get(0)
        assert item is not None
        seen.append(item.doc["number"])
    assert seen == list(range(len(sizes)))
    assert backlog.n_lost == 0
    assert held(backlog) == 0


@pytest.mark.parametrize("documents", [1, 2, 7])
def test_two_threads(documents: int) -> None:
    archived: list[dict[str, Any]] = []
    backlog = Backlog(documents, 1000, lambda i: ("event", archived[i]))
    seen: list[int] = []

    def work() -> None:
        while not backlog.drained:
            item = backlog.get(0.01)
            if item is not None:
                seen.append(item.doc["number"])

    thread = threading.Thread(target=work)
    thread.start()
    for i in range(3000):
        archived.append(event(i, 10))
        backlog.put("event", archived[i])
    backlog.close()
    thread.join(20)
    assert seen == list(range(3000))


def test_without_an_archive_what_does_not_fit_is_counted() -> None:
    backlog = Backlog(2, 1000, lambda i: None)
    for i in range(5):
        backlog.put("event", event(i, 1))
    backlog.close()
    seen = []
    while not backlog.drained:
        item = backlog.get(0)
        seen += [] if item is None else [item.doc["number"]]
    assert (seen, backlog.n_lost, len(backlog)) == ([0, 1], 3, 0)


def test_pages_and_lists_count_too() -> None:
    backlog = Backlog(100, 1000, lambda i: None)
    page = {"data": {"image": [np.zeros(400, np.uint8), np.zeros(400, np.uint8)]}}
    backlog.put("event_page", page)
    backlog.put("event_page", page)
    assert len(backlog._ring) == 1

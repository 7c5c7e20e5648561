"""Appending exactly once, against a table whose faults are chosen."""

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hedmlive.streaming import TABLES, PublishError
from hedmlive.tiled_config import append_batch
from hedmlive.tiled_config.layout import table_schema

MEMBERS = TABLES["members"]
REQUEST = httpx.Request("PATCH", "http://127.0.0.1/table")


def answer(code):
    return httpx.HTTPStatusError(f"{code}", request=REQUEST, response=httpx.Response(code, request=REQUEST))


class FakeTable:
    """A node of a table; `faults` says for each append what happens: None, or (stored before, error)."""

    uri = "http://127.0.0.1/members"

    def __init__(self, *faults):
        self.faults = list(faults)
        self.rows = pd.DataFrame({"batch": np.empty(0, np.int64)})
        self.sent = 0

    def structure(self):
        return self

    @property
    def arrow_schema_decoded(self):
        return table_schema(MEMBERS)

    def read(self, columns):
        return self.rows[columns]

    def append_partition(self, partition, table: pa.Table):
        self.sent += 1
        stored, error = self.faults.pop(0) if self.faults else (True, None)
        if stored:
            self.rows = pd.concat([self.rows, table.to_pandas()])
        if error:
            raise error


def rows(n=3):
    return {"track": np.arange(n), "frame": np.zeros(n, np.int64), "peak": np.arange(n, dtype=np.int32)}


def append(node, batch=1, **more):
    slept = []
    append_batch(node, batch, rows(), sleep=slept.append, **more)
    return slept


def test_a_batch_is_sent_once_when_all_is_well():
    node = FakeTable()
    assert append(node) == []
    assert node.rows["batch"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("lost"), httpx.ConnectError("away"), answer(503), answer(409), answer(500)]
)
@pytest.mark.parametrize("stored", [True, False])
def test_an_unknown_end_is_looked_up_before_it_is_sent_again(error, stored):
    node = FakeTable((stored, error))
    assert append(node) == [0.2]
    assert (len(node.rows), node.sent) == (3, 1 if stored else 2)


def test_an_earlier_call_that_ended_unknown_is_looked_up_first():
    node = FakeTable((True, httpx.ReadTimeout("lost")))
    with pytest.raises(ConnectionError, match="batch 1 of"):
        append(node, delays=())
    append(node, unsure=True)
    assert (len(node.rows), node.sent) == (3, 1)


def test_without_an_answer_it_gives_up_soon_and_says_that_it_may_be_repeated():
    node = FakeTable(*[(False, httpx.ConnectError("away"))] * 10)
    with pytest.raises(ConnectionError, match="no answer"):
        append(node)
    assert node.sent == 4


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_for_good(code):
    node = FakeTable((False, answer(code)))
    with pytest.raises(PublishError, match=f"batch 7 of .*{code}"):
        append(node, 7)
    assert node.sent == 1


def test_what_landed_late_with_fewer_rows_is_not_taken_for_this_batch():
    node = FakeTable((True, httpx.ReadTimeout("lost")), (False, answer(500)))
    with pytest.raises(ConnectionError):
        append(node, delays=())
    with pytest.raises(ConnectionError, match="3 rows are stored, not 5; open the reduction anew"):
        append_batch(node, 1, rows(5), sleep=lambda seconds: None)
    assert len(node.rows) == 3


def test_a_500_that_comes_back_each_time_is_for_good():
    with pytest.raises(PublishError, match=r"batch 7 .* 4 times"):
        append(FakeTable(*[(False, answer(500))] * 10), 7)


def test_an_empty_batch_sends_nothing():
    node = FakeTable()
    append_batch(node, 1, MEMBERS.empty())
    assert node.sent == 0


@pytest.mark.parametrize(
    "columns",
    [{"track": np.arange(3)}, rows() | {"peak": np.arange(2)}, rows() | {"peak": np.array(["a", "b", "c"])}],
    ids=["missing", "short", "text"],
)
def test_columns_that_do_not_fit_are_refused_here(columns):
    with pytest.raises(PublishError, match=r"batch 1 of .*columns do not fit"):
        append_batch(FakeTable(), 1, columns)


def test_the_order_of_the_columns_does_not_matter():
    node = FakeTable()
    append_batch(node, 1, dict(reversed(rows().items())))
    assert list(node.rows) == ["batch", "track", "frame", "peak"]

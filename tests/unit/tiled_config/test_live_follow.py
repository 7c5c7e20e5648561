"""What a follower lets through of messages and stored rows, and in which order tables are given."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedmlive.tiled_config.live import Ended, Follower, LiveBatch, in_step


def rows(batch, first, end):
    return pa.table({"batch": [batch] * (end - first), "track": list(range(first, end)), "frame": [0] * (end - first)})


def follower():
    return Follower("members", ("track", "frame"), "batch")


def given_by(batches):
    return [(batch.number, batch.rows["track"].to_pylist()) for batch in batches]


def test_messages_in_order():
    one = follower()
    assert given_by(one.take(rows(1, 0, 2))) == [(1, [0, 1])]
    assert given_by(one.take(rows(2, 2, 5))) == [(2, [2, 3, 4])]
    assert (one.last, one.n_rows) == (2, 5)
    assert one.take(rows(2, 2, 5)) == one.take(rows(1, 0, 2)) == one.take(rows(3, 0, 0)) == []


def test_a_batch_has_no_column_of_its_number_and_is_in_order():
    (batch,) = follower().fill(rows(1, 0, 4).take([2, 0, 3, 1]))
    assert batch.table == "members"
    assert batch.rows.column_names == ["track", "frame"]
    assert batch.to_pandas()["track"].tolist() == [0, 1, 2, 3]
    assert len(batch) == 4


def test_a_gap_is_said_and_filled_from_what_is_stored():
    one = follower()
    one.take(rows(1, 0, 2))
    assert one.take(rows(4, 6, 8)) is None
    stored = pa.concat_tables([rows(3, 4, 6), rows(1, 0, 2), rows(2, 2, 4), rows(4, 6, 8)])
    assert given_by(one.fill(stored)) == [(2, [2, 3]), (3, [4, 5]), (4, [6, 7])]
    assert one.take(rows(4, 6, 8)) == []


def test_a_batch_that_was_cut_anew_gives_what_is_new_of_it():
    # Sent, not stored, the server was killed; after the reconnection there were more rows, and the first copy landed.
    one = follower()
    one.take(rows(1, 0, 2))
    assert given_by(one.take(rows(2, 2, 4))) == [(2, [2, 3])]
    assert given_by(one.take(rows(2, 2, 7))) == [(2, [4, 5, 6])]
    assert given_by(one.take(rows(3, 4, 9))) == [(3, [7, 8])]
    assert one.n_rows == 9


@given(st.lists(st.integers(0, 2), max_size=12), st.randoms(use_true_random=False))
def test_whatever_messages_are_lost_or_doubled_each_row_comes_once_in_order(fates, random):
    one, stored, given_rows = follower(), [], []
    for number, fate in enumerate(fates, start=1):
        message = rows(number, 3 * number, 3 * number + random.randint(1, 3))
        stored.append(message)
        for _ in range(fate):  # 0: lost, 2: doubled
            found = one.take(message)
            if found is None:
                found = one.fill(pa.concat_tables(stored))
            given_rows += found
    given_rows += one.fill(pa.concat_tables(stored)) if stored else []
    assert [batch.number for batch in given_rows] == sorted({batch.number for batch in given_rows})
    assert [row for batch in given_rows for row in batch.rows["track"].to_pylist()] == [
        row for message in stored for row in message["track"].to_pylist()
    ]


def of(table, number, **columns):
    return LiveBatch(table=table, number=number, rows=pa.table(columns))


def frames(number, *n_peaks):
    return of("frames", number, n_peaks=list(n_peaks))


def peaks(number, n):
    return of("peaks", number, peak=list(range(n)))


def order(arrivals, tables=("frames", "peaks"), **more):
    return [(batch.table, batch.number) for batch in in_step(arrivals, tables, **more)]


ENDS = [Ended("frames"), Ended("peaks")]


def test_frames_come_after_their_peaks():
    arrivals = [frames(1, 2, 1), peaks(1, 2), None, peaks(2, 1), frames(2, 0), *ENDS]
    assert order(arrivals) == [("peaks", 1), ("peaks", 2), ("frames", 1), ("frames", 2)]


def test_frames_alone_wait_for_nothing():
    assert order([frames(1, 5), Ended("frames")], ("frames",)) == [("frames", 1)]


def test_frames_do_not_wait_for_peaks_that_never_come():
    times = iter([0.0, 0.0, 0.0, 9.0, 9.0, 9.0])
    arrivals = [frames(1, 5), frames(2, 1), None, peaks(1, 1), *ENDS]
    assert order(arrivals, clock=lambda: next(times), hold=5.0)[:2] == [("frames", 1), ("frames", 2)]
    assert order([frames(1, 5), Ended("peaks"), Ended("frames")]) == [("frames", 1)]


def test_an_error_of_a_table_is_raised():
    with pytest.raises(KeyError):
        order([peaks(1, 1), Ended("peaks", KeyError("gone")), Ended("frames")])

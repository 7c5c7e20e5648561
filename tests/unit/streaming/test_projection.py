"""The maximum projection: as a naive one has it, however the rows are cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hedmlive.streaming import MaxProjection

SHAPE = (4, 5)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2**24)), max_size=40),
    cut=st.integers(0, 40),
)
def test_it_is_the_largest_of_each_pixel_however_rows_are_cut(rows: list[tuple[int, int, int]], cut: int) -> None:
    wanted = np.zeros(SHAPE)
    for row, col, counts in rows:
        wanted[row, col] = max(wanted[row, col], counts)
    made = MaxProjection(SHAPE)
    for part in (rows[:cut], rows[cut:]):
        row, col, counts = np.array(part, np.int64).reshape(-1, 3).T
        columns = {"row": row.astype(np.int32), "col": col.astype(np.int32), "intensity": counts.astype(np.float64)}
        made.push(columns)
    assert made.image.dtype == np.float32
    np.testing.assert_array_equal(made.image, wanted)

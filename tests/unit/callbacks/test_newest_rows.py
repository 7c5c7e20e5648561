"""Rows of a reduced archive that is being written: the same from memory as from the file."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedmlive.callbacks import ReducedArchiveReader, reduced_archive
from hedmlive.callbacks.reduced_archive import ReducedArchive
from hedmlive.streaming import Recipe

KEPT = 12


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=6), st.data())
def test_newest_rows_are_those_of_the_file(sizes, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduced_archive, "_NEWEST_ROWS", KEPT)
        path = Path(folder) / "run_reduced.h5"
        archive = ReducedArchive(path, "run", Recipe(threshold=1), ("detector",), {})
        n_rows = 0
        for size in sizes:
            # As others may hand them over: in another order, and of another type than the file has.
            columns = reversed(archive.tables["peaks"].columns)
            archive.write(0, {"peaks": {each.name: np.arange(n_rows, n_rows + size) % 2 for each in columns}})
            archive.flush()
            n_rows += size
            assert archive.rows(0, "peaks") == n_rows
            first, end = sorted(data.draw(st.tuples(*2 * [st.integers(0, n_rows)])))
            with ReducedArchiveReader(path) as reader:
                wanted = reader.read(0, "peaks", first, end)
            found = archive.read(0, "peaks", first, end)
            assert list(found) == list(wanted)
            for name, column in wanted.items():
                assert found[name].dtype == column.dtype
                np.testing.assert_array_equal(found[name], column)
        archive.close()
        archive.release()

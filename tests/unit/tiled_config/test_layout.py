"""The schema and the names of the tables in the catalogue."""

import numpy as np
import pyarrow as pa
import pytest

from hedmlive.streaming import TABLES, tables_with_roles
from hedmlive.tiled_config import SPECS, table_identity
from hedmlive.tiled_config.layout import attempt_key, searchable, sql_table_name, table_schema


@pytest.mark.parametrize("name", TABLES)
def test_a_schema_is_the_batch_and_the_columns_in_order(name):
    table = TABLES[name]
    schema = table_schema(table)
    assert schema.names == ["batch", *table.names]
    assert [schema.field(c.name).type.to_pandas_dtype() for c in table.columns] == [
        np.dtype(c.dtype).type for c in table.columns
    ]
    assert table_identity(schema) == table.key
    assert name in SPECS


def test_the_identity_survives_the_wire():
    assert table_identity(pa.ipc.read_schema(table_schema(TABLES["links"]).serialize())) == TABLES["links"].key
    assert table_identity(pa.schema([("x", pa.int64())])) == ()


def test_another_schema_gets_another_sql_table():
    more = tables_with_roles({"temperature": "K"})
    assert sql_table_name(TABLES["frames"]) == sql_table_name(tables_with_roles({})["frames"])
    assert sql_table_name(TABLES["frames"]) != sql_table_name(more["frames"])
    assert sql_table_name(more["peaks"]) == sql_table_name(TABLES["peaks"])
    assert max(len(sql_table_name(table) + "_partition") for table in TABLES.values()) <= 63


def test_of_a_start_document_only_what_can_be_compared_is_kept():
    start = {
        "uid": "a", "scan_id": np.int64(3), "energy": 71.7, "motors": ("omega",), "shape": np.array([2, 3]),
        "hints": {"dimensions": []}, "image": np.zeros((2, 2)), "long": list(range(100)), "none": None,
    }  # fmt: skip
    assert searchable(start) == {
        "uid": "a", "scan_id": 3, "energy": 71.7, "motors": ["omega"], "shape": [2, 3],
    }  # fmt: skip


def test_attempts_sort_as_text():
    assert sorted(map(attempt_key, [10, 2, 0])) == ["attempt-0000", "attempt-0002", "attempt-0010"]

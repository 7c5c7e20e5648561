"""Filters of rows: typed words, the wire, and the databases, each beside a filter in pandas that cannot be wrong."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services import postgres
from tiled.storage import parse_storage, register_storage
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource, Management
from tiled.structures.table import TableStructure

from hedmlive.streaming import Column, SettingsError, Table
from hedmlive.tiled_config import tables_sql
from hedmlive.tiled_config.adapters import LockedSQLAdapter
from hedmlive.tiled_config.layout import sql_table_name, table_schema
from hedmlive.tiled_config.queries import (
    MOST_VALUES,
    Annulus,
    Condition,
    RowQuery,
    check_columns,
    conditions_of,
    parse,
    parse_annulus,
)
from hedmlive.tiled_config.tables_limits import PartLimits
from hedmlive.tiled_config.tables_server import select, select_from_partitions

COLUMNS = ("batch", "frame", "peak", "omega", "Weight", "on_edge", "sum_intensity", "max_intensity")
TYPES = {"frame": "i8", "peak": "i4", "omega": "f8", "on_edge": "b1"}


def encoded(**criteria: Any) -> list[str]:
    return [each.encoded() for each in conditions_of(criteria, COLUMNS, "peaks")]


# ---------------------------------------------------------------- what is typed


def test_words_become_conditions():
    assert encoded(omega=(10, 20.5)) == ["omega:ge:10", "omega:le:20.5"]
    assert encoded(omega=(None, 20), frame=None) == ["omega:le:20"]
    assert encoded(frame=3, peak=[1, np.int64(2)], on_edge=True) == ["frame:in:3", "peak:in:1,2", "on_edge:in:true"]
    assert encoded(min_omega=1, max_frame=2) == ["omega:ge:1", "frame:le:2"]
    assert encoded(min_intensity=5, intensity=(1, None)) == ["sum_intensity:ge:5", "sum_intensity:ge:1"]
    # A column's own name wins.
    assert encoded(max_intensity=(5, None), min_max_intensity=6) == ["max_intensity:ge:5", "max_intensity:ge:6"]


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"omegga": 1}, r"peaks: column 'omegga' came; wanted one of frame, .*, or min_ or max_ before it"),
        ({"min_omegga": 1}, "column 'min_omegga' came"),
        ({"omega": (2, 1)}, r"omega=\(2, 1\) came; wanted the lower end first"),
        ({"omega": (1, 2, 3)}, r"wanted \(low, high\), or a list"),
        ({"omega": "1; DROP TABLE x"}, "wanted a number"),
        ({"omega": math.nan}, "wanted a number"),
        ({"min_omega": [1]}, "wanted a number"),
        ({"frame": []}, f"0 values came; wanted 1 to {MOST_VALUES}"),
        ({"frame": range(MOST_VALUES + 1)}, f"{MOST_VALUES + 1} values came"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(criteria, message):
    with pytest.raises(SettingsError, match=message) as caught:
        encoded(**criteria)
    assert len(str(caught.value).splitlines()) == 1


def test_columns_are_those_of_the_table():
    assert check_columns(None, ("batch", "a", "b"), "t") == ("a", "b")
    assert check_columns("a", ("batch", "a"), "t") == ("a",)
    assert check_columns(["b", "a", "b"], ("a", "b"), "t") == ("b", "a")
    with pytest.raises(SettingsError, match=r"t: columns \['c'\] came; wanted some of a, b"):
        check_columns(["a", "c"], ("a", "b"), "t")
    with pytest.raises(SettingsError, match="wanted some of a"):
        check_columns([], ("a",), "t")


# ---------------------------------------------------------------- what goes over the wire


@given(st.sampled_from(["ge", "le"]), st.floats(allow_nan=False))
def test_a_number_comes_through_exactly(operator: Any, value: float):
    sent = Condition(column="omega", operator=operator, values=(value,))
    assert parse(sent.encoded(), TYPES, "t") == sent


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=9))
def test_whole_numbers_come_through_exactly(values: list[int]):
    sent = Condition(column="frame", operator="in", values=tuple(values))
    assert parse(sent.encoded(), TYPES, "t") == sent


def test_bounds_of_whole_numbers_are_rounded_to_the_inside():
    assert parse("frame:ge:1.5", TYPES, "t").values == (2,)
    assert parse("frame:le:1.5", TYPES, "t").values == (1,)
    assert parse("frame:in:2.0", TYPES, "t").values == (2,)
    assert parse("frame:ge:-inf", TYPES, "t").values == (-(2**62),)


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_refused(text: str):
    with suppress(SettingsError):
        found = parse(text, TYPES, "t")
        assert found.column in TYPES
        assert all(isinstance(value, (bool, int, float)) for value in found.values)


@pytest.mark.parametrize(
    "text",
    ["", "omega", "omega:ge", "omega:eq:1", "omega:ge:", "omega:ge:1,2", "omega:ge:nan", "frame:in:1.5",
     "frame:ge:9223372036854775808", "on_edge:ge:true", "on_edge:in:maybe", 'om"ega:ge:1', "batch:ge:1",
     "frame:in:" + ",".join("1" * (MOST_VALUES + 1))],
)  # fmt: skip
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(SettingsError, match=r"^t: "):
        parse(text, TYPES, "t")


@given(st.lists(st.floats(0, 1e4), min_size=4, max_size=4))
def test_an_annulus_comes_through_exactly(numbers: list[float]):
    row, col, *radii = numbers
    sent = Annulus(row=row, col=col, inner=min(radii), outer=max(radii))
    assert parse_annulus(sent.encoded(), ("row", "col"), "t") == sent


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,4,3", "1,2,-1,3", "1,2,0,nan", "1,2,0,inf", "a,2,0,1", "1,2,0,1,5"])
def test_what_is_no_annulus_is_refused(text):
    with pytest.raises(SettingsError, match=r"^t: .*wanted ROW,COL,INNER,OUTER in px"):
        parse_annulus(text, ("row", "col"), "t")
    with pytest.raises(SettingsError, match="wanted it of a table with row and col"):
        parse_annulus("1,2,0,1", ("frame",), "t")


# ---------------------------------------------------------------- what the databases make of it

KEY = ("frame", "peak")
N = 60
TABLE = Table(
    name="peaks",
    row="peak",
    key=KEY,
    columns=tuple(
        Column(name=name, dtype=dtype, unit="", meaning="")
        for name, dtype in (
            ("frame", "<i8"), ("peak", "<i4"), ("omega", "<f8"), ("Weight", "<f8"), ("on_edge", "|b1"),
            ("sum_intensity", "<f8"), ("row", "<f8"), ("col", "<f8"),
        )
    ),
)  # fmt: skip
FEW = settings(max_examples=40)  # each asks a database
NUMBER = st.sampled_from([-math.inf, -1.0, 0.0, 0.1, 0.1 + 0.2, 2.0, 3.5, math.inf])
COUNTS = st.sampled_from([-math.inf, -1.0, 99.0, 9e3, 1e4, 10001.0, 29999.0, 3e4, 4e8, 1e9, math.inf])


def made_rows() -> pd.DataFrame:
    """Rows of 12 frames in no order, with NaN, infinities, and a number that is not what it is printed as."""
    rng = np.random.default_rng(0)
    special = np.array([math.nan, math.inf, -math.inf, 0.1 + 0.2, 0.3, 0.0])
    rows = pd.DataFrame(
        {
            "frame": np.repeat(np.arange(12), 5),
            "peak": np.tile(np.arange(5, dtype=np.int32), 12),
            "omega": np.repeat(np.round(np.arange(12) * 0.5, 1), 5),
            "Weight": special[rng.integers(0, len(special), N)],
            "on_edge": rng.random(N) < 0.5,
            "sum_intensity": np.array([*special[:3], 99.9, 1e4, 3e4, 1e5, 3e8, 5e8, -5.0])[rng.integers(0, 10, N)],
            "row": np.where(rng.random(N) < 0.1, math.nan, np.round(rng.uniform(0, 10, N), 1)),
            "col": np.round(rng.uniform(0, 10, N), 1),
        }
    )
    return rows.sample(frac=1, random_state=1).reset_index(drop=True)


ROWS = made_rows()


class Parts:
    """A table in three partitions, as any adapter of Tiled may be."""

    def structure(self) -> TableStructure:
        return TableStructure.from_schema(table_schema(TABLE), npartitions=3)

    def read_partition(self, partition: int, fields: list[str]) -> pd.DataFrame:
        return ROWS.iloc[20 * partition : 20 * (partition + 1)][fields]


class KnownParts(Parts):
    """The same of a file, of which it is remembered what was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def limits(self) -> PartLimits:
        return PartLimits(self.path, "/peaks")


@pytest.fixture(scope="module", params=["sqlite", "duckdb", "postgresql", "partitions", "archive"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if request.param == "partitions":
        yield Parts()
        return
    if request.param == "archive":
        yield KnownParts(tmp_path_factory.mktemp("archive") / "peaks.h5")
        return
    if request.param == "postgresql":
        with postgres("rows") as server:
            yield from _sql(server.uri("rows"))
        return
    yield from _sql(f"{request.param}:///{tmp_path_factory.mktemp('sql') / 'tables.db'}")


def _sql(uri: str) -> Iterator[LockedSQLAdapter]:
    storage: Any = parse_storage(uri)
    register_storage(storage)
    schema = table_schema(TABLE)
    made: list[Any] = []
    for _ in range(2):  # beside another dataset with the same rows
        source = DataSource(
            structure_family=StructureFamily.table,
            structure=TableStructure.from_schema(schema),
            mimetype="application/x-tiled-sql-table",
            parameters={"table_name": sql_table_name(TABLE)},
            management=Management.writable,
            assets=[],
        )
        source = LockedSQLAdapter.init_storage(storage, source)
        made.append(
            LockedSQLAdapter(
                storage.uri, source.structure, source.parameters["table_name"], source.parameters["dataset_id"]
            )
        )
        columns = {"batch": np.ones(N, np.int64), **{name: ROWS[name].to_numpy() for name in ROWS}}
        made[-1].append_partition(0, pa.table(columns, schema=schema))
    yield made[0]
    storage.dispose()


def naive(conditions: list[Condition], annuli: tuple[Annulus, ...] = ()) -> pd.DataFrame:
    rows = ROWS.sort_values(list(KEY))
    if annuli:
        rows = rows[
            [any(_inside(row, col, each) for each in annuli) for row, col in zip(rows["row"], rows["col"], strict=True)]
        ]
    for each in conditions:
        values = rows[each.column]
        if each.operator == "in":
            rows = rows[values.isin(each.values)]
        else:
            rows = rows[values >= each.values[0] if each.operator == "ge" else values <= each.values[0]]
    return rows


def _inside(row: float, col: float, ring: Annulus) -> bool:
    square = (row - ring.row) * (row - ring.row) + (col - ring.col) * (col - ring.col)
    return ring.inner * ring.inner <= square <= ring.outer * ring.outer


def pages(adapter: Any, limit: int, **wanted: Any) -> list[pa.Table]:
    found, after = [], None
    while True:
        query = RowQuery(columns=tuple(ROWS), key=KEY, limit=limit, after=after, **wanted)
        page, after = select(adapter, query)
        assert len(page) <= limit
        found.append(page)
        if after is None:
            return found
        assert len(found) <= N + 10


def check(adapter: Any, conditions: list[Condition], limit: int, annuli: tuple[Annulus, ...] = ()) -> None:
    found = pa.concat_tables(pages(adapter, limit, conditions=tuple(conditions), annuli=annuli))
    expected = naive(conditions, annuli)
    for name in ROWS:
        np.testing.assert_array_equal(found[name].to_numpy(), expected[name].to_numpy())
        assert found[name].type.to_pandas_dtype() == ROWS[name].dtype.type


CONDITIONS = st.lists(
    st.one_of(
        st.builds(
            lambda column, operator, value: Condition(column=column, operator=operator, values=(value,)),
            st.sampled_from(["omega", "Weight"]), st.sampled_from(["ge", "le", "in"]), NUMBER,
        ),
        st.builds(
            lambda operator, value: Condition(column="sum_intensity", operator=operator, values=(value,)),
            st.sampled_from(["ge", "le"]), COUNTS,
        ),
        st.builds(
            lambda operator, value: Condition(column="frame", operator=operator, values=(value,)),
            st.sampled_from(["ge", "le", "in"]), st.integers(-1, 13),
        ),
        st.builds(lambda values: Condition(column="peak", operator="in", values=tuple(values)),
                  st.lists(st.integers(0, 5), min_size=1)),
        st.builds(lambda value: Condition(column="on_edge", operator="in", values=(value,)), st.booleans()),
    ),
    max_size=4,
)  # fmt: skip


RINGS = st.lists(
    st.builds(
        lambda row, col, inner, width: Annulus(row=row, col=col, inner=inner, outer=inner + width),
        st.sampled_from([0.0, 5.0, 4.9]), st.sampled_from([0.0, 5.0]), st.sampled_from([0.0, 0.1, 3.0]),
        st.sampled_from([0.0, 1.0, 2.5]),
    ),
    max_size=2,
).map(tuple)  # fmt: skip


@FEW
@given(conditions=CONDITIONS, limit=st.sampled_from([1, 7, 1000]), annuli=RINGS)
def test_rows_are_those_of_the_naive_filter_in_order(
    adapter: Any, conditions: list[Condition], limit: int, annuli: tuple[Annulus, ...]
):
    check(adapter, conditions, limit, annuli)


@FEW
@given(
    conditions=CONDITIONS,
    limit=st.sampled_from([3, 1000]),
    annuli=RINGS,
    few=st.sampled_from([0, 4, 1000]),
    listed=st.sampled_from([0, 20]),
)
def test_windows_and_indexes_change_nothing(
    adapter: Any, conditions: list[Condition], limit: int, annuli: tuple[Annulus, ...], few: int, listed: int
):
    with pytest.MonkeyPatch.context() as patch:
        # With so few rows allowed, neither an index nor one window suffices.
        patch.setattr(tables_sql, "FEW", few)
        patch.setattr(tables_sql, "LISTED", listed)
        patch.setattr(tables_sql, "SCANNED", 7)
        patch.setattr(tables_sql, "WINDOW", 5)
        patch.setattr(tables_sql, "MOST_WINDOWS", 2)
        check(adapter, conditions, limit, annuli)


def test_a_table_without_rows_gives_none(tmp_path):
    storage: Any = parse_storage(f"sqlite:///{tmp_path / 'tables.db'}")
    register_storage(storage)
    source = DataSource(
        structure_family=StructureFamily.table,
        structure=TableStructure.from_schema(table_schema(TABLE)),
        mimetype="application/x-tiled-sql-table",
        parameters={"table_name": sql_table_name(TABLE)},
        management=Management.writable,
        assets=[],
    )
    source = LockedSQLAdapter.init_storage(storage, source)
    name, number = source.parameters["table_name"], source.parameters["dataset_id"]
    adapter = LockedSQLAdapter(storage.uri, source.structure, name, number)
    for column in ("frame", "omega", "Weight", "sum_intensity"):
        (page,) = pages(adapter, 5, conditions=(Condition(column=column, operator="ge", values=(0.0,)),))
        assert (len(page), page.column_names) == (0, list(ROWS))
    storage.dispose()


@FEW
@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 5)), max_size=20), st.sampled_from([2, 1000]))
def test_rows_are_found_by_their_key(adapter: Any, pairs: list[tuple[int, int]], limit: int):
    found = pa.concat_tables(pages(adapter, limit, pairs=tuple(pairs)))
    there = set(zip(ROWS["frame"], ROWS["peak"], strict=True))
    got = list(zip(found["frame"].to_pylist(), found["peak"].to_pylist(), strict=True))
    assert got == sorted(set(pairs) & there)


def test_parts_of_archives_that_cannot_match_are_not_read_again(tmp_path):
    asked: list[int] = []

    class Watched(KnownParts):
        def structure(self) -> TableStructure:
            return TableStructure.from_schema(table_schema(TABLE), npartitions=3)

        def read_partition(self, partition: int, fields: list[str]) -> pd.DataFrame:
            asked.append(partition)
            return ROWS.sort_values(list(KEY)).iloc[20 * partition : 20 * (partition + 1)][fields]

    table = Watched(tmp_path / "a.h5")

    def ask(**wanted: Any) -> list[int]:
        asked.clear()
        select_from_partitions(table, RowQuery(columns=("Weight",), key=KEY, limit=50, **wanted))
        return sorted(set(asked))

    one = (Condition(column="frame", operator="in", values=(5,)),)
    omega = (Condition(column="omega", operator="ge", values=(4.5,)),)
    assert ask(conditions=one) == [0, 1, 2]
    assert ask(conditions=one) == [1]
    assert ask(conditions=omega) == [0, 1, 2]
    assert ask(conditions=omega) == [2]
    assert ask(pairs=((1, 0), (2, 1))) == [0]
    assert ask(pairs=()) == []
    assert ask(after=(8, 0)) == [2]
    assert ask(conditions=(Condition(column="frame", operator="in", values=(99,)),)) == []
    # Of a file that was changed nothing is known.
    table.path.write_bytes(b"longer")
    assert ask(conditions=one) == [0, 1, 2]


def test_partitions_are_read_only_as_far_as_needed():
    asked: list[tuple[int, list[str]]] = []

    class Watched(Parts):
        def read_partition(self, partition: int, fields: list[str]) -> pd.DataFrame:
            asked.append((partition, fields))
            return super().read_partition(partition, fields)

    condition = Condition(column="frame", operator="in", values=(99,))
    found, more = select_from_partitions(
        Watched(), RowQuery(columns=("Weight",), key=KEY, conditions=(condition,), limit=5)
    )
    assert (len(found), more) == (0, None)
    assert asked == [(part, ["frame", "peak"]) for part in range(3)]

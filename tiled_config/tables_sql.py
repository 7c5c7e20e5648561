"""Pages of rows of our SQL tables: filtered and put in order by the database, on SQLite, DuckDB and PostgreSQL.

A statement holds names of columns that the table has, whole numbers, and places for values, which are bound. What an
index finds costs what its rows cost. Walking a table of many million rows takes seconds, so that it is done in windows,
between which others get the lock; `benchmarks/queries.py` measures both.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import pyarrow as pa

from .queries import Condition, RowQuery

INDEXED = "omega"
"""The column, beside the key, that tables have an index of."""

WINDOW = 500_000
"""Rows that SQLite looks at before it lets go of the lock: half a second."""

MOST_WINDOWS = 4
"""Windows looked at for one page; a page may come with few rows, and say where to go on."""

FEW = 200_000
"""So many rows at most are found by the index and then put in order; more are walked in order from the start."""


def index_statement(table: str, columns: Sequence[str], dialect: str) -> str | None:
    """Return the statement that makes the index of a table's omega, if it has one and the database needs it.

    Parameters
    ----------
    table
        Name of the SQL table.
    columns
        Names of its columns.
    dialect
        The kind of database. DuckDB scans columns faster than it looks them up.
    """
    if INDEXED not in columns or dialect == "duckdb":
        return None
    return f'CREATE INDEX IF NOT EXISTS "{_index(table)}" ON "{table}"(_dataset_id, {INDEXED})'


def select_rows(
    adapter: Any, wanted: RowQuery, lock: AbstractContextManager[Any]
) -> tuple[pa.Table, tuple[int, ...] | None]:
    """Return rows of a table, in the order of its key, and the key after which the next page begins, if any.

    Parameters
    ----------
    adapter
        The `SQLAdapter` of the table.
    wanted
        Which rows. The caller has checked its columns against the table's.
    lock
        Held while the database is asked, unless it is PostgreSQL.

    Returns
    -------
    pa.Table
        The rows: first the columns of the key, then those asked for that are not among them.
    """
    return _Selection(adapter, wanted, lock).page()


class _Selection:
    """One page of one table."""

    def __init__(self, adapter: Any, wanted: RowQuery, lock: AbstractContextManager[Any]) -> None:
        self._storage = adapter.storage
        self._dialect = str(self._storage.dialect)
        self._table = str(adapter.table_name)
        self._dataset = int(adapter.dataset_id)
        self._schema: pa.Schema = adapter.structure().arrow_schema_decoded
        self._wanted = wanted
        self._lock = nullcontext() if self._dialect == "postgresql" else lock
        self._columns = tuple(dict.fromkeys((*wanted.key, *wanted.columns)))

    def page(self) -> tuple[pa.Table, tuple[int, ...] | None]:
        wanted, room = self._wanted, self._wanted.limit + 1
        by_index = self._few_by_index()
        walks = self._dialect == "sqlite" and not by_index and wanted.pairs is None
        found: list[pa.Table] = []
        after, end = wanted.after, None
        for _ in range(MOST_WINDOWS if walks else 1):
            end = self._window_end(after) if walks else None
            found.append(self._fetch(after, end, room, by_index=by_index))
            room -= len(found[-1])
            if end is None or room <= 0:
                break
            after = end
        rows = pa.concat_tables(found)
        if len(rows) <= wanted.limit:
            return rows, end
        rows = rows.slice(0, wanted.limit)
        return rows, tuple(int(rows[name][-1].as_py()) for name in wanted.key)

    def _few_by_index(self) -> bool:
        """Return whether the index of omega leads to few rows."""
        own = [each for each in self._wanted.conditions if each.column == INDEXED]
        if not own or self._dialect == "duckdb" or self._wanted.pairs is not None or not self._has_index():
            return False
        statement = _Statement(self._dialect, self._dataset)
        statement.add(own, self._schema)
        inner = f'SELECT 1 FROM "{self._table}"{self._hint()} WHERE {statement.where} LIMIT {FEW + 1}'
        return int(self._ask(f"SELECT count(*) AS n FROM ({inner}) AS chosen", statement.values)["n"][0].as_py()) <= FEW

    def _has_index(self) -> bool:
        # One of an older catalogue gets it with its next reduction.
        names, column = ("sqlite_master", "name") if self._dialect == "sqlite" else ("pg_indexes", "indexname")
        place = _place(self._dialect, 1)
        return len(self._ask(f"SELECT 1 AS n FROM {names} WHERE {column} = {place}", [_index(self._table)])) > 0

    def _hint(self) -> str:
        return f' INDEXED BY "{_index(self._table)}"' if self._dialect == "sqlite" else ""

    def _window_end(self, after: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Return the key of the row so many rows further on; None if there are fewer."""
        statement = _Statement(self._dialect, self._dataset)
        statement.add([each for each in self._wanted.conditions if each.column in self._wanted.key], self._schema)
        statement.beyond(self._wanted.key, ">", after)
        key = _names(self._wanted.key)
        sql = f'SELECT {key} FROM "{self._table}" WHERE {statement.where} ORDER BY {key} LIMIT 1 OFFSET {WINDOW - 1}'
        found = self._ask(sql, statement.values)
        return tuple(int(column[0].as_py()) for column in found.columns) if len(found) else None

    def _fetch(
        self, after: tuple[int, ...] | None, end: tuple[int, ...] | None, limit: int, *, by_index: bool
    ) -> pa.Table:
        statement = _Statement(self._dialect, self._dataset)
        statement.add(self._wanted.conditions, self._schema)
        statement.beyond(self._wanted.key, ">", after)
        statement.beyond(self._wanted.key, "<=", end)
        if self._wanted.pairs is not None:
            statement.among(self._wanted.key, self._wanted.pairs)
        columns, order = _names(self._columns), f"ORDER BY {_names(self._wanted.key)} LIMIT {limit}"
        chosen = f'SELECT {columns} FROM "{self._table}"{self._hint() if by_index else ""} WHERE {statement.where}'
        # Else PostgreSQL might walk all rows in their order, in the hope of soon having met enough.
        fenced = by_index and self._dialect == "postgresql"
        sql = f"WITH chosen AS MATERIALIZED ({chosen}) SELECT * FROM chosen {order}" if fenced else f"{chosen} {order}"
        found = self._ask(sql, statement.values)
        # Databases store in coarser types, and names in small letters.
        target = pa.schema([self._schema.field(name) for name in self._columns])
        return found.rename_columns(list(self._columns)).cast(target)

    def _ask(self, sql: str, values: Sequence[Any]) -> pa.Table:
        with self._lock, closing(self._storage.connect()) as connection:
            with connection.cursor() as cursor:
                cursor.execute(sql, tuple(values) or None)
                found = cursor.fetch_arrow_table()
            connection.commit()
        return found


class _Statement:
    """The ``WHERE`` of a statement, and the values that are bound to its places."""

    def __init__(self, dialect: str, dataset: int) -> None:
        self._dialect = dialect
        self._parts = [f"_dataset_id = {dataset}"]
        self.values: list[Any] = []

    @property
    def where(self) -> str:
        return " AND ".join(self._parts)

    def add(self, conditions: Sequence[Condition], schema: pa.Schema) -> None:
        for each in conditions:
            name, kind = _name(each.column), schema.field(each.column).type
            if each.operator == "in":
                self._parts.append(f"{name} IN ({', '.join(self._value(value, kind) for value in each.values)})")
                continue
            sign = {"ge": ">=", "le": "<="}[each.operator]
            self._parts.append(f"{name} {sign} {self._value(each.values[0], kind)}")
            if each.operator == "ge" and pa.types.is_floating(kind):
                # To DuckDB and PostgreSQL NaN is larger than all numbers.
                self._parts.append(f"{name} <= {self._value(float('inf'), kind)}")

    def beyond(self, key: Sequence[str], sign: str, value: tuple[int, ...] | None) -> None:
        if value is not None:
            self._parts.append(f"({_names(key)}) {sign} ({', '.join(str(int(each)) for each in value)})")

    def among(self, key: Sequence[str], pairs: Sequence[tuple[int, ...]]) -> None:
        rows = ", ".join(f"({', '.join(str(int(each)) for each in pair)})" for pair in pairs)
        self._parts.append(f"({_names(key)}) IN (VALUES {rows})" if pairs else "1 = 0")

    def _value(self, value: Any, kind: pa.DataType) -> str:
        if pa.types.is_boolean(kind):
            return "TRUE" if value else "FALSE"
        self.values.append(value)
        return _place(self._dialect, len(self.values))


def _place(dialect: str, number: int) -> str:
    return f"${number}" if dialect == "postgresql" else "?"


def _name(column: str) -> str:
    # Tiled makes the columns in small letters, and refuses names with quotes.
    return f'"{column.lower()}"'


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(_name, columns))


def _index(table: str) -> str:
    return f"{table}_omega"

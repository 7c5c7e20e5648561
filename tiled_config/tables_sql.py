"""Pages of rows of our SQL tables: filtered and put in order by the database, on SQLite, DuckDB and PostgreSQL.

A statement holds names of columns that the table has, whole numbers, and places for values, which are bound. What an
index finds costs what its rows cost: there is one of the key, one of omega, and one of the intensity. What no index
finds is looked for in the order of storage, which is seven times faster than in the order of the key, and put in order
when it is found. SQLite does that in windows, between which others get the lock; `benchmarks/queries.py` measures it.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import pyarrow as pa

from .queries import Annulus, Condition, RowQuery

OMEGA = "omega"
"""The column, beside the key, that tables have an index of."""

IDENTITY = "identity"
"""What the index of the key is called."""

INTENSITY = "sum_intensity"
"""The column that tables have an index of the size of."""

LEVELS = tuple(float(f"{first}e{power}") for power in range(4, 9) for first in (1, 3))
"""Sizes of an intensity, in counts. An index of the intensity itself would be written all over with each append; of few
sizes each grows at its end. What is fainter than the first is in no index: with it, appending took 25 % longer."""

WINDOW = 500_000
"""Rows in the order of their key that SQLite looks at before it lets go of the lock: a quarter of a second."""

MOST_WINDOWS = 4
"""Windows looked at for one page; a page may come with few rows, and say where to go on."""

SCANNED = 1_500_000
"""Rows in the order of storage that each of two threads looks at before the lock is let go: a tenth of a second."""

FEW = 200_000
"""So many rows at most are found in any order and then put in order; more are walked in order from the start."""

LISTED = 500_000
"""An index is gone through if it lists so many rows at most."""


def index_statements(table: str, columns: Sequence[str], dialect: str) -> list[str]:
    """Return the statements that make the indexes of a table's omega and intensity, as far as the database needs them.

    Parameters
    ----------
    table
        Name of the SQL table.
    columns
        Names of its columns.
    dialect
        The kind of database. DuckDB scans columns faster than it looks them up.
    """
    if dialect == "duckdb":
        return []
    terms = {OMEGA: f"{OMEGA})", INTENSITY: f"({_level(dialect)})) WHERE {_BRIGHT}"}
    return [
        f'CREATE INDEX IF NOT EXISTS "{_index(table, column)}" ON "{table}"(_dataset_id, {term}'
        for column, term in terms.items()
        if column in columns
    ]


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


_READERS = 2
_BRIGHT = f"{INTENSITY} >= {LEVELS[0]!r}"


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
        wanted = self._wanted
        found = self._few()
        end = None
        if found is None:
            found, end = self._walked()
        if len(found) <= wanted.limit:
            return found, end
        rows = found.slice(0, wanted.limit)
        return rows, tuple(int(rows[name][-1].as_py()) for name in wanted.key)

    def _few(self) -> pa.Table | None:
        """Return all rows that are wanted, in order; None if they are many, or best looked for in their order."""
        wanted = self._wanted
        others = [*(each for each in wanted.conditions if each.column not in wanted.key), *wanted.annuli]
        if not others or self._dialect == "duckdb" or wanted.pairs is not None or wanted.after is not None:
            return None
        index = self._index()
        if index is None and self._dialect == "sqlite":
            rows = self._scanned()
        else:
            rows = self._fetch(self._statement(), FEW + 1, index=index)
        if rows is None or len(rows) > FEW:
            return None
        return rows.sort_by([(name, "ascending") for name in wanted.key])

    def _scanned(self) -> pa.Table | None:
        """Return all rows that are wanted, as they are stored; None if they are many."""
        found, n_found = [self._target.empty_table()], 0
        with ThreadPoolExecutor(_READERS) as pool:
            for windows in self._row_windows():
                # Nobody writes meanwhile, and so many can read at once.
                with self._lock:
                    found += pool.map(self._window, windows)
                n_found = sum(map(len, found))
                if n_found > FEW:
                    return None
        return pa.concat_tables(found)

    def _window(self, rows: tuple[int, int]) -> pa.Table:
        statement = self._statement()
        statement.also(f"rowid BETWEEN {rows[0]} AND {rows[1]}")
        return self._fetch(statement, FEW + 1, locked=False)

    def _index(self) -> tuple[str, str] | None:
        """Return an index that lists few of the rows, and how it is asked for."""
        lowest = [
            each.values[0] for each in self._wanted.conditions if (each.column, each.operator) == (INTENSITY, "ge")
        ]
        size = sum(level <= max(lowest, default=0) for level in LEVELS)
        omega = _Statement(self._dialect, self._dataset)
        omega.add([each for each in self._wanted.conditions if each.column == OMEGA], self._schema)
        of_key = _Statement(self._dialect, self._dataset)
        of_key.add([each for each in self._wanted.conditions if each.column in self._wanted.key], self._schema)
        asked = {
            IDENTITY: of_key if of_key.values else None,
            OMEGA: omega if omega.values else None,
            INTENSITY: self._bright(size) if size else None,
        }
        for column, statement in asked.items():
            if statement is None or not self._has_index(column):
                continue
            inner = f'SELECT 1 FROM "{self._table}"{self._hint(column)} WHERE {statement.where} LIMIT {LISTED + 1}'
            count = self._ask(f"SELECT count(*) AS n FROM ({inner}) AS listed", statement.values)["n"][0].as_py()
            if int(count) <= LISTED:
                return column, statement.last
        return None

    def _bright(self, size: int) -> "_Statement":
        statement = _Statement(self._dialect, self._dataset)
        # Both word by word as in the index, which is not found otherwise.
        statement.also(f"{_BRIGHT} AND ({_level(self._dialect)}) >= {size}")
        return statement

    def _row_windows(self) -> Iterator[list[tuple[int, int]]]:
        """Give first and last place of storage of windows of this dataset, as many as are looked at together."""
        ends: list[int] = []
        for order in ("ASC", "DESC"):
            sql = (
                f'SELECT rowid AS n FROM "{self._table}" WHERE _dataset_id = {self._dataset} AND _partition_id = 0 '
                f"ORDER BY _partition_id {order}, rowid {order} LIMIT 1"
            )
            ends += [int(each.as_py()) for each in self._ask(sql, [])["n"]]
        if ends:
            windows = [(at, min(at + SCANNED - 1, ends[1])) for at in range(ends[0], ends[1] + 1, SCANNED)]
            for first in range(0, len(windows), _READERS):
                yield windows[first : first + _READERS]

    def _walked(self) -> tuple[pa.Table, tuple[int, ...] | None]:
        """Return rows in the order of their key, and where to go on if not all windows were looked at."""
        wanted, room = self._wanted, self._wanted.limit + 1
        walks = self._dialect == "sqlite" and wanted.pairs is None
        found: list[pa.Table] = []
        after, end = wanted.after, None
        for _ in range(MOST_WINDOWS if walks else 1):
            end = self._window_end(after) if walks else None
            statement = self._statement()
            statement.beyond(wanted.key, ">", after)
            statement.beyond(wanted.key, "<=", end)
            found.append(self._fetch(statement, room, order=f"ORDER BY {_names(wanted.key)}"))
            room -= len(found[-1])
            if end is None or room <= 0:
                break
            after = end
        return pa.concat_tables(found), end

    def _statement(self) -> "_Statement":
        """Return what all rows must be that are wanted."""
        statement = _Statement(self._dialect, self._dataset)
        statement.add(self._wanted.conditions, self._schema)
        statement.inside(self._wanted.annuli)
        if self._wanted.pairs is not None:
            statement.among(self._wanted.key, self._wanted.pairs)
        return statement

    def _has_index(self, column: str) -> bool:
        # One of an older catalogue gets it with its next reduction.
        names, name = ("sqlite_master", "name") if self._dialect == "sqlite" else ("pg_indexes", "indexname")
        place = _place(self._dialect, 1)
        return len(self._ask(f"SELECT 1 AS n FROM {names} WHERE {name} = {place}", [_index(self._table, column)])) > 0

    def _hint(self, column: str) -> str:
        return f' INDEXED BY "{_index(self._table, column)}"' if self._dialect == "sqlite" else ""

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
        self,
        statement: "_Statement",
        limit: int,
        *,
        order: str = "",
        index: tuple[str, str] | None = None,
        locked: bool = True,
    ) -> pa.Table:
        hint = ""
        if index is not None:
            hint = self._hint(index[0])
            if index[0] == INTENSITY:
                # Nothing else in the statement shows that this index helps.
                statement.also(index[1])
        # The key's own index would lead through all rows, one by one, where none of the others helps.
        elif not order and self._dialect == "sqlite":
            hint = " NOT INDEXED"
        columns = _names(self._columns)
        sql = f'SELECT {columns} FROM "{self._table}"{hint} WHERE {statement.where} {order} LIMIT {limit}'
        found = self._ask(sql, statement.values, locked=locked)
        # Databases store in coarser types, and names in small letters.
        return found.rename_columns(list(self._columns)).cast(self._target)

    @property
    def _target(self) -> pa.Schema:
        return pa.schema([self._schema.field(name) for name in self._columns])

    def _ask(self, sql: str, values: Sequence[Any], *, locked: bool = True) -> pa.Table:
        lock = self._lock if locked else nullcontext()
        with lock, closing(self._storage.connect()) as connection:
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
            if each.operator == "ge" and pa.types.is_floating(kind) and self._dialect != "sqlite":
                # To DuckDB and PostgreSQL NaN is larger than all numbers. SQLite keeps none, and would walk an index to
                # this end instead of the one that was asked for.
                self._parts.append(f"{name} <= {self._value(float('inf'), kind)}")

    def inside(self, annuli: Sequence[Annulus]) -> None:
        """Say that the place on the detector lies in one of some annuli; a row whose place is not known does not."""
        if not annuli:
            return
        parts: list[str] = []
        for each in annuli:
            # Term by term, so that values are bound in the order of their places.
            square = " + ".join(
                f"({_name(name)} - {self._bound(at)}) * ({_name(name)} - {self._bound(at)})"
                for name, at in (("row", each.row), ("col", each.col))
            )
            parts.append(f"{square} BETWEEN {self._bound(each.inner**2)} AND {self._bound(each.outer**2)}")
        self._parts.append(f"({' OR '.join(parts)})")

    def also(self, part: str) -> None:
        """Say one thing more, in SQL without values."""
        self._parts.append(part)

    @property
    def last(self) -> str:
        """What was said last."""
        return self._parts[-1]

    def beyond(self, key: Sequence[str], sign: str, value: tuple[int, ...] | None) -> None:
        if value is not None:
            self._parts.append(f"({_names(key)}) {sign} ({', '.join(str(int(each)) for each in value)})")

    def among(self, key: Sequence[str], pairs: Sequence[tuple[int, ...]]) -> None:
        rows = ", ".join(f"({', '.join(str(int(each)) for each in pair)})" for pair in pairs)
        self._parts.append(f"({_names(key)}) IN (VALUES {rows})" if pairs else "1 = 0")

    def _value(self, value: Any, kind: pa.DataType) -> str:
        if pa.types.is_boolean(kind):
            return "TRUE" if value else "FALSE"
        return self._bound(value)

    def _bound(self, value: Any) -> str:
        self.values.append(value)
        return _place(self._dialect, len(self.values))


def _place(dialect: str, number: int) -> str:
    return f"${number}" if dialect == "postgresql" else "?"


def _name(column: str) -> str:
    # Tiled makes the columns in small letters, and refuses names with quotes.
    return f'"{column.lower()}"'


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(_name, columns))


def _level(dialect: str) -> str:
    """Return how many of the `LEVELS` an intensity reaches, in SQL."""
    number = "::int" if dialect == "postgresql" else ""
    return " + ".join(f"({INTENSITY} >= {level!r}){number}" for level in LEVELS)


def _index(table: str, column: str) -> str:
    return f"{table}_{column}"

"""Filters of rows: what is typed, what goes over the wire, and what both sides make of it.

A filter is a column, one of three operators, and numbers; nothing else can be said, so that no text of a client ever
becomes a part of a statement.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..streaming import SettingsError
from .layout import BATCH

Operator = Literal["ge", "le", "in"]
"""At least, at most, one of."""

Number = int | float | bool

INTENSITY = "intensity"
"""Short for the column ``sum_intensity``."""

TRACK = "track"
"""Peaks can be asked for by their track, though the table has no such column: ``members`` has it."""

MOST_VALUES = 500
"""Values of one ``in``: what fits into an address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a column of a wanted row must be. NaN is neither at least nor at most anything."""

    column: str
    "Name of the column."
    operator: Operator
    "How it is compared."
    values: tuple[Number, ...]
    "With what: one value, or those of ``in``."

    def encoded(self) -> str:
        """Return it as it goes over the wire, such as ``omega:ge:10.0``."""
        return f"{self.column}:{self.operator}:{','.join(map(_text, self.values))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annulus:
    """Where on the detector a wanted row lies: between two circles, both included."""

    row: float
    "Row of the centre, px."
    col: float
    "Column of the centre, px."
    inner: float
    "Radius of the inner circle, px."
    outer: float
    "Radius of the outer circle, px."

    def encoded(self) -> str:
        """Return it as it goes over the wire: centre, then radii, such as ``1023.5,1023.5,400.0,410.0``."""
        return ",".join(repr(float(value)) for value in (self.row, self.col, self.inner, self.outer))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """A page of the rows of a table."""

    columns: tuple[str, ...]
    "The columns to give, in this order."
    key: tuple[str, ...]
    "The columns that identify a row; rows come in their order."
    conditions: tuple[Condition, ...] = ()
    "What the rows must be; all of it."
    annuli: tuple[Annulus, ...] = ()
    "If any, only rows that lie in one of these."
    pairs: tuple[tuple[int, ...], ...] | None = None
    "If not None, only rows whose `key` is one of these."
    after: tuple[int, ...] | None = None
    "If not None, only rows whose `key` comes after this."
    limit: int
    "How many rows to give at most."


def conditions_of(criteria: Mapping[str, Any], columns: Sequence[str], where: str) -> list[Condition]:
    """Return what keywords mean for a table.

    Parameters
    ----------
    criteria
        ``column=(low, high)`` with both ends included and None for an open one, ``column=value``, ``column=[values]``,
        ``min_column=value`` or ``max_column=value``; None means nothing. A column's own name wins over a prefix.
    columns
        The columns that can be asked for.
    where
        What messages call the table.

    Raises
    ------
    SettingsError
        There is no such column, or no such range.
    """
    found: list[Condition] = []
    for word, wanted in criteria.items():
        if wanted is None:
            continue
        column, side = _column_of(word, columns, where)
        if side is not None:
            found.append(Condition(column=column, operator=side, values=(_number(wanted, word, where),)))
        else:
            found += _conditions(column, wanted, f"{where}: {word}")
    return found


def check_columns(columns: Iterable[str] | None, there: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the columns that are wanted: all but ``batch`` where none were named.

    Raises
    ------
    SettingsError
        There is no such column.
    """
    if columns is None:
        return tuple(name for name in there if name != BATCH)
    wanted = (columns,) if isinstance(columns, str) else tuple(dict.fromkeys(columns))
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        raise SettingsError(f"{where}: columns {unknown} came; wanted some of {_list(there)}")
    return wanted


def parse(text: str, types: Mapping[str, str], where: str) -> Condition:
    """Return the condition that came over the wire.

    Parameters
    ----------
    text
        As `Condition.encoded` gives it.
    types
        Name of each column that can be asked for to its numpy type, such as ``f8``.
    where
        What messages call the table.

    Raises
    ------
    SettingsError
        It is no condition, or none of this table.
    """
    column, _, rest = text.partition(":")
    operator, _, values = rest.partition(":")
    if operator not in get_args(Operator):
        raise SettingsError(f"{where}: where={text[:100]!r} came; wanted COLUMN:OPERATOR:VALUE with ge, le or in")
    if column not in types:
        raise SettingsError(f"{where}: column {column[:100]!r} came; wanted one of {_list(types)}")
    kind, wanted = types[column], values.split(",") if values else []
    if not wanted or len(wanted) > (MOST_VALUES if operator == "in" else 1):
        most = f"1 to {MOST_VALUES}" if operator == "in" else "one"
        raise SettingsError(f"{where}: {len(wanted)} values of {column} came; wanted {most}")
    try:
        typed = tuple(_typed(value, kind, operator) for value in wanted)
    except ValueError:
        raise SettingsError(f"{where}: {column} {operator} {values[:100]!r} came; wanted {_WANTED[kind[0]]}") from None
    return Condition(column=column, operator=operator, values=typed)  # pyright: ignore[reportArgumentType]


def parse_annulus(text: str, columns: Iterable[str], where: str) -> Annulus:
    """Return the annulus that came over the wire, as `Annulus.encoded` gives it.

    Raises
    ------
    SettingsError
        It is none, or the table has no places on a detector.
    """
    if not {"row", "col"} <= set(columns):
        raise SettingsError(f"{where}: an annulus came; wanted it of a table with row and col, peaks or tracks")
    try:
        row, col, inner, outer = map(float, text.split(","))
    except ValueError:
        row = math.nan
        col = inner = outer = 0.0
    if not all(map(math.isfinite, (row, col, inner, outer))) or not 0 <= inner <= outer:
        raise SettingsError(f"{where}: annulus={text[:100]!r} came; wanted ROW,COL,INNER,OUTER in px")
    return Annulus(row=row, col=col, inner=inner, outer=outer)


_WANTED = {"f": "a number", "i": "a whole number of 64 bits at most", "b": "true or false, with in"}


def _column_of(word: str, columns: Sequence[str], where: str) -> tuple[str, Operator | None]:
    if word in columns:
        return word, None
    if word == INTENSITY:
        return "sum_intensity", None
    sides: tuple[tuple[str, Operator], ...] = (("min_", "ge"), ("max_", "le"))
    for prefix, side in sides:
        rest = word.removeprefix(prefix)
        rest = "sum_intensity" if rest == INTENSITY else rest
        if word.startswith(prefix) and rest in columns:
            return rest, side
    raise SettingsError(f"{where}: column {word!r} came; wanted one of {_list(columns)}, or min_ or max_ before it")


def _conditions(column: str, wanted: Any, what: str) -> list[Condition]:
    if isinstance(wanted, tuple):
        if len(wanted) != 2:
            raise SettingsError(f"{what}={wanted} came; wanted (low, high), or a list of values")
        low, high = (None if end is None else _number(end, what, "") for end in wanted)
        if low is not None and high is not None and low > high:
            raise SettingsError(f"{what}=({low}, {high}) came; wanted the lower end first")
        ends: list[tuple[Operator, Number | None]] = [("ge", low), ("le", high)]
        return [Condition(column=column, operator=side, values=(end,)) for side, end in ends if end is not None]
    listed = not isinstance(wanted, (str, bytes)) and hasattr(wanted, "__iter__")
    values = tuple(_number(value, what, "") for value in (wanted if listed else [wanted]))
    if not 0 < len(values) <= MOST_VALUES:
        raise SettingsError(f"{what}: {len(values)} values came; wanted 1 to {MOST_VALUES}, or a range")
    return [Condition(column=column, operator="in", values=values)]


def _number(value: Any, word: str, where: str) -> Number:
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, (bool, int, float)) or math.isnan(plain):
        raise SettingsError(f"{where}{': ' if where else ''}{word}={value!r} came; wanted a number")
    return plain


def _text(value: Number) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _typed(text: str, kind: str, operator: str) -> Number:
    """Return a value in a column's type; a bound of whole numbers is rounded to the inside."""
    if kind[0] == "b":
        if operator != "in" or text not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text]
    if kind[0] == "f":
        value = float(text)
        if math.isnan(value):
            raise ValueError(text)
        return value
    try:
        whole = int(text)
    except ValueError:
        number = float(text)
        if math.isinf(number):
            number = math.copysign(2.0**62, number)
        if operator == "in" and not number.is_integer():
            raise
        whole = math.ceil(number) if operator == "ge" else math.floor(number)
    if abs(whole) >= 2**63:
        raise ValueError(text)
    return whole


_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def _list(names: Iterable[str]) -> str:
    return ", ".join(name for name in names if name != BATCH)

"""What the start document of a run says of the way its motors go."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..streaming import DocumentError
from .settings import MOST_FRAMES

_MOST_MOTORS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moves:
    """Where the motors of a plan are at each scan point."""

    positions: Mapping[str, np.ndarray]
    "Motor to its positions in acquisition order, each of shape (points,)."
    relative: bool
    "Whether they count from where the motors were."


@dataclass(frozen=True, slots=True, kw_only=True)
class Motor:
    """A motor of a plan."""

    name: str
    "Name of the device."
    fields: tuple[str, ...]
    "Data keys of its readings, as far as the plan hints at them."

    def gives(self, key: str) -> bool:
        """Tell whether a data key is one of its readings."""
        return key in (self.name, *self.fields, *(f"{self.name}{end}" for end in _ENDS))


_ENDS = ("_readback", "_user_readback", "_setpoint", "_user_setpoint", "-readback", "-user_readback")


def motors_of(start: Mapping[str, Any]) -> tuple[Motor, ...]:
    """Return the motors that a plan moves, as far as the start document names them; malformed ones are left out."""
    dimensions = [_fields(each) for each in _sequence(_mapping(start.get("hints")).get("dimensions"))]
    names = [name for name in _sequence(start.get("motors")) if isinstance(name, str)]
    flat = [field for fields in dimensions for field in fields]
    if not names:
        return tuple(Motor(name=name, fields=()) for name in flat if name != "time")[:_MOST_MOTORS]
    if len(dimensions) != len(names):
        # Motors that move together are one dimension.
        dimensions = [(field,) for field in flat] if len(flat) == len(names) else [()] * len(names)
    if any(name in fields for at, name in enumerate(names) for fields in (*dimensions[:at], *dimensions[at + 1 :])):
        # Hints in another order than the motors, as spiral_square gives them.
        dimensions = [()] * len(names)
    return tuple(Motor(name=n, fields=f) for n, f in zip(names, dimensions, strict=True))[:_MOST_MOTORS]


def moves_of(start: Mapping[str, Any]) -> Moves | None:
    """Return where the motors of a plan are, or None if its start document does not tell.

    Bluesky's own plans are known by their ``plan_pattern`` (scan, list_scan, grid_scan, list_grid_scan, log_scan, and
    the relative ones), any other by ``motors``, ``shape``, ``extents`` and ``snaking``.

    Raises
    ------
    DocumentError
        It tells something that makes no sense, or in a way that is not known.
    """
    names = [motor.name for motor in motors_of(start)]
    pattern = start.get("plan_pattern")
    if not names or (pattern is None and not ("shape" in start and "extents" in start)):
        return None
    try:
        columns = _columns(start, pattern, len(names))
        n = len(columns[0])
        _agrees(start.get("num_points"), n, "num_points")
        if "shape" in start:
            _agrees(math.prod(int(size) for size in start["shape"]), n, f"shape {start['shape']!r:.60}")
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        why = str(error) if isinstance(error, DocumentError) else f"{type(error).__name__}: {error}"
        raise DocumentError(
            f"the start document tells the plan's positions in a way that cannot be used: {why}"
        ) from None
    relative = str(start.get("plan_name", "")).startswith(("rel_", "relative_"))
    return Moves(positions=dict(zip(names, columns, strict=True)), relative=relative)


def grid(lists: Sequence[np.ndarray], snaked: Sequence[bool]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the positions of nested motors, from slow to fast, and whether each goes back just then.

    A snaked motor goes back in every second of its passes.

    Raises
    ------
    DocumentError
        There are too many.
    """
    lengths = [len(each) for each in lists]
    n = math.prod(lengths)
    if not 0 < n <= MOST_FRAMES:
        raise DocumentError(f"{n} positions; wanted 1 to {MOST_FRAMES}")
    points = np.arange(n)
    columns: list[np.ndarray] = []
    back: list[np.ndarray] = []
    for at, (values, turns) in enumerate(zip(lists, snaked, strict=True)):
        number = points // math.prod(lengths[at + 1 :])
        goes_back = (number // lengths[at]) % 2 == 1 if turns else np.zeros(n, np.bool_)
        index = number % lengths[at]
        columns.append(values[np.where(goes_back, lengths[at] - 1 - index, index)])
        back.append(goes_back)
    return columns, back


def _columns(start: Mapping[str, Any], pattern: Any, n_motors: int) -> list[np.ndarray]:
    """Return the positions of each motor."""
    if pattern is None:
        ways = list(zip(start["extents"], start["shape"], strict=True))
        _wanted("axes in shape", len(ways), n_motors)
        snaked = [turns is True for turns in start.get("snaking", [False] * n_motors)]
        return grid([_line(first, last, n) for (first, last), n in ways], snaked)[0]
    arguments = _mapping(start.get("plan_pattern_args"))
    if pattern in ("linspace", "logspace"):
        _wanted("motors", n_motors, 1)
        line = _line(arguments["start"], arguments["stop"], arguments["num"])
        with np.errstate(over="ignore"):
            return [_checked(10.0**line) if pattern == "logspace" else line]
    args = list(arguments["args"]) if "args" in arguments else []
    if pattern == "inner_product":
        _wanted("arguments", len(args), 3 * n_motors)
        return [_line(args[at + 1], args[at + 2], arguments["num"]) for at in range(0, len(args), 3)]
    if pattern == "inner_list_product":
        _wanted("arguments", len(args), 2 * n_motors)
        lists = [_checked(each) for each in args[1::2]]
        if len({len(each) for each in lists}) > 1:
            raise DocumentError(f"lists of {[len(each) for each in lists]} positions; wanted as many in each")
        return lists
    if pattern == "outer_product":
        return _outer_product(args, n_motors)
    if pattern == "outer_list_product":
        _wanted("arguments", len(args), 2 * n_motors)
        turns = _snake_axes(str(arguments["snake_axes"]), [str(each) for each in args[0::2]])
        return grid([_checked(each) for each in args[1::2]], turns)[0]
    raise DocumentError(f"plan_pattern {pattern!r:.60} is not known")


def _outer_product(args: list[Any], n_motors: int) -> list[np.ndarray]:
    snaked = [False] * n_motors
    if len(args) == 4 + 5 * (n_motors - 1):
        # Each motor but the first says whether it is snaked.
        snaked = [False, *(turns is True for turns in args[8::5])]
        args = [each for at, each in enumerate(args) if at < 4 or (at - 4) % 5 != 4]
    _wanted("arguments", len(args), 4 * n_motors)
    ways = zip(args[1::4], args[2::4], args[3::4], strict=True)
    return grid([_line(start, stop, n) for start, stop, n in ways], snaked)[0]


def _snake_axes(said: str, motors: list[str]) -> list[bool]:
    """Return which motors are snaked, from the representation of the argument and of each motor."""
    if said in ("False", "None", "[]", "()"):
        return [False] * len(motors)
    if said == "True":
        return [at > 0 for at in range(len(motors))]
    turns = [motor in said for motor in motors]
    if not any(turns):
        raise DocumentError(f"snake_axes {said!r:.60} names none of the motors")
    return turns


def _line(start: Any, stop: Any, n: Any) -> np.ndarray:
    """Return equally spaced positions, both ends included."""
    count = int(n)
    if not 0 < count <= MOST_FRAMES or count != n:
        raise DocumentError(f"{n!r:.40} positions; wanted a whole number, 1 to {MOST_FRAMES}")
    first, last = _checked((start, stop)).tolist()
    return _checked(np.linspace(first, last, count))


def _checked(values: Any) -> np.ndarray:
    if len(values) > MOST_FRAMES:
        raise DocumentError(f"{len(values)} positions; wanted {MOST_FRAMES} at most")
    positions = np.asarray(values, np.float64)
    if positions.ndim != 1 or not len(positions) or not np.isfinite(positions).all():
        raise DocumentError(f"positions {values!r:.60}; wanted a list of finite numbers")
    return positions


def _agrees(said: Any, n: int, what: str) -> None:
    if said is not None and (isinstance(said, bool) or said != n):
        raise DocumentError(f"the plan's arguments make {n} points, but {what} makes {said!r:.40}")


def _wanted(what: str, n: int, wanted: int) -> None:
    if n != wanted:
        raise DocumentError(f"{n} {what}; wanted {wanted}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _fields(dimension: Any) -> tuple[str, ...]:
    """Return the data keys of one dimension, which is (data keys, stream)."""
    keys = _sequence(dimension)[:1]
    return tuple(field for field in _sequence(keys[0] if keys else ()) if isinstance(field, str))

"""What is known of tables in archives: least and greatest value of each part of a column, so that parts are skipped.

Rows lie in the order of their frames: of a query for some frames, or for some degrees, one part or two need to be read.
HDF5 keeps no such numbers; they are learned when a part is read for the first time.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np

from .queries import RowQuery

MOST_KNOWN = 200_000
"""Parts of columns that are remembered: what was asked for last."""

_known: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
_lock = threading.Lock()


class PartLimits:
    """The limits of the columns of one table, as its file is now.

    Parameters
    ----------
    path
        The file.
    dataset
        Group of the table.
    """

    def __init__(self, path: Path, dataset: str) -> None:
        # What was learned of a file that was changed since, or swapped for another, is asked for no more.
        info = path.stat()
        self._table = (str(path), info.st_ino, info.st_size, info.st_mtime_ns, dataset)

    def learn(self, part: int, columns: Mapping[str, np.ndarray]) -> None:
        """Note the least and the greatest value of columns of a part; NaN is neither."""
        for name, values in columns.items():
            floating = values.dtype.kind == "f"
            known = values[~np.isnan(values)] if floating else values
            # As they are: a whole number of 64 bits is not always one of a float.
            ends = (known.min().item(), known.max().item()) if len(known) else (math.inf, -math.inf)
            with _lock:
                _known[*self._table, part, name] = ends
                if len(_known) > MOST_KNOWN:
                    _known.popitem(last=False)

    def may_fulfil(self, part: int, wanted: RowQuery) -> bool:
        """Tell whether rows of a part can be among those wanted; True where nothing is known."""
        for each in wanted.conditions:
            low, high = self._ends(part, each.column)
            if each.operator == "in":
                reached = any(low <= value <= high for value in each.values)
            else:
                reached = high >= each.values[0] if each.operator == "ge" else low <= each.values[0]
            if not reached:
                return False
        low, high = self._ends(part, wanted.key[0])
        if wanted.after is not None and high < wanted.after[0]:
            return False
        if wanted.pairs is None:
            return True
        firsts = [pair[0] for pair in wanted.pairs]
        return bool(firsts) and low <= max(firsts) and high >= min(firsts)

    def _ends(self, part: int, name: str) -> tuple[float, float]:
        with _lock:
            key = (*self._table, part, name)
            if key in _known:
                _known.move_to_end(key)
            return _known.get(key, (-math.inf, math.inf))

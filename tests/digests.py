"""Digests of what a server gives and of what an archive holds, without the pixels, which are not published."""

from typing import Any

import numpy as np

from hedmlive.callbacks import ReducedArchiveReader, RunResult
from hedmlive.streaming import TABLES, digest
from hedmlive.tiled_config import latest_reduction, read_table

_LIVE = {name: table for name, table in TABLES.items() if name != "pixels"}


def served_digest(client: Any, uid: str) -> str:
    """Digest of the newest reduction of a run."""
    reduction = latest_reduction(client, uid)

    def read(name: str) -> list[dict[str, np.ndarray]]:
        frame = read_table(reduction[name])
        return [{column.name: frame[column.name].to_numpy(column.dtype) for column in TABLES[name].columns}]

    return digest(_LIVE, read)


def archived_digest(result: RunResult) -> str:
    """Digest of the first reduction in the archive of a run."""
    assert result.reduced is not None
    with ReducedArchiveReader(result.reduced) as archive:
        tables = {name: table for name, table in archive.tables(0).items() if name in _LIVE}
        return digest(tables, lambda name: [archive.read(0, name)])

"""How the server writes tables for those who do not speak Arrow."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def json_lines(mimetype: str, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> bytes:
    """Return one JSON object a line.

    Tiled itself begins each line with the record separator of RFC 7464, which its own web interface cannot
    read: every table shows "No rows" there.
    """
    return str(frame.to_json(orient="records", lines=True)).encode()

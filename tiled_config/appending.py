"""How batches of several tables lie in one request: a msgpack map of names to Arrow files."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

APPEND_TYPE = "application/x-hedm-batches"
"""Media type of the request."""


def packed(tables: "Mapping[str, pa.Table]") -> bytes:
    """Return the body of a request."""
    import msgpack

    return msgpack.packb({name: _file(table) for name, table in tables.items()})


def unpacked(body: bytes) -> "dict[str, tuple[bytes, pa.Table]]":
    """Return of a request's body, for each table, the Arrow file and what it holds.

    Raises
    ------
    ValueError
        It is something else.
    """
    import msgpack
    import pyarrow as pa

    try:
        said: Any = msgpack.unpackb(body)
        found: dict[str, tuple[bytes, pa.Table]] = {}
        for name, content in said.items():
            with pa.ipc.open_file(content) as reader:
                found[str(name)] = content, reader.read_all()
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException, pa.ArrowException) as error:
        raise ValueError(f"no map of names to Arrow files: {' '.join(str(error).split())}") from None
    return found


def _file(table: "pa.Table") -> bytes:
    import pyarrow as pa

    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue().to_pybytes()

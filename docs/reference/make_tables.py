"""Print the page of tables, made from the one schema.

Usage: python docs/reference/make_tables.py > docs/reference/tables.md
"""

from hedmlive.streaming import TABLES

HEAD = """# Tables

Made from the schema in `streaming/tables.py` by `docs/reference/make_tables.py`. HDF5, Tiled and the digest
use the same columns. A settings file that names further scalar roles adds a column for each to `frames`.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for table in TABLES.values():
        lines = [
            f"## {table.name}",
            "",
            f"One row for each {table.row}; identified by {', '.join(f'`{name}`' for name in table.key)}.",
            "",
            "| column | type | unit | meaning |",
            "|---|---|---|---|",
        ]
        for column in table.columns:
            meaning = column.meaning + ("" if column.in_digest else " (not in the digest)")
            lines.append(f"| `{column.name}` | {column.dtype.lstrip('<|')} | {column.unit} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")

"""Write those pages of the reference that are made from the code: tables, settings, commands, archives.

Usage: python docs/reference/make_pages.py
"""

import ast
import dataclasses
import inspect
import json
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hedmlive.callbacks import Settings, add_result, load_settings, process, read_result
from hedmlive.callbacks.guard_settings import GuardSettings
from hedmlive.callbacks.results_layout import COLUMNS
from hedmlive.callbacks.settings import (
    ArchiveSettings,
    AxisSettings,
    DetectorSettings,
    HedmSettings,
    TiledSettings,
    TrajectorySettings,
    WorkerSettings,
)
from hedmlive.callbacks.watch_settings import FinishedSettings, LogSettings, ProfileSettings, WatchSettings
from hedmlive.cli.app import app
from hedmlive.streaming import PEAKS_FIT, TABLES, Column, Recipe
from hedmlive.tiled_config.facility import FacilitySettings, ProposalSettings
from hedmlive.tiled_config.settings import ServeSettings

HERE = Path(__file__).parent
MADE = "Made from the code by `docs/reference/make_pages.py`; a test keeps it true."


def _column(column: Column) -> str:
    meaning = column.meaning + ("" if column.in_digest else " (not in the digest)")
    return f"| `{column.name}` | {column.dtype.lstrip('<|')} | {column.unit} | {meaning} |"


def tables() -> str:
    """Return the page of tables."""
    parts = [
        f"# Tables\n\n{MADE} HDF5, Tiled and the digest use the same columns. A settings file that\n"
        "names further scalar roles adds a column for each to `frames`.\n"
    ]
    for table in TABLES.values():
        lines = [
            f"## {table.name}",
            "",
            f"One row for each {table.row}; identified by {', '.join(f'`{name}`' for name in table.key)}.",
            "",
            "| column | type | unit | meaning |",
            "|---|---|---|---|",
        ]
        lines += [_column(each) for each in table.columns]
        parts.append("\n".join(lines) + "\n")
        if table.name == "peaks":
            parts.append(
                "With `fit` in the recipe also:\n\n"
                + "\n".join(lines[4:6] + [_column(each) for each in PEAKS_FIT])
                + "\n"
            )
    return "\n".join(parts)


# Settings


def settings() -> str:
    """Return the page of settings."""
    models: tuple[tuple[str, type, str], ...] = (
        ("hedmlive.yml", Settings, "What a file, a mapping or the block `HEDM_LIVE` of an `iconfig.yml` may hold."),
        ("detectors:", DetectorSettings, "A list of these; each detector gets a reduction of its own."),
        ("recipe:", Recipe, "Every number that decides the reduction. It is written with every result."),
        ("trajectory:", TrajectorySettings, "Which frames are neighbours; without this block the run's plan says it."),
        ("trajectory: axes:", AxisSettings, "What is known of a motor, by its role."),
        ("archive:", ArchiveSettings, "Where the archives go."),
        ("hedm:", HedmSettings, "What a reconstruction needs beside the frames, for the raw archive."),
        ("guards:", GuardSettings, "What is watched for metadata that cannot be true."),
        ("watch:", WatchSettings, "Foreign files, for `hedmlive watch` and `hedmlive reduce`."),
        ("watch: profile:", ProfileSettings, "Where things lie in an HDF5 file."),
        ("watch: logs:", LogSettings, "Logs beside the frames."),
        ("watch: finished:", FinishedSettings, "When a file is complete."),
        ("worker:", WorkerSettings, "Bounds of what waits in memory; the defaults suit most."),
        ("tiled:", TiledSettings, "The server to publish to; without this block nothing is published."),
        ("serve.yml", ServeSettings, "Another file: what `hedmlive serve` reads."),
        ("serve.yml: facility:", FacilitySettings, "A server for many users, over PostgreSQL and Redis."),
        ("serve.yml: facility: proposal:", ProposalSettings, "Which access tag a run gets."),
    )
    parts = [f"# Settings\n\n{MADE} A key that is not listed here is refused by name.\n"]
    for title, model, about in models:
        rows = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in _keys(model)]
        head = "| key | default | meaning |\n|---|---|---|\n"
        parts.append(f"## `{title}`\n\n{about}\n\n{head}" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _keys(model: type) -> Iterator[tuple[str, str, str]]:
    """Give name, default and meaning of each field; the meaning is the string below it in the source."""
    (made,) = ast.parse(inspect.getsource(model)).body
    body = made.body if isinstance(made, ast.ClassDef) else []
    for line, after in pairwise(body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
            name = line.target.id
            meaning = " ".join(str(ast.literal_eval(after.value)).split()).replace("``", "`")
            yield name, _default(model, name), meaning.replace("|", "\\|")


def _default(model: type, name: str) -> str:
    if issubclass(model, BaseModel):
        value: Any = model.model_fields[name].default
    else:
        field = next(field for field in dataclasses.fields(model) if field.name == name)  # pyright: ignore[reportArgumentType]
        made = field.default_factory
        value = field.default if made is dataclasses.MISSING else made()
    if value is PydanticUndefined or value is dataclasses.MISSING:
        return "must be given"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "as below"
    return f"`{json.dumps(value)}`" if value not in ({}, (), []) else "empty"


# Commands


def commands() -> str:
    """Return the page of commands."""
    found: Any = typer.main.get_command(app)
    parts = [f"# Commands\n\n{MADE}\n\n{found.help}\n"]
    parts.append(_options(found.params))
    for name, command in found.commands.items():
        about = "\n".join(line.strip() for line in command.help.splitlines())
        parts.append(f"## hedmlive {name}\n\n{about}\n\n{_options(command.params)}")
        for below, each in getattr(command, "commands", {}).items():
            said = "\n".join(line.strip() for line in each.help.splitlines())
            parts.append(f"### hedmlive {name} {below}\n\n{said}\n\n{_options(each.params)}")
    parts.append(
        "## Exit codes\n\n0: done. 1: the data or the run failed. 2: usage, settings included. Errors are one line on\n"
        "standard error; `--debug` before the command shows where they came from.\n"
    )
    return "\n".join(part for part in parts if part)


def _options(params: list[Any]) -> str:
    rows: list[str] = []
    for each in params:
        said = " ".join((getattr(each, "help", "") or "").split()).replace("|", "\\|")
        name = ", ".join(each.opts) if each.param_type_name == "option" else each.name.upper()
        default = "must be given" if each.required else f"`{each.default}`" if each.default not in (None, False) else ""
        rows.append(f"| `{name}` | {default} | {said} |")
    return "| argument | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""


# Archives


def archives() -> str:
    """Return the page of the archives' layout, from the archives of a tiny run."""
    with tempfile.TemporaryDirectory() as folder:
        raw, reduced = _tiny_run(Path(folder))
        results = _tiny_result(reduced)
        lists = {path: "\n".join(_listing(path)) for path in (raw, reduced, results)}
    page = (HERE / "archives.md.in").read_text(encoding="utf-8")
    columns = ["| column | type | unit | meaning |", "|---|---|---|---|", *map(_column, COLUMNS)]
    parts = {"RAW": lists[raw], "REDUCED": lists[reduced], "RESULTS": lists[results], "SOLUTIONS": "\n".join(columns)}
    for name, text in {"MADE": MADE, **parts}.items():
        page = page.replace(f"@{name}@", text)
    return page


def _tiny_result(reduced: Path) -> Path:
    grains = reduced.with_name("grains.csv")
    grains.write_text("q_w,q_x,q_y,q_z,n_spots\n1,0,0,0,12\n0,1,0,0,15\n", encoding="utf-8")
    cell = np.array([4.08, 4.08, 4.08, 90.0, 90.0, 90.0])
    new = replace(read_result(grains), program="example", lattice_parameters=cell, space_group=225)
    return add_result(reduced, new)[0]


def _tiny_run(folder: Path) -> tuple[Path, Path]:
    from bluesky import RunEngine

    from hedmlive.devices import step_scan
    from hedmlive.simulators import simulated_station

    station = simulated_station(folder, detector="array", shape=(64, 64), n_grains=2)
    documents: list[tuple[str, Any]] = []
    engine = RunEngine({}, call_returns_result=False)
    engine(
        step_scan([station.detector], station.rotation, 0.0, 1.0, 3, baseline=station.baseline),
        lambda name, doc: documents.append((name, doc)),
    )
    said = load_settings(
        {
            "roles": dict(station.roles),
            "omega_marks": "start",
            "detectors": [{"name": "panel1", "image": station.image_key}],
            "recipe": {"threshold": 100.0},
            "archive": {"folder": str(folder)},
        }
    )
    result = process(documents, said, write_raw=True)
    if result.raw is None or result.reduced is None:
        raise RuntimeError(f"the tiny run failed: {result.problems}")
    return result.raw, result.reduced


def _listing(path: Path) -> Iterator[str]:
    """Give a line for each group, dataset and link, with the names of its attributes."""
    with h5py.File(path, "r") as file:
        yield _line("/", "Group", "", file)
        yield from _below(file, "")


def _below(group: h5py.Group, place: str) -> Iterator[str]:
    for name in sorted(group):
        here, link = f"{place}/{name}", group.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            yield f"{here:<39} -> {link.path}"
            continue
        item: Any = group[name]
        if isinstance(item, h5py.Group):
            yield _line(here, "Group", "", item)
            yield from _below(item, here)
        else:
            kind = "text" if item.dtype.kind == "O" else str(item.dtype)
            yield _line(here, kind, f"{item.ndim}-D" if item.ndim else "scalar", item)


def _line(place: str, kind: str, size: str, item: Any) -> str:
    units = f"[{item.attrs['units']}] " if "units" in item.attrs else ""
    rest = sorted(name for name in item.attrs if name not in ("units", "NX_class", "meaning", "row"))
    shown = units + (f"@{' @'.join(rest)}" if rest else "")
    start = f"{place:<39} {kind:<7} {size:<6} "
    return textwrap.fill(start + shown, 118, subsequent_indent=" " * len(start), break_on_hyphens=False).rstrip()


PAGES: dict[str, Callable[[], str]] = {
    "tables.md": tables,
    "settings.md": settings,
    "commands.md": commands,
    "archives.md": archives,
}


def made(name: str) -> str:
    """Return the text of a page."""
    return re.sub(r"\n{3,}", "\n\n", PAGES[name]())


if __name__ == "__main__":
    for file in PAGES:
        (HERE / file).write_text(made(file), encoding="utf-8")

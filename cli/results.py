"""The commands `hedmlive results ...`: what reconstructions made of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from ..callbacks import ResultsArchiveReader, add_result, load_settings, read_result
from ..callbacks.crystals import cell_of
from ..callbacks.results_layout import CELL, POSITION, QUATERNION, ranked
from ..streaming import ArchiveError, SettingsError
from .display import console

app = typer.Typer(help="Add, list and show results: grains, orientations, maps.", no_args_is_help=True)

_SHOWN = ("item", "rank", "label", *QUATERNION, *POSITION, "completeness", "figure_of_merit")
_FACTS = (
    "result_uid", "status", "digest", "created", "author", "program", "program_version", "method", "note",
    "raw_run_uid", "raw_archive", "reduced_archive", "reduction", "reduction_uid", "reduction_digest", "detector",
    "space_group", "axes",
)  # fmt: skip

Archive = Annotated[Path, typer.Argument(help="Results archive (*_results.h5).")]


@app.command()
def add(
    archive: Annotated[
        Path, typer.Argument(help="What it was made from: the run's *_reduced.h5, or *_raw.h5 for the frames.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Grains.csv or .mic of MIDAS, grains.out or .dat of hexrd, .map, .ubi or .h5 of ImageD11, .mic or .h5 "
            "of HEXOMAP, or a .csv with our columns. Of several, each holds the next best solutions of the same items."
        ),
    ],
    reduction: Annotated[
        int | None, typer.Option("--reduction", min=0, help="Number of the reduction, where there are several.")
    ] = None,
    program: Annotated[str | None, typer.Option("--program", help="Who made it, where the file does not tell.")] = None,
    program_version: Annotated[str, typer.Option("--program-version", help="Its version.")] = "",
    method: Annotated[str | None, typer.Option("--method", help="How it was made, in words.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="What it was made with; may come several times."),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option("--cell", metavar="A,B,C,ALPHA,BETA,GAMMA", help="Lattice, angstrom and degrees: .mic of MIDAS."),
    ] = None,
    space_group: Annotated[int | None, typer.Option("--space-group", min=1, max=230, help="Its number.")] = None,
    author: Annotated[str | None, typer.Option("--author", help="Who adds it; by default the user.")] = None,
    note: Annotated[str, typer.Option("--note", help="Whatever else is to be said.")] = "",
    tiled: Annotated[
        str | None, typer.Option("--tiled", help="Publish it to this Tiled server too; key: HEDMLIVE_TILED_KEY.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="hedmlive.yml: publish to the server of its block `tiled`."),
    ] = None,
) -> None:
    """Add a result to a run: OUT_results.h5 beside the archive gets a new attempt, the older ones stay as they are.

    Orientations, positions and strains are turned into the axes of our archives; the files themselves are kept too.
    What they do not say stays empty.
    """
    from dataclasses import replace

    uri = tiled if settings is None or tiled is not None else _server_of(settings)
    lattice = _cell(cell)
    found = ranked([read_result(file, lattice) for file in files])
    if program is None and not found.program:
        raise SettingsError(f"{files[0]}: does not say which program made it; give --program")
    new = replace(
        found,
        program=program or found.program,
        program_version=program_version,
        method=found.method if method is None else method,
        parameters=_parameters(parameter or ()),
        lattice_parameters=found.lattice_parameters if lattice is None else lattice,
        space_group=found.space_group if space_group is None else space_group,
        note=note,
    )
    path, attempt = add_result(archive, new, reduction=reduction, author=author)
    with ResultsArchiveReader(path) as reader:
        said = reader.attributes(attempt)
        console.print(f"{path}  result_{attempt:04d}: {_count(reader, attempt)}", markup=False)
        console.print(f"{said['digest']}  {_made_from(said)}", markup=False)
    if uri is not None:
        from .publish import run_publish

        run_publish([path], uri, raw=False)


@app.command(name="list")
def list_(archive: Archive) -> None:
    """List the results of a run: a line each."""
    with ResultsArchiveReader(archive) as reader:
        names = ("result", "program", "method", "solutions", "made from", "created", "by")
        rows: list[tuple[str, ...]] = []
        for attempt in reader.attempts:
            said = reader.attributes(attempt)
            program = f"{said['program']} {said['program_version']}".strip()
            cells = (program, str(said["method"]), _count(reader, attempt), _made_from(said))
            rows.append((str(attempt), *cells, str(said["created"]), str(said["author"])))
        console.print(f"run {reader.run_uid}", markup=False)
        _print_columns(names, rows)


@app.command()
def show(
    archive: Archive,
    attempt: Annotated[int | None, typer.Option("--attempt", min=0, help="Its number; by default the last.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Solutions that are shown.")] = 10,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Only those of this rank.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="File to write every solution to.")] = None,
) -> None:
    """Show a result: where it comes from, its parameters, and its solutions.

    Exit code 1 if its solutions are not those of which the digest was written.
    """
    with ResultsArchiveReader(archive) as reader:
        if not reader.attempts:
            raise ArchiveError(f"{archive}: holds no result")
        number = reader.attempts[-1] if attempt is None else attempt
        said, solutions = reader.attributes(number), reader.read(number)
        computed = reader.digest(number)
    facts = [(name, said[name]) for name in _FACTS if said.get(name) not in (None, "", -1)]
    facts += [(f"parameter {name}", json.dumps(value)) for name, value in said["parameters"].items()]
    facts += [("frames", f"{said['raw_archive']}:{frames}") for frames in said["frames"]]
    facts += [("file", f"{each['name']}, {each['bytes']} bytes, sha256 {each['sha256']}") for each in said["files"]]
    if "lattice_parameters" in said:
        facts.append(("lattice", " ".join(f"{value:.6g}" for value in said["lattice_parameters"])))
    for name, value in facts:
        console.print(f"{name:<18} {value}", markup=False)
    wanted = np.ones(len(solutions["item"]), np.bool_) if rank is None else solutions["rank"] == rank
    chosen = {name: values[wanted] for name, values in solutions.items()}
    _print_solutions(chosen, rows)
    if csv is not None:
        console.print(f"{_write_csv(csv, chosen)} solutions in {csv}", markup=False)
    if computed != said["digest"]:
        raise ArchiveError(f"{archive}: result {number} has digest {computed}: its solutions were changed since")


def _server_of(settings: Path) -> str:
    said = load_settings(settings).tiled
    if said is None:
        raise SettingsError(f"{settings}: has no block `tiled`; wanted it, or no --settings")
    return said.uri


def _count(reader: ResultsArchiveReader, attempt: int) -> str:
    rows = reader.read(attempt)
    n_items, n_rows = len(np.unique(rows["item"])), len(rows["item"])
    return f"{n_items} items" + (f", {n_rows} solutions" if n_rows != n_items else "")


def _made_from(said: dict[str, Any]) -> str:
    if said["reduction"] < 0:
        return str(said["raw_archive"]) or "not known"
    return f"{said['reduced_archive']} reduction_{said['reduction']:04d}"


def _print_solutions(rows: dict[str, np.ndarray], most: int) -> None:
    columns = [name for name in _SHOWN if name in ("item", "rank") or _is_known(rows[name])]
    columns += [name for name in CELL if _is_known(rows[name])]
    n_rows = len(rows["item"])
    if most:
        _print_columns(columns, [[_cell_of(rows[name][row]) for name in columns] for row in range(min(most, n_rows))])
    if most < n_rows:
        console.print(f"... {n_rows - most} more", style="dim")


def _cell_of(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)


def _print_columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # As wide as they are, whatever the terminal: a number that is cut is none.
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for line in (names, *rows):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.print("  ".join(cells).rstrip(), markup=False)


def _is_known(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any()) if values.dtype.kind == "f" else bool((values != -1).any())


def _write_csv(path: Path, rows: dict[str, np.ndarray]) -> int:
    # As read back: every digit, and a name for each column.
    table = zip(*map(_plain, rows.values()), strict=True)
    lines = [",".join(rows), *(",".join(map(str, row)) for row in table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - 1


def _plain(values: np.ndarray) -> list[Any]:
    return (values.astype(np.int64) if values.dtype.kind == "b" else values).tolist()


def _cell(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    found = cell_of(text.replace(",", " ").split())
    if found is None:
        raise SettingsError(f"--cell {text}: wanted a,b,c in angstrom and three angles in degrees that make a cell")
    return found


def _parameters(pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip():
            raise SettingsError(f"--parameter {pair}: wanted NAME=VALUE, as max_distance=1.5")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[name.strip()] = value
    return found

"""What people see: a bar while it runs, a table when it is done; plain lines where there is no terminal."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..callbacks import Neighbours, RunResult
from ..callbacks import Progress as RunProgress

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)

_SHOWN_PROBLEMS = 10
_STYLES = {"digest": "bold", "written": "cyan"}


@contextmanager
def show_run(n_frames: int | None) -> Generator[Callable[[RunProgress], None]]:
    """Show a bar of frames, with the peaks and tracks so far; quiet when standard error is no terminal."""
    with run_bars() as bars, run_bar(bars, "reducing", n_frames) as update:
        yield update


def run_bars(*, transient: bool = False) -> Progress:
    """Return what holds the bars of runs, of those that are `transient` as long as they go on."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames  {task.fields[peaks]} peaks  {task.fields[tracks]} tracks"),
        TimeElapsedColumn(),
    )
    return Progress(
        *columns,
        console=error_console,
        transient=transient,
        disable=not error_console.is_terminal,
        # What a file takes must not go to the terminal, which writes it above the bars.
        redirect_stdout=console.is_terminal,
    )


@contextmanager
def run_bar(bars: Progress, name: str, n_frames: int | None) -> Generator[Callable[[RunProgress], None]]:
    """Add the bar of one run, and print its warnings as they come."""
    task = bars.add_task(name, total=n_frames, peaks=0, tracks=0)
    told: set[tuple[str, str]] = set()

    def update(run: RunProgress) -> None:
        for problem in run.warnings:
            if (problem.kind, problem.message) not in told and error_console.is_terminal:
                told.add((problem.kind, problem.message))
                error_console.print(f"! {problem}", style="yellow", markup=False)
        bars.update(task, completed=run.n_frames, peaks=run.n_peaks, tracks=run.n_tracks)

    try:
        yield update
    finally:
        if bars.live.transient:
            bars.remove_task(task)


def show_result(result: RunResult) -> None:
    """Print what a run gave on standard output, and what went wrong on standard error."""
    show_problems(result)
    progress = result.progress
    left_out = f" ({progress.n_rejected} left out)" if progress.n_rejected else ""
    rows = [
        ("frames", f"{progress.n_frames}{left_out}"),
        ("peaks", str(progress.n_peaks)),
        ("tracks", str(progress.n_tracks)),
        *(("written", str(path)) for path in (result.raw, result.reduced) if path is not None),
        *([("missing", f"{', '.join(result.missing)} (hedmlive doctor)")] if result.missing else []),
        *(("digest", f"{digest}  reduction_{attempt:04d}") for attempt, digest in result.digests.items()),
    ]
    for name, value in rows:
        console.print(Text.assemble((f"{name:<8} ", "dim"), (value, _STYLES.get(name, ""))))


def show_digest(digest: str, where: str, state: str) -> None:
    """Print one line that begins with the digest, so that programs can take it."""
    style = {"ok": "green", "CHANGED": "bold red"}.get(state, "yellow")
    console.print(Text.assemble((digest, _STYLES["digest"]), f"  {where}  ", (state, style)))


def show_problems(result: RunResult) -> None:
    """Print the first problems on standard error, a line each."""
    for line in result.problems[:_SHOWN_PROBLEMS]:
        error_console.print(f"! {line}", style="yellow", markup=False)
    if len(result.problems) > _SHOWN_PROBLEMS:
        rest = len(result.problems) - _SHOWN_PROBLEMS
        error_console.print(f"! and {rest} more, in the archive's attribute `warnings`", style="yellow")


def show_neighbours(found: Neighbours) -> None:
    """Print the axes of a trajectory as a table."""
    table = Table("axis", "linked", box=None, pad_edge=False)
    for name in ("positions", "first", "last", "step", "lines", "rings", "pairs"):
        table.add_column(name, justify="right")
    for axis in found.overview():
        ends = ["-" if math.isnan(value) else f"{value:.6g}" for value in (axis.first, axis.last, axis.step)]
        counts = [str(count) for count in (axis.n_lines, axis.n_rings, axis.n_pairs)]
        linked = "yes" if axis.linked else "no"
        table.add_row(axis.name, linked, str(axis.n_positions or "-"), *ends, *counts)
    console.print(table)
    first, last = found.numbers[0], found.numbers[-1]
    console.print(f"frames {first} to {last}, positions from {found.source}", style="dim")

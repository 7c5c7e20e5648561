"""The command `watch`: files of frames that come to a folder become runs."""

import json
import signal
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from ..callbacks import FolderWatch, Outcome, Settings, load_settings, make_sink
from ..callbacks.following import Clock
from ..streaming import ReplayError, SettingsError
from .display import console, error_console, run_bar, run_bars, show_result


def run_watch(
    folder: Path, settings: Path, out: Path, *, once: bool, patterns: list[str] | None, tiled: str | None
) -> None:
    """Reduce the files of a folder until Ctrl-C, or with `once` until all that are there are done.

    Raises
    ------
    ReplayError
        With `once`: not every file could be reduced.
    """
    said = _settings(settings, out, patterns or [], tiled)
    sink = None if said.tiled is None else partial(make_sink, "tiled", said.tiled.uri, None)
    bars, ended = run_bars(transient=True), threading.Event()
    watch = FolderWatch(folder, said, sink=sink, show=partial(run_bar, bars), clock=Clock(sleep=ended.wait))
    n_failed = 0
    if not once:
        error_console.print(f"watching {folder} (Ctrl-C ends it)", style="dim", markup=False)

    def end(*_: Any) -> None:
        # Not by an exception: one that comes while HDF5 closes something is swallowed there. The second time somebody
        # does not want to wait for what is being done.
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    before = signal.signal(signal.SIGINT, end)
    try:
        with bars, closing(watch.run(once=once, stopped=ended.is_set)) as outcomes:
            for outcome in outcomes:
                n_failed += _show(outcome)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)
    if ended.is_set():
        error_console.print("ended; files that were not finished are begun again the next time", style="dim")
        return
    if n_failed:
        raise ReplayError(f"{folder}: {n_failed} files were not reduced; see above")


def _show(outcome: Outcome) -> bool:
    """Show what became of a file; tell whether nothing did."""
    if outcome.result is None:
        error_console.print(f"! {outcome.error}", style="yellow", markup=False)
        return True
    console.print(Text.assemble((f"{'file':<8} ", "dim"), (outcome.scan.first.name, "bold")))
    show_result(outcome.result)
    return not outcome.result.digests


def _settings(file: Path, out: Path, patterns: list[str], tiled: str | None) -> Settings:
    plain: dict[str, Any] = json.loads(load_settings(file).to_json())
    plain["archive"] |= {"folder": str(out)}
    plain["tiled"] = None if tiled is None else (plain.get("tiled") or {}) | {"uri": tiled}
    names = [detector["name"] for detector in plain["detectors"]]
    if patterns:
        if len(patterns) != len(names):
            raise SettingsError(f"--pattern came {len(patterns)} times; wanted one for each of {names}, in their order")
        plain["watch"] |= {"patterns": dict(zip(names, patterns, strict=True))}
    return load_settings(plain)

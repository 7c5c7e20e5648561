"""The command `doctor`: what a raw archive has, and what it lacks, for a reconstruction."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..callbacks.doctor import Finding, Reconstruction, examine, lacks
from ..streaming import SettingsError
from .display import console

_STYLES = {"ok": "green", "missing": "bold red", "doubtful": "yellow"}


_KINDS: Mapping[str, tuple[Reconstruction, ...]] = {
    "near-field": ("near-field",),
    "far-field": ("far-field",),
    "both": ("near-field", "far-field"),
}
_WIDE = 220


def run_doctor(archive: Path, kind: str) -> bool:
    """Print a table of what there is; tell whether nothing is missing for `near-field`, `far-field` or `both`.

    Raises
    ------
    SettingsError
        It is for something else.
    ArchiveError
        It is no raw archive that can be read.
    """
    if kind not in _KINDS:
        raise SettingsError(f"--for {kind}: wanted {', '.join(_KINDS)}")
    wanted, findings = _KINDS[kind], examine(archive)
    table = Table("item", "state", "value", "source", "time", "what to do", box=None, pad_edge=False)
    for each in findings:
        if not each.needed or set(each.needed) & set(wanted):
            table.add_row(*_row(each))
    # In a file or a pipe each item has a line of its own.
    Console(highlight=False, width=None if console.is_terminal else _WIDE).print(table)
    complete = True
    for reconstruction in wanted:
        missing = lacks(findings, reconstruction)
        complete = complete and not missing
        said = f"missing {', '.join(missing)}" if missing else "all there"
        style = _STYLES["missing" if missing else "ok"]
        console.print(Text.assemble((f"{reconstruction:<10} ", "dim"), (said, style)))
    return complete


def _row(each: Finding) -> tuple[Text, ...]:
    # To the second is enough to look at.
    time = each.time.split(".")[0] if each.time.endswith("Z") else each.time
    texts = (each.value, each.source, time, each.advice)
    return (Text(each.item), Text(each.state, _STYLES[each.state]), *map(Text, texts))

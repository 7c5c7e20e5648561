"""The commands `key` and `doctor --tiled`: keys of a facility's server, and what is wrong with a server's settings."""

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..streaming import SettingsError
from .display import console

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_LIFETIME = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>s|min|h|d)")
_STYLES = {"ok": "green", "doubtful": "yellow", "bad": "bold red"}
_WIDE = 220


def run_key(config: Path, name: str, role: str, lifetime: str, tags: Sequence[str], *, revoke: bool) -> None:
    """Print a new key on standard output, or revoke one.

    Raises
    ------
    SettingsError
        The settings are those of a server for one user, or an option is wrong.
    """
    from ..tiled_config import read_serve_settings
    from ..tiled_config.facility_access import make_key, prepare, revoke_key

    facility = read_serve_settings(config).facility
    if facility is None:
        raise SettingsError(f"{config}: has no facility: a server for one user has one key, in its key file")
    if revoke:
        asyncio.run(revoke_key(facility, name))
        console.print(f"{name[:8]}... opens nothing any more", markup=False)
        return
    seconds = _seconds(lifetime)
    prepare(facility)  # the server may never have run
    typer.echo(asyncio.run(make_key(facility, name, role, seconds=seconds, tags=tags)))


def _seconds(lifetime: str) -> float | None:
    if lifetime == "forever":
        return None
    found = _LIFETIME.fullmatch(lifetime)
    if found is None:
        raise SettingsError(f"--lifetime {lifetime}: wanted a number and s, min, h or d, as 90d; or forever")
    return float(found["number"]) * _UNITS[found["unit"]]


def run_preflight(target: str) -> bool:
    """Print a line for each thing that was looked at; tell whether nothing is bad.

    Parameters
    ----------
    target
        A settings file of the server, or the address of one that runs.
    """
    from ..tiled_config.preflight import check_server, check_settings

    remote = target.startswith(("http://", "https://"))
    found = check_server(target, os.environ.get("HEDMLIVE_TILED_KEY")) if remote else check_settings(target)
    table = Table("item", "state", "what came", "wanted", "what to do", box=None, pad_edge=False)
    for each in found:
        texts = (each.came, each.wanted, each.advice)
        table.add_row(Text(each.item), Text(each.state, _STYLES[each.state]), *map(Text, texts))
    Console(highlight=False, width=None if console.is_terminal else _WIDE).print(table)
    return not any(each.state == "bad" for each in found)

"""What commands that take in a source share: the options of a recipe, the settings, and the run itself."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..callbacks import Settings, Source, load_settings, make_sink, open_source, process
from ..callbacks.replay_tiled import SCHEMES
from ..streaming import ArchiveError, ReplayError, SettingsError
from .display import show_result, show_run

_SCHEMES = (*SCHEMES, "databroker")
_OF_THE_DETECTOR = ("threshold", "background_level", "saturation", "sentinels")


def run_replay(
    source: str, out: Path, recipe: dict[str, Any], settings: Path | None, tiled: str | None, key_file: Path | None
) -> None:
    """Reduce an archived run anew, without writing its raw archive again.

    Raises
    ------
    SettingsError
        The command line or the settings are wrong.
    ReplayError, ArchiveError
        The run cannot be read, or not written.
    """
    found = replace(open_run(source, api_key=read_key(key_file)), write_raw=False)
    reduce_run(found, settings_for(source, found, settings, out, recipe, tiled))


def read_key(file: Path | None) -> str | None:
    """Return the key of a Tiled server that lies in a file; None if no file is named.

    Raises
    ------
    SettingsError
        The file cannot be read, or is empty.
    """
    if file is None:
        return None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"--key-file {file}: cannot be read: {error}") from None
    if not key:
        raise SettingsError(f"--key-file {file}: is empty; wanted the key of the Tiled server")
    return key


def recipe_options(
    threshold: float | None,
    min_pixels: int | None,
    background_level: float | None,
    max_distance: float | None,
    pairs: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the numbers of a recipe that the command line gives.

    Raises
    ------
    SettingsError
        A pair is none.
    """
    given = {
        "threshold": threshold,
        "min_pixels": min_pixels,
        "background_level": background_level,
        "max_distance": max_distance,
    }
    numbers = {name: value for name, value in given.items() if value is not None}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        try:
            numbers[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            separator = ""
        if not separator:
            raise SettingsError(f"--set {pair}: wanted NAME=VALUE, as split=local-maximum")
    return numbers


def open_run(source: str, settings: Settings | None = None, *, api_key: str | None = None) -> Source:
    """Return the run that the command line names.

    Raises
    ------
    SettingsError, ReplayError, ArchiveError
        There is none.
    """
    scheme, separator, _ = source.partition("://")
    if separator and scheme not in _SCHEMES:
        raise SettingsError(f"{source}: {scheme}:// is unknown; wanted tiled:// or databroker://, or a file")
    try:
        return open_source(source, settings=settings, api_key=api_key)
    except ArchiveError:
        if source.endswith("_reduced.h5"):
            raw = source.replace("_reduced.h5", "_raw.h5")
            raise ReplayError(f"{source}: is a reduced archive; wanted the raw one, as {raw}") from None
        raise


def out_folder(out: Path) -> Path:
    """Return the folder that archives are written to.

    Raises
    ------
    SettingsError
        It is a file.
    """
    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out}: is a file; wanted a folder, which is made if missing")
    return out


def settings_for(
    source: str, found: Source, file: Path | None, out: Path, numbers: dict[str, Any], tiled: str | None
) -> Settings:
    """Return what the source brings, or the settings file instead, overruled by the options.

    Raises
    ------
    SettingsError
        Neither says what the data keys mean, or they are wrong.
    """
    if file is not None:
        plain = json.loads(load_settings(file).to_json())
    elif found.settings is not None:
        plain = dict(found.settings)
    else:
        raise SettingsError(f"{source}: does not say what its data keys mean; give --settings with their roles")
    recipe = plain.get("recipe", {})
    if "like" in numbers:
        # A recipe that was archived names every number; what stays is what belongs to the detector.
        recipe = {name: recipe[name] for name in _OF_THE_DETECTOR if name in recipe}
    return load_settings(
        plain
        | {
            "recipe": recipe | numbers,
            "archive": plain.get("archive", {}) | {"folder": str(out)},
            # Only what is asked for on the command line is published: the archived address may be the beamline's.
            "tiled": None if tiled is None else (plain.get("tiled") or {}) | {"uri": tiled},
        }
    )


def reduce_run(source: Source, settings: Settings) -> None:
    """Reduce a run, show how far it is, and what came of it.

    Raises
    ------
    ReplayError, ArchiveError
        It cannot be read, or not written.
    """
    sink = None if settings.tiled is None else partial(make_sink, "tiled", settings.tiled.uri, None)
    n_frames = None if source.n_frames is None else source.n_frames * len(settings.detectors)
    with show_run(n_frames) as watch:
        result = process(
            source.documents,
            settings,
            stem=source.stem,
            write_raw=source.write_raw,
            sink=sink,
            watch=watch,
            aside=source.aside,
        )
    show_result(result)
    if not result.digests:
        raise ArchiveError("no reduction was written; see the problems above")

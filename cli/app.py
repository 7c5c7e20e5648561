"""The commands: thin, each of them a few lines over the packages."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..callbacks import ReducedArchiveReader, Settings, Source, load_settings, make_sink, open_source, process
from ..streaming import ArchiveError, HedmLiveError, Recipe, ReplayError, SettingsError
from .display import error_console, show_result, show_run

app = typer.Typer(
    name="hedmlive",
    help="Live reduction of high-energy diffraction microscopy: peaks, links and tracks while the sample rotates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug = False

Out = Annotated[Path, typer.Option("--out", help="Folder of the archives that are written; made if missing.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="hedmlive.yml, for input that does not bring its own roles.")
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", min=0, help="A pixel is lit above background + this [counts].")
]
MinPixels = Annotated[int | None, typer.Option("--min-pixels", min=1, help="Smaller groups of pixels are dropped.")]
Level = Annotated[float | None, typer.Option("--background-level", help="Constant background [counts].")]
MaxDistance = Annotated[
    float | None, typer.Option("--max-distance", help="Centroids of linked peaks are no further apart [px].")
]
Tiled = Annotated[
    str | None,
    typer.Option("--tiled", help="Publish to this Tiled server too, as http://127.0.0.1:8000; key: HEDMLIVE_TILED_KEY."),
]


@app.callback()
def _root(debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False) -> None:
    global _debug  # noqa: PLW0603  (set once, before any command runs)
    _debug = debug


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to keep everything in; by default nothing is kept.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the Tiled server and its data, for your own queries.")] = False,
    frames: Annotated[int, typer.Option("--frames", min=3, max=1440, help="Frames of the scan.")] = 180,
    detector: Annotated[
        str, typer.Option("--detector", help="How frames come: array (in events), hdf5 (Resource) or stream.")
    ] = "stream",
) -> None:
    """Scan a simulated sample and watch it reduced live: the whole way in under a minute.

    Starts a Tiled server on this machine, turns simulated grains through a real RunEngine, finds, links and publishes
    while it scans, compares the tracks with the known truth, and replays the archive to the same digest.
    """
    from .demo import run_demo

    run_demo(out=out, keep=keep, n_frames=frames, detector=detector)


@app.command()
def serve(settings: Annotated[Path, typer.Argument(help="YAML file: folder, readable, host, port, keyfile.")]) -> None:
    """Serve raw, reduced and result data over Tiled, on loopback unless told otherwise, until Ctrl-C."""
    from ..tiled_config import serve as serve_tiled

    serve_tiled(settings, ready=lambda uri, _key: typer.echo(f"{uri}  (Ctrl-C ends it; the key is in the key file)"))


@app.command()
def reduce(
    source: Annotated[str, typer.Argument(help="HEXRD frame-cache (.npz), or documents (.jsonl, .json).")],
    out: Out,
    threshold: Threshold = None,
    min_pixels: MinPixels = None,
    background_level: Level = None,
    max_distance: MaxDistance = None,
    settings: SettingsFile = None,
    tiled: Tiled = None,
) -> None:
    """Reduce a foreign file: it becomes a run, whose documents go the same way as live ones.

    Writes OUT/<name>_raw.h5, which can be replayed alone, and OUT/<name>_reduced.h5. Without --settings peaks are not
    split and are linked wherever they share a pixel.
    """
    found = open_source(source)
    if found.n_frames is None and settings is None:
        raise SettingsError(f"{source}: documents need --settings with the roles of their data keys")
    if not found.write_raw:
        raise ReplayError(f"{source}: is archived already; use `hedmlive replay`")
    numbers = _numbers(threshold, min_pixels, background_level, max_distance)
    if settings is None and threshold is None:
        raise SettingsError("no threshold: give --threshold in counts, or --settings with a recipe")
    _process(found, _settings(found, settings, out, numbers, tiled), tiled)


@app.command()
def replay(
    source: Annotated[
        str, typer.Argument(help="Raw archive (.h5), tiled://HOST:PORT/UID or databroker://CATALOG/UID.")
    ],
    out: Out,
    threshold: Threshold = None,
    min_pixels: MinPixels = None,
    background_level: Level = None,
    max_distance: MaxDistance = None,
    settings: SettingsFile = None,
    tiled: Tiled = None,
) -> None:
    """Send an archived run through the same callbacks: the same recipe gives the same digest.

    A recipe changed by an option gives another reduction, written beside those that OUT/<name>_reduced.h5 holds.
    """
    found = replace(open_source(source), write_raw=False)
    numbers = _numbers(threshold, min_pixels, background_level, max_distance)
    _process(found, _settings(found, settings, out, numbers, tiled), tiled)


@app.command()
def digest(file: Annotated[Path, typer.Argument(help="Reduced archive (*_reduced.h5).")]) -> None:
    """Print the digest of each reduction in a file, computed from its tables: digest, file, reduction.

    Exit code 1 if one differs from what was written when the reduction was finished.
    """
    bad: list[str] = []
    with ReducedArchiveReader(file) as archive:
        for attempt in archive.attempts:
            computed, written = archive.digest(attempt), archive.attributes(attempt)["digest"]
            state = "ok" if computed == written else "not finished" if not written else "CHANGED"
            typer.echo(f"{computed}  {file}  reduction_{attempt:04d}  {state}")
            if state == "CHANGED":
                bad.append(f"reduction {attempt} was written with {written}")
    if bad:
        raise ArchiveError(f"{file}: {'; '.join(bad)}: its tables were changed since")


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Exit codes: 0 done, 1 the data or the run failed, 2 usage.
    """
    # Problems are shown by the commands themselves, with the result.
    logging.getLogger("hedmlive").addHandler(logging.NullHandler())
    try:
        app(args=arguments, standalone_mode=True)
    except HedmLiveError as error:
        if _debug:
            raise
        error_console.print(f"hedmlive: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def _numbers(
    threshold: float | None, min_pixels: int | None, background_level: float | None, max_distance: float | None
) -> dict[str, Any]:
    given = {
        "threshold": threshold,
        "min_pixels": min_pixels,
        "background_level": background_level,
        "max_distance": max_distance,
    }
    return {name: value for name, value in given.items() if value is not None}


def _settings(
    source: Source, file: Path | None, out: Path, numbers: dict[str, Any], tiled: str | None
) -> Settings:
    """Return what the source brings, overruled by the settings file, overruled by the options."""
    if file is not None:
        settings = load_settings(file)
        recipe = settings.recipe.as_dict()
    elif source.settings is not None:
        plain = {"recipe": {"threshold": 0.0}, "archive": {}} | dict(source.settings)
        recipe = plain["recipe"] | numbers
        settings = load_settings(plain | {"recipe": recipe, "archive": plain["archive"] | {"folder": str(out)}})
    else:
        raise SettingsError("the source brings no settings; give --settings with the roles of its data keys")
    update: dict[str, Any] = {
        "recipe": Recipe.from_dict(recipe | numbers),
        "archive": settings.archive.model_copy(update={"folder": out}),
        "tiled": None,
    }
    if tiled is not None:
        update["tiled"] = load_settings(
            {"recipe": recipe, "archive": {"folder": out}, "detectors": [{"name": "a", "image": "a"}], "tiled": {"uri": tiled}}
        ).tiled
    return settings.model_copy(update=update)


def _process(source: Source, settings: Settings, tiled: str | None) -> None:
    sink: Callable[[], Any] | None = None
    if tiled is not None:
        sink = partial(make_sink, "tiled", tiled, None)
    with show_run(source.n_frames) as watch:
        result = process(
            source.documents, settings, stem=source.stem, write_raw=source.write_raw, sink=sink, watch=watch
        )
    show_result(result)
    if not result.digests:
        raise ArchiveError("no reduction was written; see the problems above")

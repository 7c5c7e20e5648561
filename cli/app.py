"""The commands: thin, each of them a few lines over the packages."""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ..callbacks import ReducedArchiveReader, load_settings, neighbours_of
from ..streaming import ArchiveError, HedmLiveError, ReplayError, SettingsError
from .display import console, error_console, show_digest, show_neighbours
from .replay import open_run, out_folder, recipe_options, reduce_run, run_replay, settings_for
from .results import app as results_app
from .simulate import app as simulate_app

app = typer.Typer(
    name="hedmlive",
    help="Live reduction of high-energy diffraction microscopy: peaks, links and tracks while the sample rotates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(simulate_app, name="simulate")
app.add_typer(results_app, name="results")

Out = Annotated[Path, typer.Option("--out", help="Folder of the archives that are written; made if missing.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="hedmlive.yml, for input that does not bring its own roles.")
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", min=0, help="A pixel is lit above background + this, counts.")
]
MinPixels = Annotated[int | None, typer.Option("--min-pixels", min=1, help="Smaller groups of pixels are dropped.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any number of the recipe, as YAML; may come several times. `like=ff` begins with a named recipe.",
    ),
]
Level = Annotated[float | None, typer.Option("--background-level", help="Constant background, counts.")]
MaxDistance = Annotated[
    float | None, typer.Option("--max-distance", help="Centroids of linked peaks are no further apart, px.")
]
Tiled = Annotated[
    str | None,
    typer.Option(
        "--tiled", help="Publish to this Tiled server too, as http://127.0.0.1:8000; key: HEDMLIVE_TILED_KEY."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with the key of the Tiled server that is read; else HEDMLIVE_TILED_KEY."),
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hedmlive {version('hedmlive')}")
        raise typer.Exit


@app.callback()
def _root(
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    # Problems are shown by the commands themselves, with the result.
    logging.getLogger("hedmlive").addHandler(logging.NullHandler())


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to keep everything in; by default nothing is kept.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the Tiled server and its data, for your own queries.")
    ] = False,
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
def serve(
    settings: Annotated[
        Path | None, typer.Argument(help="YAML file: folder, readable, archives, host, port, keyfile.")
    ] = None,
    archives: Annotated[
        list[Path] | None,
        typer.Option("--archives", help="Folder of archives to serve from their files; may come several times."),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = None,
) -> None:
    """Serve raw and reduced data over Tiled, on loopback unless told otherwise, until Ctrl-C.

    With --archives alone the catalogue is made for the time being: what it shows stays in the archives.
    """
    from .publish import run_serve

    run_serve(settings, archives or [], port)


@app.command()
def key(
    settings: Annotated[Path, typer.Argument(help="YAML file of `hedmlive serve`, with the key facility.")],
    name: Annotated[str, typer.Argument(help="A user, or service:NAME; with --revoke the key's first 8 characters.")],
    role: Annotated[
        str, typer.Option("--role", help="What the key is for: reader, subscriber, publisher or metrics.")
    ] = "reader",
    lifetime: Annotated[str, typer.Option("--lifetime", help="As 90d, 12h, 5min or 30s; or forever.")] = "90d",
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="Confine it to an access tag, as proposal_1001; may come several times."),
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Make a key worthless instead.")] = False,
) -> None:
    """Make a key for a user or a service of a facility's server, and print it: it is kept nowhere.

    It may do what its role allows, with the runs that the file of access tags gives its owner.
    """
    from .facility import run_key

    run_key(settings, name, role, lifetime, tag or (), revoke=revoke)


@app.command()
def publish(
    archives: Annotated[list[Path], typer.Argument(help="Archives (*_raw.h5, *_reduced.h5), or folders of them.")],
    uri: Annotated[
        str, typer.Option("--tiled", help="The Tiled server, as http://127.0.0.1:8000; key: HEDMLIVE_TILED_KEY.")
    ],
    raw: Annotated[bool, typer.Option("--raw/--no-raw", help="Send the run itself too.")] = True,
) -> None:
    """Send archives that were made while no server was there to a Tiled server.

    A second time adds nothing, and what was sent in part is completed. Each table is compared with its archive.
    """
    from .publish import run_publish

    run_publish(archives, uri, raw=raw)


@app.command()
def reduce(
    source: Annotated[
        str,
        typer.Argument(
            help="File of frames (HDF5, HEXRD's frame-cache, GE, TIFF, CBF, ...), or documents (.jsonl, .json)."
        ),
    ],
    out: Out,
    threshold: Threshold = None,
    min_pixels: MinPixels = None,
    background_level: Level = None,
    max_distance: MaxDistance = None,
    numbers: Set = None,
    settings: SettingsFile = None,
    tiled: Tiled = None,
) -> None:
    """Reduce a foreign file: it becomes a run, whose documents go the same way as live ones.

    Of a series of files any one will do. Writes OUT/<name>_raw.h5, which can be replayed, and OUT/<name>_reduced.h5.
    Without --settings frames and omega are looked for where formats prescribe them, peaks are not split, and are linked
    wherever they share a pixel; with it, the block `watch` says where things lie.
    """
    recipe = recipe_options(threshold, min_pixels, background_level, max_distance, numbers)
    if settings is None and "threshold" not in recipe:
        raise SettingsError("no threshold: give --threshold in counts, or --settings with a recipe")
    found = open_run(source, None if settings is None else load_settings(settings))
    if not found.write_raw:
        raise ReplayError(f"{source}: is archived already; use `hedmlive replay`")
    reduce_run(found, settings_for(source, found, settings, out_folder(out), recipe, tiled))


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that files of frames come to.")],
    settings: Annotated[Path, typer.Option("--settings", help="hedmlive.yml; its block `watch` says what is where.")],
    out: Out,
    once: Annotated[bool, typer.Option("--once", help="End when every file that is there is reduced.")] = False,
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", help="Names of the files, as scan*.h5; once for each detector of the settings."),
    ] = None,
    tiled: Tiled = None,
) -> None:
    """Reduce the files of a folder, those that are there and those that come, frame by frame while they grow.

    For beamlines whose plans tell no documents. Each file, or series of files, becomes a run with the same digest as
    `reduce` gives. Ended or killed, it goes on when it is started again: OUT tells what was done.
    """
    from .watch import run_watch

    run_watch(folder, settings, out_folder(out), once=once, patterns=pattern, tiled=tiled)


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
    numbers: Set = None,
    settings: SettingsFile = None,
    tiled: Tiled = None,
    key_file: KeyFile = None,
) -> None:
    """Send an archived run through the same callbacks: the same recipe gives the same digest.

    A recipe changed by an option gives another reduction, written beside those that OUT/<name>_reduced.h5 holds. From a
    Tiled server images come over HTTP, many in a request; ?frames=files behind the address reads the detector's own
    files, where these lie on this machine. tiled+https:// is for servers that speak TLS.
    """
    recipe = recipe_options(threshold, min_pixels, background_level, max_distance, numbers)
    run_replay(source, out_folder(out), recipe, settings, tiled, key_file)


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
            show_digest(computed, f"{file}  reduction_{attempt:04d}", state)
            if state == "CHANGED":
                bad.append(f"reduction {attempt} was written with {written}")
    if bad:
        raise ArchiveError(f"{file}: {'; '.join(bad)}: its tables were changed since")


@app.command()
def doctor(
    archive: Annotated[
        Path | None, typer.Argument(help="Raw archive (*_raw.h5): finished, growing, or of a killed process.")
    ] = None,
    wanted: Annotated[
        str, typer.Option("--for", help="What is to be reconstructed: near-field, far-field or both.")
    ] = "both",
    tiled: Annotated[
        str | None,
        typer.Option("--tiled", help="Look at a Tiled server instead: its settings file (.yml), or its address."),
    ] = None,
) -> None:
    """Show what a raw archive has and lacks for a reconstruction, and what looks wrong.

    Each value stands with its unit, its source and the time it was taken. Of a Tiled server each setting, and each
    service behind it, is shown that was seen to go wrong. Exit code 1 if something is missing or bad.
    """
    from .doctor import run_doctor
    from .facility import run_preflight

    if (archive is None) == (tiled is None):
        raise SettingsError("doctor: give an archive, or --tiled with a settings file or an address")
    if not (run_doctor(archive, wanted) if archive is not None else run_preflight(str(tiled))):
        raise typer.Exit(1)


@app.command()
def neighbours(
    source: Annotated[
        str, typer.Argument(help="Raw archive (.h5), documents, tiled:// or databroker://, or settings (.yml) alone.")
    ],
    settings: SettingsFile = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="File to write each pair of neighbours to.")] = None,
) -> None:
    """Show which frames are neighbours along which motor, before a scan or after it. No image is read.

    Settings alone tell it where their block `trajectory` gives positions. The file of --csv has a line for each pair:
    both frames, the axis, and the positions of both.
    """
    if Path(source).suffix in (".yml", ".yaml"):
        found = neighbours_of(load_settings(source))
    else:
        opened = open_run(source)
        found = neighbours_of(settings_for(source, opened, settings, Path(), {}, None), opened.documents)
    show_neighbours(found)
    if csv is not None:
        console.print(f"{found.write_csv(csv)} pairs in {csv}", markup=False)


@app.command()
def bench(
    shape: Annotated[
        tuple[int, int], typer.Option("--shape", metavar="ROWS COLUMNS", help="Size of a simulated frame, px.")
    ] = (2048, 2048),
    dtype: Annotated[
        str, typer.Option("--dtype", help="Type of its counts: uint8, uint16, uint32, int32 or float32.")
    ] = "uint16",
    spots: Annotated[int, typer.Option("--spots", min=0, help="Spots in it.")] = 500,
    frames: Annotated[int, typer.Option("--frames", min=3, help="Frames that are taken, all held in memory.")] = 20,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that share the search for peaks.")] = 2,
    file: Annotated[
        Path | None, typer.Option("--file", help="HDF5 file with real frames, instead of simulated ones.")
    ] = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Where the file holds them.")] = "/entry/data/data",
    threshold: Threshold = None,
) -> None:
    """Measure how many frames a second this machine reduces, and what each stage costs.

    Beside each stage stands how many times longer it takes than a pass that only compares a frame with a cut for each
    pixel, which is as fast as memory allows. Frames of --file are reduced with their own median as the background.
    """
    from .bench import open_scene, run_bench, simulate

    if file is None and threshold is not None:
        raise SettingsError("--threshold is for real frames; give --file too")
    with ExitStack() as stack:
        scene = (
            simulate(shape, dtype, spots, frames)
            if file is None
            else open_scene(stack, file, dataset, frames, threshold)
        )
        run_bench(scene, threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Exit codes: 0 done, 1 the data or the run failed, 2 usage.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        # Taken out here, so that it may stand anywhere: people add it at the end of the line that failed.
        app(args=[each for each in given if each != "--debug"], prog_name="hedmlive")
    except Exception as error:
        if "--debug" in given:
            raise
        error_console.print(f"hedmlive: {_one_line(error)}", style="red", markup=False)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def _one_line(error: Exception) -> str:
    if isinstance(error, HedmLiveError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)"

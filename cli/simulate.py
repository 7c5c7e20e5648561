"""The command `hedmlive simulate`: what stands in for a beamline."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from ..streaming import SettingsError

app = typer.Typer(help="Simulate a beamline.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    # Without it, typer would take the only command for the whole.
    pass


@app.command()
def ioc(
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="station.yml whose PVs to serve; without it a station is made up."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--folder", help="Where the detectors of the made-up station write, and its station.yml.")
    ] = Path("hedmlive-ioc"),
    prefix: Annotated[str, typer.Option("--prefix", help="Of the made-up station's PVs, and of the faults'.")] = "SIM:",
    kind: Annotated[str, typer.Option("--detector", help="Kind of the made-up station's detectors.")] = "simulated",
    panels: Annotated[int, typer.Option("--panels", min=1, max=8, help="How many detectors it has.")] = 1,
    shape: Annotated[
        tuple[int, int], typer.Option("--shape", metavar="ROWS COLUMNS", help="Size of the frames, px.")
    ] = (512, 512),
    grains: Annotated[int, typer.Option("--grains", min=1, help="Grains of the sample.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of grains and noise.")] = 0,
    frames_per_second: Annotated[
        float, typer.Option("--frames-per-second", min=0.001, help="No detector takes more.")
    ] = 30.0,
    velocity: Annotated[float, typer.Option("--velocity", min=0.001, help="Of motors, units a second.")] = 90.0,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of Channel Access.")] = 5064,
    interface: Annotated[str, typer.Option("--interface", help="Address to listen on.")] = "127.0.0.1",
    drop_frame: Annotated[int, typer.Option("--drop-frame", min=-1, help="Frame of each file to lose; -1: none.")] = -1,
    stuck: Annotated[str, typer.Option("--stuck", help="PV of a motor that does not move.")] = "",
    stale: Annotated[str, typer.Option("--stale", help="PV whose value and time stamp stand still.")] = "",
    file_late: Annotated[float, typer.Option("--file-late", min=0, help="Seconds that frames come late.")] = 0.0,
) -> None:
    """Serve the PVs of a whole station over Channel Access, with simulated grains in the beam, until Ctrl-C.

    Motors move in time, the fly controller fires pulses, and the detectors write simulated frames. Faults are PVs too:
    PREFIXfault:drop_frame, stuck, stale, file_late, disconnect.
    """
    try:
        from ..simulators.ioc import FaultSettings, IocSettings, simulated_station_settings
        from ..simulators.ioc.server import serve_ioc
    except ModuleNotFoundError as error:
        raise SettingsError(f"{error.name} is not installed: pip install 'hedmlive[ioc]'") from None
    from ..devices import load_station

    if settings is None:
        folder.mkdir(parents=True, exist_ok=True)
        station = simulated_station_settings(folder, prefix, kind=kind, n_detectors=panels)
        written = folder / "station.yml"
        written.write_text(yaml.safe_dump(station.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
    else:
        station, written = load_station(settings), settings
    made = IocSettings(
        station=station,
        prefix=prefix,
        shape=shape,
        n_grains=grains,
        seed=seed,
        frames_per_second=frames_per_second,
        velocity=velocity,
        faults=FaultSettings(drop_frame=drop_frame, stuck=stuck, stale=stale, file_late=file_late),
    )

    def ready() -> None:
        typer.echo(f"serving {written} on {interface}:{port}  (Ctrl-C ends it); in the other shell:")
        typer.echo(f"export EPICS_CA_ADDR_LIST={interface} EPICS_CA_AUTO_ADDR_LIST=NO EPICS_CA_SERVER_PORT={port}")

    serve_ioc(made, port=port, interface=interface, ready=ready)

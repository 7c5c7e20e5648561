"""A soft IOC in a process of its own, and the environment by which this one finds it."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ophyd
from ophyd.signal import EpicsSignal, EpicsSignalBase

from ...devices import StationSettings
from ...streaming.errors import SettingsError
from .settings import IocSettings, simulated_station_settings

READY = "ready"
NONE = "none"
"What a fault that names a PV is ended with: Channel Access has no empty text to write."
_HOST = "127.0.0.1"
_PATIENCE = 20.0
_NAMES = ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST", "EPICS_CA_SERVER_PORT", "EPICS_CA_REPEATER_PORT")
_environment: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningIoc:
    """An IOC that answers."""

    settings: IocSettings
    "what it was started with"
    environment: Mapping[str, str]
    "EPICS_CA_* of a client; they are set in this process"
    pid: int
    "of its process"

    @property
    def station(self) -> StationSettings:
        """The settings of its station, for `make_station`."""
        return self.settings.station

    def fault(self, name: str, value: Any, *, timeout: float = 5.0) -> None:
        """Make a fault, or end it: `drop_frame`, `stuck`, `stale`, `file_late` or `disconnect`."""
        pv = f"{self.settings.prefix}fault:{name}"
        signal = EpicsSignal(pv, name="fault", string=isinstance(value, str))
        try:
            signal.wait_for_connection(timeout=timeout)
            if name == "disconnect":  # nobody is left to say that it took the value
                signal.put(value, wait=False)
            else:
                signal.set(NONE if value == "" else value).wait(timeout)
        except TimeoutError:
            raise SettingsError(f"fault {name!r}: no PV {pv} answers after {timeout:g} s") from None
        finally:
            signal.destroy()


def ca_environment(port: int | None = None) -> dict[str, str]:
    """Return the EPICS_CA_* variables by which clients search this machine only, and set them in this process.

    A client library reads them once, so a process keeps the port of the first call; each IOC started later takes it.

    Parameters
    ----------
    port
        Of Channel Access; a free one without it.

    Raises
    ------
    SettingsError
        Another port was taken before; or ophyd uses pyepics, which reads the variables when it is imported, and they
        do not say loopback.
    """
    if not _environment and ophyd.get_cl().name == "pyepics":
        _environment.update(_of_pyepics())
    if not _environment:
        chosen = port or _free_port()
        _environment.update(
            EPICS_CA_ADDR_LIST=_HOST,
            EPICS_CA_AUTO_ADDR_LIST="NO",
            EPICS_CA_SERVER_PORT=str(chosen),
            EPICS_CA_REPEATER_PORT=str(_free_port()),
        )
    if port is not None and str(port) != _environment["EPICS_CA_SERVER_PORT"]:
        raise SettingsError(
            f"port {port}: Channel Access of this process searches port {_environment['EPICS_CA_SERVER_PORT']} already"
        )
    os.environ.update(_environment)
    # ophyd gives up after a second, which a busy machine needs for the hundreds of PVs of a station.
    with suppress(RuntimeError):  # signals exist already: they keep their own
        EpicsSignalBase.set_defaults(timeout=_PATIENCE, connection_timeout=_PATIENCE)
    return dict(_environment)


@contextmanager
def run_ioc(
    station: StationSettings | None = None,
    *,
    folder: str | Path,
    port: int | None = None,
    timeout: float = 60.0,
    **settings: Any,
) -> Generator[RunningIoc]:
    """Start a soft IOC in its own process, wait until it answers, and end it on leaving.

    Parameters
    ----------
    station
        Whose PVs it serves; `simulated_station_settings` without it.
    folder
        Where that simulated station's detectors write.
    port
        Of Channel Access; a free one without it.
    timeout
        How long it may take to start [s].
    settings
        More of `IocSettings`, as `shape=(64, 64)`.

    Raises
    ------
    SettingsError
        It ended, or did not answer in time; with its last words.
    """
    environment = ca_environment(port)
    prefix = str(settings.get("prefix", "SIM:"))
    made = IocSettings(station=station or simulated_station_settings(folder, prefix), **settings)
    with tempfile.TemporaryDirectory(prefix="hedmlive_ioc_") as temporary:
        config, words = Path(temporary) / "ioc.json", Path(temporary) / "stderr.txt"
        config.write_text(made.model_dump_json(), encoding="utf-8")
        with words.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "hedmlive.simulators.ioc", str(config)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | environment,
            )
            try:
                _wait_until_ready(process, words, timeout)
                yield RunningIoc(settings=made, environment=environment, pid=process.pid)
            finally:
                _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], words: Path, timeout: float) -> None:
    # Ending the process ends the reading, so that no thread is needed to give up.
    out: Any = process.stdout
    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        line = out.readline()
    finally:
        timer.cancel()
        timer.join()
    if line.decode().strip() != READY:
        process.wait()
        said = words.read_text(errors="replace").strip().splitlines()
        raise SettingsError(
            f"the soft IOC did not answer within {timeout:g} s and ended with code {process.returncode}:"
            f" {said[-1] if said else 'no word'}"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _of_pyepics() -> dict[str, str]:
    found = {name: os.environ.get(name, "") for name in _NAMES}
    if found["EPICS_CA_ADDR_LIST"] != _HOST or not found["EPICS_CA_SERVER_PORT"]:
        raise SettingsError(
            f"pyepics has read EPICS_CA_ADDR_LIST={found['EPICS_CA_ADDR_LIST']!r} already: before Python starts, set"
            f" EPICS_CA_ADDR_LIST={_HOST} EPICS_CA_AUTO_ADDR_LIST=NO EPICS_CA_SERVER_PORT=<port>, or"
            " OPHYD_CONTROL_LAYER=caproto"
        )
    return found | {"EPICS_CA_REPEATER_PORT": found["EPICS_CA_REPEATER_PORT"] or "5065"}


def _free_port() -> int:
    # Both kinds: searches go by UDP, values by TCP.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.bind((_HOST, 0))
        port = int(datagram.getsockname()[1])
        with socket.socket() as stream:
            stream.bind((_HOST, port))
            return port

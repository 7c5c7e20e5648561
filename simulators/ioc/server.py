"""Serves the PVs of a simulated beamline, on loopback unless told otherwise."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from caproto.asyncio.server import Context

from .beamline import Beamline
from .settings import IocSettings

LOOPBACK = "127.0.0.1"
_REPEATER_PORT = 5065


def serve_ioc(
    settings: IocSettings, *, port: int, interface: str = LOOPBACK, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve until the process is told to end (SIGTERM, SIGINT).

    Parameters
    ----------
    settings
        What to simulate.
    port
        Of Channel Access, where clients search.
    interface
        Address to listen on.
    ready
        Called once it answers.
    """
    # caproto takes the port and the addresses of its beacons from nowhere else.
    os.environ.update(
        EPICS_CA_SERVER_PORT=str(port),
        EPICS_CAS_SERVER_PORT=str(port),
        EPICS_CAS_AUTO_BEACON_ADDR_LIST="no",
        EPICS_CAS_BEACON_ADDR_LIST=interface,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as repeater:
        # Clients that find its port taken do not look for EPICS base's caRepeater, which wheels do not bring.
        with suppress(OSError):
            repeater.bind((interface, int(os.environ.get("EPICS_CA_REPEATER_PORT", _REPEATER_PORT))))
        asyncio.run(_serve(Beamline(settings), interface, ready))


async def _serve(beamline: Beamline, interface: str, ready: Callable[[], None]) -> None:
    context = Context(beamline.pvs, [interface])
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)

    async def disconnect(seconds: float) -> None:
        # A task of its own: the circuit of the client that asks for it is closed too.
        off = loop.create_task(_off_the_net(context, seconds))
        await asyncio.wait([off])

    beamline.switch.disconnect = disconnect

    async def started(layer: Any) -> None:
        ready()
        await beamline.run(layer)

    server = loop.create_task(context.run(startup_hook=started))
    waiting = loop.create_task(ended.wait())
    await asyncio.wait([server, waiting], return_when=asyncio.FIRST_COMPLETED)
    await beamline.close()
    waiting.cancel()
    if server.done():
        server.result()
    server.cancel()
    with suppress(asyncio.CancelledError):
        await server


async def _off_the_net(context: Any, seconds: float) -> None:
    """Close every circuit, and answer no search for a while."""
    names = dict(context.pvdb)
    context.pvdb.clear()
    try:
        for circuit in list(context.circuits):
            circuit.client.close()
        await asyncio.sleep(seconds)
    finally:
        context.pvdb.update(names)

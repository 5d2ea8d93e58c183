"""The service: tunnels, what publishes them, and when both end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Final

from quicether import __version__
from quicether.bus.api import ACCEPTED_SIGNATURES
from quicether.bus.connection import BusConnection
from quicether.bus.service import BusService
from quicether.daemon import systemd
from quicether.daemon.controller import Tunnels
from quicether.daemon.links import Links
from quicether.errors import QuicEtherError
from quicether.journal import start_logging

log = logging.getLogger(__name__)

LEVEL_VARIABLE: Final = "QUICETHERD_LOG_LEVEL"


async def run() -> None:
    """Serve until a signal says stop. Raises HostError: there is no bus, or it went away."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bus = BusConnection(ACCEPTED_SIGNATURES)
    tunnels = Tunnels(Links(bus))
    service = BusService(tunnels, __version__, connection=bus)
    watchdog = loop.create_task(systemd.watchdog())
    stopping = loop.create_task(stop.wait())
    cleaning: asyncio.Task[None] | None = None
    try:
        await service.open()
        cleaning = loop.create_task(tunnels.clean())
        systemd.notify("READY=1")
        closed = loop.create_task(service.wait_closed())
        await asyncio.wait({stopping, closed}, return_when=asyncio.FIRST_COMPLETED)
        if closed.done():
            closed.result()
        else:
            closed.cancel()
    finally:
        systemd.notify("STOPPING=1")
        watchdog.cancel()
        stopping.cancel()
        if cleaning is not None:
            cleaning.cancel()
        await tunnels.close()
        await service.close()


def main() -> int:
    """Run the service; return the exit status: 0 stopped, 1 failed."""
    level = os.environ.get(LEVEL_VARIABLE, "info").upper()
    if level not in logging.getLevelNamesMapping():
        print(f"{LEVEL_VARIABLE}: {level} is no level; write debug, info, warning or error")
        return 1
    start_logging("quicetherd", logging.getLevelNamesMapping()[level])
    # What libraries say of their own inner life is not for an operator.
    for chatty, least in (("quic", "ERROR"), ("pyroute2", "WARNING"), ("asyncio", "WARNING")):
        logging.getLogger(chatty).setLevel(least)
    try:
        asyncio.run(run())
    except QuicEtherError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence says it all
        return 1
    return 0

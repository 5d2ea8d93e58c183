"""`quicetherd`: the service process that systemd starts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Final

from quicether import __version__
from quicether.bus.service import BusService
from quicether.daemon import systemd
from quicether.daemon.controller import Tunnels
from quicether.errors import QuicEtherError

log = logging.getLogger(__name__)

LEVEL_VARIABLE: Final = "QUICETHERD_LOG_LEVEL"


async def run() -> None:
    """Serve until a signal says stop. Raises HostError: there is no bus, or it went away."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tunnels = Tunnels()
    service = BusService(tunnels, __version__)
    watchdog = loop.create_task(systemd.watchdog())
    stopping = loop.create_task(stop.wait())
    try:
        await service.open()
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
        await tunnels.close()
        await service.close()


def main() -> int:
    """Run the service; return the exit status: 0 stopped, 1 failed."""
    logging.basicConfig(
        level=os.environ.get(LEVEL_VARIABLE, "INFO").upper(),
        handlers=[systemd.log_handler()],
    )
    # What libraries say of their own inner life is not for an operator.
    for chatty in ("quic", "pyroute2", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(run())
    except QuicEtherError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence says it all
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

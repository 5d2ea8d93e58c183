"""What systemd is told: readiness and signs of life.

sd_notify(3) is a datagram to a socket, so no library is needed for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket


def notify(state: str) -> None:
    """Tell systemd a state (`READY=1`); nothing happens where nobody asked (NOTIFY_SOCKET)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError as error:
            logging.getLogger(__name__).warning("systemd cannot be told %s: %s", state, error)


async def watchdog() -> None:
    """Tell systemd that the event loop turns, twice within WATCHDOG_USEC. Ends when cancelled."""
    period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    while period:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 2)

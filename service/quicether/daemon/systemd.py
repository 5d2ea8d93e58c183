"""What systemd is told: readiness, signs of life, and log lines with their priority.

sd_notify(3) is a datagram to a socket, and sd-daemon(3)'s log prefix is three characters, so no
library is needed for either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Final

_PRIORITY: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


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


class _Prefixed(logging.Formatter):
    """Puts sd-daemon(3)'s `<N>` before each line, so that the journal knows the priority."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 5)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines() or [""])


def log_handler() -> logging.Handler:
    """Return a handler that writes to stderr: for the journal under systemd, else for people."""
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Prefixed("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler

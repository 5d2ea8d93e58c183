"""rtnetlink's notifications: hearing them one by one, and waiting for what they bring about."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from quicether.errors import HostError

BUFFER: Final = 65536
NETWORK: Final = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV6_ROUTE
)
"""Links, addresses and routes."""
RULES: Final = rtnl.RTMGRP_IPV4_RULE | rtnl.RTMGRP_IPV6_RULE
READS: Final = 64
"""Reads in one turn of the loop: whoever floods us with events holds up nothing else."""


def listen(groups: int = NETWORK) -> socket.socket:
    """Return a non-blocking socket that hears the notifications of groups. Raises HostError."""
    listening = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        socket.NETLINK_ROUTE,
    )
    try:
        listening.bind((0, groups))
    except OSError as refusal:
        listening.close()
        raise HostError(f"the kernel's network events: {refusal.strerror}") from refusal
    return listening


class Listener:
    """Hands over each notification of the kernel, from open to close.

    groups: what of, as for `listen`. heard: given each message, as pyroute2 parses it. missed:
    called when the kernel dropped some because we were slow; anything may have changed then.
    """

    def __init__(
        self, groups: int, heard: Callable[[Any], None], missed: Callable[[], None]
    ) -> None:
        self._groups = groups
        self._heard = heard
        self._missed = missed
        self._marshal = MarshalRtnl()
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Begin to listen. Raises HostError."""
        listening = self._socket = listen(self._groups)
        asyncio.get_running_loop().add_reader(listening.fileno(), self._read, listening)

    def close(self) -> None:
        """Hear nothing more. Idempotent."""
        listening, self._socket = self._socket, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening.fileno())
            listening.close()

    def _read(self, listening: socket.socket) -> None:
        for _ in range(READS):
            try:
                data = listening.recv(BUFFER)
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno != errno.ENOBUFS:
                    raise
                self._missed()
                return
            for message in self._marshal.parse(data):
                self._heard(message)


async def until(condition: Callable[[], Awaitable[bool]], deadline: float) -> bool:
    """Ask condition now and after each event of the kernel, until it holds.

    deadline: seconds from now. Return whether it came to hold. Raises HostError.
    """
    loop = asyncio.get_running_loop()
    with listen() as listening:
        try:
            async with asyncio.timeout(deadline):
                while not await condition():
                    try:
                        await loop.sock_recv(listening, BUFFER)
                    except OSError as failure:
                        # Events were dropped because we were slow: then it is time to ask.
                        if failure.errno != errno.ENOBUFS:
                            raise
        except TimeoutError:
            return False
    return True

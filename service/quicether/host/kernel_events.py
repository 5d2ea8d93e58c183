"""rtnetlink's notifications: a socket that hears them, and waiting for what they bring about."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from pyroute2.netlink import rtnl

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


def listen(groups: int = NETWORK) -> socket.socket:
    """Return a non-blocking socket that hears of links, addresses and routes, or of other groups.

    Raises HostError.
    """
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

"""What becomes of the kernel's notifications: each is handed over, and a gap is told."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2.netlink.rtnl import RTM_NEWROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from quicether.host import kernel_events
from quicether.host.kernel_events import NETWORK, READS, Listener


class Kernel:
    """The other end of the socket: a packet here is a notification there.

    refusals: errors that the next reads meet.
    """

    def __init__(self) -> None:
        self.end, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.refusals: list[int] = []
        kernel = self

        class Read(socket.socket):
            def recv(self, *size: int) -> bytes:
                if kernel.refusals:
                    raise OSError(kernel.refusals.pop(), "refused")
                return super().recv(*size)

        self.listening = Read(fileno=far.detach())
        self.listening.setblocking(False)

    def notify(self, *tables: int) -> None:
        """Send one notification that tells of routes in these tables."""
        self.end.send(b"".join(new_route(table) for table in tables))


def new_route(table: int) -> bytes:
    message = rtmsg()
    message["header"]["type"] = RTM_NEWROUTE
    message["table"] = table
    message.encode()
    return bytes(message.data)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(kernel_events, "listen", lambda _groups: kernel.listening)
    with kernel.end, kernel.listening:
        yield kernel


class Ear:
    def __init__(self) -> None:
        self.tables: list[int] = []
        self.gaps = 0

    def heard(self, message: Any) -> None:
        self.tables.append(message["table"])

    def missed(self) -> None:
        self.gaps += 1


async def turn() -> None:
    """Let the loop read once whatever is readable, and call whom that concerns."""
    for _ in range(2):
        await asyncio.sleep(0)


def test_every_message_is_handed_over_in_order(kernel: Kernel) -> None:
    async def play() -> list[int]:
        ear = Ear()
        listener = Listener(NETWORK, ear.heard, ear.missed)
        listener.open()
        kernel.notify(1, 2)
        kernel.notify(3)
        await turn()
        listener.close()
        return ear.tables

    assert asyncio.run(play()) == [1, 2, 3]


def test_a_gap_is_told_and_listening_goes_on(kernel: Kernel) -> None:
    async def play() -> Ear:
        ear = Ear()
        listener = Listener(NETWORK, ear.heard, ear.missed)
        listener.open()
        kernel.refusals.append(errno.ENOBUFS)
        kernel.notify(1)
        await turn()
        await turn()
        listener.close()
        return ear

    ear = asyncio.run(play())
    assert ear.gaps == 1
    assert ear.tables == [1]


def test_a_flood_leaves_turns_to_others(kernel: Kernel) -> None:
    async def play() -> tuple[int, int]:
        ear = Ear()
        listener = Listener(NETWORK, ear.heard, ear.missed)
        listener.open()
        for table in range(READS + 1):
            kernel.notify(table)
        await turn()
        first = len(ear.tables)
        await turn()
        listener.close()
        return first, len(ear.tables)

    assert asyncio.run(play()) == (READS, READS + 1)


def test_nothing_is_heard_once_closed(kernel: Kernel) -> None:
    async def play() -> list[int]:
        ear = Ear()
        listener = Listener(NETWORK, ear.heard, ear.missed)
        listener.open()
        kernel.notify(1)
        listener.close()
        listener.close()
        await turn()
        return ear.tables

    assert asyncio.run(play()) == []

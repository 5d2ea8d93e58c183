"""A UDP relay inside the test's own event loop: a path that loses, reorders or swallows.

Clients send to `address`; each gets an upstream socket of its own, as behind a NAT.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from random import Random
from typing import Self

from quicether.model import UnderlayAddress

SocketName = tuple[str, int]


class UdpRelay:
    """Carries datagrams between clients and `server`. An async context manager.

    loss, reorder: shares from 0 to 1; what is reordered comes `delay` seconds late.
    max_size: largest UDP payload that passes; larger ones vanish. deaf: the server hears nothing.
    """

    def __init__(
        self,
        server: UnderlayAddress,
        *,
        loss: float = 0.0,
        reorder: float = 0.0,
        delay: float = 0.005,
        max_size: int = 65_535,
        seed: int = 1,
    ) -> None:
        self.server = server
        self.loss = loss
        self.reorder = reorder
        self.delay = delay
        self.max_size = max_size
        self.deaf = False
        self.swallowed = 0
        self.passed = 0
        self._random = Random(seed)
        self._upstream: dict[SocketName, socket.socket] = {}
        self._downstream = _bound_socket()

    @property
    def address(self) -> UnderlayAddress:
        host, port = self._downstream.getsockname()
        return UnderlayAddress(host, port)

    def rebind(self) -> None:
        """Give every client a new address towards the server, as a NAT that forgot them."""
        for upstream in self._upstream.values():
            self._close(upstream)
        self._upstream.clear()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._downstream, self._read, self._downstream, self._from_client)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.rebind()
        self._close(self._downstream)

    def _read(self, side: socket.socket, carry: Callable[[bytes, SocketName], None]) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            carry(*side.recvfrom(65_536))

    def _from_client(self, data: bytes, client: SocketName) -> None:
        upstream = self._upstream.get(client)
        if upstream is None:
            upstream = self._upstream[client] = _bound_socket()
            asyncio.get_running_loop().add_reader(
                upstream,
                self._read,
                upstream,
                lambda back, _: self._carry(self._downstream, back, client),
            )
        if not self.deaf:
            self._carry(upstream, data, (self.server.host, self.server.port))

    def _carry(self, side: socket.socket, data: bytes, to: SocketName) -> None:
        if len(data) > self.max_size or self._random.random() < self.loss:
            self.swallowed += 1
            return
        self.passed += 1
        if self._random.random() < self.reorder:
            asyncio.get_running_loop().call_later(self.delay, self._send, side, data, to)
        else:
            self._send(side, data, to)

    @staticmethod
    def _send(side: socket.socket, data: bytes, to: SocketName) -> None:
        if side.fileno() >= 0:
            side.sendto(data, to)

    @staticmethod
    def _close(side: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(side)
        side.close()


def _bound_socket() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setblocking(False)
    bound.bind(("127.0.0.1", 0))
    return bound

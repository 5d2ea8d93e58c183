"""A UDP relay inside the test's own event loop: a path that loses, reorders or swallows.

Clients send to `address`; each gets an upstream socket of its own, as behind a NAT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Self

from quicether.model import UnderlayAddress

Verdict = Callable[[bytes], bool]
SocketName = tuple[str, int]


class UdpRelay:
    """Carries datagrams between clients and `server`. An async context manager.

    loss, reorder: shares from 0 to 1; what is reordered comes `delay` seconds late.
    max_size: largest UDP payload that passes; larger ones vanish.
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
        self.swallowed = 0
        self.passed = 0
        self._random = Random(seed)
        self._upstream: dict[SocketName, asyncio.DatagramTransport] = {}
        self._downstream: asyncio.DatagramTransport

    @property
    def address(self) -> UnderlayAddress:
        name = self._downstream.get_extra_info("sockname")
        return UnderlayAddress(name[0], name[1])

    def rebind(self) -> None:
        """Give every client a new address towards the server, as a NAT that forgot them."""
        for transport in self._upstream.values():
            transport.close()
        self._upstream.clear()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._downstream, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_client), local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._downstream.close()
        self.rebind()
        await asyncio.sleep(0)

    def _from_client(self, data: bytes, client: SocketName) -> None:
        transport = self._upstream.get(client)
        if transport is None:
            asyncio.get_running_loop().create_task(self._open(data, client))
        else:
            self._carry(lambda: self._to_server(transport, data), data)

    async def _open(self, data: bytes, client: SocketName) -> None:
        loop = asyncio.get_running_loop()
        if client not in self._upstream:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Side(lambda back, _: self._to_client(back, client)),
                local_addr=("127.0.0.1", 0),
            )
            self._upstream[client] = transport
        self._from_client(data, client)

    def _to_server(self, transport: asyncio.DatagramTransport, data: bytes) -> None:
        if not transport.is_closing():
            transport.sendto(data, (self.server.host, self.server.port))

    def _to_client(self, data: bytes, client: SocketName) -> None:
        self._carry(lambda: self._downstream.sendto(data, client), data)

    def _carry(self, send: Callable[[], None], data: bytes) -> None:
        if len(data) > self.max_size or self._random.random() < self.loss:
            self.swallowed += 1
            return
        self.passed += 1
        if self._random.random() < self.reorder:
            asyncio.get_running_loop().call_later(self.delay, send)
        else:
            send()


class _Side(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, SocketName], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: SocketName) -> None:
        self._received(data, addr)

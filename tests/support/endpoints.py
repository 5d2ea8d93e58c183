"""Endpoints on loopback whose events are kept, so that a test can wait for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from quicether.counters import Counters
from quicether.errors import QuicEtherError
from quicether.identity.trust import Trust
from quicether.model import DropReason, UnderlayAddress
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.endpoint import ConnectFailed, Connection
from quicether.transport.messages import Hello, Message
from support.certificates import Identity

LOOPBACK = UnderlayAddress("127.0.0.1", 0)
DEADLINE = 15.0

T = TypeVar("T")


class RecordedEvents:
    """An EndpointEvents that keeps everything it is told.

    answer: what requests are answered with.
    """

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.gone: list[tuple[Connection, str]] = []
        self.failures: list[ConnectFailed] = []
        self.refusals: list[tuple[UnderlayAddress, QuicEtherError]] = []
        self.received: list[bytes] = []
        self.messages: list[Message] = []
        self.requests: list[bytes] = []
        self.paths: list[tuple[UnderlayAddress, int]] = []
        self.answer: Callable[[bytes], Awaitable[bytes]] | None = None
        self._changed = asyncio.Event()

    def connected(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._changed.set()

    def disconnected(self, connection: Connection, reason: str) -> None:
        self.gone.append((connection, reason))
        self._changed.set()

    def connect_failed(self, failure: ConnectFailed) -> None:
        self.failures.append(failure)
        self._changed.set()

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        self.refusals.append((remote, error))
        self._changed.set()

    def packets(self, connection: Connection, packets: list[bytes]) -> None:
        self.received += packets
        self._changed.set()

    def message(self, connection: Connection, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()

    async def request(self, connection: Connection, body: bytes) -> bytes:
        self.requests.append(body)
        self._changed.set()
        return await self.answer(body) if self.answer is not None else body[::-1]

    def path_changed(self, connection: Connection) -> None:
        self.paths.append((connection.remote, connection.max_packet))
        self._changed.set()

    async def until(self, wanted: Callable[[], T], patience: float = DEADLINE) -> T:
        """Return wanted() as soon as it is true after an event. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while not (value := wanted()):
                self._changed.clear()
                await self._changed.wait()
            return value


class RecordedEndpoint(AioquicEndpoint):
    """An endpoint of one member with `events` that are kept. An async context manager."""

    def __init__(
        self,
        identity: Identity,
        trust: Trust,
        bind: UnderlayAddress = LOOPBACK,
        *,
        hello: Callable[[], Hello] | None = None,
        **options: Any,
    ) -> None:
        self.identity = identity
        self.events = RecordedEvents()
        super().__init__(
            bind,
            certificate=identity.certificate,
            key=identity.key.private,
            trust=trust,
            counters=Counters(),
            hello=hello or (lambda: Hello(node_id=identity.node_id, name=identity.name)),
            **options,
        )

    async def drain(self) -> None:
        """Return once all that was sent to the endpoint until now has been taken in.

        The socket is a queue: what belongs to nobody and is sent now comes out last.
        """
        drops, address = self.counters.drops, self.local_address
        before = drops[DropReason.UNKNOWN_CONNECTION]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\x40" + bytes(40), (address.host, address.port))
        async with asyncio.timeout(DEADLINE):
            while drops[DropReason.UNKNOWN_CONNECTION] == before:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        self.open(self.events)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def join(a: RecordedEndpoint, b: RecordedEndpoint) -> tuple[Connection, Connection]:
    """Connect a to b and return the connection as each of them sees it."""
    ours, theirs = len(a.events.connections), b.events.connections

    def theirs_of_a() -> Connection | None:
        known = (each for each in theirs[::-1] if each.member.node_id == a.identity.node_id)
        return next(known, None)

    before = theirs_of_a()
    a.connect(b.local_address, expect=b.identity.node_id)
    await a.events.until(lambda: len(a.events.connections) > ours or a.events.failures)
    assert not a.events.failures, a.events.failures
    await b.events.until(lambda: theirs_of_a() is not before)
    found = theirs_of_a()
    assert found is not None
    return a.events.connections[-1], found

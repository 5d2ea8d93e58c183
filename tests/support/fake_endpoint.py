"""Fake endpoints that reach each other inside one process, for tests of the overlay.

No sockets, no TLS, no clock: a `FakeUnderlay` hands over what is sent at the next turn of the event
loop, in order. It can be cut between two addresses, and a fake peer is whatever `Member` the test
says. Messages pass through their wire form, so one that could not be sent fails here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cryptography import x509

from quicether.counters import Counters
from quicether.errors import ProtocolError, QuicEtherError, TrustError, UnreachableError
from quicether.model import DropReason, Member, NodeId, UnderlayAddress
from quicether.transport import messages
from quicether.transport.endpoint import (
    CloseCode,
    ConnectFailed,
    EndpointEvents,
    EnrolHandler,
    KeepAlive,
)
from quicether.transport.messages import Hello, Message

FAKE_MAX_PACKET = 1420
FAKE_RTT = 0.01


class FakeUnderlay:
    """What fake endpoints are reached through."""

    def __init__(self) -> None:
        self.endpoints: dict[UnderlayAddress, FakeEndpoint] = {}
        self._cut: set[frozenset[UnderlayAddress]] = set()

    def cut(self, a: UnderlayAddress, b: UnderlayAddress) -> None:
        """Lose everything between two addresses from now on; open connections break."""
        self._cut.add(frozenset((a, b)))
        for here, there in ((a, b), (b, a)):
            if here in self.endpoints:
                for connection in self.endpoints[here].connections[:]:
                    if connection.remote == there:
                        connection.end("no answer")

    def mend(self, a: UnderlayAddress, b: UnderlayAddress) -> None:
        """Carry again what goes between two addresses."""
        self._cut.discard(frozenset((a, b)))

    def carries(self, a: UnderlayAddress, b: UnderlayAddress) -> bool:
        """Tell whether a and b reach each other."""
        return b in self.endpoints and frozenset((a, b)) not in self._cut


class FakeConnection:
    """One end of a fake connection; `other` is its far end."""

    def __init__(
        self, endpoint: FakeEndpoint, peer: Member, remote: UnderlayAddress, *, initiated: bool
    ) -> None:
        self.endpoint = endpoint
        self.member = peer
        self.remote = remote
        self.initiated = initiated
        self.max_packet = FAKE_MAX_PACKET
        self.rtt: float | None = FAKE_RTT
        self.carried_at: float | None = None
        self.carried = (0, 0)
        self.unanswered = 0.0
        self.hello: Hello = Hello(node_id=peer.node_id, name=peer.name)
        self.other: FakeConnection
        self.closed = False
        self.kept_alive = KeepAlive.AWAKE
        self.sent: list[bytes] = []

    def keep_alive(self, how: KeepAlive) -> None:
        self.kept_alive = how

    def send_packets(self, packets: Sequence[bytes]) -> None:
        if self.closed:
            self.endpoint.counters.drop(DropReason.UNREACHABLE, len(packets))
            return
        fitting = [packet for packet in packets if len(packet) <= self.max_packet]
        if len(fitting) < len(packets):
            self.endpoint.counters.drop(DropReason.TOO_BIG, len(packets) - len(fitting))
        self.sent += fitting
        if fitting:
            self.carried_at = self.other.carried_at = asyncio.get_running_loop().time()
            size = sum(map(len, fitting))
            self.carried = (self.carried[0] + size, self.carried[1])
            self.other.carried = (self.other.carried[0], self.other.carried[1] + size)
            self._deliver(lambda far: far.endpoint.events.packets(far, fitting))

    def send_message(self, message: Message) -> None:
        if self.closed:
            raise UnreachableError("the connection is closed")
        (received,) = messages.MessageReader().feed(messages.encode(message))
        self._deliver(lambda far: far.endpoint.events.message(far, received))

    async def request(self, body: bytes, timeout: float) -> bytes:
        if self.closed:
            raise UnreachableError("the connection is closed")
        if len(body) > messages.MAX_RPC:
            raise ProtocolError("the request is too large")
        try:
            async with asyncio.timeout(timeout):
                return await self.other.endpoint.events.request(self.other, body)
        except TimeoutError:
            raise UnreachableError(f"no answer within {timeout:g} s") from None
        except QuicEtherError:
            raise UnreachableError("the peer refused the request") from None

    def close(self, code: CloseCode, reason: str) -> None:
        if not self.closed:
            self.end(reason)
            far = self.other
            asyncio.get_running_loop().call_soon(far.end, f"closed: {reason}")

    def end(self, reason: str) -> None:
        """Break this end alone."""
        if not self.closed:
            self.closed = True
            self.endpoint.connections.remove(self)
            self.endpoint.events.disconnected(self, reason)

    def change_path(self, remote: UnderlayAddress | None = None, max_packet: int = 0) -> None:
        """Let the peer be elsewhere, or the path carry less or more."""
        self.remote = remote or self.remote
        self.max_packet = max_packet or self.max_packet
        self.endpoint.events.path_changed(self)

    def _deliver(self, action: Callable[[FakeConnection], None]) -> None:
        def arrive() -> None:
            if not self.other.closed:
                action(self.other)

        asyncio.get_running_loop().call_soon(arrive)


class FakeEndpoint:
    """An Endpoint whose socket is a place in a `FakeUnderlay`.

    accepts: which members this one accepts; all by default. probes: how often paths were probed.
    certificates: what it was told to show.
    """

    def __init__(
        self,
        underlay: FakeUnderlay,
        address: UnderlayAddress,
        member: Member,
        hello: Callable[[], Hello] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.underlay = underlay
        self.local_address = address
        self.member = member
        self.hello = hello or (lambda: Hello(node_id=member.node_id, name=member.name))
        self.counters = counters or Counters()
        self.accepts: Callable[[Member], bool] = lambda _: True
        self.connections: list[FakeConnection] = []
        self.attempts: list[tuple[UnderlayAddress, NodeId | None]] = []
        self.enrolment: EnrolHandler | None = None
        self.probes = 0
        self.certificates: list[x509.Certificate] = []
        self.events: EndpointEvents

    def bind(self) -> None:
        """There is no port to take."""

    def open(self, events: EndpointEvents) -> None:
        self.events = events
        self.underlay.endpoints[self.local_address] = self

    def connect(self, address: UnderlayAddress, expect: NodeId | None = None) -> None:
        self.attempts.append((address, expect))
        asyncio.get_running_loop().call_soon(self._connect, address, expect)

    def probe_paths(self) -> None:
        self.probes += 1

    def update_identity(self, certificate: x509.Certificate) -> None:
        self.certificates.append(certificate)

    def accept_enrolment(self, handler: EnrolHandler | None) -> None:
        self.enrolment = handler

    async def close(self) -> None:
        if self.underlay.endpoints.get(self.local_address) is self:
            del self.underlay.endpoints[self.local_address]
        for connection in self.connections[:]:
            connection.close(CloseCode.DONE, "the node shuts down")

    def _connect(self, address: UnderlayAddress, expect: NodeId | None) -> None:
        error: QuicEtherError | None = None
        if not self.underlay.carries(self.local_address, address):
            error = UnreachableError(f"no answer from {address}")
        else:
            far = self.underlay.endpoints[address]
            if expect is not None and far.member.node_id != expect:
                error = TrustError(f"{address} is {far.member.name}, not the node expected")
            elif not self.accepts(far.member):
                error = TrustError(f"the certificate of {far.member.name} is not accepted")
            elif not far.accepts(self.member):
                refusal = TrustError(f"the certificate of {self.member.name} is not accepted")
                far.events.refused(self.local_address, refusal)
                error = TrustError(f"{address} did not accept our certificate")
        if error is not None:
            self.events.connect_failed(ConnectFailed(address, expect, error))
            return
        ours = FakeConnection(self, far.member, address, initiated=True)
        theirs = FakeConnection(far, self.member, self.local_address, initiated=False)
        ours.other, theirs.other = theirs, ours
        ours.hello, theirs.hello = far.hello(), self.hello()
        self.connections.append(ours)
        far.connections.append(theirs)
        far.events.connected(theirs)
        if not ours.closed:
            self.events.connected(ours)

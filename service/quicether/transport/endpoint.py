"""The seam between the overlay and whatever speaks QUIC for it.

One `Endpoint` is one UDP socket. It carries incoming and outgoing connections alike, hands over
a `Connection` only after both certificates were judged, and reports everything through one
`EndpointEvents`. A second QUIC engine takes the place of the first behind these Protocols.

All calls and callbacks happen on one asyncio event loop. Callbacks must not block.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from quicether.errors import QuicEtherError
from quicether.model import Member, NodeId, UnderlayAddress
from quicether.transport.messages import Hello, Message

ALPN = "quicether/1"
ENROL_ALPN = "quicether-join/1"
"""Connections of machines that have no certificate yet: one bounded request, one answer."""


class CloseCode(enum.IntEnum):
    """Why a connection was closed, as the QUIC application error code (RFC 9000 section 20.2)."""

    DONE = 0
    REFUSED = 1
    """The certificate was not accepted."""
    PROTOCOL = 2
    DUPLICATE = 3
    """Both sides connected at once and the other connection is kept."""
    REVOKED = 4
    BUSY = 5
    """Not now: asking again later helps."""


class KeepAlive(enum.Enum):
    """What is done for a connection while nobody uses it."""

    AWAKE = enum.auto()
    """The peer is asked so often that its end is noticed within seconds."""
    MAPPED = enum.auto()
    """Only so often that a NAT on the way keeps its mapping, and the peer can ask."""
    RESTING = enum.auto()
    """Nothing, and it costs nothing. The peer's end is noticed once something is sent."""


class Connection(Protocol):
    """An authenticated connection to one peer."""

    @property
    def member(self) -> Member:
        """Whom the connection reaches, as its certificate says."""

    @property
    def hello(self) -> Hello:
        """What the peer said first; its node id is the member's."""

    @property
    def remote(self) -> UnderlayAddress:
        """Where the peer is now. Changes when the peer roams."""

    @property
    def initiated(self) -> bool:
        """Whether this side opened the connection."""

    @property
    def max_packet(self) -> int:
        """Largest IP packet, in bytes, that fits into one datagram on the present path."""

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first sample."""

    @property
    def unanswered(self) -> float:
        """Seconds for which an answer of the peer has been due; 0 while none is.

        Long before a silent connection is given up it says that the path may be dead, also where
        it is in one direction alone: packets that answer nothing do not count.
        """

    @property
    def carried_at(self) -> float | None:
        """When IP packets last went over it, either way, in monotonic seconds; None: never."""

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes of the IP packets that were sent over it, and that were received."""

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Queue IP packets, each at most `max_packet` bytes, as DATAGRAM frames.

        The queue is bounded: when it is full the oldest goes and is counted. Never blocks,
        never raises for a closed connection (the packets are counted as dropped).
        """

    def send_message(self, message: Message) -> None:
        """Send a message on the control stream, in order and reliably.

        Raises UnreachableError: the connection is closed, or its control stream is so far
        behind that its bound is reached (the connection is then closed as dead).
        """

    async def request(self, body: bytes, timeout: float) -> bytes:
        """Send one request on a stream of its own and return the peer's answer.

        timeout: seconds. Raises UnreachableError: no answer in time or the connection ended;
        ProtocolError: the answer is larger than `messages.MAX_RPC` bytes.
        """

    def keep_alive(self, how: KeepAlive) -> None:
        """Say what is done for the connection while nobody uses it, `KeepAlive.AWAKE` at first.

        What is sent goes as ever. Idempotent; for this side alone.
        """

    def close(self, code: CloseCode, reason: str) -> None:
        """Close at once; `EndpointEvents.disconnected` follows. Idempotent."""


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """An outgoing attempt that ended without a usable connection.

    error: UnreachableError when nobody answered, TrustError when the peer is not who it should
    be or refused us, ProtocolError when it does not speak our protocol.
    """

    address: UnderlayAddress
    expect: NodeId | None
    error: QuicEtherError


class EndpointEvents(Protocol):
    """What an endpoint reports. Implemented by the overlay."""

    def connected(self, connection: Connection) -> None:
        """A handshake ended and the peer's certificate was accepted."""

    def disconnected(self, connection: Connection, reason: str) -> None:
        """A connection that was reported as connected is gone."""

    def connect_failed(self, failure: ConnectFailed) -> None:
        """An attempt started by `Endpoint.connect` came to nothing."""

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        """An incoming peer was turned away: a security event for the audit log."""

    def packets(self, connection: Connection, packets: list[bytes]) -> None:
        """A batch of IP packets arrived, in order of arrival."""

    def message(self, connection: Connection, message: Message) -> None:
        """A message arrived on the control stream."""

    async def request(self, connection: Connection, body: bytes) -> bytes:
        """Answer a request. An exception resets its stream; a QuicEtherError is expected."""

    def path_changed(self, connection: Connection) -> None:
        """The connection's `remote` or `max_packet` is not what it was."""


class EnrolHandler(Protocol):
    """Answers machines that have no certificate yet."""

    async def enrol(self, remote: UnderlayAddress, body: bytes) -> bytes:
        """Answer one enrolment request. TrustError: refused, its sentence is not sent back."""


class Endpoint(Protocol):
    """One UDP socket that speaks QUIC with many peers."""

    @property
    def local_address(self) -> UnderlayAddress:
        """What the socket is bound to."""

    def bind(self) -> None:
        """Take the port without listening yet: what arrives waits, bounded, for `open`.

        Raises HostError: the port cannot be had.
        """

    def open(self, events: EndpointEvents) -> None:
        """Begin to listen, and bind first where `bind` did not. Raises HostError: as `bind`.

        Nothing is reported before this returns.
        """

    def connect(self, address: UnderlayAddress, expect: NodeId | None = None) -> None:
        """Begin to connect; `connected` or `connect_failed` follows.

        expect: the only node that is accepted at that address; None accepts any member.
        """

    def probe_paths(self) -> None:
        """Check every connection at once, because the host's own network changed."""

    def update_identity(self, certificate: x509.Certificate) -> None:
        """Show certificate, which is for the same key, on every connection from now on."""

    def accept_enrolment(self, handler: EnrolHandler | None) -> None:
        """Answer `ENROL_ALPN` connections through handler; None (the default) refuses them."""

    async def close(self) -> None:
        """Close every connection, flush the last packets and free the socket. Idempotent."""

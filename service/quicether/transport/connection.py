"""A connection between two members: certificates, greeting, control stream, packets, requests.

    client                                   server
      handshake, both certificates judged on both sides
      Hello on stream 0  ------------------->  Hello checked: connected
      Hello checked: connected  <-----------  Hello

A client that the server does not accept completes its handshake all the same, so it counts itself
connected only when the server's Hello has come.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from quicether.counters import Counters
from quicether.errors import ProtocolError, QuicEtherError, TrustError, UnreachableError
from quicether.identity.trust import Trust
from quicether.model import DropReason, Member, NodeId, UnderlayAddress
from quicether.transport import messages
from quicether.transport.endpoint import ALPN, CloseCode, ConnectFailed, EndpointEvents, KeepAlive
from quicether.transport.messages import Hello, Message, MessageReader
from quicether.transport.requests import Requests
from quicether.transport.roles import Ending
from quicether.transport.session import Session
from quicether.transport.tls import judge_peer
from quicether.transport.windows import CONTROL_STREAM

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds from the first packet to the peer's Hello."""
FIRST_ANSWER: Final = 2.5
"""Seconds after which an address that sent nothing at all counts as unreachable."""
MAX_CONTROL_BACKLOG: Final = 8 * messages.MAX_MESSAGE
"""Bytes on the control stream that the peer may leave unacknowledged."""
RECHECK: Final = 60.0
"""Longest time, in seconds, between looks at whether the peer's certificate has expired."""


class State(enum.Enum):
    """How far a connection has come."""

    HANDSHAKE = enum.auto()
    GREETING = enum.auto()
    """The peer's certificate was accepted; its Hello has not come yet."""
    OPEN = enum.auto()
    CLOSED = enum.auto()


@dataclass(slots=True)
class Node:
    """What every connection of an endpoint shares.

    hello: returns what this node says first.
    clock: monotonic seconds; today: the time of day, for certificates.
    """

    trust: Trust
    hello: Callable[[], Hello]
    counters: Counters
    events: EndpointEvents
    clock: Callable[[], float]
    today: Callable[[], datetime] = lambda: datetime.now(UTC)


class AioquicConnection:
    """Implements `endpoint.Connection` on a `Session`, and is that session's role."""

    def __init__(
        self,
        session: Session,
        node: Node,
        *,
        target: UnderlayAddress | None,
        expect: NodeId | None,
    ) -> None:
        """Take over a session whose handshake is under way.

        target: the address asked for, None on an accepted connection. expect: the only node that
        will do there.
        """
        self._given_up_at = node.clock() + HANDSHAKE_TIMEOUT
        self.deadline: float | None = min(self._given_up_at, node.clock() + FIRST_ANSWER)
        self._session = session
        self._node = node
        self._target = target
        self._expect = expect
        self._state = State.HANDSHAKE
        self._member: Member | None = None
        self._hello: Hello | None = None
        self._error: QuicEtherError | None = None
        self._reader = MessageReader()
        self._requests = Requests(session, self._serve, node.counters)
        self._carried_at: float | None = None
        self._sent_bytes = self._received_bytes = 0

    # -- endpoint.Connection -----------------------------------------------------------------

    @property
    def member(self) -> Member:
        """Whom the connection reaches, as its certificate says."""
        if self._member is None:
            raise UnreachableError("the peer's certificate has not been accepted")
        return self._member

    @property
    def hello(self) -> Hello:
        """What the peer said first."""
        if self._hello is None:
            raise UnreachableError("the peer has not greeted yet")
        return self._hello

    @property
    def remote(self) -> UnderlayAddress:
        """Where the peer is now."""
        return self._session.remote

    @property
    def initiated(self) -> bool:
        """Whether this side opened the connection."""
        return self._session.initiated

    @property
    def max_packet(self) -> int:
        """Largest IP packet, in bytes, that fits into one datagram on the present path."""
        return self._session.max_packet

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first sample."""
        return self._session.engine.rtt

    @property
    def unanswered(self) -> float:
        """Seconds for which an answer of the peer has been due; 0 while none is."""
        return self._session.unanswered(self._node.clock())

    @property
    def carried_at(self) -> float | None:
        """When IP packets last went over the connection; see `endpoint.Connection`."""
        return self._carried_at

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes of the IP packets that were sent, and received; see `endpoint.Connection`."""
        return self._sent_bytes, self._received_bytes

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Queue IP packets; see `endpoint.Connection`."""
        if self._state is State.OPEN:
            now = self._carried_at = self._node.clock()
            self._sent_bytes += sum(map(len, packets))
            self._session.send_packets(packets, now)
        else:
            self._node.counters.drop(DropReason.UNREACHABLE, len(packets))

    def send_message(self, message: Message) -> None:
        """Send a message on the control stream; see `endpoint.Connection`."""
        if self._state is not State.OPEN:
            raise UnreachableError("the connection is closed")
        self._say(message)

    async def request(self, body: bytes, timeout: float) -> bytes:
        """Send one request and return its answer; see `endpoint.Connection`."""
        if self._state is not State.OPEN:
            raise UnreachableError("the connection is closed")
        return await self._requests.ask(body, timeout)

    def keep_alive(self, how: KeepAlive) -> None:
        """Say what is done while nobody uses it; see `endpoint.Connection`."""
        self._session.keep_alive(how, self._node.clock())

    def close(self, code: CloseCode, reason: str) -> None:
        """Close at once. Idempotent."""
        self._session.close(code, reason, self._node.clock())

    def __repr__(self) -> str:
        who = self._member.name if self._member is not None else "?"
        return f"<connection to {who} at {self.remote}, {self._state.name.lower()}>"

    # -- session.Role ------------------------------------------------------------------------

    def established(self, protocol: str | None) -> None:
        """Judge the peer's certificate before a byte of it is looked at."""
        if protocol != ALPN:
            self._fail(CloseCode.PROTOCOL, ProtocolError(f"the peer speaks {protocol!r}"))
            return
        today = self._node.today()
        try:
            context = self._session.engine.tls
            self._member = judge_peer(context, self._node.trust, self._expect, today)
        except TrustError as error:
            self._fail(CloseCode.REFUSED, error)
            return
        self._state = State.GREETING
        self._session.accept(self._node.clock())
        if self.initiated:
            self._say(self._node.hello())

    def stream_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Take bytes of the control stream or of a request."""
        if self._state in (State.HANDSHAKE, State.CLOSED):
            return
        if stream_id != CONTROL_STREAM:
            self._requests.data(stream_id, data, end=end)
            return
        try:
            for message in self._reader.feed(data):
                self._hear(message)
            if self._reader.unknown:
                self._node.counters.drop(DropReason.UNKNOWN_MESSAGE, self._reader.unknown)
                self._reader.unknown = 0
            if end:
                raise ProtocolError("the peer ended its control stream")
        except ProtocolError as error:
            self._fail(CloseCode.PROTOCOL, error)

    def stream_reset(self, stream_id: int) -> None:
        """A stream was given up by the peer."""
        if stream_id == CONTROL_STREAM:
            self._fail(CloseCode.PROTOCOL, ProtocolError("the peer reset its control stream"))
        else:
            self._requests.reset(stream_id)

    def packets(self, packets: list[bytes]) -> bool:
        """Hand IP packets on once both sides have greeted."""
        if self._state is not State.OPEN:
            return False
        self._carried_at = self._node.clock()
        self._received_bytes += sum(map(len, packets))
        self._node.events.packets(self, packets)
        return True

    def path_changed(self) -> None:
        """Pass it on."""
        if self._state is State.OPEN:
            self._node.events.path_changed(self)

    def on_deadline(self, now: float) -> None:
        """Give up a handshake that takes too long, or a peer whose certificate has expired."""
        if self._state in (State.HANDSHAKE, State.GREETING):
            if now < self._given_up_at and self._session.heard:
                self.deadline = self._given_up_at
                return
            silence = FIRST_ANSWER if now < self._given_up_at else HANDSHAKE_TIMEOUT
            self._fail(CloseCode.DONE, UnreachableError(f"no answer within {silence:g} s"))
        else:
            self._watch_expiry(now)

    def ended(self, ending: Ending) -> None:
        """Report what came of the connection."""
        was, self._state = self._state, State.CLOSED
        error = self._error or error_of(ending, self._session.remote)
        self._requests.end(str(error))
        events = self._node.events
        if was is State.OPEN:
            events.disconnected(self, str(error))
            return
        failed = isinstance(error, TrustError | ProtocolError)
        self._node.counters.failed_handshakes += failed
        if self._target is not None:
            events.connect_failed(ConnectFailed(self._target, self._expect, error))
        elif failed:
            events.refused(self._session.remote, error)

    # -- the greeting and the control stream -------------------------------------------------

    def _say(self, message: Message) -> None:
        data = messages.encode(message)
        if self._session.engine.backlog(CONTROL_STREAM) + len(data) > MAX_CONTROL_BACKLOG:
            error = UnreachableError("the peer takes no control messages")
            self._fail(CloseCode.DONE, error)
            raise error
        self._session.send_stream(CONTROL_STREAM, data)

    def _hear(self, message: Message) -> None:
        if self._state is State.OPEN:
            if isinstance(message, Hello):
                raise ProtocolError("the peer greeted twice")
            self._node.events.message(self, message)
        elif self._state is State.GREETING:
            if not isinstance(message, Hello):
                raise ProtocolError(f"the peer's first message is {message.kind}, not hello")
            self._greeted(message)

    def _greeted(self, hello: Hello) -> None:
        if not hello.speaks_our_version:
            raise ProtocolError(
                f"the peer speaks versions {hello.oldest} to {hello.version}, this node "
                f"{messages.OLDEST_VERSION} to {messages.PROTOCOL_VERSION}"
            )
        if hello.node_id != self.member.node_id:
            raise ProtocolError(
                f"the peer calls itself {hello.node_id}, its certificate is {self.member.node_id}'s"
            )
        self._hello = hello
        if not self.initiated:
            self._say(self._node.hello())
        self._state = State.OPEN
        self._watch_expiry(self._node.clock())
        self._node.events.connected(self)
        self._requests.open()

    def _watch_expiry(self, now: float) -> None:
        not_after = self.member.not_after
        if not_after is None:
            self.deadline = None
            return
        left = (not_after - self._node.today()).total_seconds()
        if left <= 0:
            error = TrustError(f"the certificate of {self.member.name} expired at {not_after}")
            self._fail(CloseCode.REFUSED, error)
        else:
            # The time of day may be set meanwhile, so it is looked at again before the end.
            self.deadline = now + min(left, RECHECK)

    def _fail(self, code: CloseCode, error: QuicEtherError) -> None:
        self._error = error
        # A peer that is not accepted learns no more than that.
        told = "certificate not accepted" if code is CloseCode.REFUSED else str(error)
        self._session.close(code, told, self._node.clock())

    async def _serve(self, body: bytes) -> bytes:
        return await self._node.events.request(self, body)


def error_of(ending: Ending, remote: UnderlayAddress) -> QuicEtherError:
    """Say in our own kinds of error why a session ended."""
    reason = f": {ending.reason}" if ending.reason else ""
    if ending.application:
        if ending.code == CloseCode.REFUSED and ending.by_peer:
            return TrustError(f"{remote} did not accept our certificate")
        if ending.code == CloseCode.REVOKED:
            whose = "says that our certificate" if ending.by_peer else "is cut off: its certificate"
            return TrustError(f"{remote} {whose} is revoked")
        if ending.code == CloseCode.PROTOCOL:
            return ProtocolError(f"{remote} ended the connection{reason}")
        return UnreachableError(f"connection to {remote} closed{reason}")
    alert = ending.code - QuicErrorCode.CRYPTO_ERROR
    if alert == AlertDescription.no_application_protocol:
        return ProtocolError(f"{remote} does not speak {ALPN}")
    if 0 <= alert <= 255:
        return TrustError(f"the TLS handshake with {remote} failed{reason or f': alert {alert}'}")
    if ending.code == QuicErrorCode.APPLICATION_ERROR and ending.by_peer:
        # What an application says before the handshake is over is hidden (RFC 9000 section 10.2.3).
        return UnreachableError(f"{remote} gave up the handshake")
    if ending.code in (QuicErrorCode.NO_ERROR, QuicErrorCode.NO_VIABLE_PATH) or (
        ending.code == QuicErrorCode.INTERNAL_ERROR and not ending.by_peer
    ):
        return UnreachableError(f"connection to {remote} lost{reason}")
    return ProtocolError(f"QUIC with {remote} failed (error {ending.code:#x}){reason}")

"""The endpoint on aioquic: one UDP socket, its connections, and nothing else that is shared.

Everything that a wakeup brings is fed to the connections first, and each connection that was
touched then sends once: that is worth three times the rate of a send after every packet.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicether.counters import Counters
from quicether.errors import HostError, QuicEtherError, UnreachableError
from quicether.identity.trust import Trust
from quicether.model import DropReason, NodeId, UnderlayAddress
from quicether.transport.admission import Admission, Admitted
from quicether.transport.connection import AioquicConnection, Node
from quicether.transport.deadlines import Deadlines
from quicether.transport.endpoint import (
    ALPN,
    CloseCode,
    ConnectFailed,
    EndpointEvents,
    EnrolHandler,
)
from quicether.transport.engine import Engine
from quicether.transport.messages import Hello
from quicether.transport.session import Session
from quicether.transport.tls import CONNECTION_ID_BYTES, configuration
from quicether.transport.udp_socket import Arrival, SocketAddress, Source, UdpSocket

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 1024
"""Connections of one endpoint, half-open ones included."""
LINK_MTU: Final = 1500
"""Largest IP packet, in bytes, that is tried on the underlay."""

_LONG_HEADER: Final = 0x80
_CID_LENGTH_AT: Final = 5
_CID_AT: Final = 6


class AioquicEndpoint:
    """Implements `endpoint.Endpoint`; the carrier of its sessions."""

    def __init__(
        self,
        bind: UnderlayAddress,
        *,
        certificate: x509.Certificate,
        key: Ed25519PrivateKey,
        trust: Trust,
        counters: Counters,
        hello: Callable[[], Hello],
        mark: int | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_link_mtu: int = LINK_MTU,
    ) -> None:
        """Describe an endpoint; `open` binds its socket.

        bind: host "::" listens on IPv4 and IPv6. certificate, key: who this node is. trust: judges
        peers. hello: returns what this node says first on a connection. mark: SO_MARK of every
        packet. max_link_mtu: largest underlay packet, in bytes, that is ever tried.
        """
        self.counters = counters
        self.max_link_mtu = max_link_mtu
        self._bind = bind
        self._key = key
        self._trust = trust
        self._say_hello = hello
        self._mark = mark
        self._max_connections = max_connections
        self._sessions: dict[bytes, Session] = {}
        self._ids: dict[Session, set[bytes]] = {}
        self._half_open: dict[Session, str] = {}
        self._half_open_hosts: Counter[str] = Counter()
        self._to_flush: dict[Session, None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._closed = False
        self.update_identity(certificate)

    # -- endpoint.Endpoint -------------------------------------------------------------------

    @property
    def local_address(self) -> UnderlayAddress:
        """What the socket is bound to."""
        return self.socket.local_address

    async def open(self, events: EndpointEvents) -> None:
        """Bind the socket and begin to listen. Raises HostError: the port cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._events = events
        self._node = Node(
            trust=self._trust,
            hello=self._say_hello,
            counters=self.counters,
            events=events,
            clock=self._loop.time,
        )
        self._deadlines = Deadlines(self._loop)
        self._admission = Admission(self._server.supported_versions, self.counters)
        self.socket = UdpSocket(
            self._bind,
            counters=self.counters,
            mark=self._mark,
            on_arrivals=self._arrived,
            on_writable=self._writable,
        )

    def update_identity(self, certificate: x509.Certificate) -> None:
        """Show certificate, for the same key, on every connection from now on."""
        self._client = self._configuration(certificate, is_client=True)
        self._server = self._configuration(certificate, is_client=False)

    def connect(self, address: UnderlayAddress, expect: NodeId | None = None) -> None:
        """Begin to connect; `connected` or `connect_failed` follows."""
        try:
            remote = self.socket.socket_address(address)
            if len(self._ids) >= self._max_connections:
                raise UnreachableError(f"all {self._max_connections} connections are in use")
        except (HostError, UnreachableError) as error:
            self._loop.call_soon(self._connect_failed, address, expect, error)
            return
        now = self._loop.time()
        engine = Engine(configuration=self._client)
        session = Session(engine, self, remote, initiated=True, now=now)
        session.role = AioquicConnection(session, self._node, target=address, expect=expect)
        self._add(session, engine.connection_ids)
        engine.connect(remote, now)
        self.flush_soon(session)

    def probe_paths(self) -> None:
        """Check every connection at once, because the host's own network changed."""
        now = self._loop.time()
        for session in list(self._ids):
            session.probe(now)

    def accept_enrolment(self, handler: EnrolHandler | None) -> None:
        """Answer `ENROL_ALPN` connections through handler; None (the default) refuses them."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close every connection, flush the last packets and free the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        now = self._loop.time()
        for session in list(self._ids):
            session.close(CloseCode.DONE, "the node shuts down", now)
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        self._deadlines.close()
        self.socket.close()
        self._sessions.clear()
        self._ids.clear()

    # -- session.Carrier ---------------------------------------------------------------------

    def now(self) -> float:
        """The event loop's clock, in seconds."""
        return self._loop.time()

    def arm(self, session: Session, deadline: float | None) -> None:
        """Call `session.on_deadline` then."""
        self._deadlines.arm(session, deadline)

    def flush_soon(self, session: Session) -> None:
        """Call `session.flush` at the end of this turn of the event loop."""
        self._to_flush[session] = None
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def issued(self, session: Session, connection_id: bytes) -> None:
        """The peer may address the session by connection_id from now on."""
        if session in self._ids:
            self._ids[session].add(connection_id)
            self._sessions[connection_id] = session

    def retired(self, session: Session, connection_id: bytes) -> None:
        """The peer no longer addresses the session by connection_id."""
        if session in self._ids:
            self._ids[session].discard(connection_id)
            self._sessions.pop(connection_id, None)

    def accepted(self, session: Session) -> None:
        """The session's peer was accepted: it is half-open no more."""
        host = self._half_open.pop(session, None)
        if host is not None:
            self._half_open_hosts[host] -= 1
            if not self._half_open_hosts[host]:
                del self._half_open_hosts[host]

    def gone(self, session: Session) -> None:
        """Nothing is left of the session."""
        self.accepted(session)
        for connection_id in self._ids.pop(session, ()):
            self._sessions.pop(connection_id, None)
        self._to_flush.pop(session, None)

    # -- the socket --------------------------------------------------------------------------

    def _arrived(self, arrivals: list[Arrival]) -> None:
        now = self._loop.time()
        for arrival in arrivals:
            datagrams = arrival.datagrams
            first = _connection_id(datagrams[0])
            if len(datagrams) == 1 or all(_connection_id(each) == first for each in datagrams):
                self._dispatch(first, datagrams, arrival.remote, arrival.source, now)
            else:
                for each in datagrams:
                    name = _connection_id(each)
                    self._dispatch(name, [each], arrival.remote, arrival.source, now)
        self._flush()

    def _dispatch(
        self,
        connection_id: bytes,
        datagrams: list[bytes],
        remote: SocketAddress,
        source: Source | None,
        now: float,
    ) -> None:
        session = self._sessions.get(connection_id)
        if session is not None:
            session.feed(datagrams, remote, source, now)
            self._to_flush[session] = None
            return
        for datagram in datagrams:
            self._stranger(datagram, remote, source, now)

    def _stranger(
        self, datagram: bytes, remote: SocketAddress, source: Source | None, now: float
    ) -> None:
        verdict = self._admission.judge(
            datagram,
            remote,
            half_open=len(self._half_open),
            half_open_there=self._half_open_hosts[remote[0]],
            full=len(self._ids) >= self._max_connections,
            now=now,
        )
        if isinstance(verdict, bytes):
            self.socket.send([verdict], remote, source)
        elif verdict is not None:
            self._open_incoming(verdict, datagram, remote, source, now)

    def _open_incoming(
        self,
        admitted: Admitted,
        datagram: bytes,
        remote: SocketAddress,
        source: Source | None,
        now: float,
    ) -> None:
        engine = Engine(
            configuration=self._server,
            original_destination_connection_id=admitted.original,
            retry_source_connection_id=admitted.retried,
        )
        session = Session(engine, self, remote, initiated=False, now=now)
        session.role = AioquicConnection(session, self._node, target=None, expect=None)
        names = [admitted.retried or admitted.original, *engine.connection_ids]
        self._add(session, names)
        self._half_open[session] = remote[0]
        self._half_open_hosts[remote[0]] += 1
        session.feed([datagram], remote, source, now)
        if engine.begun:
            self._to_flush[session] = None
        else:
            self.counters.drop(DropReason.MALFORMED)
            self.gone(session)

    def _writable(self) -> None:
        for session in self._ids:
            self._to_flush[session] = None
        self._flush()

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        now = self._loop.time()
        while self._to_flush:
            session = next(iter(self._to_flush))
            del self._to_flush[session]
            session.flush(now)

    # -- details -----------------------------------------------------------------------------

    def _configuration(
        self, certificate: x509.Certificate, *, is_client: bool
    ) -> QuicConfiguration:
        return configuration(
            is_client=is_client, protocols=[ALPN], certificate=certificate, key=self._key
        )

    def _add(self, session: Session, connection_ids: list[bytes]) -> None:
        self._ids[session] = set(connection_ids)
        self._sessions.update(dict.fromkeys(connection_ids, session))

    def _connect_failed(
        self, address: UnderlayAddress, expect: NodeId | None, error: QuicEtherError
    ) -> None:
        self._events.connect_failed(ConnectFailed(address, expect, error))


def _connection_id(datagram: bytes) -> bytes:
    """Return the destination connection id of a packet; too short a one when it has none."""
    if datagram[0] & _LONG_HEADER:
        if len(datagram) < _CID_AT:
            return b""
        return datagram[_CID_AT : _CID_AT + datagram[_CID_LENGTH_AT]]
    return datagram[1 : 1 + CONNECTION_ID_BYTES]

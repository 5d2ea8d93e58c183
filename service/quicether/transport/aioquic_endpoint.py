"""The endpoint on aioquic: who this node is, whom it connects to, and whom it lets in."""

from __future__ import annotations

import asyncio
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
from quicether.transport.admission import Admission
from quicether.transport.carrier import LINK_MTU, UdpCarrier
from quicether.transport.connection import AioquicConnection, Node
from quicether.transport.endpoint import (
    ALPN,
    ENROL_ALPN,
    ConnectFailed,
    EndpointEvents,
    EnrolHandler,
)
from quicether.transport.engine import Engine
from quicether.transport.enrolment import EnrolmentDesk, EnrolmentServer
from quicether.transport.messages import Hello
from quicether.transport.reception import Reception
from quicether.transport.roles import Role
from quicether.transport.session import Session
from quicether.transport.tls import configuration
from quicether.transport.udp_socket import SocketAddress, Source

MAX_CONNECTIONS: Final = 1024
"""Connections of one endpoint, half-open ones included."""


class AioquicEndpoint:
    """Implements `endpoint.Endpoint`."""

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
        """Describe an endpoint; `bind`, or else `open`, binds its socket.

        bind: host "::" listens on IPv4 and IPv6. certificate, key: who this node is. trust: judges
        peers. hello: returns what this node says first on a connection. mark: SO_MARK of every
        packet. max_link_mtu: largest underlay packet, in bytes, that is ever tried.
        """
        self._bind = bind
        self._certificate = certificate
        self._key = key
        self._trust = trust
        self.counters = counters
        self._hello = hello
        self._mark = mark
        self._max_connections = max_connections
        self._max_link_mtu = max_link_mtu
        self._half_open: dict[Session, str] = {}
        self._half_open_hosts: Counter[str] = Counter()
        self._desk: EnrolmentDesk | None = None
        self._carrier: UdpCarrier | None = None
        self._closed = False
        self._configure()

    @property
    def local_address(self) -> UnderlayAddress:
        """What the socket is bound to; before that, what it is to be bound to."""
        return self._bind if self._carrier is None else self._carrier.socket.local_address

    def bind(self) -> None:
        """Bind the socket; see `Endpoint.bind`."""
        self._carrier = UdpCarrier(
            self._bind,
            counters=self.counters,
            mark=self._mark,
            max_link_mtu=self._max_link_mtu,
            stranger=self._stranger,
            accepted=self._settled,
        )

    def open(self, events: EndpointEvents) -> None:
        """Begin to listen; see `Endpoint.open`."""
        if self._carrier is None:
            self.bind()
        carrier = self._opened
        self._node = Node(
            trust=self._trust,
            hello=self._hello,
            counters=self.counters,
            events=events,
            clock=carrier.now,
        )
        self._admission = Admission(self._server.supported_versions, self.counters)
        carrier.listen()

    def update_identity(self, certificate: x509.Certificate) -> None:
        """Show certificate, which is for the same key, on every connection from now on.

        Connections that are open live on; their peers close them when the old certificate, which
        they were shown, expires.
        """
        self._certificate = certificate
        self._configure()

    def connect(self, address: UnderlayAddress, expect: NodeId | None = None) -> None:
        """Begin to connect; `connected` or `connect_failed` follows."""
        carrier = self._opened
        try:
            remote = carrier.socket.socket_address(address)
            if len(carrier) >= self._max_connections:
                raise UnreachableError(f"all {self._max_connections} connections are in use")
        except (HostError, UnreachableError) as error:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._connect_failed, address, expect, error)
            return
        now = carrier.now()
        engine = Engine(configuration=self._client)
        session = Session(engine, carrier, remote, initiated=True, now=now)
        session.role = AioquicConnection(session, self._node, target=address, expect=expect)
        engine.connect(remote, now)
        carrier.add(session, engine.connection_ids)

    def probe_paths(self) -> None:
        """Check every connection at once, because the host's own network changed."""
        carrier = self._opened
        now = carrier.now()
        for session in carrier.sessions():
            session.probe(now)

    def accept_enrolment(self, handler: EnrolHandler | None) -> None:
        """Answer `ENROL_ALPN` connections through handler; None (the default) refuses them."""
        self._desk = None
        if handler is not None:
            self._desk = EnrolmentDesk(handler, self._node.events, self.counters)
        self._configure()

    async def close(self) -> None:
        """Close every connection, flush the last packets and free the socket. Idempotent."""
        if not self._closed and self._carrier is not None:
            self._carrier.close("the node shuts down")
        self._closed = True

    # -- incoming connections ----------------------------------------------------------------

    def _stranger(
        self, datagram: bytes, remote: SocketAddress, source: Source | None, now: float
    ) -> None:
        """Open a connection for a datagram that belongs to none, if it asks for one."""
        host, carrier = remote[0], self._opened
        admitted = self._admission.judge(
            datagram,
            remote,
            half_open=len(self._half_open),
            half_open_there=self._half_open_hosts[host],
            full=len(carrier) >= self._max_connections,
            now=now,
        )
        if admitted is None:
            return
        if isinstance(admitted, bytes):
            carrier.socket.send([admitted], remote, source)
            return
        engine = Engine(
            configuration=self._server,
            original_destination_connection_id=admitted.original,
            retry_source_connection_id=admitted.retried,
        )
        session = Session(engine, carrier, remote, initiated=False, now=now)
        session.role = Reception(session, self._node, self._role)
        self._half_open[session] = host
        self._half_open_hosts[host] += 1
        first_id = admitted.retried or admitted.original
        carrier.add(session, [first_id, *engine.connection_ids])
        session.feed([datagram], remote, source, now)
        if not engine.begun:
            self.counters.drop(DropReason.MALFORMED)
            carrier.gone(session)

    def _role(self, session: Session, protocol: str | None) -> Role:
        if protocol == ENROL_ALPN and self._desk is not None:
            return EnrolmentServer(session, self._desk, self._node.clock)
        return AioquicConnection(session, self._node, target=None, expect=None)

    def _settled(self, session: Session) -> None:
        """A session is half-open no more."""
        host = self._half_open.pop(session, None)
        if host is not None:
            self._half_open_hosts[host] -= 1
            if not self._half_open_hosts[host]:
                del self._half_open_hosts[host]

    # -- details -----------------------------------------------------------------------------

    @property
    def _opened(self) -> UdpCarrier:
        if self._carrier is None:
            raise RuntimeError("the endpoint was not opened")
        return self._carrier

    def _configure(self) -> None:
        protocols = [ALPN] if self._desk is None else [ALPN, ENROL_ALPN]
        self._client = self._configuration(is_client=True, protocols=[ALPN])
        self._server = self._configuration(is_client=False, protocols=protocols)

    def _configuration(self, *, is_client: bool, protocols: list[str]) -> QuicConfiguration:
        return configuration(
            is_client=is_client,
            protocols=protocols,
            certificate=self._certificate,
            key=self._key,
        )

    def _connect_failed(
        self, address: UnderlayAddress, expect: NodeId | None, error: QuicEtherError
    ) -> None:
        self._node.events.connect_failed(ConnectFailed(address, expect, error))

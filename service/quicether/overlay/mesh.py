"""One tunnel's overlay while it runs: what an endpoint and a forwarder report to.

The mesh keeps three things in step: the peer table (whom to connect to), the overlay's routes
(which prefix goes where) and the forwarder's snapshot. Whatever changes is only marked, and
published once at the end of the event loop's turn, so that a burst of announcements costs one
snapshot and one new desired state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

from quicether.config.values import HostPort, PeerAddress
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.packet import PacketView
from quicether.dataplane.snapshot import PacketPolicy, Snapshot
from quicether.errors import ProtocolError, QuicEtherError, UnreachableError
from quicether.model import MIN_IPV6_MTU, Member, NodeId, Prefix, UnderlayAddress
from quicether.overlay.dialer import Dialer
from quicether.overlay.gateways import NOTHING, Forwarding, Offering
from quicether.overlay.neighbours import AuditEvents, Discovery, RpcService
from quicether.overlay.outside import Outside
from quicether.overlay.peers import PeerTable, TargetKind
from quicether.overlay.pings import Pings
from quicether.overlay.prober import Prober
from quicether.overlay.routes import OverlayRoutes
from quicether.transport.endpoint import CloseCode, ConnectFailed, Connection, Endpoint
from quicether.transport.messages import Announce, Hello, Message, Observed, Ping, Pong, RpcKind

log = logging.getLogger(__name__)

SIZING_TIME: Final = 0.5
"""Seconds that a new connection has to find out how large a packet its path carries."""
HOUSEKEEPING: Final = 0.5
"""Seconds between looks at the ways to peers and at packets held too long."""


class Mesh:
    """Implements `transport.EndpointEvents` and `dataplane.ForwarderEvents` for one tunnel."""

    def __init__(
        self,
        me: Member,
        endpoint: Endpoint,
        routes: OverlayRoutes,
        *,
        instance: bytes,
        entropy: Random,
        clock: Callable[[], float],
        changed: Callable[[], None],
        audit: AuditEvents,
    ) -> None:
        """Put a mesh together; nothing runs before `start`.

        instance: random bytes of this run. clock: monotonic seconds. changed: called, at most
        once a turn of the event loop, when anything a user can see is different.
        """
        self.me = me
        self.revision = 0  # another one whenever changed is called
        self.routes = routes
        self.peers = PeerTable(me.node_id, entropy)
        self.outside = Outside(me)
        self.discovery: Discovery | None = None
        self.capabilities: frozenset[str] = frozenset()
        self._followers: list[Callable[[Connection], None]] = [self.outside.connected]
        self._endpoint = endpoint
        self._instance = instance
        self._clock = clock
        self._changed = changed
        self._audit = audit
        self.dialer = Dialer(self.peers, endpoint, clock, self._mark, self.outside)
        self._forwarder: Forwarder | None = None
        self._policy: PacketPolicy | None = None
        self._offering = Offering(me, routes)
        self.offers = NOTHING
        self._owned: tuple[Prefix, ...] = ()
        self._lan: tuple[Prefix, ...] = ()
        self._forwarding: Forwarding | None = None
        self._mtu = 1280
        self._rpc: dict[RpcKind, RpcService] = {}
        self._pings = Pings(entropy, clock)
        self._prober = Prober(self.peers, routes, self._pings, clock, self._mark, self._locate)
        self._publishing: asyncio.Handle | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._closed = False

    # -- life --------------------------------------------------------------------------------

    def start(self, forwarder: Forwarder, peers: Iterable[PeerAddress]) -> None:
        """Begin to connect to peers and to feed the forwarder with snapshots."""
        self._forwarder = forwarder
        self.want_configured(peers)
        self._publish()
        self._keep_house()

    async def close(self) -> None:
        """Stop connecting; the endpoint is closed by its owner."""
        self._closed = True
        for handle in (self._publishing, self._housekeeping):
            if handle is not None:
                handle.cancel()
        await self.dialer.close()
        self._pings.close()

    def want_configured(self, peers: Iterable[PeerAddress]) -> None:
        """Make peers all that the configuration names, in place of what it named before."""
        self.peers.want_configured(peers, self._clock())
        self.wake()

    def want(self, node: NodeId, locations: Sequence[HostPort]) -> None:
        """Connect to a node that was found at locations."""
        if self._closed or node == self.me.node_id:
            return
        key, kind = str(node), TargetKind.DISCOVERED
        self.peers.want(key, locations, kind, self._clock(), expect=node, more=True)
        self.wake()

    def wake(self) -> None:
        """Start the attempts that are due, and publish what changed."""
        if not self._closed:
            self.dialer.wake()
            self._mark()

    def serve(
        self,
        owned: Iterable[Prefix],
        *,
        forwarding: Forwarding | None = None,
        lan: Iterable[Prefix] = (),
        mtu: int = 1280,
    ) -> None:
        """Say what this node owns and, as a gateway, forwards for, in place of earlier.

        forwarding: None for a node that is no gateway. lan: networks that the host reaches
        without the overlay. Every peer is told when what can be reached here is another.
        """
        owned, differs = tuple(owned), tuple(owned) != self._owned
        self._owned, self._forwarding, self._lan, self._mtu = owned, forwarding, tuple(lan), mtu
        self._offer(differs=differs)
        self._mark()

    def use_policy(self, policy: PacketPolicy | None) -> None:
        """Let policy decide from the next packet on; None lets members reach what is routed."""
        self._policy = policy
        self._mark()

    def answer_with(self, kind: RpcKind, service: RpcService) -> None:
        """Let service answer the requests of that kind."""
        self._rpc[kind] = service

    def follow(self, connected: Callable[[Connection], None]) -> None:
        """Call connected with every connection that is kept, once its peer is known."""
        self._followers.append(connected)

    def expel(self, is_out: Callable[[Member], bool], code: CloseCode, reason: str) -> list[Member]:
        """Close every connection of members that are out and forget them; return whom it hit."""
        hit: dict[NodeId, Member] = {}
        for connection in self.peers.every_connection():
            if is_out(connection.member):
                hit[connection.member.node_id] = connection.member
                connection.close(code, reason)
        hit |= {member.node_id: member for member in self.routes.members() if is_out(member)}
        for node in hit:
            self.routes.forget(node)
            if self.discovery is not None:
                self.discovery.forget(node)
        if hit:
            self._mark()
        return list(hit.values())

    def underlay_changed(self) -> None:
        """Check every path and try every waiting peer at once: the host's network changed."""
        self._endpoint.probe_paths()
        self.peers.kick(self._clock())
        self.dialer.wake()

    def hello(self) -> Hello:
        """Return what this node says first on every connection."""
        also = {"gateway"} if self._forwarding else set()
        return Hello(
            node_id=self.me.node_id,
            name=self.me.name,
            mtu=self._mtu,
            prefixes=self._owned,
            forwards=self.offers.forwards,
            listen_port=self._endpoint.local_address.port,
            instance=self._instance,
            capabilities=tuple(sorted(self.capabilities | also)),
        )

    def snapshot(self) -> Snapshot:
        """Return what the data path is to use now."""
        connections = self.peers.connections()
        links = {
            node: connection
            for node, connection in connections.items()
            if self._is_sized(node, connection)
        }
        offered = None if self._forwarding is None else self.offers.reached
        return self.routes.snapshot(connections, links, self._policy, offered)

    # -- questions ---------------------------------------------------------------------------

    async def ping(self, node: NodeId, patience: float) -> float:
        """Return the seconds a message to node and its answer take.

        patience: longest wait in seconds. Raises UnreachableError.
        """
        connection = self.peers.active(node)
        if connection is None:
            raise UnreachableError(f"node {node.short} is not connected")
        return await self._pings.ask(connection, patience)

    # -- what the endpoint reports -----------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """Take in a peer whose certificate was accepted and whose Hello has come."""
        member, hello = connection.member, connection.hello
        if member.node_id == self.me.node_id:
            self.peers.is_me(connection.remote)
            connection.close(CloseCode.DUPLICATE, "this is the same node")
            return
        if not self.outside.holds(connection.remote.ip):
            connection.close(CloseCode.REFUSED, "an address inside the overlay")
            return
        closing = self.peers.connected(connection, hello.instance, self._clock())
        for each in closing:
            each.connection.close(each.code, each.reason)
        self.dialer.wake()
        if self.peers.active(member.node_id) is None:
            self._mark()
            return
        log.info("peer %s (%s) connected at %s", member.name, member.node_id, connection.remote)
        self._audit.connected(member, connection.remote)
        self._learn(connection, hello.prefixes, hello.forwards)
        self._prober.up(connection)
        self._say(connection, Observed.of(connection.remote))
        for connected in self._followers:
            connected(connection)
        self._mark()
        asyncio.get_running_loop().call_later(SIZING_TIME, self._mark)

    def disconnected(self, connection: Connection, reason: str) -> None:
        """Note that a connection is gone; its prefixes stay, as unreachable."""
        member = connection.member
        now, since = self._clock(), self.peers.since(member.node_id)
        if self.peers.disconnected(connection, UnreachableError(reason), now):
            log.info("peer %s (%s) lost: %s", member.name, member.node_id, reason)
            duration = 0.0 if since is None else now - since
            self._audit.disconnected(
                member, connection.remote, reason, duration, connection.carried
            )
            self._prober.down(member.node_id)
        self.dialer.wake()
        self._mark()

    def connect_failed(self, failure: ConnectFailed) -> None:
        """Hand the outcome of an attempt to the dialer."""
        self.dialer.failed(failure)
        if failure.expect is not None and not self._is_tried(failure.expect):
            self.nobody_finds(failure.expect)

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        """Pass a security event on."""
        self._audit.refused(remote, error)

    def packets(self, connection: Connection, packets: list[bytes]) -> None:
        """Hand a batch to the forwarder."""
        if self._forwarder is not None:
            self._forwarder.inbound(connection.member.node_id, packets)

    def message(self, connection: Connection, message: Message) -> None:
        """Act on a control message."""
        match message:
            case Announce():
                self._learn(connection, message.prefixes, message.forwards)
                self._mark()
            case Observed(address=UnderlayAddress() as address) if self.discovery is not None:
                self.discovery.observed(connection.member.node_id, address)
            case Ping():
                self._say(connection, Pong(token=message.token))
            case Pong():
                self._pings.answered(connection, message.token)

    async def request(self, connection: Connection, body: bytes) -> bytes:
        """Let the service that a request is for answer it."""
        service = self._rpc.get(RpcKind(body[0])) if body and body[0] in list(RpcKind) else None
        if service is None:
            raise ProtocolError(f"a request for service {body[:1].hex() or 'none'}, not offered")
        return await service.answer(connection, body[1:])

    def path_changed(self, connection: Connection) -> None:
        """The path to a peer takes other sizes or leads elsewhere."""
        if not self.outside.holds(connection.remote.ip):
            connection.close(CloseCode.REFUSED, "an address inside the overlay")
        self._mark()

    # -- what the forwarder reports ----------------------------------------------------------

    def unknown_destination(self, destination: bytes) -> bool:
        """Look for the prefix of a packed address, where there is somebody to ask."""
        return self.discovery is not None and self.discovery.look_up(destination)

    def nobody_has(self, destination: bytes) -> None:
        """Answer the packets held for a packed address: nobody owns a prefix that holds it."""
        if self._forwarder is not None:
            self._forwarder.give_up(destination)

    def nobody_finds(self, node: NodeId) -> None:
        """Answer the packets held for a node: nobody knows where it is."""
        if self._forwarder is not None:
            self._forwarder.give_up_node(node)

    def wanted(self, node: NodeId) -> bool:
        """Connect to a node that a packet wants to go to; True while that is under way."""
        return self.peers.active(node) is not None or self._locate(node) or self._is_tried(node)

    def spoofed(self, node: NodeId, packet: PacketView) -> None:
        """Pass a security event on."""
        self._audit.spoofed(self.routes.member(node), packet)

    def detoured(self, node: NodeId) -> None:
        """Ask a node that sends by a gateway whether the direct way works in both directions."""
        self._prober.detoured(node)

    def stood_in_for(self, node: NodeId) -> None:
        """Go on trying to reach a node itself whose packets go by a gateway."""
        idle = self.peers.active(node) is None and not self.peers.is_pursued(str(node))
        if self.discovery is not None and idle:
            self.discovery.seek(node)

    # -- inside ------------------------------------------------------------------------------

    def _locate(self, node: NodeId) -> bool:
        return self.discovery is not None and self.discovery.locate(node)

    def _is_tried(self, node: NodeId) -> bool:
        return any(target.expect == node and target.trying for target in self.peers.targets())

    def _offer(self, *, differs: bool = False) -> None:
        """Find out what a gateway can forward now, and tell every peer what is new."""
        peers, answers = self.peers.connections(), self._prober.answers
        reached = tuple(peer.member for node, peer in peers.items() if answers(node))
        found = self._offering.look(self._forwarding, self._lan, reached)
        differs |= found.forwards != self.offers.forwards
        self.offers = found
        self.routes.serve((*self._owned, *found.local))
        if differs:
            announce = Announce(prefixes=self._owned, forwards=found.forwards)
            if self.discovery is not None:
                self.discovery.advertise(self._owned, found)
            for connection in peers.values():
                self._say(connection, announce)

    def _learn(
        self, connection: Connection, owned: Iterable[Prefix], forwards: Iterable[Prefix]
    ) -> None:
        uncovered = self.routes.announced(connection.member, owned, forwards)
        if uncovered:
            self._audit.uncovered(connection.member, uncovered)

    def _is_sized(self, node: NodeId, connection: Connection) -> bool:
        """Tell whether packets may go over a connection: its path's size is known, or late.

        A path starts at what every path carries and is measured within a round trip or two. A
        packet that is told that first size makes the kernel keep it for ten minutes.
        """
        since = self.peers.since(node)
        late = since is None or self._clock() - since >= SIZING_TIME
        return late or connection.max_packet >= MIN_IPV6_MTU

    def _say(self, connection: Connection, message: Message) -> None:
        try:
            connection.send_message(message)
        except UnreachableError as error:
            # The endpoint reports the connection's end by itself.
            log.debug("%s not told %s: %s", connection.member.name, message.kind, error)

    def _mark(self) -> None:
        if self._publishing is None and not self._closed:
            self._publishing = asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        self._publishing = None
        self.revision += 1
        self._offer()
        if self._forwarder is not None:
            self._forwarder.swap(self.snapshot())
        self._changed()

    def _keep_house(self) -> None:
        later = asyncio.get_running_loop().call_later
        self._housekeeping = later(HOUSEKEEPING, self._keep_house)
        if self._forwarder is not None:
            self._forwarder.expire()
        self._prober.check()

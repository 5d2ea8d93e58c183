"""A simulated network: virtual time, latency, loss, partitions, and machines that talk over it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any

from quicether.counters import Counters
from quicether.dht.contact import Contact
from quicether.dht.core import DhtConfig
from quicether.dht.events import BootstrapWanted, Event, SendRequest
from quicether.dht.node import DhtNode
from quicether.errors import ProtocolError
from quicether.model import Member, NodeId, Prefix, UnderlayAddress
from quicether.overlay.pool import IDLE, KEPT, MAX_POOLED
from quicether.transport.liveness import KEEPALIVE_MAPPED
from support.fake_records import FakeSeals, FakeSigner

WALL_OFFSET = 1_700_000_000.0
NETWORK_ID = hashlib.sha256(b"simulated network").digest()
_ULA = int(IPv6Address("fd00:1:2::"))
PACKET_HEADERS = 60
"""IPv4 and UDP (28 bytes), QUIC short header and tag (27), STREAM frame (5)."""
PACKET_PAYLOAD = 1140
ACK_PACKET = 61
HANDSHAKE_BYTES = 5200
"""A QUIC handshake with certificates on both sides, both directions, headers included."""
KEEPALIVE_BYTES = 120
"""A PING and its acknowledgement, headers included."""
KEPT_BITS = 2 * KEPT * KEEPALIVE_BYTES * 8 / KEEPALIVE_MAPPED
"""Bits a second of the connections that a node keeps alive, and that others keep to it."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the simulated network is like.

    latency: least and greatest one-way delay in seconds. loss: share of messages that are lost
    once and sent again by QUIC, which delays them. pool: connections that a node keeps open of
    those that it opened itself; the others are not its to close. idle: seconds without a question
    either way after which one is closed. Until then it rests; `KEPT` on each side are kept alive.
    """

    latency: tuple[float, float] = (0.005, 0.120)
    loss: float = 0.01
    retransmit: float = 0.25
    pool: int = MAX_POOLED
    idle: float = IDLE


class SimNode:
    """One machine and its place in the network.

    side: nodes on different sides of a partition do not reach each other. observer: its requests
    are not counted as background traffic. sent, received: bytes of questions and answers. upkeep:
    bytes of handshakes, both ways. pool: when each connection that it opened was last used.
    """

    __slots__ = (
        "alive",
        "contact",
        "handshakes",
        "machine",
        "member",
        "observer",
        "place",
        "pool",
        "received",
        "sent",
        "side",
        "upkeep",
        "wake_at",
    )

    def __init__(self, contact: Contact, member: Member, machine: DhtNode, place: float) -> None:
        self.contact = contact
        self.member = member
        self.machine = machine
        self.place = place
        self.alive = True
        self.observer = False
        self.side = 0
        self.sent = 0
        self.received = 0
        self.handshakes = 0
        self.upkeep = 0
        self.wake_at = float("inf")
        self.pool: OrderedDict[int, float] = OrderedDict()

    def join(self, network: Network) -> None:
        """Take note of the network. Liars look around in it."""

    def handle(self, peer: Contact, body: bytes, now: float) -> bytes:
        """Answer a request. Liars override this."""
        return self.machine.handle_request(peer, body, now)


class Network:
    """All nodes and one queue of what happens when. Same seed, same run."""

    def __init__(
        self, seed: int, conditions: Conditions | None = None, config: DhtConfig | None = None
    ) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.conditions = conditions or Conditions()
        self.config = config or DhtConfig()
        self.seals = FakeSeals(NETWORK_ID)
        self.counters = Counters()
        self.nodes: dict[int, SimNode] = {}
        self.bootstrap: list[SimNode] = []
        self.gang: list[tuple[int, Contact]] = []
        self.requests = 0
        self.on_event: Callable[[SimNode, Event], None] | None = None
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self.made = 0
        self.at(600.0, self._prune)

    # -- nodes -----------------------------------------------------------------------------

    def add(self, kind: type[SimNode] = SimNode, prefixes: tuple[Prefix, ...] = ()) -> SimNode:
        """Make a node and start it. It joins through the bootstrap nodes."""
        node = self.make(kind, prefixes)
        self.start(node)
        return node

    def make(self, kind: type[SimNode] = SimNode, prefixes: tuple[Prefix, ...] = ()) -> SimNode:
        """Make a node that answers, and does nothing of its own before `start`."""
        self.made += 1
        number = self.made
        node_id = NodeId(self.random.randbytes(20))
        endpoint = UnderlayAddress(str(IPv4Address(0x0B000000 + number)), 9000)
        contact = Contact.of(node_id, endpoint)
        addresses = (IPv4Address(0x64400000 + number), IPv6Address(_ULA + number))
        member = Member(node_id, f"node{number}", b"", addresses, prefixes)
        machine = DhtNode(
            contact,
            NETWORK_ID,
            self.seals,
            FakeSigner(self.seals, member),
            self.counters,
            self.random,
            WALL_OFFSET,
            self.config,
        )
        node = kind(contact, member, machine, self.random.random())
        node.join(self)
        self.nodes[contact.key] = node
        return node

    def met(self, opener: SimNode, other: SimNode, when: float) -> None:
        """Have a connection be there that was last used before the simulation began."""
        if opener.contact.key not in other.pool:
            opener.pool[other.contact.key] = when
            opener.pool.move_to_end(other.contact.key)

    def start(self, node: SimNode) -> None:
        """Let a node begin its work."""
        node.machine.start(self.now)
        self.settle(node)

    def kill(self, node: SimNode) -> None:
        """Take a node away without a word."""
        node.alive = False
        self.nodes.pop(node.contact.key, None)

    def alive(self) -> list[SimNode]:
        """Return all nodes that are up, in the order in which they came."""
        return list(self.nodes.values())

    # -- time ------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Have action(*args) called at a virtual time."""
        self._count += 1
        heappush(self._queue, (when, self._count, action, args))

    def run(self, until: float) -> None:
        """Let the virtual time pass."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, action, args = heappop(queue)
            action(*args)
        self.now = until

    def settle(self, node: SimNode) -> None:
        """Carry out what a machine asked for, and see to its timers. After every call to one."""
        for event in node.machine.poll():
            if isinstance(event, SendRequest):
                self._send(node, event)
            elif isinstance(event, BootstrapWanted):
                self._connect_bootstrap(node)
            elif self.on_event is not None:
                self.on_event(node, event)
        due = node.machine.next_timer()
        if due is not None and due < node.wake_at:
            node.wake_at = due
            self.at(due, self._wake, node, due)

    # -- inside ----------------------------------------------------------------------------

    def _wake(self, node: SimNode, due: float) -> None:
        if node.alive and node.wake_at == due:
            node.wake_at = float("inf")
            node.machine.handle_timers(self.now)
            self.settle(node)

    def _delay(self, a: SimNode, b: SimNode) -> float:
        least, greatest = self.conditions.latency
        delay = least + abs(a.place - b.place) * (greatest - least)
        delay *= 1.0 + 0.2 * self.random.random()
        if self.random.random() < self.conditions.loss:
            delay += self.conditions.retransmit
        return delay

    def _connect_bootstrap(self, node: SimNode) -> None:
        reachable = [b for b in self.bootstrap if b.alive and b is not node and b.side == node.side]
        for other in reachable[:3]:
            self.at(self.now + 3 * self._delay(node, other), self._connected, node, other)

    def _connected(self, node: SimNode, other: SimNode) -> None:
        if node.alive and other.alive:
            node.machine.add_contact(other.contact, self.now)
            self.settle(node)

    def _send(self, node: SimNode, event: SendRequest) -> None:
        self.requests += 1
        other = self.nodes.get(event.contact.key)
        if other is None or other.side != node.side:
            node.sent += 0 if node.observer else len(event.body) + PACKET_HEADERS
            self.at(self.now + event.timeout, self._failed, node, event.call)
            return
        delay = self._delay(node, other)
        if self._use(node, other):
            delay += 2 * self._delay(node, other)
        self._account(node, other, len(event.body), node.observer)
        self.at(self.now + delay, self._arrive, node, other, event)

    def _use(self, node: SimNode, other: SimNode) -> bool:
        """Use the connection of two nodes; return whether node had to open one."""
        near, far = node.contact.key, other.contact.key
        if self._is_open(node, far):
            pool, key = node.pool, far
        elif self._is_open(other, near):
            pool, key = other.pool, near
        else:
            self._open(node, other)
            return True
        pool[key] = self.now
        pool.move_to_end(key)
        return False

    def _is_open(self, opener: SimNode, key: int) -> bool:
        last = opener.pool.get(key)
        return last is not None and self.now - last <= self.conditions.idle

    def _open(self, node: SimNode, other: SimNode) -> None:
        node.pool[other.contact.key] = self.now
        node.pool.move_to_end(other.contact.key)
        if len(node.pool) > self.conditions.pool:
            node.pool.popitem(last=False)
        if not node.observer:
            for one in (node, other):
                one.handshakes += 1
                one.upkeep += HANDSHAKE_BYTES

    def connections(self) -> dict[int, int]:
        """Return how many connections each node has now, whoever opened them, by its key."""
        counts = dict.fromkeys(self.nodes, 0)
        for near, node in self.nodes.items():
            for far in node.pool:
                if far in counts and self._is_open(node, far):
                    counts[near] += 1
                    counts[far] += 1
        return counts

    def _account(self, sender: SimNode, receiver: SimNode, size: int, free: bool) -> None:
        if not free:
            total = size + PACKET_HEADERS * (1 + size // PACKET_PAYLOAD)
            sender.sent += total
            receiver.received += total

    def _arrive(self, node: SimNode, other: SimNode, event: SendRequest) -> None:
        if not other.alive or other.side != node.side:
            self.at(self.now + event.timeout, self._failed, node, event.call)
            return
        try:
            body = other.handle(node.contact, event.body, self.now)
        except ProtocolError:
            self.at(self.now + event.timeout, self._failed, node, event.call)
            return
        self._account(other, node, len(body), node.observer)
        if not node.observer:
            node.sent += ACK_PACKET
            other.received += ACK_PACKET
        self.at(self.now + self._delay(other, node), self._answer, node, event.call, body)
        self.settle(other)

    def _answer(self, node: SimNode, call: int, body: bytes) -> None:
        if node.alive:
            node.machine.response(call, body, self.now)
            self.settle(node)

    def _failed(self, node: SimNode, call: int) -> None:
        if node.alive:
            node.machine.failed(call, self.now)
            self.settle(node)

    def _prune(self) -> None:
        self.seals.prune(self.now + WALL_OFFSET)
        self.at(self.now + 600.0, self._prune)

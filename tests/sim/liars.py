"""Nodes that lie about peers and values, as well as they can without anybody's key."""

from __future__ import annotations

from bisect import bisect_left, insort

from quicether import cbor
from quicether.dht import messages
from quicether.dht.contact import Contact
from quicether.dht.messages import (
    Cursor,
    FindNode,
    FindValue,
    Nodes,
    Store,
    Stored,
    StoreResult,
    Values,
)
from quicether.model import NodeId, UnderlayAddress
from sim.network import Network, SimNode

GANG = 20


class LiarNode(SimNode):
    """Names contacts that do not exist or other liars, claims to store, and serves what is old.

    A member of the network with a certificate of its own; it joins and publishes like any other.
    """

    __slots__ = ("network", "old")

    def join(self, network: Network) -> None:
        """Meet the other liars."""
        self.network = network
        self.old: dict[int, tuple[bytes, ...]] = {}
        insort(network.gang, (self.contact.key, self.contact), key=_key)

    def handle(self, peer: Contact, body: bytes, now: float) -> bytes:
        """Lie in one of four ways, at random."""
        request = messages.decode_request(body)
        truth = self.machine.handle_request(peer, body, now)
        if isinstance(request, FindNode):
            return messages.encode(Nodes(self._contacts(request.target)))
        if isinstance(request, FindValue):
            return messages.encode(self._values(request))
        if isinstance(request, Store):
            self.old.setdefault(request.key, request.records)
            return messages.encode(Stored((StoreResult.KEPT,) * len(request.records)))
        return truth

    def _contacts(self, target: int) -> tuple[Contact, ...]:
        random = self.network.random
        if random.random() < 0.5:
            return tuple(self._invented(target) for _ in range(20))
        gang = self.network.gang
        at = bisect_left(gang, target, key=_key)
        return tuple(contact for _, contact in gang[max(0, at - GANG // 2) :][:GANG])

    def _invented(self, target: int) -> Contact:
        random = self.network.random
        key = target ^ random.getrandbits(100)
        return Contact.of(NodeId(key.to_bytes(20)), UnderlayAddress("203.0.113.1", 9000))

    def _values(self, request: FindValue) -> Values:
        random = self.network.random
        way = random.random()
        records: tuple[bytes, ...] = ()
        if way < 0.25:
            records = (cbor.encode([1, random.randbytes(100), bytes(64), b"not a certificate"]),)
        elif way < 0.5:
            records = self.old.get(request.key, ())
        return Values(records, self._contacts(request.key), Cursor(1, 2**40), lease=1800)


def _key(pair: tuple[int, Contact]) -> int:
    return pair[0]

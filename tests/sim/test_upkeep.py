"""What a node does while nobody wants anything: bucket refresh, and what connections it keeps."""

from __future__ import annotations

import pytest

from quicether.dht import messages
from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.keyspace import KEY_BITS, bucket_index
from quicether.overlay.pool import IDLE
from quicether.transport.tls import IDLE_TIMEOUT
from sim.network import Conditions, Network, SimNode


class AskedNode(SimNode):
    """Answers, does nothing of its own accord, and notes what it is asked."""

    __slots__ = ("asked",)

    def join(self, network: Network) -> None:
        self.asked: list[type] = []
        self.wake_at = 0.0

    def handle(self, peer: Contact, body: bytes, now: float) -> bytes:
        self.asked.append(type(messages.decode_request(body)))
        return super().handle(peer, body, now)


def in_farthest_bucket(size: int) -> tuple[Network, SimNode, list[AskedNode]]:
    """Return a node that knows so many others, all in one bucket, and has joined."""
    network = Network(1, Conditions(loss=0.0))
    node = network.make()
    others: list[AskedNode] = []
    while len(others) < size:
        other = network.make(AskedNode)
        assert isinstance(other, AskedNode)
        if bucket_index(other.contact.key, node.contact.key) == KEY_BITS - 1:
            others.append(other)
            node.machine.add_contact(other.contact, network.now)
    network.start(node)
    network.run(60.0)
    for other in others:
        other.asked.clear()
    return network, node, others


@pytest.mark.parametrize(("size", "kind"), [(K, messages.Ping), (K - 1, messages.FindNode)])
def test_only_a_bucket_with_room_is_refreshed_by_asking_for_contacts(size: int, kind: type) -> None:
    """Twenty contacts came with each answer, and none could be used."""
    network, _, others = in_farthest_bucket(size)
    network.run(60.0 + network.config.refresh)
    asked = {kind for other in others for kind in other.asked}
    assert kind in asked
    assert asked <= {kind, messages.Ping}


def test_the_refresh_of_a_full_bucket_opens_no_connection_anew() -> None:
    """It comes round to a contact after hours: by then the connection to it had been closed."""
    network, node, _ = in_farthest_bucket(K)
    network.run(3 * 3600.0)
    assert node.handshakes == K  # it has come round
    network.run(12 * 3600.0)
    assert node.handshakes == K
    assert IDLE < IDLE_TIMEOUT

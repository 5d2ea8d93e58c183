"""Hypothesis strategies and small makers for tests of the DHT."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from quicether.dht import messages
from quicether.dht.contact import Contact
from quicether.dht.contents import SubnetContent
from quicether.dht.messages import Cursor, Refusal, StoreResult
from quicether.dht.records import Record
from quicether.model import Member, NodeId, Prefix, UnderlayAddress
from support.fake_records import FakeSeals, FakeSigner

KEYS = st.integers(0, 2**160 - 1)
NODE_IDS = st.binary(min_size=20, max_size=20).map(NodeId)
HOSTS = st.one_of(
    st.integers(0x0B000000, 0x0BFFFFFF).map(lambda n: str(IPv4Address(n))),
    st.integers(0, 2**64).map(lambda n: str(IPv6Address((0x20010DB8 << 96) + n))),
)
ENDPOINTS = st.builds(UnderlayAddress, HOSTS, st.integers(1, 65535))
CONTACTS = st.builds(
    lambda node_id, endpoints: Contact.of(node_id, *endpoints),
    NODE_IDS,
    st.lists(ENDPOINTS, min_size=1, max_size=4),
)
_COUNTS = st.integers(0, 20)
_WIRES = st.lists(st.binary(max_size=60), max_size=8).map(tuple)
_NAMED = st.lists(CONTACTS, max_size=20).map(tuple)
_REVISIONS = st.integers(0, 2**61)
_CURSORS = st.builds(Cursor, st.integers(0, 2**48), _REVISIONS, st.none() | _REVISIONS)

REQUESTS = st.one_of(
    st.just(messages.Ping()),
    st.builds(messages.FindNode, KEYS, _COUNTS),
    st.builds(messages.FindValue, KEYS, _COUNTS, st.none() | _CURSORS),
    st.builds(
        messages.FindValue, KEYS, _COUNTS, st.none() | _CURSORS, st.just(True), st.booleans()
    ),
    st.builds(messages.Store, KEYS, _WIRES, st.binary(max_size=80)),
    st.builds(messages.Notify, KEYS, _WIRES),
)
RESPONSES = st.one_of(
    st.just(messages.Pong()),
    st.builds(messages.Nodes, _NAMED),
    st.builds(messages.Values, _WIRES, _NAMED, _CURSORS, st.booleans(), st.integers(0, 2**16 - 1)),
    st.builds(messages.Stored, st.lists(st.sampled_from(StoreResult)).map(tuple), _NAMED, _WIRES),
    st.just(messages.Refused(Refusal.RATE_LIMITED)),
)

NETWORK_ID = bytes(range(32))


def contact(key: int, port: int = 9000) -> Contact:
    """Return the contact of the node at a place in the key space."""
    return Contact.of(NodeId(key.to_bytes(20)), UnderlayAddress("11.0.0.1", port))


def record(
    owner: int, prefix: Prefix, issued: float, ttl: int = 3600, seals: FakeSeals | None = None
) -> Record:
    """Return a SUBNET record that a fake signer sealed. issued: seconds since 1970."""
    seals = FakeSeals(NETWORK_ID) if seals is None else seals
    member = Member(NodeId(owner.to_bytes(20)), f"node{owner}", b"", (), (prefix,))
    wire = FakeSigner(seals, member).seal(SubnetContent(prefix=prefix), int(issued * 1000), ttl)
    return seals.verify(wire, issued)

"""Every parser of the DHT is fed rubbish: our own errors come out, nothing else, nothing grows."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from quicether import cbor
from quicether.counters import Counters
from quicether.dht import contents, messages, records, watchers
from quicether.dht.contact import Contact, unpack_endpoint
from quicether.dht.contents import RecordRefused
from quicether.dht.core import DhtConfig
from quicether.dht.events import SendRequest
from quicether.dht.keyspace import index_keys
from quicether.dht.node import DhtNode
from quicether.dht.records import RecordVerifier
from quicether.dht.store import StoreLimits
from quicether.errors import ProtocolError, QuicEtherError
from quicether.model import DropReason, Member
from support.certificates import Network
from support.dht_samples import KEYS, NETWORK_ID, REQUESTS, RESPONSES, contact, record
from support.fake_records import FakeSeals, FakeSigner

HOME = Network()
TRUST = HOME.trust()
NOW = HOME.now.timestamp()

RUBBISH = st.binary(max_size=400)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=20,
)
NAMES = st.sampled_from(["v", "t", "k", "n", "d", "c", "e", "r", "w", "m", "l", "s", "x", "h", "b"])
FIELDS = st.dictionaries(NAMES, VALUES | st.binary(min_size=20, max_size=20)).map(
    lambda fields: cbor.encode({"v": 1, "t": 2} | fields)
)
RECORD_FIELDS = st.dictionaries(
    st.sampled_from(["kind", "owner", "issued", "ttl", "prefix", "node", "prefixes", "addresses"]),
    VALUES
    | st.sampled_from(["NODE", "SUBNET", "GW", "GW_SUBNET"])
    | st.binary(min_size=5, max_size=5)
    | st.lists(st.binary(min_size=5, max_size=20)),
).map(lambda fields: cbor.encode({"kind": "NODE", "issued": 1, "ttl": 600} | fields))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Return good bytes with some of them changed, cut off, or repeated."""
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        if not body:
            break
        at = draw(st.integers(0, len(body) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                body[at] = draw(st.integers(0, 255))
            case 1:
                del body[at:]
            case 2:
                body[at:at] = body[: draw(st.integers(0, 20))]
    return bytes(body)


MESSAGES = st.one_of(
    RUBBISH,
    FIELDS,
    damaged(REQUESTS.map(messages.encode)),
    damaged(RESPONSES.map(messages.encode)),
)


@given(MESSAGES)
def test_a_message_parser_raises_nothing_but_protocol_errors(body: bytes) -> None:
    for decode in (messages.decode_request, messages.decode_response):
        try:
            message = decode(body)
        except ProtocolError as error:
            assert len(str(error)) < 600
        else:
            assert decode(messages.encode(message)) == message


@given(RUBBISH)
def test_a_contact_parser_raises_nothing_but_protocol_errors(wire: bytes) -> None:
    for parse in (Contact.unpack, unpack_endpoint):
        try:
            parse(wire)
        except ProtocolError:
            continue


ENVELOPES = st.one_of(
    RUBBISH,
    VALUES.map(cbor.encode),
    st.tuples(RECORD_FIELDS, RUBBISH, RUBBISH).map(lambda parts: cbor.encode([1, *parts])),
)


ALICE = HOME.member("alice", prefixes=(ip_network("10.1.0.0/16"),))
CERTIFICATE = ALICE.certificate.public_bytes(Encoding.DER)


def signed(body: bytes) -> bytes:
    """Return a record that says anything at all, signed by a member as it should be."""
    signature = ALICE.key.private.sign(b"quicether record 1\0" + TRUST.network_id + body)
    return cbor.encode([1, body, signature, CERTIFICATE])


SAID = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["NODE", "SUBNET", "GW", "GW_SUBNET", "OTHER"]) | VALUES,
        "owner": st.sampled_from([ALICE.node_id.value, bytes(20), b""]) | VALUES,
        "issued": st.sampled_from([int(NOW * 1000), 0, int((NOW + 1000) * 1000)]) | VALUES,
        "ttl": st.sampled_from([0, 59, 60, 600, 3600, 3601]) | VALUES,
    },
    optional={
        "prefix": st.sampled_from([b"\x0a\x01\x02\x00\x18", b"\x0a\x02\x00\x00\x10", b""]) | VALUES,
        "node": st.binary(min_size=20, max_size=20) | VALUES,
        "prefixes": st.lists(st.just(b"\x0a\x01\x02\x03\x20"), max_size=17) | VALUES,
        "addresses": st.lists(st.binary(max_size=20), max_size=9) | VALUES,
    },
).map(cbor.encode)


@given(SAID | damaged(SAID) | RUBBISH, st.binary(max_size=80))
def test_what_a_member_signs_is_believed_only_if_it_may_say_it(body: bytes, other: bytes) -> None:
    for wire in (signed(body), cbor.encode([1, body, other, CERTIFICATE])):
        try:
            believed = records.verify(wire, TRUST, NOW)
        except RecordRefused as refusal:
            assert len(str(refusal)) < 600
        else:
            assert wire == signed(body)
            assert believed.owner == ALICE.node_id
            assert all(ip_network("10.1.0.0/16").supernet_of(p) for p in believed.content.claims())
            assert believed.issued / 1000 - 300 <= NOW < believed.end


def test_what_a_member_may_say_is_believed() -> None:
    """Or else the test above would say nothing of what comes behind the signature."""
    fields = {"owner": ALICE.node_id.value, "issued": int(NOW * 1000), "ttl": 600}
    prefix = {"kind": "SUBNET", "prefix": b"\x0a\x01\x02\x00\x18"}
    believed = records.verify(signed(cbor.encode(fields | prefix)), TRUST, NOW)
    assert believed.content.claims() == (ip_network("10.1.2.0/24"),)


@given(ENVELOPES)
def test_a_record_parser_raises_nothing_but_refusals(wire: bytes) -> None:
    for parse in (
        lambda body: records.verify(body, TRUST, NOW),
        lambda body: RecordVerifier(TRUST).verify(body, NOW),
        records.claimed_owner,
        records.claimed_slot,
        records.certificate_of,
        records.without_certificate,
        lambda body: records.with_certificate(body, b"certificate"),
    ):
        try:
            parse(wire)
        except RecordRefused as refusal:
            assert len(str(refusal)) < 600


@given(RECORD_FIELDS | RUBBISH)
def test_record_content_raises_nothing_but_refusals(body: bytes) -> None:
    try:
        owner, content, issued, ttl = contents.decode_content(body)
    except RecordRefused:
        return
    again = contents.encode_content(owner, content, issued, ttl)
    assert contents.decode_content(again) == (owner, content, issued, ttl)


SEALS = FakeSeals(NETWORK_ID)
LIMITS = StoreLimits(per_owner=8, per_key=6, total=16)
SEALED = [
    record(owner, ip_network(f"10.{block}.0.0/16"), NOW + later, ttl, SEALS)
    for owner in range(1, 9)
    for block in range(4)
    for later, ttl in ((0.0, 3600), (1.0, 60), (2.0, 0), (3.0, 3600))
]
(INDEX,) = index_keys(NETWORK_ID, ip_network("10.0.0.0/16"))
PEER_KEYS = st.integers(1, 12) | KEYS
PLACES = st.sampled_from([key for each in SEALED[:16] for key in each.keys]) | KEYS
WIRES = st.lists(st.sampled_from(SEALED).map(lambda each: each.wire) | RUBBISH, max_size=8)
WIRES_TUPLE = WIRES.map(tuple)
CURSORS = st.none() | st.builds(messages.Cursor, st.integers(0, 9), st.integers(0, 99))
SAYING = st.one_of(
    MESSAGES,
    st.builds(messages.Store, PLACES, WIRES_TUPLE, st.binary(max_size=80)).map(messages.encode),
    st.builds(messages.Notify, st.just(INDEX), WIRES_TUPLE).map(messages.encode),
    st.builds(messages.FindValue, PLACES, cursor=CURSORS, watch=st.booleans()).map(messages.encode),
    st.builds(
        messages.Values,
        WIRES_TUPLE,
        st.just(()),
        st.builds(messages.Cursor, st.integers(0, 9), st.integers(0, 99)),
        st.booleans(),
        st.sampled_from([0, 3600]),
    ).map(messages.encode),
)


def machine(place: int = 1 << 159) -> DhtNode:
    me = contact(place)
    config = DhtConfig(store=LIMITS, rate=1e6, burst=1e6)
    signer = FakeSigner(SEALS, Member(me.node_id, "fuzzed", b"", (), ()))
    node = DhtNode(me, NETWORK_ID, SEALS, signer, Counters(), Random(1), NOW, config)
    node.watch(INDEX, 0.0)
    node.start(0.0)
    return node


def check_bounds(node: DhtNode) -> None:
    store = node._core.store
    kept = [value.record for slots in store._keys.values() for value in slots.values()]
    owners = Counter(each.owner for each in kept)
    assert node.stored_values == len(kept) <= LIMITS.total
    assert max(owners.values(), default=0) <= LIMITS.per_owner
    assert max(map(len, store._keys.values()), default=0) <= LIMITS.per_key
    assert store._bytes == sum(len(each.wire) for each in kept)
    assert set(kept) <= set(SEALED)
    assert all(key in each.keys for key in store for each in store.records(key, NOW))
    assert set(node.directory) <= set(SEALED)
    assert not any(each.withdraws for each in node.directory)


@given(st.lists(st.tuples(PEER_KEYS, SAYING), max_size=20))
def test_a_machine_survives_any_peer(conversation: list[tuple[int, bytes]]) -> None:
    node = machine()
    now = 0.0
    for key, body in conversation:
        now += 1.0
        try:
            answer = node.handle_request(contact(key), body, now)
        except QuicEtherError:
            pass
        else:
            messages.decode_response(answer)
        node.handle_timers(now)
        for event in node.poll():
            if isinstance(event, SendRequest):
                messages.decode_request(event.body)
                node.response(event.call, body, now)
    node.poll()
    check_bounds(node)


@pytest.mark.parametrize("seed", range(5))
def test_a_flood_of_stores_from_many_owners_is_bounded(seed: int) -> None:
    node = machine()
    random = Random(seed)
    offered = [(key, each.wire) for each in SEALED for key in each.keys]
    random.shuffle(offered)
    for number, (key, wire) in enumerate(offered):
        body = messages.encode(messages.Store(key, (wire, random.randbytes(50))))
        node.handle_request(contact(number + 1), body, 5.0)
        node.poll()
        check_bounds(node)
    assert node.stored_values == LIMITS.total
    assert node._core.counters.drops[DropReason.RECORD_LIMIT]


def test_a_flood_of_watches_and_peers_is_bounded() -> None:
    node = machine(INDEX)
    with pytest.raises(ProtocolError):
        node.handle_request(contact(1), b"rubbish", 0.0)
    for number in range(3000):
        # Nobody is closer to these than the machine is, so it may well keep them.
        key = INDEX ^ number // 2
        body = messages.encode(messages.FindValue(key, watch=True))
        node.handle_request(contact(number), body, 1.0)
    assert len(node.poll()) <= 1100
    assert len(node._responder._watchers) == watchers.MAX_WATCHES
    assert len(node._core.table) <= 160 * 20
    node = machine(INDEX)
    for number in range(1000):
        body = messages.encode(messages.FindValue(INDEX, watch=True))
        node.handle_request(contact(number), body, 1.0)
    assert len(node._responder._watchers) == watchers.MAX_PER_KEY

"""Every parser of the DHT is fed rubbish: our own errors come out, nothing else, nothing grows."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether import cbor
from quicether.counters import Counters
from quicether.dht import contents, messages, records
from quicether.dht.contact import Contact, unpack_endpoint
from quicether.dht.contents import RecordRefused
from quicether.dht.core import DhtConfig
from quicether.dht.events import SendRequest
from quicether.dht.node import DhtNode
from quicether.dht.records import RecordVerifier
from quicether.dht.store import StoreLimits
from quicether.errors import ProtocolError, QuicEtherError
from quicether.model import Member
from support.certificates import Network
from support.dht_samples import KEYS, NETWORK_ID, REQUESTS, RESPONSES, contact
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


def machine() -> DhtNode:
    seals = FakeSeals(NETWORK_ID)
    me = contact(1 << 159)
    limits = StoreLimits(per_owner=8, per_key=8, total=16)
    config = DhtConfig(store=limits, rate=1e6, burst=1e6)
    signer = FakeSigner(seals, Member(me.node_id, "fuzzed", b"", (), ()))
    node = DhtNode(me, NETWORK_ID, seals, signer, Counters(), Random(1), NOW, config)
    node.start(0.0)
    return node


@given(st.lists(st.tuples(KEYS, MESSAGES), max_size=20))
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
    assert node.stored_values <= 16


def test_a_flood_of_stores_from_many_owners_is_bounded() -> None:
    node = machine()
    with pytest.raises(ProtocolError):
        node.handle_request(contact(1), b"rubbish", 0.0)
    for key in range(5000):
        body = messages.encode(messages.FindValue(key, watch=True))
        node.handle_request(contact(key), body, 1.0)
    assert len(node.poll()) <= 1100
    assert len(node._watchers) <= 512
    assert len(node._core.table) <= 160 * 20

"""Records signed with real keys, carried with real certificates, judged by a real authority."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from random import Random

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from quicether import cbor
from quicether.counters import Counters
from quicether.dht import keyspace, messages, records
from quicether.dht.contents import (
    Content,
    GatewayContent,
    GatewaySubnetContent,
    NodeContent,
    RecordRefused,
    SubnetContent,
)
from quicether.dht.node import DhtNode
from quicether.dht.records import RecordSigner, RecordVerifier
from quicether.errors import TrustError
from quicether.model import DropReason, Member, NodeId, Prefix, UnderlayAddress
from support.certificates import Identity, Network
from support.dht_samples import contact

LAN = IPv4Network("192.168.7.0/24")
HOME = Network()
NOW = HOME.now.timestamp()
TRUST = HOME.trust()
ALICE = HOME.member("alice", prefixes=(LAN,))
BOB = HOME.member("bob")


def signer(identity: Identity, network_id: bytes = TRUST.network_id) -> RecordSigner:
    der = identity.certificate.public_bytes(Encoding.DER)
    return RecordSigner(network_id, identity.node_id, der, identity.key.private.sign)


def seal(
    content: Content, by: Identity = ALICE, *, ago: float = 0.0, ttl: int | None = None
) -> bytes:
    issued = int((NOW - ago) * 1000)
    return signer(by).seal(content, issued, content.max_ttl if ttl is None else ttl)


def refusal(wire: bytes, wall: float = NOW) -> RecordRefused:
    with pytest.raises(RecordRefused) as caught:
        records.verify(wire, TRUST, wall)
    assert isinstance(caught.value, TrustError)
    return caught.value


CONTENTS: list[Content] = [
    NodeContent(
        addresses=(UnderlayAddress("198.51.100.7", 9000), UnderlayAddress("2001:db8::7", 9001)),
        capabilities=("gateway",),
    ),
    SubnetContent(prefix=LAN),
    GatewaySubnetContent(prefix=IPv4Network("192.168.7.128/25")),
    GatewayContent(node=BOB.node_id, prefixes=(LAN,)),
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content.kind)
def test_a_good_record_comes_back_as_it_was(content: Content) -> None:
    wire = seal(content)
    record = records.verify(wire, TRUST, NOW)
    assert record.content == content
    assert record.owner == ALICE.node_id
    assert record.member.name == "alice"
    assert record.wire is wire
    assert record.keys == content.keys(TRUST.network_id, ALICE.node_id)
    assert record.end == pytest.approx(NOW + content.max_ttl, abs=0.01)
    assert len(wire) < 1000


def test_a_subnet_is_kept_under_its_own_key_and_in_the_index() -> None:
    record = records.verify(seal(SubnetContent(prefix=LAN)), TRUST, NOW)
    assert record.keys == (
        keyspace.subnet_key(TRUST.network_id, LAN),
        keyspace.key_of(TRUST.network_id, "INDEX", "192.0.0.0/8"),
    )


def test_one_flipped_bit_anywhere_spoils_a_record() -> None:
    wire = seal(SubnetContent(prefix=LAN))
    for at in range(0, len(wire), 7):
        spoiled = bytearray(wire)
        spoiled[at] ^= 0x10
        with pytest.raises(RecordRefused):
            records.verify(bytes(spoiled), TRUST, NOW)


def test_a_signature_of_another_member_is_refused() -> None:
    content = records._open(seal(SubnetContent(prefix=LAN), BOB))
    stolen = cbor.encode([1, content[0], content[1], signer(ALICE).certificate])
    assert refusal(stolen).reason is DropReason.RECORD_SIGNATURE


def test_a_record_in_the_name_of_another_is_refused() -> None:
    forger = RecordSigner(
        TRUST.network_id, ALICE.node_id, signer(BOB).certificate, BOB.key.private.sign
    )
    wire = forger.seal(SubnetContent(prefix=LAN), int(NOW * 1000), 3600)
    assert refusal(wire).reason is DropReason.RECORD_SIGNATURE


def test_a_certificate_of_another_authority_is_refused() -> None:
    stranger = Network("elsewhere").member("alice", prefixes=(LAN,))
    assert refusal(seal(SubnetContent(prefix=LAN), stranger)).reason is DropReason.RECORD_SIGNATURE


def test_a_record_of_another_network_is_refused() -> None:
    wire = signer(ALICE, bytes(32)).seal(SubnetContent(prefix=LAN), int(NOW * 1000), 3600)
    assert refusal(wire).reason is DropReason.RECORD_SIGNATURE


def test_an_expired_certificate_is_refused() -> None:
    later = NOW + timedelta(days=2).total_seconds()
    wire = signer(ALICE).seal(SubnetContent(prefix=LAN), int(later * 1000), 3600)
    assert refusal(wire, later).reason is DropReason.RECORD_SIGNATURE


@pytest.mark.parametrize("prefix", ["192.168.0.0/16", "192.168.8.0/24", "0.0.0.0/0", "::/0"])
def test_a_prefix_that_the_certificate_does_not_cover_is_refused(prefix: str) -> None:
    error = refusal(seal(SubnetContent(prefix=ip_network(prefix))))
    assert error.reason is DropReason.RECORD_NOT_COVERED
    assert prefix in str(error)
    assert "alice" in str(error)


def test_a_gateway_for_addresses_beyond_its_certificate_is_refused() -> None:
    other: Prefix = IPv6Network("fd00::/64")
    content = GatewayContent(node=BOB.node_id, prefixes=(LAN, other))
    assert refusal(seal(content)).reason is DropReason.RECORD_NOT_COVERED


def test_a_nodes_own_address_needs_no_prefix_in_the_certificate() -> None:
    member = TRUST.judge(signer(BOB).certificate, HOME.now)
    content = SubnetContent(prefix=member.host_prefixes[0])
    assert records.verify(seal(content, BOB), TRUST, NOW).content == content


@pytest.mark.parametrize(
    ("ago", "good"),
    [(-290, True), (-310, False), (0, True), (3590, True), (3610, False), (1e6, False)],
)
def test_age_counts_within_five_minutes_of_skew(ago: float, good: bool) -> None:
    wire = seal(SubnetContent(prefix=LAN), ago=ago)
    if good:
        records.verify(wire, TRUST, NOW)
    else:
        assert refusal(wire).reason is DropReason.RECORD_TIME


@pytest.mark.parametrize("ttl", [1, 59, 3600 + 1, 86_400])
def test_a_ttl_out_of_bounds_is_refused(ttl: int) -> None:
    assert refusal(seal(SubnetContent(prefix=LAN), ttl=ttl)).reason in {
        DropReason.RECORD_TIME,
        DropReason.RECORD_MALFORMED,
    }


def test_a_gateway_record_lives_ten_minutes_at_most() -> None:
    content = GatewaySubnetContent(prefix=LAN)
    assert refusal(seal(content, ttl=700)).reason is DropReason.RECORD_TIME


def test_a_withdrawal_outlives_what_it_withdraws() -> None:
    wire = seal(SubnetContent(prefix=LAN), ttl=0, ago=3600)
    record = records.verify(wire, TRUST, NOW)
    assert record.withdraws
    assert record.end > NOW + 300


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xff",
        b"\x80",
        cbor.encode([2, b"", b"", b""]),
        cbor.encode({"a": 1}),
        cbor.encode([1, b"x" * 5000, b"", b""]),
        cbor.encode([1, b"", b"", b""]),
    ],
)
def test_rubbish_is_malformed(wire: bytes) -> None:
    assert refusal(wire).reason is DropReason.RECORD_MALFORMED


def test_an_unknown_kind_is_malformed_although_signed() -> None:
    body = cbor.encode(
        {"kind": "ALIEN", "owner": ALICE.node_id.value, "issued": int(NOW * 1000), "ttl": 600}
    )
    signature = ALICE.key.private.sign(b"quicether record 1\0" + TRUST.network_id + body)
    wire = cbor.encode([1, body, signature, signer(ALICE).certificate])
    assert refusal(wire).reason is DropReason.RECORD_MALFORMED


def test_host_bits_in_a_prefix_are_malformed() -> None:
    body = cbor.encode(
        {
            "kind": "SUBNET",
            "owner": ALICE.node_id.value,
            "issued": int(NOW * 1000),
            "ttl": 600,
            "prefix": b"\xc0\xa8\x07\x01\x18",
        }
    )
    signature = ALICE.key.private.sign(b"quicether record 1\0" + TRUST.network_id + body)
    wire = cbor.encode([1, body, signature, signer(ALICE).certificate])
    assert refusal(wire).reason is DropReason.RECORD_MALFORMED


def test_a_certificate_can_be_left_out_and_put_back() -> None:
    wire = seal(SubnetContent(prefix=LAN))
    thin = records.without_certificate(wire)
    assert len(thin) < len(wire) / 2
    assert refusal(thin).reason is DropReason.RECORD_MALFORMED
    assert records.claimed_owner(thin) == ALICE.node_id
    assert records.with_certificate(thin, records.certificate_of(wire)) == wire


class CountingTrust:
    """A real trust that counts how often it is asked, and can turn against everyone."""

    def __init__(self) -> None:
        self.asked = 0
        self.revoked = False
        self.network_id = TRUST.network_id

    def judge(self, certificate: bytes, now: datetime) -> Member:
        self.asked += 1
        if self.revoked:
            raise TrustError("the certificate is revoked")
        return TRUST.judge(certificate, now)


def test_the_verifier_remembers_what_it_checked() -> None:
    trust = CountingTrust()
    verifier = RecordVerifier(trust)
    wire = seal(SubnetContent(prefix=LAN))
    first = verifier.verify(wire, NOW)
    assert verifier.verify(wire, NOW + 1) is first
    assert trust.asked == 1
    with pytest.raises(RecordRefused):
        verifier.verify(wire, NOW + 4000)


def test_a_revoked_owner_is_noticed_at_once_when_told_and_within_a_minute_else() -> None:
    trust = CountingTrust()
    verifier = RecordVerifier(trust)
    wire = seal(SubnetContent(prefix=LAN))
    verifier.verify(wire, NOW)
    trust.revoked = True
    verifier.verify(wire, NOW + 59)
    with pytest.raises(RecordRefused):
        verifier.verify(wire, NOW + 61)
    trust.revoked = False
    verifier.verify(wire, NOW + 62)
    trust.revoked = True
    verifier.forget(ALICE.node_id)
    with pytest.raises(RecordRefused):
        verifier.verify(wire, NOW + 63)


def test_the_verifier_is_bounded() -> None:
    verifier = RecordVerifier(TRUST, limit=10)
    for number in range(30):
        content = SubnetContent(prefix=IPv4Network((0xC0A80700 + number, 32)))
        verifier.verify(seal(content), NOW)
    assert len(verifier._records) == 10


def test_a_tampered_certificate_does_not_ride_on_a_remembered_record() -> None:
    verifier = RecordVerifier(TRUST)
    wire = seal(SubnetContent(prefix=LAN))
    verifier.verify(wire, NOW)
    swapped = records.with_certificate(wire, signer(BOB).certificate)
    with pytest.raises(RecordRefused) as caught:
        verifier.verify(swapped, NOW)
    assert caught.value.reason is DropReason.RECORD_SIGNATURE


def test_a_member_is_named_by_its_certificate() -> None:
    member: Member = records.verify(seal(SubnetContent(prefix=LAN)), TRUST, NOW).member
    assert member.node_id == NodeId.of_public_key(ALICE.key.public_raw)


def test_a_record_ends_with_the_certificate_of_its_owner() -> None:
    short = HOME.member("short", prefixes=(LAN,), validity=timedelta(seconds=600))
    for ttl in (3600, 0):
        record = records.verify(seal(SubnetContent(prefix=LAN), short, ttl=ttl), TRUST, NOW)
        assert record.end == pytest.approx(NOW + 600, abs=1)


def test_a_record_whose_certificate_ended_is_neither_used_nor_passed_on() -> None:
    short = HOME.member("brief", prefixes=(LAN,), validity=timedelta(seconds=600))
    verifier = RecordVerifier(TRUST)
    node = DhtNode(contact(7), TRUST.network_id, verifier, signer(BOB), Counters(), Random(1), NOW)
    node.start(0.0)
    content = SubnetContent(prefix=LAN)
    wire = seal(content, short)
    own, index = content.keys(TRUST.network_id, short.node_id)
    node.watch(index, 0.0)
    for key in (own, index):
        node.handle_request(contact(9), messages.encode(messages.Store(key, (wire,))), 1.0)
    passed_on: list[int] = []
    used: list[int] = []
    for now in (590.0, 610.0):
        node.handle_timers(now)
        used.append(len(node.directory))
        question = messages.encode(messages.FindValue(own))
        answer = messages.decode_response(node.handle_request(contact(9), question, now))
        assert isinstance(answer, messages.Values)
        passed_on.append(len(answer.records))
    assert used == passed_on == [1, 0]

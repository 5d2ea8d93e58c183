"""Who is let in: every kind of certificate that must not be, and the one that is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from quicether.errors import ConfigError, TrustError
from quicether.identity import certificates, rfc3779
from quicether.identity.addresses import derived_addresses
from quicether.identity.authority import Authority
from quicether.identity.certificates import Grant
from quicether.identity.issuing import build_authority, build_node, self_signed
from quicether.identity.keys import NodeKey
from quicether.identity.trust import AuthorityTrust, PinnedTrust
from quicether.model import NodeId

LAN = ip_network("192.168.77.0/24")
ADDRESSES = (ip_address("100.64.0.7"), ip_address("fd00::7"))
YEAR = timedelta(days=365)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@pytest.fixture
def trust(authority: Authority, now: datetime) -> AuthorityTrust:
    return AuthorityTrust(authority.certificate, now)


def test_certified_node_is_a_member_with_all_that_it_may(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    key = NodeKey.generate()
    certificate = authority.sign(
        key.public_raw, "laptop", now=now, addresses=ADDRESSES, prefixes=[LAN], groups=["it", "ops"]
    )
    member = trust.judge(der(certificate), now)
    assert member.node_id == key.node_id
    assert member.public_key == key.public_raw
    assert (member.name, member.addresses, member.prefixes) == ("laptop", ADDRESSES, (LAN,))
    assert member.groups == {"it", "ops"}
    assert member.not_after == now + YEAR
    assert member.serial == certificate.serial_number
    assert member.covers(ip_network("192.168.77.128/25"))
    assert not member.covers(ip_network("192.168.76.0/23"))
    # and again, from memory
    assert trust.judge(der(certificate), now) == member


def test_neighbouring_own_addresses_are_not_taken_for_prefixes(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    pair = (ip_address("100.64.0.2"), ip_address("100.64.0.3"))
    certificate = authority.sign(NodeKey.generate().public_raw, "a", now=now, addresses=pair)
    assert trust.judge(der(certificate), now).prefixes == ()


def test_address_inside_an_own_prefix_leaves_the_prefix_whole(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    certificate = authority.sign(
        NodeKey.generate().public_raw,
        "a",
        now=now,
        addresses=[ip_address("192.168.77.1")],
        prefixes=[LAN],
    )
    assert LAN in trust.judge(der(certificate), now).prefixes


def test_other_authority_is_refused_whatever_it_calls_itself(
    trust: AuthorityTrust, now: datetime, tmp_path: Path
) -> None:
    rogue = Authority.create(tmp_path / "rogue", "home", now)
    certificate = rogue.sign(NodeKey.generate().public_raw, "laptop", now=now)
    with pytest.raises(TrustError, match="not signed by the authority of network home"):
        trust.judge(der(certificate), now)


def test_self_signed_certificate_is_refused(trust: AuthorityTrust, now: datetime) -> None:
    certificate = self_signed(NodeKey.generate(), "laptop", "home", ADDRESSES, now)
    with pytest.raises(TrustError, match="not signed by the authority"):
        trust.judge(der(certificate), now)


def test_certificate_ends_and_begins(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    certificate = der(
        authority.sign(NodeKey.generate().public_raw, "a", now=now, validity=timedelta(days=1))
    )
    trust.judge(certificate, now - timedelta(minutes=5))
    trust.judge(certificate, now + timedelta(days=1))
    with pytest.raises(TrustError, match=r"expired at 2026-11-23 12:00:00 UTC"):
        trust.judge(certificate, now + timedelta(days=1, seconds=1))
    with pytest.raises(TrustError, match=r"not valid before 2026-11-22 11:55:00 UTC"):
        trust.judge(certificate, now - timedelta(minutes=5, seconds=1))


def test_nothing_counts_after_the_authority_itself_expired(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    certificate = authority.sign(NodeKey.generate().public_raw, "a", now=now)
    with pytest.raises(TrustError, match="authority's certificate expired"):
        trust.judge(der(certificate), now + 31 * YEAR)


def test_the_authority_is_no_node(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    with pytest.raises(TrustError, match="is an authority's, not a node's"):
        trust.judge(der(authority.certificate), now)


def test_certificate_of_another_network_under_the_same_key_is_refused(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    other = build_authority(authority.key, "office", now)
    certificate = build_node(
        other, authority.key, NodeKey.generate().public_raw, Grant("a", ADDRESSES), YEAR, now
    )
    with pytest.raises(TrustError, match="for another network"):
        trust.judge(der(certificate), now)


def test_revoked_certificate_is_refused_at_once(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    bad = authority.sign(NodeKey.generate().public_raw, "laptop", now=now)
    good = authority.sign(NodeKey.generate().public_raw, "desk", now=now)
    member = trust.judge(der(bad), now)
    assert not trust.is_revoked(member)
    assert trust.accept_revocations(authority.revoke("laptop", now).der)
    assert trust.is_revoked(member)
    with pytest.raises(TrustError, match="certificate of laptop is revoked"):
        trust.judge(der(bad), now)
    trust.judge(der(good), now)


@pytest.mark.parametrize("size", [0, 1, 100, certificates.MAX_CERTIFICATE + 1])
def test_rubbish_is_refused(trust: AuthorityTrust, now: datetime, size: int) -> None:
    with pytest.raises(TrustError, match=r"damaged|bytes, more than"):
        trust.judge(b"0" * size, now)


def _signed_by(
    authority: Authority,
    now: datetime,
    change: Callable[[list[x509.Extension[x509.ExtensionType]]], None],
) -> bytes:
    """A certificate that the authority really signed, but with other extensions."""
    key = NodeKey.generate()
    sound = build_node(
        authority.certificate, authority.key, key.public_raw, Grant("a", ADDRESSES), YEAR, now
    )
    extensions = list(sound.extensions)
    change(extensions)
    builder = (
        x509.CertificateBuilder()
        .subject_name(sound.subject)
        .issuer_name(sound.issuer)
        .public_key(Ed25519PublicKey.from_public_bytes(key.public_raw))
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + YEAR)
    )
    for extension in extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return der(builder.sign(authority.key, None))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (x509.BasicConstraints, "lacks extension 2.5.29.19"),
        (x509.KeyUsage, "lacks extension 2.5.29.15"),
        (x509.ExtendedKeyUsage, "lacks extension 2.5.29.37"),
        (x509.SubjectAlternativeName, "lacks extension 2.5.29.17"),
        (x509.UnrecognizedExtension, "lacks extension 1.3.6.1.5.5.7.1.7"),
    ],
)
def test_certificate_without_a_part_is_refused(
    authority: Authority,
    trust: AuthorityTrust,
    now: datetime,
    kind: type[x509.ExtensionType],
    match: str,
) -> None:
    def remove(extensions: list[x509.Extension[x509.ExtensionType]]) -> None:
        extensions[:] = [each for each in extensions if not isinstance(each.value, kind)]

    with pytest.raises(TrustError, match=match):
        trust.judge(_signed_by(authority, now, remove), now)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), "an authority's, not a node's"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), "both ends of a TLS"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), "both ends of a TLS"),
        (rfc3779.encode([LAN]), "address 100.64.0.7 is in none of its IP blocks"),
        (x509.UnrecognizedExtension(rfc3779.IP_ADDR_BLOCKS, b"0"), "IP address blocks are damaged"),
        (x509.SubjectAlternativeName([x509.DNSName("a")]), "has 0 overlay addresses"),
        (
            x509.SubjectAlternativeName([x509.IPAddress(ip_network("10.0.0.0/8"))]),
            "has 0 overlay addresses|damaged",
        ),
    ],
)
def test_certificate_with_a_strange_part_is_refused(
    authority: Authority,
    trust: AuthorityTrust,
    now: datetime,
    value: x509.ExtensionType,
    match: str,
) -> None:
    def replace(extensions: list[x509.Extension[x509.ExtensionType]]) -> None:
        extensions[:] = [
            x509.Extension(each.oid, each.critical, value) if each.oid == value.oid else each
            for each in extensions
        ]

    with pytest.raises(TrustError, match=match):
        trust.judge(_signed_by(authority, now, replace), now)


def test_certificate_of_another_kind_of_key_is_refused(
    authority: Authority, trust: AuthorityTrust, now: datetime
) -> None:
    elliptic = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(elliptic.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + YEAR)
    )
    with pytest.raises(TrustError, match="not an Ed25519 key"):
        trust.judge(der(builder.sign(authority.key, None)), now)
    with pytest.raises(TrustError, match="no Ed25519 signature"):
        trust.judge(der(builder.sign(elliptic, hashes.SHA256())), now)


def test_only_an_authoritys_certificate_makes_a_trust(authority: Authority, now: datetime) -> None:
    node = authority.sign(NodeKey.generate().public_raw, "a", now=now)
    with pytest.raises(TrustError, match="not signed by itself"):
        AuthorityTrust(node, now)
    lone = self_signed(NodeKey.generate(), "a", "home", ADDRESSES, now)
    with pytest.raises(TrustError, match="may not sign certificates"):
        AuthorityTrust(lone, now)
    with pytest.raises(TrustError, match="authority's certificate expired"):
        AuthorityTrust(authority.certificate, now + 31 * YEAR)


def test_network_ids_tell_networks_apart(authority: Authority, now: datetime) -> None:
    same = AuthorityTrust(authority.certificate, now)
    other = AuthorityTrust(build_authority(Ed25519PrivateKey.generate(), "home", now), now)
    ids = {same.network_id, other.network_id}
    ids |= {PinnedTrust({}, name).network_id for name in ("home", "office")}
    assert len(ids) == 4
    assert same.network_id == authority.network_id
    assert {len(network_id) for network_id in ids} == {32}


# Pinned peers


def test_pinned_peer_gets_what_the_pin_says_and_not_what_it_claims(now: datetime) -> None:
    key = NodeKey.generate()
    trust = PinnedTrust({key.node_id: (LAN,)}, "home")
    certificate = self_signed(key, "root", "home", [ip_address("10.0.0.1")], now)
    member = trust.judge(der(certificate), now)
    assert member.name == key.node_id.short
    assert member.addresses == derived_addresses(key.node_id, trust.network_id)
    assert member.prefixes == (LAN,)
    assert (member.groups, member.serial, member.not_after) == (frozenset(), None, None)


def test_pinned_peer_has_the_name_that_its_pin_gives(now: datetime) -> None:
    key = NodeKey.generate()
    trust = PinnedTrust({key.node_id: ()}, "home", {key.node_id: "desk"})
    certificate = self_signed(key, "whatever", "home", ADDRESSES, now)
    assert trust.judge(der(certificate), now).name == "desk"
    with pytest.raises(ConfigError, match="node name"):
        PinnedTrust({key.node_id: ()}, "home", {key.node_id: "No Name"})


def test_two_pins_of_one_name_are_refused() -> None:
    names = {NodeKey.generate().node_id: "desk" for _ in range(2)}
    with pytest.raises(ConfigError, match="two pinned nodes are called desk"):
        PinnedTrust(dict.fromkeys(names, ()), "home", names)


def test_key_that_is_not_pinned_is_refused(now: datetime) -> None:
    pinned, stranger = NodeKey.generate(), NodeKey.generate()
    trust = PinnedTrust({pinned.node_id: ()}, "home")
    certificate = self_signed(stranger, "a", "home", ADDRESSES, now)
    with pytest.raises(TrustError, match=f"{stranger.node_id} is not among the pinned peers"):
        trust.judge(der(certificate), now)


def test_pinned_key_under_a_strangers_signature_is_refused(
    authority: Authority, now: datetime
) -> None:
    key = NodeKey.generate()
    trust = PinnedTrust({key.node_id: ()}, "home")
    with pytest.raises(TrustError, match="not signed by node"):
        trust.judge(der(authority.sign(key.public_raw, "a", now=now)), now)


def test_pinned_peer_of_another_network_or_time_is_refused(now: datetime) -> None:
    key = NodeKey.generate()
    trust = PinnedTrust({key.node_id: ()}, "home")
    with pytest.raises(TrustError, match="for another network"):
        trust.judge(der(self_signed(key, "a", "office", ADDRESSES, now)), now)
    with pytest.raises(TrustError, match="expired"):
        trust.judge(der(self_signed(key, "a", "home", ADDRESSES, now)), now + 11 * YEAR)


def test_derived_addresses_yield_on_conflict() -> None:
    network_id = PinnedTrust({}, "home").network_id
    node_id = NodeId(bytes(range(20)))
    first = derived_addresses(node_id, network_id)
    second = derived_addresses(node_id, network_id, {first[0]})
    assert first[0] in ip_network("100.64.0.0/10")
    assert first[1].packed == b"\xfd" + network_id[:5] + bytes(range(10))
    assert second == (first[0] + 1, first[1])

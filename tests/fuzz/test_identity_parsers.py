"""Whatever bytes come: TrustError or IdentityError come out, and nothing is believed."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import certificates, rfc3779
from quicether.identity.certificates import Grant
from quicether.identity.issued import Book
from quicether.identity.issuing import build_authority, build_node, self_signed
from quicether.identity.keys import NodeKey, parse_private_pem, parse_public_key
from quicether.identity.revocation import RevocationList
from quicether.identity.trust import AuthorityTrust, PinnedTrust

NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)
SIGNER: Final = Ed25519PrivateKey.generate()
AUTHORITY: Final = build_authority(SIGNER, "home", NOW)
KEY: Final = NodeKey.generate()
GRANT: Final = Grant(
    "laptop",
    (ip_address("100.64.0.1"), ip_address("fd00::1")),
    (ip_network("192.168.1.0/24"), ip_network("192.168.2.0/24")),
    frozenset({"it"}),
)
NODE: Final = build_node(AUTHORITY, SIGNER, KEY.public_raw, GRANT, timedelta(days=1), NOW)
DER: Final = NODE.public_bytes(Encoding.DER)
SELF: Final = self_signed(KEY, "laptop", "home", GRANT.addresses, NOW).public_bytes(Encoding.DER)
CRL: Final = RevocationList.sign(SIGNER, AUTHORITY, 3, {5: NOW, 6: NOW}, NOW).der
BLOCKS: Final = rfc3779.encode(GRANT.prefixes).value


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """whole with a few bytes changed, cut out, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 12))
        data[at : at + length] = draw(st.binary(max_size=12))
    return bytes(data)


@settings(max_examples=400)
@given(st.one_of(mutated(DER), st.binary(max_size=200)))
def test_authority_trust_believes_only_what_was_signed(der: bytes) -> None:
    trust = AuthorityTrust(AUTHORITY, NOW)
    if der == DER:
        assert trust.judge(der, NOW).name == "laptop"
        return
    with pytest.raises(TrustError):
        trust.judge(der, NOW)


@settings(max_examples=400)
@given(st.one_of(mutated(SELF), st.binary(max_size=200)))
def test_pinned_trust_believes_only_what_was_signed(der: bytes) -> None:
    trust = PinnedTrust({KEY.node_id: ()}, "home")
    if der == SELF:
        assert trust.judge(der, NOW).node_id == KEY.node_id
        return
    with pytest.raises(TrustError):
        trust.judge(der, NOW)


@settings(max_examples=400)
@given(mutated(DER))
def test_content_of_any_certificate_is_read_or_refused(der: bytes) -> None:
    """Behind the signature check too: an authority of another make may sign strange things."""
    try:
        loaded = certificates.load_der(der)
        certificates.network_of(loaded)
        certificates.check_validity(loaded, NOW)
        member = certificates.parse(loaded)
    except TrustError:
        return
    assert member.addresses
    assert len(member.prefixes) <= rfc3779.MAX_PREFIXES


@settings(max_examples=400)
@given(st.one_of(mutated(AUTHORITY.public_bytes(Encoding.DER)), st.binary(max_size=200)))
def test_authority_certificate_is_sound_or_refused(der: bytes) -> None:
    try:
        trust = AuthorityTrust(certificates.load_der(der), NOW)
    except TrustError:
        return
    assert trust.authority_key == SIGNER.public_key().public_bytes_raw()


@settings(max_examples=400)
@given(st.one_of(mutated(CRL), st.binary(max_size=200)))
def test_revocation_list_is_the_authoritys_or_refused(der: bytes) -> None:
    trust = AuthorityTrust(AUTHORITY, NOW)
    if der == CRL:
        assert trust.accept_revocations(der)
        return
    with pytest.raises(TrustError):
        trust.accept_revocations(der)
    assert trust.revocations is None


@settings(max_examples=600)
@given(st.one_of(mutated(BLOCKS), st.binary(max_size=64)))
def test_address_blocks_are_canonical_or_refused(der: bytes) -> None:
    try:
        prefixes = rfc3779.decode(der)
    except TrustError:
        return
    assert rfc3779.encode(prefixes).value == der


@given(st.text(max_size=100))
def test_public_key_is_read_or_refused(text: str) -> None:
    try:
        assert len(parse_public_key(text)) == 32
    except ConfigError as error:
        assert "public key" in str(error)


@given(st.one_of(st.binary(max_size=200), mutated(certificates.to_pem(NODE))))
def test_own_files_are_read_or_refused(data: bytes) -> None:
    try:
        found = certificates.load_pem(data, "node.crt")
        assert all(isinstance(each, x509.Certificate) for each in found)
    except IdentityError as error:
        assert "node.crt is damaged" in str(error)
    with pytest.raises(IdentityError):
        parse_private_pem(data, Path("node.key"))


@given(st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_book_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "issued.json"
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            assert Book.load(path).nodes == {}
        except IdentityError as error:
            assert "damaged" in str(error)

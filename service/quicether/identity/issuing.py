"""The making of certificates; what stands in them is listed in `certificates`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicether.identity import rfc3779
from quicether.identity.certificates import DOMAIN, EVERYTHING, Grant, network_of
from quicether.identity.keys import NodeKey
from quicether.identity.names import check_network_name
from quicether.model import Address, NodeId, host_prefix

BACKDATE: Final = timedelta(minutes=5)
"""How long before its making a certificate is valid, for clocks that are behind."""
AUTHORITY_VALIDITY: Final = timedelta(days=30 * 365)
"""Long, because every node of the network has the authority's certificate on disk."""
SELF_SIGNED_VALIDITY: Final = timedelta(days=3650)


def build_authority(key: Ed25519PrivateKey, network: str, now: datetime) -> x509.Certificate:
    """Return the self-signed certificate of a network's authority.

    It covers all of IPv4 and IPv6, as RFC 3779 asks of whoever certifies parts of them.
    """
    public_key = key.public_key()
    identifier = _key_identifier(public_key)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, check_network_name(network)),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{network} authority"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + AUTHORITY_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
        .add_extension(rfc3779.encode(EVERYTHING), critical=True)
        .sign(key, None)
    )


def build_node(
    issuer: x509.Certificate,
    issuer_key: Ed25519PrivateKey,
    public_raw: bytes,
    grant: Grant,
    validity: timedelta,
    now: datetime,
) -> x509.Certificate:
    """Return a certificate of the node that holds the raw public key, signed by issuer.

    The validity is cut where the issuer's own ends.
    """
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _node_builder(
            public_raw,
            network_of(issuer),
            grant,
            now - BACKDATE,
            min(now + validity, issuer.not_valid_after_utc),
        )
        .issuer_name(issuer.subject)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
            critical=False,
        )
        .sign(issuer_key, None)
    )


def self_signed(
    key: NodeKey, name: str, network: str, addresses: Sequence[Address], now: datetime
) -> x509.Certificate:
    """Return the certificate that a node without an authority shows to peers that pin its key.

    It proves the key and nothing else: what the node may do stands in the peers' pins.
    """
    builder = _node_builder(
        key.public_raw,
        check_network_name(network),
        Grant(name, tuple(addresses)),
        now - BACKDATE,
        now + SELF_SIGNED_VALIDITY,
    )
    subject = _node_subject(name, network, frozenset())
    return builder.issuer_name(subject).sign(key.private, None)


def _node_builder(
    public_raw: bytes, network: str, grant: Grant, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    public_key = Ed25519PublicKey.from_public_bytes(public_raw)
    alternatives: list[x509.GeneralName] = [x509.DNSName(f"{grant.name}.{network}.{DOMAIN}")]
    alternatives += [x509.IPAddress(address) for address in grant.addresses]
    blocks = (*grant.prefixes, *(host_prefix(address) for address in grant.addresses))
    return (
        x509.CertificateBuilder()
        .subject_name(_node_subject(grant.name, network, grant.groups))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier(_key_identifier(public_key)), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(rfc3779.encode(blocks), critical=True)
    )


def _node_subject(name: str, network: str, groups: frozenset[str]) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, network),
            *(
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, group)
                for group in sorted(groups)
            ),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _key_identifier(key: Ed25519PublicKey) -> bytes:
    return NodeId.of_public_key(key.public_bytes_raw()).value


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )

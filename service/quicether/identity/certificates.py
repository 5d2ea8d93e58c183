"""What node and authority certificates say: X.509 (RFC 5280) with Ed25519 keys (RFC 8410).

What a node's certificate says, and where a stranger's tools find it:

    name               subject CN; subjectAltName dNSName NAME.NETWORK.quicether
    network            subject O
    groups             subject OU, one each
    NodeId             subjectKeyIdentifier: RFC 7093 section 2 method 1 is the very NodeId
    overlay addresses  subjectAltName iPAddress, one each
    prefixes           IP address blocks (RFC 3779, critical), the addresses among them
    use                keyUsage digitalSignature, extendedKeyUsage serverAuth and clientAuth

Only `parse` reads certificates that strangers send, and it is called on none whose signature
was not checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import rfc3779
from quicether.identity.addresses import check_overlay_address
from quicether.identity.names import check_group_name, check_network_name, check_node_name
from quicether.model import Address, Member, NodeId, Prefix, host_prefix

DOMAIN: Final = "quicether"
"""Nodes answer to NAME.NETWORK.quicether."""
MAX_CERTIFICATE: Final = 16 << 10
"""Largest certificate that is looked at, in bytes of DER."""
MAX_ADDRESSES: Final = 16
MAX_GROUPS: Final = 32

EVERYTHING: Final[tuple[Prefix, ...]] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
"""What an authority may certify."""
READ_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises when it meets malformed or unknown content."""

T = TypeVar("T", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Grant:
    """What an authority certifies of a node.

    addresses: the node's own overlay addresses; prefixes: what it may advertise or forward for.
    """

    name: str
    addresses: tuple[Address, ...]
    prefixes: tuple[Prefix, ...] = ()
    groups: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raises ConfigError: a name or address that none can have, or too many of something."""
        check_node_name(self.name)
        for group in self.groups:
            check_group_name(group)
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise ConfigError(
                f"node {self.name} has {len(self.addresses)} overlay addresses, "
                f"not 1 to {MAX_ADDRESSES}"
            )
        for address in self.addresses:
            check_overlay_address(address)
        if len(self.prefixes) > rfc3779.MAX_BLOCKS - MAX_ADDRESSES:
            raise ConfigError(
                f"node {self.name} has {len(self.prefixes)} prefixes, more than "
                f"{rfc3779.MAX_BLOCKS - MAX_ADDRESSES}"
            )
        if len(self.groups) > MAX_GROUPS:
            raise ConfigError(
                f"node {self.name} is in {len(self.groups)} groups, more than {MAX_GROUPS}"
            )


def load_der(der: bytes) -> x509.Certificate:
    """Return the certificate in der.

    Raises TrustError: damaged, or larger than `MAX_CERTIFICATE`.
    """
    if len(der) > MAX_CERTIFICATE:
        raise TrustError(f"the certificate has {len(der)} bytes, more than {MAX_CERTIFICATE}")
    try:
        return x509.load_der_x509_certificate(der)
    except READ_ERRORS:
        raise TrustError("the certificate is damaged") from None


def public_raw(certificate: x509.Certificate) -> bytes:
    """Return the raw Ed25519 public key that the certificate is about.

    Raises TrustError: another kind of key, or a damaged one.
    """
    try:
        key = certificate.public_key()
    except READ_ERRORS:
        raise TrustError("the certificate's public key is damaged") from None
    if not isinstance(key, Ed25519PublicKey):
        raise TrustError("the certificate's public key is not an Ed25519 key")
    return key.public_bytes_raw()


def check_signature(certificate: x509.Certificate, issuer_raw: bytes, issuer: str) -> None:
    """Check that the raw public key issuer_raw signed the certificate.

    issuer: how a sentence calls the holder of that key.
    Raises TrustError: it did not.
    """
    try:
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
            raise TrustError(f"the certificate is not signed by {issuer}: no Ed25519 signature")
        Ed25519PublicKey.from_public_bytes(issuer_raw).verify(
            certificate.signature, certificate.tbs_certificate_bytes
        )
    except InvalidSignature:
        raise TrustError(f"the certificate is not signed by {issuer}") from None
    except READ_ERRORS:
        raise TrustError("the certificate's signature is damaged") from None


def check_validity(
    certificate: x509.Certificate, now: datetime, what: str = "the certificate"
) -> None:
    """Check that the certificate is valid at now (an aware datetime).

    what: how a sentence calls it. Raises TrustError: it is not.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise TrustError(f"{what} is not valid before {when(begin)}; now it is {when(now)}")
    if now > end:
        raise TrustError(f"{what} expired at {when(end)}")


def when(moment: datetime) -> str:
    """Return a time as sentences show it: UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def parse(certificate: x509.Certificate) -> Member:
    """Return what a node certificate says, its signature and time left unchecked.

    Raises TrustError: it is no certificate of a node; the sentence says what is wrong.
    """
    try:
        return _parse(certificate)
    except x509.ExtensionNotFound as error:
        raise TrustError(
            f"the certificate lacks extension {error.oid.dotted_string}, which a node's has"
        ) from None
    except READ_ERRORS:
        raise TrustError("the certificate's content is damaged") from None
    except ConfigError as error:
        raise TrustError(f"the certificate names what no node may be: {error}") from None


def network_of(certificate: x509.Certificate) -> str:
    """Return the name of the network that the certificate is for.

    Raises TrustError: it names none.
    """
    try:
        return check_network_name(_only_attribute(certificate, NameOID.ORGANIZATION_NAME, "O"))
    except (*READ_ERRORS, ConfigError):
        raise TrustError("the certificate names no network in its subject") from None


def check_authority(certificate: x509.Certificate, now: datetime) -> bytes:
    """Return the raw public key of an authority's certificate that is sound and valid.

    Raises TrustError: it is not.
    """
    raw = public_raw(certificate)
    check_signature(certificate, raw, "itself")
    network_of(certificate)
    try:
        constraints = _extension(certificate, x509.BasicConstraints)
        usage = _extension(certificate, x509.KeyUsage)
        whole = rfc3779.decode(_address_blocks(certificate))
    except READ_ERRORS:
        raise TrustError("the authority's certificate is damaged") from None
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise TrustError("the certificate is not an authority's: it may not sign certificates")
    if whole != EVERYTHING:
        raise TrustError("the authority's certificate does not cover all of IPv4 and IPv6")
    check_validity(certificate, now, "the authority's certificate")
    return raw


def to_pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates in PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def load_pem(pem: bytes, where: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM file of our own.

    where: the file, for sentences. Raises IdentityError: damaged, or none in it.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except READ_ERRORS:
        raise IdentityError(f"certificate {where} is damaged: no certificate in PEM") from None


def _parse(certificate: x509.Certificate) -> Member:
    raw = public_raw(certificate)
    if _extension(certificate, x509.BasicConstraints).ca:
        raise TrustError("the certificate is an authority's, not a node's")
    if not _extension(certificate, x509.KeyUsage).digital_signature:
        raise TrustError("the certificate's key usage does not allow a TLS handshake")
    uses = set(_extension(certificate, x509.ExtendedKeyUsage))
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= uses:
        raise TrustError("the certificate is not for both ends of a TLS connection")
    blocks = rfc3779.decode(_address_blocks(certificate))
    addresses = _addresses(certificate)
    own = {host_prefix(address) for address in addresses}
    grant = Grant(
        name=_only_attribute(certificate, NameOID.COMMON_NAME, "CN"),
        addresses=addresses,
        prefixes=tuple(block for block in blocks if not _within(block, own)),
        groups=frozenset(
            str(attribute.value)
            for attribute in certificate.subject.get_attributes_for_oid(
                NameOID.ORGANIZATIONAL_UNIT_NAME
            )
        ),
    )
    member = Member(
        node_id=NodeId.of_public_key(raw),
        name=grant.name,
        public_key=raw,
        addresses=grant.addresses,
        prefixes=grant.prefixes,
        groups=grant.groups,
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
    )
    for address in addresses:
        if not any(address in block for block in blocks):
            raise TrustError(f"the certificate's address {address} is in none of its IP blocks")
    return member


def _within(block: Prefix, own: set[Prefix]) -> bool:
    """Tell whether block is nothing but own addresses, which adjacency has joined."""
    if block.num_addresses > len(own):
        return False
    return all(host_prefix(address) in own for address in block)


def _addresses(certificate: x509.Certificate) -> tuple[Address, ...]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    found = names.get_values_for_type(x509.IPAddress)
    return tuple(item for item in found if isinstance(item, IPv4Address | IPv6Address))


def _address_blocks(certificate: x509.Certificate) -> bytes:
    extension = certificate.extensions.get_extension_for_oid(rfc3779.IP_ADDR_BLOCKS).value
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise TypeError("cryptography has learnt RFC 3779")
    return extension.value


def _extension(certificate: x509.Certificate, kind: type[T]) -> T:
    return certificate.extensions.get_extension_for_class(kind).value


def _only_attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier, label: str) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    if len(found) != 1:
        raise ValueError(f"{label} occurs {len(found)} times")
    return str(found[0].value)

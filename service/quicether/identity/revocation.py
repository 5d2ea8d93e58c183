"""The list of certificates that no longer count: an X.509 CRL signed by the authority.

A list is the whole truth of its time. Its CRL number (RFC 5280 section 5.2.3) orders the lists:
a node keeps the highest that it ever saw, from whichever peer, and passes that on. `nextUpdate`
does not matter here: an old list stays in force until a newer one comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

from quicether.errors import ConfigError, TrustError
from quicether.identity.certificates import READ_ERRORS

MAX_LIST: Final = 56 << 10
"""Largest list in bytes of DER, so that it travels in one control message."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A verified list.

    number: of two lists the one with the higher number is in force.
    serials: serial numbers of the certificates that are revoked. der: the signed list itself.
    """

    number: int
    issued: datetime
    serials: frozenset[int]
    der: bytes

    @classmethod
    def sign(
        cls,
        key: Ed25519PrivateKey,
        authority: x509.Certificate,
        number: int,
        revoked: Mapping[int, datetime],
        now: datetime,
    ) -> Self:
        """Return the authority's list of that number.

        revoked: serial number → when it was revoked.
        Raises ConfigError: the list would be larger than `MAX_LIST`.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now)
            .next_update(max(authority.not_valid_after_utc, now + timedelta(days=1)))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, since in sorted(revoked.items()):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(since)
                .build()
            )
        der = builder.sign(key, None).public_bytes(Encoding.DER)
        if len(der) > MAX_LIST:
            raise ConfigError(
                f"the revocation list would have {len(der)} bytes for {len(revoked)} "
                f"certificates, more than {MAX_LIST}; start a new network"
            )
        return cls(number, now.replace(microsecond=0), frozenset(revoked), der)

    @classmethod
    def parse(cls, der: bytes, authority_key: bytes) -> Self:
        """Return the list in der once its signature is checked.

        authority_key: raw public key.
        Raises TrustError: damaged, too large, or not signed by the authority.
        """
        if len(der) > MAX_LIST:
            raise TrustError(f"the revocation list has {len(der)} bytes, more than {MAX_LIST}")
        try:
            crl = x509.load_der_x509_crl(der)
            if crl.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
                raise TrustError("the revocation list has no Ed25519 signature")
            Ed25519PublicKey.from_public_bytes(authority_key).verify(
                crl.signature, crl.tbs_certlist_bytes
            )
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            serials = frozenset(entry.serial_number for entry in crl)
            return cls(number, crl.last_update_utc, serials, der)
        except InvalidSignature:
            raise TrustError(
                "the revocation list is not signed by the network's authority"
            ) from None
        except READ_ERRORS:
            raise TrustError("the revocation list is damaged") from None

    def newer_of(self, other: RevocationList | None) -> RevocationList:
        """Return whichever of the two is in force."""
        return self if other is None or self.number >= other.number else other

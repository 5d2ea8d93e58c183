"""Who is a member: the one question that authorities and pinned peers both answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address
from typing import Final, Protocol

from cryptography import x509

from quicether.errors import ConfigError, TrustError
from quicether.identity import certificates
from quicether.identity.addresses import derived_addresses
from quicether.identity.names import check_network_name, check_node_name
from quicether.identity.revocation import RevocationList
from quicether.model import Address, Member, NodeId, Prefix

_CACHED_CERTIFICATES: Final = 4096
"""Certificates whose signature and content are remembered; a signature costs about 100 µs."""


class Trust(Protocol):
    """Judges certificates for one network."""

    @property
    def network(self) -> str:
        """The network's name on this machine."""

    @property
    def network_id(self) -> bytes:
        """What sets this network apart from every other, 32 bytes. Same on all its members."""

    def judge(self, certificate: bytes, now: datetime) -> Member:
        """Return the member that a DER certificate proves.

        The TLS stack has already checked that the peer holds the certificate's key.
        Raises TrustError: unknown signer, damaged, not yet or no longer valid, revoked, or a
        content that its kind does not allow; the sentence says which.
        """


class AuthorityTrust:
    """Trusts whom a network's authority certified and did not revoke."""

    def __init__(
        self,
        authority: x509.Certificate,
        now: datetime,
        revocations: RevocationList | None = None,
    ) -> None:
        """Raises TrustError: authority is no sound, valid certificate of an authority."""
        self.authority = authority
        self.network = certificates.network_of(authority)
        self._authority_key = certificates.check_authority(authority, now)
        self._network_id = authority_network_id(self._authority_key)
        self._revocations = revocations
        self._sound: dict[bytes, tuple[x509.Certificate, Member]] = {}

    @property
    def network_id(self) -> bytes:
        """SHA-256 over a label and the authority's public key."""
        return self._network_id

    @property
    def authority_key(self) -> bytes:
        """The authority's raw public key, 32 bytes."""
        return self._authority_key

    @property
    def revocations(self) -> RevocationList | None:
        """The newest revocation list that was accepted; None when nothing was ever revoked."""
        return self._revocations

    def accept_revocations(self, der: bytes) -> bool:
        """Take over a signed revocation list if it is newer than the one in force.

        Returns whether it was newer; the caller then looks after open connections and the disk.
        Raises TrustError: damaged, or not signed by the authority.
        """
        offered = RevocationList.parse(der, self._authority_key)
        if self._revocations is not None and offered.number <= self._revocations.number:
            return False
        self._revocations = offered
        return True

    def is_revoked(self, member: Member) -> bool:
        """Tell whether the certificate that member was judged by is revoked by now."""
        revocations = self._revocations
        return revocations is not None and member.serial in revocations.serials

    def judge(self, certificate: bytes, now: datetime) -> Member:
        """Return the member that a DER certificate proves; see `Trust.judge`."""
        fingerprint = hashlib.sha256(certificate).digest()
        known = self._sound.get(fingerprint)
        if known is None:
            known = self._check(certificate)
            if len(self._sound) >= _CACHED_CERTIFICATES:
                del self._sound[next(iter(self._sound))]
            self._sound[fingerprint] = known
        loaded, member = known
        certificates.check_validity(self.authority, now, "the authority's certificate")
        certificates.check_validity(loaded, now)
        if self.is_revoked(member):
            raise TrustError(f"the certificate of {member.name} is revoked")
        return member

    def _check(self, der: bytes) -> tuple[x509.Certificate, Member]:
        loaded = certificates.load_der(der)
        # First of all the signature: what strangers write is never interpreted.
        certificates.check_signature(
            loaded, self._authority_key, f"the authority of network {self.network}"
        )
        member = certificates.parse(loaded)
        if certificates.network_of(loaded) != self.network:
            raise TrustError(f"the certificate of {member.name} is for another network")
        return loaded, member


class PinnedTrust:
    """Trusts a list of keys, for networks that are too small for an authority.

    A pinned peer's certificate proves its key alone. Everything else comes from here: prefixes
    from its pin, its name from whoever pinned it (else the short NodeId), its overlay addresses
    derived from its NodeId. Two pinned peers whose derived IPv4 addresses meet (one chance in
    four million) are told apart by NodeId: the lower one keeps the first candidate.
    """

    def __init__(
        self,
        pins: Mapping[NodeId, tuple[Prefix, ...]],
        network: str,
        names: Mapping[NodeId, str] | None = None,
    ) -> None:
        """Raises ConfigError: network or one of names is malformed, or a name comes twice."""
        self.network = check_network_name(network)
        self._network_id = pinned_network_id(network)
        self._members: dict[NodeId, tuple[str, tuple[Address, ...], tuple[Prefix, ...]]] = {}
        taken: set[IPv4Address] = set()
        for node_id in sorted(pins):
            name = check_node_name((names or {}).get(node_id, node_id.short))
            if any(name == other for other, _, _ in self._members.values()):
                raise ConfigError(f"two pinned nodes are called {name}; give each its own name")
            addresses = derived_addresses(node_id, self._network_id, taken)
            taken.add(addresses[0])
            self._members[node_id] = (name, addresses, tuple(pins[node_id]))

    @property
    def network_id(self) -> bytes:
        """SHA-256 over a label and the network's name."""
        return self._network_id

    def addresses(self, node_id: NodeId) -> tuple[Address, ...]:
        """Return the overlay addresses of a pinned node. Raises KeyError: it is not pinned."""
        return self._members[node_id][1]

    def judge(self, certificate: bytes, now: datetime) -> Member:
        """Return the pinned member that a self-signed DER certificate proves."""
        loaded = certificates.load_der(certificate)
        raw = certificates.public_raw(loaded)
        node_id = NodeId.of_public_key(raw)
        if node_id not in self._members:
            raise TrustError(f"node {node_id} is not among the pinned peers")
        certificates.check_signature(loaded, raw, f"node {node_id} itself")
        claimed = certificates.parse(loaded)
        if certificates.network_of(loaded) != self.network:
            raise TrustError(f"the certificate of node {node_id} is for another network")
        certificates.check_validity(loaded, now)
        name, addresses, prefixes = self._members[node_id]
        return Member(
            node_id=node_id,
            name=name,
            public_key=claimed.public_key,
            addresses=addresses,
            prefixes=prefixes,
        )


def authority_network_id(authority_key: bytes) -> bytes:
    """Return the id of the network whose authority has the raw public key authority_key."""
    return hashlib.sha256(b"quicether network authority\0" + authority_key).digest()


def pinned_network_id(network: str) -> bytes:
    """Return the id of the network of that name that has no authority."""
    return hashlib.sha256(b"quicether network pinned\0" + network.encode()).digest()

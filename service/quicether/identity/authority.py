"""A network's authority: the key that says who is a member, and the book of what it said.

All of it lies in one folder: `authority.crt` (public), `authority.key` and `issued.json` (for
root alone), `revoked.crl` (public). Commands that change the folder lock it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import certificates, files, issuing
from quicether.identity.addresses import (
    IPV4_POOL,
    choose_ipv4,
    ipv6_address,
    names_addresses,
)
from quicether.identity.certificates import Grant
from quicether.identity.issued import (
    MAX_CERTIFICATES,
    MAX_NODES,
    Book,
    IssuedCertificate,
    IssuedNode,
)
from quicether.identity.keys import parse_private_pem, parse_public_key, private_pem
from quicether.identity.names import check_network_name, check_node_name
from quicether.identity.revocation import RevocationList
from quicether.identity.trust import authority_network_id
from quicether.model import NODE_ID_BYTES, Address, NodeId, Prefix

AUTHORITY_CERTIFICATE: Final = "authority.crt"
AUTHORITY_KEY: Final = "authority.key"
ISSUED: Final = "issued.json"
REVOKED: Final = "revoked.crl"
DEFAULT_VALIDITY: Final = timedelta(days=365)
MIN_VALIDITY: Final = timedelta(minutes=1)
MAX_VALIDITY: Final = timedelta(days=3650)
_NOBODY: Final = NodeId(bytes(NODE_ID_BYTES))
"""Stands for a node whose key is not known yet."""
_SMALLEST_POOL: Final = 30
"""Longest prefix length of an address pool: two usable addresses."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority of one network. directory: its folder."""

    directory: Path
    network: str
    certificate: x509.Certificate
    key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def create(
        cls, directory: Path, network: str, now: datetime, pool: IPv4Network = IPV4_POOL
    ) -> Self:
        """Make a new network: key, certificate and empty book in directory.

        pool: where the nodes' IPv4 addresses are chosen from.
        Raises ConfigError: a bad name or pool; IdentityError: the folder holds a network
        already (it is left alone), or cannot be written.
        """
        check_network_name(network)
        if pool.prefixlen > _SMALLEST_POOL:
            raise ConfigError(f"address pool {pool} is too small; at most /{_SMALLEST_POOL} is")
        files.make_directory(directory, 0o755)
        with files.locked(directory):
            for name in (AUTHORITY_CERTIFICATE, AUTHORITY_KEY, ISSUED):
                if (directory / name).exists():
                    raise IdentityError(
                        f"{directory / name} exists already; a network's authority is never "
                        "overwritten"
                    )
            key = Ed25519PrivateKey.generate()
            certificate = issuing.build_authority(key, network, now)
            owner = files.Owner.current()
            Book(address_pool=pool).save(directory / ISSUED)
            files.write_file(directory / AUTHORITY_KEY, private_pem(key), files.PRIVATE_MODE, owner)
            # Last: where the certificate is, all the rest is too.
            files.write_file(
                directory / AUTHORITY_CERTIFICATE,
                certificates.to_pem(certificate),
                files.PUBLIC_MODE,
                owner,
            )
        return cls(directory, network, certificate, key)

    @classmethod
    def load(cls, directory: Path, now: datetime) -> Self:
        """Return the authority that lies in directory.

        Raises IdentityError: the key is not here, or something is damaged, exposed, expired, or
        does not belong together.
        """
        path = directory / AUTHORITY_KEY
        try:
            key = parse_private_pem(files.read_private(path, "authority key"), path)
        except FileNotFoundError:
            raise IdentityError(
                f"authority key {path} is missing: this machine is not the network's authority"
            ) from None
        certificate = load_authority_certificate(directory / AUTHORITY_CERTIFICATE, now)
        if certificates.public_raw(certificate) != key.public_key().public_bytes_raw():
            raise IdentityError(
                f"authority certificate {directory / AUTHORITY_CERTIFICATE} is not of key {path}"
            )
        return cls(directory, certificates.network_of(certificate), certificate, key)

    @property
    def network_id(self) -> bytes:
        """What sets the network apart from every other, 32 bytes."""
        return authority_network_id(self.key.public_key().public_bytes_raw())

    @property
    def fingerprint(self) -> str:
        """The network id in hex digits, for people to compare."""
        return self.network_id.hex()

    def book(self) -> Book:
        """Return the book as it is now. Raises IdentityError: missing, damaged, exposed."""
        return Book.load(self.directory / ISSUED)

    def sign(
        self,
        public_key: bytes | str,
        name: str,
        *,
        now: datetime,
        addresses: Iterable[Address] = (),
        prefixes: Iterable[Prefix] = (),
        groups: Iterable[str] = (),
        validity: timedelta = DEFAULT_VALIDITY,
    ) -> x509.Certificate:
        """Certify a node and enter it into the book.

        public_key: raw 32 bytes, base64 or PEM. addresses: at most one of each family is
        chosen where none is given; a node that is certified again keeps what it has.
        Raises ConfigError: a name or address that another node has, a revoked node, a prefix
        inside another, a bad validity; IdentityError: the book cannot be read or written.
        """
        raw = public_key if isinstance(public_key, bytes) else parse_public_key(public_key)
        check_node_name(name)
        _check_validity(validity)
        node_id = NodeId.of_public_key(raw)
        with files.locked(self.directory):
            book = self.book()
            book.drop_expired(now)
            known = book.nodes.get(str(node_id))
            _refuse_strangers(book, node_id, known, name)
            grant = Grant(
                name=name,
                addresses=self._addresses(book, node_id, known, tuple(addresses)),
                prefixes=_distinct(prefixes),
                groups=frozenset(groups),
            )
            certificate = issuing.build_node(self.certificate, self.key, raw, grant, validity, now)
            book.nodes[str(node_id)] = IssuedNode(
                name=name,
                public_key=raw.hex(),
                addresses=list(grant.addresses),
                prefixes=list(grant.prefixes),
                groups=sorted(grant.groups),
                certificates=[
                    *(known.certificates if known else ()),
                    IssuedCertificate(
                        serial=f"{certificate.serial_number:x}",
                        not_after=certificate.not_valid_after_utc,
                    ),
                ],
            )
            book.save(self.directory / ISSUED)
        return certificate

    def check_grant(
        self,
        name: str,
        addresses: Iterable[Address],
        prefixes: Iterable[Prefix],
        groups: Iterable[str],
        validity: timedelta,
    ) -> None:
        """Check that a node that nobody knows yet could be certified so, now.

        Raises ConfigError: it could not, see `sign`; IdentityError: the book cannot be read.
        """
        _check_validity(validity)
        book = self.book()
        _refuse_strangers(book, _NOBODY, None, check_node_name(name))
        chosen = self._addresses(book, _NOBODY, None, tuple(addresses))
        Grant(name, chosen, _distinct(prefixes), frozenset(groups))

    def renew(self, node_id: NodeId, now: datetime, validity: timedelta) -> x509.Certificate:
        """Certify a node again with the name, addresses, prefixes and groups that it has.

        Raises ConfigError: the node was never certified, or is revoked; IdentityError: the book
        cannot be read or written.
        """
        node = self.book().nodes.get(str(node_id))
        if node is None:
            raise ConfigError(f"node {node_id} was never certified here")
        return self.sign(
            bytes.fromhex(node.public_key),
            node.name,
            now=now,
            addresses=node.addresses,
            prefixes=node.prefixes,
            groups=node.groups,
            validity=validity,
        )

    def revoke(self, node: str, now: datetime) -> RevocationList:
        """Take back every certificate of a node and return the new revocation list.

        node: name, NodeId, or a unique beginning of it. Revoking a node again changes nothing.
        Raises ConfigError: there is no such node; IdentityError: the book or the list cannot be
        read or written.
        """
        with files.locked(self.directory):
            book = self.book()
            _, entry = book.find(node)
            if not entry.revoked:
                entry.revoked = True
                for certificate in entry.certificates:
                    certificate.revoked = certificate.revoked or now
                book.crl_number += 1
            revocations = RevocationList.sign(
                self.key, self.certificate, book.crl_number, book.revoked(now), now
            )
            # The book first: if the power goes now, the same command mends the list.
            book.save(self.directory / ISSUED)
            files.write_file(
                self.directory / REVOKED,
                revocations.der,
                files.PUBLIC_MODE,
                files.Owner.current(),
            )
        return revocations

    def _addresses(
        self,
        book: Book,
        node_id: NodeId,
        known: IssuedNode | None,
        wanted: tuple[Address, ...],
    ) -> tuple[Address, ...]:
        taken = book.taken(but=node_id)
        for address in wanted:
            if address in taken:
                raise ConfigError(f"address {address} is node {taken[address]}'s already")
            if address in names_addresses(self.network_id):
                raise ConfigError(f"address {address} is where every node answers for names")
        chosen = list(dict.fromkeys(wanted))
        for version in (4, 6):
            if any(address.version == version for address in wanted):
                continue
            kept = [a for a in known.addresses if a.version == version] if known else []
            chosen += kept or [self._choose(version, node_id, taken, book.address_pool)]
        return tuple(chosen)

    def _choose(
        self, version: int, node_id: NodeId, taken: Collection[Address], pool: IPv4Network
    ) -> Address:
        if version == 6:
            return ipv6_address(self.network_id, node_id)
        return choose_ipv4(
            self.network_id, node_id, {a for a in taken if isinstance(a, IPv4Address)}, pool
        )


def load_authority_certificate(path: Path, now: datetime) -> x509.Certificate:
    """Return the authority's certificate kept at path.

    Raises IdentityError: missing, damaged, expired, or no authority's.
    """
    try:
        pem = files.read_public(path, "authority certificate")
    except FileNotFoundError:
        raise IdentityError(f"authority certificate {path} is missing") from None
    loaded = certificates.load_pem(pem, str(path))
    try:
        if len(loaded) != 1:
            raise TrustError(f"the file holds {len(loaded)} certificates, not one")
        certificates.check_authority(loaded[0], now)
    except TrustError as error:
        raise IdentityError(f"authority certificate {path} is refused: {error}") from None
    return loaded[0]


def _check_validity(validity: timedelta) -> None:
    if not MIN_VALIDITY <= validity <= MAX_VALIDITY:
        raise ConfigError(
            f"validity {validity} is not between a minute and {MAX_VALIDITY.days} days"
        )


def _distinct(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return prefixes without repetitions.

    Raises ConfigError: one lies inside another. RFC 3779 (section 2.2.3.6) keeps only the outer
    one, so the node would not know of the inner.
    """
    given = tuple(dict.fromkeys(prefixes))
    outer: Prefix | None = None
    for prefix in sorted(given, key=_order):
        if (
            outer is not None
            and prefix.version == outer.version
            and prefix.network_address in outer
        ):
            raise ConfigError(
                f"prefix {prefix} lies inside prefix {outer}; leave it out, the certificate covers "
                "it, and the setting advertise-subnets names what is advertised of it"
            )
        outer = prefix
    return given


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _refuse_strangers(book: Book, node_id: NodeId, known: IssuedNode | None, name: str) -> None:
    """Raise ConfigError if node_id may not (again) become a member under this name."""
    if known is None and len(book.nodes) >= MAX_NODES:
        raise ConfigError(f"the network has {MAX_NODES} nodes, and no room for {name}")
    if known is not None and known.revoked:
        raise ConfigError(
            f"node {known.name} ({node_id.short}…) is revoked; it can only come back with a new key"
        )
    if known is not None and len(known.certificates) >= MAX_CERTIFICATES:
        raise ConfigError(
            f"node {name} holds {MAX_CERTIFICATES} valid certificates already; revoke it, or wait "
            "for some to expire"
        )
    for other_id, other in book.nodes.items():
        if other.name == name and other_id != str(node_id) and not other.revoked:
            raise ConfigError(
                f"name {name} is node {other_id[:10]}…'s already; choose another name, or revoke "
                "that node first"
            )

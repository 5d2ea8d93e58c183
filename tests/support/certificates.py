"""Networks and their members with real keys and certificates, made in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509

from quicether.identity.certificates import Grant
from quicether.identity.issuing import build_authority, build_node
from quicether.identity.keys import NodeKey
from quicether.identity.trust import AuthorityTrust
from quicether.model import NodeId, Prefix


@dataclass(frozen=True)
class Identity:
    """A member as it knows itself."""

    name: str
    key: NodeKey
    certificate: x509.Certificate

    @property
    def node_id(self) -> NodeId:
        return self.key.node_id


class Network:
    """An authority and those whom it certified."""

    def __init__(self, name: str = "home") -> None:
        self.authority_key = NodeKey.generate()
        self.now = datetime.now(UTC)
        self.authority = build_authority(self.authority_key.private, name, self.now)
        self._members = 0

    def trust(self) -> AuthorityTrust:
        return AuthorityTrust(self.authority, self.now)

    def member(
        self,
        name: str = "node",
        *,
        prefixes: tuple[Prefix, ...] = (),
        key: NodeKey | None = None,
        made: datetime | None = None,
        validity: timedelta = timedelta(days=1),
    ) -> Identity:
        """Return a new member; made: when its certificate was signed, now by default."""
        self._members += 1
        key = key or NodeKey.generate()
        address = IPv4Address("100.64.0.0") + self._members
        certificate = build_node(
            self.authority,
            self.authority_key.private,
            key.public_raw,
            Grant(name, (address,), prefixes),
            validity,
            made or self.now,
        )
        return Identity(name, key, certificate)

"""The authority's book: whom it certified, with what, and what it took back."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from quicether.errors import ConfigError, IdentityError
from quicether.identity import files
from quicether.identity.addresses import IPV4_POOL
from quicether.model import NodeId

MAX_NODES: Final = 20_000
MAX_CERTIFICATES: Final = 64
"""Certificates of one node that may be valid at once."""
_SHORTEST_ID: Final = 4
"""Hex digits below which a beginning of a NodeId is more likely a mistyped name."""
MAX_BOOK: Final = 32 << 20
"""Largest file, in bytes."""

Hex20 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class IssuedCertificate(_Entry):
    """One certificate. serial: its number in hex digits. revoked: since when it does not count."""

    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
    not_after: AwareDatetime
    revoked: AwareDatetime | None = None

    @property
    def number(self) -> int:
        """The serial number."""
        return int(self.serial, 16)


class IssuedNode(_Entry):
    """One node and what its newest certificate says; a revoked node gets no other."""

    name: str
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    addresses: list[IPv4Address | IPv6Address]
    prefixes: list[IPv4Network | IPv6Network] = []
    groups: list[str] = []
    revoked: bool = False
    certificates: Annotated[list[IssuedCertificate], Field(max_length=MAX_CERTIFICATES)] = []


class Book(_Entry):
    """All of it. nodes: by NodeId in hex. crl_number: of the newest revocation list."""

    version: Literal[1] = 1
    address_pool: IPv4Network = IPV4_POOL
    crl_number: Annotated[int, Field(ge=0)] = 0
    nodes: Annotated[dict[Hex20, IssuedNode], Field(max_length=MAX_NODES)] = {}

    @classmethod
    def load(cls, path: Path) -> Book:
        """Return the book kept at path.

        Raises IdentityError: missing, damaged, or open to other users.
        """
        try:
            text = files.read_private(path, "list of issued certificates", limit=MAX_BOOK)
        except FileNotFoundError:
            raise IdentityError(f"list of issued certificates {path} is missing") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise IdentityError(
                f"list of issued certificates {path} is damaged: {where}: {first['msg']}"
            ) from None

    def save(self, path: Path) -> None:
        """Keep the book at path, readable by its owner alone. Raises IdentityError."""
        text = self.model_dump_json(indent=1) + "\n"
        files.write_file(path, text.encode(), files.PRIVATE_MODE, files.Owner.current())

    def taken(self, but: NodeId) -> dict[IPv4Address | IPv6Address, str]:
        """Return address → node name of every node except one. Revoked nodes keep theirs until
        their certificates end."""
        return {
            address: node.name
            for node_id, node in self.nodes.items()
            if node_id != str(but)
            for address in node.addresses
        }

    def find(self, node: str) -> tuple[NodeId, IssuedNode]:
        """Return the node with that name, NodeId, or unique beginning of one (four digits or more).

        Raises ConfigError: there is none, or several.
        """
        by_name = [item for item in self.nodes.items() if item[1].name == node]
        # A revoked node's name may be given anew: the one that still counts is meant.
        found = [item for item in by_name if not item[1].revoked] or by_name
        if not found and len(node) >= _SHORTEST_ID:
            found = [item for item in self.nodes.items() if item[0].startswith(node)]
        if not found:
            raise ConfigError(f"no node {node!r} was certified here")
        if len(found) > 1:
            raise ConfigError(f"{len(found)} nodes are called {node!r}; give more of the node id")
        return NodeId.parse(found[0][0]), found[0][1]

    def revoked(self, now: datetime) -> dict[int, datetime]:
        """Return serial → time of all revoked certificates that have not expired yet."""
        return {
            certificate.number: certificate.revoked
            for node in self.nodes.values()
            for certificate in node.certificates
            if certificate.revoked is not None and certificate.not_after >= now
        }

    def drop_expired(self, now: datetime) -> None:
        """Forget certificates that have expired, and revoked nodes that have no others."""
        for node in self.nodes.values():
            node.certificates = [item for item in node.certificates if item.not_after >= now]
        self.nodes = {
            node_id: node
            for node_id, node in self.nodes.items()
            if node.certificates or not node.revoked
        }

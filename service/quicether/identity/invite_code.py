"""The code that a new machine joins with: short enough to type, or to scan. Pure.

    version and number of endpoints   1 byte, four bits each
    secret                            16 bytes
    inviter                           5 bytes, the beginning of its NodeId
    network                           length and name
    endpoints                         kind (4, 6, or 64 + length of a name), host, port
    check                             2 bytes of SHA-256, against mistyping alone

in base32 (RFC 4648), five characters to a group: 12 groups for network `home` and one IPv4
endpoint. Lower case, blanks, 0 for O and 1 for I are forgiven. What it proves, and to whom, is
told in `enrolment`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

from quicether.errors import ConfigError, TrustError
from quicether.identity.names import check_network_name
from quicether.model import NodeId

SECRET_BYTES: Final = 16
INVITER_BYTES: Final = 5
ID_BYTES: Final = 8
MAX_ENDPOINTS: Final = 4
MAX_TEXT: Final = 1024
"""Longest code that is read, in characters."""
_VERSION: Final = 1
_CHECK_BYTES: Final = 2
_GROUP: Final = 5
_NAME_KIND: Final = 64
_DAMAGED: Final = "the invitation code is mistyped or cut off; copy the whole of it again"


@dataclass(frozen=True, slots=True)
class InviteCode:
    """An invitation as the new machine holds it.

    secret: 16 bytes that inviter and invited alone know. inviter: the first 5 bytes of the
    NodeId that answers. endpoints: where, as (IP address or DNS name, port), one to four.
    """

    secret: bytes = field(repr=False)
    inviter: bytes
    network: str
    endpoints: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        """Raises ConfigError: a malformed network name, endpoint, or number of endpoints."""
        check_network_name(self.network)
        if len(self.secret) != SECRET_BYTES or len(self.inviter) != INVITER_BYTES:
            raise ConfigError("an invitation's secret or inviter has a wrong length")
        if not 1 <= len(self.endpoints) <= MAX_ENDPOINTS:
            raise ConfigError(
                f"an invitation has {len(self.endpoints)} endpoints, not 1 to {MAX_ENDPOINTS}"
            )
        for host, port in self.endpoints:
            if not 0 < port < 1 << 16:
                raise ConfigError(f"port {port} of {host} is not from 1 to 65535")
            if not (0 < len(host) < _NAME_KIND and host.isascii() and host.isprintable()):
                raise ConfigError(f"host {host[:80]!r} is no IP address or DNS name")
            if _is_link_local(host):
                raise ConfigError(f"{host} is link-local; a code needs an address that is unique")

    @property
    def invitation_id(self) -> bytes:
        """What both sides call the invitation on the wire, 8 bytes that tell nothing else."""
        return invitation_id(self.secret)

    def check_inviter(self, server_key: bytes) -> None:
        """Check the public key that the server's TLS handshake proved.

        Raises TrustError: another machine answers at the inviter's address.
        """
        found = NodeId.of_public_key(server_key)
        if not hmac.compare_digest(found.value[:INVITER_BYTES], self.inviter):
            raise TrustError(f"node {found.short}… answered, but another one wrote the invitation")

    def __str__(self) -> str:
        body = bytes([_VERSION << 4 | len(self.endpoints)]) + self.secret + self.inviter
        body += bytes([len(self.network)]) + self.network.encode()
        for host, port in self.endpoints:
            body += _pack_host(host) + port.to_bytes(2)
        text = base64.b32encode(body + _check(body)).decode().rstrip("=")
        return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the code that a person typed.

        Raises ConfigError: mistyped, cut off, or made by a newer version.
        """
        if len(text) > MAX_TEXT:
            raise ConfigError(f"the invitation code is longer than {MAX_TEXT} characters")
        bare = "".join(text.split()).replace("-", "")
        try:
            data = base64.b32decode(bare + "=" * (-len(bare) % 8), casefold=True, map01="I")
        except (binascii.Error, ValueError):
            raise ConfigError(_DAMAGED) from None
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if not body or not hmac.compare_digest(check, _check(body)):
            raise ConfigError(_DAMAGED)
        if body[0] >> 4 != _VERSION:
            raise ConfigError(
                f"the invitation code has version {body[0] >> 4}; this program knows {_VERSION}"
            )
        return cls._read(_Reader(body))

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        try:
            count = reader.take(1)[0] & 0x0F
            secret, inviter = reader.take(SECRET_BYTES), reader.take(INVITER_BYTES)
            network = reader.take(reader.take(1)[0]).decode("ascii")
            endpoints = tuple(
                (_read_host(reader), int.from_bytes(reader.take(2))) for _ in range(count)
            )
        except ValueError:
            raise ConfigError(_DAMAGED) from None
        if reader.left:
            raise ConfigError(_DAMAGED)
        return cls(secret, inviter, network, endpoints)


class _Reader:
    """Takes bytes from the front of a body. Raises ValueError when there are too few."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    @property
    def left(self) -> int:
        return len(self._body)

    def take(self, count: int) -> bytes:
        if count > len(self._body):
            raise ValueError("too short")
        taken, self._body = self._body[:count], self._body[count:]
        return taken


def invitation_id(secret: bytes) -> bytes:
    """Return the id of the invitation with that secret."""
    return hmac.digest(secret, b"quicether invitation id", "sha256")[:ID_BYTES]


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _is_link_local(host: str) -> bool:
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False


def _pack_host(host: str) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        return bytes([_NAME_KIND + len(host)]) + host.encode()
    return bytes([address.version]) + address.packed


def _read_host(reader: _Reader) -> str:
    kind = reader.take(1)[0]
    if kind == 4:
        return str(IPv4Address(reader.take(4)))
    if kind == 6:
        return str(IPv6Address(reader.take(16)))
    if kind <= _NAME_KIND:
        raise ValueError("unknown kind of host")
    return reader.take(kind - _NAME_KIND).decode("ascii")

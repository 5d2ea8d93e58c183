"""The names of one network: NODE.NETWORK.quicether and the way back from an address. Pure.

What a node may be called stands in its certificate (or its pin), so the members that the overlay
knows are all that the zone is made of; nobody can put a name into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

import dns.exception
import dns.name
import dns.reversename

from quicether.errors import ConfigError
from quicether.identity.addresses import IPV4_POOL
from quicether.identity.names import check_node_name
from quicether.model import Address, Member

DOMAIN: Final = "quicether"
"""Under this name every network is a domain."""
MAX_ADDRESSES: Final = 12
"""Addresses in one answer, so that every answer fits into 512 bytes (RFC 1035 section 2.3.4)."""
_UNIQUE_LOCAL: Final = (0xFC, 0xFD)
"""First byte of unique local addresses (RFC 4193)."""
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
_REVERSE4: Final = dns.name.from_text("in-addr.arpa.")
_REVERSE6: Final = dns.name.from_text("ip6.arpa.")


def domain_of(network: str) -> str:
    """Return the domain of a network, without a dot at its end."""
    return f"{network}.{DOMAIN}"


class Zone:
    """The names as they are at one moment. Immutable.

    domain: of the network, absolute. own_name: this node's, absolute; it serves the zone.

    Of two certificates with one name the one that ends later counts, for a machine that was set up
    anew takes the name of its predecessor; where that does not tell, the name leads nowhere rather
    than to a wrong machine. This node's own name is always its own.
    """

    def __init__(self, network: str, me: Member, others: Iterable[Member]) -> None:
        """others: every known member beside this node."""
        self.domain: Final = dns.name.from_text(f"{domain_of(network)}.")
        self.own_name: Final = dns.name.Name((me.name.encode(), *self.domain.labels))
        nodes = _by_name(others) | {me.name: me}
        self._addresses: Final[Mapping[bytes, tuple[Address, ...]]] = {
            name.encode(): member.addresses[:MAX_ADDRESSES] for name, member in nodes.items()
        }
        self._names: Final[Mapping[Address, bytes]] = {
            address: name.encode() for name, member in nodes.items() for address in member.addresses
        }
        self._blocks: Final = _blocks(self._names)

    def addresses(self, label: bytes) -> tuple[Address, ...] | None:
        """Return the addresses of the node with that name in small letters, None without one."""
        return self._addresses.get(label)

    def name(self, address: Address) -> dns.name.Name | None:
        """Return the absolute name of the node that has an overlay address."""
        label = self._names.get(address)
        return None if label is None else dns.name.Name((label, *self.domain.labels))

    def reverse_apex(self, name: dns.name.Name) -> dns.name.Name | None:
        """Return the reverse zone of ours that a name under in-addr.arpa or ip6.arpa lies in.

        Ours are, cut at /16 and /48, the blocks that hold nothing but overlay addresses, and each
        other address of a member by itself.
        """
        for suffix, depth in ((_REVERSE4, 2), (_REVERSE6, 12)):
            extra = len(name) - len(suffix)
            if extra > 0 and name.is_subdomain(suffix):
                address = address_of(name)
                if address in self._names and not any(address in each for each in self._blocks):
                    return name
                block = _block_of(name, extra, depth)
                if block is not None and any(_inside(block, each) for each in self._blocks):
                    return name.split(depth + len(suffix))[1]
        return None


def address_of(name: dns.name.Name) -> Address | None:
    """Return the address that a reverse name stands for, None where it is none."""
    try:
        text = dns.reversename.to_address(name)
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except (dns.exception.DNSException, ValueError):
        return None


def reverse_domain(address: IPv6Address) -> str:
    """Return the reverse zone of the /48 around address, without a dot at its end."""
    return ".".join(reversed(address.exploded.replace(":", "")[:12])) + ".ip6.arpa"


def _by_name(members: Iterable[Member]) -> dict[str, Member]:
    found: dict[str, Member] = {}
    disputed: set[str] = set()
    for member in members:
        name = member.name
        try:
            check_node_name(name)
        except ConfigError:
            continue
        present = found.get(name)
        ends = member.not_after or _FOREVER
        if present is None or ends > (present.not_after or _FOREVER):
            found[name] = member
            disputed.discard(name)
        elif ends == (present.not_after or _FOREVER):
            disputed.add(name)
    return {name: member for name, member in found.items() if name not in disputed}


def _blocks(addresses: Iterable[Address]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the blocks in which no address is anybody else's than the overlay's."""
    networks = {
        address.packed[:6]
        for address in addresses
        if isinstance(address, IPv6Address) and address.packed[0] in _UNIQUE_LOCAL
    }
    return (IPV4_POOL, *(IPv6Network((each + bytes(10), 48)) for each in sorted(networks)))


def _block_of(name: dns.name.Name, extra: int, depth: int) -> IPv4Network | IPv6Network | None:
    """Return the /16 or /48 that the last labels of a reverse name stand for."""
    if extra < depth:
        return None
    labels = [label.decode("ascii", "replace") for label in name.labels[extra - depth : extra]]
    labels.reverse()
    try:
        if depth == 2:
            return IPv4Network(f"{'.'.join(labels)}.0.0/16")
        digits = "".join(labels)
        return IPv6Network(f"{digits[:4]}:{digits[4:8]}:{digits[8:]}::/48")
    except ValueError:
        return None


def _inside(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]

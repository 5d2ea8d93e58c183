"""The host's own network below the overlay: its addresses, its gateways, the way to a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from quicether.errors import UnreachableError
from quicether.host.rtnetlink import LinkInfo, Rtnetlink
from quicether.model import Address, Interface, Prefix

ANYWHERE: Final[tuple[Address, ...]] = (ip_address("192.0.0.8"), ip_address("3fff::1"))
"""The dummy address of RFC 7600 and documentation (RFC 9637): nobody has a route but default."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """What the host is connected to, the overlay's own devices not included.

    addresses: (device, address) of every link that is up, link-local ones left out.
    gateways: next hops of the default routes, IPv4 before IPv6. mtus: (device, bytes) of the
    same links.
    """

    addresses: frozenset[tuple[str, Interface]] = frozenset()
    gateways: tuple[Address, ...] = ()
    mtus: frozenset[tuple[str, int]] = frozenset()

    @property
    def connected(self) -> tuple[Prefix, ...]:
        """The networks that the host is on itself, sorted; single addresses are no network."""
        networks = {address.network for _, address in self.addresses}
        return tuple(
            sorted(
                (net for net in networks if net.prefixlen < net.max_prefixlen),
                key=lambda net: (net.version, net.network_address.packed, net.prefixlen),
            )
        )

    @property
    def own_addresses(self) -> tuple[Address, ...]:
        """The host's own addresses: first those on a link with a default route, IPv4 first."""
        return tuple(
            address.ip
            for _, address in sorted(
                self.addresses,
                key=lambda entry: (
                    not any(gateway in entry[1].network for gateway in self.gateways),
                    entry[1].version,
                    entry[1].ip.packed,
                ),
            )
        )


@dataclass(frozen=True, slots=True)
class UnderlayPath:
    """How packets reach an underlay address. mtu: bytes, of the route or else of the device."""

    device: str
    source: Address
    gateway: Address | None
    mtu: int


async def read_underlay(own: Callable[[str], bool], mark: int = 0) -> Underlay:
    """Return what the host is connected to now.

    own: tells whether a device's name is one of the overlay's. mark: that of the underlay
    sockets, so that a full tunnel does not hide the real default route.
    Raises HostError.
    """
    netlink = Rtnetlink.open()
    try:
        links = [link for link in await netlink.links() if not own(link.name)]
        ways = [await netlink.way_to(anywhere, mark) for anywhere in ANYWHERE]
    finally:
        netlink.close()
    ours = {link.index for link in links}
    return Underlay(
        frozenset((link.name, address) for link in links for address in _global_addresses(link)),
        tuple(
            way.gateway
            for way in ways
            if way is not None and way.gateway is not None and way.index in ours
        ),
        frozenset((link.name, link.mtu) for link in links if _global_addresses(link)),
    )


async def path_to(destination: Address, mark: int = 0) -> UnderlayPath:
    """Return how a socket with mark reaches an underlay address.

    Raises UnreachableError: it does not. HostError: the kernel could not be asked.
    """
    netlink = Rtnetlink.open()
    try:
        way = await netlink.way_to(destination, mark)
        links = {link.index: link for link in await netlink.links()}
    finally:
        netlink.close()
    if way is None or way.source is None or way.index not in links:
        raise UnreachableError(f"this host has no route to {destination}")
    link = links[way.index]
    return UnderlayPath(link.name, way.source, way.gateway, way.mtu or link.mtu)


def _global_addresses(link: LinkInfo) -> tuple[Interface, ...]:
    if not link.up or link.loopback:
        return ()
    return tuple(address for address in link.addresses if not address.is_link_local)

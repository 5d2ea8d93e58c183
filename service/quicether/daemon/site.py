"""What of a tunnel depends on settings and on where the host is: what it serves, and its MTU."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from quicether.config.settings import DiscoverySettings, Role, Settings
from quicether.config.values import HostPort
from quicether.daemon.host_config import UNDERLAY_MARK, own_user
from quicether.errors import ConfigError, UnreachableError
from quicether.host.exits import Ours, keep_exits
from quicether.host.underlay import ANYWHERE, Underlay, path_to
from quicether.model import DEVICE_FAMILY, Member, Prefix, UnderlayAddress, host_prefix
from quicether.overlay.gateways import Forwarding

MTU_CEILING: Final = 1420
OVERHEAD: Final[Mapping[int, int]] = MappingProxyType({4: 60, 6: 80})
"""Bytes that IP, UDP and QUIC put around a packet, by the underlay's IP version."""


def owned(settings: Settings, member: Member) -> tuple[Prefix, ...]:
    """Return what the node owns beside the addresses of its certificate.

    Raises ConfigError: the certificate does not cover what the settings offer to others.
    """
    for key, prefixes in (
        ("advertise-subnets", settings.network.advertise_subnets),
        ("forward-subnets", settings.overlay.forward_subnets),
    ):
        for prefix in prefixes:
            if not member.covers(prefix):
                covered = ", ".join(map(str, member.prefixes)) or "none"
                raise ConfigError(
                    f"{key}: {prefix} is not among the prefixes that the certificate of "
                    f"{member.name} covers ({covered}); have it signed with --prefix {prefix}"
                )
    chosen = (host_prefix(address) for address in settings.network.tun_addr)
    return (*settings.network.advertise_subnets, *chosen)


def offers(settings: Settings) -> tuple[Prefix, ...]:
    """Return what the settings make this node lead others to, so that the host has to forward."""
    both = (*settings.network.advertise_subnets, *settings.overlay.forward_subnets)
    return tuple(dict.fromkeys(both))


def forwarding(settings: Settings) -> Forwarding | None:
    """Return what the node forwards for, None where it is no gateway."""
    if settings.node.role is not Role.GATEWAY:
        return None
    return Forwarding(settings.overlay.forward_subnets, settings.overlay.forward_nodes)


def is_overlay_device(name: str) -> bool:
    """Tell whether a device's name is one of the overlay's."""
    return name.startswith(DEVICE_FAMILY)


def exits(settings: Settings) -> Callable[[], Awaitable[None]]:
    """Return what keeps packets that carry the overlay outside of it; see `host.exits`."""
    ours = Ours(UNDERLAY_MARK, settings.discovery.dht_port or None, own_user())
    return partial(keep_exits, is_overlay_device, ours)


def named(settings: Settings) -> list[HostPort]:
    """Return where the settings say that other nodes are."""
    peers = (peer.endpoint for peer in settings.overlay.peers)
    return [*peers, *settings.discovery.bootstrap_nodes]


def bind_address(settings: DiscoverySettings) -> UnderlayAddress:
    """Return what the underlay socket is bound to."""
    host = "::" if settings.listen_address is None else str(settings.listen_address)
    return UnderlayAddress(host, settings.dht_port)


def endpoints(settings: DiscoverySettings, underlay: Underlay, port: int) -> list[UnderlayAddress]:
    """Return where other machines may reach this one, the most likely first."""
    own, public = settings.listen_address, settings.public_ip
    addresses = underlay.own_addresses if own is None else (own,)
    found = dict.fromkeys((*(() if public is None else (public,)), *addresses))
    return [UnderlayAddress(str(address), port) for address in found]


async def lan(settings: Settings, underlay: Underlay) -> tuple[Prefix, ...]:
    """Return the networks that the host reaches without the overlay.

    Those it is connected to, and of its forward-subnets those that another router of its LAN
    leads to: whatever has a route that is neither the default one nor the tunnel's.
    Raises HostError: the kernel could not be asked.
    """
    found = list(underlay.connected)
    for prefix in settings.overlay.forward_subnets:
        if prefix.prefixlen == 0:
            continue
        try:
            path = await path_to(prefix[min(1, prefix.num_addresses - 1)], UNDERLAY_MARK)
        except UnreachableError:
            continue
        if path.gateway is not None and path.gateway not in underlay.gateways:
            found.append(prefix)
    return tuple(found)


async def path_mtu(settings: Settings) -> int:
    """Return the MTU in bytes that the device is to have where the settings say none.

    A mesh has many paths and the device one MTU, so it follows what is known of the host's own
    network: the ways to the peers whose addresses the settings give, else the default routes, by
    which peers are reached that a name or the DHT leads to. A path that carries less says so to
    whoever sends by it, with Packet Too Big; the device would flap with what each path is found
    to carry, and every sender would pay for the narrowest.
    Raises HostError: the kernel could not be asked.
    """
    found = MTU_CEILING
    peers = [peer.endpoint.ip for peer in settings.overlay.peers]
    given = [address for address in peers if address is not None]
    for address in given if given and len(given) == len(peers) else (*given, *ANYWHERE):
        try:
            path = await path_to(address, UNDERLAY_MARK)
        except UnreachableError:
            continue
        found = min(found, path.mtu - OVERHEAD[address.version])
    return found

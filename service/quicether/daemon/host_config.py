"""What the OS is to have for a tunnel, from its settings and what the mesh knows now."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_address
from typing import Final

from quicether.config.settings import Settings
from quicether.daemon.guard import Guard
from quicether.host.desired import Dns, FullTunnel, HostConfig
from quicether.host.underlay import Underlay
from quicether.model import DEFAULT_DEVICE, Address, Interface, Member, Prefix
from quicether.overlay.desired import RouteChoice
from quicether.overlay.mesh import Mesh

UNDERLAY_MARK: Final = 0x5145
"""fwmark of every packet that carries the overlay ("QE")."""
FULL_TUNNEL_TABLE: Final = 20805
FULL_TUNNEL_PRIORITY: Final = 20805


@dataclass(frozen=True, slots=True)
class Wanted:
    """The desired state, and a sentence for each prefix that is not in it."""

    config: HostConfig
    refusals: tuple[str, ...]


def host_config(
    settings: Settings,
    member: Member,
    mesh: Mesh,
    underlay: Underlay,
    mtu: int,
    port: int,
    guard: Guard | None = None,
) -> Wanted:
    """Return what the OS is to have.

    mtu: of the device, in bytes. port: of the underlay socket. guard: knows the policy.
    """
    network, discovery = settings.network, settings.discovery
    choice = RouteChoice(
        automatic=discovery.routes == "auto",
        only=_listed(discovery.routes),
        accepted=discovery.accept_conflicts,
    )
    peers = [connection.remote.ip for connection in mesh.peers.connections().values()]
    ways = (*peers, *mesh.outside.ways, *_named(settings, mesh))
    ranges = _ranges(network.tun_name, mesh.outside.ranges)
    mesh.routes.for_host.use(choice, underlay.connected, ways, ranges)
    found = mesh.routes.for_host.routes()
    mine = (*mesh.hello().prefixes, *mesh.offers.forwards)
    permitted = None if guard is None else guard.permitted(mesh.me, mine)
    if permitted is not None:
        static = (route.prefix for route in settings.overlay.static_routes)
        found = permitted.of(found, mesh.routes, (*ranges, *static))
    full = None
    if settings.full_tunnel:
        full = FullTunnel(
            UNDERLAY_MARK,
            FULL_TUNNEL_TABLE,
            FULL_TUNNEL_PRIORITY,
            port=port,
            uid=own_user(),
            lan_access=settings.overlay.lan_access,
            bypass=settings.overlay.bypass_subnets,
        )
    config = HostConfig(
        device=network.tun_name,
        mtu=mtu,
        addresses=tuple(_interface(address) for address in member.addresses),
        prefixes=found.prefixes,
        dns=Dns(network.dns, network.dns_domains, default_route=settings.full_tunnel),
        full_tunnel=full,
        gateway=_gateway(settings, underlay, peers),
        netns=network.netns,
    )
    return Wanted(config, (*found.refusals, *_exit_problems(settings, mesh)))


def own_user() -> int | None:
    """Return the user who runs this service and nothing else: root runs more."""
    return os.geteuid() or None


def _named(settings: Settings, mesh: Mesh) -> Iterable[Address]:
    """Yield the underlay addresses that the settings name: they have to stay reachable."""
    endpoints = [peer.endpoint for peer in settings.overlay.peers]
    for endpoint in (*endpoints, *settings.discovery.bootstrap_nodes):
        if endpoint.ip is not None:
            yield endpoint.ip
        else:
            yield from (address.ip for address in mesh.dialer.names.known(endpoint))


def _ranges(device: str, ranges: Iterable[Prefix]) -> list[Prefix]:
    """Return the ranges of members' addresses that one tunnel's device gets.

    All networks share the IPv4 range; of several tunnels that with the usual device gets it.
    """
    return [each for each in ranges if each.version == 6 or device == DEFAULT_DEVICE]


def _exit_problems(settings: Settings, mesh: Mesh) -> list[str]:
    """Say what the default gateway does not do for us, and why."""
    wanted, node = settings.overlay.default_gateway, mesh.routes.default_gateway
    if wanted is None:
        return []
    member = None if node is None else mesh.routes.member(node)
    if node is None or member is None:
        return [
            f"default-gateway: no node called {wanted} is known yet; what no prefix matches goes "
            "nowhere until one is, so have it among the peers"
        ]
    if mesh.peers.active(node) is None:
        return [f"default-gateway: {member.name} is not connected"]
    return [
        f"default-gateway: {member.name} does not forward IPv{version} to the internet; for that "
        f"it needs role = gateway and forward-subnets with {everything}"
        for version, everything in ((4, "0.0.0.0/0"), (6, "::/0"))
        if not mesh.routes.is_exit(node, version)
    ]


def _gateway(settings: Settings, underlay: Underlay, peers: list[Address]) -> Address | None:
    """Return the underlay address that NetworkManager wants a host route to.

    The host's own default gateway where there is one: it is on the link already, so the route
    says nothing new. A peer's address comes last, because that route would tie the peer to one
    link and outlive a crash.
    """
    named = [peer.endpoint.ip for peer in settings.overlay.peers]
    own = sorted(str(address.ip) for _, address in underlay.addresses)
    candidates = (
        *underlay.gateways,
        *map(ip_address, own),
        *(address for address in named if address is not None),
        *peers,
    )
    return next(iter(candidates), None)


def _interface(address: Address) -> Interface:
    """Return an overlay address as the device has it: alone, without a network around it."""
    if isinstance(address, IPv6Address):
        return IPv6Interface((address, 128))
    return IPv4Interface((address, 32))


def _listed(routes: str | tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    return routes if isinstance(routes, tuple) else ()

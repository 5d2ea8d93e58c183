"""The one desired state of a tunnel's device, handed whole to whoever owns the link. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from quicether.model import Address, Interface, Prefix


@dataclass(frozen=True, slots=True)
class Dns:
    """Name servers on the overlay and the domains they answer for.

    default_route: every other name goes to these servers too (full tunnel).
    """

    servers: tuple[Address, ...] = ()
    domains: tuple[str, ...] = ()
    default_route: bool = False


@dataclass(frozen=True, slots=True)
class FullTunnel:
    """The default route is the tunnel, without a loop, by the scheme of wg-quick.

    mark: fwmark of every underlay socket. table: routing table that holds the default route.
    priority: of the first of three rules: what our own port sends and gets stays outside (port),
    and what our own user sends (uid), who looks up the names of peers; routes more special than
    default count; all that bears no mark goes to the table.
    lan_access: those more special routes, which keep local networks local. bypass: what stays
    outside besides, whatever route leads there.
    uid: of a user who runs this service and nothing else, None where it runs as root.
    port: UDP port of the underlay socket, None where it changes. A strict rp_filter asks for the
    way back of each packet that arrives, and that question bears no mark (src_valid_mark does
    not change it): without this rule it drops every answer of a peer.
    """

    mark: int
    table: int
    priority: int
    ipv4: bool = True
    ipv6: bool = True
    port: int | None = None
    uid: int | None = None
    lan_access: bool = True
    bypass: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What the OS is to have for one tunnel. Two equal values need no change.

    device: name of the TUN device. mtu: bytes. prefixes: routed to the device, sorted.
    gateway: an underlay address that NetworkManager's Config signal wants, never zero.
    netns: name of the network namespace that holds the device, None for the host's own.
    """

    device: str
    mtu: int
    addresses: tuple[Interface, ...]
    prefixes: tuple[Prefix, ...] = ()
    dns: Dns = field(default_factory=Dns)
    full_tunnel: FullTunnel | None = None
    gateway: Address | None = None
    netns: str | None = None

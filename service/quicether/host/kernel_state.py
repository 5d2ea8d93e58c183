"""What the kernel has for one tunnel, what it should have, and the difference. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from quicether.host.desired import FullTunnel, HostConfig
from quicether.model import MIN_IPV6_MTU, Interface, Prefix

PROTOCOL: Final = 209
"""Marks our routes and rules in the kernel (`proto 209`), so that leftovers are recognised.

Free in iproute2's rt_protos; whoever sees one knows that nobody else put it there.
"""
METRIC: Final = 50
"""As NetworkManager gives the routes of a VPN: a connected network (0) stays preferred."""
MAIN_TABLE: Final = 254

_DEFAULTS: Final[dict[int, Prefix]] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of ours. unreachable: instead of to the device, so that nothing leaks past it."""

    prefix: Prefix
    table: int = MAIN_TABLE
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class KernelRule:
    """A policy routing rule of ours for one IP version.

    mark: None matches every packet, else all packets that do not bear it; bearing: those that do.
    suppress: a match on a prefix of the table of at most that length does not count.
    source_port: only UDP packets from it match. destination: only packets to it match.
    uid: only packets of that user's sockets match.
    """

    version: int
    priority: int
    table: int
    mark: int | None = None
    suppress: int | None = None
    source_port: int | None = None
    destination: Prefix | None = None
    uid: int | None = None
    bearing: int | None = None


@dataclass(frozen=True, slots=True)
class KernelState:
    """Everything in the kernel that belongs to one tunnel, the device itself apart."""

    addresses: frozenset[Interface] = frozenset()
    routes: frozenset[KernelRoute] = frozenset()
    rules: frozenset[KernelRule] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """What to remove and what to add, each in the order of work."""

    remove_rules: tuple[KernelRule, ...] = ()
    remove_routes: tuple[KernelRoute, ...] = ()
    remove_addresses: tuple[Interface, ...] = ()
    add_addresses: tuple[Interface, ...] = ()
    add_routes: tuple[KernelRoute, ...] = ()
    add_rules: tuple[KernelRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The state to reach, and what of the configuration cannot be had, in sentences."""

    state: KernelState
    refused: tuple[str, ...] = field(default=())


def wanted(config: HostConfig, *, addressing: bool, ipv6: bool) -> Wanted:
    """Return the kernel's part of config.

    addressing: addresses and routes are ours; else somebody else (NetworkManager) puts them.
    ipv6: the device can have IPv6. A full tunnel that cannot carry IPv6 makes it unreachable
    instead: a packet that finds no way must not leave beside the tunnel.
    A namespace of its own has no underlay that could loop: its default route needs no rules.
    """
    refused: list[str] = []
    device_ipv6 = ipv6 and config.mtu >= MIN_IPV6_MTU
    if ipv6 and not device_ipv6 and any(address.version == 6 for address in config.addresses):
        refused.append(
            f"IPv6 needs an MTU of {MIN_IPV6_MTU} bytes, {config.device} has {config.mtu}"
        )
    versions = (4, 6) if device_ipv6 else (4,)
    addresses: frozenset[Interface] = frozenset()
    routes: set[KernelRoute] = set()
    if addressing or config.netns is not None:
        addresses = frozenset(a for a in config.addresses if a.version in versions)
        for prefix in config.prefixes:
            if prefix.version not in versions:
                continue
            if prefix.prefixlen == 0 and config.netns is None:
                refused.append(
                    f"prefix {prefix} would take the underlay with it: use a full tunnel"
                )
            else:
                routes.add(KernelRoute(prefix))
    rules: frozenset[KernelRule] = frozenset()
    if (full := config.full_tunnel) is not None:
        caught = [version for version, take in ((4, full.ipv4), (6, full.ipv6)) if take]
        table = MAIN_TABLE if config.netns is not None else full.table
        routes |= {
            KernelRoute(_DEFAULTS[version], table, unreachable=version not in versions)
            for version in caught
        }
        if config.netns is None:
            rules = full_tunnel_rules(full, caught)
    return Wanted(KernelState(addresses, frozenset(routes), rules), tuple(refused))


def full_tunnel_rules(full: FullTunnel, versions: Iterable[int]) -> frozenset[KernelRule]:
    """Return the rules that send all but our own packets into the tunnel.

    In order: what stays outside are our own port, which the kernel's reverse path check needs to
    see, our own user, whose questions for peers' names bear no mark, and what bypasses the tunnel;
    every route of the main table counts that is no default route, so that local networks stay
    local; what is left and does not bear the mark goes to the table.
    """
    rules: set[KernelRule] = set()
    for version in versions:
        if full.port is not None:
            rules.add(KernelRule(version, full.priority, MAIN_TABLE, source_port=full.port))
        if full.uid is not None:
            rules.add(KernelRule(version, full.priority, MAIN_TABLE, uid=full.uid))
        rules |= {
            KernelRule(version, full.priority, MAIN_TABLE, destination=prefix)
            for prefix in full.bypass
            if prefix.version == version
        }
        if full.lan_access:
            rules.add(KernelRule(version, full.priority + 1, MAIN_TABLE, suppress=0))
        rules.add(KernelRule(version, full.priority + 2, full.table, mark=full.mark))
    return frozenset(rules)


def full_tunnel_priorities(full: FullTunnel) -> range:
    """Return the priorities that the rules of a full tunnel take."""
    return range(full.priority, full.priority + 3)


def difference(have: KernelState, want: KernelState) -> Difference:
    """Return what leads from have to want. What is in both is not touched.

    Rules go first and come last, so that no packet is sent to a table that is not filled.
    """
    return Difference(
        remove_rules=tuple(sorted(have.rules - want.rules, key=_rule_order)),
        remove_routes=tuple(sorted(have.routes - want.routes, key=_route_order)),
        remove_addresses=tuple(sorted(have.addresses - want.addresses, key=_address_order)),
        add_addresses=tuple(sorted(want.addresses - have.addresses, key=_address_order)),
        add_routes=tuple(sorted(want.routes - have.routes, key=_route_order)),
        add_rules=tuple(sorted(want.rules - have.rules, key=_rule_order)),
    )


def orphans(rules: Iterable[KernelRule], routes: Iterable[KernelRoute]) -> KernelState:
    """Return what a crash left of ours: rules and unreachable routes of a table without device.

    rules, routes: all that bear our protocol. A device's routes go with it, and a tunnel that
    runs fills its table before it makes the rules, so what is found here belongs to nobody.
    """
    everything, reachable = list(rules), list(routes)
    alive = {route.table for route in reachable if not route.unreachable}
    dead = {rule for rule in everything if rule.mark is not None and rule.table not in alive}
    before = {(rule.version, rule.priority - step) for rule in dead for step in (1, 2)}
    return KernelState(
        routes=frozenset(r for r in reachable if r.unreachable and r.table not in alive),
        rules=frozenset(
            rule
            for rule in everything
            if rule in dead or (rule.mark is None and (rule.version, rule.priority) in before)
        ),
    )


def _rule_order(rule: KernelRule) -> tuple[int, int, str, int]:
    return rule.version, rule.priority, str(rule.destination or ""), rule.uid or 0


def _route_order(route: KernelRoute) -> tuple[int, int, bytes, int]:
    prefix = route.prefix
    return prefix.version, route.table, prefix.network_address.packed, prefix.prefixlen


def _address_order(address: Interface) -> tuple[int, bytes]:
    return address.version, address.ip.packed

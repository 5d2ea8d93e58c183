"""From the routing table to what the OS is to have: which prefixes become routes. Pure.

A prefix of another node becomes a route to the device only when it cannot cut this host off: one
that covers a network the host is connected to, or the underlay address of a peer, is refused and
said so, unless the user accepted it by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quicether.model import Address, NextHop, NextHopKind, Prefix

WIDEST: Final = 8
"""Shortest length, in bits, of a prefix that is taken unasked: half the internet is a default
route in disguise."""
MAX_HOST_PREFIXES: Final = 16_384
"""Routes that one tunnel puts into the OS; what is beyond is refused and said in status."""


_TAKE: Final = "add it to accept-conflicts to take it all the same"


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """Which of the overlay's prefixes this host wants.

    automatic: all of them; else only those inside `only`. accepted: taken although they cover a
    connected network or a peer's underlay address.
    """

    automatic: bool = True
    only: tuple[Prefix, ...] = ()
    accepted: tuple[Prefix, ...] = ()

    def wants(self, prefix: Prefix) -> bool:
        """Tell whether a prefix found on the overlay is asked for."""
        return self.automatic or any(_inside(prefix, wanted) for wanted in self.only)


@dataclass(frozen=True, slots=True)
class HostRoutes:
    """The prefixes for the OS, sorted, and a sentence for each one refused."""

    prefixes: tuple[Prefix, ...]
    refusals: tuple[str, ...]


def host_routes(
    best: Mapping[Prefix, NextHop],
    choice: RouteChoice,
    connected: Iterable[Prefix],
    underlay: Iterable[Address],
    ranges: Iterable[Prefix] = (),
) -> HostRoutes:
    """Return what the OS is to route to the device.

    best: the next hop in force for each prefix of the overlay. connected: networks on the host's
    own links. underlay: addresses at which peers are reached. ranges: where addresses of members
    lie, so that packets to one that is not yet known come to be looked up.
    """
    connected = tuple(connected)
    underlay = tuple(underlay)
    prefixes: list[Prefix] = []
    refusals: list[str] = []
    offered = {prefix: f"of {hop}" for prefix, hop in best.items() if _is_for_others(prefix, hop)}
    offered |= dict.fromkeys(ranges, "of the overlay's addresses")
    for prefix, whose in sorted(offered.items(), key=lambda item: _order(item[0])):
        if not choice.wants(prefix):
            continue
        accepted = any(_inside(prefix, each) for each in choice.accepted)
        clash = None if accepted else _clash(prefix, connected, underlay)
        if not accepted and prefix.prefixlen < WIDEST:
            clash = f"it is as wide as a default route, for which there is default-gateway; {_TAKE}"
        if clash is not None:
            refusals.append(f"prefix {prefix} {whose}: {clash}")
        elif len(prefixes) >= MAX_HOST_PREFIXES:
            refusals.append(f"prefix {prefix}: more than {MAX_HOST_PREFIXES} routes")
        else:
            prefixes.append(prefix)
    return HostRoutes(tuple(prefixes), tuple(refusals[:MAX_HOST_PREFIXES]))


def _is_for_others(prefix: Prefix, next_hop: NextHop) -> bool:
    return next_hop.kind is not NextHopKind.LOCAL and prefix.prefixlen > 0


def _clash(
    prefix: Prefix, connected: tuple[Prefix, ...], underlay: tuple[Address, ...]
) -> str | None:
    for network in connected:
        if _inside(network, prefix):
            return f"it covers this host's own network {network}; {_TAKE}"
    for address in underlay:
        if address in prefix:
            return f"it covers the underlay address {address} of a peer; {_TAKE}"
    return None


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen

"""From the routing table to what the OS is to have: which prefixes become routes. Pure.

A prefix of another node becomes a route to the device only when it cannot cut this host off: one
that covers a network the host is connected to, or the underlay address of a peer, is refused and
said so, unless the user accepted it by name.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from quicether.model import Address, NextHop, NextHopKind, Prefix, host_prefix

WIDEST: Final = 8
"""Shortest length, in bits, of a prefix that is taken unasked: half the internet is a default
route in disguise."""
MAX_HOST_PREFIXES: Final = 16_384
"""Routes that one tunnel puts into the OS. What comes later waits until one of them goes."""
MAX_REFUSALS: Final = 16
"""Refused prefixes that get a sentence each; of the rest the number is said."""

_TAKE: Final = "add it to accept-conflicts to take it all the same"
_TOO_WIDE: Final = f"it is as wide as a default route, for which there is default-gateway; {_TAKE}"

_Order = tuple[int, int, int]
"""What sorts prefixes: IP version, network address, length."""


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
    """The prefixes for the OS, sorted, and what is to be said of those that are refused."""

    prefixes: tuple[Prefix, ...] = ()
    refusals: tuple[str, ...] = ()


class HostRouteSelection:
    """Which prefixes the OS is to route to the device, kept while routes and surroundings change.

    A change costs what it touches, however many prefixes there are: one prefix is judged by what
    lies inside it, and one address of the underlay decides anew about the prefixes around it.
    """

    def __init__(self) -> None:
        self._hops: dict[Prefix, NextHop] = {}
        self._ranges: frozenset[Prefix] = frozenset()
        self._choice = RouteChoice()
        self._connected = _Inside("this host's own network {}")
        self._underlay = _Inside("the underlay address {} of a peer")
        self._taken: list[tuple[_Order, Prefix]] = []
        self._waiting: dict[Prefix, None] = {}
        self._refused: dict[Prefix, str] = {}
        self._found: HostRoutes | None = HostRoutes()

    def turn(self, prefix: Prefix, next_hop: NextHop | None) -> None:
        """Note the next hop now in force for a prefix; None without any."""
        if prefix.prefixlen == 0:
            return
        known = prefix in self._hops
        if next_hop is None or next_hop.kind is NextHopKind.LOCAL:
            if known:
                del self._hops[prefix]
                self._judge(prefix)
            return
        self._hops[prefix] = next_hop
        if not known:
            self._judge(prefix)
        elif prefix in self._refused:
            self._found = None

    def use(
        self,
        choice: RouteChoice,
        connected: Iterable[Prefix],
        underlay: Iterable[Address],
        ranges: Iterable[Prefix] = (),
    ) -> None:
        """Judge by other surroundings, in place of earlier.

        connected: networks on the host's own links. underlay: addresses at which peers are
        reached. ranges: where addresses of members lie, so that packets to one that is not yet
        known come to be looked up.
        """
        touched = self._connected.replace(connected)
        touched |= self._underlay.replace(map(host_prefix, underlay))
        ranges = frozenset(ranges)
        if choice != self._choice:
            self._choice = choice
            doubtful: set[Prefix] = {*self._hops, *self._ranges, *ranges}
        else:
            doubtful = {around for each in touched for around in self._around(each)}
            doubtful |= ranges ^ self._ranges
        self._ranges = ranges
        for prefix in doubtful:
            self._judge(prefix)

    def routes(self) -> HostRoutes:
        """Return what the OS is to have now: the same object until that is something else."""
        if self._found is None:
            self._found = HostRoutes(
                tuple(prefix for _, prefix in self._taken), tuple(self._refusals())
            )
        return self._found

    def _judge(self, prefix: Prefix) -> None:
        """Decide about one prefix, whatever was decided before."""
        self._drop(prefix)
        if not (prefix in self._ranges or prefix in self._hops) or not self._choice.wants(prefix):
            return
        objection = self._objection(prefix)
        if objection is not None:
            self._refused[prefix] = objection
        elif len(self._taken) < MAX_HOST_PREFIXES:
            insort(self._taken, (_order(prefix), prefix))
        else:
            self._waiting[prefix] = None
        self._found = None

    def _drop(self, prefix: Prefix) -> None:
        if self._refused.pop(prefix, None) is not None:
            self._found = None
        if prefix in self._waiting:
            del self._waiting[prefix]
            self._found = None
        order = _order(prefix)
        place = bisect_left(self._taken, (order,))
        if place < len(self._taken) and self._taken[place][0] == order:
            del self._taken[place]
            self._found = None
            if self._waiting:
                first = next(iter(self._waiting))
                del self._waiting[first]
                insort(self._taken, (_order(first), first))

    def _objection(self, prefix: Prefix) -> str | None:
        if any(_inside(prefix, each) for each in self._choice.accepted):
            return None
        if prefix.prefixlen < WIDEST:
            return _TOO_WIDE
        covered = self._connected.first(prefix) or self._underlay.first(prefix)
        return None if covered is None else f"it covers {covered}; {_TAKE}"

    def _around(self, inner: Prefix) -> Iterator[Prefix]:
        """Yield the known prefixes that cover another."""
        for length in range(inner.prefixlen + 1):
            outer = inner.supernet(new_prefix=length)
            if outer in self._hops or outer in self._ranges:
                yield outer

    def _refusals(self) -> Iterator[str]:
        for prefix in heapq.nsmallest(MAX_REFUSALS, self._refused, key=_order):
            whose = "of the overlay's addresses"
            if prefix not in self._ranges:
                whose = f"of {self._hops[prefix]}"
            yield f"prefix {prefix} {whose}: {self._refused[prefix]}"
        if len(self._refused) > MAX_REFUSALS:
            yield f"{len(self._refused) - MAX_REFUSALS} more prefixes are refused like these"
        if self._waiting:
            yield f"{len(self._waiting)} prefixes wait: {MAX_HOST_PREFIXES} routes are the most"


class _Inside:
    """A set of prefixes that tells which one lies inside another."""

    def __init__(self, sentence: str) -> None:
        """sentence: calls a member of the set by what it is, with {} in its place."""
        self._sentence = sentence
        self._members: frozenset[Prefix] = frozenset()
        self._sorted: list[tuple[_Order, Prefix]] = []

    def replace(self, members: Iterable[Prefix]) -> frozenset[Prefix]:
        """Make members the set; return those that came or went."""
        before, self._members = self._members, frozenset(members)
        touched = before ^ self._members
        if touched:
            self._sorted = sorted((_order(each), each) for each in self._members)
        return touched

    def first(self, outer: Prefix) -> str | None:
        """Return a sentence on the first member that lies inside a prefix, None without any."""
        # Behind outer itself the order has everything inside it before anything else.
        place = bisect_left(self._sorted, (_order(outer),))
        if place == len(self._sorted):
            return None
        member = self._sorted[place][1]
        return self._sentence.format(member) if _inside(member, outer) else None


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _order(prefix: Prefix) -> _Order:
    return prefix.version, int(prefix.network_address), prefix.prefixlen

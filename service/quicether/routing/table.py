"""Every candidate for every prefix, and which of them is the best. Pure.

Precedence for one prefix: Local first; then "direct is sacred": a node that is reachable, a
gateway that is reachable, a node that is not, a gateway that is not; then the order of
RouteSource; then the lower RTT, with hysteresis; then the lower NodeId.

Reachability stands before the source because a gateway that is reachable beats an owner that is
not, and an owner that is reachable beats every gateway: with the source in between, three
candidates could each beat the next in a ring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from quicether.model import NextHop, NextHopKind, NodeId, Prefix, Route, RouteSource

MAX_PREFIXES: Final = 2_000_000
"""Prefixes that others may fill the table with. What the user configured is always taken."""
MAX_CANDIDATES: Final = 32
"""Candidates kept for one prefix; the lowest in rank goes."""
RTT_MARGIN_SECONDS: Final = 0.005
RTT_MARGIN_RATIO: Final = 0.2
"""A rival of equal rank replaces the best when its RTT is lower by both margins."""

_SOURCE_ORDER: Final = {source: order for order, source in enumerate(RouteSource)}
_UNKNOWN_RTT: Final = float("inf")


@dataclass(frozen=True, slots=True)
class RouteChange:
    """The best route or the owner of one prefix is not what it was.

    old, new: the best candidate before and after, as the table ranked them; None without any.
    owner: the best candidate now that is Local or a Node: who stands behind the prefix, even
    while its packets go through a gateway. None where only gateways are known.
    """

    prefix: Prefix
    old: Route | None
    new: Route | None
    owner: NextHop | None


@dataclass(frozen=True, slots=True)
class _Path:
    """What is known of the way to a node."""

    reachable: bool = False
    rtt: float | None = None


class _Origin:
    """Where candidates come from: one object, told by identity, for all its prefixes.

    alone: the candidates of every prefix for which this is the only one.
    """

    __slots__ = ("alone", "next_hop", "prefixes", "source")

    def __init__(self, next_hop: NextHop, source: RouteSource) -> None:
        self.next_hop = next_hop
        self.source = source
        self.prefixes: set[Prefix] = set()
        self.alone: _Candidates = (self,)


_Rank = tuple[int, int]
_Candidates = tuple[_Origin, ...]
"""Of one prefix, the best first."""
_NOWHERE: Final = _Path()


class RoutingTable:
    """Candidates by prefix, with the best of each decided at every change.

    A node counts as unreachable until `update_node` says otherwise. A change costs what the
    prefixes cost that it can decide anew: a node whose prefixes have no other candidate comes
    and goes for nothing.

    refused: candidates that were turned away or pushed out because a bound was reached.
    version: another number whenever a candidate came or went. paths_version: another number
    whenever the way to a node is another. size: how many candidates there are, of all prefixes.
    """

    def __init__(
        self, max_prefixes: int = MAX_PREFIXES, max_candidates: int = MAX_CANDIDATES
    ) -> None:
        self.refused = 0
        self.version = 0
        self.paths_version = 0
        self.size = 0
        self._max_prefixes = max_prefixes
        self._max_candidates = max_candidates
        self._candidates: dict[Prefix, _Candidates] = {}
        self._origins: dict[tuple[NextHop, RouteSource], _Origin] = {}
        self._contested: dict[NodeId, set[Prefix]] = {}
        self._paths: dict[NodeId, _Path] = {}

    def add(self, prefix: Prefix, next_hop: NextHop, source: RouteSource) -> RouteChange | None:
        """Make next_hop a candidate for prefix on the word of source. Idempotent.

        Returns the change of the prefix's best route or owner, None when both stay.
        """
        origin = self._origins.get((next_hop, source)) or _Origin(next_hop, source)
        before = self._candidates.get(prefix, ())
        if origin in before:
            return None
        if not before and self._is_full_for(source):
            self.refused += 1
            return None
        return self._set(prefix, before, self._bounded((*before, origin)))

    def withdraw(
        self, prefix: Prefix, next_hop: NextHop, source: RouteSource
    ) -> RouteChange | None:
        """Take one candidate away. Nothing happens when it is not there."""
        origin = self._origins.get((next_hop, source))
        before = self._candidates.get(prefix, ())
        if origin not in before:
            return None
        return self._set(prefix, before, tuple(each for each in before if each is not origin))

    def replace(
        self, next_hop: NextHop, source: RouteSource, prefixes: Iterable[Prefix]
    ) -> list[RouteChange]:
        """Make prefixes all that next_hop has on the word of source: add and withdraw the rest."""
        wanted = set(prefixes)
        origin = self._origins.get((next_hop, source))
        present = set(origin.prefixes) if origin is not None else set()
        changes = [self.withdraw(prefix, next_hop, source) for prefix in present - wanted]
        changes += [self.add(prefix, next_hop, source) for prefix in wanted - present]
        return [change for change in changes if change is not None]

    def withdraw_node(self, node: NodeId) -> list[RouteChange]:
        """Take away every candidate whose next hop is node, and forget the way to it."""
        changes: list[RouteChange] = []
        for origin in self._origins_of(node):
            changes += self.replace(origin.next_hop, origin.source, ())
        self._paths.pop(node, None)
        self.paths_version += 1
        return changes

    def update_node(
        self, node: NodeId, *, reachable: bool, rtt: float | None = None
    ) -> list[RouteChange]:
        """Say whether a connection to node works now, and its smoothed RTT in seconds."""
        path = _Path(reachable, rtt if reachable else None)
        if path == self._paths.get(node, _NOWHERE):
            return []
        self.paths_version += 1
        contested = self._contested.get(node, ())
        before = [(prefix, *self._standing(prefix)) for prefix in contested]
        if path == _NOWHERE:
            del self._paths[node]
        else:
            self._paths[node] = path
        changes = []
        for prefix, best, owner in before:
            candidates = self._candidates[prefix]
            self._candidates[prefix] = self._ordered(candidates, current=candidates[0])
            change = self._change(prefix, best, owner)
            if change is not None:
                changes.append(change)
        return changes

    def best(self, prefix: Prefix) -> Route | None:
        """Return the best route for exactly this prefix."""
        return self._standing(prefix)[0]

    def owner(self, prefix: Prefix) -> NextHop | None:
        """Return the best candidate for exactly this prefix that is Local or a Node."""
        return self._standing(prefix)[1]

    def is_reachable(self, node: NodeId) -> bool:
        """Tell what `update_node` said of a node last; False if nothing."""
        return self._paths.get(node, _NOWHERE).reachable

    def candidates(self, prefix: Prefix) -> tuple[Route, ...]:
        """Return every candidate for exactly this prefix, the best first."""
        present = self._candidates.get(prefix, ())
        rest = sorted(present[1:], key=self._sort_key)
        return tuple(self._route(prefix, origin) for origin in (*present[:1], *rest))

    def candidate_count(self, prefix: Prefix) -> int:
        """Return how many candidates there are for exactly this prefix."""
        return len(self._candidates.get(prefix, ()))

    def owners_of(self, prefix: Prefix) -> list[NodeId]:
        """Return the nodes that are candidates for exactly this prefix as its owner."""
        hops = (origin.next_hop for origin in self._candidates.get(prefix, ()))
        return [hop.node for hop in hops if hop.kind is NextHopKind.NODE and hop.node is not None]

    def prefixes_of(self, node: NodeId) -> frozenset[Prefix]:
        """Return every prefix for which node is a candidate, as owner or as gateway."""
        return frozenset().union(*(origin.prefixes for origin in self._origins_of(node)))

    def prefixes_over(self, next_hop: NextHop) -> frozenset[Prefix]:
        """Return every prefix for which next_hop is a candidate, on whosever word."""
        found = (self._origins.get((next_hop, source)) for source in RouteSource)
        return frozenset().union(*(origin.prefixes for origin in found if origin is not None))

    def prefixes(self) -> list[Prefix]:
        """Return every prefix that has a route, in no order."""
        return list(self._candidates)

    def __iter__(self) -> Iterator[Route]:
        """Iterate over the best route of each prefix, in no order."""
        for prefix, candidates in self._candidates.items():
            yield self._route(prefix, candidates[0])

    def __len__(self) -> int:
        """Return how many prefixes have a route."""
        return len(self._candidates)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._candidates

    def _is_full_for(self, source: RouteSource) -> bool:
        return source is not RouteSource.CONFIGURED and len(self._candidates) >= self._max_prefixes

    def _bounded(self, candidates: _Candidates) -> _Candidates:
        if len(candidates) <= self._max_candidates:
            return candidates
        self.refused += 1
        lowest = max(candidates, key=self._sort_key)
        return tuple(each for each in candidates if each is not lowest)

    def _origins_of(self, node: NodeId) -> list[_Origin]:
        hops = (NextHop.to_node(node), NextHop.via_gateway(node))
        found = (self._origins.get((hop, source)) for hop in hops for source in RouteSource)
        return [origin for origin in found if origin is not None]

    def _set(self, prefix: Prefix, before: _Candidates, after: _Candidates) -> RouteChange | None:
        self.version += 1
        best, owner = self._standing(prefix)
        for origin in before:
            if origin not in after:
                self._unlink(origin, prefix)
        for origin in after:
            if origin not in before:
                self._link(origin, prefix)
        self._index_contested(prefix, before, after)
        if len(after) == 1:
            self._candidates[prefix] = after[0].alone
        elif after:
            self._candidates[prefix] = self._ordered(after, before[0] if before else None)
        else:
            del self._candidates[prefix]
        return self._change(prefix, best, owner)

    def _link(self, origin: _Origin, prefix: Prefix) -> None:
        if not origin.prefixes:
            self._origins[origin.next_hop, origin.source] = origin
        origin.prefixes.add(prefix)
        self.size += 1

    def _unlink(self, origin: _Origin, prefix: Prefix) -> None:
        origin.prefixes.remove(prefix)
        self.size -= 1
        if not origin.prefixes:
            del self._origins[origin.next_hop, origin.source]

    def _index_contested(self, prefix: Prefix, before: _Candidates, after: _Candidates) -> None:
        """Keep, for each node, the prefixes where its state can decide between candidates."""
        if len(before) < 2 and len(after) < 2:
            return
        old, new = _rival_nodes(before), _rival_nodes(after)
        for node in old - new:
            contested = self._contested[node]
            contested.remove(prefix)
            if not contested:
                del self._contested[node]
        for node in new - old:
            self._contested.setdefault(node, set()).add(prefix)

    def _change(
        self, prefix: Prefix, old: Route | None, old_owner: NextHop | None
    ) -> RouteChange | None:
        new, owner = self._standing(prefix)
        if _identity(old) == _identity(new) and old_owner == owner:
            return None
        return RouteChange(prefix, old, new, owner)

    def _ordered(self, candidates: _Candidates, current: _Origin | None) -> _Candidates:
        """Return candidates with the best in front; the others keep their order."""
        best = self._choose(candidates, current)
        if candidates[0] is best:
            return candidates
        return (best, *(each for each in candidates if each is not best))

    def _choose(self, candidates: _Candidates, current: _Origin | None) -> _Origin:
        best = min(candidates, key=self._sort_key)
        if current not in candidates or current is None or self._rank(current) > self._rank(best):
            return best
        return best if self._is_clearly_faster(best, current) else current

    def _is_clearly_faster(self, rival: _Origin, current: _Origin) -> bool:
        old, new = self._rtt(current), self._rtt(rival)
        if new == _UNKNOWN_RTT:
            return False
        return old - new >= RTT_MARGIN_SECONDS and new <= old * (1 - RTT_MARGIN_RATIO)

    def _rank(self, origin: _Origin) -> _Rank:
        """Return what decides before RTT does; lower is better."""
        kind, order = origin.next_hop.kind, _SOURCE_ORDER[origin.source]
        if kind is NextHopKind.LOCAL:
            return 0, order
        reachable = self._path(origin).reachable
        if kind is NextHopKind.NODE:
            return 1 if reachable else 3, order
        return 2 if reachable else 4, order

    def _sort_key(self, origin: _Origin) -> tuple[_Rank, float, bytes]:
        node = origin.next_hop.node
        return self._rank(origin), self._rtt(origin), b"" if node is None else node.value

    def _path(self, origin: _Origin) -> _Path:
        node = origin.next_hop.node
        return _NOWHERE if node is None else self._paths.get(node, _NOWHERE)

    def _rtt(self, origin: _Origin) -> float:
        rtt = self._path(origin).rtt
        return _UNKNOWN_RTT if rtt is None else rtt

    def _standing(self, prefix: Prefix) -> tuple[Route | None, NextHop | None]:
        """Return the best route and the owner of prefix."""
        candidates = self._candidates.get(prefix)
        if candidates is None:
            return None, None
        best = candidates[0]
        route = self._route(prefix, best)
        # The best in front has the benefit of hysteresis; a gateway there owns nothing.
        if best.next_hop.kind is not NextHopKind.GATEWAY:
            return route, best.next_hop
        owners = [each for each in candidates if each.next_hop.kind is not NextHopKind.GATEWAY]
        return route, min(owners, key=self._sort_key).next_hop if owners else None

    def _route(self, prefix: Prefix, origin: _Origin) -> Route:
        path = self._path(origin)
        local = origin.next_hop.kind is NextHopKind.LOCAL
        return Route(
            prefix, origin.next_hop, origin.source, reachable=local or path.reachable, rtt=path.rtt
        )


def _identity(route: Route | None) -> tuple[NextHop, RouteSource] | None:
    """Return what makes a best route another one: not its RTT, not its reachability."""
    return None if route is None else (route.next_hop, route.source)


def _rival_nodes(candidates: _Candidates) -> set[NodeId]:
    """Return the nodes whose state has a say in which candidate is the best."""
    if len(candidates) < 2:
        return set()
    return {each.next_hop.node for each in candidates if each.next_hop.node is not None}

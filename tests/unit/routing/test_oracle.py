"""Table and FIB against a slow, obvious oracle: random histories, IPv4 and IPv6."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from quicether.model import (
    LOCAL,
    Address,
    NextHop,
    NextHopKind,
    NodeId,
    Prefix,
    RouteSource,
)
from quicether.routing.fib import FibView, ForwardingTable
from quicether.routing.table import RouteChange, RoutingTable

NODES = [NodeId(bytes([number]) * 20) for number in range(1, 5)]
SOURCES = list(RouteSource)
Candidate = tuple[NextHop, RouteSource]
Routes = dict[Prefix, NextHop]

# Few distinct bits, so that prefixes nest, collide and come back.
_bits = st.sampled_from([0, 1, 2, 3, 0x80, 0xC0, 0xFF])
addresses4 = st.builds(lambda *octets: IPv4Address(bytes(octets)), _bits, _bits, _bits, _bits)
addresses6 = st.builds(
    lambda head, middle, tail: IPv6Address(bytes([head, *[middle] * 14, tail])), _bits, _bits, _bits
)
addresses: st.SearchStrategy[Address] = st.one_of(addresses4, addresses6)
prefixes: st.SearchStrategy[Prefix] = st.one_of(
    st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        addresses4,
        st.sampled_from([0, 1, 8, 9, 16, 24, 31, 32]),
    ),
    st.builds(
        lambda address, length: IPv6Network((address, length), strict=False),
        addresses6,
        st.sampled_from([0, 1, 8, 32, 48, 64, 127, 128]),
    ),
)
hops = st.one_of(
    st.just(LOCAL),
    st.builds(NextHop.to_node, st.sampled_from(NODES)),
    st.builds(NextHop.via_gateway, st.sampled_from(NODES)),
)
rtts = st.sampled_from([None, 0.001, 0.004, 0.01, 0.012, 0.05, 0.055, 0.3])


def longest_match(routes: Routes, address: Address) -> NextHop | None:
    """The oracle of a FIB: look at every prefix."""
    found = [prefix for prefix in routes if address in prefix]
    return routes[max(found, key=lambda prefix: prefix.prefixlen)] if found else None


class RoutingMachine(RuleBasedStateMachine):
    """One table and one FIB, and beside them plain dicts that are searched from end to end."""

    views = Bundle("views")

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable()
        self.forwarding = ForwardingTable()
        self.candidates: dict[Prefix, list[Candidate]] = {}
        self.paths: dict[NodeId, float] = {}
        self.best: dict[Prefix, Candidate] = {}
        self.default: NodeId | None = None

    def rank(self, candidate: Candidate) -> tuple[int, int]:
        hop, source = candidate
        if hop.kind is NextHopKind.LOCAL:
            order = 0
        elif hop.node in self.paths:
            order = 1 if hop.kind is NextHopKind.NODE else 2
        else:
            order = 3 if hop.kind is NextHopKind.NODE else 4
        return order, SOURCES.index(source)

    def rtt(self, candidate: Candidate) -> float:
        node = candidate[0].node
        return float("inf") if node is None else self.paths.get(node, float("inf"))

    def decide(self, prefix: Prefix) -> None:
        present = self.candidates.get(prefix, [])
        if not present:
            self.best.pop(prefix, None)
            return
        highest = min(map(self.rank, present))
        equals = [each for each in present if self.rank(each) == highest]
        fastest = min(
            equals, key=lambda each: (self.rtt(each), each[0].node.value if each[0].node else b"")
        )
        current = self.best.get(prefix)
        if current in equals:
            old, new = self.rtt(current), self.rtt(fastest)
            if new == float("inf") or old - new < 0.005 or new > old * 0.8:
                fastest = current
        self.best[prefix] = fastest

    def take(self, changes: list[RouteChange], touched: set[Prefix]) -> None:
        before = dict(self.best)
        for prefix in touched:
            self.decide(prefix)
        told = {change.prefix for change in changes}
        assert told >= {prefix for prefix in touched if before.get(prefix) != self.best.get(prefix)}
        self.forwarding.apply(changes)

    @rule(prefix=prefixes, hop=hops, source=st.sampled_from(SOURCES))
    def add(self, prefix: Prefix, hop: NextHop, source: RouteSource) -> None:
        present = self.candidates.setdefault(prefix, [])
        if (hop, source) not in present:
            present.append((hop, source))
        change = self.table.add(prefix, hop, source)
        self.take([change] if change else [], {prefix})

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        everything = [(p, *each) for p, present in self.candidates.items() for each in present]
        if not everything:
            return
        prefix, hop, source = data.draw(st.sampled_from(everything))
        self.candidates[prefix].remove((hop, source))
        change = self.table.withdraw(prefix, hop, source)
        self.take([change] if change else [], {prefix})

    @rule(hop=hops, source=st.sampled_from(SOURCES), wanted=st.sets(prefixes, max_size=5))
    def replace(self, hop: NextHop, source: RouteSource, wanted: set[Prefix]) -> None:
        candidate = (hop, source)
        touched = set()
        for prefix, present in self.candidates.items():
            if candidate in present and prefix not in wanted:
                present.remove(candidate)
                touched.add(prefix)
        for prefix in wanted:
            present = self.candidates.setdefault(prefix, [])
            if candidate not in present:
                present.append(candidate)
                touched.add(prefix)
        self.take(self.table.replace(hop, source, wanted), touched)

    @rule(node=st.sampled_from(NODES), reachable=st.booleans(), rtt=rtts)
    def update(self, node: NodeId, reachable: bool, rtt: float | None) -> None:
        before = self.paths.get(node)
        if reachable:
            self.paths[node] = float("inf") if rtt is None else rtt
        else:
            self.paths.pop(node, None)
        touched = set(self.candidates) if self.paths.get(node) != before else set()
        self.take(self.table.update_node(node, reachable=reachable, rtt=rtt), touched)

    @rule(node=st.none() | st.sampled_from(NODES))
    def set_default(self, node: NodeId | None) -> None:
        self.default = node
        self.forwarding.default_gateway = node

    @rule(target=views)
    def hold(self) -> tuple[FibView, Routes, NodeId | None]:
        """Keep the view, and what it must answer for ever."""
        return self.forwarding.view, {p: best[0] for p, best in self.best.items()}, self.default

    @rule(held=views, address=addresses)
    def look_up(self, held: tuple[FibView, Routes, NodeId | None], address: Address) -> None:
        view, routes, default = held
        expected = longest_match(routes, address)
        if expected is None and default is not None:
            expected = NextHop.via_gateway(default)
        assert view.lookup(address.packed) == expected

    @rule(held=consumes(views))
    def let_go(self, held: tuple[FibView, Routes, NodeId | None]) -> None:
        """Drop a view that was held."""

    @rule(address=addresses)
    def look_up_owner(self, address: Address) -> None:
        found = [prefix for prefix in self.best if address in prefix]
        owner = self.forwarding.view.owner(address.packed)
        if not found:
            assert owner is None
            return
        prefix = max(found, key=lambda each: each.prefixlen)
        owning = [
            each for each in self.candidates[prefix] if each[0].kind is not NextHopKind.GATEWAY
        ]
        if not owning or prefix.prefixlen == 0:
            assert owner is None
            return
        assert owner in {each[0] for each in owning}
        if self.best[prefix] in owning:
            assert owner == self.best[prefix][0]
        else:
            assert (
                owner
                == min(
                    owning,
                    key=lambda each: (
                        self.rank(each),
                        self.rtt(each),
                        each[0].node.value if each[0].node else b"",
                    ),
                )[0]
            )

    @invariant()
    def the_best_is_the_best(self) -> None:
        present = {(each.prefix, each.next_hop, each.source) for each in self.table}
        assert present == {(prefix, *best) for prefix, best in self.best.items()}
        assert len(self.forwarding) == len(self.table) == len(self.best)

    @invariant()
    def every_candidate_is_there(self) -> None:
        for prefix, present in self.candidates.items():
            routes = self.table.candidates(prefix)
            assert {(each.next_hop, each.source) for each in routes} == set(present)
            for one, following in itertools.pairwise(routes[1:]):
                assert self.rank((one.next_hop, one.source)) <= self.rank(
                    (following.next_hop, following.source)
                )


TestRouting = RoutingMachine.TestCase
TestRouting.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

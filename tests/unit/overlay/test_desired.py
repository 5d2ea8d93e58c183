"""Which prefixes of the overlay become routes of the OS."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.model import LOCAL, Address, NextHop, NextHopKind, NodeId, Prefix
from quicether.overlay import desired
from quicether.overlay.desired import (
    MAX_REFUSALS,
    WIDEST,
    HostRoutes,
    HostRouteSelection,
    RouteChoice,
)

HOME = NextHop.to_node(NodeId(bytes(20)))
NET = ip_network("192.168.1.0/24")


def routes(
    best: Mapping[str, NextHop],
    choice: RouteChoice | None = None,
    connected: Sequence[str] = (),
    underlay: Sequence[str] = (),
) -> HostRoutes:
    selection = HostRouteSelection()
    for prefix, hop in best.items():
        selection.turn(ip_network(prefix), hop)
    selection.use(
        choice or RouteChoice(),
        [ip_network(prefix) for prefix in connected],
        [ip_address(address) for address in underlay],
    )
    return selection.routes()


def test_all_remote_prefixes_are_taken_in_order_and_local_ones_are_not() -> None:
    found = routes(
        {"fd00::/64": HOME, "10.1.0.0/16": HOME, "10.0.0.0/16": HOME, "10.9.0.0/16": LOCAL}
    )
    assert [str(prefix) for prefix in found.prefixes] == ["10.0.0.0/16", "10.1.0.0/16", "fd00::/64"]
    assert found.refusals == ()


def test_a_prefix_over_an_own_network_is_refused_and_says_how_to_take_it() -> None:
    found = routes({"192.168.0.0/16": HOME}, connected=["192.168.1.0/24"])
    assert found.prefixes == ()
    assert "192.168.0.0/16" in found.refusals[0]
    assert "192.168.1.0/24" in found.refusals[0]
    assert "accept-conflicts" in found.refusals[0]


def test_the_same_prefix_as_an_own_network_is_refused() -> None:
    assert routes({"192.168.1.0/24": HOME}, connected=["192.168.1.0/24"]).prefixes == ()


def test_a_more_specific_prefix_inside_an_own_network_cuts_nothing_off() -> None:
    assert routes({"192.168.1.64/26": HOME}, connected=["192.168.1.0/24"]).refusals == ()


def test_a_prefix_that_covers_a_peers_underlay_address_is_refused() -> None:
    found = routes({"203.0.113.0/24": HOME}, underlay=["203.0.113.9"])
    assert found.prefixes == ()
    assert "203.0.113.9" in found.refusals[0]


def test_an_accepted_conflict_is_taken() -> None:
    choice = RouteChoice(accepted=(NET,))
    assert routes({str(NET): HOME}, choice, connected=[str(NET)]).prefixes == (NET,)


def test_a_list_takes_only_what_lies_inside_it() -> None:
    choice = RouteChoice(automatic=False, only=(ip_network("10.0.0.0/8"),))
    found = routes({"10.1.0.0/16": HOME, "192.168.1.0/24": HOME}, choice)
    assert [str(prefix) for prefix in found.prefixes] == ["10.1.0.0/16"]


def test_none_takes_nothing() -> None:
    assert routes({"10.1.0.0/16": HOME}, RouteChoice(automatic=False)).prefixes == ()


def test_a_default_route_is_never_taken_from_the_overlay() -> None:
    assert routes({"0.0.0.0/0": HOME}).prefixes == ()


# -- as everything changes -------------------------------------------------------------------

AWAY = NextHop.via_gateway(NodeId(bytes(range(20))))


def test_many_refusals_are_a_few_sentences_and_a_number() -> None:
    best = {f"10.0.{n}.0/24": HOME for n in range(100)}
    found = routes(best, connected=[f"10.0.{n}.128/25" for n in range(100)])
    assert len(found.refusals) == MAX_REFUSALS + 1
    assert found.refusals[0].startswith("prefix 10.0.0.0/24 of node")
    assert found.refusals[-1].startswith(f"{100 - MAX_REFUSALS} more prefixes")


def test_routes_that_are_too_many_wait_until_another_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desired, "MAX_HOST_PREFIXES", 2)
    selection = HostRouteSelection()
    first, second, third = (ip_network(f"10.{n}.0.0/16") for n in (2, 3, 1))
    for prefix in (first, second, third):
        selection.turn(prefix, HOME)
    assert selection.routes().prefixes == (first, second)
    assert selection.routes().refusals == ("1 prefixes wait: 2 routes are the most",)
    selection.turn(second, None)
    assert selection.routes() == HostRoutes((third, first))


def test_what_changes_nothing_for_the_os_leaves_the_same_object() -> None:
    selection = HostRouteSelection()
    selection.turn(NET, HOME)
    before = selection.routes()
    selection.turn(NET, AWAY)
    selection.turn(ip_network("10.0.0.0/8"), LOCAL)
    selection.use(RouteChoice(), [ip_network("10.0.0.0/24")], [ip_address("192.0.2.1")])
    assert selection.routes() is before


def test_a_change_among_many_prefixes_costs_next_to_nothing() -> None:
    selection = HostRouteSelection()
    many = [ip_network((10 << 24 | n << 8, 24)) for n in range(60_000)]
    for prefix in many:
        selection.turn(prefix, HOME)
    peers = [ip_address(f"192.0.2.{n}") for n in range(100)]
    began = time.monotonic()
    for n in range(100):
        selection.use(RouteChoice(), [], peers[: n + 1])
        selection.turn(many[n], None)
        selection.turn(many[n], AWAY)
        selection.routes()
    # A walk over all of it, a hundred times, takes a minute.
    assert time.monotonic() - began < 5


def bits(text: str, *, version: int) -> Prefix:
    """The prefix that begins with these bits, in a world of ten bits behind 10.0.0.0/8 or so."""
    size = 32 if version == 4 else 128
    head, length = (10, 8) if version == 4 else (0xFD, 8)
    value = (head << len(text) | (int(text, 2) if text else 0)) << (size - length - len(text))
    return ip_network((value.to_bytes(size // 8), length + len(text)))


prefixes = st.builds(bits, st.text("01", max_size=6), version=st.sampled_from([4, 6]))
addresses = st.builds(
    lambda text, version: bits(text, version=version).network_address,
    st.text("01", min_size=6, max_size=6),
    st.sampled_from([4, 6]),
)
hops = st.sampled_from([HOME, AWAY, LOCAL, None])
choices = st.builds(
    RouteChoice,
    automatic=st.booleans(),
    only=st.lists(prefixes, max_size=2).map(tuple),
    accepted=st.lists(prefixes, max_size=2).map(tuple),
)
surroundings = st.tuples(
    choices,
    st.lists(prefixes, max_size=3),
    st.lists(addresses, max_size=3),
    st.lists(prefixes, max_size=2),
)
Surroundings = tuple[RouteChoice, list[Prefix], list[Address], list[Prefix]]


def expected(best: dict[Prefix, NextHop], around: Surroundings) -> tuple[set[Prefix], set[Prefix]]:
    """Which prefixes are taken and which refused, by looking at everything."""
    choice, connected, underlay, ranges = around
    taken: set[Prefix] = set()
    refused: set[Prefix] = set()

    def holds(outer: Prefix, inner: Prefix) -> bool:
        same = outer.version == inner.version
        return same and inner.subnet_of(outer)  # type: ignore[arg-type]

    for prefix in {*ranges, *(p for p, hop in best.items() if hop.kind is not NextHopKind.LOCAL)}:
        if not choice.automatic and not any(holds(each, prefix) for each in choice.only):
            continue
        clashes = (
            prefix.prefixlen < WIDEST
            or any(holds(prefix, network) for network in connected)
            or any(address in prefix for address in underlay)
        )
        accepted = any(holds(each, prefix) for each in choice.accepted)
        (refused if clashes and not accepted else taken).add(prefix)
    return taken, refused


@given(
    st.lists(st.one_of(st.tuples(prefixes, hops), surroundings), max_size=30),
)
def test_it_is_always_what_a_look_at_everything_gives(
    events: list[tuple[Prefix, NextHop | None] | Surroundings],
) -> None:
    selection = HostRouteSelection()
    best: dict[Prefix, NextHop] = {}
    around: Surroundings = (RouteChoice(), [], [], [])
    for event in events:
        if len(event) == 2:
            prefix, hop = event
            selection.turn(prefix, hop)
            if hop is None:
                best.pop(prefix, None)
            else:
                best[prefix] = hop
        else:
            around = event
            selection.use(*around)
        taken, refused = expected(best, around)
        found = selection.routes()
        assert set(found.prefixes) == taken
        order = [(each.version, each.network_address, each.prefixlen) for each in found.prefixes]
        assert order == sorted(order)
        assert len(found.refusals) == min(len(refused), MAX_REFUSALS + 1)
        for sentence in found.refusals[:MAX_REFUSALS]:
            refusal = next(each for each in refused if sentence.startswith(f"prefix {each} "))
            if refusal not in around[3]:
                assert f"of {best[refusal]}:" in sentence

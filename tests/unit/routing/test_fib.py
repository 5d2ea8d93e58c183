"""Longest-prefix match, the default gateway, old views, and who stands behind an address."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from quicether.dataplane.snapshot import Fib, Ownership
from quicether.model import LOCAL, Member, NextHop, NextHopKind, NodeId, RouteSource
from quicether.routing import fib
from quicether.routing.fib import ForwardingTable, Owners
from quicether.routing.table import RouteChange, RoutingTable

A, B, C = (NodeId(bytes([number]) * 20) for number in (1, 2, 3))
node, gateway = NextHop.to_node, NextHop.via_gateway


def packed(text: str) -> bytes:
    return ip_address(text).packed


def change(prefix: str, next_hop: NextHop) -> RouteChange:
    """The change that a new prefix of one candidate makes."""
    made = RoutingTable().add(ip_network(prefix), next_hop, RouteSource.DISCOVERED)
    assert made is not None
    return made


def withdrawal(prefix: str) -> RouteChange:
    return RouteChange(ip_network(prefix), old=None, new=None, owner=None)


def table_of(routes: dict[str, NextHop]) -> ForwardingTable:
    table = ForwardingTable()
    table.apply(change(prefix, next_hop) for prefix, next_hop in routes.items())
    return table


def member(node_id: NodeId, *addresses: str) -> Member:
    return Member(
        node_id, node_id.short, bytes(32), tuple(ip_address(each) for each in addresses), ()
    )


def test_the_views_are_what_the_data_path_reads() -> None:
    view = table_of({"10.0.0.0/8": node(B)}).view
    fib_seam: Fib = view
    owners_seam: Ownership = Owners(view, {}, member(A))
    assert fib_seam.lookup(packed("10.0.0.1")) == node(B)
    assert owners_seam.owner(packed("10.0.0.1")) is None


def test_an_empty_fib_has_no_next_hop() -> None:
    view = ForwardingTable().view
    assert view.lookup(packed("10.0.0.1")) is None
    assert view.lookup(packed("fd00::1")) is None


@pytest.mark.parametrize(
    ("destination", "expected"),
    [("10.0.1.42", node(B)), ("10.0.2.1", node(A)), ("11.0.0.1", None)],
)
def test_the_longest_prefix_wins(destination: str, expected: NextHop | None) -> None:
    view = table_of({"10.0.0.0/8": node(A), "10.0.1.0/24": node(B)}).view
    assert view.lookup(packed(destination)) == expected


def test_the_longest_ipv6_prefix_wins() -> None:
    view = table_of({"fd00::/8": node(A), "fd00:1::/32": LOCAL, "fd00:1::7/128": node(B)}).view
    assert view.lookup(packed("fd00:1::7")) == node(B)
    assert view.lookup(packed("fd00:1::8")) == LOCAL
    assert view.lookup(packed("fd00:2::8")) == node(A)


def test_the_overlays_own_addresses_match_no_wider_prefix_and_no_default_gateway() -> None:
    # They have to be looked up: an exit that gets everything else does not know the members.
    blocks = [ip_network("100.64.0.0/10"), ip_network("fd00:1::/48")]
    table = ForwardingTable(blocks)
    table.default_gateway = A
    table.apply([change("0.0.0.0/0", LOCAL), change("100.64.0.2/32", node(B))])
    view = table.view
    assert view.lookup(packed("100.64.0.2")) == node(B)
    for member_unknown in ("100.64.0.3", "fd00:1::3"):
        assert view.lookup(packed(member_unknown)) is None
        assert view.longest(packed(member_unknown)) is None
        assert view.owner(packed(member_unknown)) is None
    assert view.lookup(packed("8.8.8.8")) == LOCAL
    assert view.lookup(packed("2001:db8::1")) == gateway(A)
    assert (len(table), table.kinds.total()) == (2, 2)


def test_a_route_for_the_whole_of_a_block_of_its_own_comes_and_goes() -> None:
    table = ForwardingTable([ip_network("100.64.0.0/10")])
    table.default_gateway = A
    before = table.view
    table.apply([change("100.64.0.0/10", node(B))])
    between = table.view
    assert between.lookup(packed("100.64.0.3")) == node(B)
    table.apply([withdrawal("100.64.0.0/10")])
    assert table.view.lookup(packed("100.64.0.3")) is None
    assert between.longest(packed("100.64.0.3")) == ip_network("100.64.0.0/10")
    assert (before.lookup(packed("100.64.0.4")), before.longest(packed("100.64.0.4"))) == (
        None,
    ) * 2
    assert len(table) == 0


def test_ipv4_and_ipv6_defaults_are_separate() -> None:
    view = table_of({"0.0.0.0/0": node(A)}).view
    assert view.lookup(packed("8.8.8.8")) == node(A)
    assert view.lookup(packed("2001:db8::1")) is None


def test_what_nothing_matches_goes_to_the_default_gateway() -> None:
    table = table_of({"10.0.0.0/8": node(A)})
    table.default_gateway = B
    assert table.view.lookup(packed("9.9.9.9")) == gateway(B)
    assert table.view.lookup(packed("10.0.0.1")) == node(A)
    table.default_gateway = None
    assert table.view.lookup(packed("9.9.9.9")) is None


def test_the_view_stays_the_same_until_something_changes() -> None:
    table = table_of({"10.0.0.0/8": node(A)})
    view = table.view
    table.apply([change("10.0.0.0/8", node(A))])
    assert table.view is view
    table.apply([change("10.0.0.0/8", node(B))])
    assert table.view is not view


def test_an_old_view_never_sees_a_later_change() -> None:
    table = table_of({"10.0.0.0/8": node(A), "10.1.0.0/16": node(B)})
    table.default_gateway = C
    old = table.view
    table.apply(
        [change("10.0.0.0/8", LOCAL), withdrawal("10.1.0.0/16"), change("10.2.0.0/16", node(C))]
    )
    table.default_gateway = None
    assert old.lookup(packed("10.0.0.1")) == node(A)
    assert old.lookup(packed("10.1.0.1")) == node(B)
    assert old.lookup(packed("10.2.0.1")) == node(A)
    assert old.lookup(packed("11.0.0.1")) == gateway(C)
    assert table.view.lookup(packed("10.1.0.1")) == LOCAL


def test_every_held_view_keeps_its_own_state() -> None:
    table = ForwardingTable()
    views = []
    for number in range(1, 20):
        table.apply([change("10.0.0.0/8", node(NodeId(bytes([number]) * 20)))])
        views.append(table.view)
    hops = [view.lookup(packed("10.0.0.1")) for view in views]
    assert hops == [node(NodeId(bytes([number]) * 20)) for number in range(1, 20)]


def test_a_change_that_is_undone_leaves_no_note_in_an_old_view() -> None:
    table = table_of({"10.0.0.0/8": node(A)})
    old = table.view
    for _ in range(100):
        table.apply([change("10.1.0.0/16", node(B))])
        table.apply([withdrawal("10.1.0.0/16")])
    assert old._before == {}
    assert old.lookup(packed("10.1.0.1")) == node(A)


def test_views_that_nobody_holds_are_forgotten() -> None:
    table = ForwardingTable()
    for number in range(1, 100):
        table.apply([change("10.0.0.0/8", node(NodeId(bytes([number]) * 20)))])
        table.view.lookup(packed("10.0.0.1"))
    assert len(table._older) == 1


def test_the_cache_of_destinations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fib, "CACHED_DESTINATIONS", 8)
    view = table_of({"10.0.0.0/8": node(A)}).view
    for number in range(100):
        assert view.lookup(bytes([10, 0, 0, number])) == node(A)
        assert len(view._cache) <= 8


def test_the_forwarding_table_counts_its_prefixes() -> None:
    table = table_of({"10.0.0.0/8": node(A), "fd00::/8": node(B)})
    table.apply([withdrawal("fd00::/8"), withdrawal("fd01::/16")])
    assert len(table) == 1


def test_a_prefix_belongs_to_its_node() -> None:
    me, other = member(A), member(B)
    owners = Owners(table_of({"10.0.0.0/8": node(B)}).view, {B: other}, me)
    assert owners.owner(packed("10.1.2.3")) is other
    assert owners.owner(packed("11.1.2.3")) is None


def test_a_local_prefix_belongs_to_me() -> None:
    me = member(A)
    owners = Owners(table_of({"10.0.0.0/8": LOCAL}).view, {}, me)
    assert owners.owner(packed("10.1.2.3")) is me


def test_the_internet_behind_a_default_route_belongs_to_nobody() -> None:
    me, other = member(A), member(B)
    for exit_ in (LOCAL, node(B)):
        owners = Owners(table_of({"0.0.0.0/0": exit_, "::/0": exit_}).view, {B: other}, me)
        assert owners.owner(packed("8.8.8.8")) is None
        assert owners.owner(packed("2001:db8::8")) is None


def test_an_own_address_belongs_to_its_member_whatever_the_routes_say() -> None:
    me, other = member(A, "100.64.0.1"), member(B, "100.64.0.2", "fd00::2")
    owners = Owners(table_of({"100.64.0.0/10": node(A), "::/0": LOCAL}).view, {B: other}, me)
    assert owners.owner(packed("100.64.0.2")) is other
    assert owners.owner(packed("fd00::2")) is other
    assert owners.owner(packed("100.64.0.1")) is me


def test_a_prefix_behind_a_gateway_belongs_to_its_owner() -> None:
    table, forwarding_table = RoutingTable(), ForwardingTable()
    table.update_node(C, reachable=True, rtt=0.1)
    office = ip_network("10.0.0.0/16")
    for next_hop in (node(B), gateway(C)):
        made = table.add(office, next_hop, RouteSource.DISCOVERED)
        assert made is not None
        forwarding_table.apply([made])
    members = {B: member(B), C: member(C)}
    owners = Owners(forwarding_table.view, members, member(A))
    assert forwarding_table.view.lookup(packed("10.0.0.1")) == gateway(C)
    assert owners.owner(packed("10.0.0.1")) is members[B]


def test_a_prefix_that_only_a_gateway_knows_belongs_to_nobody() -> None:
    members = {B: member(B), C: member(C)}
    view = table_of({"10.0.0.0/8": node(B), "10.1.0.0/16": gateway(C)}).view
    assert Owners(view, members, member(A)).owner(packed("10.1.0.1")) is None


def test_owners_follow_new_routes() -> None:
    table = table_of({"10.0.0.0/8": node(B)})
    members = {B: member(B), C: member(C, "10.0.0.9")}
    old = Owners(table.view, members, member(A))
    table.apply([change("10.0.0.0/8", node(A)), change("10.1.0.0/16", node(C))])
    new = old.with_fib(table.view)
    assert new.owner(packed("10.1.0.1")) is members[C]
    assert old.owner(packed("10.1.0.1")) is members[B]
    assert new.owner(packed("10.0.0.9")) is members[C]


def test_prefixes_are_counted_by_the_kind_of_their_next_hop() -> None:
    table = table_of({"10.0.0.0/8": node(B), "10.1.0.0/16": gateway(C), "10.2.0.0/16": LOCAL})
    table.apply([change("10.1.0.0/16", node(B)), change("fd00::/8", node(B))])
    assert +table.kinds == {NextHopKind.NODE: 3, NextHopKind.LOCAL: 1}
    table.apply([withdrawal("10.2.0.0/16"), withdrawal("10.2.0.0/16"), change("fd00::/8", node(C))])
    assert +table.kinds == {NextHopKind.NODE: 3}

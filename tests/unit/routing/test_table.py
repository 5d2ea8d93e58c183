"""Precedence of candidates, hysteresis and the changes that the table reports."""

from __future__ import annotations

from ipaddress import ip_network

from quicether.model import LOCAL, NextHop, NodeId, Route, RouteSource
from quicether.routing.table import RouteChange, RoutingTable

A, B, C = (NodeId(bytes([number]) * 20) for number in (1, 2, 3))
OFFICE = ip_network("10.0.0.0/16")
OFFICE6 = ip_network("fd00:1::/48")
HOME = ip_network("192.168.1.0/24")
CONFIGURED, ANNOUNCED, DISCOVERED = RouteSource
node, gateway = NextHop.to_node, NextHop.via_gateway


def table_with(*candidates: tuple[NextHop, RouteSource], up: dict[NodeId, float]) -> RoutingTable:
    """A table with candidates for OFFICE; up: the reachable nodes with their RTT in seconds."""
    table = RoutingTable()
    for peer, rtt in up.items():
        table.update_node(peer, reachable=True, rtt=rtt)
    for next_hop, source in candidates:
        table.add(OFFICE, next_hop, source)
    return table


def best_hop(table: RoutingTable) -> NextHop | None:
    best = table.best(OFFICE)
    return best.next_hop if best else None


def test_an_empty_table_has_no_route() -> None:
    table = RoutingTable()
    assert table.best(OFFICE) is None
    assert table.candidates(OFFICE) == ()
    assert len(table) == 0
    assert OFFICE not in table


def test_the_first_candidate_is_the_best() -> None:
    change = RoutingTable().add(OFFICE, node(A), DISCOVERED)
    expected = Route(OFFICE, node(A), DISCOVERED, reachable=False)
    assert change == RouteChange(OFFICE, old=None, new=expected, owner=node(A))


def test_adding_a_candidate_twice_changes_nothing() -> None:
    table = RoutingTable()
    table.add(OFFICE, node(A), DISCOVERED)
    assert table.add(OFFICE, node(A), DISCOVERED) is None
    assert len(table.candidates(OFFICE)) == 1


def test_withdrawing_what_is_not_there_changes_nothing() -> None:
    assert RoutingTable().withdraw(OFFICE, node(A), DISCOVERED) is None


def test_the_last_candidate_takes_its_prefix_along() -> None:
    table = table_with((node(A), DISCOVERED), up={})
    change = table.withdraw(OFFICE, node(A), DISCOVERED)
    assert change is not None
    assert (change.new, change.owner) == (None, None)
    assert OFFICE not in table


def test_the_same_node_from_two_sources_stays_until_both_are_gone() -> None:
    table = table_with((node(A), DISCOVERED), (node(A), ANNOUNCED), up={A: 0.01})
    assert table.withdraw(OFFICE, node(A), DISCOVERED) is None
    assert best_hop(table) == node(A)


def test_local_comes_before_a_reachable_node() -> None:
    table = table_with((node(A), CONFIGURED), (LOCAL, DISCOVERED), up={A: 0.001})
    assert best_hop(table) == LOCAL


def test_local_is_always_reachable() -> None:
    best = table_with((LOCAL, CONFIGURED), up={}).best(OFFICE)
    assert best is not None
    assert best.reachable


def test_a_reachable_node_comes_before_a_faster_configured_gateway() -> None:
    table = table_with((gateway(B), CONFIGURED), (node(A), DISCOVERED), up={A: 0.9, B: 0.001})
    assert best_hop(table) == node(A)


def test_a_reachable_gateway_comes_before_an_unreachable_node() -> None:
    table = table_with((node(A), CONFIGURED), (gateway(B), DISCOVERED), up={B: 0.5})
    assert best_hop(table) == gateway(B)


def test_an_unreachable_node_comes_before_an_unreachable_gateway() -> None:
    table = table_with((gateway(B), CONFIGURED), (node(A), DISCOVERED), up={})
    assert best_hop(table) == node(A)


def test_a_reachable_discovered_node_comes_before_an_unreachable_configured_one() -> None:
    table = table_with((node(A), CONFIGURED), (node(B), DISCOVERED), up={B: 0.1})
    assert best_hop(table) == node(B)


def test_configured_comes_before_announced_before_discovered() -> None:
    up = {A: 0.3, B: 0.2, C: 0.1}
    table = table_with((node(C), DISCOVERED), (node(B), ANNOUNCED), (node(A), CONFIGURED), up=up)
    assert [each.source for each in table.candidates(OFFICE)] == list(RouteSource)


def test_the_lower_rtt_wins_between_equals() -> None:
    table = table_with((node(A), DISCOVERED), (node(B), DISCOVERED), up={A: 0.1, B: 0.01})
    assert best_hop(table) == node(B)


def test_the_lower_node_id_wins_when_nothing_else_decides() -> None:
    table = table_with((LOCAL, CONFIGURED), (node(B), ANNOUNCED), (node(A), ANNOUNCED), up={})
    table.withdraw(OFFICE, LOCAL, CONFIGURED)
    assert best_hop(table) == node(A)


def test_an_equal_newcomer_does_not_replace_the_best() -> None:
    table = table_with((node(B), DISCOVERED), (node(A), DISCOVERED), up={A: 0.02, B: 0.02})
    assert best_hop(table) == node(B)


def test_a_rival_within_the_absolute_margin_does_not_replace_the_best() -> None:
    table = table_with((node(A), DISCOVERED), (node(B), DISCOVERED), up={A: 0.005, B: 0.0025})
    assert best_hop(table) == node(A)


def test_a_rival_within_the_relative_margin_does_not_replace_the_best() -> None:
    table = table_with((node(A), DISCOVERED), (node(B), DISCOVERED), up={A: 0.1, B: 0.09})
    assert best_hop(table) == node(A)


def test_rtts_that_wobble_around_each_other_change_nothing() -> None:
    table = table_with((node(A), DISCOVERED), (node(B), DISCOVERED), up={A: 0.05, B: 0.05})
    for step in range(100):
        assert table.update_node(A, reachable=True, rtt=0.05 + step % 7 * 0.001) == []
        assert table.update_node(B, reachable=True, rtt=0.05 - step % 5 * 0.001) == []


def test_a_known_rtt_beats_an_unknown_one_at_once() -> None:
    table = table_with((node(A), DISCOVERED), (node(B), DISCOVERED), up={B: 0.2})
    table.update_node(A, reachable=True)
    assert best_hop(table) == node(B)
    assert table.update_node(A, reachable=True, rtt=0.1) != []
    assert best_hop(table) == node(A)


def test_the_direct_way_is_taken_back_as_soon_as_it_works() -> None:
    table = table_with((node(A), DISCOVERED), (gateway(B), DISCOVERED), up={A: 0.1, B: 0.01})
    (lost,) = table.update_node(A, reachable=False)
    assert lost.old is not None
    assert lost.new is not None
    assert (lost.old.next_hop, lost.new.next_hop) == (node(A), gateway(B))
    (back,) = table.update_node(A, reachable=True, rtt=0.4)
    assert back.new is not None
    assert back.new.next_hop == node(A)


def test_the_old_route_of_a_change_says_how_it_was() -> None:
    table = table_with((node(A), DISCOVERED), (gateway(B), DISCOVERED), up={A: 0.1, B: 0.01})
    (change,) = table.update_node(A, reachable=False)
    assert change.old == Route(OFFICE, node(A), DISCOVERED, reachable=True, rtt=0.1)


def test_a_node_stays_the_owner_while_a_gateway_carries_its_packets() -> None:
    table = table_with((node(A), DISCOVERED), (gateway(B), DISCOVERED), up={B: 0.01})
    assert best_hop(table) == gateway(B)
    assert table.owner(OFFICE) == node(A)


def test_a_prefix_that_only_gateways_know_has_no_owner() -> None:
    table = table_with((gateway(B), DISCOVERED), up={B: 0.01})
    assert table.owner(OFFICE) is None


def test_a_new_owner_behind_the_same_gateway_is_a_change() -> None:
    table = table_with((gateway(B), DISCOVERED), up={B: 0.01})
    change = table.add(OFFICE, node(A), DISCOVERED)
    assert change is not None
    assert change.owner == node(A)
    assert change.old == change.new


def test_a_node_that_comes_and_goes_without_a_rival_changes_nothing() -> None:
    table = table_with((node(A), DISCOVERED), up={})
    assert table.update_node(A, reachable=True, rtt=0.1) == []
    best = table.best(OFFICE)
    assert best is not None
    assert (best.reachable, best.rtt) == (True, 0.1)


def test_an_unreachable_node_has_no_rtt() -> None:
    table = table_with((node(A), DISCOVERED), up={A: 0.1})
    table.update_node(A, reachable=False, rtt=0.1)
    best = table.best(OFFICE)
    assert best is not None
    assert (best.reachable, best.rtt) == (False, None)


def test_replace_withdraws_what_is_not_said_again() -> None:
    table = RoutingTable()
    table.replace(node(A), ANNOUNCED, [OFFICE, HOME])
    changes = table.replace(node(A), ANNOUNCED, [HOME, OFFICE6])
    assert {(each.prefix, each.new is None) for each in changes} == {
        (OFFICE, True),
        (OFFICE6, False),
    }
    assert table.prefixes_of(A) == {HOME, OFFICE6}


def test_replace_leaves_other_sources_alone() -> None:
    table = table_with((node(A), CONFIGURED), up={})
    table.replace(node(A), ANNOUNCED, [OFFICE])
    table.replace(node(A), ANNOUNCED, [])
    assert OFFICE in table


def test_a_node_that_leaves_takes_all_its_candidates_along() -> None:
    table = table_with((node(A), CONFIGURED), (node(B), DISCOVERED), up={A: 0.1, B: 0.1})
    table.add(HOME, gateway(A), DISCOVERED)
    table.withdraw_node(A)
    assert best_hop(table) == node(B)
    assert HOME not in table
    assert table.prefixes_of(A) == frozenset()


def test_a_node_that_left_is_unreachable_when_it_comes_back() -> None:
    table = table_with((node(A), CONFIGURED), up={A: 0.1})
    table.withdraw_node(A)
    table.add(OFFICE, node(A), DISCOVERED)
    best = table.best(OFFICE)
    assert best is not None
    assert not best.reachable


def test_a_full_table_takes_no_more_from_others_and_counts_it() -> None:
    table = RoutingTable(max_prefixes=1)
    table.add(OFFICE, node(A), DISCOVERED)
    assert table.add(HOME, node(A), DISCOVERED) is None
    assert HOME not in table
    assert table.refused == 1


def test_a_full_table_still_takes_what_the_user_configured() -> None:
    table = RoutingTable(max_prefixes=1)
    table.add(OFFICE, node(A), DISCOVERED)
    assert table.add(HOME, LOCAL, CONFIGURED) is not None


def test_the_lowest_in_rank_goes_when_a_prefix_has_too_many_candidates() -> None:
    table = RoutingTable(max_candidates=2)
    for next_hop in (gateway(A), gateway(B), node(C)):
        table.add(OFFICE, next_hop, DISCOVERED)
    assert [each.next_hop for each in table.candidates(OFFICE)] == [node(C), gateway(A)]
    assert table.refused == 1
    assert table.prefixes_of(B) == frozenset()


def test_a_newcomer_of_the_lowest_rank_is_refused() -> None:
    table = RoutingTable(max_candidates=1)
    table.add(OFFICE, node(A), DISCOVERED)
    assert table.add(OFFICE, gateway(B), DISCOVERED) is None
    assert [each.next_hop for each in table.candidates(OFFICE)] == [node(A)]


def test_iteration_gives_the_best_route_of_each_prefix() -> None:
    table = table_with((node(A), DISCOVERED), (LOCAL, CONFIGURED), up={})
    table.add(OFFICE6, node(B), DISCOVERED)
    assert {(each.prefix, each.next_hop) for each in table} == {
        (OFFICE, LOCAL),
        (OFFICE6, node(B)),
    }

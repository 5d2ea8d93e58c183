"""What belongs into the kernel for a configuration, and how to get there from what is there."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from quicether.host.desired import FullTunnel, HostConfig
from quicether.host.kernel_state import (
    MAIN_TABLE,
    KernelRoute,
    KernelRule,
    KernelState,
    difference,
    orphans,
    wanted,
)

FULL = FullTunnel(mark=0x51, table=9000, priority=5200)
CONFIG = HostConfig(
    device="quicether0",
    mtu=1400,
    addresses=(ip_interface("100.64.0.1/32"), ip_interface("fd00::1/128")),
    prefixes=(ip_network("10.0.0.0/8"), ip_network("fd01::/48")),
)
ROUTES = frozenset(KernelRoute(prefix) for prefix in CONFIG.prefixes)


def test_addresses_and_prefixes() -> None:
    goal = wanted(CONFIG, addressing=True, ipv6=True)
    assert goal.state == KernelState(frozenset(CONFIG.addresses), ROUTES)
    assert goal.refused == ()


def test_somebody_else_has_addresses_and_routes() -> None:
    assert wanted(CONFIG, addressing=False, ipv6=True).state == KernelState()


def test_a_machine_without_ipv6() -> None:
    state = wanted(CONFIG, addressing=True, ipv6=False).state
    assert state.addresses == {CONFIG.addresses[0]}
    assert state.routes == {KernelRoute(CONFIG.prefixes[0])}


def test_a_path_too_narrow_for_ipv6_is_said() -> None:
    goal = wanted(replace(CONFIG, mtu=1279), addressing=True, ipv6=True)
    assert goal.state.addresses == {CONFIG.addresses[0]}
    assert goal.refused == ("IPv6 needs an MTU of 1280 bytes, quicether0 has 1279",)


def test_full_tunnel_in_a_table_of_its_own_with_two_rules_a_version() -> None:
    state = wanted(replace(CONFIG, full_tunnel=FULL), addressing=True, ipv6=True).state
    assert state.routes - ROUTES == {
        KernelRoute(ip_network("0.0.0.0/0"), 9000),
        KernelRoute(ip_network("::/0"), 9000),
    }
    assert state.rules == {
        KernelRule(4, 5201, MAIN_TABLE, suppress=0),
        KernelRule(4, 5202, 9000, mark=0x51),
        KernelRule(6, 5201, MAIN_TABLE, suppress=0),
        KernelRule(6, 5202, 9000, mark=0x51),
    }


def test_full_tunnel_with_a_known_port_leaves_it_outside() -> None:
    full = replace(FULL, port=9000)
    state = wanted(replace(CONFIG, full_tunnel=full), addressing=True, ipv6=True).state
    assert {rule for rule in state.rules if rule.source_port is not None} == {
        KernelRule(4, 5200, MAIN_TABLE, source_port=9000),
        KernelRule(6, 5200, MAIN_TABLE, source_port=9000),
    }
    assert orphans(state.rules, ()).rules == state.rules


def test_local_networks_go_through_the_tunnel_too_where_they_are_asked_to() -> None:
    full = replace(FULL, lan_access=False)
    state = wanted(replace(CONFIG, full_tunnel=full), addressing=True, ipv6=True).state
    assert {rule.priority for rule in state.rules} == {5202}


def test_what_our_own_user_asks_stays_outside_a_full_tunnel() -> None:
    full = replace(FULL, port=9000, uid=997)
    state = wanted(replace(CONFIG, full_tunnel=full), addressing=True, ipv6=True).state
    assert {rule for rule in state.rules if rule.uid is not None} == {
        KernelRule(4, 5200, MAIN_TABLE, uid=997),
        KernelRule(6, 5200, MAIN_TABLE, uid=997),
    }
    assert orphans(state.rules, ()).rules == state.rules


def test_full_tunnel_is_ours_also_where_addresses_are_not() -> None:
    state = wanted(replace(CONFIG, full_tunnel=FULL), addressing=False, ipv6=True).state
    assert state.addresses == frozenset()
    assert {route.table for route in state.routes} == {9000}
    assert len(state.rules) == 4


def test_full_tunnel_that_cannot_carry_ipv6_does_not_let_it_leak() -> None:
    for narrow, ipv6 in ((replace(CONFIG, mtu=1200), True), (CONFIG, False)):
        state = wanted(replace(narrow, full_tunnel=FULL), addressing=True, ipv6=ipv6).state
        assert KernelRoute(ip_network("::/0"), 9000, unreachable=True) in state.routes
        assert KernelRule(6, 5202, 9000, mark=0x51) in state.rules


def test_full_tunnel_of_one_version_leaves_the_other_alone() -> None:
    only4 = replace(CONFIG, full_tunnel=replace(FULL, ipv6=False))
    state = wanted(only4, addressing=True, ipv6=True).state
    assert {rule.version for rule in state.rules} == {4}


def test_a_namespace_of_its_own_has_nothing_that_could_loop() -> None:
    config = replace(CONFIG, full_tunnel=FULL, netns="inside")
    for addressing in (True, False):
        state = wanted(config, addressing=addressing, ipv6=True).state
        assert KernelRoute(ip_network("0.0.0.0/0")) in state.routes
        assert state.rules == frozenset()
        assert state.addresses == frozenset(CONFIG.addresses)


def test_a_default_route_without_full_tunnel_is_refused_because_it_would_loop() -> None:
    config = replace(CONFIG, prefixes=(*CONFIG.prefixes, ip_network("0.0.0.0/0")))
    goal = wanted(config, addressing=True, ipv6=True)
    assert goal.state.routes == ROUTES
    assert goal.refused == ("prefix 0.0.0.0/0 would take the underlay with it: use a full tunnel",)


def test_nothing_to_do_is_nothing() -> None:
    state = wanted(replace(CONFIG, full_tunnel=FULL), addressing=True, ipv6=True).state
    change = difference(state, state)
    assert not any(
        (change.remove_rules, change.remove_routes, change.remove_addresses,
         change.add_addresses, change.add_routes, change.add_rules)
    )  # fmt: skip


networks = st.ip_addresses().map(lambda a: ip_network(a)).map(KernelRoute)
states = st.builds(
    KernelState,
    st.frozensets(st.ip_addresses().map(lambda a: ip_interface(a)), max_size=4),
    st.frozensets(networks, max_size=5),
)


@given(states, states)
def test_a_difference_leads_there_and_touches_nothing_else(
    have: KernelState, want: KernelState
) -> None:
    change = difference(have, want)
    assert (have.routes - set(change.remove_routes)) | set(change.add_routes) == want.routes
    assert (
        have.addresses - set(change.remove_addresses) | set(change.add_addresses) == want.addresses
    )
    assert not have.routes & want.routes & {*change.remove_routes, *change.add_routes}


def test_orphans_are_what_has_a_table_without_device() -> None:
    crashed = wanted(replace(CONFIG, full_tunnel=FULL, mtu=1200), addressing=True, ipv6=True).state
    running_full = FullTunnel(mark=0x52, table=9001, priority=5300)
    running = wanted(replace(CONFIG, full_tunnel=running_full), addressing=True, ipv6=True).state
    after_crash = {route for route in crashed.routes if route.unreachable}
    left = orphans(crashed.rules | running.rules, after_crash | running.routes)
    assert left == KernelState(routes=frozenset(after_crash), rules=crashed.rules)


def test_a_running_tunnel_has_no_orphans() -> None:
    running = wanted(replace(CONFIG, full_tunnel=FULL), addressing=True, ipv6=False).state
    assert orphans(running.rules, running.routes) == KernelState()

"""Verdicts on pairs of addresses: one test for each line of the decisions."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from quicether.dataplane import verdict
from quicether.dataplane.icmp import Problem
from quicether.dataplane.snapshot import Snapshot
from quicether.dataplane.verdict import Action, Verdict
from quicether.model import LOCAL, DropReason, Member, NextHop
from support.fake_link import FakeLink
from support.fake_overlay import member, snapshot

ME = member("me", ["100.64.0.1", "fd00::1"], ["10.0.0.0/16"])
HOME = member("home", ["100.64.0.2", "fd00::2"], ["192.168.1.0/24"])
OFFICE = member("office", ["100.64.0.3"], ["10.1.0.0/16"])
GATE = member("gate", ["100.64.0.4"], ["0.0.0.0/0", "::/0", "10.0.0.0/16"])
ABSENT = member("absent", ["100.64.0.5"], ["10.5.0.0/16"])
BRANCH = member("branch", ["100.64.0.6"], ["10.6.0.0/16"])


def world(*, forwards: bool = False) -> Snapshot:
    """Home and office are connected; absent is not; branch is behind gate."""
    return snapshot(
        ME,
        {
            "192.168.1.0/24": NextHop.to_node(HOME.node_id),
            "100.64.0.2/32": NextHop.to_node(HOME.node_id),
            "fd00::2/128": NextHop.to_node(HOME.node_id),
            "10.1.0.0/16": NextHop.to_node(OFFICE.node_id),
            "10.5.0.0/16": NextHop.to_node(ABSENT.node_id),
            "10.6.0.0/16": NextHop.via_gateway(GATE.node_id),
        },
        {HOME: FakeLink(), OFFICE: FakeLink(), GATE: FakeLink()},
        others=[ABSENT, BRANCH],
        forwards=forwards,
    )


def out(source: str, destination: str) -> Verdict:
    return verdict.outbound(world(), ip_address(source).packed, ip_address(destination).packed)


def came(peer: str, source: str, destination: str, *, forwards: bool = False) -> Verdict:
    peers = {"home": HOME, "office": OFFICE, "gate": GATE, "absent": ABSENT}
    return verdict.inbound(
        world(forwards=forwards),
        peers[peer].node_id,
        ip_address(source).packed,
        ip_address(destination).packed,
    )


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("100.64.0.1", "224.0.0.251"),
        ("100.64.0.1", "255.255.255.255"),
        ("169.254.1.1", "192.168.1.10"),
        ("fd00::1", "ff02::16"),
        ("fe80::1", "fd00::2"),
        ("fd00::1", "fe80::2"),
    ],
)
def test_what_is_confined_never_leaves_and_is_not_answered(source: str, destination: str) -> None:
    assert out(source, destination) == Verdict(
        Action.DROP, reason=DropReason.LINK_LOCAL, before_policy=True
    )


def test_out_to_the_owner_of_the_prefix() -> None:
    assert out("100.64.0.1", "192.168.1.10") == Verdict(Action.SEND, HOME.node_id, ME, HOME)
    assert out("fd00::1", "fd00::2") == Verdict(Action.SEND, HOME.node_id, ME, HOME)


def test_out_through_a_gateway_is_judged_by_the_owner_behind_it() -> None:
    assert out("100.64.0.1", "10.6.0.1") == Verdict(
        Action.SEND, GATE.node_id, ME, BRANCH, stands_in_for=BRANCH.node_id
    )


def test_out_without_route() -> None:
    found = out("100.64.0.1", "172.16.0.1")
    assert (found.action, found.reason) == (Action.DROP, DropReason.NO_ROUTE)
    assert found.problem is Problem.NO_ROUTE


def test_out_without_connection_names_whom_it_wants() -> None:
    found = out("100.64.0.1", "10.5.0.1")
    assert (found.reason, found.problem) == (DropReason.UNREACHABLE, Problem.UNREACHABLE)
    assert found.node == ABSENT.node_id


def test_out_to_ourselves_would_loop() -> None:
    assert out("10.0.0.7", "100.64.0.1").reason is DropReason.LOOP
    found = out("100.64.0.1", "10.0.0.7")
    assert (found.reason, found.problem) == (DropReason.LOOP, Problem.NO_ROUTE)


def test_in_from_addresses_that_the_certificate_covers() -> None:
    assert came("home", "192.168.1.10", "10.0.0.7") == Verdict(Action.DELIVER, None, HOME, ME)
    assert came("home", "fd00::2", "fd00::1") == Verdict(Action.DELIVER, None, HOME, ME)


@pytest.mark.parametrize("source", ["10.1.0.1", "192.168.2.1", "100.64.0.3", "100.64.0.1"])
def test_in_from_another_address_is_spoofed_before_policy_and_without_answer(source: str) -> None:
    assert came("home", source, "10.0.0.7") == Verdict(
        Action.DROP, reason=DropReason.SPOOFED_SOURCE, before_policy=True
    )


def test_in_from_our_own_address_is_spoofed_even_where_a_certificate_covers_all() -> None:
    assert came("gate", "100.64.0.1", "10.0.0.7").reason is DropReason.SPOOFED_SOURCE


def test_in_from_behind_a_gateway_is_judged_by_the_owner() -> None:
    assert came("gate", "10.6.0.1", "10.0.0.7").source == BRANCH


def test_in_over_the_route_we_use_ourselves_though_the_certificate_does_not_cover_it() -> None:
    base = world()
    narrow = replace(GATE, prefixes=())
    changed = replace(base, members={**base.members, GATE.node_id: narrow})
    gate, destination = GATE.node_id, ip_address("10.0.0.7").packed
    behind, other = ip_address("10.6.0.1").packed, ip_address("10.1.0.1").packed
    assert verdict.inbound(changed, gate, behind, destination).action is Action.DELIVER
    assert verdict.inbound(changed, gate, other, destination).reason is DropReason.SPOOFED_SOURCE


def test_in_from_the_other_gateway_of_our_own_site_is_judged_as_that_gateway() -> None:
    assert came("gate", "10.0.0.9", "100.64.0.1").source == GATE


def test_the_internet_behind_an_exit_is_no_member_wherever_it_is_asked_about() -> None:
    """So a rule about the exit says the same at the laptop, at the exit and between them."""
    internet, laptop = ip_address("8.8.8.8").packed, ip_address("100.64.0.2").packed
    at_laptop = snapshot(HOME, {"0.0.0.0/0": NextHop.via_gateway(EXIT.node_id)}, {EXIT: FakeLink()})
    at_exit = snapshot(
        EXIT,
        {"0.0.0.0/0": LOCAL, "100.64.0.2/32": NextHop.to_node(HOME.node_id)},
        {HOME: FakeLink()},
    )
    for found in (
        verdict.outbound(at_laptop, laptop, internet),
        verdict.inbound(at_exit, HOME.node_id, laptop, internet),
    ):
        assert found.action in (Action.SEND, Action.DELIVER)
        assert (found.source, found.destination) == (HOME, None)
    for found in (
        verdict.outbound(at_exit, internet, laptop),
        verdict.inbound(at_laptop, EXIT.node_id, internet, laptop),
    ):
        assert found.action in (Action.SEND, Action.DELIVER)
        assert (found.source, found.destination) == (None, HOME)


def test_the_exit_itself_is_a_member_by_its_own_addresses() -> None:
    own, laptop = ip_address("100.64.0.8").packed, ip_address("100.64.0.2").packed
    at_exit = snapshot(EXIT, {"0.0.0.0/0": LOCAL}, {HOME: FakeLink()})
    assert verdict.inbound(at_exit, HOME.node_id, laptop, own).destination == EXIT


def test_in_from_a_peer_that_the_snapshot_does_not_know_is_no_spoofing() -> None:
    assert came("absent", "10.5.0.1", "10.0.0.7").reason is DropReason.UNKNOWN_CONNECTION


def test_in_for_others_goes_no_further_where_we_are_no_gateway() -> None:
    found = came("home", "192.168.1.10", "10.1.0.1")
    assert (found.action, found.reason, found.problem) == (Action.DROP, DropReason.NO_ROUTE, None)


def test_in_for_others_is_forwarded_by_a_gateway() -> None:
    found = came("home", "192.168.1.10", "10.1.0.1", forwards=True)
    assert found == Verdict(Action.FORWARD, OFFICE.node_id, HOME, OFFICE)


def test_a_gateway_never_sends_back_where_it_came_from() -> None:
    found = came("home", "100.64.0.2", "192.168.1.77", forwards=True)
    assert (found.reason, found.problem) == (DropReason.LOOP, Problem.NO_ROUTE)


def test_a_gateway_forwards_to_nothing_but_what_it_offers() -> None:
    offered = {ip_network("10.1.0.0/16"): (OFFICE.node_id,)}
    base = replace(world(forwards=True), offered=offered)
    home, source = HOME.node_id, ip_address("192.168.1.10").packed
    for destination, action in (("10.1.0.1", Action.FORWARD), ("192.168.1.1", Action.DROP)):
        packed = ip_address(destination).packed
        assert verdict.inbound(base, home, source, packed).action is action


def test_a_gateway_whose_own_way_is_another_gateway_forwards_to_the_owner_itself() -> None:
    # The owner came back a moment ago: its way does not count yet, but it is what is offered. By
    # way of each other two gateways would drop the packet, and three send it round.
    base = world(forwards=True)
    destination = ip_address("10.6.0.1").packed
    assert base.fib.lookup(destination) == NextHop.via_gateway(GATE.node_id)
    links = {**base.links, BRANCH.node_id: FakeLink()}
    offered = {ip_network("10.6.0.0/16"): (BRANCH.node_id,)}
    now = replace(base, links=links, offered=offered)
    for peer, source in ((HOME, "192.168.1.10"), (GATE, "100.64.0.4")):
        found = verdict.inbound(now, peer.node_id, ip_address(source).packed, destination)
        assert (found.action, found.node) == (Action.FORWARD, BRANCH.node_id)


def test_of_several_owners_a_gateway_forwards_to_that_which_its_own_packets_go_to() -> None:
    base = world(forwards=True)
    destination = ip_address("10.1.0.1").packed
    offered = {ip_network("10.1.0.0/16"): (GATE.node_id, OFFICE.node_id)}
    now = replace(base, offered=offered)
    source = ip_address("192.168.1.10").packed
    assert verdict.inbound(now, HOME.node_id, source, destination).node == OFFICE.node_id


def test_a_gateway_says_what_it_cannot_reach() -> None:
    found = came("home", "192.168.1.10", "172.16.0.1", forwards=True)
    assert (found.reason, found.problem) == (DropReason.NO_ROUTE, Problem.NO_ROUTE)
    found = came("home", "192.168.1.10", "10.5.0.1", forwards=True)
    assert (found.reason, found.problem) == (DropReason.UNREACHABLE, Problem.UNREACHABLE)
    assert found.node == ABSENT.node_id


@pytest.mark.parametrize("destination", ["224.0.0.251", "169.254.3.3"])
def test_in_to_a_confined_address_is_never_forwarded(destination: str) -> None:
    found = came("home", "192.168.1.10", destination, forwards=True)
    assert found.reason is DropReason.LINK_LOCAL


# -- whose addresses a peer may use (feasible-path RPF) --------------------------------------

HUB = member("hub", ["100.64.0.7"], ["100.64.0.0/10", "fd00::/8", "10.0.0.0/8"])
EXIT = member("exit", ["100.64.0.8"], ["0.0.0.0/0", "::/0"])
TELLING = [
    "100.64.0.2",
    "100.64.0.5",
    "100.64.0.1",
    "192.168.1.9",
    "10.1.0.9",
    "10.9.0.9",
    "8.8.8.8",
]
SECOND = member("second", ["100.64.0.9"], ["10.1.0.0/16"])


def sources(peer: Member, *allowed: str, default: Member | None = None) -> dict[str, bool]:
    """Of some telling addresses, which ones a peer may use; allowed: what it is offering.

    Home (100.64.0.2, 192.168.1.0/24) and office (10.1.0.0/16) are reached directly.
    """
    routes = {
        "192.168.1.0/24": NextHop.to_node(HOME.node_id),
        "100.64.0.2/32": NextHop.to_node(HOME.node_id),
        "10.1.0.0/16": NextHop.to_node(OFFICE.node_id),
    }
    if default is not None:
        routes["0.0.0.0/0"] = NextHop.via_gateway(default.node_id)
    links = {each: FakeLink() for each in (HOME, OFFICE, HUB, EXIT, SECOND)}
    base = snapshot(ME, routes, links, others=[ABSENT])
    offered = frozenset(map(ip_network, allowed))
    now = replace(base, candidates={**base.candidates, peer.node_id: offered})
    return {
        source: verdict.accepts_source(now, peer.node_id, ip_address(source).packed)
        for source in TELLING
    }


def accepted(found: dict[str, bool]) -> list[str]:
    return [source for source, fine in found.items() if fine]


def test_a_wide_block_lets_nobody_send_as_a_member_connected_or_not() -> None:
    assert accepted(sources(HUB)) == ["10.9.0.9"]


def test_an_exit_may_send_from_the_internet_and_as_nobody_on_the_network() -> None:
    assert accepted(sources(EXIT)) == ["10.9.0.9", "8.8.8.8"]


def test_a_gateway_may_send_for_whom_it_offers_to_forward_though_the_direct_way_is_in_use() -> None:
    found = sources(HUB, "100.64.0.2/32", "10.1.0.0/16")
    assert accepted(found) == ["100.64.0.2", "10.1.0.9", "10.9.0.9"]
    assert "192.168.1.9" not in accepted(sources(HUB, "192.168.1.0/25"))


def test_a_second_owner_may_send_from_a_prefix_that_another_is_the_way_to() -> None:
    assert accepted(sources(SECOND)) == ["10.1.0.9"]


def test_an_owner_of_a_part_may_not_send_from_the_rest() -> None:
    part = member("office", ["100.64.0.3"], ["10.1.1.0/24"])
    changed = replace(world(), members={OFFICE.node_id: part}, candidates={})
    for source, fine in (("10.1.1.9", True), ("10.1.2.9", False)):
        packed = ip_address(source).packed
        assert verdict.accepts_source(changed, OFFICE.node_id, packed) is fine

"""What a peer's announcement is worth."""

from ipaddress import ip_address, ip_network

from quicether.model import Member, NextHop, NodeId
from quicether.overlay.candidates import Candidates, candidates

ID = NodeId(b"\x07" * 20)
HOME = Member(
    ID,
    "home",
    b"",
    (ip_address("100.64.0.1"), ip_address("fd00::1")),
    (ip_network("192.168.1.0/24"), ip_network("10.0.0.0/8")),
)
LAN = ip_network("192.168.1.0/24")
SITE = ip_network("10.1.0.0/16")
FOREIGN = ip_network("172.16.0.0/12")


def test_a_peers_own_addresses_are_routes_without_being_announced() -> None:
    found = candidates(HOME, [])
    assert [str(route.prefix) for route in found.routes] == ["100.64.0.1/32", "fd00::1/128"]


def test_a_covered_prefix_becomes_a_route_to_its_owner() -> None:
    found = candidates(HOME, [LAN])
    assert (LAN, NextHop.to_node(ID)) in [(route.prefix, route.next_hop) for route in found.routes]


def test_a_prefix_inside_a_covered_block_counts() -> None:
    assert SITE in [route.prefix for route in candidates(HOME, [SITE]).routes]


def test_what_the_certificate_does_not_cover_is_no_route_and_is_named() -> None:
    found = candidates(HOME, [FOREIGN])
    assert FOREIGN not in [route.prefix for route in found.routes]
    assert found.uncovered == (FOREIGN,)


def test_a_larger_block_than_the_covered_one_does_not_count() -> None:
    assert candidates(HOME, [ip_network("192.168.0.0/16")]).uncovered == (
        ip_network("192.168.0.0/16"),
    )


def test_a_forwarded_prefix_is_a_route_over_the_gateway() -> None:
    found = candidates(HOME, [], [SITE])
    assert (SITE, NextHop.via_gateway(ID)) in [
        (route.prefix, route.next_hop) for route in found.routes
    ]


def test_a_default_route_is_nobodys_to_announce() -> None:
    everything = ip_network("0.0.0.0/0")
    assert candidates(HOME, [everything]).uncovered == (everything,)


def test_an_exit_is_no_route_for_those_who_did_not_name_it() -> None:
    everything = ip_network("0.0.0.0/0")
    exit_node = Member(ID, "exit", b"", (), (everything,))
    assert candidates(exit_node, [], [everything]) == Candidates((), ())
    assert candidates(exit_node, [LAN]).uncovered == (LAN,)

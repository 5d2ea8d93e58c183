"""Which prefixes of the overlay become routes of the OS."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

from quicether.model import LOCAL, NextHop, NodeId
from quicether.overlay.desired import HostRoutes, RouteChoice, host_routes

HOME = NextHop.to_node(NodeId(bytes(20)))
NET = ip_network("192.168.1.0/24")


def routes(
    best: Mapping[str, NextHop],
    choice: RouteChoice | None = None,
    connected: Sequence[str] = (),
    underlay: Sequence[str] = (),
) -> HostRoutes:
    return host_routes(
        {ip_network(prefix): hop for prefix, hop in best.items()},
        choice or RouteChoice(),
        [ip_network(prefix) for prefix in connected],
        [ip_address(address) for address in underlay],
    )


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

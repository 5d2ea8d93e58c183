"""What a gateway says itself counts before what its records say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from quicether.model import Member, NextHop, NodeId
from quicether.overlay.routes import OverlayRoutes

HOME, SHOP = ip_network("192.168.1.0/24"), ip_network("192.168.2.0/24")
ME = Member(NodeId(bytes([1]) * 20), "me", b"", (ip_address("100.64.0.1"),), ())
CLOUD = Member(NodeId(bytes([2]) * 20), "cloud", b"", (ip_address("100.64.0.2"),), (HOME, SHOP))
VIA_CLOUD = NextHop.via_gateway(CLOUD.node_id)


def ways(routes: OverlayRoutes) -> list[NextHop | None]:
    return [routes.fib.lookup(prefix[9].packed) for prefix in (HOME, SHOP)]


def test_a_connected_gateway_is_not_used_for_what_it_forwards_no_more() -> None:
    """The record of what it forwarded lingers, and sent packets to where they went no further."""
    routes = OverlayRoutes(ME)
    routes.announced(CLOUD, (), (HOME, SHOP))
    routes.discovered(CLOUD, VIA_CLOUD, (HOME, SHOP))
    assert ways(routes) == [VIA_CLOUD, VIA_CLOUD]
    routes.announced(CLOUD, (), (SHOP,))
    assert ways(routes) == [None, VIA_CLOUD]
    routes.discovered(CLOUD, VIA_CLOUD, (HOME,))
    assert ways(routes) == [None, VIA_CLOUD]


def test_the_records_of_a_gateway_count_where_it_says_nothing_itself() -> None:
    routes = OverlayRoutes(ME)
    routes.discovered(CLOUD, VIA_CLOUD, (HOME,))
    assert ways(routes) == [VIA_CLOUD, None]
    routes.announced(CLOUD, (), ())
    assert ways(routes) == [None, None]
    routes.unannounced(CLOUD.node_id)
    assert ways(routes) == [VIA_CLOUD, None]
    routes.forget(CLOUD.node_id)
    assert ways(routes) == [None, None]

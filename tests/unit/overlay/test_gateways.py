"""What a gateway offers, from what it is told, its LAN and whom it reaches."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from quicether.model import Member, Prefix
from quicether.overlay.gateways import MAX_OFFERS, NOTHING, Forwarding, Offering, Offers, offers
from quicether.overlay.routes import OverlayRoutes
from support.fake_overlay import member

OVERLAY = ("100.64.0.0/10", "fd00::/8")
CLOUD = member("cloud", ["100.64.0.9"], ["192.168.1.0/24", *OVERLAY])
HOME = member("home", ["100.64.0.1", "fd00::1"], ["192.168.0.0/16"])
LAPTOP = member("laptop", ["100.64.0.2"])


def networks(*texts: str) -> tuple[Prefix, ...]:
    return tuple(ip_network(text) for text in texts)


def offered(
    subnets: Iterable[str] = (),
    nodes: tuple[str, ...] = (),
    *,
    lan: Iterable[str] = (),
    home: Iterable[str] = ("192.168.1.0/24",),
    me: Member = CLOUD,
    connected: Iterable[Member] = (HOME, LAPTOP),
) -> Offers:
    owned = {HOME: (*HOME.host_prefixes, *networks(*home)), LAPTOP: LAPTOP.host_prefixes}
    return offers(
        me,
        Forwarding(networks(*subnets), nodes),
        networks(*lan),
        {each: owned[each] for each in connected},
    )


def shown(found: Offers) -> list[str]:
    return list(map(str, found.forwards))


def test_a_subnet_in_the_own_lan_is_local_and_offered() -> None:
    found = offered(["192.168.1.0/24"], lan=["192.168.0.0/16"], connected=[])
    assert found.local == found.forwards == networks("192.168.1.0/24")


def test_of_a_larger_subnet_what_lies_in_the_lan_is_local() -> None:
    me = member("hub", ["100.64.0.9"], ["10.0.0.0/8"])
    found = offered(["10.0.0.0/8"], lan=["10.1.0.0/16", "172.16.0.0/16"], me=me, connected=[])
    assert found.local == networks("10.1.0.0/16")


def test_a_subnet_is_offered_while_its_owner_is_connected() -> None:
    found = offered(["192.168.1.0/24"])
    assert found.local == ()
    assert "192.168.1.0/24" in shown(found)
    assert offered(["192.168.1.0/24"], connected=[LAPTOP]).nodes.keys() == {LAPTOP.node_id}


def test_the_addresses_of_all_peers_are_offered_so_that_answers_have_a_way() -> None:
    assert shown(offered(["192.168.1.0/24"])) == [
        "100.64.0.1/32",
        "100.64.0.2/32",
        "192.168.1.0/24",
        "fd00::1/128",
    ]


def test_a_part_of_an_owners_prefix_is_not_offered_because_it_would_beat_the_direct_way() -> None:
    found = offered(["192.168.1.0/25"], home=["192.168.1.0/24"])
    assert not any(prefix.prefixlen in (24, 25) for prefix in found.forwards)


def test_nodes_are_forwarded_to_with_all_they_own() -> None:
    for nodes in (("home",), (str(HOME.node_id)[:8],), ("*",)):
        assert "192.168.1.0/24" in shown(offered(nodes=nodes))
    assert "192.168.1.0/24" not in shown(offered(nodes=("laptop",)))
    assert offered(nodes=("*",)).nodes[HOME.node_id] == networks(
        "100.64.0.1/32", "192.168.1.0/24", "fd00::1/128"
    )


def test_what_the_certificate_does_not_cover_is_not_offered_but_said() -> None:
    me = member("cloud", ["100.64.0.9"], ["192.168.1.0/24"])
    found = offered(["192.168.1.0/24"], me=me)
    assert shown(found) == ["192.168.1.0/24"]
    assert len(found.refusals) == 2
    assert "laptop is not reached through this node at 100.64.0.2/32" in found.refusals[1]


def test_an_exit_offers_the_internet_and_nobodys_address() -> None:
    me = member("exit", ["100.64.0.9"], ["0.0.0.0/0", "::/0"])
    found = offered(["0.0.0.0/0", "::/0"], me=me)
    assert found.local == found.forwards == networks("0.0.0.0/0", "::/0")
    assert found.refusals == ()


def test_nothing_to_forward_is_nothing_offered() -> None:
    assert offered() == NOTHING


def test_offers_are_bounded_and_what_is_left_out_is_said() -> None:
    many = [member(f"n{i}", [f"100.64.{i >> 8}.{i & 255}"]) for i in range(1, MAX_OFFERS + 5)]
    found = offers(CLOUD, Forwarding((), ("*",)), (), {each: each.host_prefixes for each in many})
    assert len(found.forwards) == MAX_OFFERS
    assert f"{MAX_OFFERS} are announced" in found.refusals[0]


def test_offers_are_thought_over_when_something_of_them_changed_and_only_then() -> None:
    routes = OverlayRoutes(CLOUD)
    offering = Offering(CLOUD, routes)
    forwarding = Forwarding(networks("192.168.0.0/16"))

    def look() -> Offers:
        return offering.look(forwarding, (), (HOME,))

    routes.announced(HOME, HOME.host_prefixes, ())
    before = look()
    routes.reachable(HOME.node_id, reachable=True, rtt=0.01)
    assert look() is before
    routes.announced(HOME, (*HOME.host_prefixes, *networks("192.168.1.0/24")), ())
    after = look()
    assert set(after.forwards) - set(before.forwards) == {*networks("192.168.1.0/24")}
    assert offering.look(forwarding, (), ()) == offering.look(None, (), (HOME,)) == NOTHING

"""What a node says of itself in the DHT, and for how long of the nodes that it forwards to."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from random import Random

from quicether.counters import Counters
from quicether.dht.contact import Contact
from quicether.dht.contents import (
    Content,
    GatewayContent,
    GatewaySubnetContent,
    NodeContent,
    SubnetContent,
)
from quicether.dht.node import DhtNode
from quicether.dht.publisher import MAX_CONTENTS
from quicether.model import Member, NodeId, Prefix, UnderlayAddress
from quicether.overlay.advertise import (
    GATEWAY_LINGER,
    MAX_ADDRESSES,
    Advertisement,
    Advertiser,
    advertisement,
)
from quicether.overlay.gateways import NOTHING, Offers
from support.dht_samples import NETWORK_ID
from support.fake_records import FakeSeals, FakeSigner

LAN = ip_network("192.168.1.0/24")
ADDRESS = ip_network("100.64.0.1/32")
ME = Member(NodeId(bytes([1]) * 20), "home", b"", (ip_address("100.64.0.1"),), (LAN,))


def gateway(number: int) -> GatewayContent:
    return GatewayContent(node=other(number), prefixes=(host(number),))


def other(number: int) -> NodeId:
    return NodeId(number.to_bytes(20))


def host(number: int) -> IPv4Network:
    return IPv4Network((int(IPv4Address("100.64.0.0")) + number, 32))


def offers(numbers: Iterable[int], *subnets: Prefix) -> Offers:
    nodes: dict[NodeId, tuple[Prefix, ...]] = {other(n): (host(n),) for n in numbers}
    forwards = (*subnets, *(prefix for each in nodes.values() for prefix in each))
    return Offers(forwards=forwards, nodes=nodes)


def said(owned: Iterable[Prefix] = (), offered: Offers = NOTHING) -> Advertisement:
    where = [UnderlayAddress("192.0.2.1", port) for port in (9000, 9000, 9001)]
    return advertisement(ME, where, ("gateway", "authority"), owned, offered)


class Said:
    """An advertiser and the DHT machine that it feeds. at: where the clock stands."""

    def __init__(self) -> None:
        seals = FakeSeals(NETWORK_ID)
        signer = FakeSigner(seals, ME)
        self.node = DhtNode(
            Contact.of(ME.node_id), NETWORK_ID, seals, signer, Counters(), Random(1), 0.0
        )
        self.advertiser = Advertiser(self.node)

    def publish(self, contents: Iterable[Content], now: float) -> None:
        self.advertiser.publish(contents, now)

    @property
    def gateways(self) -> set[NodeId]:
        return {each.node for each in self.node.published if isinstance(each, GatewayContent)}


def test_a_node_says_where_it_is_and_what_it_owns() -> None:
    found = said([LAN, ADDRESS])
    assert found.contents == (
        NodeContent(
            addresses=(UnderlayAddress("192.0.2.1", 9000), UnderlayAddress("192.0.2.1", 9001)),
            capabilities=("authority", "gateway"),
        ),
        SubnetContent(prefix=ADDRESS),
        SubnetContent(prefix=LAN),
    )
    assert found.refusals == ()


def test_a_node_with_many_addresses_says_the_best() -> None:
    where = [UnderlayAddress("192.0.2.1", port) for port in range(9000, 9020)]
    (node, *_) = advertisement(ME, where, (), (), NOTHING).contents
    assert isinstance(node, NodeContent)
    assert node.addresses == tuple(where[:MAX_ADDRESSES])


def test_a_gateway_names_nodes_by_gw_and_subnets_by_gw_subnet() -> None:
    subnet = ip_network("10.0.0.0/8")
    found = said([LAN], offers([7], LAN, subnet))
    assert found.contents[3:] == (GatewaySubnetContent(prefix=subnet), gateway(7))


def test_what_does_not_fit_is_left_out_from_the_end_and_said_with_its_number() -> None:
    found = said([], offers(range(2, MAX_CONTENTS + 10)))
    assert len(found.contents) == MAX_CONTENTS
    assert found.contents[-1] == gateway(MAX_CONTENTS - 1)
    (sentence,) = found.refusals
    assert f"{MAX_CONTENTS + 10} records are needed" in sentence
    assert "the last 10 " in sentence


def test_what_is_not_said_any_more_is_withdrawn_at_once() -> None:
    dht = Said()
    dht.publish(said([LAN]).contents, 0.0)
    dht.publish(said().contents, 1.0)
    assert SubnetContent(prefix=LAN) not in dht.node.published
    assert SubnetContent(prefix=ADDRESS) in dht.node.published


def test_what_is_said_otherwise_takes_the_place_of_what_was_said() -> None:
    dht = Said()
    for port in (1, 2):
        dht.publish([NodeContent(addresses=(UnderlayAddress("192.0.2.1", port),))], 0.0)
    assert dht.node.published == (NodeContent(addresses=(UnderlayAddress("192.0.2.1", 2),)),)


def test_a_gateway_goes_on_to_name_a_node_for_a_while() -> None:
    dht = Said()
    dht.publish([gateway(7)], 0.0)
    dht.publish([], GATEWAY_LINGER - 1)
    assert dht.gateways == {other(7)}
    dht.publish([], GATEWAY_LINGER)
    assert dht.gateways == set()


def test_a_node_that_is_gone_makes_room_for_one_that_comes() -> None:
    """The record beyond the bound used to raise out of the mesh, and to end the upkeep."""
    dht = Said()
    crowd = [gateway(number) for number in range(1, MAX_CONTENTS + 1)]
    dht.publish(crowd, 0.0)
    # The first is gone at 10 s and the second at 20 s; two others come.
    dht.publish(crowd[1:], 10.0)
    assert dht.gateways == {each.node for each in crowd}
    comers = [gateway(MAX_CONTENTS + 1)]
    dht.publish([*crowd[2:], *comers], 20.0)
    assert dht.gateways == {each.node for each in [*crowd[1:], *comers]}
    comers.append(gateway(MAX_CONTENTS + 2))
    dht.publish([*crowd[2:], *comers], 21.0)
    assert dht.gateways == {each.node for each in [*crowd[2:], *comers]}


def test_a_node_that_leaves_takes_everything_back() -> None:
    dht = Said()
    dht.publish([*said([LAN]).contents, gateway(7)], 0.0)
    dht.advertiser.withdraw_all(1.0)
    assert dht.node.published == ()

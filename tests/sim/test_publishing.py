"""What a node says reaches its holders: after an outage, after a restart, in great number."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from quicether.dht import keyspace
from quicether.dht.contents import MAX_CONTENTS, SubnetContent
from quicether.dht.events import LookupDone
from quicether.dht.node import DhtNode
from quicether.model import DropReason, Prefix
from sim.network import NETWORK_ID, WALL_OFFSET, Conditions, Network, SimNode
from sim.test_small_networks import Lab
from support.fake_records import FakeSigner

OFFICE = ip_network("10.99.0.0/16")
MANY = tuple(IPv4Network((0xAC140000 + 256 * number, 24)) for number in range(MAX_CONTENTS - 1))


def knowing(lab: Lab, prefix: Prefix, but: SimNode) -> int:
    return sum(prefix in lab.known(node) for node in lab.nodes if node is not but)


@pytest.mark.parametrize("outage", [10.0, 25.0])
def test_a_withdrawal_during_an_outage_arrives_after_it(outage: float) -> None:
    lab = Lab(28)
    lab.wait(300.0)
    node = lab.nodes[2]
    lab.advertise(node, OFFICE)
    lab.wait(60.0)
    assert knowing(lab, OFFICE, node) == 27
    node.side = 1
    lab.wait(1.0)
    lab.withdraw(node, OFFICE)
    lab.wait(outage)
    node.side = 0
    lab.wait(90.0)
    assert knowing(lab, OFFICE, node) == 0


@pytest.mark.parametrize("outage", [4.0, 25.0])
def test_a_prefix_advertised_during_an_outage_appears_after_it(outage: float) -> None:
    lab = Lab(4)
    lab.wait(600.0)
    node = lab.nodes[2]
    node.side = 1
    lab.wait(1.0)
    lab.advertise(node, OFFICE)
    lab.wait(outage)
    node.side = 0
    lab.wait(60.0)
    assert knowing(lab, OFFICE, node) == 3


def test_a_withdrawal_is_not_repeated_for_ever_because_of_a_dead_holder() -> None:
    lab = Lab(6)
    lab.wait(600.0)
    lab.advertise(lab.nodes[2], OFFICE)
    lab.wait(60.0)
    lab.network.kill(lab.nodes.pop())
    lab.withdraw(lab.nodes[2], OFFICE)
    lab.wait(60.0)
    publisher = lab.nodes[2].machine._publisher
    assert not any(place.leaving for place in publisher._places.values())


def test_a_node_with_many_prefixes_is_heard_and_no_peer_refuses_it() -> None:
    lab = Lab(6)
    lab.wait(60.0)
    node = lab.network.add(prefixes=(ip_network("172.20.0.0/14"),))
    lab.nodes.append(node)
    for prefix in MANY:
        node.machine.publish(SubnetContent(prefix=prefix), lab.network.now)
    lab.network.settle(node)
    lab.wait(10.0)
    others = lab.nodes[:6]
    assert all(set(MANY) <= lab.known(other) for other in others)
    lab.wait(30.0)
    assert kept(lab, others) == [len(MANY)] * 6
    assert not lab.network.counters.drops[DropReason.QUEUE_FULL]
    for prefix in MANY:
        node.machine.withdraw(SubnetContent(prefix=prefix), lab.network.now)
    lab.network.settle(node)
    lab.wait(10.0)
    assert not any(set(MANY) & lab.known(other) for other in others)
    lab.wait(30.0)
    assert kept(lab, others) == [0] * 6
    assert lab.network.counters.drops[DropReason.RPC_LIMITED] < 10


def kept(lab: Lab, holders: list[SimNode]) -> list[int]:
    """Return for how many prefixes of MANY each holder has a live record under its own key."""
    wall = lab.network.now + WALL_OFFSET
    keys = [keyspace.subnet_key(NETWORK_ID, prefix) for prefix in MANY]
    stores = [holder.machine._core.store for holder in holders]
    return [
        sum(not record.withdraws for key in keys for record in store.records(key, wall))
        for store in stores
    ]


def test_a_node_that_returns_with_its_clock_set_back_is_believed_at_once() -> None:
    lab = Lab(6)
    lab.wait(600.0)
    network, old = lab.network, lab.nodes[3]
    prefix = old.member.prefixes[0]
    for content in old.machine.published:
        old.machine.withdraw(content, network.now)
    network.settle(old)
    lab.wait(3.0)
    network.kill(old)
    lab.wait(20.0)
    assert knowing(lab, prefix, old) == 0
    machine = DhtNode(
        old.contact,
        NETWORK_ID,
        network.seals,
        FakeSigner(network.seals, old.member),
        network.counters,
        network.random,
        WALL_OFFSET - 200.0,
    )
    node = SimNode(old.contact, old.member, machine, 0.5)
    network.nodes[old.contact.key] = node
    machine.start(network.now)
    machine.publish(SubnetContent(prefix=prefix), network.now)
    network.settle(node)
    lab.wait(10.0)
    assert knowing(lab, prefix, old) == 5


@pytest.mark.parametrize("newcomers", [4, 40])
def test_what_old_holders_kept_outlives_them_once_newcomers_joined(newcomers: int) -> None:
    network = Network(1, Conditions(loss=0.02))
    done: list[LookupDone] = []
    network.on_event = lambda _, e: done.append(e) if isinstance(e, LookupDone) else None
    old = [network.add(prefixes=(OFFICE,)) for _ in range(25)]
    network.bootstrap = old[:1]
    for node in old:
        node.machine._want_bootstrap(0.0)
        network.settle(node)
    network.run(10.0)
    owner = old[3]
    for prefix in OFFICE.subnets(new_prefix=24):
        if prefix.network_address.packed[2] < 20:
            owner.machine.publish(SubnetContent(prefix=prefix), network.now)
    network.settle(owner)
    # By now it has been published three times, and will not be for half an hour.
    network.run(800.0)
    new = [network.add() for _ in range(newcomers)]
    network.run(840.0)
    for node in old:
        network.kill(node)
    for record in network.seals.latest.values():
        new[0].machine.find(record.keys[0], network.now)
    network.settle(new[0])
    network.run(900.0)
    assert [len(event.records) for event in done] == [1] * 20

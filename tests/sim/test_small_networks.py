"""A handful of machines: what five hosts in a lab will see, in virtual time."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from quicether.dht import keyspace, messages
from quicether.dht.contents import GatewaySubnetContent, NodeContent, SubnetContent
from quicether.dht.events import Event, GoneReason, LookupDone, RecordFound, RecordGone
from quicether.model import DropReason, Prefix
from sim.network import NETWORK_ID, WALL_OFFSET, Conditions, Network, SimNode
from support.fake_records import FakeSigner

Told = list[tuple[float, SimNode, Event]]


def lan(number: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + 256 * number, 24))


class Lab:
    """A small network in which every node advertises a LAN and follows all prefixes."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.network = Network(seed, Conditions(loss=0.02))
        self.told: Told = []
        self.network.on_event = lambda node, event: self.told.append(
            (self.network.now, node, event)
        )
        self.nodes = [self.add() for _ in range(count)]

    def add(self) -> SimNode:
        network = self.network
        prefixes: tuple[Prefix, ...] = (lan(network.made), ip_network("10.99.0.0/16"))
        node = network.add(prefixes=prefixes)
        if not network.bootstrap:
            network.bootstrap.append(node)
        for key in keyspace.directory_keys(NETWORK_ID):
            node.machine.watch(key, network.now)
        node.machine.publish(NodeContent(addresses=node.contact.endpoints), network.now)
        self.advertise(node, prefixes[0])
        return node

    def advertise(self, node: SimNode, prefix: Prefix) -> None:
        node.machine.publish(SubnetContent(prefix=prefix), self.network.now)
        self.network.settle(node)

    def withdraw(self, node: SimNode, prefix: Prefix) -> None:
        node.machine.withdraw(SubnetContent(prefix=prefix), self.network.now)
        self.network.settle(node)

    def wait(self, seconds: float) -> None:
        self.network.run(self.network.now + seconds)

    def known(self, node: SimNode) -> set[Prefix]:
        return {
            record.content.prefix
            for record in node.machine.directory
            if isinstance(record.content, SubnetContent)
        }


def test_five_nodes_know_each_others_lans_within_five_seconds() -> None:
    lab = Lab(5)
    lab.wait(5.0)
    lans = {node.member.prefixes[0] for node in lab.nodes}
    for node in lab.nodes:
        assert lab.known(node) == lans - {node.member.prefixes[0]}


def test_a_sixth_node_is_known_to_all_within_five_seconds() -> None:
    lab = Lab(5)
    lab.wait(600.0)
    sixth = lab.add()
    lab.wait(5.0)
    for node in lab.nodes:
        assert sixth.member.prefixes[0] in lab.known(node)
    assert len(lab.known(sixth)) == 5


def test_a_prefix_appears_and_vanishes_within_seconds() -> None:
    lab = Lab(6)
    lab.wait(600.0)
    later = ip_network("10.99.0.0/16")
    lab.advertise(lab.nodes[2], later)
    lab.wait(3.0)
    others = [node for node in lab.nodes if node is not lab.nodes[2]]
    assert all(later in lab.known(node) for node in others)
    lab.withdraw(lab.nodes[2], later)
    lab.wait(3.0)
    assert not any(later in lab.known(node) for node in others)
    gone = [e for _, _, e in lab.told if isinstance(e, RecordGone)]
    assert {event.reason for event in gone} == {GoneReason.WITHDRAWN}
    lab.wait(4000.0)
    assert not any(later in lab.known(node) for node in others)


@pytest.mark.parametrize("between", [0.0, 0.05, 0.12, 0.2, 0.3, 0.5])
def test_withdrawals_in_quick_succession_all_arrive(between: float) -> None:
    lab = Lab(6)
    node = lab.nodes[3]
    later = ip_network("10.99.0.0/16")
    lab.advertise(node, later)
    lab.wait(60.0)
    lab.withdraw(node, later)
    lab.wait(between)
    lab.withdraw(node, node.member.prefixes[0])
    lab.wait(5.0)
    others = [other for other in lab.nodes if other is not node]
    assert not any({later, node.member.prefixes[0]} & lab.known(other) for other in others)
    lab.advertise(node, later)
    lab.wait(5.0)
    assert all(later in lab.known(other) for other in others)


def test_each_change_is_told_once() -> None:
    lab = Lab(6)
    lab.wait(2 * 3600.0)
    told = [(n.contact.key, e.record.slot) for _, n, e in lab.told if isinstance(e, RecordFound)]
    assert len(told) == len(set(told)) == 6 * 5
    assert not [e for _, _, e in lab.told if isinstance(e, RecordGone)]


def test_a_lookup_tells_what_was_withdrawn() -> None:
    lab = Lab(5)
    lab.wait(5)
    leaver, asker = lab.nodes[0], lab.nodes[4]
    key = keyspace.subnet_key(NETWORK_ID, lan(0))
    for each in keyspace.directory_keys(NETWORK_ID):
        asker.machine.unwatch(each)
    lab.withdraw(leaver, lan(0))
    lab.wait(5)
    number = asker.machine.find(key, lab.network.now)
    lab.network.settle(asker)
    lab.wait(5)
    (done,) = (e for _, _, e in lab.told if isinstance(e, LookupDone) and e.lookup == number)
    assert done.records == ()
    assert [each.owner for each in done.withdrawals] == [leaver.member.node_id]


def test_a_node_killed_hard_is_gone_when_its_record_ends_and_not_before() -> None:
    lab = Lab(5)
    lab.wait(600.0)
    victim = lab.nodes[4]
    lab.network.kill(victim)
    lost = victim.member.prefixes[0]
    ends = {
        record.end - WALL_OFFSET
        for node in lab.nodes[:4]
        for record in node.machine.directory
        if record.owner == victim.member.node_id
    }
    assert len(ends) == 1
    end = ends.pop()
    lab.wait(end - lab.network.now - 1.0)
    assert all(lost in lab.known(node) for node in lab.nodes[:4])
    lab.wait(2.0)
    assert not any(lost in lab.known(node) for node in lab.nodes[:4])


def test_both_owners_of_one_prefix_are_kept() -> None:
    lab = Lab(5)
    shared = ip_network("10.99.0.0/16")
    lab.advertise(lab.nodes[0], shared)
    lab.advertise(lab.nodes[1], shared)
    lab.wait(5.0)
    owners = [
        record.owner
        for record in lab.nodes[4].machine.directory
        if isinstance(record.content, SubnetContent) and record.content.prefix == shared
    ]
    assert sorted(owners) == sorted(node.member.node_id for node in lab.nodes[:2])


def test_a_gateways_record_stays_as_long_as_it_lives() -> None:
    lab = Lab(5)
    gateway = lab.nodes[0]
    content = GatewaySubnetContent(prefix=gateway.member.prefixes[0])
    gateway.machine.publish(content, lab.network.now)
    lab.network.settle(gateway)
    lab.wait(2 * 3600.0)
    events = [e for _, n, e in lab.told if n is lab.nodes[3]]
    gone = [e for e in events if isinstance(e, RecordGone)]
    assert not gone
    assert content in [record.content for record in lab.nodes[3].machine.directory]
    lab.network.kill(gateway)
    lab.wait(601.0)
    assert content not in [record.content for record in lab.nodes[3].machine.directory]


def test_two_nodes_are_a_network() -> None:
    lab = Lab(2)
    lab.wait(3.0)
    assert lab.known(lab.nodes[0]) == {lab.nodes[1].member.prefixes[0]}
    assert lab.known(lab.nodes[1]) == {lab.nodes[0].member.prefixes[0]}


def test_a_node_without_bootstrap_is_a_network_of_one_that_others_join() -> None:
    lab = Lab(1)
    lab.wait(3600.0)
    assert not lab.nodes[0].machine.joined
    second = lab.add()
    lab.wait(5.0)
    assert lab.nodes[0].machine.joined
    assert lab.known(second) == {lab.nodes[0].member.prefixes[0]}


def test_an_empty_network_heals_when_a_bootstrap_node_returns() -> None:
    lab = Lab(4)
    lab.wait(60.0)
    for number, node in enumerate(lab.nodes):
        node.side = number
    lab.wait(2 * 3600.0)
    assert not any(lab.known(node) for node in lab.nodes)
    for node in lab.nodes:
        node.side = 0
    lab.wait(150.0)
    lans = {node.member.prefixes[0] for node in lab.nodes}
    for node in lab.nodes:
        assert lab.known(node) == lans - {node.member.prefixes[0]}


def test_a_prefix_that_no_certificate_covers_reaches_nobody() -> None:
    lab = Lab(5)
    rogue = lab.network.add()
    foreign = SubnetContent(prefix=ip_network("10.0.0.0/8"))
    rogue.machine.publish(foreign, lab.network.now)
    lab.network.settle(rogue)
    lab.wait(60.0)
    assert not any(ip_network("10.0.0.0/8") in lab.known(node) for node in lab.nodes)
    assert lab.network.counters.drops[DropReason.RECORD_NOT_COVERED] > 0
    slot = rogue.member.node_id.value + b"SUBNET:"
    for node in lab.nodes:
        key = foreign.keys(NETWORK_ID, rogue.member.node_id)[0]
        node.machine.find(key, lab.network.now)
        lab.network.settle(node)
    lab.wait(10.0)
    done = [e for _, _, e in lab.told if isinstance(e, LookupDone)]
    assert len(done) == 5
    assert not any(record.slot.startswith(slot) for event in done for record in event.records)


def test_a_revoked_node_is_gone_at_once() -> None:
    lab = Lab(5)
    lab.wait(60.0)
    me, revoked = lab.nodes[0], lab.nodes[1]
    me.machine.forget_node(revoked.member.node_id, lab.network.now)
    lab.network.settle(me)
    assert revoked.member.prefixes[0] not in lab.known(me)
    assert revoked.contact not in me.machine.contacts()


def test_a_lookup_that_runs_brings_nothing_of_a_node_that_is_revoked_meanwhile() -> None:
    """What it had collected before used to count, and to be routed, for minutes."""
    lab = Lab(5)
    lab.wait(60.0)
    me, revoked = lab.nodes[0], lab.nodes[1]
    key = keyspace.subnet_key(NETWORK_ID, revoked.member.prefixes[0])
    assert me.machine._core.store.records(key, lab.network.now + WALL_OFFSET)
    number = me.machine.find(key, lab.network.now)
    lab.network.seals.revoked.add(revoked.member.node_id)
    me.machine.forget_node(revoked.member.node_id, lab.network.now)
    lab.network.settle(me)
    lab.wait(5.0)
    (done,) = (e for _, _, e in lab.told if isinstance(e, LookupDone) and e.lookup == number)
    assert done.records == ()
    assert revoked.member.prefixes[0] not in lab.known(me)


def test_a_new_certificate_is_told_to_all() -> None:
    lab = Lab(5)
    lab.wait(60.0)
    before = len(lab.told)
    lab.nodes[0].machine.renew_signatures(lab.network.now)
    lab.network.settle(lab.nodes[0])
    lab.wait(10.0)
    signed = [
        record.issued / 1000 - WALL_OFFSET
        for record in lab.nodes[4].machine.directory
        if record.owner == lab.nodes[0].member.node_id
    ]
    assert signed
    assert all(issued >= 60.0 for issued in signed)
    assert len(lab.told) >= before


@pytest.mark.parametrize("seed", range(5))
def test_a_node_that_comes_back_is_known_again(seed: int) -> None:
    lab = Lab(6, seed)
    lab.wait(300.0)
    away = lab.nodes[5]
    away.side = 1
    lab.wait(5400.0)
    lost = away.member.prefixes[0]
    assert not any(lost in lab.known(node) for node in lab.nodes[:5])
    away.side = 0
    lab.wait(150.0)
    assert all(lost in lab.known(node) for node in lab.nodes[:5])
    assert len(lab.known(away)) == 5


def test_a_flooding_peer_is_limited_and_counted() -> None:
    lab = Lab(3)
    lab.wait(10.0)
    target, flooder = lab.nodes[0], lab.nodes[1]
    body = messages.encode(messages.Ping())
    answers = [
        messages.decode_response(
            target.machine.handle_request(flooder.contact, body, lab.network.now)
        )
        for _ in range(1000)
    ]
    refused = [answer for answer in answers if isinstance(answer, messages.Refused)]
    assert len(refused) >= 700
    assert lab.network.counters.drops[DropReason.RPC_LIMITED] == len(refused)


def test_a_forged_record_is_counted_and_not_kept() -> None:
    lab = Lab(3)
    lab.wait(10.0)
    other = FakeSigner(type(lab.network.seals)(NETWORK_ID), lab.nodes[1].member)
    content = SubnetContent(prefix=lan(77))
    wire = other.seal(content, int((lab.network.now + WALL_OFFSET) * 1000), 3600)
    key = content.keys(NETWORK_ID, lab.nodes[1].member.node_id)[0]
    body = messages.encode(messages.Store(key, (wire,)))
    answer = messages.decode_response(
        lab.nodes[0].machine.handle_request(lab.nodes[1].contact, body, lab.network.now)
    )
    assert answer == messages.Stored((messages.StoreResult.REFUSED,))
    assert lab.network.counters.drops[DropReason.RECORD_SIGNATURE] == 1


def test_one_dead_peer_does_not_make_an_idle_network_join_again_and_again() -> None:
    lab = Lab(6)
    lab.wait(1200.0)
    lab.network.kill(lab.nodes[5])
    lab.wait(3600.0)
    before = lab.network.requests
    lab.wait(3600.0)
    assert (lab.network.requests - before) / 5 < 150
    assert all(lab.nodes[5].contact not in node.machine.contacts() for node in lab.nodes[:5])


def test_all_that_is_kept_under_a_key_is_read_though_no_answer_has_room_for_it() -> None:
    network = Network(1, Conditions(loss=0.02))
    done: list[LookupDone] = []
    network.on_event = lambda _, e: done.append(e) if isinstance(e, LookupDone) else None
    # Late comers are holders only where they are among the closest: of so many, some are not.
    for number in range(40):
        prefixes = tuple(lan(12 * number + each) for each in range(12)) if number < 20 else ()
        node = network.add(prefixes=prefixes)
        network.bootstrap = network.bootstrap or [node]
        for prefix in prefixes:
            node.machine.publish(SubnetContent(prefix=prefix), network.now)
        network.settle(node)
        network.run(network.now + 1.0)
    # Renewed by now, so that what changed last and what was renewed last are not the same.
    network.run(network.now + 120.0)
    (index,) = keyspace.index_keys(NETWORK_ID, lan(1))
    wall = network.now + WALL_OFFSET
    no_holders = [n for n in network.alive() if not n.machine._core.store.records(index, wall)]
    for node in no_holders:
        node.machine.find(index, network.now)
        node.machine.watch(index, network.now)
        network.settle(node)
    network.run(network.now + 20.0)
    assert no_holders
    assert [len(event.records) for event in done] == [240] * len(no_holders)
    assert [len(node.machine.directory) for node in no_holders] == [240] * len(no_holders)


def test_a_node_whose_first_question_is_lost_joins_all_the_same() -> None:
    lab = Lab(5)
    lab.wait(60.0)
    late = lab.network.add()
    while not late.machine.contacts():
        lab.wait(0.01)
    late.side = 1
    lab.wait(0.5)
    late.side = 0
    lab.wait(10.0)
    assert late.machine.joined
    assert len(late.machine.contacts()) == 5

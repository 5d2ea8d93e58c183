"""A hundred machines that follow all prefixes: each change reaches every one within seconds."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from quicether.dht import keyspace, watchers
from quicether.dht.contents import SubnetContent
from sim.network import NETWORK_ID, Conditions, Network, SimNode

OFFICE = SubnetContent(prefix=ip_network("10.99.0.0/16"))


class Followers:
    """A network in which every node follows all prefixes, and may advertise one."""

    def __init__(self, seed: int = 1) -> None:
        self.network = Network(seed, Conditions(loss=0.02))
        self.nodes: list[SimNode] = []

    def add(self, count: int) -> None:
        for _ in range(count):
            node = self.network.add(prefixes=(OFFICE.prefix,))
            self.nodes.append(node)
            if len(self.network.bootstrap) < 3:
                self.network.bootstrap.append(node)
            for key in keyspace.directory_keys(NETWORK_ID):
                node.machine.watch(key, self.network.now)
            self.network.settle(node)

    def wait(self, seconds: float) -> None:
        self.network.run(self.network.now + seconds)

    def publish(self, node: SimNode) -> None:
        node.machine.publish(OFFICE, self.network.now)
        self.network.settle(node)

    def withdraw(self, node: SimNode) -> None:
        node.machine.withdraw(OFFICE, self.network.now)
        self.network.settle(node)

    def who_knows(self) -> list[SimNode]:
        return [node for node in self.nodes if node.machine.directory]


def test_a_change_reaches_150_watchers_within_ten_seconds() -> None:
    followers = Followers()
    followers.add(150)
    followers.wait(60.0)
    owner = followers.nodes[7]
    followers.publish(owner)
    followers.wait(10.0)
    assert len(followers.who_knows()) == 149
    followers.withdraw(owner)
    followers.wait(10.0)
    assert not followers.who_knows()


def test_watchers_of_a_network_that_grows_find_the_new_holders() -> None:
    followers = Followers()
    followers.add(12)
    followers.wait(600.0)
    followers.add(100)
    followers.wait(15.0)
    followers.publish(followers.nodes[50])
    followers.wait(10.0)
    assert len(followers.who_knows()) == 111


def test_where_a_holder_has_no_room_the_next_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "MAX_PER_KEY", 11)
    followers = Followers()
    followers.add(60)
    followers.wait(60.0)
    followers.publish(followers.nodes[3])
    followers.wait(10.0)
    assert len(followers.who_knows()) == 59


def test_a_watcher_that_was_away_for_a_moment_is_told_what_it_missed() -> None:
    followers = Followers()
    followers.add(40)
    followers.wait(600.0)
    away, owner = followers.nodes[30], followers.nodes[7]
    away.side = 1
    followers.publish(owner)
    followers.wait(12.0)
    assert away not in followers.who_knows()
    away.side = 0
    followers.wait(30.0)
    assert away in followers.who_knows()
    away.side = 1
    followers.withdraw(owner)
    followers.wait(12.0)
    away.side = 0
    followers.wait(30.0)
    assert not followers.who_knows()

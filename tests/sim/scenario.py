"""What happens in a simulation: nodes join, publish, look things up, leave, lie, are cut apart."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from quicether.dht import keyspace
from quicether.dht.contents import Content, NodeContent, SubnetContent, slot_of
from quicether.dht.events import Event, LookupDone, Published, RecordFound, RecordGone
from quicether.model import Prefix, host_prefix
from sim.liars import LiarNode
from sim.network import KEPT_BITS, NETWORK_ID, WALL_OFFSET, Conditions, Network, SimNode
from sim.report import Report, percentile
from sim.settled import contacts_of

OBSERVERS = 50
SETTLE = 180.0
BIN = 60.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation. Fractions are of all nodes; times are virtual seconds.

    churn: share of the nodes that leave in an hour, half of them without a word; as many join.
    liars: share that lies. sites: share that advertises a LAN. watchers: share that follows all
    prefixes. grow: how long the nodes take to join. settled: they know each other from the start,
    and `grow` is how long they take to publish. duration: measured time after that.
    lookups: a second, all over the network. partition: from when to when, counted from the start
    of the measured time, the network is in two halves.
    """

    nodes: int
    seed: int = 1
    churn: float = 0.0
    liars: float = 0.0
    sites: float = 0.02
    watchers: float = 0.02
    grow: float = 600.0
    settled: bool = False
    duration: float = 3600.0
    lookups: float = 2.0
    partition: tuple[float, float] | None = None
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(slots=True)
class _Asked:
    slot: bytes
    since: float


class Simulation:
    """Plays a scenario. `run` returns what was measured."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.network = Network(scenario.seed, scenario.conditions)
        self.network.on_event = self._event
        self.random = self.network.random
        self.report = Report(scenario.nodes)
        self.watchers: dict[int, SimNode] = {}
        self.site_since: dict[bytes, float] = {}
        self.site_gone: dict[bytes, float] = {}
        self._published: dict[tuple[int, int], None] = {}
        self._subjects: list[tuple[int, bytes]] = []
        self._asked: dict[tuple[int, int], _Asked] = {}
        self._observers: list[SimNode] = []
        self._contents: dict[int, list[Content]] = {}
        self._watching: dict[int, float] = {}
        self._sites = 0
        self._measuring = False
        self._is_cut = False
        self._start = 0.0

    # -- phases ----------------------------------------------------------------------------

    def run(self, progress: Callable[[float], None] | None = None) -> Report:
        """Play it all. progress: told the share of the virtual time that has passed."""
        scenario, network = self.scenario, self.network
        before = _resident()
        if scenario.settled:
            self._add_settled()
        else:
            for number in range(scenario.nodes):
                network.at(number * scenario.grow / scenario.nodes, self._add_one)
        total = scenario.grow + SETTLE + scenario.duration
        step = total / 200

        def play(until: float) -> None:
            while network.now < until:
                network.run(min(until, network.now + step))
                if progress is not None:
                    progress(network.now / total)

        play(scenario.grow + SETTLE)
        self._begin()
        self.report.bytes_per_node = (_resident() - before) / scenario.nodes
        play(total)
        self._end()
        return self.report

    def _begin(self) -> None:
        scenario, network = self.scenario, self.network
        self._start = network.now
        self._measuring = True
        honest = [n for n in network.alive() if not isinstance(n, LiarNode)]
        wanted = min(OBSERVERS, len(honest) // 2)
        self._observers = self.random.sample(honest, wanted)
        for node in self._observers:
            node.observer = True
        for node in network.alive():
            node.sent = node.received = node.handshakes = node.upkeep = 0
        if scenario.churn:
            network.at(network.now, self._churn)
        if scenario.lookups:
            network.at(network.now, self._look_up)
        network.at(network.now + BIN, self._count_directories)
        if scenario.partition is not None:
            network.at(self._start + scenario.partition[0], self._cut)
            network.at(self._start + scenario.partition[1], self._heal)
        self._idle_since = {node.contact.key: node for node in network.alive()}

    def _end(self) -> None:
        self._measuring = False
        network, report = self.network, self.report
        elapsed = network.now - self._start
        idle = [
            node
            for key, node in self._idle_since.items()
            if key in network.nodes and not node.observer and not isinstance(node, LiarNode)
        ]
        rates = sorted((node.sent + node.received) * 8 / elapsed for node in idle)
        plain = [
            (node.sent + node.received) * 8 / elapsed
            for node in idle
            if node.contact.key not in self.watchers
        ]
        report.idle_bits = sum(rates) / len(rates)
        report.idle_bits_p99 = percentile(rates, 99)
        report.idle_bits_plain = sum(plain) / len(plain) if plain else report.idle_bits
        handshakes = sum(node.upkeep for node in idle) * 8 / elapsed / len(idle)
        report.upkeep_bits = handshakes + KEPT_BITS
        connections = network.connections()
        counts = sorted(connections[node.contact.key] for node in idle)
        report.connections = sum(counts) / len(counts)
        report.connections_p99 = percentile(counts, 99)
        report.handshakes = sum(node.handshakes for node in idle) / len(idle) / elapsed * 3600
        report.contacts = sum(len(node.machine.contacts()) for node in idle) / len(idle)
        report.values = sum(node.machine.stored_values for node in idle) / len(idle)
        report.requests = network.requests

    # -- nodes -----------------------------------------------------------------------------

    def _add_settled(self) -> None:
        network, scenario = self.network, self.scenario
        nodes = {
            node.contact.key: node for node in (self._make_one() for _ in range(scenario.nodes))
        }
        keys = sorted(nodes)
        doubted = network.config.doubted
        for number, node in enumerate(nodes.values()):
            known = list(contacts_of(node.contact.key, keys, self.random))
            self.random.shuffle(known)
            for rank, key in enumerate(known):
                # They asked each other at some time less ago than what makes a contact doubted.
                since = (rank / len(known) - 1) * doubted
                node.machine.add_contact(nodes[key].contact, since)
                network.met(*self.random.sample((node, nodes[key]), 2), since)
            network.at(number * scenario.grow / scenario.nodes, self._start_one, node)

    def _add_one(self) -> None:
        self._start_one(self._make_one())

    def _make_one(self) -> SimNode:
        network, scenario = self.network, self.scenario
        liar = len(network.bootstrap) >= 3 and self.random.random() < scenario.liars
        prefixes: tuple[Prefix, ...] = ()
        if not liar and self.random.random() < scenario.sites:
            prefixes = (IPv4Network((0x0A000000 + 256 * self._sites, 24)),)
            self._sites += 1
        node = network.make(LiarNode if liar else SimNode, prefixes)
        if len(network.bootstrap) < 3:
            network.bootstrap.append(node)
        if self._is_cut:
            node.side = node.contact.key & 1
        return node

    def _start_one(self, node: SimNode) -> None:
        network, scenario = self.network, self.scenario
        network.start(node)
        machine, member, prefixes = node.machine, node.member, node.member.prefixes
        liar = isinstance(node, LiarNode)
        contents: list[Content] = [NodeContent(addresses=node.contact.endpoints)]
        contents += [SubnetContent(prefix=host_prefix(a)) for a in member.addresses]
        contents += [SubnetContent(prefix=prefix) for prefix in prefixes]
        for content in contents:
            machine.publish(content, network.now)
            slot = slot_of(member.node_id, content)
            if not liar:
                self._subjects.append((content.keys(NETWORK_ID, member.node_id)[0], slot))
        if prefixes:
            self.site_since[slot] = network.now
        self._contents[node.contact.key] = contents
        if not liar and self.random.random() < scenario.watchers:
            self.watchers[node.contact.key] = node
            self._watching[node.contact.key] = network.now
            for key in keyspace.directory_keys(NETWORK_ID):
                machine.watch(key, network.now)
        network.settle(node)

    def _churn(self) -> None:
        network = self.network
        protected = {n.contact.key for n in (*network.bootstrap, *self._observers)}
        while True:
            node = self.random.choice(network.alive())
            if node.contact.key not in protected:
                break
        if self.random.random() < 0.5:
            self._leave(node)
        else:
            network.kill(node)
            self.watchers.pop(node.contact.key, None)
        self._add_one()
        rate = self.scenario.nodes * self.scenario.churn / 3600
        network.at(network.now + self.random.expovariate(rate), self._churn)

    def _leave(self, node: SimNode) -> None:
        network = self.network
        for content in self._contents.pop(node.contact.key, ()):
            slot = slot_of(node.member.node_id, content)
            if slot in self.site_since:
                self.site_gone[slot] = network.now
            node.machine.withdraw(content, network.now)
        network.settle(node)
        self.watchers.pop(node.contact.key, None)
        network.at(network.now + 5.0, network.kill, node)

    def _cut(self) -> None:
        self._is_cut = True
        for node in self.network.alive():
            node.side = node.contact.key & 1

    def _heal(self) -> None:
        self._is_cut = False
        for node in self.network.alive():
            node.side = 0

    # -- measuring ---------------------------------------------------------------------------

    def _look_up(self) -> None:
        network = self.network
        wall = network.now + WALL_OFFSET
        observer = self.random.choice(self._observers)
        for _ in range(1000):
            at = self.random.randrange(len(self._subjects))
            key, slot = self._subjects[at]
            record = network.seals.latest.get(slot)
            if record is None or record.withdraws or record.end <= wall:
                self._subjects[at] = self._subjects[-1]
                self._subjects.pop()
                continue
            owner = int.from_bytes(record.owner.value)
            if (owner, key) in self._published and owner != observer.contact.key:
                number = observer.machine.find(key, network.now)
                self._asked[observer.contact.key, number] = _Asked(slot, network.now)
                network.settle(observer)
                break
        network.at(network.now + self.random.expovariate(self.scenario.lookups), self._look_up)

    def _event(self, node: SimNode, event: Event) -> None:
        match event:
            case LookupDone():
                self._found(node, event)
            case Published(key, holders) if holders:
                self._published[node.contact.key, key] = None
            case RecordFound(record) if self._measuring:
                since = self.site_since.get(record.slot, 0.0)
                if since >= self._start and since >= self._watching[node.contact.key]:
                    self.report.appeared.append(self.network.now - since)
            case RecordGone(record) if self._measuring:
                gone = self.site_gone.get(record.slot)
                if gone is not None:
                    self.report.vanished.append(self.network.now - gone)

    def _found(self, node: SimNode, done: LookupDone) -> None:
        asked = self._asked.pop((node.contact.key, done.lookup))
        latest = self.network.seals.latest.get(asked.slot)
        if latest is None or latest.withdraws or latest.end <= self.network.now + WALL_OFFSET:
            return
        found = [record for record in done.records if record.slot == asked.slot]
        bin_ = self.report.bin(int((asked.since - self._start) / BIN))
        bin_.add(
            found=bool(found),
            hops=done.hops,
            asked=done.asked,
            seconds=self.network.now - asked.since,
            stale=(latest.issued - found[0].issued) / 1000 if found else None,
        )

    def live_sites(self) -> set[bytes]:
        """Return the slots of all LAN prefixes whose owners are up."""
        wall = self.network.now + WALL_OFFSET
        latest = self.network.seals.latest
        slots: set[bytes] = set()
        for slot in self.site_since:
            record = latest.get(slot)
            if record is None or record.withdraws or record.end <= wall:
                continue
            if int.from_bytes(record.owner.value) in self.network.nodes:
                slots.add(slot)
        return slots

    def directory_share(self) -> float:
        """Return which share of all live LAN prefixes the watchers know, 0 to 1."""
        live = self.live_sites()
        known = wanted = 0
        for watcher in self.watchers.values():
            own = watcher.member.node_id.value
            have = {record.slot for record in watcher.machine.directory}
            others = {slot for slot in live if not slot.startswith(own)}
            known += len(have & others)
            wanted += len(others)
        return known / wanted if wanted else 1.0

    def _count_directories(self) -> None:
        if not self._measuring:
            return
        at = int((self.network.now - self._start - BIN / 2) / BIN)
        self.report.bin(at).directory = self.directory_share()
        self.network.at(self.network.now + BIN, self._count_directories)


def _resident() -> int:
    """Return the memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

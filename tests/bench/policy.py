"""What a policy costs a packet: known, new and denied flows, and the whole forwarder around it.

PYTHONPATH=service:tests python tests/bench/policy.py [--rules N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.packet import view
from quicether.dataplane.snapshot import PacketPolicy, Snapshot
from quicether.model import NextHop, RouteSource
from quicether.policy.decision import Policy
from quicether.policy.load import parse_policy
from quicether.policy.ruleset import RuleSet
from quicether.routing.fib import ForwardingTable, Owners
from quicether.routing.table import RoutingTable
from support.drains import Deaf, Drain
from support.packets import ipv4, udp
from support.policies import HOME, LAPTOP, LAPTOP_IP

BATCH: Final = 64
PACKET: Final = 1300
"""Bytes of an IP packet in the forwarder's measurement."""
FLOWS: Final = 64
ROUNDS: Final = 1000


@dataclass(frozen=True)
class Figures:
    """Microseconds for one packet; kilobytes of the compiled rules.

    forwarder: a packet from the device to a link, policy included.
    """

    policy: str
    known: float
    new: float
    denied: float
    forwarder: float
    memory: float


def rules_text(count: int, last: str) -> str:
    """A file of count rules that all differ. last: the last one without its id and action."""
    text = "\n".join(
        f'[[rules]]\nid = "r{number}"\nsubject = "node-{number % 500}"\n'
        f'object = "172.{16 + number // 65536}.{number // 256 % 256}.{number % 256}/32"\n'
        f'action = "allow"\nprotocols = "tcp"\nports = {number + 1}\n'
        for number in range(count - 1)
    )
    return f'{text}\n[[rules]]\nid = "last"\naction = "allow"\n{last}\n'


def ruleset(count: int) -> RuleSet:
    """Count rules; the last one lets the measured flows through."""
    last = 'subject = "laptop"\nobject = "10.0.0.0/24"\nprotocols = "udp"'
    return RuleSet(parse_policy(rules_text(count, last)))


def packets(destination: str) -> list[bytes]:
    payload = bytes(PACKET - 28)
    return [
        ipv4(LAPTOP_IP, destination, udp(1024 + number, 53, payload)) for number in range(FLOWS)
    ]


def per_packet(work: Callable[[], int]) -> float:
    """Microseconds for one packet of what work does, the best of nine runs."""
    best = float("inf")
    for _ in range(9):
        start = time.perf_counter()
        done = work()
        best = min(best, (time.perf_counter() - start) / done)
    return best * 1e6


def known(policy: PacketPolicy, destination: str) -> float:
    """Packets of flows, allowed or denied, that the policy has seen."""
    views = [view(packet) for packet in packets(destination)]

    def work() -> int:
        permits = policy.permits
        for _ in range(ROUNDS):
            for each in views:
                permits(each, LAPTOP, HOME, 0.0)
        return ROUNDS * FLOWS

    return per_packet(work)


def new(rules: RuleSet) -> float:
    """First packets of flows."""
    payload = bytes(PACKET - 28)
    views = [
        view(ipv4(LAPTOP_IP, "10.0.0.1", udp(1 + number, 53, payload))) for number in range(5000)
    ]

    def work() -> int:
        policy = Policy(rules)
        for each in views:
            policy.permits(each, LAPTOP, HOME, 0.0)
        return len(views)

    return per_packet(work)


def forwarder(policy: PacketPolicy | None) -> float:
    """Packets from the device to a link."""
    table, forwarding = RoutingTable(), ForwardingTable()
    change = table.add(
        ip_network("10.0.0.0/24"), NextHop.to_node(HOME.node_id), RouteSource.CONFIGURED
    )
    assert change is not None
    forwarding.apply([change])
    members, drain = {HOME.node_id: HOME}, Drain()
    snapshot = Snapshot(
        fib=forwarding.view,
        links={HOME.node_id: drain},
        members=members,
        local=frozenset((ip_address(LAPTOP_IP).packed,)),
        me=LAPTOP,
        owners=Owners(forwarding.view, members, LAPTOP),
        policy=policy,
    )
    counters = Counters()
    moving = Forwarder(drain, counters, snapshot, lambda: 0.0, Deaf())
    batch = packets("10.0.0.1")[:BATCH]

    def work() -> int:
        for _ in range(ROUNDS):
            moving.outbound(batch)
        return ROUNDS * BATCH

    found = per_packet(work)
    assert not counters.drops, "what is measured goes through"
    return found


def measure(name: str, rules: RuleSet | None, memory: float) -> Figures:
    """Measure one policy. rules: None is the forwarder without any."""
    if rules is None:
        return Figures(name, 0.0, 0.0, 0.0, forwarder(None), 0.0)
    return Figures(
        name,
        known(Policy(rules), "10.0.0.1"),
        new(rules),
        known(Policy(rules), "10.9.0.1"),
        forwarder(Policy(rules)),
        memory,
    )


def main() -> int:
    """Measure no policy, ten rules and many, and print the table; --json writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    results = [measure("none", None, 0.0)]
    for count in (10, options.rules):
        tracemalloc.start()
        rules = ruleset(count)
        memory = tracemalloc.get_traced_memory()[0] / 1024
        tracemalloc.stop()
        results.append(measure(f"{count:,} rules", rules, memory))
    table = Table(title=f"a packet's microseconds ({PACKET} bytes, {FLOWS} flows)")
    for head in ("policy", "known flow", "new flow", "denied flow", "forwarder", "memory kB"):
        table.add_column(head, justify="left" if head == "policy" else "right")
    for each in results:
        figures = (each.known, each.new, each.denied, each.forwarder, each.memory)
        table.add_row(each.policy, *(f"{figure:,.2f}" for figure in figures))
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    few, many = results[1].forwarder, results[2].forwarder
    console.print(f"{options.rules:,} rules against ten: {(many / few - 1) * 100:+.1f} % a packet")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

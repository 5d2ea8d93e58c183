"""What the forwarder costs a packet, device and links being nothing but lists.

    PYTHONPATH=service:tests python tests/bench/forwarder.py [--packets N] [--json FILE]

The goal is 5 µs a packet in CPython for everything between a batch read and a batch handed over.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.packet import view
from quicether.model import NextHop
from quicether.policy.decision import Policy
from quicether.policy.ruleset import RuleSet
from support.drains import Deaf, Drain
from support.fake_overlay import member, snapshot
from support.packets import ipv4, ipv6, tcp

GOAL: Final = 5.0
BATCH: Final = 64
ROUNDS: Final = 5
ME: Final = member("me", ["100.64.0.1", "fd00::1"], ["10.0.0.0/16"])
HOME: Final = member("home", ["100.64.0.2", "fd00::2"], ["192.168.0.0/16", "fd01::/64"])
OFFICE: Final = member("office", ["100.64.0.3"], ["10.1.0.0/16", "fd02::/64"])


@dataclass(frozen=True)
class Figure:
    """One row of the table: microseconds a packet, the median of several rounds."""

    way: str
    microseconds: float


def forwarder(*, policy: bool = False, forwards: bool = False) -> Forwarder:
    """A forwarder between drains. policy: one that knows the flow from the second packet on."""
    drain = Drain()
    routes = {
        "192.168.0.0/16": NextHop.to_node(HOME.node_id),
        "fd01::/64": NextHop.to_node(HOME.node_id),
        "10.1.0.0/16": NextHop.to_node(OFFICE.node_id),
        "fd02::/64": NextHop.to_node(OFFICE.node_id),
    }
    known = snapshot(
        ME,
        routes,
        {HOME: drain, OFFICE: drain},
        policy=Policy(RuleSet.without_policy()) if policy else None,
        forwards=forwards,
    )
    return Forwarder(drain, Counters(), known, time.monotonic, Deaf())


def measure(way: str, run: Callable[[list[bytes]], None], batch: list[bytes], count: int) -> Figure:
    """Feed batch again and again, count packets a round."""
    run(batch)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(count // len(batch)):
            run(batch)
        rounds.append((time.perf_counter() - begin) / (count // len(batch) * len(batch)) * 1e6)
    return Figure(way, statistics.median(rounds))


def figures(count: int) -> list[Figure]:
    """Run every way."""
    data = tcp(40000, 443, bytes(1320))
    out4 = [ipv4("100.64.0.1", "192.168.1.9", data, protocol=6)] * BATCH
    spread = [ipv4("100.64.0.1", f"192.168.1.{n}", data, protocol=6) for n in range(BATCH)]
    out6 = [ipv6("fd00::1", "fd01::9", data, protocol=6)] * BATCH
    in4 = [ipv4("192.168.1.9", "10.0.0.1", data, protocol=6)] * BATCH
    on4 = [ipv4("192.168.1.9", "10.1.0.1", data, protocol=6)] * BATCH
    on6 = [ipv6("fd01::9", "fd02::1", data, protocol=6)] * BATCH
    small = [ipv4("100.64.0.1", "192.168.1.9", tcp(40000, 443), protocol=6)] * BATCH
    plain, judged = forwarder(), forwarder(policy=True)
    gateway = forwarder(policy=True, forwards=True)

    def parse(batch: list[bytes]) -> None:
        for packet in batch:
            view(packet)

    home = HOME.node_id
    return [
        measure("header view alone", parse, out4, count),
        measure("out, IPv4", plain.outbound, out4, count),
        measure("out, IPv4, 40 bytes", plain.outbound, small, count),
        measure(f"out, IPv4, {BATCH} destinations", plain.outbound, spread, count),
        measure("out, IPv6", plain.outbound, out6, count),
        measure("out, IPv4, policy", judged.outbound, out4, count),
        measure("in, IPv4", lambda b: plain.inbound(home, b), in4, count),
        measure("in, IPv4, policy", lambda b: judged.inbound(home, b), in4, count),
        measure("onward, IPv4, policy", lambda b: gateway.inbound(home, b), on4, count),
        measure("onward, IPv6, policy", lambda b: gateway.inbound(home, b), on6, count),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=100_000, help="packets a round")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    found = figures(arguments.packets)
    table = Table(title=f"Forwarder, batches of {BATCH}, goal {GOAL:g} µs a packet")
    table.add_column("way")
    table.add_column("µs a packet", justify="right")
    table.add_column("packets/s", justify="right")
    for figure in found:
        table.add_row(figure.way, f"{figure.microseconds:.2f}", f"{1e6 / figure.microseconds:,.0f}")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in found], indent=2))


if __name__ == "__main__":
    main()

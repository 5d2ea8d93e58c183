"""What a simulation measured, as numbers, a table and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which percent of all sorted values are; 0 without any."""
    if not values:
        return 0.0
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


@dataclass(slots=True)
class Bin:
    """The lookups that began in one minute. directory: share of all prefixes that are known."""

    found: int = 0
    missed: int = 0
    hops: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stale: list[float] = field(default_factory=list)
    directory: float | None = None

    def add(
        self, *, found: bool, hops: int, asked: int, seconds: float, stale: float | None
    ) -> None:
        """Count one lookup. stale: by how much the record found is older than the owner's last."""
        if found:
            self.found += 1
            self.hops.append(hops)
        else:
            self.missed += 1
        self.asked.append(asked)
        self.seconds.append(seconds)
        if stale is not None:
            self.stale.append(stale)


@dataclass(slots=True)
class Report:
    """All that was measured in one simulation.

    idle_bits: bits a second of questions and answers, sent and received together with all headers,
    mean over the nodes that were up all the time; _plain: of those that follow no index.
    upkeep_bits: the same of handshakes and keepalives. handshakes: new connections a node and
    hour. connections: open at the end, whoever opened them.
    appeared, vanished: seconds from advertising or withdrawing a prefix to each watcher's event.
    """

    nodes: int
    bins: list[Bin] = field(default_factory=list)
    idle_bits: float = 0.0
    idle_bits_p99: float = 0.0
    idle_bits_plain: float = 0.0
    upkeep_bits: float = 0.0
    connections: float = 0.0
    connections_p99: float = 0.0
    handshakes: float = 0.0
    contacts: float = 0.0
    values: float = 0.0
    bytes_per_node: float = 0.0
    requests: int = 0
    appeared: list[float] = field(default_factory=list)
    vanished: list[float] = field(default_factory=list)

    def bin(self, index: int) -> Bin:
        """Return the bin of a minute."""
        while len(self.bins) <= index:
            self.bins.append(Bin())
        return self.bins[index]

    @property
    def lookups(self) -> int:
        """How many lookups of live records ended."""
        return sum(bin_.found + bin_.missed for bin_ in self.bins)

    @property
    def success(self) -> float:
        """Share of the lookups that found the record."""
        return sum(bin_.found for bin_ in self.bins) / self.lookups if self.lookups else 0.0

    def all(self, what: str) -> list[float]:
        """Return hops, asked, seconds or stale of all lookups, sorted."""
        return sorted(value for bin_ in self.bins for value in getattr(bin_, what))

    def figures(self) -> dict[str, Any]:
        """Return the figures that count, for a table or JSON."""
        hops, asked = self.all("hops"), self.all("asked")
        seconds, stale = self.all("seconds"), self.all("stale")
        return {
            "nodes": self.nodes,
            "lookups": self.lookups,
            "success %": round(100 * self.success, 3),
            "hops median": percentile(hops, 50),
            "hops p99": percentile(hops, 99),
            "asked median": percentile(asked, 50),
            "seconds median": round(percentile(seconds, 50), 2),
            "seconds p99": round(percentile(seconds, 99), 2),
            "stale %": round(100 * sum(s > 0 for s in stale) / len(stale), 2) if stale else 0.0,
            "idle bit/s": round(self.idle_bits),
            "idle bit/s p99": round(self.idle_bits_p99),
            "idle bit/s, no routes=auto": round(self.idle_bits_plain),
            "upkeep bit/s": round(self.upkeep_bits),
            "connections": round(self.connections, 1),
            "connections p99": self.connections_p99,
            "handshakes/h": round(self.handshakes, 1),
            "contacts": round(self.contacts),
            "values kept": round(self.values),
            "KiB a node": round(self.bytes_per_node / 1024, 1),
            "prefix appears p99 s": round(percentile(sorted(self.appeared), 99), 2),
            "prefix vanishes p99 s": round(percentile(sorted(self.vanished), 99), 2),
            "requests": self.requests,
        }

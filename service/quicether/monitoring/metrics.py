"""From what is measured of a tunnel to Prometheus's metric families. Pure.

The names follow Prometheus's conventions: base units, `_total` for what only grows. Everything
bears the labels `tunnel` and `network`. What can grow with the network is bounded: peers beyond
MAX_PEERS are counted in `quicether_peers` and have no series of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from quicether.bus.status import PeerStatus
from quicether.counters import Counters
from quicether.model import DropReason, NextHopKind, PeerState

MAX_PEERS: Final = 256
"""Peers with a series of their own, connected ones first."""
_NAMESPACE: Final = "quicether"
_LABELS: Final = ("tunnel", "network")
_TRAFFIC: Final = (
    ("sent", "handed to peers"),
    ("received", "written to the device or passed onward"),
    ("forwarded", "passed from one peer to another"),
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What is measured of one tunnel at one moment.

    since: Unix time at which it was brought up. routes: prefixes by the kind of next hop in force.
    flows: conversations that the policy remembers. audit_lost: records that were left out.
    certificate_end: Unix time; None for pinned peers.
    """

    tunnel: str
    network: str
    node: str
    node_id: str
    link: str
    version: str
    ready: bool
    since: float
    counters: Counters
    peers: Sequence[PeerStatus] = ()
    connections: int = 0
    routes: Mapping[NextHopKind, int] = field(default_factory=dict)
    routes_refused: int = 0
    flows: int = 0
    audit_lost: int = 0
    certificate_end: float | None = None


class TunnelCollector(Collector):
    """Observes a tunnel whenever it is scraped."""

    def __init__(self, observe: Callable[[], Observation]) -> None:
        self._observe = observe

    def describe(self) -> list[Metric]:
        """Say nothing beforehand: what there is depends on the moment."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family of an observation made now."""
        return families(self._observe())


def families(seen: Observation) -> Iterator[Metric]:
    """Yield the metric families that an observation makes."""
    build = GaugeMetricFamily(
        f"{_NAMESPACE}_build_info",
        "Who this is; the value is always 1.",
        labels=(*_LABELS, "version", "node", "node_id", "link"),
    )
    build.add_metric(
        (seen.tunnel, seen.network, seen.version, seen.node, seen.node_id, seen.link), 1
    )
    yield build
    yield _gauge(seen, "ready", "1 when packets can flow, else 0.", seen.ready)
    yield _gauge(seen, "start_time_seconds", "Unix time of the tunnel's start.", seen.since)
    if seen.certificate_end is not None:
        text = "Unix time at which this node's certificate ends."
        yield _gauge(seen, "certificate_expiry_time_seconds", text, seen.certificate_end)
    yield from _traffic(seen)
    yield from _peers(seen)
    routes = _labelled("routes", "Prefixes by the kind of next hop in force.", "next_hop")
    for kind in NextHopKind:
        routes.add_metric((*_of(seen), kind.value), seen.routes.get(kind, 0))
    yield routes
    yield _counter(
        seen,
        "routes_refused",
        "Candidates for a prefix turned away at a bound.",
        seen.routes_refused,
    )
    yield _gauge(seen, "flows_active", "Flows that the policy remembers.", seen.flows)
    yield _counter(seen, "audit_records_lost", "Audit records left out.", seen.audit_lost)


def _traffic(seen: Observation) -> Iterator[Metric]:
    counters = seen.counters
    for name, text in _TRAFFIC:
        for unit in ("packets", "bytes"):
            total = getattr(counters, f"{name}_{unit}")
            yield _counter(seen, f"{name}_{unit}", f"IP {unit} {text}.", total)
    drops = CounterMetricFamily(
        f"{_NAMESPACE}_drops",
        "Packets, messages and records that were not passed on, by reason.",
        labels=(*_LABELS, "reason"),
    )
    for reason in DropReason:
        drops.add_metric((*_of(seen), reason.value), counters.drops[reason])
    yield drops
    text = "Packets that the policy denied."
    yield _counter(seen, "policy_denials", text, counters.drops[DropReason.POLICY])
    text = "Connections that ended because of what a certificate or the protocol said."
    yield _counter(seen, "failed_handshakes", text, counters.failed_handshakes)
    text = "Connections that a fault of the service itself ended; its journal has each."
    yield _counter(seen, "faults", text, counters.faults)


def _peers(seen: Observation) -> Iterator[Metric]:
    yield _gauge(seen, "connections_active", "Open connections to peers.", seen.connections)
    states = Counter(peer.state for peer in seen.peers)
    peers = _labelled("peers", "Known peers by state.", "state")
    for state in PeerState:
        peers.add_metric((*_of(seen), state.value), states[state])
    yield peers
    rtt = _labelled("peer_rtt_seconds", "Smoothed round-trip time.", "peer", "node_id")
    measured = [peer for peer in seen.peers if peer.rtt is not None and peer.node_id]
    measured.sort(key=lambda peer: peer.state is not PeerState.CONNECTED)
    for peer in measured[:MAX_PEERS]:
        if peer.rtt is not None:
            rtt.add_metric((*_of(seen), peer.name, peer.node_id), peer.rtt)
    yield rtt


def _of(seen: Observation) -> tuple[str, str]:
    return seen.tunnel, seen.network


def _labelled(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_NAMESPACE}_{name}", text, labels=(*_LABELS, *labels))


def _gauge(seen: Observation, name: str, text: str, value: float) -> GaugeMetricFamily:
    family = _labelled(name, text)
    family.add_metric(_of(seen), value)
    return family


def _counter(seen: Observation, name: str, text: str, value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_NAMESPACE}_{name}", text, labels=_LABELS)
    family.add_metric(_of(seen), value)
    return family

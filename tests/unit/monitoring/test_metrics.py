"""What Prometheus reads of a tunnel, read back with Prometheus's own parser."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quicether.bus.status import PeerStatus
from quicether.counters import Counters
from quicether.model import DropReason, NextHopKind, PeerState
from quicether.monitoring.metrics import MAX_PEERS, Observation, TunnelCollector

Labels = frozenset[tuple[str, str]]

COUNTERS = Counters(
    sent_packets=1,
    sent_bytes=2,
    received_packets=3,
    received_bytes=4,
    forwarded_packets=5,
    forwarded_bytes=6,
    failed_handshakes=7,
    faults=12,
)
COUNTERS.drop(DropReason.POLICY, 8)
COUNTERS.drop(DropReason.TOO_BIG)
HOME = PeerStatus("11" * 20, "home", PeerState.CONNECTED, rtt=0.0125)
OFFICE = PeerStatus("22" * 20, "office", PeerState.VIA_GATEWAY, via="home")
SEEN = Observation(
    tunnel="home",
    network="kin",
    node="cafe",
    node_id="33" * 20,
    link="netlink",
    version="1.2",
    ready=True,
    since=1_700_000_000.5,
    counters=COUNTERS,
    peers=(HOME, OFFICE),
    connections=1,
    routes={NextHopKind.NODE: 4, NextHopKind.LOCAL: 2},
    routes_refused=9,
    flows=10,
    audit_lost=11,
    certificate_end=1_800_000_000.0,
)


def scrape(seen: Observation) -> dict[str, dict[Labels, float]]:
    """Return every sample by name, then by its labels without tunnel and network."""
    registry = CollectorRegistry()
    registry.register(TunnelCollector(lambda: seen))
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.name.startswith("quicether_")
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("tunnel"), labels.pop("network")) == ("home", "kin")
            found.setdefault(sample.name, {})[frozenset(labels.items())] = sample.value
    return found


def test_every_counter_of_the_status_is_there() -> None:
    found = scrape(SEEN)
    plain: Labels = frozenset()
    values = {name: samples[plain] for name, samples in found.items() if plain in samples}
    assert values == {
        "quicether_ready": 1,
        "quicether_start_time_seconds": 1_700_000_000.5,
        "quicether_certificate_expiry_time_seconds": 1_800_000_000,
        "quicether_sent_packets_total": 1,
        "quicether_sent_bytes_total": 2,
        "quicether_received_packets_total": 3,
        "quicether_received_bytes_total": 4,
        "quicether_forwarded_packets_total": 5,
        "quicether_forwarded_bytes_total": 6,
        "quicether_failed_handshakes_total": 7,
        "quicether_faults_total": 12,
        "quicether_policy_denials_total": 8,
        "quicether_routes_refused_total": 9,
        "quicether_flows_active": 10,
        "quicether_audit_records_lost_total": 11,
        "quicether_connections_active": 1,
    }


def test_what_has_kinds_has_every_kind_from_the_first_scrape() -> None:
    found = scrape(SEEN)
    drops = {dict(labels)["reason"]: n for labels, n in found["quicether_drops_total"].items()}
    assert drops == {
        str(reason): {DropReason.POLICY: 8, DropReason.TOO_BIG: 1}.get(reason, 0)
        for reason in DropReason
    }
    peers = {dict(labels)["state"]: n for labels, n in found["quicether_peers"].items()}
    assert peers == {
        str(state): float(state in (PeerState.CONNECTED, PeerState.VIA_GATEWAY))
        for state in PeerState
    }
    routes = {dict(labels)["next_hop"]: n for labels, n in found["quicether_routes"].items()}
    assert routes == {"local": 2, "node": 4, "gateway": 0}
    (build,) = found["quicether_build_info"]
    assert dict(build) == {
        "version": "1.2",
        "node": "cafe",
        "node_id": "33" * 20,
        "link": "netlink",
    }


def test_a_round_trip_time_is_told_of_each_peer_that_has_one() -> None:
    found = scrape(SEEN)["quicether_peer_rtt_seconds"]
    assert found == {frozenset({("peer", "home"), ("node_id", "11" * 20)}): 0.0125}


def test_peers_beyond_the_bound_have_no_series_of_their_own() -> None:
    far = [
        replace(HOME, node_id=f"{number:040x}", name=f"n{number}", state=PeerState.VIA_GATEWAY)
        for number in range(MAX_PEERS + 50)
    ]
    found = scrape(replace(SEEN, peers=(*far, HOME)))
    series = found["quicether_peer_rtt_seconds"]
    assert len(series) == MAX_PEERS
    assert any(("peer", "home") in labels for labels in series)
    counted = found["quicether_peers"][frozenset({("state", "via-gateway")})]
    assert counted == MAX_PEERS + 50


def test_pinned_peers_have_no_certificate_that_ends() -> None:
    assert "quicether_certificate_expiry_time_seconds" not in scrape(
        replace(SEEN, certificate_end=None)
    )

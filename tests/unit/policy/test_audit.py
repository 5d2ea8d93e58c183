"""The records of the audit trail, and how many of a kind there are at most."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from quicether.errors import ConfigError, TrustError
from quicether.model import UnderlayAddress
from quicether.overlay.neighbours import AuditEvents
from quicether.policy.audit import (
    LEFT_OUT_INTERVAL,
    MAX_LISTED,
    MAX_TEXT,
    RATES,
    Audit,
    AuditKind,
)
from quicether.policy.flows import flow_key
from support.fake_audit import FakeAuditSink
from support.policies import HOME_IP, LAPTOP, LAPTOP_IP, node_id, udp_packet

REMOTE = UnderlayAddress("192.0.2.1", 9000)


class Trail:
    """An audit with a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 50.0
        self.sink = FakeAuditSink()
        self.audit = Audit(self.sink, lambda: self.now, lambda: 1_700_000_000.5)

    def only(self) -> dict[str, object]:
        (record,) = self.sink.records
        assert record["ts"] == "2023-11-14T22:13:20.500+00:00"
        return {name: value for name, value in record.items() if name != "ts"}


@pytest.fixture
def trail() -> Trail:
    return Trail()


def test_it_hears_what_the_mesh_tells(trail: Trail) -> None:
    told: AuditEvents = trail.audit
    told.refused(REMOTE, TrustError("no"))
    assert trail.sink.records


def test_every_kind_but_the_count_has_a_rate() -> None:
    assert set(RATES) == set(AuditKind) - {AuditKind.LEFT_OUT}


def test_a_connection_is_recorded(trail: Trail) -> None:
    trail.audit.connected(LAPTOP, REMOTE)
    assert trail.only() == {
        "event": "connection-opened",
        "src_node": str(LAPTOP.node_id),
        "src_name": "laptop",
        "remote": "192.0.2.1:9000",
    }


def test_the_end_of_a_connection_is_recorded_with_bytes_and_duration(trail: Trail) -> None:
    trail.audit.disconnected(LAPTOP, REMOTE, "idle", 1.25, (10, 20))
    record = trail.only()
    assert (record["duration_ms"], record["bytes_sent"], record["bytes_recv"]) == (1250, 10, 20)


def test_a_failed_authentication_is_recorded(trail: Trail) -> None:
    trail.audit.refused(REMOTE, TrustError("certificate is expired"))
    assert trail.only() == {
        "event": "connection-refused",
        "remote": "192.0.2.1:9000",
        "reason": "certificate is expired",
    }


def test_a_spoofed_source_is_recorded_with_the_peer_that_sent_it(trail: Trail) -> None:
    trail.audit.spoofed(LAPTOP, udp_packet(HOME_IP, LAPTOP_IP, 1, 2))
    record = trail.only()
    assert record["src_name"] == "laptop"
    assert record["src_ip"] == HOME_IP


def test_refused_prefixes_are_recorded_up_to_a_bound(trail: Trail) -> None:
    trail.audit.uncovered(LAPTOP, list(ip_network("10.0.0.0/16").subnets(new_prefix=24)))
    prefixes = trail.only()["prefixes"]
    assert isinstance(prefixes, list)
    assert len(prefixes) == MAX_LISTED


def test_a_refused_record_is_recorded_for_a_member_or_a_node_id(trail: Trail) -> None:
    trail.audit.record_refused(LAPTOP, "bad signature")
    trail.audit.record_refused(node_id("x"), "too old")
    trail.audit.record_refused(None, "too old")
    assert [record.get("src_node") for record in trail.sink.records] == [
        str(LAPTOP.node_id),
        str(node_id("x")),
        None,
    ]


def test_policies_are_recorded(trail: Trail) -> None:
    trail.audit.policy_loaded("policy.toml", 3)
    trail.audit.policy_refused(ConfigError("line 3: no"))
    assert [record["reason"] for record in trail.sink.records] == [
        "policy.toml: 3 rules",
        "line 3: no",
    ]


def test_what_a_stranger_wrote_stays_on_one_bounded_line(trail: Trail) -> None:
    trail.audit.refused(REMOTE, TrustError("a\nb\x1b[2J" + "x" * 10_000))
    reason = trail.only()["reason"]
    assert isinstance(reason, str)
    assert reason.isprintable()
    assert len(reason) == MAX_TEXT + 1


def test_too_many_records_of_a_kind_are_left_out_and_counted(trail: Trail) -> None:
    burst = int(RATES[AuditKind.REFUSED][1])
    for _ in range(burst + 30):
        trail.audit.refused(REMOTE, TrustError("no"))
    assert len(trail.sink.records) == burst
    assert trail.audit.left_out == 30


def test_what_a_record_that_was_left_out_counts_is_not_lost(trail: Trail) -> None:
    key = flow_key(udp_packet(LAPTOP_IP, HOME_IP, 1, 2))
    for _ in range(int(RATES[AuditKind.DENIED][1])):
        trail.audit.denied(key, LAPTOP, None, "r1")
    trail.audit.denied(key, LAPTOP, None, "r1", repeats=700)
    trail.audit.denied(key, LAPTOP, None, "r1")
    assert trail.audit.left_out == 701


def test_a_flood_of_one_kind_leaves_the_others_alone(trail: Trail) -> None:
    for _ in range(1000):
        trail.audit.refused(REMOTE, TrustError("no"))
    trail.audit.connected(LAPTOP, REMOTE)
    assert trail.sink.of("connection-opened")


def test_records_flow_again_after_a_while(trail: Trail) -> None:
    for _ in range(1000):
        trail.audit.refused(REMOTE, TrustError("no"))
    before = len(trail.sink.records)
    trail.now += 1
    trail.audit.refused(REMOTE, TrustError("no"))
    assert len(trail.sink.records) == before + 1


def test_the_trail_says_how_many_it_misses(trail: Trail) -> None:
    for _ in range(int(RATES[AuditKind.REFUSED][1]) + 30):
        trail.audit.refused(REMOTE, TrustError("no"))
    trail.sink.records.clear()
    trail.audit.tell_left_out()
    assert trail.sink.records == []
    trail.now += LEFT_OUT_INTERVAL
    trail.audit.tell_left_out()
    assert trail.only() == {"event": "left-out", "kind": "connection-refused", "left_out": 30}
    trail.now += LEFT_OUT_INTERVAL
    trail.audit.tell_left_out()
    assert len(trail.sink.records) == 1

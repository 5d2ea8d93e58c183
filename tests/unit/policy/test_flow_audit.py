"""What the audit trail tells of denials and of flows."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from quicether.policy import denials
from quicether.policy.denials import DENIAL_REPEAT
from quicether.policy.flows import REPORT_ACTIVE, REPORT_IDLE, TCP_IDLE
from support.judge import BACK, DNS_ONLY, OUT, WEB_ONLY, Judge, fragments
from support.policies import HOME, HOME_IP, LAPTOP, LAPTOP_IP, PHONE, rules, tcp_packet, udp_packet


def test_a_denied_flow_makes_one_record_with_the_rule() -> None:
    judge = Judge(rules("deny laptop home tcp 443"))
    for _ in range(10):
        judge.permits(OUT)
    (record,) = judge.sink.records
    assert record == {
        "ts": "1970-01-01T00:00:00.000+00:00",
        "event": "denied",
        "src_node": str(LAPTOP.node_id),
        "src_name": "laptop",
        "dest_node": str(HOME.node_id),
        "dest_name": "home",
        "src_ip": LAPTOP_IP,
        "dest_ip": HOME_IP,
        "protocol": "tcp",
        "src_port": 5000,
        "dest_port": 443,
        "action": "deny",
        "rule_id": "r1",
    }


def test_what_no_rule_allows_is_audited_as_default() -> None:
    judge = Judge(rules())
    judge.permits(OUT)
    assert judge.sink.records[0]["rule_id"] == "default"


def test_a_denial_that_goes_on_is_audited_again_with_its_count() -> None:
    judge = Judge(rules())
    for _ in range(11):
        judge.permits(OUT)
    judge.now += DENIAL_REPEAT
    judge.permits(OUT)
    judge.policy.expire(judge.now)
    assert [record.get("left_out") for record in judge.sink.records] == [None, 11]


def once_more_in_silence(judge: Judge) -> None:
    judge.now += DENIAL_REPEAT
    judge.policy.expire(judge.now)


def another_owner(judge: Judge) -> None:
    judge.owners[ip_address(HOME_IP).packed] = PHONE
    judge.permits(OUT)


@pytest.mark.parametrize(
    "ending",
    [
        once_more_in_silence,
        lambda judge: judge.policy.close(judge.now),
        lambda judge: judge.policy.use(rules(WEB_ONLY)),
        another_owner,
        lambda judge: [judge.permits(tcp_packet(LAPTOP_IP, HOME_IP, 1, n)) for n in range(5)],
    ],
    ids=["silent", "closed", "other-rules", "other-owner", "pushed-out"],
)
def test_every_denied_packet_is_in_the_trail(
    ending: Callable[[Judge], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 denied packets, then silence: that was one record that spoke of one packet."""
    monkeypatch.setattr(denials, "MAX_DENIED", 5)
    judge = Judge(rules())
    for _ in range(1000):
        judge.permits(OUT)
        judge.now += 0.01
        judge.policy.expire(judge.now)
    ending(judge)
    told = [record["left_out"] for record in judge.sink.of("denied") if "left_out" in record]
    assert told == [999]


def test_a_single_denial_is_forgotten_and_told_anew() -> None:
    judge = Judge(rules())
    for _ in range(2):
        judge.permits(OUT)
        once_more_in_silence(judge)
        assert len(judge.policy._denials) == 0
    assert [record.get("left_out") for record in judge.sink.records] == [None, None]


def test_a_denied_fragment_is_audited_once() -> None:
    judge = Judge(rules("allow laptop home udp 53"))
    for number in range(5):
        judge.permits(fragments(53, identification=number)[1])
    (record,) = judge.sink.records
    assert record["rule_id"] == "fragment"
    assert "dest_port" not in record


def flow_of(judge: Judge) -> dict[str, object]:
    (record,) = judge.sink.of("flow")
    judge.sink.records.clear()
    return {
        name: record[name]
        for name in ("packets_sent", "packets_recv", "bytes_sent", "bytes_recv", "duration_ms")
    }


def busy(judge: Judge) -> None:
    """Two packets out and one back, within 2.5 seconds."""
    judge.permits(OUT)
    judge.now += 1.5
    judge.permits(BACK)
    judge.now += 1
    judge.permits(OUT)


EXPECTED = {
    "packets_sent": 2,
    "packets_recv": 1,
    "bytes_sent": 80,
    "bytes_recv": 40,
    "duration_ms": 2500,
}


@pytest.mark.parametrize(
    "ending",
    [
        lambda judge: judge.policy.close(judge.now),
        lambda judge: judge.policy.expire(judge.now + REPORT_IDLE),
        lambda judge: judge.policy.expire(judge.now + TCP_IDLE),
    ],
    ids=["closed", "silent", "over"],
)
def test_a_flow_is_reported_with_bytes_and_duration(ending: Callable[[Judge], None]) -> None:
    judge = Judge(rules(WEB_ONLY))
    busy(judge)
    ending(judge)
    assert flow_of(judge) == EXPECTED


def test_later_fragments_count_in_their_flow() -> None:
    judge = Judge(rules(DNS_ONLY))
    for number in range(3):
        first, later = fragments(53, identification=number)
        for packet in (first, later, later):
            assert judge.permits(packet)
            judge.now += 1
    judge.policy.close(judge.now)
    found = flow_of(judge)
    assert (found["packets_sent"], found["bytes_sent"]) == (9, 3 * (52 + 36 + 36))
    assert found["duration_ms"] == 8000


def test_a_flow_that_new_rules_end_is_reported() -> None:
    judge = Judge(rules(WEB_ONLY))
    busy(judge)
    judge.policy.use(rules())
    judge.permits(OUT)
    assert flow_of(judge) == EXPECTED


def test_a_flow_that_goes_on_is_reported_in_parts() -> None:
    judge = Judge(rules(WEB_ONLY))
    parts = 0
    for _ in range(int(REPORT_ACTIVE) * 2 // 10 + 1):
        judge.permits(OUT)
        judge.policy.expire(judge.now)
        parts += len(judge.sink.of("flow"))
        judge.sink.records.clear()
        judge.now += 10
    assert parts == 2


def test_a_silent_flow_is_reported_once() -> None:
    judge = Judge(rules(WEB_ONLY))
    busy(judge)
    for _ in range(10):
        judge.now += REPORT_IDLE
        judge.policy.expire(judge.now)
    assert len(judge.sink.of("flow")) == 1


def test_a_flow_that_is_pushed_out_is_reported() -> None:
    judge = Judge(rules("allow laptop *"), max_flows=1)
    judge.permits(OUT)
    judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 1, 2))
    assert len(judge.sink.of("flow")) == 1

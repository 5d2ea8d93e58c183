"""Flows and denials end, and their tables are bounded."""

from __future__ import annotations

import pytest

from quicether.dataplane.packet import PacketView
from quicether.policy import decision, denials
from quicether.policy.flows import OTHER_IDLE, TCP_IDLE, UDP_IDLE
from support.judge import BACK, OUT, WEB_ONLY, Judge
from support.policies import HOME_IP, LAPTOP_IP, PHONE_IP, echo, rules, tcp_packet, udp_packet


@pytest.mark.parametrize(
    ("packet", "limit"),
    [
        (OUT, TCP_IDLE),
        (udp_packet(LAPTOP_IP, HOME_IP, 5000, 53), UDP_IDLE),
        (echo(LAPTOP_IP, HOME_IP, request=True), OTHER_IDLE),
    ],
)
def test_a_silent_flow_is_forgotten_in_its_time(packet: PacketView, limit: float) -> None:
    judge = Judge(rules("allow laptop *"))
    judge.permits(packet)
    judge.now += limit - 1
    judge.policy.expire(judge.now)
    assert judge.policy.flows == 1
    judge.now += 1
    judge.policy.expire(judge.now)
    assert judge.policy.flows == 0


def test_answers_keep_a_flow_alive() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    for _ in range(5):
        judge.now += TCP_IDLE - 1
        assert judge.permits(BACK)
        judge.policy.expire(judge.now)


def test_expiry_looks_at_every_flow_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "EXPIRY_BATCH", 3)
    judge = Judge(rules("allow laptop *"))
    for port in range(10):
        judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 5000, port))
    judge.now += UDP_IDLE
    for left in (7, 4, 1, 0):
        judge.policy.expire(judge.now)
        assert judge.policy.flows == left


def test_the_flow_table_is_bounded_and_keeps_the_busy_flow() -> None:
    judge = Judge(rules("allow laptop *"), max_flows=20, max_of_initiator=20)
    judge.permits(OUT)
    for port in range(200):
        judge.now += 1
        judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 5000, port))
        assert judge.permits(BACK)
        assert judge.policy.flows <= 20


def test_one_initiator_pushes_out_its_own_flows_alone() -> None:
    judge = Judge(rules("allow * *"), max_flows=100, max_of_initiator=20)
    judge.permits(tcp_packet(PHONE_IP, HOME_IP, 5000, 443))
    for port in range(1, 1000):
        judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 5000, port))
    assert judge.policy.flows == 21


def test_the_whole_table_is_bounded_over_all_initiators() -> None:
    judge = Judge(rules("allow * *"), max_flows=30, max_of_initiator=20)
    for port in range(1, 100):
        judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 5000, port))
        judge.permits(udp_packet(PHONE_IP, HOME_IP, 5000, port))
    assert judge.policy.flows == 30
    assert len(judge.policy._halves) == 60


def test_denials_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials, "MAX_DENIED", 5)
    judge = Judge(rules())
    for port in range(100):
        judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 5000, port))
    assert len(judge.policy._denials) == 5

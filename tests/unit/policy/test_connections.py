"""TCP over time: its middle without its beginning, its end, and what is known at a glance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quicether.dataplane.packet import PacketView, view
from quicether.policy.flows import TCP_IDLE, TCP_OVER
from support.judge import BACK, DNS_ONLY, OUT, WEB_ONLY, Judge, back, out
from support.packets import ACK, FIN, RST, SYN, ip, tcp, udp
from support.policies import HOME, HOME_IP, LAPTOP, LAPTOP_IP, PHONE, rules, tcp_packet, udp_packet


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK])
def test_a_connection_that_came_another_way_before_goes_on_with_its_answers(flags: int) -> None:
    """A download moves to another gateway, or a node restarts: the server's data come first."""
    judge = Judge(rules(WEB_ONLY))
    assert judge.permits(back(flags))
    assert judge.permits(OUT)
    assert judge.policy.flows == 1
    judge.policy.close(judge.now)
    (record,) = judge.sink.of("flow")
    assert (record["src_name"], record["dest_port"], record["rule_id"]) == ("laptop", 443, "r1")
    assert (record["packets_sent"], record["packets_recv"]) == (1, 1)


def test_a_gateway_that_sees_one_direction_alone_lets_the_answers_through() -> None:
    judge = Judge(rules(WEB_ONLY))
    for flags in (SYN | ACK, ACK, ACK, FIN | ACK):
        assert judge.permits(back(flags))


@pytest.mark.parametrize("flags", [SYN, 0, FIN, SYN | FIN, FIN | 0x28])
def test_what_could_begin_a_connection_or_probe_for_one_is_no_answer(flags: int) -> None:
    assert not Judge(rules(WEB_ONLY)).permits(back(flags))


def test_the_middle_of_a_connection_that_no_rule_allows_is_denied_both_ways() -> None:
    judge = Judge(rules("allow laptop home tcp 22"))
    assert not judge.permits(BACK)
    assert not judge.permits(OUT)


def test_a_denied_beginning_does_not_deny_the_middle_nor_the_other_way_round() -> None:
    judge = Judge(rules(WEB_ONLY))
    assert not judge.permits(back(SYN))
    assert judge.permits(back(ACK))
    judge = Judge(rules(DNS_ONLY))
    assert not judge.permits(back(ACK))
    judge.policy.use(rules("allow home laptop"))
    assert judge.permits(back(SYN))


def test_the_middle_of_connections_fills_its_senders_share_alone() -> None:
    """A server that makes up answers must not push out the flows of whom it sends them to."""
    judge = Judge(rules("allow laptop home"), max_flows=100, max_of_initiator=20)
    for port in range(10):
        judge.permits(udp_packet(LAPTOP_IP, HOME_IP, 5000, port))
    for port in range(1, 200):
        assert judge.permits(tcp_packet(HOME_IP, LAPTOP_IP, 443, port))
    assert judge.policy.flows == 30


# -- beginning and end ------------------------------------------------------------------------


def test_an_answer_opens_no_connection_back() -> None:
    """A server that was asked once may not come from its port with a connection of its own."""
    judge = Judge(rules(WEB_ONLY))
    judge.permits(out(SYN))
    assert judge.permits(back(SYN | ACK))
    assert not judge.permits(back(SYN))
    assert judge.permits(back(ACK))
    (record,) = judge.sink.of("denied")
    assert (record["src_name"], record["rule_id"]) == ("home", "default")


def test_a_connection_back_that_a_rule_allows_is_a_flow_of_its_own() -> None:
    judge = Judge(rules("allow * * tcp"))
    judge.permits(out(SYN))
    assert judge.permits(back(SYN))
    judge.policy.close(judge.now)
    assert [record["src_name"] for record in judge.sink.of("flow")] == ["laptop", "home"]


@pytest.mark.parametrize(
    "end",
    [
        (out(RST | ACK),),
        (back(RST),),
        (out(FIN | ACK), back(FIN | ACK)),
        (back(FIN | ACK), back(FIN | ACK), out(FIN | ACK), back(ACK)),
    ],
)
def test_a_connection_that_ended_is_soon_forgotten(end: tuple[PacketView, ...]) -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(out(SYN))
    for packet in end:
        assert judge.permits(packet)
    judge.now += TCP_OVER - 1
    judge.policy.expire(judge.now)
    assert judge.policy.flows == 1
    judge.now += 1
    judge.policy.expire(judge.now)
    assert judge.policy.flows == 0


def test_a_connection_that_one_side_ended_may_be_silent_for_long() -> None:
    judge = Judge(rules(WEB_ONLY))
    for flags in (SYN, ACK, FIN | ACK, FIN | ACK):
        judge.permits(out(flags))
    judge.now += TCP_IDLE - 1
    judge.policy.expire(judge.now)
    assert judge.policy.flows == 1


def test_a_port_that_is_used_again_begins_another_flow() -> None:
    judge = Judge(rules(WEB_ONLY))
    for _ in range(2):
        assert judge.permits(out(SYN))
        assert judge.permits(out(SYN))
        judge.permits(back(RST | ACK))
    judge.policy.close(judge.now)
    assert [record["packets_sent"] for record in judge.sink.of("flow")] == [2, 2]


# -- at a glance -------------------------------------------------------------------------------


def web(source: str, destination: str, flags: int = ACK) -> bytes:
    return ip(source, destination, tcp(5000, 443, flags=flags), protocol=6)


def dns(source: str, destination: str, **fields: Any) -> bytes:
    return ip(source, destination, udp(5000, 53), **fields)


@pytest.mark.parametrize("build", [web, dns])
@pytest.mark.parametrize(("here", "there"), [(LAPTOP_IP, HOME_IP), ("fd00::1", "fd00::2")])
def test_a_known_flow_is_known_at_a_glance_and_counted(
    build: Callable[[str, str], bytes], here: str, there: str
) -> None:
    judge = Judge(rules("allow laptop *"))
    packet = build(here, there)
    assert not judge.policy.vouches(packet, LAPTOP, HOME, judge.now)
    assert judge.policy.permits(view(packet), LAPTOP, HOME, judge.now)
    judge.now += TCP_IDLE
    assert judge.policy.vouches(packet, LAPTOP, HOME, judge.now)
    judge.policy.expire(judge.now)
    assert judge.policy.flows == 1
    judge.policy.close(judge.now)
    (record,) = judge.sink.of("flow")
    assert (record["packets_sent"], record["bytes_sent"]) == (2, 2 * len(packet))
    assert not judge.policy.vouches(packet, LAPTOP, HOME, judge.now)


@pytest.mark.parametrize(
    "packet",
    [
        *(web(LAPTOP_IP, HOME_IP, flags) for flags in (SYN, SYN | ACK, FIN | ACK, RST, 0)),
        *(web("fd00::1", "fd00::2", flags) for flags in (SYN, SYN | ACK, FIN | ACK, RST, 0)),
        dns(LAPTOP_IP, HOME_IP, more_fragments=True),
        dns(LAPTOP_IP, HOME_IP, offset=8),
        dns(LAPTOP_IP, HOME_IP, offset=8 * 256),
        dns(LAPTOP_IP, HOME_IP, options=bytes(4)),
        dns(LAPTOP_IP, HOME_IP)[:22],
        ip(LAPTOP_IP, HOME_IP, udp(5000, 54)),
        ip(LAPTOP_IP, HOME_IP, tcp(5000, 443)[:14], protocol=6),
        ip(LAPTOP_IP, HOME_IP, tcp(5000, 443), protocol=132),
        ip(LAPTOP_IP, HOME_IP, b"", protocol=6),
        ip("fd00::1", "fd00::2", b"", protocol=17),
    ],
)
def test_what_needs_a_closer_look_is_not_known_at_a_glance(packet: bytes) -> None:
    judge = Judge(rules("allow laptop *"))
    for known in (
        *(web(*pair) for pair in ((LAPTOP_IP, HOME_IP), ("fd00::1", "fd00::2"))),
        *(dns(*pair) for pair in ((LAPTOP_IP, HOME_IP), ("fd00::1", "fd00::2"))),
    ):
        assert judge.policy.permits(view(known), LAPTOP, HOME, judge.now)
        assert judge.policy.vouches(known, LAPTOP, HOME, judge.now)
    assert not judge.policy.vouches(packet, LAPTOP, HOME, judge.now)


def test_other_rules_and_other_members_need_a_closer_look() -> None:
    judge = Judge(rules(WEB_ONLY))
    packet = web(LAPTOP_IP, HOME_IP)
    judge.permits(view(packet))
    assert not judge.policy.vouches(packet, LAPTOP, PHONE, judge.now)
    assert not judge.policy.vouches(packet, PHONE, HOME, judge.now)
    assert judge.policy.vouches(packet, LAPTOP, HOME, judge.now)
    judge.policy.use(rules(WEB_ONLY))
    assert not judge.policy.vouches(packet, LAPTOP, HOME, judge.now)

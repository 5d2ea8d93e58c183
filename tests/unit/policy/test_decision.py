"""A policy over time: flows and their answers, fragments, ICMP errors, other rules, audit."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from quicether.dataplane.packet import PacketView, view
from quicether.dataplane.snapshot import PacketPolicy
from quicether.model import Member
from quicether.policy import decision, denials
from quicether.policy.audit import Audit
from quicether.policy.decision import Policy
from quicether.policy.denials import DENIAL_REPEAT
from quicether.policy.flows import (
    FRAGMENT_LIFE,
    OTHER_IDLE,
    REPORT_ACTIVE,
    REPORT_IDLE,
    TCP_IDLE,
    TCP_OVER,
    UDP_IDLE,
)
from quicether.policy.ruleset import RuleSet
from support.fake_audit import FakeAuditSink
from support.packets import ACK, FIN, RST, SYN, fragment6, ip, ipv4, ipv6, tcp, udp
from support.policies import (
    HOME,
    HOME_IP,
    LAPTOP,
    LAPTOP_IP,
    PHONE,
    PHONE_IP,
    echo,
    echo_bytes,
    icmp_error,
    member,
    rules,
    tcp_packet,
    udp_packet,
)

OUT = tcp_packet(LAPTOP_IP, HOME_IP, 5000, 443)
BACK = tcp_packet(HOME_IP, LAPTOP_IP, 443, 5000)
WEB_ONLY = "allow laptop home tcp 443"
QUESTION = udp_packet(LAPTOP_IP, HOME_IP, 5000, 53)
ANSWER = udp_packet(HOME_IP, LAPTOP_IP, 53, 5000)
DNS_ONLY = "allow laptop home udp 53"


def out(flags: int) -> PacketView:
    """A segment of the client that WEB_ONLY is about."""
    return tcp_packet(LAPTOP_IP, HOME_IP, 5000, 443, flags)


def back(flags: int) -> PacketView:
    """A segment of the server that WEB_ONLY is about."""
    return tcp_packet(HOME_IP, LAPTOP_IP, 443, 5000, flags)


class Judge:
    """A policy with its audit trail, asked by packets alone."""

    owners: dict[bytes, Member]

    def __init__(self, ruleset: RuleSet, max_flows: int = 100, max_of_initiator: int = 50) -> None:
        self.sink = FakeAuditSink()
        self.now = 1000.0
        audit = Audit(self.sink, lambda: self.now, lambda: 0.0)
        self.policy = Policy(ruleset, audit, max_flows, max_of_initiator)
        self.owners = {
            ip_address(address).packed: owner
            for address, owner in ((LAPTOP_IP, LAPTOP), (HOME_IP, HOME), (PHONE_IP, PHONE))
        }

    def permits(self, packet: PacketView) -> bool:
        source, destination = (
            self.owners.get(address) for address in (packet.source, packet.destination)
        )
        return self.policy.permits(packet, source, destination, self.now)


def test_it_is_the_policy_that_the_data_path_asks() -> None:
    asked: PacketPolicy = Policy(RuleSet.without_policy())
    assert asked.permits(OUT, LAPTOP, HOME, 0.0)


def test_what_no_rule_allows_is_denied() -> None:
    assert not Judge(rules()).permits(OUT)


def test_a_rule_lets_a_flow_and_its_answers_through() -> None:
    judge = Judge(rules(WEB_ONLY))
    assert judge.permits(OUT)
    assert judge.permits(BACK)
    assert judge.permits(OUT)
    assert judge.policy.flows == 1


def test_an_answer_to_nothing_is_denied() -> None:
    assert not Judge(rules(DNS_ONLY)).permits(ANSWER)


def test_an_answer_from_another_port_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert not judge.permits(tcp_packet(HOME_IP, LAPTOP_IP, 444, 5000))


def test_an_answer_by_another_protocol_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert not judge.permits(udp_packet(HOME_IP, LAPTOP_IP, 443, 5000))


def test_an_answer_may_come_after_it_was_denied_before_the_question() -> None:
    judge = Judge(rules(DNS_ONLY))
    assert not judge.permits(ANSWER)
    assert judge.permits(QUESTION)
    assert judge.permits(ANSWER)


def test_a_ping_lets_its_reply_back() -> None:
    for here, there in ((LAPTOP_IP, HOME_IP), ("fd00::1", "fd00::2")):
        judge = Judge(rules("allow laptop * icmp"))
        judge.owners[ip_address("fd00::1").packed] = LAPTOP
        assert judge.permits(echo(here, there, request=True))
        assert judge.permits(echo(there, here, request=False))


def test_a_ping_does_not_let_pings_back() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    judge.permits(echo(LAPTOP_IP, HOME_IP, request=True))
    assert not judge.permits(echo(HOME_IP, LAPTOP_IP, request=True))


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


# -- the middle of a connection ----------------------------------------------------------------


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


def test_a_ping_that_went_another_way_gets_its_reply() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    assert judge.permits(echo(HOME_IP, LAPTOP_IP, request=False))
    assert not judge.permits(echo(HOME_IP, LAPTOP_IP, request=True))


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


def test_a_reply_without_a_ping_opens_nothing() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    assert judge.permits(echo(LAPTOP_IP, HOME_IP, request=False))
    assert not judge.permits(echo(HOME_IP, LAPTOP_IP, request=True))


def test_pings_in_both_directions_with_one_identifier_both_pass() -> None:
    judge = Judge(rules("allow * * icmp"))
    for _ in range(2):
        for request in (True, False):
            assert judge.permits(echo(LAPTOP_IP, HOME_IP, request=request))
            assert judge.permits(echo(HOME_IP, LAPTOP_IP, request=request))


def test_other_icmp_lets_nothing_back() -> None:
    timestamp = icmp_error(LAPTOP_IP, HOME_IP, b"", kind=13)
    back = icmp_error(HOME_IP, LAPTOP_IP, b"", kind=13)
    judge = Judge(rules("allow laptop * icmp"))
    assert judge.permits(timestamp)
    assert not judge.permits(back)


def test_a_protocol_without_ports_lets_its_answers_back() -> None:
    judge = Judge(rules("allow laptop * esp"))
    assert judge.permits(view(ipv4(LAPTOP_IP, HOME_IP, bytes(8), protocol=50)))
    assert judge.permits(view(ipv4(HOME_IP, LAPTOP_IP, bytes(8), protocol=50)))


# -- ICMP errors -------------------------------------------------------------------------------


QUOTED = ipv4(LAPTOP_IP, HOME_IP, tcp(5000, 443), protocol=6)


def test_an_icmp_error_about_an_allowed_flow_passes() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert judge.permits(icmp_error(HOME_IP, LAPTOP_IP, QUOTED))


def test_a_router_on_the_way_may_send_the_error() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert judge.permits(icmp_error("10.9.9.9", LAPTOP_IP, QUOTED, kind=11))


def test_an_icmp_error_about_an_answer_passes() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    quoted = ipv4(HOME_IP, LAPTOP_IP, tcp(443, 5000), protocol=6)
    assert judge.permits(icmp_error(LAPTOP_IP, HOME_IP, quoted))


def test_an_icmp_error_about_a_ping_passes() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    judge.permits(echo(LAPTOP_IP, HOME_IP, request=True))
    quoted = echo_bytes(LAPTOP_IP, HOME_IP, request=True)
    assert judge.permits(icmp_error(HOME_IP, LAPTOP_IP, quoted))


def test_an_icmpv6_packet_too_big_about_an_allowed_flow_passes() -> None:
    judge = Judge(rules("allow laptop * tcp"))
    judge.owners[ip_address("fd00::1").packed] = LAPTOP
    packet = ipv6("fd00::1", "fd00::2", tcp(5000, 443), protocol=6)
    judge.permits(view(packet))
    assert judge.permits(icmp_error("fd00::9", "fd00::1", packet, kind=2))


def test_an_icmpv6_packet_too_big_about_a_fragmented_packet_passes() -> None:
    judge = Judge(rules("allow laptop * udp 53"))
    judge.owners[ip_address("fd00::1").packed] = LAPTOP
    whole = udp(5000, 53, bytes(1392))
    piece = fragment6(whole, offset=0, more=True, following=17, ident=77)
    first = ipv6("fd00::1", "fd00::2", piece, protocol=44)
    assert judge.permits(view(first))
    assert judge.permits(icmp_error("fd00::9", "fd00::1", first[:1232], kind=2))


def test_an_icmp_error_about_no_flow_is_denied() -> None:
    assert not Judge(rules(WEB_ONLY)).permits(icmp_error(HOME_IP, LAPTOP_IP, QUOTED))


def test_an_icmp_error_to_another_than_the_sender_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert not judge.permits(icmp_error(HOME_IP, PHONE_IP, QUOTED))


def test_a_redirect_about_an_allowed_flow_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert not judge.permits(icmp_error(HOME_IP, LAPTOP_IP, QUOTED, kind=5))


def test_an_icmp_error_about_a_flow_that_new_rules_deny_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.policy.use(rules())
    assert not judge.permits(icmp_error(HOME_IP, LAPTOP_IP, QUOTED))


# -- fragments ---------------------------------------------------------------------------------


def fragments(port: int, identification: int = 9) -> tuple[PacketView, PacketView]:
    first = ipv4(
        LAPTOP_IP, HOME_IP, udp(5000, port, bytes(24)), identification=identification,
        dont_fragment=False, more_fragments=True,
    )  # fmt: skip
    later = ipv4(
        LAPTOP_IP, HOME_IP, bytes(16), identification=identification, dont_fragment=False, offset=32
    )
    return view(first), view(later)


def test_later_fragments_follow_the_first() -> None:
    judge = Judge(rules("allow laptop home udp 53"))
    first, later = fragments(53)
    assert judge.permits(first)
    assert judge.permits(later)


def test_later_fragments_of_a_denied_packet_are_denied() -> None:
    judge = Judge(rules("allow laptop home udp 53"))
    first, later = fragments(54)
    assert not judge.permits(first)
    assert not judge.permits(later)


def test_later_fragments_of_another_packet_are_denied() -> None:
    judge = Judge(rules("allow laptop home udp 53"))
    assert judge.permits(fragments(53, identification=1)[0])
    assert not judge.permits(fragments(53, identification=2)[1])


def test_later_fragments_that_come_too_late_are_denied() -> None:
    judge = Judge(rules("allow laptop home udp 53"))
    first, later = fragments(53)
    judge.permits(first)
    judge.now += FRAGMENT_LIFE
    assert not judge.permits(later)


def test_later_fragments_of_an_answer_follow_its_first() -> None:
    judge = Judge(rules("allow home laptop udp 5000"))
    first, later = fragments(53)
    judge.permits(udp_packet(HOME_IP, LAPTOP_IP, 53, 5000))
    assert judge.permits(first)
    assert judge.permits(later)


def test_a_fragment_that_overtakes_the_first_passes_where_no_port_matters() -> None:
    judge = Judge(rules("allow laptop home udp"))
    assert judge.permits(fragments(53)[1])


def test_ipv6_fragments_follow_the_first() -> None:
    judge = Judge(rules("allow * * udp 53"))
    whole = udp(5000, 53, bytes(40))
    first, later = (
        view(
            ipv6(
                "fd00::1", "fd00::2",
                fragment6(part, offset=offset, more=more, following=17, ident=77), protocol=44,
            )
        )
        for part, offset, more in ((whole[:24], 0, True), (whole[24:], 24, False))
    )  # fmt: skip
    assert judge.permits(first)
    assert judge.permits(later)


def test_a_denied_fragment_does_not_deny_whole_packets() -> None:
    judge = Judge(rules("deny * * udp 53", "allow * *"))
    piece = fragment6(bytes(8), offset=8, more=False, following=58, ident=1)
    assert not judge.permits(view(ipv6("fd00::1", "fd00::2", piece, protocol=44)))
    assert judge.permits(icmp_error("fd00::1", "fd00::2", b"", kind=2))


def test_the_fragment_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(rules("allow laptop home udp 53"))
    monkeypatch.setattr(judge.policy._fragments, "_capacity", 4)
    for number in range(10):
        judge.permits(fragments(53, identification=number)[0])
    assert len(judge.policy._fragments) == 4
    assert judge.permits(fragments(53, identification=9)[1])
    assert not judge.permits(fragments(53, identification=1)[1])


# -- other rules, other members ----------------------------------------------------------------


def test_a_flow_that_new_rules_allow_goes_on() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.policy.use(rules("allow laptop *"))
    assert judge.permits(BACK)
    assert judge.permits(OUT)
    assert judge.policy.flows == 1


def test_a_flow_that_new_rules_deny_ends_in_both_directions() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.policy.use(rules("allow laptop phone"))
    assert not judge.permits(BACK)
    assert not judge.permits(OUT)
    assert judge.policy.flows == 0


def test_what_was_denied_is_asked_again_under_new_rules() -> None:
    judge = Judge(rules())
    judge.permits(OUT)
    judge.policy.use(rules(WEB_ONLY))
    assert judge.permits(OUT)


def test_a_flow_is_judged_again_when_another_node_owns_the_address() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.owners[ip_address(HOME_IP).packed] = PHONE
    assert not judge.permits(OUT)


def test_a_denied_flow_is_judged_again_when_another_node_owns_the_address() -> None:
    judge = Judge(rules("allow laptop phone"))
    assert not judge.permits(OUT)
    judge.owners[ip_address(HOME_IP).packed] = PHONE
    assert judge.permits(OUT)


def test_a_flow_goes_on_when_a_member_has_connected_anew() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.owners[ip_address(HOME_IP).packed] = member("home")
    assert judge.permits(BACK)
    assert judge.policy.flows == 1


def test_an_icmp_flow_is_judged_again_without_its_type_for_a_port() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    judge.permits(echo(LAPTOP_IP, HOME_IP, request=True))
    judge.policy.use(rules("deny * * tcp 8", "allow laptop * icmp"))
    assert judge.permits(echo(HOME_IP, LAPTOP_IP, request=False))


# -- bounds and idleness -----------------------------------------------------------------------


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


# -- audit -------------------------------------------------------------------------------------


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


# -- explain -----------------------------------------------------------------------------------


def test_the_verdict_names_the_rule() -> None:
    verdict = Policy(rules(WEB_ONLY)).explain(LAPTOP, HOME, ip_address(HOME_IP), 6, 443)
    assert verdict.allowed
    assert verdict.rule_id == "r1"
    assert verdict.sentence == (
        "laptop to 100.64.0.2 (home), tcp port 443, is allowed by rule 'r1' (allow laptop to home)."
    )


def test_the_verdict_says_when_no_rule_matches() -> None:
    verdict = Policy(rules()).explain(None, None, ip_address("10.0.0.1"), 1)
    assert (
        verdict.sentence == "an unknown node to 10.0.0.1, icmp, is denied because no rule matches."
    )


def test_the_verdict_says_when_there_is_no_policy() -> None:
    verdict = Policy(RuleSet.without_policy()).explain(LAPTOP, HOME, ip_address(HOME_IP), 17, 53)
    assert verdict.allowed
    assert "there is no policy file" in verdict.sentence

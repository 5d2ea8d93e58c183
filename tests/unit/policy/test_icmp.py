"""Pings and their replies, and ICMP errors about flows."""

from __future__ import annotations

from ipaddress import ip_address

from quicether.dataplane.packet import view
from support.judge import OUT, WEB_ONLY, Judge
from support.packets import fragment6, ipv4, ipv6, tcp, udp
from support.policies import (
    HOME_IP,
    LAPTOP,
    LAPTOP_IP,
    PHONE_IP,
    echo,
    echo_bytes,
    icmp_error,
    rules,
)


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


def test_a_ping_that_went_another_way_gets_its_reply() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    assert judge.permits(echo(HOME_IP, LAPTOP_IP, request=False))
    assert not judge.permits(echo(HOME_IP, LAPTOP_IP, request=True))


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


def test_an_icmp_flow_is_judged_again_without_its_type_for_a_port() -> None:
    judge = Judge(rules("allow laptop * icmp"))
    judge.permits(echo(LAPTOP_IP, HOME_IP, request=True))
    judge.policy.use(rules("deny * * tcp 8", "allow laptop * icmp"))
    assert judge.permits(echo(HOME_IP, LAPTOP_IP, request=False))


# -- errors ------------------------------------------------------------------------------------
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

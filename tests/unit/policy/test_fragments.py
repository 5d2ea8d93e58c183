"""Fragments share the verdict of their first, for a while."""

from __future__ import annotations

import pytest

from quicether.dataplane.packet import view
from quicether.policy.flows import FRAGMENT_LIFE
from support.judge import Judge, fragments
from support.packets import fragment6, ipv6, udp
from support.policies import HOME_IP, LAPTOP_IP, icmp_error, rules, udp_packet


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

"""ICMP errors: their bytes, and when there must be none."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

import pytest

from quicether.dataplane.icmp import (
    MAX_SENDERS,
    TOTAL_BURST,
    ErrorLimit,
    Problem,
    deserves_error,
    error,
)
from quicether.dataplane.packet import view
from support.packets import fragment6, icmp, internet_checksum, ipv4, ipv6, udp

HOST4, FAR4, ROUTER4 = "100.64.0.1", "192.168.1.10", "100.64.0.9"
HOST6, FAR6, ROUTER6 = "fd00::1", "fd00:1::10", "fd00::9"


@pytest.mark.parametrize(
    ("problem", "kind", "code"),
    [
        (Problem.TOO_BIG, 3, 4),
        (Problem.TTL_EXPIRED, 11, 0),
        (Problem.NO_ROUTE, 3, 0),
        (Problem.UNREACHABLE, 3, 1),
        (Problem.PROHIBITED, 3, 13),
    ],
)
def test_ipv4_errors(problem: Problem, kind: int, code: int) -> None:
    packet = ipv4(HOST4, FAR4, udp(1, 2, bytes(1400)))
    answer = error(packet, view(packet), problem, ip_address(ROUTER4).packed, mtu=1300)
    found = view(answer)
    assert (found.source, found.destination) == (
        ip_address(ROUTER4).packed,
        ip_address(HOST4).packed,
    )
    assert (found.protocol, found.icmp_type, found.icmp_code) == (1, kind, code)
    assert len(answer) == 576
    assert internet_checksum(answer[:20]) == 0
    assert internet_checksum(answer[20:]) == 0
    assert answer[24:28] == pack("!HH", 0, 1300)
    assert answer[28:] == packet[: 576 - 28]
    assert found.related == view(packet).five_tuple


@pytest.mark.parametrize(
    ("problem", "kind", "code"),
    [
        (Problem.TOO_BIG, 2, 0),
        (Problem.TTL_EXPIRED, 3, 0),
        (Problem.NO_ROUTE, 1, 0),
        (Problem.UNREACHABLE, 1, 3),
        (Problem.PROHIBITED, 1, 1),
    ],
)
def test_ipv6_errors(problem: Problem, kind: int, code: int) -> None:
    packet = ipv6(HOST6, FAR6, udp(1, 2, bytes(1400)))
    answer = error(packet, view(packet), problem, ip_address(ROUTER6).packed, mtu=1300)
    found = view(answer)
    assert found.destination == ip_address(HOST6).packed
    assert (found.protocol, found.icmp_type, found.icmp_code) == (58, kind, code)
    assert len(answer) == 1280
    pseudo = answer[8:40] + pack("!II", len(answer) - 40, 58)
    assert internet_checksum(pseudo + answer[40:]) == 0
    assert answer[44:48] == pack("!I", 1300)
    assert answer[48:] == packet[: 1280 - 48]


def test_a_small_packet_is_quoted_whole() -> None:
    packet = ipv4(HOST4, FAR4, udp(1, 2, b"odd"))
    answer = error(packet, view(packet), Problem.NO_ROUTE, ip_address(ROUTER4).packed)
    assert answer[28:] == packet
    assert internet_checksum(answer[20:]) == 0


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(HOST4, FAR4, icmp(3, 1, bytes(4), bytes(28)), protocol=1),
        ipv4(HOST4, FAR4, icmp(11), protocol=1),
        ipv4(HOST4, FAR4, icmp(5), protocol=1),
        ipv6(HOST6, FAR6, icmp(1), protocol=58),
        ipv6(HOST6, FAR6, icmp(127), protocol=58),
        ipv6(HOST6, FAR6, icmp(137), protocol=58),
        ipv4(HOST4, "224.0.0.1", udp(1, 2)),
        ipv4(HOST4, "255.255.255.255", udp(1, 2)),
        ipv4("0.0.0.0", FAR4, udp(1, 2)),
        ipv4("127.0.0.1", FAR4, udp(1, 2)),
        ipv4("240.0.0.1", FAR4, udp(1, 2)),
        ipv6("::", FAR6, udp(1, 2)),
        ipv6("ff02::1", FAR6, udp(1, 2)),
        ipv6(HOST6, "ff02::1", udp(1, 2)),
        ipv4(HOST4, FAR4, b"12345678", offset=8, dont_fragment=False),
        ipv6(
            HOST6, FAR6, fragment6(b"x", offset=8, more=False, following=17, ident=1), protocol=44
        ),
    ],
)
def test_what_must_not_be_answered(packet: bytes) -> None:
    assert not deserves_error(view(packet))


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(HOST4, FAR4, udp(1, 2)),
        ipv4(HOST4, FAR4, icmp(8), protocol=1),
        ipv6(HOST6, FAR6, icmp(128), protocol=58),
        ipv4(HOST4, FAR4, udp(1, 2), more_fragments=True, dont_fragment=False),
    ],
)
def test_what_is_answered(packet: bytes) -> None:
    assert deserves_error(view(packet))


def test_errors_about_all_senders_are_limited_too_and_the_senders_bounded() -> None:
    limit = ErrorLimit()
    sent = sum(limit.take(sender, 5.0) for sender in range(5 * MAX_SENDERS))
    assert sent == TOTAL_BURST
    assert len(limit._senders) == MAX_SENDERS

"""Parsing and changing packets, against packets built by hand."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.dataplane.packet import (
    MAX_EXTENSION_HEADERS,
    TCP,
    UDP,
    FiveTuple,
    checksum,
    is_confined,
    view,
)
from quicether.dataplane.rewrite import decrement_ttl, fragment
from quicether.errors import ProtocolError
from support.packets import fragment6, icmp, internet_checksum, ipv4, ipv6, tcp, udp

A4, B4 = "100.64.0.1", "192.168.1.10"
A6, B6 = "fd00::1", "fd00:1::10"
GOLDEN_TCP = bytes.fromhex(
    "4500003c1c4640004006b1e6ac100a63ac100a0c"  # checksum b1e6, by hand
    "0050d431000000010000000050100200e0540000"
)


def packed(address: str) -> bytes:
    return ip_address(address).packed


def test_golden_ipv4_tcp() -> None:
    packet = GOLDEN_TCP + bytes(0x3C - len(GOLDEN_TCP))
    found = view(packet)
    assert (found.version, found.protocol, found.ttl, found.length) == (4, TCP, 64, 60)
    assert found.source == packed("172.16.10.99")
    assert found.destination == packed("172.16.10.12")
    assert (found.source_port, found.destination_port) == (80, 54321)
    assert found.identification == 0x1C46
    assert found.dont_fragment
    assert not found.is_fragment
    assert found.offset == 20
    assert checksum(packet[:20]) == 0


def test_golden_ipv6_udp() -> None:
    packet = bytes.fromhex(
        "60000000000c1140"
        "fd000000000000000000000000000001"
        "fd000001000000000000000000000010"
        "30390035000c0000deadbeef"
    )
    found = view(packet)
    assert (found.version, found.protocol, found.ttl, found.length) == (6, UDP, 64, 52)
    assert (found.source, found.destination) == (packed(A6), packed(B6))
    assert (found.source_port, found.destination_port) == (12345, 53)
    assert found.dont_fragment
    assert found.offset == 40


def test_ipv4_options_move_the_payload() -> None:
    found = view(ipv4(A4, B4, udp(1, 2), options=b"\x94\x04\0\0"))
    assert found.offset == 24
    assert (found.source_port, found.destination_port) == (1, 2)


def test_ipv6_extension_headers_are_walked() -> None:
    hop_by_hop = pack("!BB6x", 60, 0)
    destination_options = pack("!BB14x", 51, 1)
    authentication = pack("!BBH12x", TCP, 2, 0)
    payload = hop_by_hop + destination_options + authentication + tcp(7, 8)
    found = view(ipv6(A6, B6, payload, protocol=0))
    assert found.protocol == TCP
    assert found.offset == 40 + 8 + 16 + 16
    assert (found.source_port, found.destination_port) == (7, 8)


def test_ipv6_chain_is_bounded() -> None:
    chain = pack("!BB6x", 60, 0) * (MAX_EXTENSION_HEADERS - 1) + pack("!BB6x", UDP, 0)
    assert view(ipv6(A6, B6, chain + udp(1, 2), protocol=60)).source_port == 1
    with pytest.raises(ProtocolError, match="extension headers"):
        view(ipv6(A6, B6, pack("!BB6x", 60, 0) + chain + udp(1, 2), protocol=60))


def test_fragments_ipv4() -> None:
    first = view(ipv4(A4, B4, udp(1, 2) + bytes(8), more_fragments=True, dont_fragment=False))
    assert (first.is_fragment, first.fragment_offset, first.source_port) == (True, 0, 1)
    later = view(ipv4(A4, B4, b"12345678", offset=16, dont_fragment=False, identification=9))
    assert (later.is_fragment, later.fragment_offset, later.source_port) == (True, 16, None)
    assert later.identification == 9


def test_fragments_ipv6() -> None:
    body = fragment6(udp(1, 2), offset=0, more=True, following=UDP, ident=5)
    first = view(ipv6(A6, B6, body, protocol=44))
    assert (first.protocol, first.is_fragment, first.source_port) == (UDP, True, 1)
    body = fragment6(b"rest", offset=8, more=False, following=UDP, ident=5)
    later = view(ipv6(A6, B6, body, protocol=44))
    assert (later.protocol, later.fragment_offset, later.source_port) == (UDP, 8, None)
    assert (later.identification, later.more_fragments) == (5, False)


def test_the_flags_of_a_tcp_segment() -> None:
    assert view(ipv4(A4, B4, tcp(1, 2, flags=0x12), protocol=TCP)).tcp_flags == 0x12
    assert view(ipv4(A4, B4, udp(1, 2))).tcp_flags is None
    later = ipv4(A4, B4, bytes(8), protocol=TCP, offset=24, dont_fragment=False)
    assert view(later).tcp_flags is None


def test_later_ipv6_fragment_of_an_extension_header_is_not_read_as_one() -> None:
    """The bytes behind the fragment header are the middle of something, no header."""
    body = fragment6(b"\xff" * 8, offset=8, more=True, following=60, ident=5)
    assert view(ipv6(A6, B6, body, protocol=44)).source_port is None


def test_echo_and_its_reply_bear_one_identifier() -> None:
    request = view(ipv4(A4, B4, icmp(8, 0, b"\x12\x34\0\1"), protocol=1))
    reply = view(ipv4(B4, A4, icmp(0, 0, b"\x12\x34\0\1"), protocol=1))
    assert request.echo == 0x1234
    assert request.five_tuple == FiveTuple(1, packed(A4), packed(B4), 0x1234, 0x1234)
    assert reply.five_tuple == FiveTuple(1, packed(B4), packed(A4), 0x1234, 0x1234)


FLOW6 = FiveTuple(17, packed(A6), packed(B6), 5, 6)
NO_PORTS6 = FLOW6._replace(source_port=None, destination_port=None)


def quoting6(payload: bytes, protocol: int) -> bytes:
    """An ICMPv6 Packet Too Big about a packet with extension headers."""
    quoted = ipv6(A6, B6, payload, protocol=protocol)
    return ipv6(B6, A6, icmp(2, 0, bytes(4), quoted), protocol=58)


@pytest.mark.parametrize(
    ("packet", "related"),
    [
        (
            ipv4(B4, A4, icmp(3, 4, bytes(4), ipv4(A4, B4, tcp(5, 6), protocol=6)), protocol=1),
            FiveTuple(6, packed(A4), packed(B4), 5, 6),
        ),
        (
            ipv6(B6, A6, icmp(2, 0, bytes(4), ipv6(A6, B6, udp(5, 6))), protocol=58),
            FiveTuple(17, packed(A6), packed(B6), 5, 6),
        ),
        (
            ipv4(B4, A4, icmp(11, 0, bytes(4), ipv4(A4, B4, icmp(8, 0, b"\0\7\0\0"), protocol=1)),
                 protocol=1),
            FiveTuple(1, packed(A4), packed(B4), 7, 7),
        ),
        (quoting6(fragment6(udp(5, 6), offset=0, more=True, following=17, ident=1), 44), FLOW6),
        (quoting6(pack("!BB6x", 60, 0) + pack("!BB6x", 17, 0) + udp(5, 6), 0), FLOW6),
        (quoting6(pack("!BB6x", 17, 0), 60), NO_PORTS6),
        (quoting6(fragment6(bytes(8), offset=8, more=False, following=17, ident=1), 44),
         NO_PORTS6),
        (quoting6(pack("!BB2x", 17, 0), 60), None),
        (quoting6(pack("!BB6x", 60, 0) * 20, 60), None),
        (ipv4(B4, A4, icmp(3, 1, bytes(4), b"E\0"), protocol=1), None),
    ],
)  # fmt: skip
def test_icmp_errors_tell_the_flow_they_are_about(packet: bytes, related: FiveTuple | None) -> None:
    found = view(packet)
    assert found.is_icmp_error
    assert found.related == related


@pytest.mark.parametrize(
    ("packet", "sentence"),
    [
        (b"", "empty"),
        (b"\x00" * 40, "version 0"),
        (b"\x45" + bytes(10), "shorter than its header"),
        (b"\x60" + bytes(30), "shorter than its header"),
        (ipv4(A4, B4, udp(1, 2)) + b"x", "length 28"),
        (ipv4(A4, B4, udp(1, 2))[:-1], "length 28"),
        (b"\x44" + ipv4(A4, B4, udp(1, 2))[1:], "header 16"),
        (ipv6(A6, B6, udp(1, 2))[:-1], "payload 8"),
        (ipv4(A4, B4, b"abc"), "cut off"),
        (ipv4(A4, B4, tcp(1, 2)[:16], protocol=TCP, more_fragments=True), "cut off"),
        (ipv4(A4, B4, bytes(16), protocol=TCP, offset=8), "within a TCP header"),
        (ipv4(A4, B4, b"abc", protocol=1), "ICMP header is cut off"),
        (ipv6(A6, B6, pack("!BB6x", 17, 9), protocol=60), "longer than the packet"),
        (ipv6(A6, B6, b"ab", protocol=44), "cut off"),
    ],
)
def test_malformed_packets_are_refused_with_a_sentence(packet: bytes, sentence: str) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        view(packet)


addresses4 = st.ip_addresses(v=4).map(str)
addresses6 = st.ip_addresses(v=6).map(str)


@given(addresses4, addresses4, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))
def test_view_reads_back_what_was_built(
    source: str, destination: str, ttl: int, tos: int, data: bytes
) -> None:
    found = view(ipv4(source, destination, udp(1, 2, data), ttl=ttl, tos=tos))
    assert found.source == packed(source)
    assert found.destination == packed(destination)
    assert found.ttl == ttl
    assert found.length == 28 + len(data)


@given(addresses4, addresses4, st.integers(2, 255), st.integers(0, 65535), st.integers(0, 255))
def test_decrement_keeps_the_checksum_right(
    source: str, destination: str, ttl: int, identification: int, tos: int
) -> None:
    packet = ipv4(source, destination, udp(1, 2), ttl=ttl, identification=identification, tos=tos)
    changed = decrement_ttl(packet)
    assert changed[8] == ttl - 1
    assert internet_checksum(changed[:20]) == 0
    assert changed[:8] + changed[9:10] + changed[12:] == packet[:8] + packet[9:10] + packet[12:]


def test_decrement_leaves_a_wrong_checksum_wrong() -> None:
    packet = bytearray(ipv4(A4, B4, udp(1, 2)))
    packet[10] ^= 0x55
    assert internet_checksum(decrement_ttl(bytes(packet))[:20]) != 0


def test_decrement_ipv6_touches_one_byte() -> None:
    packet = ipv6(A6, B6, udp(1, 2), hop_limit=9, traffic_class=0xB9)
    assert decrement_ttl(packet) == packet[:7] + b"\x08" + packet[8:]


@given(st.lists(st.binary(max_size=40), max_size=3).map(lambda p: [x[: len(x) & ~1] for x in p]),
       st.binary(max_size=41))  # fmt: skip
def test_checksum_agrees_with_the_slow_way(parts: list[bytes], last: bytes) -> None:
    data = b"".join(parts) + last
    assert checksum(*parts, last) == internet_checksum(data)


@given(
    st.binary(min_size=1, max_size=3000),
    st.integers(68, 1500),
    st.sampled_from([b"", b"\x94\x04\0\0", b"\x07\x03\x04\0", b"\x94\x04\0\0\x07\x03\x04\0"]),
)
def test_fragments_reassemble(payload: bytes, mtu: int, options: bytes) -> None:
    packet = ipv4(
        A4, B4, payload, protocol=200, options=options, dont_fragment=False, identification=77
    )
    pieces = [packet] if len(packet) <= mtu else fragment(packet, mtu)
    whole = bytearray(len(payload))
    for position, piece in enumerate(pieces):
        found = view(piece)
        assert len(piece) <= mtu
        assert internet_checksum(piece[: found.offset]) == 0
        assert found.identification == 77
        assert found.more_fragments is (position < len(pieces) - 1)
        whole[found.fragment_offset : found.fragment_offset + len(piece) - found.offset] = piece[
            found.offset :
        ]
    assert bytes(whole) == payload
    assert pieces[0][20 : view(pieces[0]).offset] == options
    if len(pieces) > 1:
        # Router alert (0x94) has the copy bit, record route (0x07) has not.
        copied = b"\x94\x04\0\0" if b"\x94" in options else b""
        assert pieces[1][20 : view(pieces[1]).offset] == copied


def test_a_fragment_can_be_cut_again() -> None:
    middle = ipv4(A4, B4, bytes(range(200)), offset=400, more_fragments=True, dont_fragment=False)
    offsets = [(view(p).fragment_offset, view(p).more_fragments) for p in fragment(middle, 100)]
    assert offsets == [(400, True), (480, True), (560, True)]


@pytest.mark.parametrize(
    ("address", "confined"),
    [
        ("0.0.0.0", True),
        ("127.0.0.1", True),
        ("169.254.7.7", True),
        ("224.0.0.251", True),
        ("255.255.255.255", True),
        ("169.253.0.1", False),
        ("100.64.0.1", False),
        ("10.0.0.255", False),
        ("::", True),
        ("::1", True),
        ("fe80::1", True),
        ("febf::1", True),
        ("ff02::1", True),
        ("::ffff:10.0.0.1", True),
        ("fec0::1", False),
        ("fd00::1", False),
        ("2001:db8::", False),
        ("::2", False),
    ],
)
def test_what_never_crosses_a_router(address: str, confined: bool) -> None:
    assert is_confined(packed(address)) is confined

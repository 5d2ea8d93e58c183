"""IP packets built by hand, field by field from the RFCs and without the code under test."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack, unpack
from typing import Any


def internet_checksum(data: bytes) -> int:
    """RFC 1071, one 16-bit word after the other."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in (unpack("!H", data[i : i + 2]) for i in range(0, len(data), 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = 17,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    dont_fragment: bool = True,
    more_fragments: bool = False,
    offset: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet. offset: of a fragment, in bytes. options: a multiple of four bytes."""
    flags = (dont_fragment << 14) | (more_fragments << 13) | offset // 8
    header_length = 20 + len(options)
    header = pack(
        "!BBHHHBBH4s4s",
        0x40 | header_length // 4,
        tos,
        header_length + len(payload),
        identification,
        flags,
        ttl,
        protocol,
        0,
        ip_address(source).packed,
        ip_address(destination).packed,
    )
    header += options
    return header[:10] + pack("!H", internet_checksum(header)) + header[12:] + payload


def ipv6(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = 17,
    hop_limit: int = 64,
    traffic_class: int = 0,
) -> bytes:
    """An IPv6 packet. payload: behind the fixed header, extension headers included."""
    return (
        pack("!IHBB", 6 << 28 | traffic_class << 20, len(payload), protocol, hop_limit)
        + ip_address(source).packed
        + ip_address(destination).packed
        + payload
    )


def ip(source: str, destination: str, payload: bytes = b"", **fields: Any) -> bytes:
    """A packet of whichever version the addresses are."""
    build = ipv6 if ":" in source else ipv4
    return build(source, destination, payload, **fields)


def udp(source_port: int, destination_port: int, data: bytes = b"") -> bytes:
    """A UDP header without checksum, and data."""
    return pack("!HHHH", source_port, destination_port, 8 + len(data), 0) + data


FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


def tcp(source_port: int, destination_port: int, data: bytes = b"", *, flags: int = ACK) -> bytes:
    """A TCP header without options or checksum, and data."""
    return pack("!HHIIBBHHH", source_port, destination_port, 1, 0, 0x50, flags, 512, 0, 0) + data


def icmp(kind: int, code: int = 0, rest: bytes = bytes(4), body: bytes = b"") -> bytes:
    """An ICMP or ICMPv6 message without checksum. rest: the second four header bytes."""
    return pack("!BBH", kind, code, 0) + rest + body


def fragment6(payload: bytes, *, offset: int, more: bool, following: int, ident: int) -> bytes:
    """An IPv6 fragment header (protocol 44) and its part of the payload."""
    return pack("!BBHI", following, 0, offset | more, ident) + payload

"""What a router changes in a packet: one hop less to live, and smaller pieces. Pure."""

from __future__ import annotations

from struct import pack_into

from quicether.dataplane.packet import IPV4_HEADER, MORE_FRAGMENTS, OFFSET4, checksum


def decrement_ttl(packet: bytes) -> bytes:
    """Return the packet with TTL or hop limit less one; the caller has seen that it is above 1.

    The IPv4 header checksum is changed by the difference alone, so that a wrong one stays wrong
    (RFC 1624 equation 3).
    """
    changed = bytearray(packet)
    if changed[0] >> 4 == 6:
        changed[7] -= 1
        return bytes(changed)
    changed[8] -= 1
    # m' = m - 0x0100 for the word of TTL and protocol, hence ~m + m' = 0xFFFF - 0x0100.
    total = (~(changed[10] << 8 | changed[11]) & 0xFFFF) + 0xFEFF
    total = (total & 0xFFFF) + (total >> 16)
    pack_into("!H", changed, 10, ~total & 0xFFFF)
    return bytes(changed)


def fragment(packet: bytes, mtu: int) -> list[bytes]:
    """Cut an IPv4 packet without DF into fragments of at most mtu bytes (RFC 791 section 3.2).

    mtu: at least 68. A fragment can be cut again. Options without the copy bit stay in the
    first fragment alone.
    """
    header_length = (packet[0] & 0x0F) * 4
    flags = int.from_bytes(packet[6:8], "big")
    offset, last_flag = flags & OFFSET4, flags & MORE_FRAGMENTS
    header = bytearray(packet[:header_length])
    later_header = bytearray(packet[:IPV4_HEADER]) + _copied_options(
        packet[IPV4_HEADER:header_length]
    )
    later_header[0] = 0x40 | len(later_header) // 4
    payload = packet[header_length:]
    fragments: list[bytes] = []
    position = 0
    while position < len(payload):
        room = (mtu - len(header)) // 8 * 8
        piece = payload[position : position + room]
        more = last_flag if position + len(piece) == len(payload) else MORE_FRAGMENTS
        pack_into("!H", header, 2, len(header) + len(piece))
        pack_into("!H", header, 6, more | (offset + position // 8))
        pack_into("!H", header, 10, 0)
        pack_into("!H", header, 10, checksum(bytes(header)))
        fragments.append(bytes(header) + piece)
        position += len(piece)
        header = later_header
    return fragments


def _copied_options(options: bytes) -> bytes:
    """Return the IPv4 options that every fragment carries, padded to whole words."""
    copied = b""
    position = 0
    while position < len(options) and options[position] != 0:
        kind = options[position]
        size = 1 if kind == 1 else (options[position + 1] if position + 1 < len(options) else 0)
        if size == 0 or (kind != 1 and size < 2):
            break
        if kind & 0x80:
            copied += options[position : position + size]
        position += size
    return copied + bytes(-len(copied) % 4)

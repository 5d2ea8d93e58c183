"""The bytes of QUIC packets that carry nothing but IP packets. Pure.

DATAGRAM frames (RFC 9221 section 4) come in two kinds: with a length, so that another frame can
follow, and without one up to the end of the QUIC packet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

DATAGRAM: Final = 0x30
DATAGRAM_WITH_LENGTH: Final = 0x31

_ONE_BYTE_LENGTH: Final = 1 << 6
_TWO_BYTE_LENGTH: Final = 1 << 14
_TWO_BYTE_PREFIX: Final = 0x4000
_TYPE: Final = bytes((DATAGRAM,))


def frame(packets: Iterable[bytes], room: int) -> list[bytes]:
    """Return QUIC payloads that carry packets in order, as many in each as room bytes take.

    A packet larger than `room - 1` gets a payload of its own that is too large: the caller sorts
    those out before.
    """
    payloads: list[bytes] = []
    group: list[bytes] = []
    used = 0
    for packet in packets:
        size = len(packet)
        if group and used + 1 + size > room:
            payloads.append(_join(group))
            group = []
            used = 0
        group.append(packet)
        used += size + (2 if size < _ONE_BYTE_LENGTH else 3)
    if group:
        payloads.append(_join(group))
    return payloads


def _join(group: list[bytes]) -> bytes:
    if len(group) == 1:
        return _TYPE + group[0]
    parts: list[bytes] = []
    for packet in group[:-1]:
        size = len(packet)
        if size < _ONE_BYTE_LENGTH:
            parts.append(bytes((DATAGRAM_WITH_LENGTH, size)))
        else:
            prefix = DATAGRAM_WITH_LENGTH << 16 | _TWO_BYTE_PREFIX | size
            parts.append(prefix.to_bytes(3, "big"))
        parts.append(packet)
    parts += (_TYPE, group[-1])
    return b"".join(parts)


def unframe(payload: bytes) -> list[bytes] | None:
    """Return the packets of a payload that has only DATAGRAM frames; None for any other."""
    packets: list[bytes] = []
    at, end = 0, len(payload)
    while at < end:
        kind = payload[at]
        if kind == DATAGRAM:
            packets.append(payload[at + 1 :])
            return packets
        if kind != DATAGRAM_WITH_LENGTH or at + 1 == end:
            return None
        size = payload[at + 1]
        at += 2
        if size >= _ONE_BYTE_LENGTH:
            if size >= _ONE_BYTE_LENGTH * 2 or at == end:
                return None  # no IP packet is that large
            size = (size & 0x3F) << 8 | payload[at]
            at += 1
        if at + size > end:
            return None
        packets.append(payload[at : at + size])
        at += size
    return packets or None

"""ICMP and ICMPv6 errors that the overlay sends as a router. Pure: time is an argument."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from struct import pack
from typing import Final

from quicether.dataplane.packet import (
    ICMP,
    ICMPV6,
    IPV4_HEADER,
    IPV6_HEADER,
    PacketView,
    checksum,
    is_confined,
)
from quicether.token_bucket import TokenBucket, TokenBuckets

_QUOTE4: Final = 576 - IPV4_HEADER - 8
"""Bytes of the offending packet in an ICMPv4 error (RFC 1812 section 4.3.2.3)."""
_QUOTE6: Final = 1280 - IPV6_HEADER - 8
"""Bytes of the offending packet in an ICMPv6 error (RFC 4443 section 2.4 c)."""
SENDER_RATE: Final = 100.0
SENDER_BURST: Final = 50.0
"""ICMP errors a second in the long run, and at once, about the packets of one sender."""
TOTAL_RATE: Final = 1000.0
TOTAL_BURST: Final = 500.0
"""The same about the packets of all senders."""
MAX_SENDERS: Final = 1024
"""Senders whose errors are counted apart; one that is silent for longest begins anew."""
_HOP_LIMIT: Final = 64
_PRECEDENCE4: Final = 0xC0
"""Internetwork control (RFC 1812 section 4.3.2.5)."""


class Problem(enum.Enum):
    """Why a packet could not go on, with type and code of ICMPv4 and ICMPv6."""

    TOO_BIG = ((3, 4), (2, 0))
    TTL_EXPIRED = ((11, 0), (3, 0))
    NO_ROUTE = ((3, 0), (1, 0))
    UNREACHABLE = ((3, 1), (1, 3))
    """There is a route, but its next hop does not answer."""
    PROHIBITED = ((3, 13), (1, 1))


def deserves_error(packet: PacketView) -> bool:
    """Tell whether a packet may be answered by an ICMP error at all.

    Never about an error or redirect, a later fragment, or a packet to or from an address that
    is not one host's (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e).
    """
    return not (
        packet.fragment_offset
        or packet.is_icmp_error
        or is_confined(packet.source)
        or is_confined(packet.destination)
    )


def error(packet: bytes, about: PacketView, problem: Problem, source: bytes, mtu: int = 0) -> bytes:
    """Return the IP packet that tells about.source of the problem.

    packet: the offending one, quoted as far as allowed. about: its view. source: packed address
    to send from, of the same family. mtu: bytes, for TOO_BIG alone. Ask deserves_error first.
    """
    code4, code6 = problem.value
    if about.version == 4:
        body = _with_checksum(pack("!BBHI", *code4, 0, mtu) + packet[:_QUOTE4], b"")
        header = pack(
            "!BBHHHBBH4s4s",
            0x45,
            _PRECEDENCE4,
            IPV4_HEADER + len(body),
            0,
            0x4000,  # atomic: DF and no identification (RFC 6864 section 4.1)
            _HOP_LIMIT,
            ICMP,
            0,
            source,
            about.source,
        )
        return header[:10] + pack("!H", checksum(header)) + header[12:] + body
    body = pack("!BBHI", *code6, 0, mtu) + packet[:_QUOTE6]
    pseudo = source + about.source + pack("!II", len(body), ICMPV6)
    body = _with_checksum(body, pseudo)
    return pack("!IHBB16s16s", 6 << 28, len(body), ICMPV6, _HOP_LIMIT, source, about.source) + body


def _with_checksum(body: bytes, pseudo: bytes) -> bytes:
    return body[:2] + pack("!H", checksum(pseudo, body)) + body[4:]


class ErrorLimit:
    """How many errors are sent (RFC 4443 section 2.4 f).

    Each sender has a share of its own, so that no flooder silences the others.
    """

    def __init__(self) -> None:
        self._all = TokenBucket(TOTAL_RATE, TOTAL_BURST)
        self._senders = TokenBuckets(SENDER_RATE, SENDER_BURST, MAX_SENDERS)

    def take(self, sender: Hashable, now: float) -> bool:
        """Tell whether one more may be sent about a packet of sender. now: monotonic seconds."""
        return self._senders.take(sender, now) and self._all.take(now)

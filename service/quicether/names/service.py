"""The name service of one node: IP packet in, IP packet out, no socket. Pure.

It stands behind addresses that the kernel routes to the tunnel's device and that no host has, so
it needs no port and no capability, and nothing but this host can reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct, pack
from typing import Final

from quicether.dataplane.packet import UDP, PacketView, checksum, view
from quicether.errors import ProtocolError
from quicether.model import Member
from quicether.names.responder import respond
from quicether.names.zone import Zone
from quicether.token_bucket import TokenBucket

PORT: Final = 53
RATE: Final = 200.0
"""Questions answered a second in the long run."""
BURST: Final = 400.0
FRESHNESS: Final = 0.5
"""Seconds after which a question makes the zone anew from the members."""
_UDP_HEADER: Final = Struct("!HHHH")
_HOP_LIMIT: Final = 64
_DONT_FRAGMENT: Final = 0x4000


class NameService:
    """Implements `dataplane.snapshot.Service`."""

    def __init__(self, network: str, me: Member, others: Callable[[], Iterable[Member]]) -> None:
        """others: gives every known member beside this node."""
        self._network = network
        self._me = me
        self._others = others
        self._bucket = TokenBucket(RATE, BURST)
        self._zone = Zone(network, me, ())
        self._made: float | None = None

    def answer(self, packet: bytes, now: float) -> bytes | None:
        """Return the packet that answers packet; None where it is no question, or one too many."""
        try:
            about = view(packet)
        except ProtocolError:
            return None
        if (
            about.protocol != UDP
            or about.destination_port != PORT
            or not about.source_port
            or about.is_fragment
        ):
            return None
        header = packet[about.offset : about.offset + _UDP_HEADER.size]
        if len(header) < _UDP_HEADER.size:
            return None
        _, _, size, _ = _UDP_HEADER.unpack(header)
        if not _UDP_HEADER.size <= size <= len(packet) - about.offset or not self._bucket.take(now):
            return None
        found = respond(
            packet[about.offset + _UDP_HEADER.size : about.offset + size], self._current(now)
        )
        return None if found is None else _datagram(about, found)

    def _current(self, now: float) -> Zone:
        """Return the zone, not older than FRESHNESS."""
        if self._made is None or now - self._made >= FRESHNESS:
            self._zone = Zone(self._network, self._me, self._others())
            self._made = now
        return self._zone


def _datagram(about: PacketView, payload: bytes) -> bytes:
    """Return payload as the UDP datagram that goes back to where about came from."""
    size = _UDP_HEADER.size + len(payload)
    ports = (PORT, about.source_port or 0, size)
    pseudo = about.destination + about.source + pack("!II", size, UDP)
    # A sum of 0 is written as its other form: 0 says that there is none (RFC 768).
    total = checksum(pseudo, _UDP_HEADER.pack(*ports, 0), payload) or 0xFFFF
    segment = _UDP_HEADER.pack(*ports, total) + payload
    if about.version == 6:
        head = pack("!IHBB", 6 << 28, size, UDP, _HOP_LIMIT)
        return head + about.destination + about.source + segment
    fields = (0x45, 0, 20 + size, 0, _DONT_FRAGMENT, _HOP_LIMIT, UDP)
    addresses = about.destination + about.source
    total = checksum(pack("!BBHHHBBH", *fields, 0) + addresses)
    return pack("!BBHHHBBH", *fields, total) + addresses + segment

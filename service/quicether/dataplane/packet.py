"""IP packets as the data path sees them: bytes in, a few header fields out. Pure.

Nothing here copies a payload unless it has to change one. Addresses stay packed (4 or 16 bytes,
network order), because every table on the packet's way is keyed by bytes.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from quicether.errors import ProtocolError

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
PORT_PROTOCOLS: Final = frozenset((TCP, UDP, 33, 132, 136))
"""TCP, UDP, DCCP, SCTP and UDP-Lite: the first four bytes are source and destination port."""

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10
"""Flags of a TCP segment (RFC 9293 section 3.1)."""

IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40
TCP_HEADER: Final = 20
MAX_EXTENSION_HEADERS: Final = 8
"""No honest sender chains more; each one costs us a step (RFC 8504 section 5.3)."""

_IPV4 = Struct("!BxHHHBBxx4s4s")
_IPV6 = Struct("!IHBB16s16s")
_PORTS = Struct("!HH")
_FRAGMENT6 = Struct("!BxHI")

_DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET4: Final = 0x1FFF
"""The flag and the offset, in 8 bytes, in an IPv4 header's fourth word (RFC 791 section 3.1)."""
_OFFSET6 = 0xFFF8
_FRAGMENT_HEADER = 44
_AUTHENTICATION_HEADER = 51
_EXTENSION_HEADERS = frozenset((0, 43, _FRAGMENT_HEADER, _AUTHENTICATION_HEADER, 60, 135, 139, 140))
"""Hop-by-Hop, Routing, Fragment, Authentication, Destination Options, Mobility, HIP, Shim6."""
_ECHO4 = frozenset((0, 8))
_ECHO6 = frozenset((128, 129))
ICMP_ERRORS: Final = frozenset((3, 4, 5, 11, 12))
"""ICMPv4 types that are errors or redirects: never answered by an error (RFC 1122 3.2.2)."""


class FiveTuple(NamedTuple):
    """What the packets of one conversation in one direction have in common.

    The ports are None where the protocol has none. An ICMP echo has its identifier in both, so
    that a reply's is the request's turned round.
    """

    protocol: int
    source: bytes
    destination: bytes
    source_port: int | None
    destination_port: int | None


class PacketView:
    """The header fields of one IP packet. Made by `view`, never changed afterwards.

    version: 4 or 6. source, destination: packed. protocol: of the payload behind all extension
    headers. source_port, destination_port: None for other protocols and for every fragment but
    the first. icmp_type, icmp_code: None unless ICMP or ICMPv6. tcp_flags: None unless TCP, and
    for every fragment but the first. fragment_offset: bytes, 0 for the first or only one.
    identification: of a fragmented packet, else 0 for IPv6. ttl: or hop limit. length: whole
    packet in bytes. offset: where the payload of `protocol` begins, in bytes. echo: identifier of
    an ICMP echo. related: of the packet that an ICMP error is about, None where too little of it
    is quoted.
    """

    __slots__ = (
        "destination",
        "destination_port",
        "dont_fragment",
        "echo",
        "fragment_offset",
        "icmp_code",
        "icmp_type",
        "identification",
        "length",
        "more_fragments",
        "offset",
        "protocol",
        "related",
        "source",
        "source_port",
        "tcp_flags",
        "ttl",
        "version",
    )

    version: int
    source: bytes
    destination: bytes
    protocol: int
    source_port: int | None
    destination_port: int | None
    icmp_type: int | None
    icmp_code: int | None
    tcp_flags: int | None
    fragment_offset: int
    more_fragments: bool
    dont_fragment: bool
    identification: int
    ttl: int
    length: int
    offset: int
    echo: int | None
    related: FiveTuple | None

    @property
    def is_fragment(self) -> bool:
        """Whether this is a part of a larger packet, the first part included."""
        return self.more_fragments or self.fragment_offset > 0

    @property
    def five_tuple(self) -> FiveTuple:
        """What tells the conversation that the packet belongs to."""
        if self.echo is not None:
            return FiveTuple(self.protocol, self.source, self.destination, self.echo, self.echo)
        return FiveTuple(
            self.protocol, self.source, self.destination, self.source_port, self.destination_port
        )

    @property
    def is_icmp_error(self) -> bool:
        """Whether the packet is an ICMP or ICMPv6 error or redirect."""
        kind = self.icmp_type
        if kind is None:
            return False
        if self.version == 4:
            return kind in ICMP_ERRORS
        return kind < 128 or kind == 137

    def __repr__(self) -> str:
        return f"PacketView({self.five_tuple}, {self.length} bytes)"


def view(packet: bytes) -> PacketView:
    """Return the header fields of one whole IP packet.

    Raises ProtocolError: neither IPv4 nor IPv6, lengths that contradict each other or the
    number of bytes, a chain of more than MAX_EXTENSION_HEADERS, a cut-off transport header, or a
    fragment that would reach into a TCP header: it hides flags, or changes those that were judged
    (RFC 3128).
    """
    if not packet:
        raise ProtocolError("packet is empty")
    found = PacketView.__new__(PacketView)
    version = packet[0] >> 4
    found.version = version
    found.length = len(packet)
    if version == 4:
        _fill_ipv4(found, packet)
    elif version == 6:
        _fill_ipv6(found, packet)
    else:
        raise ProtocolError(f"packet has IP version {version}, not 4 or 6")
    found.source_port = found.destination_port = None
    found.icmp_type = found.icmp_code = found.tcp_flags = None
    found.echo = found.related = None
    if not found.fragment_offset:
        _fill_transport(found, packet)
    elif found.protocol == TCP and found.fragment_offset < TCP_HEADER:
        raise ProtocolError("fragment begins within a TCP header")
    return found


def _fill_ipv4(found: PacketView, packet: bytes) -> None:
    if len(packet) < IPV4_HEADER:
        raise ProtocolError(f"IPv4 packet of {len(packet)} bytes is shorter than its header")
    (
        first,
        length,
        found.identification,
        fragment,
        found.ttl,
        found.protocol,
        found.source,
        found.destination,
    ) = _IPV4.unpack_from(packet)
    header = (first & 0x0F) * 4
    if not IPV4_HEADER <= header <= length == len(packet):
        raise ProtocolError(
            f"IPv4 packet of {len(packet)} bytes says header {header}, length {length}"
        )
    found.offset = header
    found.fragment_offset = (fragment & OFFSET4) * 8
    found.more_fragments = bool(fragment & MORE_FRAGMENTS)
    found.dont_fragment = bool(fragment & _DONT_FRAGMENT)


def _fill_ipv6(found: PacketView, packet: bytes) -> None:
    if len(packet) < IPV6_HEADER:
        raise ProtocolError(f"IPv6 packet of {len(packet)} bytes is shorter than its header")
    _, payload, protocol, found.ttl, found.source, found.destination = _IPV6.unpack_from(packet)
    if payload + IPV6_HEADER != len(packet):
        raise ProtocolError(f"IPv6 packet of {len(packet)} bytes says payload {payload}")
    found.fragment_offset = found.identification = 0
    found.more_fragments = False
    found.dont_fragment = True
    found.offset = IPV6_HEADER
    found.protocol = protocol
    if protocol not in PORT_PROTOCOLS and protocol != ICMPV6:
        found.protocol, found.offset, fragmented = _upper_layer(packet)
        if fragmented is not None:
            where, found.identification = fragmented
            found.fragment_offset = where & _OFFSET6
            found.more_fragments = bool(where & 1)


class _UpperLayer(NamedTuple):
    """Where the headers of an IPv6 packet end: at the upper layer, or in a later fragment.

    fragment: offset with the flag of more, and identification; None where there is no such header.
    """

    protocol: int
    offset: int
    fragment: tuple[int, int] | None


def _upper_layer(packet: bytes) -> _UpperLayer:
    """Walk the extension headers of an IPv6 packet (RFC 8200 section 4), which may be cut off.

    Raises ProtocolError: it ends within them, or there are too many.
    """
    protocol, offset, fragmented = packet[6], IPV6_HEADER, None
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if protocol not in _EXTENSION_HEADERS:
            return _UpperLayer(protocol, offset, fragmented)
        size = 8
        if offset + size > len(packet):
            raise ProtocolError(f"IPv6 extension header {protocol} is cut off")
        if protocol == _FRAGMENT_HEADER:
            following, where, identification = _FRAGMENT6.unpack_from(packet, offset)
            fragmented = where, identification
        else:
            following = packet[offset]
            # AH counts in 4-byte units less two (RFC 4302 2.2), all others in 8-byte units.
            units = packet[offset + 1]
            size = (units + 2) * 4 if protocol == _AUTHENTICATION_HEADER else (units + 1) * 8
        offset += size
        if offset > len(packet):
            raise ProtocolError(f"IPv6 extension header {protocol} is longer than the packet")
        protocol = following
        if fragmented is not None and fragmented[0] & _OFFSET6:
            return _UpperLayer(protocol, offset, fragmented)
    raise ProtocolError(f"more than {MAX_EXTENSION_HEADERS} IPv6 extension headers")


def _fill_transport(found: PacketView, packet: bytes) -> None:
    protocol, offset = found.protocol, found.offset
    if protocol in PORT_PROTOCOLS:
        size = TCP_HEADER if protocol == TCP else 4
        if offset + size > len(packet):
            raise ProtocolError(f"header of protocol {protocol} is cut off")
        found.source_port, found.destination_port = _PORTS.unpack_from(packet, offset)
        if protocol == TCP:
            found.tcp_flags = packet[offset + 13]
        return
    if protocol != (ICMP if found.version == 4 else ICMPV6):
        return
    if offset + 8 > len(packet):
        raise ProtocolError("ICMP header is cut off")
    kind = found.icmp_type = packet[offset]
    found.icmp_code = packet[offset + 1]
    if kind in (_ECHO4 if found.version == 4 else _ECHO6):
        found.echo = int.from_bytes(packet[offset + 4 : offset + 6], "big")
    elif found.is_icmp_error:
        found.related = _quoted(packet[offset + 8 :])


def _quoted(quote: bytes) -> FiveTuple | None:
    """Return the five-tuple of the packet that an ICMP error quotes, which may be cut off."""
    if len(quote) >= IPV4_HEADER and quote[0] >> 4 == 4:
        header = (quote[0] & 0x0F) * 4
        protocol, source, destination = quote[9], quote[12:16], quote[16:20]
        first = not int.from_bytes(quote[6:8], "big") & OFFSET4
        echo, kinds = ICMP, _ECHO4
    elif len(quote) >= IPV6_HEADER and quote[0] >> 4 == 6:
        try:
            protocol, header, fragmented = _upper_layer(quote)
        except ProtocolError:
            return None
        source, destination = quote[8:24], quote[24:40]
        first = fragmented is None or not fragmented[0] & _OFFSET6
        echo, kinds = ICMPV6, _ECHO6
    else:
        return None
    if first and protocol in PORT_PROTOCOLS and len(quote) >= header + 4:
        ports = _PORTS.unpack_from(quote, header)
        return FiveTuple(protocol, source, destination, ports[0], ports[1])
    if first and protocol == echo and len(quote) >= header + 6 and quote[header] in kinds:
        identifier = int.from_bytes(quote[header + 4 : header + 6], "big")
        return FiveTuple(protocol, source, destination, identifier, identifier)
    return FiveTuple(protocol, source, destination, None, None)


def is_confined(address: bytes) -> bool:
    """Tell whether a packed address must never cross a router, the overlay included.

    True for unspecified, loopback, link-local, multicast and IPv4's reserved block with the
    limited broadcast (RFC 6890, RFC 4291 section 2.5, RFC 3927). Multicast has no routing here.
    """
    if len(address) == 4:
        first = address[0]
        return first in (0, 127) or first >= 224 or (first == 169 and address[1] == 254)
    first = address[0]
    if first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80):
        return True
    # ::, ::1 and the IPv4-mapped block, which has no place on a wire (RFC 4942 section 2.2).
    return not any(address[:10]) and (
        address[10:12] == b"\xff\xff" or address[10:] in (bytes(6), b"\0\0\0\0\0\1")
    )


def checksum(*parts: bytes) -> int:
    """Return the Internet checksum (RFC 1071) over parts of even length, the last one any."""
    total = 0
    for part in parts:
        # The number modulo 0xFFFF is the one's complement sum of its 16-bit words.
        total += int.from_bytes(part + b"\0" * (len(part) & 1), "big")
    folded = total % 0xFFFF
    if folded == 0 and total:
        folded = 0xFFFF
    return ~folded & 0xFFFF

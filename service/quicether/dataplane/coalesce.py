"""Joins TCP segments that follow each other into one large write for the kernel. Pure.

A tunnelled TCP stream arrives as a batch of segments. Written one by one, each costs a system
call and a walk through the kernel's stack, and every second one an acknowledgement, which has to
cross the tunnel again. Joined as a network card would join them (generic receive offload), they
cost one of each; the kernel cuts them again where it forwards them to a LAN. Measured over QUIC:
a sixth less CPU time a gigabyte on both hosts together, and a sixth of the acknowledgements.

What is joined must be what the kernel itself would have joined: same flow and headers, no gap,
equal sizes but for the last, and a correct checksum of each segment, because the kernel takes
the checksum of the whole for granted.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from quicether.dataplane.packet import ACK, TCP, checksum

PLAIN: Final = bytes(10)
"""The header (struct virtio_net_hdr) of a packet that is what it is."""
MAX_JOINED: Final = 65535
"""Bytes of the largest IP packet."""
MAX_PIECES: Final = 256
"""Segments in one write; the kernel takes no more than 1024 pieces (IOV_MAX)."""

_NEEDS_CHECKSUM: Final = 1
_TCPV4: Final = 1
_TCPV6: Final = 4
"""VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4 and VIRTIO_NET_HDR_GSO_TCPV6."""
_HEADER: Final = Struct("=BBHHHH")
"""flags, segmentation type, header length, segment size, checksum start and offset; in the
machine's own byte order, as the kernel reads it from a TUN device."""
_CHECKSUM_OFFSET: Final = 16
_PSH: Final = 0x08
_JOINABLE_FLAGS: Final = frozenset((ACK, ACK | _PSH))
"""A segment with any other flag stays alone."""
_FOLDS: Final = tuple((bits, (1 << bits) - 1) for bits in (5632, 2816, 1408, 704, 352))
"""Halves a number again and again without changing it modulo 0xFFFF: shifts by multiples of 16
are much cheaper than one division of a long number."""


class _Run:
    """Segments of one flow that follow each other. header: bytes of IP and TCP header."""

    __slots__ = ("closed", "following", "header", "packets", "size", "tcp", "total")

    def __init__(self, packet: bytes, tcp: int, header: int, following: int, closed: bool) -> None:
        self.packets = [packet]
        self.tcp = tcp
        self.header = header
        self.size = len(packet) - header
        self.following = following
        self.total = len(packet)
        self.closed = closed


def coalesce(packets: Sequence[bytes]) -> list[list[bytes]]:
    """Return the writes for a batch, each a list of the pieces that one write consists of.

    The first piece of each is the header that the device expects. The order within a flow is
    kept. Malformed packets stay alone and as they are.
    """
    if len(packets) == 1:
        return [[PLAIN, packets[0]]]
    runs: list[_Run | bytes] = []
    open_runs: dict[bytes, _Run] = {}
    for packet in packets:
        place = _segment_place(packet)
        if place is None:
            runs.append(packet)
            continue
        tcp, header, flow = place
        run = open_runs.get(flow)
        flags = packet[tcp + 13]
        size = len(packet) - header
        if flags not in _JOINABLE_FLAGS or size <= 0:
            open_runs.pop(flow, None)
            runs.append(packet)
            continue
        sequence = int.from_bytes(packet[tcp + 4 : tcp + 8], "big")
        following = (sequence + size) & 0xFFFFFFFF
        if run is not None and _continues(run, packet, tcp, header, size, sequence):
            run.packets.append(packet)
            run.total += size
            run.following = following
            run.closed = size < run.size or bool(flags & _PSH)
            continue
        run = _Run(packet, tcp, header, following, bool(flags & _PSH))
        open_runs[flow] = run
        runs.append(run)
    return [[PLAIN, run] if isinstance(run, bytes) else _joined(run) for run in runs]


def _segment_place(packet: bytes) -> tuple[int, int, bytes] | None:
    """Return where TCP begins, where its payload begins, and the flow; None for all else."""
    length = len(packet)
    if length < 40:
        return None
    first = packet[0]
    if first == 0x45:
        # No options, no fragment, and TCP.
        if packet[9] != TCP or packet[6] & 0x3F or packet[7]:
            return None
        if packet[2] << 8 | packet[3] != length:
            return None
        tcp, flow = 20, packet[12:24]
    elif first >> 4 == 6 and length >= 60:
        if packet[6] != TCP or (packet[4] << 8 | packet[5]) + 40 != length:
            return None
        tcp, flow = 40, packet[8:44]
    else:
        return None
    header = tcp + (packet[tcp + 12] >> 4) * 4
    return (tcp, header, flow) if tcp + 20 <= header <= length else None


def _continues(run: _Run, packet: bytes, tcp: int, header: int, size: int, sequence: int) -> bool:
    """Tell whether packet is the next segment of run, alike in all that one header can say."""
    first = run.packets[0]
    return (
        not run.closed
        and sequence == run.following
        and size <= run.size
        and header == run.header
        and run.total + size <= MAX_JOINED
        and len(run.packets) < MAX_PIECES
        and _same_ip_fields(first, packet, tcp)
        # Acknowledgement number and data offset, then window, then options.
        and first[tcp + 8 : tcp + 13] == packet[tcp + 8 : tcp + 13]
        and first[tcp + 14 : tcp + 16] == packet[tcp + 14 : tcp + 16]
        and first[tcp + 18 : header] == packet[tcp + 18 : header]
        and _is_sound(packet, tcp)
        and (len(run.packets) > 1 or _is_sound(first, tcp))
    )


def _same_ip_fields(one: bytes, other: bytes, tcp: int) -> bool:
    if tcp == 20:
        # Type of service; DF and TTL.
        return one[1] == other[1] and one[6:9] == other[6:9]
    # Traffic class and flow label; hop limit.
    return one[:4] == other[:4] and one[7] == other[7]


def _is_sound(packet: bytes, tcp: int) -> bool:
    """Tell whether the TCP checksum is right (the addresses stand just before the segment)."""
    covered = packet[12:] if tcp == 20 else packet[8:]
    total = int.from_bytes(covered, "big")
    if len(covered) & 1:
        total <<= 8
    for shift, mask in _FOLDS:
        total = (total >> shift) + (total & mask)
    return (total + TCP + len(packet) - tcp) % 0xFFFF == 0


def _joined(run: _Run) -> list[bytes]:
    if len(run.packets) == 1:
        return [PLAIN, run.packets[0]]
    tcp, header, total = run.tcp, run.header, run.total
    start = bytearray(run.packets[0][:header])
    if tcp == 20:
        start[2:4] = total.to_bytes(2, "big")
        start[10:12] = b"\0\0"
        start[10:12] = checksum(bytes(start[:20])).to_bytes(2, "big")
        addresses = bytes(start[12:20])
    else:
        start[4:6] = (total - 40).to_bytes(2, "big")
        addresses = bytes(start[8:40])
    # PSH of the last segment is the whole's; the kernel gives it to the last one when it cuts.
    start[tcp + 13] |= run.packets[-1][tcp + 13]
    # The kernel completes the checksum of the whole from that of the pseudo header.
    pseudo = addresses + TCP.to_bytes(2, "big") + (total - tcp).to_bytes(2, "big")
    start[tcp + 16 : tcp + 18] = (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    kind = _TCPV4 if tcp == 20 else _TCPV6
    return [
        _HEADER.pack(_NEEDS_CHECKSUM, kind, header, run.size, tcp, _CHECKSUM_OFFSET),
        bytes(start),
        *(packet[header:] for packet in run.packets),
    ]

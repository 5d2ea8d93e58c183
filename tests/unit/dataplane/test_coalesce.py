"""Joined TCP segments: what the kernel cuts out of them is what came."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from ipaddress import ip_address
from struct import pack, unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.dataplane.coalesce import MAX_JOINED, MAX_PIECES, PLAIN, coalesce
from support.packets import internet_checksum, ip, udp

ENDS = {4: ("100.64.0.2", "100.64.0.1"), 6: ("fd00::2", "fd00::1")}
TIMESTAMP = b"\x01\x01\x08\x0a\0\0\0\x07\0\0\0\x09"


@dataclass(frozen=True)
class Segment:
    """A TCP segment and the packet around it."""

    sequence: int
    data: bytes
    version: int = 4
    port: int = 5000
    ack: int = 77
    flags: int = 0x10
    window: int = 512
    options: bytes = TIMESTAMP
    ttl: int = 60
    tos: int = 0
    damaged: bool = False

    @property
    def packet(self) -> bytes:
        source, destination = ENDS[self.version]
        header = pack(
            "!HHIIBBHHH",
            self.port,
            443,
            self.sequence % 2**32,
            self.ack,
            (20 + len(self.options)) // 4 << 4,
            self.flags,
            self.window,
            0,
            0,
        )
        tcp = header + self.options + self.data
        pseudo = ip_address(source).packed + ip_address(destination).packed
        total = internet_checksum(pseudo + pack("!II", len(tcp), 6) + tcp) ^ self.damaged
        tcp = tcp[:16] + pack("!H", total) + tcp[18:]
        fields = (
            {"ttl": self.ttl, "tos": self.tos}
            if self.version == 4
            else {"hop_limit": self.ttl, "traffic_class": self.tos}
        )
        return ip(source, destination, tcp, protocol=6, **fields)


def stream(*sizes: int, **fields: int) -> list[Segment]:
    """Segments of these sizes that follow each other."""
    made, position = [], 2**32 - 1000
    for number, size in enumerate(sizes):
        made.append(Segment(position, bytes([number % 256]) * size, **fields))  # type: ignore[arg-type]
        position += size
    return made


def cut(write: list[bytes]) -> list[bytes]:
    """What the kernel makes of a write: the segments that it stands for, checksums included."""
    flags, kind, header, size, start, offset = unpack("=BBHHHH", write[0])
    whole = b"".join(write[1:])
    if kind == 0:
        assert flags == 0
        return [whole]
    assert flags == 1, "a checksum to complete"
    version = whole[0] >> 4
    assert kind == {4: 1, 6: 4}[version]
    assert start == {4: 20, 6: 40}[version]
    assert offset == 16
    assert header == start + (whole[start + 12] >> 4) * 4
    addresses = whole[12:20] if version == 4 else whole[8:40]
    length = len(whole) - start
    partial = internet_checksum(addresses + pack("!II", length, 6)) ^ 0xFFFF
    assert whole[start + 16 : start + 18] == pack("!H", partial)
    if version == 4:
        assert internet_checksum(whole[:20]) == 0
        assert whole[2:4] == pack("!H", len(whole))
    else:
        assert whole[4:6] == pack("!H", length)
    payload = whole[header:]
    assert len(payload) > size, "otherwise it should have stayed alone"
    found = []
    (sequence,) = unpack("!I", whole[start + 4 : start + 8])
    for position in range(0, len(payload), size):
        data = payload[position : position + size]
        tcp_flags = whole[start + 13]
        if position + size < len(payload):
            tcp_flags &= ~0x08
        found.append(
            Segment(
                sequence + position,
                data,
                version,
                unpack("!H", whole[start : start + 2])[0],
                unpack("!I", whole[start + 8 : start + 12])[0],
                tcp_flags,
                unpack("!H", whole[start + 14 : start + 16])[0],
                whole[start + 20 : header],
                whole[8] if version == 4 else whole[7],
                whole[1] if version == 4 else unpack("!H", whole[:2])[0] >> 4 & 0xFF,
            ).packet
        )
    return found


def joined(segments: list[Segment]) -> list[int]:
    """Coalesce, check that nothing is lost, and return how many segments each write has."""
    packets = [segment.packet for segment in segments]
    writes = coalesce(packets)
    assert [packet for write in writes for packet in cut(write)] == packets
    return [max(1, len(write) - 2) for write in writes]


@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_becomes_one_write(version: int) -> None:
    """Across the wrap of the sequence number, the last one shorter, as at an end of data."""
    assert joined(stream(600, 600, 600, 200, version=version)) == [4]


def test_one_packet_is_written_as_it_is() -> None:
    (segment,) = stream(100)
    assert coalesce([segment.packet]) == [[PLAIN, segment.packet]]
    assert coalesce([]) == []


def test_a_shorter_segment_ends_a_run() -> None:
    assert joined(stream(600, 200, 200, 600)) == [2, 1, 1]


def test_push_ends_a_run_and_is_kept() -> None:
    one, two, three, four = stream(600, 600, 600, 600)
    pushed = Segment(two.sequence, two.data, flags=0x18)
    assert joined([one, pushed, three, four]) == [2, 2]


@pytest.mark.parametrize(
    "odd",
    [
        {"ack": 78},
        {"window": 511},
        {"options": TIMESTAMP[:-1] + b"\x0a"},
        {"options": b""},
        {"ttl": 59},
        {"tos": 3},
        {"flags": 0x11},
        {"flags": 0x50},
        {"damaged": True},
        {"port": 5001},
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_what_differs_stays_apart(odd: dict[str, int], version: int) -> None:
    one, two = stream(600, 600, version=version)
    fields = {"version": version, **odd}
    other = Segment(two.sequence, two.data, **fields)  # type: ignore[arg-type]
    writes = coalesce([one.packet, other.packet])
    assert writes == [[PLAIN, one.packet], [PLAIN, other.packet]]


def test_a_damaged_first_segment_takes_no_other_with_it() -> None:
    one, two = stream(600, 600)
    damaged = Segment(one.sequence, one.data, damaged=True)
    writes = coalesce([damaged.packet, two.packet])
    assert writes == [[PLAIN, damaged.packet], [PLAIN, two.packet]]


def test_a_gap_is_not_bridged() -> None:
    one, two, three = stream(600, 600, 600)
    assert joined([one, three, two]) == [1, 1, 1]


def test_acknowledgements_stay_alone() -> None:
    assert joined([Segment(5, b""), Segment(5, b"", ack=78)]) == [1, 1]


def test_flows_do_not_hinder_each_other() -> None:
    left, right = stream(600, 600, 600), stream(500, 500, 500, port=6000)
    packets = [s.packet for pair in zip(left, right, strict=True) for s in pair]
    writes = coalesce([*packets, ip("100.64.0.2", "100.64.0.1", udp(1, 2))])
    assert [len(write) - 2 for write in writes] == [3, 3, 0]
    assert cut(writes[0]) == [s.packet for s in left]


def test_no_packet_grows_beyond_what_ip_can_say() -> None:
    segments = stream(*[1300] * 60)
    assert joined(segments) == [50, 10]
    assert all(sum(map(len, w)) - 10 <= MAX_JOINED for w in coalesce([s.packet for s in segments]))


def test_no_write_has_more_pieces_than_the_kernel_takes() -> None:
    assert max(joined(stream(*[1] * (MAX_PIECES + 10)))) == MAX_PIECES


def test_fragments_and_options_are_left_alone() -> None:
    one, two = stream(600, 600)
    for odd in (one.packet[:6] + b"\x20\0" + one.packet[8:], b"\x46" + one.packet[1:]):
        assert coalesce([odd, two.packet])[0] == [PLAIN, odd]


segments = st.builds(
    lambda version, port, sizes, start: [
        Segment(start + sum(sizes[:i]), bytes([i % 256]) * size, version, port)
        for i, size in enumerate(sizes)
    ],
    st.sampled_from([4, 6]),
    st.integers(1, 3),
    st.lists(st.sampled_from([0, 1, 50, 50, 50, 51]), max_size=8),
    st.integers(0, 2**32 - 1),
)


@given(st.lists(segments, max_size=4), st.randoms(use_true_random=False))
def test_every_flow_comes_out_as_it_went_in(flows: list[list[Segment]], random: object) -> None:
    queues = [list(flow) for flow in flows if flow]
    packets: list[bytes] = []
    while queues:
        queue = random.choice(queues)  # type: ignore[attr-defined]
        packets.append(queue.pop(0).packet)
        queues = [queue for queue in queues if queue]
    came: dict[bytes, list[bytes]] = defaultdict(list)
    went: dict[bytes, list[bytes]] = defaultdict(list)

    def flow_of(packet: bytes) -> bytes:
        return packet[12:24] if packet[0] >> 4 == 4 else packet[8:44]

    for packet in packets:
        went[flow_of(packet)].append(packet)
    for write in coalesce(packets):
        for packet in cut(write):
            came[flow_of(packet)].append(packet)
    assert came == went


@given(st.lists(st.binary(max_size=90), min_size=2, max_size=6))
def test_rubbish_is_passed_on_as_it_is(packets: list[bytes]) -> None:
    assert coalesce(packets) == [[PLAIN, packet] for packet in packets]

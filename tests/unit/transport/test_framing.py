"""QUIC payloads of DATAGRAM frames: what goes in comes out, and nothing is too large."""

from __future__ import annotations

from itertools import pairwise

from aioquic._buffer import Buffer
from hypothesis import given
from hypothesis import strategies as st

from quicether.transport.framing import (
    DATAGRAM,
    DATAGRAM_WITH_LENGTH,
    frame,
    unframe,
)

ROOM = 1444
packet_sizes = st.integers(1, ROOM - 1)


def read_slowly(payload: bytes) -> list[bytes]:
    """Return the packets of a payload as RFC 9221 says, by aioquic's buffer."""
    buffer = Buffer(data=payload)
    packets = []
    while not buffer.eof():
        if buffer.pull_uint_var() == DATAGRAM_WITH_LENGTH:
            packets.append(buffer.pull_bytes(buffer.pull_uint_var()))
        else:
            packets.append(buffer.pull_bytes(buffer.capacity - buffer.tell()))
    return packets


@given(st.lists(packet_sizes, max_size=60))
def test_packets_come_out_as_they_went_in(sizes: list[int]) -> None:
    packets = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    payloads = frame(packets, ROOM)
    assert all(len(payload) <= ROOM for payload in payloads)
    found = [packet for payload in payloads for packet in unframe(payload) or []]
    assert found == packets
    assert [packet for payload in payloads for packet in read_slowly(payload)] == packets


@given(st.lists(st.integers(1, 200), min_size=2, max_size=60))
def test_small_packets_share_a_payload(sizes: list[int]) -> None:
    payloads = frame([bytes(size) for size in sizes], ROOM)
    for first, second in pairwise(payloads):
        packets = unframe(second) or []
        assert len(first) + 3 + len(packets[0]) > ROOM


@given(st.binary(max_size=100))
def test_rubbish_is_left_to_the_engine(payload: bytes) -> None:
    packets = unframe(payload)
    if packets is not None:
        assert payload[0] in (DATAGRAM, DATAGRAM_WITH_LENGTH)
        assert packets == read_slowly(payload)

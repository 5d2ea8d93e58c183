"""The queue of packets against a plain list, and its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicether.transport.packet_queue import PacketQueue

batches = st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12)


@given(batches, st.integers(1, 20), st.integers(40, 200), st.integers(1, 12))
def test_the_newest_within_the_bounds_are_kept_in_order(
    sizes: list[list[int]], max_packets: int, max_bytes: int, taken_at_once: int
) -> None:
    queue = PacketQueue(max_packets, max_bytes)
    model: list[bytes] = []
    for number, batch in enumerate(sizes):
        packets = [bytes([number]) * size for size in batch]
        model += packets
        gone = 0
        while len(model) > max_packets or sum(map(len, model)) > max_bytes:
            del model[0]
            gone += 1
        assert queue.extend(packets) == gone
        assert (len(queue), queue.size) == (len(model), sum(map(len, model)))
        if number % 3 == 0:
            assert queue.take(taken_at_once) == model[:taken_at_once]
            del model[:taken_at_once]
            assert queue.size == sum(map(len, model))
    assert queue.clear() == len(model)
    assert (len(queue), queue.size) == (0, 0)

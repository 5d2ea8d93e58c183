"""The queue of packets that wait: bounds, order and expiry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicether.dataplane.held import Held


def test_packets_come_out_in_order_and_only_once() -> None:
    held = Held()
    for number in range(3):
        assert held.put(b"AAAA", bytes([number]), now=0) == 0
    held.put(b"BBBB", b"b", now=0)
    assert b"AAAA" in held
    assert held.take(lambda destination: destination == b"AAAA") == [b"\0", b"\1", b"\2"]
    assert b"AAAA" not in held
    assert len(held) == 1
    assert held.take(lambda destination: destination == b"AAAA") == []


def test_the_oldest_of_a_destination_goes_first() -> None:
    held = Held(per_destination=2)
    assert [held.put(b"AAAA", bytes([n]), now=n) for n in range(4)] == [0, 0, 1, 1]
    assert held.take(lambda _: True) == [b"\2", b"\3"]


def test_the_oldest_of_all_goes_when_the_whole_is_full() -> None:
    held = Held(per_destination=2, total=3)
    for number in range(5):
        held.put(bytes([number]), bytes([number]), now=number)
    assert len(held) == 3
    assert b"\0" not in held
    assert held.take(lambda _: True) == [b"\2", b"\3", b"\4"]


def test_expiry_is_by_age() -> None:
    held = Held(lifetime=3.0)
    held.put(b"AAAA", b"old", now=10)
    held.put(b"BBBB", b"new", now=12)
    assert held.expire(12.9) == []
    assert held.expire(13.0) == [b"old"]
    assert b"AAAA" not in held
    assert held.expire(100) == [b"new"]
    assert len(held) == 0


@given(st.lists(st.tuples(st.sampled_from(b"abcdef"), st.integers(0, 2)), max_size=200))
def test_bounds_hold_and_nothing_is_lost_uncounted(steps: list[tuple[int, int]]) -> None:
    held = Held(per_destination=3, total=8, lifetime=5.0)
    put = pushed_out = left = 0
    for now, (destination, step) in enumerate(steps):
        if step == 0:
            pushed_out += held.put(bytes([destination]), b"p", float(now))
            put += 1
        elif step == 1:
            left += len(held.take(lambda d, chosen=destination: d == bytes([chosen])))  # type: ignore[misc]
        else:
            left += len(held.expire(float(now)))
        assert len(held) <= 8
        assert put == pushed_out + left + len(held)

"""Token buckets: a burst, then the rate, and bounded in number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicether.token_bucket import TokenBucket, TokenBuckets


def test_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(100.05)
    assert bucket.take(100.15)
    assert not bucket.take(100.15)
    assert [bucket.take(1000.0) for _ in range(6)] == [True] * 5 + [False]


@given(st.lists(st.floats(0, 10), max_size=300).map(sorted))
def test_bucket_never_lets_more_through_than_its_rate(times: list[float]) -> None:
    bucket = TokenBucket(rate=7, burst=3)
    passed = sum(bucket.take(now) for now in times)
    span = times[-1] - times[0] if times else 0
    assert passed <= 3 + 7 * span + 1e-6


def test_bucket_ignores_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(rate=1000, burst=1)
    assert bucket.take(5.0)
    assert not bucket.take(1.0)
    assert not bucket.take(5.0)


@given(st.lists(st.floats(0, 10), max_size=300))
def test_each_key_has_what_a_bucket_of_its_own_would_let_through(times: list[float]) -> None:
    buckets = TokenBuckets(rate=7, burst=3, most=2)
    alone = TokenBucket(rate=7, burst=3)
    for now in times:
        assert buckets.take("a", now) == alone.take(now)
        buckets.take("b", now)


def test_a_key_is_a_burst_and_then_one_at_a_time() -> None:
    buckets = TokenBuckets(rate=0.1, burst=3, most=10)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b", 0.0)
    assert not buckets.take("a", 9.9)
    assert buckets.take("a", 10.0)
    assert not buckets.take("a", 10.1)
    assert [buckets.take("a", 1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_costs_more_takes_more_or_nothing() -> None:
    buckets = TokenBuckets(rate=1, burst=5, most=10)
    assert buckets.take("a", 0.0, 4)
    assert not buckets.take("a", 0.0, 2)
    assert buckets.take("a", 0.0, 1)


def test_few_buckets_are_kept_and_the_one_unused_for_longest_goes() -> None:
    buckets = TokenBuckets(rate=1e-9, burst=1, most=10)
    for key in range(10):
        assert buckets.take(key, 0.0)
    assert not buckets.take(0, 1.0)
    assert buckets.take("one more", 1.0)
    assert len(buckets) == 10
    assert not buckets.take(0, 1.0), "it was used lately"
    assert buckets.take(1, 1.0), "it was forgotten"

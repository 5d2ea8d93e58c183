"""The routing table: who enters a bucket, who is evicted, who is closest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicether.dht.buckets import MAX_FAILURES, REPLACEMENTS, K, RoutingTable
from support.dht_samples import KEYS, contact

ME = 0
TOP = 1 << 159


def full_bucket() -> RoutingTable:
    table = RoutingTable(ME)
    for number in range(K):
        assert table.seen(contact(TOP + number), float(number)) == (True, None)
    return table


def test_a_full_bucket_keeps_its_old_contacts_and_has_the_oldest_pinged() -> None:
    table = full_bucket()
    is_new, to_ping = table.seen(contact(TOP + 100), 100.0)
    assert not is_new
    assert to_ping is not None
    assert to_ping.contact.key == TOP
    assert len(table) == K
    assert table.get(TOP + 100) is None


def test_who_answers_becomes_the_most_recently_seen() -> None:
    table = full_bucket()
    table.seen(contact(TOP), 50.0)
    _, to_ping = table.seen(contact(TOP + 100), 100.0)
    assert to_ping is not None
    assert to_ping.contact.key == TOP + 1


def test_five_failed_pings_evict_and_the_newest_replacement_moves_in() -> None:
    table = full_bucket()
    table.seen(contact(TOP + 100), 100.0)
    table.seen(contact(TOP + 101), 101.0)
    for number in range(MAX_FAILURES - 1):
        assert table.failed(TOP, 102.0 + number, 102.5 + number) is None
    evicted = table.failed(TOP, 110.0, 113.0)
    assert evicted is not None
    assert evicted.key == TOP
    assert table.get(TOP) is None
    assert table.get(TOP + 101) is not None
    assert len(table) == K


def test_an_answer_in_between_starts_the_count_anew() -> None:
    table = full_bucket()
    for number in range(MAX_FAILURES - 1):
        table.failed(TOP, number, number + 0.5)
    table.seen(contact(TOP), 20.0)
    for number in range(MAX_FAILURES - 1):
        assert table.failed(TOP, 30.0 + number, 30.5 + number) is None
    assert table.get(TOP) is not None


def test_questions_that_failed_together_count_as_one() -> None:
    """A node that was asked five things while it started was evicted within a blink."""
    table = full_bucket()
    for _ in range(2 * MAX_FAILURES):
        assert table.failed(TOP, 1.0, 1.1) is None
    entry = table.get(TOP)
    assert entry is not None
    assert entry.failures == 1


def test_a_contact_that_failed_once_is_not_told_to_others() -> None:
    table = full_bucket()
    table.failed(TOP, 0.0, 1.0)
    assert TOP not in [c.key for c in table.closest(TOP)]
    table.seen(contact(TOP), 2.0)
    assert table.closest(TOP)[0].key == TOP


def test_the_replacement_cache_is_bounded() -> None:
    table = full_bucket()
    for number in range(1000):
        table.seen(contact(TOP + 100 + number), 100.0)
    replacements = table.buckets[159].replacements
    assert replacements is not None
    assert len(replacements) == REPLACEMENTS
    assert len(table) == K


def test_endpoints_of_a_contact_that_moves_are_merged() -> None:
    table = RoutingTable(ME)
    table.seen(contact(5, 1), 0.0)
    table.seen(contact(5, 2), 1.0)
    entry = table.get(5)
    assert entry is not None
    assert [endpoint.port for endpoint in entry.contact.endpoints] == [2, 1]


def test_a_node_does_not_enter_its_own_table() -> None:
    table = RoutingTable(7)
    assert table.seen(contact(7), 0.0) == (False, None)
    assert len(table) == 0


def test_a_forgotten_node_is_in_no_bucket_and_no_cache() -> None:
    table = full_bucket()
    table.seen(contact(TOP + 100), 100.0)
    table.forget(TOP)
    table.forget(TOP + 100)
    assert table.get(TOP) is None
    assert TOP not in [c.key for c in table.closest(TOP)]


@given(
    st.integers(0, 2**12 - 1),
    st.lists(st.integers(0, 2**12 - 1), max_size=150),
    st.integers(0, 2**12 - 1),
    st.integers(0, 25),
)
def test_closest_agrees_with_sorting_by_distance(
    me: int, others: list[int], target: int, count: int
) -> None:
    table = RoutingTable(me)
    for key in others:
        table.seen(contact(key), 0.0)
    members = sorted((entry.contact.key for entry in table), key=lambda key: key ^ target)
    assert [c.key for c in table.closest(target, count)] == members[:count]


@given(KEYS, st.lists(KEYS, max_size=60), KEYS)
def test_closer_than_us_agrees_with_the_distance(me: int, others: list[int], target: int) -> None:
    table = RoutingTable(me)
    for key in others:
        table.seen(contact(key), 0.0)
    expected = {e.contact.key for e in table if e.contact.key ^ target < me ^ target}
    found = [c.key for c in table.closer_than_us(target, 5)]
    assert set(found) <= expected
    assert len(found) == min(5, len(expected))

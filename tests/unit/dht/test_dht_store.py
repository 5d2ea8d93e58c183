"""What a node keeps for others: freshest wins, bounds, tombstones, revisions."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network, ip_network

import pytest

from quicether.dht.contents import MAX_CONTENTS, MAX_KEYS
from quicether.dht.store import Outcome, StoreLimits, ValueStore
from support.dht_samples import record
from support.fake_records import CERTIFICATE_BYTES

NOW = 1_700_000_000.0
LAN = IPv4Network("10.1.0.0/24")
KEY = 1


def lan(number: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + 256 * number, 24))


def test_the_freshest_record_of_an_owner_wins_in_whatever_order_they_come() -> None:
    old, new = record(1, LAN, NOW), record(1, LAN, NOW + 10)
    for order in ([old, new], [new, old]):
        store = ValueStore()
        for each in order:
            store.offer(KEY, each)
        assert store.records(KEY, NOW + 20) == [new]


def test_outcomes_say_whether_watchers_need_to_know() -> None:
    store = ValueStore()
    assert store.offer(KEY, record(1, LAN, NOW)) is Outcome.NEW
    assert store.offer(KEY, record(1, LAN, NOW)) is Outcome.SAME
    assert store.offer(KEY, record(1, LAN, NOW + 1)) is Outcome.RENEWED
    assert store.offer(KEY, record(1, LAN, NOW)) is Outcome.STALE
    assert store.offer(KEY, record(1, LAN, NOW + 2, ttl=0)) is Outcome.NEW


def test_several_owners_of_one_prefix_are_all_kept() -> None:
    store = ValueStore()
    both = [record(1, LAN, NOW), record(2, LAN, NOW)]
    for each in both:
        store.offer(KEY, each)
    assert store.records(KEY, NOW) == both


def test_a_withdrawn_record_does_not_come_back() -> None:
    store = ValueStore()
    old = record(1, LAN, NOW)
    store.offer(KEY, record(1, LAN, NOW + 5, ttl=0))
    assert store.offer(KEY, old) is Outcome.STALE
    store.expire(NOW + 3600)
    assert store.offer(KEY, old) is Outcome.STALE
    store.expire(NOW + 5 + 3600 + 600)
    assert len(store) == 0


def test_expired_records_are_neither_given_nor_kept() -> None:
    store = ValueStore()
    short = record(1, LAN, NOW, ttl=60)
    store.offer(KEY, short)
    store.offer(KEY, record(2, LAN, NOW))
    assert store.expire(NOW + 59) == []
    assert [r.owner.value[-1] for r in store.records(KEY, NOW + 61)] == [2]
    assert store.expire(NOW + 61) == [short]
    assert len(store) == 1


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        (StoreLimits(per_owner=3), 3),
        (StoreLimits(per_key=4), 4),
        (StoreLimits(total=5), 5),
        (StoreLimits(bytes=7 * (CERTIFICATE_BYTES + 200)), 7),
    ],
)
def test_every_cap_holds(limits: StoreLimits, fits: int) -> None:
    store = ValueStore(limits)
    outcomes = [store.offer(KEY, record(1, lan(number), NOW)) for number in range(20)]
    assert outcomes.count(Outcome.NEW) == pytest.approx(fits, abs=1 if limits.bytes < 2**20 else 0)
    assert outcomes[-1] is Outcome.FULL
    assert len(store) == outcomes.count(Outcome.NEW)


def test_a_full_store_still_renews_and_withdraws() -> None:
    store = ValueStore(StoreLimits(total=1))
    store.offer(KEY, record(1, LAN, NOW))
    assert store.offer(KEY, record(1, LAN, NOW + 1)) is Outcome.RENEWED
    assert store.offer(KEY, record(1, LAN, NOW + 2, ttl=0)) is Outcome.NEW


def test_room_comes_back_when_records_end() -> None:
    store = ValueStore(StoreLimits(per_owner=1))
    store.offer(KEY, record(1, LAN, NOW, ttl=60))
    assert store.offer(KEY, record(1, lan(9), NOW)) is Outcome.FULL
    store.expire(NOW + 61)
    assert store.offer(KEY, record(1, lan(9), NOW)) is Outcome.NEW


def test_changes_since_a_revision_are_told_once() -> None:
    store = ValueStore()
    store.offer(KEY, record(1, LAN, NOW))
    store.offer(KEY, record(2, LAN, NOW))
    read = store.revision
    assert len(store.changes(KEY, 0, NOW, quiet=False)) == 2
    assert store.changes(KEY, read, NOW, quiet=False) == []
    store.offer(KEY, record(1, LAN, NOW + 1))
    assert len(store.changes(KEY, read, NOW, quiet=False)) == 1
    assert store.changes(KEY, read, NOW, quiet=True) == []
    store.offer(KEY, record(2, LAN, NOW + 1, ttl=0))
    assert [v.record.withdraws for v in store.changes(KEY, read, NOW, quiet=True)] == [True]


def test_a_distrusted_owner_is_forgotten() -> None:
    store = ValueStore()
    mine, theirs = record(1, LAN, NOW), record(2, LAN, NOW)
    store.offer(KEY, mine)
    store.offer(KEY, theirs)
    assert store.forget_owner(theirs.owner) == [theirs]
    assert store.records(KEY, NOW) == [mine]
    assert store.certificate(theirs.owner) is None
    assert store.certificate(mine.owner) == mine.owner.value * (CERTIFICATE_BYTES // 20)


def test_two_owners_cannot_close_a_key_for_all_others() -> None:
    store = ValueStore(StoreLimits(per_key=20))
    for number in range(10):
        store.offer(KEY, record(1, lan(number), NOW))
        store.offer(KEY, record(2, lan(number), NOW))
    outcomes = [store.offer(KEY, record(3, lan(number), NOW)) for number in range(10)]
    shares = Counter(each.owner.value[-1] for each in store.records(KEY, NOW))
    assert shares == {1: 7, 2: 7, 3: 6}
    assert outcomes == [Outcome.NEW] * 6 + [Outcome.FULL] * 4
    assert store.offer(KEY, record(1, lan(50), NOW)) is Outcome.FULL
    assert len(store) == 20
    assert store.evicted == 6


def test_all_that_one_node_may_publish_is_kept_and_can_be_replaced() -> None:
    limits = StoreLimits()
    assert limits.per_owner >= 2 * MAX_CONTENTS * MAX_KEYS
    assert limits.per_key >= 2 * MAX_CONTENTS
    prefixes = [ip_network("10.1.0.0/24"), ip_network("11.0.0.0/8"), ip_network("2001:db8::/48")]
    keys = [record(1, prefix, NOW).keys for prefix in prefixes]
    assert max(map(len, keys)) == MAX_KEYS

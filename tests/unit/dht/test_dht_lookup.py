"""One lookup: order, parallelism, slow and lying contacts, values."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from random import Random

import pytest

from quicether.dht.lookup import ALPHA, MAX_ASKED, MAX_BLAME, OWN, Lookup
from support.dht_samples import contact, record

ME = 1 << 159
LAN = IPv4Network("10.1.0.0/24")
NOW = 1_700_000_000.0


def test_three_are_asked_at_once_closest_first() -> None:
    lookup = Lookup(0, ME, [contact(key) for key in (9, 3, 7, 5, 1)], width=20)
    assert [c.key for c in lookup.next_questions(0.0)] == [1, 3, 5]
    assert lookup.next_questions(0.0) == []
    lookup.answered(contact(3), [])
    assert [c.key for c in lookup.next_questions(0.0)] == [7]


def test_a_slow_one_is_not_waited_for() -> None:
    lookup = Lookup(0, ME, [contact(key) for key in range(1, 8)], width=3)
    lookup.next_questions(0.0)
    assert lookup.oldest_waiting == 0.0
    lookup.mark_slow(0.0)
    assert [c.key for c in lookup.next_questions(0.6)] == [4, 5, 6]
    for key in (4, 5, 6):
        lookup.answered(contact(key), [])
    assert lookup.done
    assert [c.key for c in lookup.closest(20)] == [4, 5, 6]


def test_a_late_answer_still_counts() -> None:
    lookup = Lookup(0, ME, [contact(key) for key in range(1, 8)], width=5)
    lookup.next_questions(0.0)
    lookup.mark_slow(0.0)
    lookup.next_questions(0.6)
    lookup.answered(contact(1), [contact(8)])
    assert lookup.closest(1)[0].key == 1


def test_with_nobody_else_left_the_slow_ones_are_waited_for() -> None:
    lookup = Lookup(0, ME, [contact(1)], width=20)
    lookup.next_questions(0.0)
    lookup.mark_slow(0.0)
    assert not lookup.done
    lookup.failed(contact(1))
    assert lookup.done


def test_it_ends_when_the_closest_of_its_width_answered() -> None:
    lookup = Lookup(0, ME, [contact(key) for key in (10, 20, 30)], width=2)
    lookup.next_questions(0.0)
    lookup.answered(contact(10), [contact(1)])
    lookup.answered(contact(20), [])
    lookup.answered(contact(30), [])
    assert not lookup.done
    assert [c.key for c in lookup.next_questions(0.0)] == [1]
    lookup.answered(contact(1), [])
    assert lookup.done
    assert [c.key for c in lookup.closest(2)] == [1, 10]


def test_nobody_known_is_the_end() -> None:
    assert Lookup(0, ME, [], width=20).done


def test_it_does_not_ask_ourselves() -> None:
    lookup = Lookup(0, ME, [contact(ME)], width=20)
    assert lookup.next_questions(0.0) == []


def test_the_freshest_value_of_several_nodes_wins() -> None:
    lookup = Lookup(0, ME, [contact(key) for key in (1, 2, 3)], width=20, quorum=3)
    lookup.next_questions(0.0)
    stale, fresh, other = record(7, LAN, NOW), record(7, LAN, NOW + 9), record(8, LAN, NOW)
    lookup.answered(contact(1), [])
    lookup.gave(contact(1), [fresh])
    assert not lookup.done
    lookup.answered(contact(2), [])
    lookup.gave(contact(2), [stale, other])
    lookup.answered(contact(3), [])
    lookup.gave(contact(3), [stale])
    assert lookup.done
    assert set(lookup.records.values()) == {fresh, other}
    assert lookup.hops == 1


def test_hops_count_the_way_to_the_first_value() -> None:
    lookup = Lookup(0, ME, [contact(900)], width=20, quorum=1)
    lookup.next_questions(0.0)
    lookup.answered(contact(900), [contact(90)])
    lookup.next_questions(0.0)
    lookup.answered(contact(90), [contact(9)])
    lookup.next_questions(0.0)
    lookup.gave(contact(9), [record(7, LAN, NOW)])
    assert lookup.hops == 3


def test_invented_contacts_of_a_liar_are_passed_over_after_three() -> None:
    liar, honest = contact(1 << 100), contact(1 << 101)
    lookup = Lookup(0, ME, [liar, honest], width=20)
    lookup.next_questions(0.0)
    invented = [contact(key) for key in range(1, 21)]
    real = [contact((1 << 50) + key) for key in range(5)]
    lookup.answered(liar, invented)
    lookup.answered(honest, real)
    asked: list[int] = []
    for _ in range(30):
        for chosen in lookup.next_questions(0.0):
            asked.append(chosen.key)
            if chosen.key < 1 << 50:
                lookup.failed(chosen)
            else:
                lookup.answered(chosen, [])
    assert lookup.done
    assert len([key for key in asked if key < 1 << 50]) <= MAX_BLAME + ALPHA - 1
    assert {key for key in asked if key >= 1 << 50} == {c.key for c in real}


@pytest.mark.parametrize("holders", [(), range(200, 220)], ids=["first", "again"])
def test_liars_that_fill_the_window_with_others_do_not_end_the_lookup(
    holders: Sequence[int],
) -> None:
    """A hundredth of all lookups, with a fifth of liars, never asked anybody else.

    Nor did the next one, which began with those that the first had found.
    """
    liars, honest = range(1000, 1003), range(1003, 1010)
    gang = [contact(key) for key in range(100, 120)]
    own, hints = ([contact(key) for key in keys] for keys in ((*liars, *honest), holders))
    lookup = Lookup(0, ME, own, width=20, hints=hints)
    asked: list[int] = []
    while not lookup.done:
        for each in lookup.next_questions(0.0):
            asked.append(each.key)
            lookup.answered(each, [contact(1)] if each.key in honest else gang)
    assert lookup.closest(1) == [contact(1)]
    assert [key for key in asked if key in honest] == list(honest)[: OWN - len(liars)]


def test_a_contact_that_an_honest_node_names_too_is_asked_all_the_same() -> None:
    liar, honest = contact(1 << 100), contact(1 << 101)
    lookup = Lookup(0, ME, [liar], width=20)
    lookup.next_questions(0.0)
    lookup.answered(liar, [contact(key) for key in range(1, 10)])
    for chosen in lookup.next_questions(0.0):
        lookup.failed(chosen)
    assert lookup.next_questions(0.0) == []
    lookup._add(honest, 1, None)
    lookup.next_questions(0.0)
    lookup.answered(honest, [contact(9)])
    assert [c.key for c in lookup.next_questions(0.0)] == [9]


def test_a_lookup_asks_a_bounded_number_of_contacts() -> None:
    random = Random(1)
    lookup = Lookup(0, ME, [contact(random.getrandbits(150)) for _ in range(20)], width=20)
    asked = 0
    while questions := lookup.next_questions(0.0):
        for chosen in questions:
            asked += 1
            # Ever closer ones, by ever different sources: the worst that a gang could do.
            lookup.answered(chosen, [contact(chosen.key // 2 + 1), contact(chosen.key // 3 + 1)])
    assert lookup.done
    assert asked <= MAX_ASKED
    assert len(lookup._order) <= 80


def test_who_has_more_to_give_is_waited_for() -> None:
    lookup = Lookup(0, ME, [contact(1), contact(2)], width=20, quorum=3)
    lookup.next_questions(0.0)
    lookup.answered(contact(2), [])
    lookup.answered(contact(1), [])
    lookup.reading(contact(1), [record(1, LAN, NOW)], 0.1)
    assert not lookup.done
    assert lookup.oldest_waiting == 0.1
    lookup.reading(contact(1), [record(2, LAN, NOW)], 0.2)
    lookup.mark_slow(0.1)
    assert not lookup.done
    lookup.gave(contact(1), [record(3, LAN, NOW)])
    assert lookup.done
    assert len(lookup.records) == 3


def test_who_gives_slowly_is_not_waited_for_and_what_comes_late_counts() -> None:
    lookup = Lookup(0, ME, [contact(1)], width=20, quorum=3)
    lookup.next_questions(0.0)
    lookup.answered(contact(1), [])
    lookup.reading(contact(1), [record(1, LAN, NOW)], 0.1)
    lookup.mark_slow(0.1)
    assert lookup.done
    lookup.gave(contact(1), [record(2, LAN, NOW)])
    assert len(lookup.records) == 2
    assert lookup.closest(1) == [contact(1)]

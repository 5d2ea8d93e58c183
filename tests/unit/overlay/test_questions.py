"""Who owns an address: what is looked up for it, and what is remembered of what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from quicether.dht import keyspace
from quicether.dht.contact import Contact
from quicether.dht.events import LookupDone
from quicether.dht.records import Record
from quicether.errors import UnreachableError
from quicether.overlay import questions
from quicether.overlay.questions import MAX_NOTHING, NOTHING_FOR, Questions, followed_keys
from support.dht_samples import NETWORK_ID, contact, record
from support.virtual_time import play

HOST = ip_address("192.168.1.9").packed
OTHER = ip_address("192.168.1.10").packed
LAN = ip_network("192.168.1.0/24")
SOMEBODY = (contact(1),)


class Asked:
    """Questions, the lookups that they start, and whether the address has a route by now."""

    def __init__(self, room: int = 100) -> None:
        self.now = 0.0
        self.room = room
        self.started: list[tuple[int, Callable[[LookupDone], None]]] = []
        self.told: list[LookupDone | None] = []
        self.has_route = False
        self.questions = Questions(NETWORK_ID, self._find, self._found, lambda: self.now)

    def _find(self, key: int, done: Callable[[LookupDone], None]) -> None:
        if len(self.started) >= self.room:
            raise UnreachableError("too many lookups run already")
        self.started.append((key, done))

    def _found(self, _destination: bytes, done: LookupDone | None) -> bool:
        self.told.append(done)
        return self.has_route

    def begin(self, destination: bytes = HOST) -> bool:
        return self.questions.begin(destination, set())

    def answer(
        self, records: tuple[Record, ...] = (), closest: tuple[Contact, ...] = SOMEBODY
    ) -> None:
        """Let every lookup that runs end."""
        running, self.started = self.started, []
        for key, done in running:
            done(LookupDone(1, key, records, (), closest, 0, len(closest), 0))


def test_an_address_is_looked_for_by_itself_and_by_the_blocks_around_it() -> None:
    asked = Asked()
    assert asked.begin()
    keys = keyspace.address_keys(NETWORK_ID, ip_address(HOST))
    assert [key for key, _ in asked.started] == list(keys)


def test_keys_that_are_followed_anyway_are_not_asked_for() -> None:
    asked = Asked()
    own, *blocks = keyspace.address_keys(NETWORK_ID, ip_address(HOST))
    assert asked.questions.begin(HOST, set(blocks))
    assert [key for key, _ in asked.started] == [own]


def test_an_address_is_looked_for_once_at_a_time() -> None:
    asked = Asked()
    asked.begin()
    before = len(asked.started)
    assert asked.begin()
    assert len(asked.started) == before


def test_that_nobody_owns_an_address_is_remembered_for_a_while() -> None:
    asked = Asked()
    asked.begin()
    asked.answer()
    assert asked.told[-1] is None
    asked.now = NOTHING_FOR - 0.1
    assert not asked.begin()
    asked.now = NOTHING_FOR
    assert asked.begin()


def test_who_insists_looks_again() -> None:
    asked = Asked()
    asked.begin()
    asked.answer()
    asked.questions.forget(HOST)
    assert asked.begin()


def test_what_has_a_route_is_not_remembered_as_nobodys() -> None:
    asked = Asked()
    asked.begin()
    asked.has_route = True
    asked.answer((record(1, LAN, 1000.0),))
    assert None not in asked.told
    asked.has_route = False
    assert asked.begin()


def test_where_not_all_lookups_could_run_it_is_not_remembered_that_nobody_owns_it() -> None:
    """The first of three keys said nothing, and the address was nobody's for NOTHING_FOR."""
    asked = Asked(room=1)
    assert asked.begin()
    assert len(asked.started) == 1
    asked.answer()
    assert asked.told[-1] is None
    asked.room = 100
    assert asked.begin()
    asked.answer()
    assert not asked.begin()


def test_where_nobody_answered_it_is_not_remembered_that_nobody_owns_it() -> None:
    asked = Asked()
    asked.begin()
    asked.answer(closest=())
    assert asked.told[-1] is None
    assert asked.begin()
    asked.answer()
    assert not asked.begin()


def test_without_room_for_a_lookup_it_is_in_vain_and_nothing_is_remembered() -> None:
    asked = Asked(room=0)
    assert not asked.begin()
    asked.room = 100
    assert asked.begin()


@pytest.mark.parametrize("address", ["224.0.0.1", "127.0.0.1", "169.254.1.1", "0.0.0.0", "ff02::1"])
def test_what_nobody_can_own_is_not_looked_for(address: str) -> None:
    asked = Asked()
    assert not asked.begin(ip_address(address).packed)
    assert asked.started == []


def test_what_is_remembered_is_bounded_and_the_oldest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MAX_NOTHING == 1024
    monkeypatch.setattr(questions, "MAX_NOTHING", 2)
    asked = Asked()
    third = ip_address("192.168.1.11").packed
    for destination in (HOST, OTHER):
        asked.begin(destination)
        asked.answer()
    asked.now = NOTHING_FOR
    for destination in (HOST, third):
        asked.begin(destination)
        asked.answer()
    assert [asked.begin(each) for each in (HOST, OTHER, third)] == [False, True, False]


def test_who_waits_is_woken_by_the_last_answer_and_by_the_end() -> None:
    async def told() -> None:
        asked = Asked()
        await asked.questions.wait(HOST, 5.0)  # nothing runs
        for wake in (asked.answer, asked.questions.close):
            asked.questions.forget(HOST)
            asked.begin()
            waiting = asyncio.create_task(asked.questions.wait(HOST, 5.0))
            await asyncio.sleep(1)
            assert not waiting.done()
            wake()
            await asyncio.wait_for(waiting, 0.1)

    play(told)


def test_who_waits_loses_patience() -> None:
    async def told() -> None:
        asked = Asked()
        asked.begin()
        await asked.questions.wait(HOST, 5.0)
        assert asyncio.get_running_loop().time() == pytest.approx(5.0)

    play(told)


# -- what is followed ----------------------------------------------------------------------------

EVERYTHING = set(keyspace.directory_keys(NETWORK_ID))


def test_auto_follows_everything_and_none_nothing() -> None:
    assert followed_keys(NETWORK_ID, "auto") == EVERYTHING
    assert followed_keys(NETWORK_ID, "none") == set()
    assert followed_keys(NETWORK_ID, ()) == set()


def test_a_list_follows_the_blocks_that_its_prefixes_lie_in() -> None:
    for text in ("10.1.0.0/16", "10.1.2.0/24"):
        prefix = ip_network(text)
        assert followed_keys(NETWORK_ID, (prefix,)) == {keyspace.index_keys(NETWORK_ID, prefix)[0]}


def test_a_single_address_is_followed_by_its_own_key() -> None:
    prefix = ip_network("10.1.2.3/32")
    assert followed_keys(NETWORK_ID, (prefix,)) == {keyspace.subnet_key(NETWORK_ID, prefix)}


def test_a_prefix_wider_than_a_block_follows_everything() -> None:
    assert followed_keys(NETWORK_ID, (ip_network("0.0.0.0/1"),)) == EVERYTHING

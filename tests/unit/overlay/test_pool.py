"""Connections for questions: opened on demand, few, the longest unused closed first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest

from quicether.config.values import HostPort, PeerAddress
from quicether.errors import UnreachableError
from quicether.model import Member, NodeId, UnderlayAddress
from quicether.overlay import pool
from quicether.overlay.peers import PeerTable, TargetKind
from quicether.overlay.pool import IDLE, IN_USE, KEPT, QUIET, Pool
from quicether.transport.endpoint import KeepAlive
from support.virtual_time import play

ME = NodeId(bytes(20))
AWAKE, MAPPED, RESTING = KeepAlive


class Link:
    """A connection that notes that it was closed."""

    def __init__(self, pooled: Pooled, number: int, *, initiated: bool) -> None:
        self.member = Member(node(number), f"node{number}", b"", (), ())
        self.remote = where(number)
        self.initiated = initiated
        self.carried_at: float | None = None
        self.kept_alive = KeepAlive.AWAKE
        self._pooled = pooled

    def keep_alive(self, how: KeepAlive) -> None:
        self.kept_alive = how

    def close(self, _code: Any, reason: str) -> None:
        self._pooled.closed.append(self.member.name)
        error = UnreachableError(reason)
        self._pooled.peers.disconnected(self, error, self._pooled.now)  # type: ignore[arg-type]


class Pooled:
    """A pool over a peer table, with links in place of connections."""

    def __init__(self) -> None:
        self.now = 0.0
        self.woken = 0
        self.closed: list[str] = []
        self.peers = PeerTable(ME, Random(1))
        self.pool = Pool(self.peers, self._wake, lambda: self.now)

    def _wake(self) -> None:
        self.woken += 1

    def connect(self, number: int, *, initiated: bool = True) -> Link:
        link: Any = Link(self, number, initiated=initiated)
        self.peers.connected(link, b"", self.now)
        self.pool.connected(link)
        return link  # type: ignore[no-any-return]

    def sweep(self, now: float) -> list[str]:
        """Sweep at a time; return who was closed, sorted."""
        self.now, self.closed = now, []
        self.pool.sweep()
        return sorted(self.closed)


def wants(pooled: Pooled, number: int) -> None:
    """Let a user name a node as a peer."""
    endpoint = HostPort(where(number).host, 9000)
    pooled.peers.want_configured([PeerAddress(endpoint, str(node(number)))], 0.0)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(20))


def where(number: int) -> UnderlayAddress:
    return UnderlayAddress(f"192.0.2.{number}", 9000)


def names(numbers: Iterable[int]) -> list[str]:
    return sorted(f"node{number}" for number in numbers)


def test_who_is_connected_is_asked_over_that_connection() -> None:
    async def told() -> None:
        pooled = Pooled()
        link = pooled.connect(1)
        assert await pooled.pool.reach(node(1), ()) is link
        assert pooled.woken == 0

    play(told)


def test_who_is_not_is_connected_to_once_for_all_who_ask() -> None:
    async def told() -> None:
        pooled = Pooled()
        asking = [asyncio.create_task(pooled.pool.reach(node(1), [where(1)])) for _ in range(3)]
        await asyncio.sleep(0)
        (target,) = pooled.peers.targets()
        assert (target.kind, target.expect) == (TargetKind.CONTACT, node(1))
        assert pooled.woken == 1
        link = pooled.connect(1)
        assert await asyncio.gather(*asking) == [link] * 3

    play(told)


def test_who_gives_up_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_DIALLED", 2)

    async def told() -> None:
        pooled = Pooled()
        asking = [asyncio.create_task(pooled.pool.reach(node(n), [where(n)])) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(UnreachableError, match="2 nodes are being connected to already"):
            await pooled.pool.reach(node(3), [where(3)])
        asking[0].cancel()
        await asyncio.wait(asking[:1])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pooled.pool.reach(node(3), [where(3)]), 1)
        asking[1].cancel()
        await asyncio.wait(asking)

    play(told)


def test_a_node_without_an_address_to_try_cannot_be_reached() -> None:
    async def told() -> None:
        pooled = Pooled()
        with pytest.raises(UnreachableError, match="no address that can be tried"):
            await pooled.pool.reach(node(1), [UnderlayAddress("127.0.0.1", 9000)])

    play(told)


def test_idle_connections_are_closed_but_for_the_last_used() -> None:
    pooled = Pooled()
    for number in range(1, 6):
        pooled.now = float(number)
        pooled.connect(number)
    assert pooled.sweep(IDLE) == []
    assert pooled.sweep(IDLE + 5) == names(range(1, 6 - KEPT))
    assert pooled.peers.targets() == ()
    assert pooled.sweep(10 * IDLE) == []


def test_a_question_either_way_and_a_packet_are_use() -> None:
    async def told() -> None:
        pooled = Pooled()
        links = [pooled.connect(number) for number in range(1, 7)]
        pooled.now = 100.0
        pooled.pool.used(node(1))
        links[1].carried_at = 100.0
        await pooled.pool.reach(node(3), ())
        assert pooled.sweep(IDLE) == names([4, 5, 6])

    play(told)


def test_what_is_idle_rests_but_for_the_last_and_what_is_used_or_wanted_stays_awake() -> None:
    pooled = Pooled()
    wants(pooled, 1)
    links = [pooled.connect(number, initiated=number != 5) for number in range(1, 6)]
    pooled.now = 10.0
    pooled.pool.used(node(4))
    links[2].carried_at = 9.0
    assert pooled.sweep(10.0 + IN_USE) == []
    assert [link.kept_alive for link in links] == [AWAKE, RESTING, AWAKE, MAPPED, RESTING]
    pooled.sweep(10.0 + QUIET)
    assert [link.kept_alive for link in links] == [AWAKE, RESTING, RESTING, MAPPED, RESTING]
    pooled.pool.used(node(5))
    pooled.sweep(10.0 + QUIET)
    assert links[4].kept_alive is AWAKE


def test_what_others_opened_and_what_is_configured_is_left_alone() -> None:
    pooled = Pooled()
    wants(pooled, 1)
    pooled.connect(1)
    pooled.connect(2, initiated=False)
    for number in range(3, 5 + KEPT):
        pooled.now = float(number)
        pooled.connect(number)
    assert pooled.sweep(10 * IDLE) == names([3, 4])


def test_above_the_bound_the_least_recently_used_goes_at_once_unless_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "MAX_POOLED", 8)
    pooled = Pooled()
    for number in range(1, 12):
        pooled.now = number / 100
        pooled.connect(number)
    pooled.pool.used(node(1))
    assert pooled.sweep(IN_USE) == []
    assert pooled.sweep(IN_USE + 1) == names([2, 3, 4])
    assert len(pooled.peers.connections()) == 8


def test_who_is_gone_is_forgotten() -> None:
    pooled = Pooled()
    for number in range(1, 100):
        pooled.pool.used(node(number))
    pooled.sweep(1.0)
    assert not pooled.pool._used

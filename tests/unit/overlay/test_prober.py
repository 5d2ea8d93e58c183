"""The prober between a peer's connection, the questions that it asks, and the routes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

from quicether.model import Member, NodeId, UnderlayAddress
from quicether.overlay.direct import FIRST_HOLD, OVERDUE
from quicether.overlay.peers import PeerTable
from quicether.overlay.pings import Pings
from quicether.overlay.prober import PATIENCE, Prober
from quicether.overlay.routes import OverlayRoutes
from quicether.transport.messages import Message, Ping
from support.virtual_time import play

ME = Member(NodeId(b"\x01" * 20), "me", b"", (ip_address("100.64.0.1"),), ())
HOME = Member(NodeId(b"\x02" * 20), "home", b"", (ip_address("100.64.0.2"),), ())


@dataclass(eq=False)
class Line:
    """A connection to home, as far as a prober sees it. back: answers come."""

    pings: Pings
    back: bool = True
    member: Member = HOME
    remote: UnderlayAddress = field(default_factory=lambda: UnderlayAddress("192.0.2.2", 9000))
    initiated: bool = True
    rtt: float | None = 0.01
    unanswered: float = 0.0
    asked: int = 0

    def send_message(self, message: Message) -> None:
        assert isinstance(message, Ping)
        self.asked += 1
        if self.back:
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, self.pings.answered, self, message.token)


class Watch:
    """A prober, looked after twice a second, and what it tells."""

    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.peers = PeerTable(ME.node_id, Random(1))
        self.routes = OverlayRoutes(ME)
        self.pings = Pings(Random(2), clock)
        self.changes = 0
        self.doubts: list[NodeId] = []
        self.prober = Prober(
            self.peers, self.routes, self.pings, clock, self._changed, self.doubts.append
        )
        self.line = self.connect()

    def connect(self, *, back: bool = True, instance: bytes = b"a run") -> Line:
        line = Line(self.pings, back)
        self.peers.connected(line, instance, 0.0)  # type: ignore[arg-type]
        self.prober.up(line)  # type: ignore[arg-type]
        return line

    @property
    def counts(self) -> bool:
        told = self.routes.is_reachable(HOME.node_id)
        assert self.prober.counts(HOME.node_id) is told
        return told

    async def passes(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.prober.check()
            await asyncio.sleep(0.5)
        self.prober.check()

    def _changed(self) -> None:
        self.changes += 1


def watch(scene: Callable[[Watch], Awaitable[None]]) -> None:
    async def run() -> None:
        here = Watch()
        await scene(here)
        here.pings.close()

    play(run)


def test_a_connection_counts_from_its_first_moment_and_nothing_is_asked() -> None:
    async def scene(here: Watch) -> None:
        assert here.counts
        await here.passes(10)
        assert here.counts
        assert (here.line.asked, here.doubts, here.changes) == (0, [], 1)

    watch(scene)


def test_an_overdue_answer_is_a_doubt_at_once_and_an_answer_after_the_hold_ends_it() -> None:
    async def scene(here: Watch) -> None:
        here.line.unanswered = OVERDUE
        await here.passes(0)
        assert not here.counts
        assert not here.prober.answers(HOME.node_id)
        assert here.doubts == [HOME.node_id]
        here.line.unanswered = 0.0
        await here.passes(FIRST_HOLD - 0.5)
        assert here.prober.answers(HOME.node_id)
        assert not here.counts
        await here.passes(1.5)
        assert here.counts
        assert here.doubts == [HOME.node_id]

    watch(scene)


def test_a_way_that_answers_nothing_is_asked_for_ever_and_never_counts_again() -> None:
    async def scene(here: Watch) -> None:
        here.line.back = False
        here.line.unanswered = OVERDUE
        await here.passes(0)
        # Its own packets arrive, so nothing is overdue any more: one direction alone is dead.
        here.line.unanswered = 0.0
        await here.passes(60)
        assert not here.counts
        assert here.line.asked >= 100
        here.line.back = True
        await here.passes(PATIENCE)
        assert here.counts

    watch(scene)


def test_packets_by_a_gateway_raise_a_doubt_that_an_answer_ends_at_once() -> None:
    async def scene(here: Watch) -> None:
        here.prober.detoured(HOME.node_id)
        assert not here.counts
        await asyncio.sleep(0.1)
        assert here.counts
        here.prober.detoured(HOME.node_id)
        await asyncio.sleep(0.1)
        assert (here.counts, here.line.asked) == (True, 1)

    watch(scene)


def test_packets_by_a_gateway_of_a_node_that_is_not_connected_are_nothing_to_ask_about() -> None:
    async def scene(here: Watch) -> None:
        here.prober.detoured(NodeId(b"\x09" * 20))
        assert here.line.asked == 0
        assert here.doubts == []

    watch(scene)


def test_an_answer_over_a_connection_that_counts_no_more_proves_nothing() -> None:
    async def scene(here: Watch) -> None:
        here.prober.detoured(HOME.node_id)
        await asyncio.sleep(0)
        here.connect(back=False, instance=b"the next run")
        await asyncio.sleep(0.1)
        assert here.line.asked == 1
        assert not here.counts

    watch(scene)


def test_a_lost_connection_is_no_way_and_one_that_comes_back_has_to_hold() -> None:
    async def scene(here: Watch) -> None:
        here.peers.disconnected(here.line, TimeoutError("lost"), 0.0)  # type: ignore[arg-type]
        here.prober.down(HOME.node_id)
        assert not here.counts
        line = here.connect()
        await here.passes(FIRST_HOLD - 0.5)
        assert not here.counts
        await here.passes(1.5)
        assert here.counts
        assert line.asked > 0

    watch(scene)

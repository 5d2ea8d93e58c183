"""Tunnels that end by themselves, and orders that come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quicether.bus.contract import TunnelState
from quicether.bus.controller import NoSuchTunnelError, UpRequest
from quicether.daemon import controller
from quicether.daemon.controller import Tunnels
from quicether.errors import HostError
from support.fake_controller import FakeTunnel

OPTIONS = {"pinned-peers": f"{'11' * 20}=10.0.0.0/8"}


class Losable(FakeTunnel):
    """A tunnel whose device may go, and whose end waits for a test."""

    made: list[Losable]
    may_end: asyncio.Event

    def __init__(self, name: str, settings: Any, *others: Any) -> None:
        super().__init__(name)
        self.settings = settings
        self.lost: Callable[[Any, HostError], None] = others[-1]
        self.stops = 0
        self.made.append(self)

    async def start(self) -> None:
        await asyncio.sleep(0)
        self.state = TunnelState.RUNNING

    async def stop(self) -> None:
        self.stops += 1
        self.state = TunnelState.STOPPING
        if self.stops == 1:  # the next finds nothing left to do
            await self.may_end.wait()

    def lose(self) -> None:
        self.state = TunnelState.FAILED
        self.lost(self, HostError("device quicether0 was taken away"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / "var"))
    monkeypatch.setattr(controller, "Tunnel", Losable)

    def start(test: Callable[[Tunnels], Awaitable[None]]) -> None:
        async def main() -> None:
            monkeypatch.setattr(Losable, "made", [], raising=False)
            monkeypatch.setattr(Losable, "may_end", asyncio.Event(), raising=False)
            Losable.may_end.set()
            await asyncio.wait_for(test(Tunnels()), 10)

        asyncio.run(main())

    return start


async def up(tunnels: Tunnels) -> Losable:
    view = await tunnels.up("pair", OPTIONS, UpRequest())
    assert isinstance(view, Losable)
    return view


def test_up_right_behind_the_loss_of_the_device_makes_a_tunnel_that_runs(
    run: Callable[..., None],
) -> None:
    """It returned the tunnel that was just ending as if it were up."""

    async def test(tunnels: Tunnels) -> None:
        first = await up(tunnels)
        first.lose()
        second = await up(tunnels)
        assert second is not first
        assert second.state is TunnelState.RUNNING
        await asyncio.sleep(0)
        assert tunnels.tunnels["pair"] is second
        assert (first.stops, second.stops) == (1, 0)

    run(test)


def test_the_late_end_of_a_lost_tunnel_does_not_forget_the_next_one(
    run: Callable[..., None],
) -> None:
    """`down` and `up` meanwhile: the new tunnel ran on, and no status showed it."""

    async def test(tunnels: Tunnels) -> None:
        first = await up(tunnels)
        Losable.may_end.clear()
        first.lose()
        orders = asyncio.gather(tunnels.down("pair"), up(tunnels), return_exceptions=True)
        for _ in range(10):
            await asyncio.sleep(0)
        Losable.may_end.set()
        down, second = await orders
        for _ in range(10):
            await asyncio.sleep(0)
        assert down is None or isinstance(down, NoSuchTunnelError)
        assert isinstance(second, Losable)
        assert tunnels.tunnels == {"pair": second}
        assert second.stops == 0
        await tunnels.down("pair")
        assert tunnels.tunnels == {}

    run(test)


def test_an_order_for_another_tunnel_leaves_those_that_wait_their_turns(
    run: Callable[..., None],
) -> None:
    """Between one order's end and the next one's turn the lock was taken for idle, and forgotten:
    whoever came then got another one, and both worked on the tunnel at once."""

    async def test(tunnels: Tunnels) -> None:
        await up(tunnels)
        Losable.may_end.clear()
        down = asyncio.create_task(tunnels.down("pair"))
        waiting = asyncio.create_task(up(tunnels))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        Losable.may_end.set()
        other = asyncio.create_task(tunnels.down("other"))
        late = asyncio.create_task(up(tunnels))
        await down
        with pytest.raises(NoSuchTunnelError):
            await other
        assert await waiting is await late
        assert len(Losable.made) == 2

    run(test)


def test_a_lost_tunnel_is_gone_and_its_sentence_stays(run: Callable[..., None]) -> None:
    async def test(tunnels: Tunnels) -> None:
        news = asyncio.Event()
        tunnels.subscribe(news.set)
        (await up(tunnels)).lose()
        while tunnels.tunnels:
            news.clear()
            await news.wait()
        assert tunnels.failures == {"pair": "device quicether0 was taken away"}

    run(test)

"""The D-Bus service on a private bus, with a fake daemon behind it and a fake polkit beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from quicether.bus.contract import tunnel_path
from quicether.bus.service import BusService
from support.bus_client import BusClient, Refused, client
from support.fake_controller import FakeController
from support.fake_polkit import FakePolkit
from support.private_bus import PrivateBus, connection

HOME = tunnel_path("home")


@dataclass
class Bench:
    """Everything of one test. me: a caller on the bus."""

    address: str
    controller: FakeController
    polkit: FakePolkit
    service: BusService
    me: BusClient


@asynccontextmanager
async def bench(address: str, *tunnels: str) -> AsyncIterator[Bench]:
    async with connection(address) as polkit_bus, client(address) as me:
        polkit = FakePolkit()
        await polkit.start(polkit_bus)
        controller = FakeController(*tunnels)
        service = BusService(controller, "1.2.3", address=address)
        await service.open()
        try:
            yield Bench(address, controller, polkit, service, me)
        finally:
            await service.close()


def run(test: Callable[[Bench], Awaitable[None]], *tunnels: str) -> None:
    """Run test on a bus of its own, beside a daemon that has these tunnels up."""

    async def main() -> None:
        with PrivateBus() as bus:
            async with bench(bus.address, *tunnels) as it:
                await test(it)

    asyncio.run(main())


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    """Return the name and the sentence of the error that a call must end with."""
    with pytest.raises(Refused) as caught:
        await call
    return caught.value.name, str(caught.value)

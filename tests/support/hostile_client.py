"""A client of the D-Bus API that means harm, and the service that it means it to."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from dbus_next.aio.message_bus import MessageBus
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus.contract import (
    BUS_NAME,
    MANAGER_INTERFACE,
    ROOT_PATH,
    TUNNEL_INTERFACE,
    tunnel_path,
)
from quicether.bus.service import BusService
from support.bus_client import PROPERTIES, BusClient, client
from support.fake_controller import FakeController
from support.fake_polkit import FakePolkit
from support.private_bus import PrivateBus, connection

TURN = 1.0
"""Seconds of processor time that one turn of the event loop, and so the data path's wait, may
take under attack; other programs of a busy machine do not count."""
DEADLINE = 30.0


class Bench:
    """A service with a tunnel of many peers, an ordinary client and the address for others."""

    def __init__(
        self, address: str, service: BusService, controller: FakeController, ordinary: BusClient
    ) -> None:
        self.address = address
        self.service = service
        self.controller = controller
        self.ordinary = ordinary
        self.longest_turn = 0.0

    async def still_works(self) -> None:
        """The ordinary client is answered, and the loop was never held up for long."""
        assert await self.ordinary.get(MANAGER_INTERFACE, "Version") == "1.2.3"
        assert self.longest_turn < TURN

    async def measure(self) -> None:
        """Keep the most processor time that was spent between two ticks."""
        before = time.process_time()
        while True:
            await asyncio.sleep(0.005)
            now = time.process_time()
            self.longest_turn = max(self.longest_turn, now - before)
            before = now


@asynccontextmanager
async def bench(address: str) -> AsyncIterator[Bench]:
    async with connection(address) as polkit_bus, client(address) as ordinary:
        await FakePolkit().start(polkit_bus)
        controller = FakeController("home")
        service = BusService(controller, "1.2.3", address=address)
        await service.open()
        controller.grow("home", 256)
        it = Bench(address, service, controller, ordinary)
        measuring = asyncio.ensure_future(it.measure())
        try:
            yield it
        finally:
            measuring.cancel()
            await service.close()


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        with PrivateBus() as bus:
            async with bench(bus.address) as it:
                await test(it)

    asyncio.run(main())


def get_peers(bus: MessageBus) -> Message:
    """A call with a large answer."""
    return Message(
        BUS_NAME,
        tunnel_path("home"),
        PROPERTIES,
        "Get",
        signature="ss",
        body=["org.quicether1.Tunnel", "Peers"],
        serial=bus.next_serial(),
    )


def slow_ping(bus: MessageBus) -> Message:
    """A call that is answered when the controller's tunnel lets it."""
    return Message(
        BUS_NAME,
        tunnel_path("home"),
        TUNNEL_INTERFACE,
        "Ping",
        signature="s",
        body=["slow"],
        serial=bus.next_serial(),
    )


def join(bus: MessageBus, code: str) -> Message:
    """A call of Join."""
    return Message(
        BUS_NAME,
        ROOT_PATH,
        MANAGER_INTERFACE,
        "Join",
        signature="s",
        body=[code],
        serial=bus.next_serial(),
    )


async def send_raw(bus: MessageBus, *messages: Message | bytes) -> None:
    """Write to the bus behind dbus-next's back, which cannot send a flood itself."""
    data = b"".join(
        each if isinstance(each, bytes) else bytes(each._marshall()) for each in messages
    )
    await asyncio.get_running_loop().sock_sendall(bus._sock, data)


async def answers(bus: MessageBus, *messages: Message | bytes) -> list[Message]:
    """Send all calls at once and wait for all their answers."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[Message]] = []
    for message in messages:
        answer: asyncio.Future[Message] = loop.create_future()
        waiting.append(answer)
        serial = (
            int.from_bytes(message[8:12], sys.byteorder)
            if isinstance(message, bytes)
            else message.serial
        )
        bus._method_return_handlers[serial] = partial(_answered, answer)
    await send_raw(bus, *messages)
    return await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)


def _answered(answer: asyncio.Future[Message], reply: Message | None, error: object) -> None:
    if reply is None:
        answer.set_exception(ConnectionError(str(error)))
    else:
        answer.set_result(reply)


def up(bus: MessageBus, options: dict[str, str], how: dict[str, Variant]) -> Message:
    """A call of Up."""
    return Message(
        BUS_NAME,
        ROOT_PATH,
        MANAGER_INTERFACE,
        "Up",
        signature="sa{ss}a{sv}",
        body=["work", options, how],
        serial=bus.next_serial(),
    )

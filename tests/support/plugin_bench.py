"""The NetworkManager plugin as a process on a private bus, between a fake service and a fake
NetworkManager."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quicether_nm.interface import BUS_NAME
from support.fake_networkmanager import Entry, FakeNetworkManager
from support.fake_service import FakeService
from support.private_bus import PrivateBus, connection

ROOT = Path(__file__).parents[2]
PLUGIN = f"{BUS_NAME}.Connection_1"


@dataclass
class Bench:
    """Everything of one test. start_seconds: until the plugin owned its name."""

    bus: PrivateBus
    networkmanager: FakeNetworkManager
    service: FakeService
    plugin: asyncio.subprocess.Process
    start_seconds: float

    @property
    def signals(self) -> list[Entry]:
        """Names of the signals and replies, with the number where there is one."""
        return [
            (name, value if isinstance(value, int) else None)
            for name, value in self.networkmanager.entries
            if name not in ("owned", "gone")
        ]

    async def output(self) -> str:
        """Wait for the plugin's end and return what it said."""
        _, stderr = await asyncio.wait_for(self.plugin.communicate(), 10)
        return stderr.decode()


def run(test: Callable[[Bench], Awaitable[None]], *arguments: str) -> None:
    """Run test between a fake service and a fake NetworkManager."""

    async def main() -> None:
        with PrivateBus() as bus:
            async with bench(bus, arguments) as it:
                await test(it)

    asyncio.run(main())


@asynccontextmanager
async def bench(bus: PrivateBus, arguments: tuple[str, ...]) -> AsyncIterator[Bench]:
    async with (
        connection(bus.address) as service_bus,
        connection(bus.address) as networkmanager_bus,
    ):
        service = FakeService(service_bus)
        await service.start()
        networkmanager = FakeNetworkManager(networkmanager_bus, PLUGIN)
        await networkmanager.start()
        start = time.monotonic()
        plugin = await start_plugin(bus.address, *arguments)
        try:
            await networkmanager.until(lambda entries: ("owned", PLUGIN) in entries)
            start_seconds = time.monotonic() - start
            networkmanager.entries.clear()
            yield Bench(bus, networkmanager, service, plugin, start_seconds)
        finally:
            if plugin.returncode is None:
                plugin.kill()
            await plugin.communicate()


async def start_plugin(address: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "quicether_nm.main", "--bus-name", PLUGIN, *arguments),
        env={
            **os.environ,
            "DBUS_SYSTEM_BUS_ADDRESS": address,
            "PYTHONPATH": f"{ROOT}/service:{ROOT}/nm_plugin",
        },
        stderr=asyncio.subprocess.PIPE,
    )

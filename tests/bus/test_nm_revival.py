"""The plugin as a process on a private bus: NetworkManager, or the bus, is restarted under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dbus_next.constants import NameFlag, RequestNameReply

from support.fake_networkmanager import PROFILE, FakeNetworkManager, profile
from support.plugin_bench import PLUGIN, Bench, run
from support.private_bus import connection


@asynccontextmanager
async def restarted(it: Bench, *active: str) -> AsyncIterator[FakeNetworkManager]:
    """Take NetworkManager off the bus while its connection is up, and bring another one."""
    await it.networkmanager.connect(profile())
    await it.networkmanager.until_state(4)
    it.networkmanager.bus.disconnect()
    await it.service.until(lambda: it.service.calls[-1] == ("Down", ["home"]))
    async with connection(it.bus.address) as bus:
        networkmanager = FakeNetworkManager(bus, PLUGIN)
        networkmanager.active = list(active)
        await networkmanager.start()
        yield networkmanager


def test_networkmanager_that_is_restarted_is_asked_for_the_connection_again() -> None:
    async def test(it: Bench) -> None:
        async with restarted(it, "another") as networkmanager:
            await networkmanager.settle()
            await networkmanager.until(lambda _: bool(networkmanager.activated))
            assert networkmanager.activated == [[PROFILE, "/", "/"]]
            assert await asyncio.wait_for(it.plugin.wait(), 5) == 0

    run(test)


def test_what_networkmanager_brings_up_itself_is_not_asked_for() -> None:
    """The profile is a secondary of the link's own connection."""

    async def test(it: Bench) -> None:
        uuid = profile()["connection"]["uuid"].value
        async with restarted(it, uuid) as networkmanager:
            await networkmanager.settle()
            assert await asyncio.wait_for(it.plugin.wait(), 5) == 0
            assert networkmanager.activated == []

    run(test)


def test_the_name_is_free_for_the_next_process_before_the_tunnel_is_down() -> None:
    async def test(it: Bench) -> None:
        it.service.gate.clear()
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: bool(it.service.calls))
        it.networkmanager.bus.disconnect()
        async with connection(it.bus.address) as bus:
            networkmanager = FakeNetworkManager(bus, PLUGIN)
            await networkmanager.start()
            async with asyncio.timeout(2):
                while await bus.request_name(PLUGIN, NameFlag.DO_NOT_QUEUE) is (
                    RequestNameReply.EXISTS
                ):
                    pass
        it.plugin.terminate()
        assert await asyncio.wait_for(it.plugin.wait(), 8) == 0

    run(test)


def test_a_connection_that_was_taken_down_stays_down_when_networkmanager_is_restarted() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        await it.networkmanager.call("Disconnect")
        it.networkmanager.bus.disconnect()
        assert await asyncio.wait_for(it.plugin.wait(), 5) == 0

    run(test, "--persist")


def test_a_signal_ends_the_wait_for_networkmanager() -> None:
    async def test(it: Bench) -> None:
        async with restarted(it) as networkmanager:
            it.plugin.terminate()
            assert await asyncio.wait_for(it.plugin.wait(), 5) == 0
            assert networkmanager.activated == []

    run(test)


def test_a_bus_that_ends_is_waited_for_too() -> None:
    """Whoever's end is seen first: the service's, NetworkManager's, or that of the bus itself."""

    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.bus.kill()
        assert it.plugin.stderr is not None
        said = await asyncio.wait_for(it.plugin.stderr.readuntil(b"NetworkManager left"), 10)
        it.plugin.terminate()
        output = said.decode() + await it.output()
        assert it.plugin.returncode == 0
        assert "Traceback" not in output

    run(test)


def test_a_service_that_is_gone_before_networkmanager_is_does_not_end_the_wait() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.service.bus.disconnect()
        await it.networkmanager.until_state(5)
        it.networkmanager.bus.disconnect()
        async with connection(it.bus.address) as bus:
            networkmanager = FakeNetworkManager(bus, PLUGIN)
            await networkmanager.start()
            await networkmanager.settle()
            await networkmanager.until(lambda _: bool(networkmanager.activated))
            assert await asyncio.wait_for(it.plugin.wait(), 5) == 0

    run(test)


def test_the_end_of_the_bus_without_a_connection_is_the_end_of_the_program() -> None:
    async def test(it: Bench) -> None:
        it.bus.kill()
        await asyncio.wait_for(it.plugin.wait(), 5)
        assert "Traceback" not in await it.output()

    run(test)

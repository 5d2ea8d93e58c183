"""A connection rides out a restart of the service, and nothing else that ends it."""

from __future__ import annotations

import asyncio
import time

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether.bus.contract import How
from support.fake_networkmanager import REPLY, profile
from support.plugin_bench import Bench, run

WHOLE = [("Config", None), ("Ip4Config", None), ("Ip6Config", None)]
RECONNECTING, UP, STOPPING, STOPPED = (("StateChanged", state) for state in (3, 4, 5, 6))


async def come_up(it: Bench) -> None:
    """Bring the connection up and forget what was told until then."""
    await it.networkmanager.connect(profile())
    await it.networkmanager.until_state(4)
    it.networkmanager.entries.clear()


@pytest.mark.parametrize("say_stopping", [True, False])
def test_a_restart_of_the_service_keeps_the_connection(say_stopping: bool) -> None:
    async def test(it: Bench) -> None:
        await come_up(it)
        await it.service.leave(say_stopping=say_stopping)
        await it.networkmanager.until_state(3)
        assert it.signals == [RECONNECTING]
        it.service.change("home", {"prefixes": Variant("as", ["10.9.0.0/16"])})
        await it.service.come_back()
        await it.networkmanager.until_state(4)
        # All of it, because NetworkManager keeps nothing of an earlier configuration.
        assert it.signals == [RECONNECTING, *WHOLE, UP]
        (route,) = dict(it.networkmanager.entries)["Ip4Config"]["routes"]
        assert route[0].to_bytes(4, "little") == bytes((10, 9, 0, 0))
        first, again = (call for call in it.service.calls if call[0] == "Up")
        assert first == again
        # And it is a connection like any other: it is told of changes, and can be ended.
        it.networkmanager.entries.clear()
        it.service.change("home", {"prefixes": Variant("as", [])})
        await it.networkmanager.until(lambda entries: len(entries) == 1)
        assert await it.networkmanager.call("Disconnect") == (REPLY, None)
        await it.networkmanager.until_state(6)
        assert not it.service.tunnels

    run(test)


def test_a_service_that_stays_away_is_shown_as_down_within_five_seconds() -> None:
    async def test(it: Bench) -> None:
        await come_up(it)
        left = time.monotonic()
        await it.service.leave(say_stopping=True)
        await it.networkmanager.until_state(6, deadline=7)
        assert time.monotonic() - left < 5
        assert it.signals == [RECONNECTING, ("Failure", 1), STOPPING, STOPPED]
        assert "the service has stopped" in await it.output()
        # Asking for it would have started a service that was stopped for good.
        assert [name for name, _ in it.service.calls] == ["Up"]

    run(test)


def test_a_connection_that_waits_for_the_service_can_be_ended() -> None:
    async def test(it: Bench) -> None:
        await come_up(it)
        await it.service.leave(say_stopping=True)
        await it.networkmanager.until_state(3)
        assert await it.networkmanager.call("Disconnect") == (REPLY, None)
        await it.networkmanager.until_state(6, deadline=1)
        await it.service.come_back()
        await it.networkmanager.until_gone()
        assert [name for name, _ in it.service.calls] == ["Up"]

    run(test)


def test_a_service_that_leaves_before_the_connection_is_up_ends_it() -> None:
    async def test(it: Bench) -> None:
        it.service.ready = False
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: "home" in it.service.tunnels)
        await it.service.leave(say_stopping=True)
        await it.networkmanager.until_state(6, deadline=3)
        assert it.signals[-3:] == [("Failure", 1), STOPPING, STOPPED]

    run(test)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_tunnel_that_another_brings_up_behind_ours_is_not_taken_down(at_once: bool) -> None:
    """`quicether down` and `up` beside NetworkManager: its plugin took the new tunnel along."""

    async def test(it: Bench) -> None:
        await come_up(it)
        asked_why = asyncio.Event()

        def look(message: Message) -> None:
            if message.member == "Get" and message.body[1:] == ["Failures"]:
                asked_why.set()

        it.service.bus.add_message_handler(look)
        it.service.lose("home")
        if not at_once:
            await asyncio.wait_for(asked_why.wait(), 5)
        await it.service.up("home", {}, {How.BOUND.value: Variant("b", True)})
        await it.networkmanager.until_state(6)
        assert it.signals == [("Failure", 1), STOPPING, STOPPED]
        await it.networkmanager.until_gone()
        assert [name for name, _ in it.service.calls] == ["Up", "Up"]
        assert "tunnel home was taken down" in await it.output()

    run(test)


def test_a_service_that_is_killed_over_a_question_has_not_left_in_good_order() -> None:
    """Its unanswered question once passed for the end of a tunnel that somebody took down."""

    async def test(it: Bench) -> None:
        await come_up(it)
        asked = asyncio.Event()

        def swallow(message: Message) -> bool:
            if message.member == "GetAll":
                asked.set()
            return message.member == "GetAll"

        it.service.bus.add_message_handler(swallow)
        body = [contract.TUNNEL_INTERFACE, {}, ["HostConfig"]]
        path, interface = contract.tunnel_path("home"), "org.freedesktop.DBus.Properties"
        await it.service.bus.send(
            Message.new_signal(path, interface, "PropertiesChanged", "sa{sv}as", body)
        )
        await asyncio.wait_for(asked.wait(), 5)
        it.service.bus.disconnect()
        await it.networkmanager.until_state(6, deadline=1)
        assert it.signals == [("Failure", 1), STOPPING, STOPPED]

    run(test)

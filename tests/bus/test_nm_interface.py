"""The NetworkManager plugin's side of the bus: who may call what, when, and who is believed."""

from __future__ import annotations

import asyncio
from typing import Any

from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether_nm.interface import INTERFACE, PATH
from support.fake_networkmanager import ERROR, profile
from support.plugin_bench import PLUGIN, Bench, run, start_plugin
from support.private_bus import connection


def test_calls_in_the_wrong_state_get_their_own_errors() -> None:
    async def refusal(it: Bench, member: str, signature: str = "", *body: Any) -> str:
        kind, (name, _) = await it.networkmanager.call(member, signature, *body)
        assert kind == ERROR
        return str(name).removeprefix("org.freedesktop.NetworkManager.VPN.Error.")

    async def test(it: Bench) -> None:
        assert await refusal(it, "Disconnect") == "AlreadyStopped"
        it.service.ready = False
        await it.networkmanager.connect(profile())
        assert await refusal(it, "Connect", "a{sa{sv}}", profile()) == "StartingInProgress"
        await it.networkmanager.until_state(4)
        assert await refusal(it, "Connect", "a{sa{sv}}", profile()) == "AlreadyStarted"
        it.service.leaving.clear()
        await it.networkmanager.call("Disconnect")
        assert await refusal(it, "Connect", "a{sa{sv}}", profile()) == "StoppingInProgress"
        assert await refusal(it, "Disconnect") == "StoppingInProgress"
        it.service.leaving.set()
        await it.networkmanager.until_state(6)
        assert await refusal(it, "Disconnect") == "AlreadyStopped"
        assert await refusal(it, "NewSecrets", "a{sa{sv}}", profile()) == "WrongState"
        assert await refusal(it, "SetConfig", "a{sv}", {}) == "Failed"
        assert await refusal(it, "SetFailure", "s", "x") == "Failed"
        it.service.ready = True
        it.networkmanager.entries.clear()
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)

    run(test, "--persist")


def test_a_profile_that_cannot_be_right_is_refused_in_a_sentence() -> None:
    async def test(it: Bench) -> None:
        connection = profile()
        del connection["vpn"]
        kind, (name, sentence) = await it.networkmanager.connect(connection)
        assert (kind, name) == (ERROR, "org.freedesktop.NetworkManager.VPN.Error.BadArguments")
        assert sentence == "the connection has no setting vpn, so it is no VPN connection"
        assert [entry for entry in it.signals if entry[0] == "StateChanged"] == []

    run(test)


def test_signals_of_a_stranger_change_nothing() -> None:
    """Any user may send a signal to one connection, past its match rules."""

    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        async with connection(it.bus.address) as stranger:
            for path, interface, member, signature, body in (
                (
                    contract.tunnel_path("home"),
                    "org.freedesktop.DBus.Properties",
                    "PropertiesChanged",
                    "sa{sv}as",
                    [contract.TUNNEL_INTERFACE, {"State": Variant("s", "failed")}, []],
                ),
                (
                    "/org/freedesktop/DBus",
                    "org.freedesktop.DBus",
                    "NameOwnerChanged",
                    "sss",
                    [contract.BUS_NAME, ":1.1", ""],
                ),
            ):
                forged = Message.new_signal(path, interface, member, signature, body)
                forged.destination = PLUGIN
                await stranger.send(forged)
            await stranger.call(Message(PLUGIN, PATH, "org.freedesktop.DBus.Peer", "Ping"))
        it.service.change("home", {"prefixes": Variant("as", [])})
        await it.networkmanager.until(lambda entries: len(it.signals) == 2)
        assert it.signals == [("Ip4Config", None), ("Ip6Config", None)]

    run(test)


def test_state_is_a_property_and_introspection_names_every_signal() -> None:
    async def test(it: Bench) -> None:
        node = await it.networkmanager.bus.introspect(PLUGIN, PATH)
        interface = next(each for each in node.interfaces if each.name == INTERFACE)
        assert {each.name for each in interface.signals} == {
            "StateChanged",
            "Config",
            "Ip4Config",
            "Ip6Config",
            "Failure",
        }
        reply = await it.networkmanager.bus.call(
            Message(
                PLUGIN,
                PATH,
                "org.freedesktop.DBus.Properties",
                "Get",
                signature="ss",
                body=[INTERFACE, "State"],
            )
        )
        assert reply is not None
        assert reply.body[0] == Variant("u", 1)

    run(test)


def test_a_second_plugin_of_the_same_name_is_refused_in_a_sentence() -> None:
    async def test(it: Bench) -> None:
        second = await start_plugin(it.bus.address)
        _, stderr = await asyncio.wait_for(second.communicate(), 10)
        assert second.returncode == 1
        assert stderr.decode() == (
            f"nm-quicether-service: ERROR: bus name {PLUGIN} belongs to another process\n"
        )

    run(test)

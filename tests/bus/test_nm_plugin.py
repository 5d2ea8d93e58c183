"""The NetworkManager plugin as a process on a private bus, between a fake service and a fake
NetworkManager: which signals go out, and in which order."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether.bus.contract import ErrorName
from quicether_nm.interface import INTERFACE, PATH
from support.fake_networkmanager import ERROR, REPLY, profile
from support.plugin_bench import PLUGIN, Bench, run, start_plugin
from support.private_bus import connection

CONFIG_KEYS = {"tundev", "gateway", "mtu", "has-ip4", "has-ip6", "can-persist"}


def test_success_is_told_in_the_order_that_networkmanager_needs() -> None:
    async def test(it: Bench) -> None:
        assert await it.networkmanager.call("NeedSecrets", "a{sa{sv}}", profile()) == (REPLY, "")
        it.networkmanager.entries.clear()
        connection = profile({"network": "home", "peers": "192.0.2.1:9000"})
        assert await it.networkmanager.connect(connection) == (REPLY, None)
        await it.networkmanager.until_state(4)
        assert it.signals == [
            ("StateChanged", 3),
            ("ConnectInteractive reply", None),
            ("Config", None),
            ("Ip4Config", None),
            ("Ip6Config", None),
            ("StateChanged", 4),
        ]
        values = dict(it.networkmanager.entries)
        assert values["Config"].keys() == CONFIG_KEYS
        assert values["Config"]["tundev"] == "quicether0"
        assert values["Ip4Config"]["never-default"] is True
        assert len(values["Ip4Config"]["routes"]) == len(values["Ip6Config"]["routes"]) == 1
        assert it.service.calls == [
            (
                "Up",
                [
                    "home",
                    {"network": "home", "peers": "192.0.2.1:9000"},
                    {"owner": "networkmanager", "bound": True, "private": False},
                ],
            )
        ]

    run(test)


def test_it_owns_its_name_in_half_a_second() -> None:
    async def test(it: Bench) -> None:
        assert it.start_seconds < 2.0, "NetworkManager waits 5 s, and nmcli's user with it"

    run(test)


def test_connect_without_interaction_does_the_same() -> None:
    async def test(it: Bench) -> None:
        assert await it.networkmanager.call("Connect", "a{sa{sv}}", profile()) == (REPLY, None)
        await it.networkmanager.until_state(4)

    run(test)


def test_first_configuration_waits_for_a_peer_and_has_its_prefixes() -> None:
    async def test(it: Bench) -> None:
        it.service.ready = False
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: "home" in it.service.tunnels)
        assert not any(name == "Config" for name, _ in it.networkmanager.entries)
        it.service.change("home", {"prefixes": Variant("as", ["10.1.0.0/16", "10.2.0.0/16"])})
        it.service.become_ready("home")
        await it.networkmanager.until_state(4, deadline=2)
        assert len(dict(it.networkmanager.entries)["Ip4Config"]["routes"]) == 2

    run(test)


def test_without_a_peer_the_tunnel_is_up_within_four_seconds() -> None:
    async def test(it: Bench) -> None:
        it.service.ready = False
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4, deadline=4)

    run(test)


def test_changed_prefixes_are_told_live_and_config_only_when_it_changed() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.change("home", {"prefixes": Variant("as", ["10.1.0.0/16"])})
        await it.networkmanager.until(lambda entries: len(entries) == 2)
        assert it.signals == [("Ip4Config", None), ("Ip6Config", None)]
        assert dict(it.networkmanager.entries)["Ip6Config"]["routes"] == []
        it.networkmanager.entries.clear()
        it.service.change("home", {"mtu": Variant("u", 1300)})
        await it.networkmanager.until(lambda entries: len(entries) == 3)
        assert it.signals == [("Config", None), ("Ip4Config", None), ("Ip6Config", None)]
        assert dict(it.networkmanager.entries)["Config"]["mtu"] == 1300

    run(test)


def test_a_bad_change_keeps_the_working_connection() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.change("home", {"addresses": Variant("as", ["100.64.0.256/32"])})
        # Messages of one sender come in order, so the answer means that the change was seen.
        await it.service.bus.call(Message(PLUGIN, PATH, "org.freedesktop.DBus.Peer", "Ping"))
        it.service.change("home", {"addresses": Variant("as", ["100.64.0.2/32"])})
        await it.networkmanager.until(lambda entries: len(entries) == 2)
        assert it.signals == [("Ip4Config", None), ("Ip6Config", None)]
        it.plugin.terminate()
        assert "100.64.0.256/32" in await it.output()

    run(test)


def test_a_large_network_reaches_networkmanager_whole() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        for count in (4000, 8000, 12000, 16000):
            prefixes = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(count)]
            it.service.change("home", {"prefixes": Variant("as", prefixes)})
            await it.networkmanager.until(
                lambda entries, count=count: any(  # type: ignore[misc]
                    name == "Ip4Config" and len(value["routes"]) == count for name, value in entries
                ),
                deadline=30,
            )

    run(test)


def test_disconnect_takes_the_tunnel_down_and_the_program_ends() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        assert await it.networkmanager.call("Disconnect") == (REPLY, None)
        await it.networkmanager.until_gone()
        assert it.signals == [
            ("StateChanged", 5),
            ("Disconnect reply", None),
            ("StateChanged", 6),
        ]
        assert it.service.calls[-1] == ("Down", ["home"])
        assert it.service.tunnels == {}
        assert await asyncio.wait_for(it.plugin.wait(), 5) == 0

    run(test)


def test_disconnect_while_the_service_is_still_at_it_leaves_no_tunnel() -> None:
    async def test(it: Bench) -> None:
        it.service.gate.clear()
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: bool(it.service.calls))
        await it.networkmanager.call("Disconnect")
        it.service.gate.set()
        await it.networkmanager.until_state(6)
        assert it.service.tunnels == {}
        assert [member for member, _ in it.service.calls][-1] == "Down"

    run(test)


def test_disconnect_right_behind_connect_leaves_no_tunnel() -> None:
    async def test(it: Bench) -> None:
        await asyncio.gather(
            it.networkmanager.connect(profile()), it.networkmanager.call("Disconnect")
        )
        await it.networkmanager.until_gone()
        states = [value for name, value in it.signals if name == "StateChanged"]
        assert states == [3, 5, 6]
        assert it.service.tunnels == {}
        assert await it.output() == ""

    run(test)


def test_up_right_behind_down_waits_for_the_earlier_tunnel_to_end() -> None:
    async def test(it: Bench) -> None:
        await it.service.up("home", {}, {"bound": Variant("b", True)})
        it.service.leaving.clear()
        leaving = asyncio.create_task(it.service.down("home"))
        await asyncio.sleep(0)
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: len(it.service.calls) == 3)
        it.service.leaving.set()
        await leaving
        await it.networkmanager.until_state(4)
        assert [member for member, _ in it.service.calls] == ["Up", "Down", "Up", "Up"]

    run(test)


@pytest.mark.parametrize(
    ("name", "sentence", "reason"),
    [
        (ErrorName.INVALID, "listen-port '99999' is not a port from 0 to 65535", 1),
        (ErrorName.FAILED, "UDP port 9000 is taken by another program", 1),
        (ErrorName.ALREADY_UP, "tunnel home is up with other settings", 1),
        (ErrorName.NOT_AUTHORIZED, "polkit did not answer", 0),
        (ErrorName.IDENTITY, "the certificate of cafe-laptop expired on 2026-01-01", 0),
        (ErrorName.NOT_TRUSTED, "the authority does not accept this node", 0),
    ],
)
def test_a_refusal_by_the_service_is_a_failure_with_its_sentence(
    name: ErrorName, sentence: str, reason: int
) -> None:
    async def test(it: Bench) -> None:
        it.service.failing_with = (name, sentence)
        assert await it.networkmanager.connect(profile()) == (REPLY, None)
        await it.networkmanager.until_gone()
        assert it.signals == [
            ("StateChanged", 3),
            ("ConnectInteractive reply", None),
            ("Failure", reason),
            ("StateChanged", 5),
            ("StateChanged", 6),
        ]
        output = await it.output()
        assert f"quicether: {sentence}" in output
        assert "Traceback" not in output

    run(test)


def test_a_desired_state_that_makes_no_sense_is_a_bad_ip_config() -> None:
    async def test(it: Bench) -> None:
        it.service.host_config["addresses"] = Variant("as", [])
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(6)
        assert ("Failure", 2) in it.networkmanager.entries
        assert it.service.tunnels == {}

    run(test)


def test_a_tunnel_that_fails_later_is_a_failure_with_its_sentence() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.fail("home", "the certificate expired on 2026-01-01")
        await it.networkmanager.until_gone()
        assert it.signals == [("Failure", 1), ("StateChanged", 5), ("StateChanged", 6)]
        assert it.service.calls[-1] == ("Down", ["home"])
        assert "the certificate expired on 2026-01-01" in await it.output()

    run(test)


def test_a_tunnel_that_the_service_lost_is_a_failure_with_its_sentence() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.lose("home", "device quicether0 was removed")
        await it.networkmanager.until_gone()
        assert it.signals == [("Failure", 1), ("StateChanged", 5), ("StateChanged", 6)]
        assert "device quicether0 was removed" in await it.output()

    run(test)


def test_a_tunnel_that_somebody_took_down_ends_the_connection() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        await it.service.down("home")
        await it.networkmanager.until_gone()
        assert "tunnel home was taken down" in await it.output()

    run(test)


def test_the_late_end_of_an_earlier_tunnel_does_not_end_this_one() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        path, interfaces = contract.tunnel_path("home"), [contract.TUNNEL_INTERFACE]
        manager = "org.freedesktop.DBus.ObjectManager"
        body = [path, interfaces]
        await it.service.bus.send(
            Message.new_signal(contract.ROOT_PATH, manager, "InterfacesRemoved", "oas", body)
        )
        it.service.change("home", {"prefixes": Variant("as", [])})
        await it.networkmanager.until(lambda entries: len(entries) == 2)
        assert it.signals == [("Ip4Config", None), ("Ip6Config", None)]

    run(test)


def test_what_changed_before_the_object_was_announced_is_not_missed() -> None:
    """The service tells changes since InterfacesAdded, which may come after our first look."""

    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        tunnel = it.service.tunnels["home"]
        tunnel.host_config["prefixes"] = Variant("as", ["10.1.0.0/16"])
        manager = "org.freedesktop.DBus.ObjectManager"
        body = [contract.tunnel_path("home"), {contract.TUNNEL_INTERFACE: {}}]
        await it.service.bus.send(
            Message.new_signal(contract.ROOT_PATH, manager, "InterfacesAdded", "oa{sa{sv}}", body)
        )
        await it.networkmanager.until(lambda entries: len(entries) == 2)
        assert len(dict(it.networkmanager.entries)["Ip4Config"]["routes"]) == 1

    run(test)


def test_a_service_that_vanishes_ends_the_connection_within_a_second() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.bus.disconnect()
        await it.networkmanager.until_state(6, deadline=1)
        assert it.signals == [("Failure", 1), ("StateChanged", 5), ("StateChanged", 6)]
        assert "org.quicether1" in await it.output()

    run(test)


def test_a_service_that_is_stopped_is_waited_for_although_its_last_words_come_at_once() -> None:
    """The tunnel's end and the service's were seen together, and taken for a crash."""

    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.plugin.send_signal(signal.SIGSTOP)
        it.service.lose("home", "")
        await it.service.bus.release_name(contract.BUS_NAME)
        it.plugin.send_signal(signal.SIGCONT)
        await it.networkmanager.until_state(3)
        assert it.signals[0] == ("StateChanged", 3), "which means that it is reconnecting"

    run(test)


def test_a_service_that_vanishes_while_starting_ends_the_connection() -> None:
    async def test(it: Bench) -> None:
        it.service.gate.clear()
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: bool(it.service.calls))
        it.service.bus.disconnect()
        await it.networkmanager.until_state(6, deadline=1)

    run(test)


def test_without_a_service_the_journal_says_so() -> None:
    async def test(it: Bench) -> None:
        await it.service.bus.release_name(contract.BUS_NAME)
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(6)
        assert "org.quicether1 cannot be used" in await it.output()

    run(test)


def test_a_service_that_never_answers_is_given_up_before_networkmanager_does() -> None:
    async def test(it: Bench) -> None:
        it.service.gate.clear()
        await it.networkmanager.connect(profile(timeout=Variant("u", 2)))
        await it.networkmanager.until(lambda entries: ("Failure", 1) in entries, deadline=2)
        await it.networkmanager.until_state(6)

    run(test)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_the_tunnel_down(number: signal.Signals) -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.plugin.send_signal(number)
        assert await asyncio.wait_for(it.plugin.wait(), 5) == 0
        assert it.service.calls[-1] == ("Down", ["home"])

    run(test)


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


def test_a_private_profile_is_marked_for_the_service() -> None:
    async def test(it: Bench) -> None:
        connection = profile()
        connection["connection"]["permissions"] = Variant("as", ["user:alice:"])
        await it.networkmanager.connect(connection)
        await it.networkmanager.until_state(4)
        assert it.service.calls[0][1][2]["private"] is True

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

"""The NetworkManager plugin as a process on a private bus, between a fake service and a fake
NetworkManager: which signals go out, and in which order."""

from __future__ import annotations

import asyncio
import signal

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether_nm.interface import PATH
from support.fake_networkmanager import REPLY, profile
from support.plugin_bench import PLUGIN, Bench, run

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_the_tunnel_down(number: signal.Signals) -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.plugin.send_signal(number)
        assert await asyncio.wait_for(it.plugin.wait(), 5) == 0
        assert it.service.calls[-1] == ("Down", ["home"])

    run(test)


def test_a_private_profile_is_marked_for_the_service() -> None:
    async def test(it: Bench) -> None:
        connection = profile()
        connection["connection"]["permissions"] = Variant("as", ["user:alice:"])
        await it.networkmanager.connect(connection)
        await it.networkmanager.until_state(4)
        assert it.service.calls[0][1][2]["private"] is True

    run(test)

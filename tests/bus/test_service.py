"""The D-Bus API on a private bus, with a fake daemon behind it and a fake polkit beside it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from dbus_next.signature import Variant

from quicether.bus.contract import (
    BUS_NAME,
    LIST_LIMIT,
    MANAGER_INTERFACE,
    ROOT_PATH,
    TUNNEL_INTERFACE,
    ErrorName,
    LinkOwnerName,
    tunnel_path,
)
from quicether.bus.service import BusService
from quicether.errors import HostError
from quicether.identity.invite_code import InviteCode
from support.bus_client import OBJECT_MANAGER, client
from support.fake_controller import FakeController, FakeTunnel
from support.fake_polkit import Answer
from support.private_bus import PrivateBus
from support.service_bench import HOME, Bench, refusal, run


def test_a_tunnel_goes_up_and_down_and_is_an_object_between() -> None:
    async def test(it: Bench) -> None:
        await it.me.watch()
        path = await it.me.up("home", {"mtu": "1300"}, how={"owner": Variant("s", "networkd")})
        assert path == HOME
        assert it.controller.options == {"mtu": "1300"}
        assert it.controller.request.owner is LinkOwnerName.NETWORKD
        assert not it.controller.request.transient
        assert await it.me.get(TUNNEL_INTERFACE, "State", path) == "running"
        await it.me.until(lambda seen: any(member == "InterfacesAdded" for member, *_ in seen))
        member, where, (added, interfaces) = it.me.signals[-1]
        assert (member, where, added) == ("InterfacesAdded", ROOT_PATH, path)
        assert interfaces[TUNNEL_INTERFACE]["NodeName"] == "laptop"
        await it.me.down("home")
        name, _ = await refusal(it.me.get(TUNNEL_INTERFACE, "State", path))
        assert name == "org.freedesktop.DBus.Error.UnknownObject"
        await it.me.until(lambda seen: seen[-1][0] == "InterfacesRemoved")
        assert it.me.signals[-1][1:] == (ROOT_PATH, [path, [TUNNEL_INTERFACE]])

    run(test)


def test_properties_tell_everything_that_status_shows() -> None:
    async def test(it: Bench) -> None:
        found = await it.me.call(
            "org.freedesktop.DBus.Properties", "GetAll", "s", TUNNEL_INTERFACE, path=HOME
        )
        assert found["HostConfig"] == {
            "device": "quicether0",
            "mtu": 1380,
            "addresses": ["100.64.0.2/32", "fd12:3456:789a::2/128"],
            "prefixes": ["192.168.1.0/24", "10.0.0.0/8"],
            "dns-servers": ["192.168.1.1"],
            "dns-domains": ["home.example"],
            "dns-default": False,
            "full-tunnel": False,
            "gateway": "",
        }
        assert found["Counters"]["drop-no-route"] == 3
        assert found["Counters"]["sent-bytes"] == 1000
        assert [peer["state"] for peer in found["Peers"]] == [
            "unreachable",
            "connected",
            "via-gateway",
        ]
        assert "rtt" not in found["Peers"][0]
        assert found["Routes"][0]["next-hop"] == "node"
        assert found["Offers"] == ["192.168.77.0/24"]
        assert found["Refusals"] == ["172.16.0.0/12 covers 172.16.3.0/24 of eth0"]
        assert await it.me.get(MANAGER_INTERFACE, "Version") == "1.2.3"

    run(test, "home")


def test_the_object_manager_lists_all_tunnels() -> None:
    async def test(it: Bench) -> None:
        found = await it.me.call(OBJECT_MANAGER, "GetManagedObjects")
        assert set(found) == {HOME, tunnel_path("My VPN")}
        assert found[tunnel_path("My VPN")][TUNNEL_INTERFACE]["Name"] == "My VPN"

    run(test, "home", "My VPN")


def test_a_burst_of_changes_becomes_few_signals_with_the_last_state() -> None:
    async def test(it: Bench) -> None:
        await it.me.watch()
        tunnel = it.controller.tunnels["home"]
        assert tunnel.host_config is not None
        for number in range(200):
            prefixes = tuple(IPv4Network((number << 24, 8)) for number in range(1, number % 20 + 2))
            tunnel.host_config = replace(tunnel.host_config, prefixes=prefixes)
            tunnel.ready = number % 2 == 1
            it.controller.change()
            await asyncio.sleep(0)
        last = [str(prefix) for prefix in tunnel.host_config.prefixes]
        await it.me.until(
            lambda seen: bool(seen) and seen[-1][2][1]["HostConfig"]["prefixes"] == last
        )
        assert len(it.me.signals) <= 2

    run(test, "home")


def test_large_lists_are_invalidated_instead_of_sent() -> None:
    async def test(it: Bench) -> None:
        await it.me.watch()
        it.controller.grow("home", 1000)
        await it.me.until(lambda seen: bool(seen))
        assert it.me.signals == [
            ("PropertiesChanged", HOME, [TUNNEL_INTERFACE, {}, ["PeerCount", "Peers"]])
        ]
        assert await it.me.get(TUNNEL_INTERFACE, "PeerCount", HOME) == 1000
        assert len(await it.me.get(TUNNEL_INTERFACE, "Peers", HOME)) == LIST_LIMIT
        rest = await it.me.tunnel("home", "ListPeers", "uu", 990, 4_000_000_000)
        assert [peer["name"] for peer in rest] == [f"n{number}" for number in range(990, 1000)]
        assert len(await it.me.tunnel("home", "ListPeers", "uu", 0, 4_000_000_000)) == LIST_LIMIT

    run(test, "home")


def test_telling_of_changes_does_not_list_what_may_be_a_million() -> None:
    async def test(it: Bench) -> None:
        await it.me.watch()
        tunnel = it.controller.tunnels["home"]
        before = tunnel.listed
        tunnel.ready = False
        it.controller.change()
        await it.me.until(lambda seen: len(seen) == 1)
        tunnel.all_routes.pop()
        it.controller.change()
        await it.me.until(lambda seen: len(seen) == 2)
        assert it.me.signals[-1][2][2] == ["RouteCount", "Routes"]
        assert tunnel.listed == before

    run(test, "home")


def test_packets_go_on_while_there_is_always_something_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With as many routes as the OS gets, half the time went into telling of them."""

    def slowly(*_: object) -> dict[str, int]:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        return {}

    monkeypatch.setattr("quicether.bus.service.PUBLISH_INTERVAL", 0)

    async def test(it: Bench) -> None:
        monkeypatch.setattr(FakeTunnel, "offers", property(slowly))
        await it.me.watch()
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            it.controller.tunnels["home"].ready ^= True
            it.controller.change()
            await asyncio.sleep(0.01)
        await it.me.until(bool)
        assert len(it.me.signals) <= 3, "of 6"

    run(test, "home")


def test_a_tunnel_that_is_replaced_at_once_is_another_object() -> None:
    async def test(it: Bench) -> None:
        await it.me.watch()
        it.controller.tunnels["home"] = FakeTunnel("home", node_name="other")
        it.controller.change()
        await it.me.until(lambda seen: len(seen) == 2)
        assert [member for member, *_ in it.me.signals] == ["InterfacesRemoved", "InterfacesAdded"]

    run(test, "home")


def test_questions_about_a_tunnel() -> None:
    async def test(it: Bench) -> None:
        assert await it.me.tunnel("home", "Lookup", "s", "192.168.1.9") == {
            "address": "192.168.1.9",
            "prefix": "192.168.1.0/24",
            "next-hop": "node",
            "source": "announced",
            "node-id": "11" * 20,
            "node-name": "home",
            "reachable": True,
            "asked": False,
        }
        assert (await it.me.tunnel("home", "Ping", "s", "office"))["via"] == "home"
        verdict = await it.me.tunnel("home", "PolicyTest", "sssq", "laptop", "10.0.0.5", "tcp", 443)
        assert verdict == {
            "allowed": True,
            "reason": "laptop to 10.0.0.5 tcp 443",
            "rule": "web",
        }
        assert await refusal(it.me.tunnel("home", "Ping", "s", "attic")) == (
            ErrorName.FAILED.value,
            "attic did not answer within 5 s",
        )

    run(test, "home")


def code_for(network: str) -> str:
    return str(InviteCode(bytes(16), bytes(5), network, (("192.0.2.1", 9000),)))


def test_joining_asks_for_trust_and_says_how_to_go_on() -> None:
    async def test(it: Bench) -> None:
        joined = await it.me.join(code_for("attic").lower().replace("-", " "))
        assert it.polkit.asked[-1][1] == "org.quicether1.trust"
        assert it.controller.calls == [("join", "attic")]
        assert joined == {
            "network": "attic",
            "name": "laptop",
            "node-id": "0a" * 20,
            "addresses": ["100.64.0.2"],
            "prefixes": [],
            "groups": [],
            "valid-until": 1_700_000_000.0,
            "inviter": "home",
            "peer": "home@192.0.2.1:9000",
            "settings-file": "/etc/quicether/attic.toml",
            "settings-current": True,
            "next": "nmcli connection up quicether",
        }

    run(test)


def test_joining_in_vain_has_an_error_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def test(it: Bench) -> None:
        for code, name, said in (
            ("AAAAA-BBBBB", ErrorName.INVALID, "mistyped or cut off"),
            ("A" * 2000, ErrorName.INVALID, "longer than 1024 characters"),
            (code_for("stolen"), ErrorName.NOT_TRUSTED, "refuses this code"),
            (code_for("silent"), ErrorName.FAILED, "does not answer"),
        ):
            found, sentence = await refusal(it.me.join(code))
            assert found == name
            assert said in sentence
            assert code not in sentence + caplog.text
        it.polkit.answers["org.quicether1.trust"] = Answer.CHALLENGE
        found, sentence = await refusal(it.me.join("AAAAA-BBBBB"))
        assert found == ErrorName.NOT_AUTHORIZED
        assert sentence.startswith("you may not change who is trusted")
        assert it.controller.calls == [("join", "stolen"), ("join", "silent")]

    run(test)


def test_joining_goes_on_when_its_caller_leaves() -> None:
    async def test(it: Bench) -> None:
        it.controller.gate.clear()
        async with client(it.address) as other:
            joining = asyncio.ensure_future(other.join(code_for("attic")))
            await it.controller.until(lambda: bool(it.controller.calls))
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        it.controller.gate.set()
        await it.controller.until(lambda: it.controller.joined == ["attic"])

    run(test)


def test_a_bound_tunnel_goes_down_with_its_caller() -> None:
    async def test(it: Bench) -> None:
        async with client(it.address) as other:
            await other.up("home", how={"bound": Variant("b", True)})
            name, _ = await refusal(it.me.up("home", how={"bound": Variant("b", True)}))
            assert name == ErrorName.ALREADY_UP
            # A profile that could never come up is told so, whoever holds the tunnel.
            wrong = {"lisen-port": "9000"}
            name, sentence = await refusal(it.me.up("home", wrong, {"bound": Variant("b", True)}))
            assert name == ErrorName.INVALID
            assert "lisen-port" in sentence
        await it.controller.until(lambda: ("down", "home") in it.controller.calls)

    run(test)


def test_a_caller_that_leaves_while_its_bound_tunnel_rises_leaves_nothing() -> None:
    async def test(it: Bench) -> None:
        it.controller.gate.clear()
        async with client(it.address) as other:
            rising = asyncio.ensure_future(other.up("home", how={"bound": Variant("b", True)}))
            await it.controller.until(lambda: ("up", "home") in it.controller.calls)
        await it.controller.until(lambda: it.controller.cancelled == 1)
        rising.cancel()
        await asyncio.gather(rising, return_exceptions=True)
        assert not it.controller.tunnels
        it.controller.gate.set()
        await it.me.up("home")

    run(test)


def test_an_unbound_tunnel_goes_on_when_its_caller_leaves() -> None:
    async def test(it: Bench) -> None:
        it.controller.gate.clear()
        async with client(it.address) as other:
            rising = asyncio.ensure_future(other.up("home"))
            await it.controller.until(lambda: ("up", "home") in it.controller.calls)
        rising.cancel()
        await asyncio.gather(rising, return_exceptions=True)
        it.controller.gate.set()
        await it.controller.until(lambda: "home" in it.controller.tunnels)
        assert it.controller.cancelled == 0

    run(test)


def test_a_tunnel_taken_down_by_someone_else_is_no_longer_bound() -> None:
    async def test(it: Bench) -> None:
        async with client(it.address) as other:
            await other.up("home", how={"bound": Variant("b", True)})
            await it.me.down("home")
            await it.me.up("home")
            name = str(other.bus.unique_name)
        await it.me.until_gone(name)
        await it.me.get(MANAGER_INTERFACE, "Version")
        assert it.controller.calls == [("up", "home"), ("down", "home"), ("up", "home")]

    run(test)


def test_a_question_ends_when_its_caller_leaves() -> None:
    async def test(it: Bench) -> None:
        it.polkit.news.clear()
        async with client(it.address) as other:
            asked = asyncio.ensure_future(other.tunnel("home", "Ping", "s", "slow"))
            await it.polkit.news.wait()
            await it.me.get(MANAGER_INTERFACE, "Version")
        tunnel = it.controller.tunnels["home"]
        async with asyncio.timeout(5):
            while not tunnel.cancelled_pings:
                await it.me.get(MANAGER_INTERFACE, "Version")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    run(test, "home")


def test_a_second_service_cannot_take_the_name() -> None:
    async def test(it: Bench) -> None:
        second = BusService(FakeController(), "1.2.3", address=it.address)
        with pytest.raises(HostError, match=f"cannot own {BUS_NAME}"):
            await second.open()
        await second.close()

    run(test)


def test_the_end_of_the_bus_is_told() -> None:
    async def main() -> None:
        with PrivateBus() as bus:
            service = BusService(FakeController("home"), "1.2.3", address=bus.address)
            await service.open()
            waiting = asyncio.ensure_future(service.wait_closed())
        with pytest.raises(HostError, match="the system bus went away"):
            await asyncio.wait_for(waiting, 5)
        await service.close()

    asyncio.run(main())


def test_waiting_for_the_end_may_be_given_up_before_closing() -> None:
    """Cancelling `wait_closed` made `close` raise CancelledError."""

    async def main() -> None:
        with PrivateBus() as bus:
            service = BusService(FakeController("home"), "1.2.3", address=bus.address)
            await service.open()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(service.wait_closed(), 0.01)
            await service.close()

    asyncio.run(main())

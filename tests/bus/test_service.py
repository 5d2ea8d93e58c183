"""The D-Bus API on a private bus, with a fake daemon behind it and a fake polkit beside it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any
from xml.etree import ElementTree

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
from support.bus_client import INTROSPECTABLE, OBJECT_MANAGER, BusClient, Refused, client
from support.fake_controller import FakeController, FakeTunnel
from support.fake_polkit import Answer, FakePolkit
from support.private_bus import PrivateBus, connection

HOME = tunnel_path("home")


@dataclass
class Bench:
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
    async def main() -> None:
        with PrivateBus() as bus:
            async with bench(bus.address, *tunnels) as it:
                await test(it)

    asyncio.run(main())


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        await call
    return caught.value.name, str(caught.value)


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


@pytest.mark.parametrize(
    ("options", "how", "name", "sentence"),
    [
        (
            {"mtuu": "1"},
            {},
            ErrorName.INVALID,
            "option 'mtuu' is unknown; did you mean 'mtu'?",
        ),
        (
            {"advertise-subnets": "192.168.1.5/24"},
            {},
            ErrorName.INVALID,
            "advertise-subnets: 192.168.1.5/24 has host bits set; 192.168.1.0/24 was probably "
            "meant",
        ),
        (
            {},
            {"ownr": Variant("s", "networkd")},
            ErrorName.INVALID,
            "how: 'ownr' is unknown; did you mean 'owner'?",
        ),
        (
            {},
            {"owner": Variant("s", "me")},
            ErrorName.INVALID,
            "how: owner: 'me' is not one of auto, networkmanager, networkd, netlink",
        ),
        (
            {},
            {"bound": Variant("s", "yes")},
            ErrorName.INVALID,
            "how: bound has type 's'; 'b' is needed",
        ),
        (
            {"policy-file": "/etc/shadow"},
            {"private": Variant("b", True)},
            ErrorName.NOT_AUTHORIZED,
            "policy-file is not taken from a profile that belongs to one user; make the profile "
            "available to all users, or set it in /etc/quicether",
        ),
    ],
)
def test_a_wrong_up_is_one_sentence(
    options: dict[str, str], how: dict[str, Variant], name: ErrorName, sentence: str
) -> None:
    async def test(it: Bench) -> None:
        assert await refusal(it.me.up("home", options, how)) == (name.value, sentence)
        assert not it.controller.tunnels

    run(test)


def test_errors_have_names() -> None:
    async def test(it: Bench) -> None:
        assert (await refusal(it.me.up("home")))[0] == ErrorName.ALREADY_UP
        assert (await refusal(it.me.up("nowhere")))[0] == ErrorName.NOT_FOUND
        assert await refusal(it.me.up("broken")) == (
            ErrorName.FAILED.value,
            "quicether0: no such device can be made",
        )
        assert (await it.me.get(MANAGER_INTERFACE, "Failures"))["broken"] == (
            "quicether0: no such device can be made"
        )
        assert (await refusal(it.me.down("away")))[0] == ErrorName.NOT_FOUND
        for wrong in ("", "../../etc/passwd", ".hidden", "x" * 65, "a\nb\x07"):
            assert (await refusal(it.me.down(wrong)))[0] == ErrorName.INVALID
        assert await refusal(it.me.tunnel("home", "Lookup", "s", "10.0.0")) == (
            ErrorName.INVALID.value,
            "address: '10.0.0' is not an IPv4 or IPv6 address",
        )
        assert it.controller.calls == [("up", name) for name in ("home", "nowhere", "broken")] + [
            ("down", "away")
        ]

    run(test, "home")


def test_a_bug_of_ours_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def test(it: Bench) -> None:
        name, sentence = await refusal(it.me.tunnel("home", "Ping", "s", "bug"))
        assert name == ErrorName.FAILED
        assert sentence == "the service failed for a reason of its own; see its journal"

    run(test, "home")
    assert "a secret of the implementation" in caplog.text


def test_what_does_not_fit_the_api_has_the_standard_names() -> None:
    async def test(it: Bench) -> None:
        error = "org.freedesktop.DBus.Error."
        me = it.me
        properties = "org.freedesktop.DBus.Properties"
        for expected, call in (
            ("UnknownObject", me.call(MANAGER_INTERFACE, "Up", path="/elsewhere")),
            ("UnknownInterface", me.call("org.example.Other", "Up")),
            ("UnknownMethod", me.call(MANAGER_INTERFACE, "Explode")),
            ("InvalidArgs", me.call(MANAGER_INTERFACE, "Down", "u", 7)),
            ("InvalidArgs", me.call(MANAGER_INTERFACE, "Down", "sa{ss}a{sv}", "a", {}, {})),
            ("UnknownProperty", me.get(MANAGER_INTERFACE, "Colour")),
            ("UnknownInterface", me.get("org.example.Other", "Version")),
            (
                "PropertyReadOnly",
                me.call(properties, "Set", "ssv", MANAGER_INTERFACE, "Version", Variant("s", "9")),
            ),
        ):
            assert (await refusal(call))[0] == error + expected

    run(test)


def test_introspection_documents_every_member() -> None:
    async def test(it: Bench) -> None:
        xml = await it.me.call(INTROSPECTABLE, "Introspect", path=HOME)
        node = ElementTree.fromstring(re.sub("<!DOCTYPE.*?>", "", xml, flags=re.DOTALL))
        for interface in node.iter("interface"):
            for member in (*interface.iter("method"), *interface.iter("property")):
                docs = [
                    item.get("value")
                    for item in member.iter("annotation")
                    if item.get("name") == "org.gtk.GDBus.DocString"
                ]
                assert docs and docs[0], member.get("name")
        root = await it.me.call(INTROSPECTABLE, "Introspect", path="/")
        assert '<node name="org" />' in root
        tunnels = await it.me.call(INTROSPECTABLE, "Introspect", path="/org/quicether1/tunnel")
        assert '<node name="home" />' in tunnels

    run(test, "home")


def test_without_tunnels_the_tree_has_no_dangling_node() -> None:
    """`busctl tree` failed on /org/quicether1/tunnel, which was listed but did not exist."""

    async def test(it: Bench) -> None:
        assert "<node name=" not in await it.me.call(INTROSPECTABLE, "Introspect")

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


def test_polkit_is_asked_for_each_kind_of_call() -> None:
    async def test(it: Bench) -> None:
        it.polkit.default = Answer.NO
        me = it.me
        for action, call in (
            ("status", me.get(MANAGER_INTERFACE, "Version")),
            ("status", me.call(OBJECT_MANAGER, "GetManagedObjects")),
            ("status", me.tunnel("home", "Ping", "s", "home")),
            ("connect", me.up("home")),
            ("connect", me.down("home")),
            ("configure", me.call(MANAGER_INTERFACE, "Reload", "s", "home")),
        ):
            name, sentence = await refusal(call)
            assert name == ErrorName.NOT_AUTHORIZED
            assert f"polkit refuses org.quicether1.{action}" in sentence
            assert it.polkit.asked[-1] == (str(me.bus.unique_name), f"org.quicether1.{action}", 0)
        assert it.controller.calls == []

    run(test, "home")


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"pinned-peers": f"{'11' * 20}=10.0.0.0/8"}, "org.quicether1.trust"),
        ({"audit-log": "journal"}, "org.quicether1.configure"),
    ],
)
def test_options_that_widen_trust_or_name_files_need_a_right_of_their_own(
    options: dict[str, str], action: str
) -> None:
    async def test(it: Bench) -> None:
        it.polkit.answers[action] = Answer.CHALLENGE
        await it.me.up("home", {"mtu": "1300"})
        name, sentence = await refusal(it.me.up("work", options))
        assert name == ErrorName.NOT_AUTHORIZED
        assert "administrator's password" in sentence
        await it.me.up("work", options, interactive=True)
        assert it.polkit.asked[-1][1:] == (action, 1)

    run(test)


@pytest.mark.parametrize(
    "how", [{}, {"bound": Variant("b", True)}, {"private": Variant("b", True)}]
)
def test_a_wrong_setting_is_named_even_where_the_tunnel_is_up(how: dict[str, Variant]) -> None:
    """Beside an option that is privileged the answer was AlreadyUp, whatever else was wrong."""

    async def test(it: Bench) -> None:
        options = {"policy-file": "/etc/quicether/policy.toml", "advertise-subnet": "10.0.0.0/8"}
        name, sentence = await refusal(it.me.up("home", options, how))
        assert name == ErrorName.INVALID
        assert "advertise-subnet" in sentence

    run(test, "home")


def test_a_privileged_option_does_not_cover_for_another_that_is_left_out() -> None:
    async def test(it: Bench) -> None:
        it.polkit.answers["org.quicether1.configure"] = Answer.NO
        how = {"transient": Variant("b", True)}
        name, _ = await refusal(it.me.up("x", {"pinned-peers": f"{'11' * 20}=10.0.0.0/8"}, how))
        assert name == ErrorName.NOT_AUTHORIZED
        assert it.controller.calls == []

    run(test)


def test_what_leaves_out_stored_trust_needs_the_right_to_configure() -> None:
    """`transient`, or another name for the tunnel, took the stored policy and audit away."""

    async def test(it: Bench) -> None:
        it.polkit.answers["org.quicether1.configure"] = Answer.NO
        transient = {"transient": Variant("b", True)}
        name, _ = await refusal(it.me.up("x", {"network": "home"}, transient))
        assert name == ErrorName.NOT_AUTHORIZED
        it.polkit.answers["org.quicether1.configure"] = Answer.YES
        private = transient | {"private": Variant("b", True)}
        name, sentence = await refusal(it.me.up("x", {"network": "home"}, private))
        assert name == ErrorName.NOT_AUTHORIZED
        assert sentence.startswith("policy-file would not be as it is stored")
        assert it.controller.calls == []
        await it.me.up("x", {"network": "home"}, transient)

    run(test)


def test_a_prompt_goes_away_with_its_caller() -> None:
    async def test(it: Bench) -> None:
        it.polkit.default = Answer.SILENCE
        async with client(it.address) as other:
            rising = asyncio.ensure_future(other.up("home", interactive=True))
            await it.polkit.news.wait()
            it.polkit.news.clear()
        await asyncio.wait_for(it.polkit.news.wait(), 5)
        assert it.polkit.cancelled == ["quicether-1"]
        rising.cancel()
        await asyncio.gather(rising, return_exceptions=True)
        assert it.controller.calls == []

    run(test)


def test_a_polkit_that_fails_lets_nobody_in() -> None:
    async def test(it: Bench) -> None:
        it.polkit.default = Answer.FAILURE
        name, sentence = await refusal(it.me.up("home"))
        assert name == ErrorName.FAILED
        assert sentence == (
            "polkit cannot decide about org.quicether1.connect: "
            "Action org.quicether1.connect is not registered"
        )
        assert it.controller.calls == []

    run(test)

"""What the D-Bus API answers to what is wrong, and what it says of itself."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from dbus_next.signature import Variant

from quicether.bus.contract import MANAGER_INTERFACE, ErrorName
from support.bus_client import INTROSPECTABLE
from support.service_bench import HOME, Bench, refusal, run


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

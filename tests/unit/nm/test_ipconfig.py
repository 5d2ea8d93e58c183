"""Desired state → NetworkManager's dictionaries: golden outputs, and what is sent when."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.errors import HostError
from quicether_nm.ipconfig import BadHostConfigError, NetworkConfig, Typed, network_config
from quicether_nm.states import Signal

HOST_CONFIG: dict[str, object] = {
    "device": "quicether0",
    "mtu": 1380,
    "addresses": ["100.64.0.1/32", "fd12:3456:789a::1/128"],
    "prefixes": ["10.0.0.0/8", "192.168.1.0/24", "fd12:3456:789a:1::/64"],
    "dns-servers": [],
    "dns-domains": [],
    "dns-default": False,
    "full-tunnel": False,
    "gateway": "192.0.2.1",
}
UNSPECIFIED = bytes(16)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def told(*, ipv6: bool = True, **changed: object) -> NetworkConfig:
    """Return what NetworkManager is told on a little-endian machine."""
    host_config = HOST_CONFIG | {key.replace("_", "-"): value for key, value in changed.items()}
    return network_config(host_config, ipv4=True, ipv6=ipv6, byteorder="little")


def test_both_families_golden() -> None:
    assert told() == NetworkConfig(
        config={
            "tundev": Typed("s", "quicether0"),
            "gateway": Typed("u", 0x010200C0),
            "mtu": Typed("u", 1380),
            "has-ip4": Typed("b", True),
            "has-ip6": Typed("b", True),
            "can-persist": Typed("b", True),
        },
        ip4={
            "address": Typed("u", 0x01004064),
            "prefix": Typed("u", 32),
            "routes": Typed("aau", [[0x0000000A, 8, 0, 0], [0x0001A8C0, 24, 0, 0]]),
            "never-default": Typed("b", True),
        },
        ip6={
            "address": Typed("ay", packed("fd12:3456:789a::1")),
            "prefix": Typed("u", 128),
            "routes": Typed("a(ayuayu)", [[packed("fd12:3456:789a:1::"), 64, UNSPECIFIED, 0]]),
            "never-default": Typed("b", True),
        },
    )


def test_ipv4_numbers_are_network_bytes_in_the_order_of_the_machine() -> None:
    big = network_config(HOST_CONFIG, ipv4=True, ipv6=True, byteorder="big")
    assert big.ip4 is not None
    assert big.ip4["address"] == Typed("u", 0x64400001)
    assert big.ip4["routes"] == Typed("aau", [[0x0A000000, 8, 0, 0], [0xC0A80100, 24, 0, 0]])


def test_name_servers_and_domains_go_to_their_family_golden() -> None:
    network = told(
        dns_servers=["100.64.0.53", "fd12:3456:789a::53"],
        dns_domains=["home.quicether"],
        dns_default=True,
    )
    assert network.ip4 is not None
    assert network.ip6 is not None
    domains = Typed("as", ["home.quicether", "~."])
    assert network.ip4["dns"] == Typed("au", [0x35004064])
    assert network.ip6["dns"] == Typed("aay", [packed("fd12:3456:789a::53")])
    assert network.ip4["domains"] == network.ip6["domains"] == domains


def test_a_family_without_a_name_server_gets_no_domains() -> None:
    network = told(dns_servers=["100.64.0.53"], dns_domains=["home.quicether"])
    assert network.ip4 is not None
    assert network.ip6 is not None
    assert "domains" in network.ip4
    assert not {"dns", "domains"} & network.ip6.keys()


def test_gateway_may_be_ipv6() -> None:
    assert told(gateway="2001:db8::1").config["gateway"] == Typed("ay", packed("2001:db8::1"))


def test_without_a_gateway_it_is_the_dummy_address_because_zero_is_refused() -> None:
    assert told(gateway="").config["gateway"] == Typed("u", 0x080000C0)


def test_default_routes_are_the_services_own_matter() -> None:
    network = told(prefixes=["0.0.0.0/0", "::/0", "10.0.0.0/8"], full_tunnel=True)
    assert network.ip4 is not None
    assert network.ip6 is not None
    assert network.ip4["routes"] == Typed("aau", [[0x0000000A, 8, 0, 0]])
    assert network.ip6["routes"] == Typed("a(ayuayu)", [])
    assert network.ip4["never-default"] == network.ip6["never-default"] == Typed("b", True)


def test_a_family_that_the_profile_does_not_want_is_not_announced() -> None:
    network = told(ipv6=False)
    assert network.ip6 is None
    assert network.config["has-ip6"] == Typed("b", False)
    assert network.left_out == ()


def test_prefixes_without_an_address_of_their_family_are_left_out_and_said() -> None:
    """NetworkManager before 1.48 refuses an Ip6Config without an address."""
    network = told(addresses=["100.64.0.1/32"])
    assert network.ip6 is None
    assert network.config["has-ip6"] == Typed("b", False)
    assert network.left_out == ("1 IPv6 prefixes: this node has no IPv6 address",)


def test_ipv6_is_left_out_and_said_where_the_device_is_too_small_for_it() -> None:
    """NetworkManager was told of an address that the kernel refuses on such a device."""
    network = told(mtu=1279)
    assert network.ip6 is None
    assert network.config["has-ip6"] == Typed("b", False)
    assert network.config["mtu"] == Typed("u", 1279)
    assert network.ip4 == told().ip4
    assert network.left_out == ("IPv6 needs an MTU of 1280 bytes, quicether0 has 1279",)
    assert told(mtu=1280).ip6 == told().ip6
    assert told(mtu=1279, ipv6=False).left_out == ()


def test_an_ipv6_network_on_a_device_too_small_for_it_says_why_nothing_is_left() -> None:
    with pytest.raises(BadHostConfigError, match="IPv6 needs an MTU of 1280 bytes"):
        told(mtu=1200, addresses=["fd12:3456:789a::1/128"])


def test_a_second_address_of_a_family_is_left_out_and_said() -> None:
    network = told(addresses=["100.64.0.1/32", "100.64.0.2/32"])
    assert "address 100.64.0.2/32: NetworkManager takes one a family" in network.left_out


def test_preserve_routes_is_never_said() -> None:
    """It means: keep the routes of the signal before, ignore the new ones."""
    network = told()
    assert network.ip4 is not None
    assert network.ip6 is not None
    assert "preserve-routes" not in {**network.config, **network.ip4, **network.ip6}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"device": ""}, "device ''"),
        ({"device": 5}, "device 5"),
        ({"mtu": 0}, "mtu 0"),
        ({"mtu": "1380"}, "mtu '1380'"),
        ({"addresses": []}, "addresses (none)"),
        ({"addresses": "100.64.0.1"}, "addresses '100.64.0.1'"),
        ({"addresses": ["100.64.0.256/32"]}, "addresses '100.64.0.256/32'"),
        ({"prefixes": ["10.0.0.1/8"]}, "prefixes '10.0.0.1/8'"),
        ({"dns_servers": ["one"]}, "dns-servers 'one'"),
        ({"dns_domains": [1]}, "dns-domains [1]"),
        ({"gateway": "0.0.0.0"}, "gateway '0.0.0.0'"),
        ({"gateway": "home"}, "gateway 'home'"),
    ],
)
def test_a_desired_state_that_cannot_be_told_is_named(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(BadHostConfigError) as caught:
        told(**changed)
    assert str(caught.value).startswith(f"HostConfig {named}")


def test_nothing_is_sent_for_no_change_and_everything_at_first() -> None:
    assert list(told().signals_since(None)) == [
        Signal.CONFIG,
        Signal.IP4_CONFIG,
        Signal.IP6_CONFIG,
    ]
    assert told().signals_since(told()) == {}


def test_only_the_family_that_changed_is_sent_and_whole() -> None:
    now = told(prefixes=["10.0.0.0/8", "fd12:3456:789a:1::/64"])
    assert now.signals_since(told()) == {Signal.IP4_CONFIG: now.ip4}


def test_a_changed_config_brings_every_family_along() -> None:
    now = told(mtu=1300)
    assert list(now.signals_since(told())) == [
        Signal.CONFIG,
        Signal.IP4_CONFIG,
        Signal.IP6_CONFIG,
    ]


def test_a_family_that_ends_keeps_its_address_and_loses_all_else() -> None:
    """NetworkManager 1.42 takes nothing of a family back, whatever it is told."""
    before = told(dns_servers=["fd12:3456:789a::53"])
    now = told(addresses=["100.64.0.1/32"]).following(before)
    assert now.config["has-ip6"] == Typed("b", True)
    assert now.ip6 == {
        "address": Typed("ay", packed("fd12:3456:789a::1")),
        "prefix": Typed("u", 128),
        "routes": Typed("a(ayuayu)", []),
        "never-default": Typed("b", True),
    }
    assert now.signals_since(before) == {Signal.IP6_CONFIG: now.ip6}
    assert told(addresses=["100.64.0.1/32"]).following(now).signals_since(now) == {}


def test_a_family_that_comes_is_announced() -> None:
    before = told(addresses=["100.64.0.1/32"])
    now = told().following(before)
    assert list(now.signals_since(before)) == [
        Signal.CONFIG,
        Signal.IP4_CONFIG,
        Signal.IP6_CONFIG,
    ]


def test_changed_name_servers_are_said_to_need_a_new_activation() -> None:
    now = told(dns_servers=["100.64.0.53"]).following(told())
    assert any("name servers" in sentence for sentence in now.left_out)
    assert told().following(told()).left_out == ()


prefixes = st.builds(
    lambda version, number, length: str(
        ip_network((number % 2**version, length % (version + 1)), strict=False)
    ),
    st.sampled_from([32, 128]),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@given(st.lists(prefixes))
def test_every_prefix_becomes_one_route_of_its_family(texts: list[str]) -> None:
    network = told(prefixes=texts)
    assert network.ip4 is not None
    assert network.ip6 is not None
    routes: list[Any] = [network.ip4["routes"].value, network.ip6["routes"].value]
    decoded = [
        str(ip_network((number.to_bytes(4, "little"), length)))
        for number, length, _, _ in routes[0]
    ] + [str(ip_network((number, length))) for number, length, _, _ in routes[1]]
    wanted = [text for text in texts if not text.endswith("/0")]
    assert sorted(decoded) == sorted(wanted)


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()


@given(
    st.dictionaries(st.sampled_from(sorted(HOST_CONFIG)), scalars | st.lists(scalars), max_size=4)
)
def test_anything_else_is_a_host_error(changed: dict[str, Any]) -> None:
    try:
        network_config(HOST_CONFIG | changed, ipv4=True, ipv6=True)
    except HostError as error:
        assert str(error).startswith("HostConfig ")

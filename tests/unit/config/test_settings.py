"""Settings from options, files, environment and flags; every mistake is one exact sentence."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.bus.contract import LinkOwnerName
from quicether.config.load import (
    MAX_FILE,
    ConfigFile,
    load,
    read_file,
    settle,
    stored_file,
    user_file,
)
from quicether.config.options import OPTIONS, Kind
from quicether.config.settings import Link, LogLevel, Role, Settings, as_text
from quicether.config.values import HostPort, PeerAddress, StaticRoute
from quicether.errors import ConfigError

NODE = "ab" * 20
FILE = "/etc/quicether/config.toml"


def sentence(options: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.from_options(options)
    return str(caught.value)


def file_sentence(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settle([ConfigFile(FILE, text)], {}, {})
    return str(caught.value)


def test_every_option_has_its_field_and_the_default_that_is_documented() -> None:
    defaults = Settings()
    for option in OPTIONS.values():
        section = getattr(defaults, option.section)
        assert option.field in type(section).model_fields
        value = getattr(section, option.field)
        if value is not None:
            assert as_text(value) == option.default, option.key
        else:
            assert option.default in ("", "auto"), option.key
    fields = {
        (name, field)
        for name, section in Settings.model_fields.items()
        for field in getattr(section.annotation, "model_fields", ())
    }
    assert fields == {(option.section, option.field) for option in OPTIONS.values()}


def test_the_words_for_links_are_those_of_the_bus() -> None:
    assert [str(link) for link in Link] == [str(owner) for owner in LinkOwnerName]
    assert OPTIONS["link"].choices == tuple(Link)
    assert OPTIONS["role"].choices == tuple(Role)
    assert OPTIONS["log-level"].choices == tuple(LogLevel)


def test_options_that_reach_beyond_the_tunnel_are_privileged() -> None:
    for option in OPTIONS.values():
        if option.kind in (Kind.PATH, Kind.PINS, Kind.ENDPOINT):
            assert option.privileged, option.key


def test_a_full_set_of_options() -> None:
    settings = Settings.from_options(
        {
            "network": "home",
            "role": "gateway",
            "peers": "office@vpn.example.org 203.0.113.7:900,[2001:db8::1]:77 2001:db8::2",
            "pinned-peers": f"{NODE}=10.1.0.0/16+fd12::/48",
            "advertise-subnets": "192.168.1.0/24, fd00:1::/64 192.168.1.0/24",
            "forward-subnets": "10.9.0.0/16",
            "forward-nodes": "attic cellar *",
            "static-routes": "10.2.0.0/16=office",
            "routes": "10.0.0.0/8 192.168.0.0/16",
            "mtu": "1300",
            "listen-port": "0",
            "lan-access": "no",
            "audit-log": "journal",
            "dns": "192.168.1.1",
            "dns-domains": "~. home.example",
            "link": "networkd",
        }
    )
    assert settings.node.role is Role.GATEWAY
    assert settings.overlay.peers == (
        PeerAddress(HostPort("vpn.example.org", 9000), "office"),
        PeerAddress(HostPort("203.0.113.7", 900)),
        PeerAddress(HostPort("2001:db8::1", 77)),
        PeerAddress(HostPort("2001:db8::2", 9000)),
    )
    (pin,) = settings.security.pinned_peers
    assert str(pin.node_id) == NODE
    assert pin.prefixes == (IPv4Network("10.1.0.0/16"), IPv6Network("fd12::/48"))
    assert settings.network.advertise_subnets == (
        IPv4Network("192.168.1.0/24"),
        IPv6Network("fd00:1::/64"),
    )
    assert settings.overlay.static_routes == (StaticRoute(IPv4Network("10.2.0.0/16"), "office"),)
    assert settings.discovery.routes == (IPv4Network("10.0.0.0/8"), IPv4Network("192.168.0.0/16"))
    assert settings.discovery.dht_port == 0
    assert settings.overlay.lan_access is False
    assert settings.network.dns == (ip_address("192.168.1.1"),)
    assert settings.network.dns_domains == ("~.", "home.example")
    assert not settings.full_tunnel
    assert Settings.from_options(settings.to_options()) == settings


def test_options_override_what_is_stored_and_leave_the_rest() -> None:
    stored = Settings.from_options({"mtu": "1300", "tun-name": "quicether-a"})
    settings = Settings.from_options({"mtu": "auto"}, stored)
    assert settings.network.mtu is None
    assert settings.network.tun_name == "quicether-a"
    assert settings.to_options() == {"mtu": "auto", "tun-name": "quicether-a"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mtuu": "1"}, "option 'mtuu' is unknown; did you mean 'mtu'?"),
        ({"qwertz": "1"}, "option 'qwertz' is unknown"),
        (
            {"advertise_subnets": "10.0.0.0/8"},
            "option 'advertise_subnets' is unknown; did you mean 'advertise-subnets'?",
        ),
        (
            {"advertise-subnets": "192.168.1.5/24"},
            "advertise-subnets: 192.168.1.5/24 has host bits set; 192.168.1.0/24 was probably "
            "meant",
        ),
        (
            {"advertise-subnets": "192.168.1.0/33"},
            "advertise-subnets: '192.168.1.0/33' is not a prefix "
            "(like 192.168.1.0/24 or fd12:3456::/48)",
        ),
        (
            {
                "advertise-subnets": " ".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(990)),
                "tun-addr": " ".join(f"100.64.0.{n}" for n in range(1, 12)),
            },
            "advertise-subnets: 1001 prefixes, with those of tun-addr, are too many to announce; "
            "at most 1000 are possible, so sum some up in larger",
        ),
        (
            {"advertise-subnets": "127.0.0.0/8"},
            "advertise-subnets: 127.0.0.0/8 is loopback and is never routed",
        ),
        (
            {"advertise-subnets": "fe80::/64"},
            "advertise-subnets: fe80::/64 is link-local and is never routed",
        ),
        ({"listen-port": "70000"}, "listen-port: 70000 is not from 0 to 65535"),
        ({"listen-port": "http"}, "listen-port: 'http' is not a whole number from 0 to 65535"),
        ({"mtu": "100"}, "mtu: '100' is neither auto nor 576 to 65535 bytes"),
        ({"peers": "1.2.3.4:0"}, "peers: port of '1.2.3.4:0': 0 is not from 1 to 65535"),
        (
            {"peers": "home:vpn:9000"},
            "peers: 'home:vpn:9000' is not host:port (like vpn.example.org:9000)",
        ),
        ({"peers": "1.2.3"}, "peers: '1.2.3' is not host:port (like vpn.example.org:9000)"),
        (
            {"peers": "no/de@1.2.3.4"},
            "peers: 'no/de' is neither a node's name nor its id",
        ),
        ({"peers": "0.0.0.0:9000"}, "peers: 0.0.0.0 is not the address of a host"),
        (
            {"peers": "100.64.3.4"},
            "peers: 100.64.3.4:9000 is inside the range of overlay addresses; an address that is "
            "reached without the overlay is needed",
        ),
        (
            {"bootstrap": "10.2.3.4:1", "static-routes": "10.2.0.0/16=office"},
            "bootstrap: 10.2.3.4:1 is inside static-routes 10.2.0.0/16=office; an address that is "
            "reached without the overlay is needed",
        ),
        ({"pinned-peers": "abc=10.0.0.0/8"}, "pinned-peers: node id 'abc' is not 40 hex digits"),
        ({"pinned-peers": NODE}, f"pinned-peers: '{NODE}' is not NODEID=prefix+prefix"),
        (
            {"pinned-peers": f"{NODE}=10.0.0.0/8 {NODE}=10.0.0.0/9"},
            "pinned-peers: a node is pinned twice; put its prefixes together with +",
        ),
        ({"role": "boss"}, "role: 'boss' is not one of standard, gateway"),
        ({"lan-access": "maybe"}, "lan-access: 'maybe' is neither yes nor no"),
        (
            {"policy-file": "policy.toml"},
            "policy-file: 'policy.toml' is not an absolute path (like /etc/quicether/x.toml)",
        ),
        (
            {"policy-file": "/etc/../root/x"},
            "policy-file: '/etc/../root/x' is not an absolute path (like /etc/quicether/x.toml)",
        ),
        ({"audit-log": "log"}, "audit-log: 'log' is neither journal nor an absolute path"),
        (
            {"metrics-addr": "8.8.8.8:9100"},
            "metrics-addr: 8.8.8.8 is a public address; a local one is needed (127.0.0.1)",
        ),
        (
            {"metrics-addr": "localhost:9100"},
            "metrics-addr: 'localhost' is not an address of this host (like 127.0.0.1:9100)",
        ),
        (
            {"tun-name": "quicether-too-long-for-linux"},
            "tun-name: 'quicether-too-long-for-linux' is not quicether, by which network managers "
            "know to keep off the device, and up to 6 letters, digits, dots, dashes or underscores",
        ),
        (
            {"tun-name": "work0"},
            "tun-name: 'work0' is not quicether, by which network managers know to keep off the "
            "device, and up to 6 letters, digits, dots, dashes or underscores",
        ),
        ({"dns": "dns.example"}, "dns: 'dns.example' is not an IPv4 or IPv6 address"),
        (
            {"dns-domains": "a..b"},
            "dns-domains: 'a..b' is not a domain (like home.example or ~home.example)",
        ),
        ({"max-connections": "0"}, "max-connections: 0 is not from 1 to 65535"),
        ({"record-life": "59"}, "record-life: 59 is not from 60 to 3600"),
        ({"record-life": "3601"}, "record-life: 3601 is not from 60 to 3600"),
        ({"routes": ""}, "routes: nothing is given; auto, none or a list of prefixes is needed"),
        (
            {"static-routes": "10.0.0.0/8"},
            "static-routes: '10.0.0.0/8' is not prefix=NODE (like 10.0.0.0/8=office)",
        ),
        (
            {"static-routes": "10.0.0.0/8=a 10.0.0.0/8=b"},
            "static-routes: 10.0.0.0/8 goes to a and to b; one node is possible",
        ),
        (
            {"static-routes": "10.0.0.0/8=a", "advertise-subnets": "10.0.0.0/8"},
            "static-routes: 10.0.0.0/8 goes to a, but advertise-subnets says that it is behind "
            "this node; only one of the two is possible",
        ),
        (
            {"forward-subnets": "10.0.0.0/8"},
            "forward-subnets: 10.0.0.0/8 needs role = gateway, but role is standard",
        ),
        (
            {"role": "gateway", "forward-subnets": "0.0.0.0/0", "default-gateway": "office"},
            "default-gateway: office gets what nothing matches, but this node offers 0.0.0.0/0 "
            "itself; only one of the two is possible",
        ),
        (
            {"bypass-subnets": "10.0.0.0/8"},
            "bypass-subnets: 10.0.0.0/8 only makes sense with a default-gateway",
        ),
        (
            {"netns": "blue", "link": "networkd"},
            "netns: blue needs link = netlink, but link is networkd",
        ),
        ({"name": "x" * 20_000}, "name: 20000 characters are too many; at most 16384 are taken"),
        ({"name": "a\x1b[2J"}, r"name: 'a\x1b[2J' holds characters that cannot be printed"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, str], expected: str) -> None:
    assert sentence(options) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[network]\nmtuu = 1", f"{FILE}: [network] mtuu is unknown; did you mean 'mtu'?"),
        (
            "[network]\nadvertise-subnets = []",
            f"{FILE}: [network] advertise-subnets is unknown; did you mean 'advertise_subnets'?",
        ),
        ("[netwrk]\nmtu = 1", f"{FILE}: section [netwrk] is unknown; did you mean 'network'?"),
        ("network = 1", f"{FILE}: network is a section; write [network] over it"),
        (
            "[network]\nmtu = true",
            f"{FILE}: [network] mtu: true is neither auto nor 576 to 65535 bytes",
        ),
        (
            '[network]\nadvertise_subnets = ["10.0.0.1/8"]',
            f"{FILE}: [network] advertise_subnets: 10.0.0.1/8 has host bits set; 10.0.0.0/8 was "
            "probably meant",
        ),
        ("[network]\ndns = 7", f"{FILE}: [network] dns: 7 is not a list"),
        ("[node]\nname = 7", f"{FILE}: [node] name: 7 is not text"),
        (
            "[node]\nname = 1979-05-27T07:32:00Z",
            f"{FILE}: [node] name: 1979-05-27 07:32:00+00:00 is not text",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_place(text: str, expected: str) -> None:
    assert file_sentence(text) == expected


def test_what_is_no_toml_names_the_file() -> None:
    assert file_sentence("[network").startswith(f"{FILE}: not TOML: Expected ']'")


def test_tables_of_a_file_may_be_written_out() -> None:
    text = f"""
        [security.pinned_peers]
        {NODE} = ["10.1.0.0/16", "fd12::/48"]
        [overlay.static_routes]
        "10.2.0.0/16" = "office"
    """
    settings = settle([ConfigFile(FILE, text)], {}, {})
    assert settings == Settings.from_options(
        {
            "pinned-peers": f"{NODE}=10.1.0.0/16+fd12::/48",
            "static-routes": "10.2.0.0/16=office",
        }
    )


def test_precedence_is_file_then_users_file_then_environment_then_flags() -> None:
    files = [
        ConfigFile("system", '[network]\nmtu = 1001\ntun_name = "quicether-s"\n[node]\nname = "s"'),
        ConfigFile("user", '[network]\nmtu = 1002\ntun_name = "quicether-u"'),
    ]
    environ = {"QUICETHER_NETWORK_MTU": "1003", "PATH": "/bin", "QUICETHER_ETC": "/x"}
    assert settle(files, {}, {}).network.mtu == 1002
    assert settle(files, environ, {}).network.mtu == 1003
    settings = settle(files, environ, {"mtu": "1004"})
    assert settings.network.mtu == 1004
    assert settings.network.tun_name == "quicether-u"
    assert settings.node.name == "s"


def test_a_mistake_names_the_source_that_holds_it() -> None:
    files = [ConfigFile("system", "[network]\nmtu = 1"), ConfigFile("user", "[network]\nmtu = 2")]
    with pytest.raises(ConfigError, match=r"^user: \[network\] mtu: 2 is neither"):
        settle(files, {}, {})
    with pytest.raises(ConfigError, match=r"^QUICETHER_NETWORK_MTU: '3' is neither"):
        settle(files, {"QUICETHER_NETWORK_MTU": "3"}, {})
    with pytest.raises(ConfigError, match=r"^--advertise-subnet: 'x' is not a prefix"):
        settle([], {}, {"advertise-subnets": "x"})
    expected = "variable QUICETHER_NETWRK_MTU is unknown; did you mean 'QUICETHER_NETWORK_MTU'?"
    with pytest.raises(ConfigError) as caught:
        settle([], {"QUICETHER_NETWRK_MTU": "3"}, {})
    assert str(caught.value) == expected


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert read_file(path) is None
    assert load([path], {}, {}) == Settings()
    path.write_bytes(b"[network]\nmtu = 1300 # \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 23"):
        read_file(path)
    path.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        read_file(path)
    with pytest.raises(ConfigError, match="cannot be read: a folder, not a plain file"):
        read_file(tmp_path)


def test_where_files_are() -> None:
    assert stored_file(None) == Path("/etc/quicether/config.toml")
    assert stored_file("home") == Path("/etc/quicether/home.toml")
    assert user_file({"HOME": "/home/me"}) == Path("/home/me/.config/quicether/config.toml")
    assert user_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/quicether/config.toml")


@given(st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.text(max_size=60), max_size=4))
def test_any_text_is_taken_or_refused_with_a_sentence(options: dict[str, str]) -> None:
    try:
        settings = Settings.from_options(options)
    except ConfigError as error:
        assert str(error)
    else:
        assert Settings.from_options(settings.to_options()) == settings


@given(st.text(max_size=200))
def test_any_file_is_taken_or_refused_with_its_name(text: str) -> None:
    try:
        settle([ConfigFile(FILE, text)], {}, {})
    except ConfigError as error:
        assert str(error).startswith(FILE)

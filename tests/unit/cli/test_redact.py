"""What a bundle for helpers does not tell, and what it still shows."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicether.cli import diagnose
from quicether.cli.main import main
from quicether.cli.redact import Redactor, names_in
from quicether.identity.addresses import ipv6_address
from quicether.identity.keys import NodeKey
from quicether.model import NodeId

SALT = bytes(16)
# The same in every process, because the names of tests below are made of it.
KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NODE = NodeId.of_public_key(KEY.public_raw)


def redact(text: str, *names: str, salt: bytes = SALT) -> str:
    return Redactor(salt, names).redact(text)


def shape(text: str) -> str:
    """Return a text with pseudonyms as kinds."""
    return re.sub(r"\b(address|code|host|id|key|mac|name)-[0-9a-f]{8}\b", r"<\1>", text)


def test_what_a_diagnosis_needs_stays() -> None:
    text = (
        "laptop (100.64.0.1, 10.0.0.7) at 203.0.114.7:9000 and [2a01:4f8::7]:9000 via "
        "vpn.example.org, again 203.0.114.7; 192.168.1.0/24 aa:bb:cc:dd:ee:ff "
        f"{'01234567ab' * 4} 01234567ab 1700000000.5 12:34:56 version 1.2.3.4.5 laptops"
    )
    redacted = redact(text, "laptop")
    assert shape(redacted) == (
        "<name> (100.64.0.1, 10.0.0.7) at <address>:9000 and [<address>]:9000 via "
        "<host>, again <address>; 192.168.1.0/24 <mac> "
        "<id> <id> 1700000000.5 12:34:56 version 1.2.3.4.5 laptops"
    )
    addresses = re.findall(r"address-\w+", redacted)
    assert addresses[0] == addresses[2] != addresses[1]
    first, second = re.findall(r"id-\w+", redacted)
    assert first == second
    # Another bundle says it in other words, so that two cannot be compared.
    assert not set(re.findall(r"-\w{8}", redacted)) & set(
        re.findall(r"-\w{8}", redact(text, "laptop", salt=b"x" * 16))
    )


def test_an_overlay_address_does_not_tell_its_node_nor_its_network() -> None:
    network_id = bytes(range(32))
    mine = ipv6_address(network_id, NODE)
    other = ipv6_address(network_id, NodeId(bytes(range(20))))
    one, two, prefix, names, lan = redact(
        f"{mine} {other} {ip_network((mine, 48), strict=False)} "
        "fd00:102:304::53 fd00:102:304:1::/64"
    ).split()
    for found in (one, two):
        assert ip_address(found).packed[6:] not in (mine.packed[6:], other.packed[6:])
        assert ip_address(found) in ip_network(prefix)
        assert mine.packed[1:6] not in ip_address(found).packed
    assert one != two
    assert ip_address(names) == ip_network(prefix)[0x53]
    assert ip_network(lan).subnet_of(ip_network(prefix))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("inet6 fe80::a8bb:ccff:fedd:eeff/64 scope link", "a8bb:ccff"),
        ("2: enxaabbccddeeff: altname wlxaabbccddeeff", "aabbccddeeff"),
        ("AA:BB:CC:DD:EE:FF", "BB:CC"),
        ("::ffff:203.0.114.7", "203"),
        ("64:ff9b::203.0.114.7", "114"),
        (f"sign this machine's public key {KEY.public_text}", KEY.public_text[:8]),
        (f"{NODE}".upper(), f"{NODE}"[:10].upper()),
        ("LAPTOP and Laptop, quicether-laptop, laptop_x", "aptop"),
        ("Laptop.Home.quicether and attic.home.quicether.", "ome"),
        ("/etc/quicether/home.toml quicether@home.service", "home"),
        ("peer = attic@vpn.example.org:9000", "example"),
        ("ABCDE-" * 12 + "ABC", "ABCDE"),
        ("-----BEGIN CERTIFICATE-----\nMC4CAQ\n-----END CERTIFICATE-----", "MC4"),
    ],
)
def test_nothing_of_it_is_told(text: str, told: str) -> None:
    redacted = redact(text, "laptop", "home", "attic")
    assert told.lower() not in redacted.lower()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # Where somebody is reached, or what carries it.
        ("peer vpn.acme.network:9000: its name does not resolve", "acme"),
        ("peer quicether.acme.org:9000 lost", "acme"),
        ("peer net.acme.org:9000 lost", "acme"),
        ("bootstrap: host vpn.acme.xn--p1ai is gone", "acme"),
        ("peer oldnas:9000: no answer", "oldnas"),
        ("peer attic2@oldnas:9000: no answer", "oldnas"),
        ("endpoint:2a01:4f8::7 dev eth0", "4f8"),
        (
            "link/infiniband 80:00:02:08:fe:80:00:00:00:00:00:00:e4:1d:2d:03:00:50:aa:bb brd",
            "e4:1d",
        ),
        ("permaddr aa-bb-cc-dd-ee-ff", "dd-ee"),
        ("peer shed (0123456789) lost: idle", "0123456789"),
        ("node 0123456789 is not connected to: no", "0123456789"),
        # Who somebody is.
        ("mail to max@example.com", "max"),
        ("mail to max.roe@example.com", "roe"),
        ("mail to max+home@example.com", "max"),
        ("ExecStart=/home/maxroe/bin/quicether", "maxroe"),
        ("WARNING spoofed src_name=shed src_node=a7c9f989b2", "shed"),
        ("prefix 10.0.0.0/8 of shed is gone: expired", "shed"),
        ("quicether[7]: tunnel Max Roe VPN: the host's network changed", "Roe"),
        ("quicether[7]: tunnel Max Roe VPN is down", "Max"),
        ("a fault of our own while revocations were compared with shed", "shed"),
        # What people wrote for themselves.
        ('ip saddr 10.0.0.7 accept comment "the laptop of Max"', "Max"),
        ('tcp dport 22 log prefix "Max Roe: " accept', "Max"),
        ("    alias uplink of Max Roe", "Max"),
    ],
)
def test_nothing_is_told_of_whom_this_machine_does_not_know(text: str, told: str) -> None:
    redacted = Redactor(SALT, names_in(text)).redact(text)
    assert told.lower() not in redacted.lower()


@pytest.mark.parametrize("name", ["a", "7", "42"])
@pytest.mark.parametrize(
    "text",
    [
        "peer {} (a7c9f989b2) connected at 192.0.2.1:9000",
        "peer {}: no answer",
        "node '{}' is not known on this network",
        'peers = ["{}@192.0.2.1"]',
        "default_gateway = '{}'",
        "static_routes = ['10.0.0.0/8={}']",
        '"name": "{}", "via": "{}",',
        "src_name={} src_ip=10.0.0.1",
        "/etc/quicether/{}.toml",
        "{}.home.quicether",
    ],
)
def test_a_name_as_short_as_a_letter_is_hidden_where_a_name_stands(text: str, name: str) -> None:
    redacted = redact(text.format(name, name), name, "home")
    assert "name-" in redacted
    rest = re.sub(r"\b(name|id)-[0-9a-f]{8}", "", redacted)
    assert rest == re.sub(
        r"\b(name|id)-[0-9a-f]{8}", "", redact(text.format("shed", "shed"), "shed", "home")
    )
    # And nowhere else: the sense of everything would be gone.
    assert redact(f"a route of metric {name} in 10.0.0.0/8", name) == (
        f"a route of metric {name} in 10.0.0.0/8"
    )


@pytest.mark.parametrize(
    "text",
    [
        "default via 192.168.1.1 dev eth0 proto dhcp src 192.168.1.7 metric 100",
        "fe80::/64 dev eth0, fd00::/8, ::1/128, ff02::2",
        "link/loopback 00:00:00:00:00:00 brd ff:ff:ff:ff:ff:ff",
        "net.ipv4.conf.all.rp_filter org.quicether1.Manager quicether.daemon.main journal.txt",
        "2026-11-28T02:26:48+0000 systemd[1]: Started quicether.service - QuicEther.",
        "table inet filter { chain input { type filter hook input priority 0; } }",
    ],
)
def test_what_tells_nothing_is_not_touched(text: str) -> None:
    assert redact(text, "laptop") == text


def test_the_journal_tells_the_names_of_nodes_that_are_not_here_any_more() -> None:
    journal = """
        peer attic (0011223344) connected at 192.0.2.1:9000
        peer cellar: no answer within 10 s
        node shed is not connected to: no address
        the certificate of barn is revoked
        invitation for phone refused: expired
        tunnel work is up as desk (a7c9f989b2)
        for network lab: the node that is not a member of it; the peer is gone
        [overlay]
        peers = ["stable@192.0.2.1"]
        forward_nodes = ["mill",
          "inn"]
        static_routes = ["10.0.0.0/8=forge"]
    """
    assert names_in(journal) == {
        "attic", "cellar", "shed", "barn", "phone", "work", "desk", "lab",
        "stable", "mill", "inn", "forge",
    }  # fmt: skip


def test_private_keys_go_whole() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----"
    assert redact(f"a {key} b") == "a [private key] b"
    assert redact("-----BEGIN PRIVATE KEY-----\nMC4CA") == "[private key]"


def test_a_bundle_has_every_configuration_and_hides_what_only_the_authority_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc"
    monkeypatch.setenv("QUICETHER_ETC", str(etc))
    monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    monkeypatch.setattr(diagnose, "_PROGRAMS", {"journal.txt": ("echo", "hello zeppelin")})
    assert main(["network", "create", "manor", "--authority-only"]) == 0
    sign = ["network", "sign", "manor", "--name", "zeppelin", "--public-key", KEY.public_text]
    assert main([*sign, "--out", str(tmp_path / "out.pem")]) == 0
    (etc / "bunker.toml").write_text(f'[security]\npinned_peers = ["{NODE}=10.0.0.0/8"]\n')
    (etc / "manor.toml").write_text("# of Max\n[node]\nname = 'b#b' # and of Moritz\n")
    (etc / "policy.toml").write_text("[groups.admins]\nmembers = []\n")
    (etc / "networks/manor.bak").mkdir()
    bundle = diagnose.bundle()
    everything = "\n".join([*bundle, *bundle.values()])
    for secret in ("manor", "zeppelin", "bunker", str(NODE)[:10], "Max", "Moritz"):
        assert secret not in everything
    assert "pinned_peers" in everything
    assert "[groups" not in everything
    assert shape(bundle["journal.txt"]) == "hello <name>\n"

"""The plugin under the real NetworkManager, beside the real service, on the hosts of the story."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.home import HOME, LAN, Story, story
from support.hosts import WholeHost

pytestmark = pytest.mark.alone

_REJECTING = """
table inet guard {
    chain in {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
        iifname lo accept
        reject
    }
}
"""


@pytest.fixture(scope="module")
def told(installed: list[Path]) -> Iterator[Story]:
    with story(installed) as scene:
        scene.found_network()
        scene.add_profiles()
        yield scene


@pytest.fixture
def scene(told: Story) -> Iterator[Story]:
    """Both hosts with their profiles, and no tunnel up."""
    profile = profile_of(told.laptop)
    yield told
    for host in (told.laptop, told.home):
        host.run(["nmcli", "connection", "down", "quicether"], check=False)
        host.wait_until(partial(is_clean, host), 10, "nothing is left")
    told.laptop.run(["nmcli", "connection", "modify", "quicether", "vpn.data", profile])


def profile_of(host: WholeHost) -> str:
    show = ["nmcli", "-e", "no", "-g", "vpn.data", "connection", "show", "quicether"]
    return host.run(show).stdout.strip()


def leftovers(host: WholeHost) -> list[str]:
    """Return what a tunnel could leave behind: device, routes, rules, and the plugin."""
    links = host.run(["ip", "-br", "link"]).stdout.splitlines()
    routes = host.run(["ip", "route", "show", "table", "all"]).stdout.splitlines()
    rules = host.run(["ip", "rule"]).stdout.splitlines()
    plugins = host.run(["pgrep", "-af", "nm-quicether-service"], check=False).stdout.splitlines()
    return [
        *(line for line in (*links, *routes) if "quicether" in line),
        *(line for line in rules if "fwmark" in line),
        *plugins,
    ]


def is_clean(host: WholeHost) -> bool:
    return not leftovers(host)


def active(host: WholeHost) -> bool:
    show = ["nmcli", "-g", "NAME", "connection", "show", "--active"]
    return "quicether" in host.run(show).stdout.split()


def activation(host: WholeHost) -> str:
    """Return the D-Bus path by which NetworkManager knows this activation of the profile."""
    show = ["nmcli", "-g", "GENERAL.DBUS-PATH", "connection", "show", "quicether"]
    found = host.run(show).stdout.strip()
    assert found.startswith("/org/freedesktop/NetworkManager/ActiveConnection/")
    return found


def plugins(host: WholeHost) -> list[str]:
    return host.run(["pgrep", "-f", "nm-quicether-service"], check=False).stdout.split()


def is_up(host: WholeHost) -> bool:
    """Tell whether the tunnel has what its peer offers, and NetworkManager shows it."""
    state = host.run(["nmcli", "-g", "RUNNING", "general"], check=False).stdout.strip()
    return state == "running" and active(host) and set(LAN) <= routed(host)


def routed(host: WholeHost) -> set[str]:
    """Return the destinations that NetworkManager routes to the overlay, both families."""
    found = set()
    for version in ("-4", "-6"):
        output = host.run(["ip", version, "route", "show", "dev", "quicether0"], check=False).stdout
        found |= {line.split()[0] for line in output.splitlines()}
    return found


def hinted_journal(host: WholeHost) -> str:
    """Return what the journal holds where nmcli tells the user to look after a failure."""
    show = ["nmcli", "-g", "connection.uuid", "connection", "show", "quicether"]
    uuid = host.run(show).stdout.strip()
    return host.run(["journalctl", "--no-pager", "-o", "cat", f"NM_CONNECTION={uuid}"]).stdout


def modify(host: WholeHost, *settings: str) -> None:
    host.run(["nmcli", "connection", "modify", "quicether", *settings])


def timed_up(scene: Story, host: WholeHost) -> float:
    start = time.monotonic()
    scene.up(host)
    return time.monotonic() - start


def test_with_its_peer_up_nmcli_returns_in_two_seconds_and_the_routes_are_there(
    scene: Story,
) -> None:
    scene.up(scene.home)
    assert timed_up(scene, scene.laptop) < 2.0
    assert set(LAN) <= routed(scene.laptop)


def test_without_its_peer_nmcli_returns_in_five_seconds_and_the_routes_come_with_it(
    scene: Story,
) -> None:
    assert timed_up(scene, scene.laptop) < 5.0
    assert active(scene.laptop)
    assert not set(LAN) & routed(scene.laptop)
    scene.up(scene.home)
    scene.laptop.wait_until(lambda: set(LAN) <= routed(scene.laptop), 15, "the peer's prefixes")


def test_a_killed_service_is_shown_as_down_and_up_works_again(scene: Story) -> None:
    scene.up(scene.home)
    scene.up(scene.laptop)
    scene.laptop.run(["systemctl", "kill", "--signal=KILL", "quicether.service"])
    scene.laptop.wait_until(lambda: not active(scene.laptop), 5, "NetworkManager shows it down")
    scene.laptop.wait_until(lambda: not leftovers(scene.laptop), 5, "nothing is left")
    scene.up(scene.laptop)
    scene.laptop.wait_until(lambda: set(LAN) <= routed(scene.laptop), 15, "the prefixes")


def test_a_restarted_service_keeps_the_connection_and_packets_flow_again(scene: Story) -> None:
    scene.up(scene.home)
    scene.up(scene.laptop)
    nas = LAN[0].replace("0/24", "10")
    ping = ["ping", "-c", "1", "-W", "1", nas]
    scene.laptop.wait_until(lambda: scene.laptop.run(ping, check=False).returncode == 0, 15, nas)
    before = activation(scene.laptop)
    start = time.monotonic()
    scene.laptop.run(["systemctl", "restart", "quicether.service"])
    scene.laptop.wait_until(lambda: scene.laptop.run(ping, check=False).returncode == 0, 10, nas)
    assert time.monotonic() - start < 5
    # Another activation, as after a down and an up, would be another object.
    assert activation(scene.laptop) == before
    assert active(scene.laptop)
    assert set(LAN) <= routed(scene.laptop)


def test_a_killed_plugin_takes_the_tunnel_along_and_up_works_again(scene: Story) -> None:
    scene.up(scene.laptop)
    scene.laptop.run(["pkill", "-KILL", "-f", "nm-quicether-service"])
    scene.laptop.wait_until(lambda: not active(scene.laptop), 5, "NetworkManager shows it down")
    scene.laptop.wait_until(lambda: not leftovers(scene.laptop), 5, "nothing is left")
    scene.up(scene.laptop)


def test_a_killed_networkmanager_is_asked_for_the_tunnel_again(scene: Story) -> None:
    scene.up(scene.home)
    scene.up(scene.laptop)
    (before,) = plugins(scene.laptop)
    kill = ["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "NetworkManager.service"]
    scene.laptop.run(kill)
    scene.laptop.wait_until(lambda: not is_up(scene.laptop), 5, "the tunnel to go")
    scene.laptop.wait_until(lambda: is_up(scene.laptop), 10, "the tunnel to be back")
    scene.laptop.wait_until(lambda: len(plugins(scene.laptop)) == 1, 5, "the old plugin to end")
    assert plugins(scene.laptop) != [before]


def test_networkmanager_starts_the_tunnel_at_boot_beside_the_link(scene: Story) -> None:
    """As the README says; and the plugin does not ask for what NetworkManager brings up itself."""
    laptop = scene.laptop
    scene.up(scene.home)
    modify_link = ["nmcli", "connection", "modify", "eth0"]
    laptop.run([*modify_link, "+connection.secondaries", "quicether"])
    try:
        laptop.run(["nmcli", "connection", "up", "eth0"])
        laptop.wait_until(lambda: is_up(laptop), 10, "the tunnel to come with the link")
        laptop.run(["systemctl", "restart", "NetworkManager"])
        laptop.wait_until(lambda: is_up(laptop), 10, "the tunnel to be back")
        laptop.wait_until(lambda: len(plugins(laptop)) == 1, 5, "the old plugin to end")
    finally:
        laptop.run([*modify_link, "connection.secondaries", ""])


def test_a_tunnel_taken_down_at_the_service_is_shown_as_down(scene: Story) -> None:
    scene.up(scene.laptop)
    manager = ["org.quicether1", "/org/quicether1", "org.quicether1.Manager"]
    scene.laptop.run(["busctl", "call", *manager, "Down", "s", "home"])
    scene.laptop.wait_until(lambda: not active(scene.laptop), 5, "NetworkManager shows it down")
    assert "tunnel home was taken down" in hinted_journal(scene.laptop)


def test_up_right_behind_down_works(scene: Story) -> None:
    for _ in range(3):
        scene.up(scene.home)
        scene.down(scene.home)
    scene.up(scene.home)
    assert active(scene.home)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("lisen-port=9000", "lisen-port"),
        ("listen-port=99999", "99999"),
        ("advertise-subnets=192.168.77.1/24", "192.168.77.1/24"),
        ("advertise-subnets=10.99.0.0/16", "10.99.0.0/16"),
    ],
)
def test_a_wrong_key_port_or_prefix_is_named_where_nmcli_says_to_look(
    scene: Story, setting: str, named: str
) -> None:
    modify(scene.laptop, "+vpn.data", setting)
    refused = scene.laptop.run(["nmcli", "connection", "up", "quicether"], check=False)
    assert refused.returncode != 0
    assert "NM_CONNECTION=" in refused.stderr
    said = hinted_journal(scene.laptop).splitlines()
    assert any(line.startswith("quicether: ") and named in line for line in said)
    assert not any("Traceback" in line for line in said)


def test_a_profile_private_to_a_user_names_no_file(scene: Story) -> None:
    """CVE-2025-9615 of NetworkManager-openvpn: a user's profile read other users' files."""
    secret = scene.laptop.root / "etc/quicether-secret"
    secret.write_text("[[rule]]\nthe secret\n")
    secret.chmod(0o644)
    permissions = "connection.permissions"
    modify(scene.laptop, permissions, "user:root", "+vpn.data", "policy-file=/etc/quicether-secret")
    try:
        refused = scene.laptop.run(["nmcli", "connection", "up", "quicether"], check=False)
        assert refused.returncode != 0
        said = hinted_journal(scene.laptop)
        assert "policy-file" in said
        assert "the secret" not in scene.laptop.journal()
    finally:
        modify(scene.laptop, permissions, "")


def test_the_peer_of_a_persistent_vpn_is_found_again_after_the_link_was_lost(scene: Story) -> None:
    scene.up(scene.home)
    modify(scene.laptop, "vpn.persistent", "yes")
    try:
        scene.up(scene.laptop)
        scene.laptop.run(["nmcli", "connection", "down", "eth0"])
        assert active(scene.laptop)
        scene.laptop.run(["nmcli", "connection", "up", "eth0"])
        nas = LAN[0].replace("0/24", "10")
        ping = ["ping", "-c", "1", "-W", "1", nas]
        scene.laptop.wait_until(
            lambda: scene.laptop.run(ping, check=False).returncode == 0, 30, f"{nas} from {HOME[0]}"
        )
        assert active(scene.laptop)
    finally:
        modify(scene.laptop, "vpn.persistent", "no")


def doctor(host: WholeHost, check: str) -> dict[str, str]:
    """Return what doctor says of a check, verdict by text."""
    found = json.loads(host.run(["quicether", "doctor", "--json"], check=False).stdout)
    return {each["text"]: each["verdict"] for each in found if each["check"] == check}


def test_doctor_says_what_a_router_lacks(scene: Story) -> None:
    """Of a tunnel that has no file in /etc/quicether, only a profile."""
    home = scene.home
    scene.up(home)
    home.sysctl({"net.ipv4.ip_forward": "0"})
    sick = "home offers IPv4 prefixes to others, but net.ipv4.ip_forward is not 1"
    assert doctor(home, "forwarding")[sick] == "bad"
    assert home.run(["quicether", "doctor"], check=False).returncode == 1
    home.sysctl({"net.ipv4.ip_forward": "1"})
    assert set(doctor(home, "forwarding").values()) == {"ok"}
    (ipv4, _) = doctor(home, "lan")
    assert "machines in 192.168.77.0/24 need 192.168.77.1 as their default router" in ipv4
    home.run(["nft", "-f", "-"], input=_REJECTING)
    (sentence,) = doctor(home, "firewall")
    assert "chain inet guard in drops what comes in for UDP port 9000" in sentence
    home.run(["nft", "insert", "rule", "inet", "guard", "in", "udp", "dport", "9000", "accept"])
    assert doctor(home, "firewall") == {}
    home.run(["nft", "delete", "table", "inet", "guard"])

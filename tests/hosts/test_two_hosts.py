"""A laptop in a café and a LAN behind home: the whole way of a packet, on real parts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.commands import CommandError
from support.home import NAS, Story, story
from support.hosts import WholeHost
from support.transfer import Payload, carry_both_ways

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def scene(installed: list[Path]) -> Iterator[Story]:
    """Two hosts that trust each other and have profiles; no tunnel is up."""
    with story(installed) as scene:
        scene.found_network()
        scene.add_profiles()
        yield scene


@pytest.fixture
def joined(scene: Story) -> Iterator[Story]:
    """The same with the tunnel up on both sides, and down afterwards whatever happened."""
    scene.up(scene.home)
    scene.up(scene.laptop)
    yield scene
    take_down(scene)


def take_down(scene: Story) -> None:
    """Take the tunnel down where it is up."""
    for host in (scene.laptop, scene.home):
        if is_active(host):
            scene.down(host)


def is_active(host: WholeHost) -> bool:
    """Tell whether NetworkManager has the tunnel up."""
    active = host.run(["nmcli", "-g", "NAME,TYPE", "connection", "show", "--active"]).stdout
    return "quicether:vpn" in active


def peers(host: WholeHost) -> dict[str, str]:
    """Return the state of each peer by its name, as `quicether peers --json` says."""
    listed = json.loads(host.run(["quicether", "peers", "--json"]).stdout)
    return {peer["name"]: peer["state"] for peer in listed["peers"]}


def traces(host: WholeHost) -> list[str]:
    """Return what of the tunnel is on a host: devices, routes, rules, processes of the plugin."""
    found = []
    for command in (["ip", "-br", "link"], ["ip", "route", "show", "table", "all"]):
        found += [line for line in host.run(command).stdout.splitlines() if "quicether" in line]
    for family in ("-4", "-6"):
        rules = host.run(["ip", family, "rule"]).stdout.splitlines()
        found += [
            rule for rule in rules if not re.search(r"lookup (local|main|default)$", rule.strip())
        ]
    found += host.run(["pgrep", "-fa", "nm-quicether-service"], check=False).stdout.splitlines()
    return found


def tables(host: WholeHost) -> list[str]:
    """Return every route of every table, and every rule, but for how long they are yet to live."""
    found = []
    for family in ("-4", "-6"):
        for command in (["route", "show", "table", "all"], ["rule"]):
            found += host.run(["ip", family, *command]).stdout.splitlines()
    return sorted(re.sub(r" expires \S+", "", line).strip() for line in found)


def is_clean(host: WholeHost) -> bool:
    """Tell whether nothing of a tunnel is on a host."""
    return not traces(host)


def answers(host: WholeHost, address: str) -> bool:
    """Tell whether one ping comes back."""
    return host.run(["ping", "-c", "1", "-W", "1", address], check=False).returncode == 0


def test_up_with_a_peer_that_is_up_returns_within_two_seconds_and_carries(scene: Story) -> None:
    scene.up(scene.home)
    try:
        started = time.monotonic()
        scene.up(scene.laptop)
        took = time.monotonic() - started
        assert all(answers(scene.laptop, address) for address in NAS)
        assert took < 2.0
    finally:
        take_down(scene)


def test_up_without_the_peer_returns_within_five_seconds_and_connects_when_it_appears(
    scene: Story,
) -> None:
    started = time.monotonic()
    scene.up(scene.laptop)
    took = time.monotonic() - started
    try:
        assert took < 5.0
        scene.laptop.wait_until(
            lambda: peers(scene.laptop) == {"home": "unreachable"}, 5, "home to be unreachable"
        )
        scene.up(scene.home)
        scene.laptop.wait_until(
            lambda: peers(scene.laptop) == {"home": "connected"}, 10, "home to be connected"
        )
        scene.laptop.wait_until(lambda: answers(scene.laptop, NAS[0]), 5, "the nas to answer")
    finally:
        take_down(scene)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_100_megabytes_arrive_whole_both_ways(joined: Story, family: int, tmp_path: Path) -> None:
    carry_both_ways(joined, family, Payload.make(tmp_path, 100_000_000, seed=family))


def test_an_ssh_like_stream_of_small_messages_is_answered_in_order(joined: Story) -> None:
    server = joined.nas.popen(["/usr/bin/python3", "-c", ECHO_SERVER], stdout=-1)
    assert server.stdout is not None
    server.stdout.readline()
    try:
        output = joined.laptop.run(["/usr/bin/python3", "-c", ECHO_CLIENT, NAS[0]]).stdout
        assert output.strip() == "200 answers"
    finally:
        server.terminate()
        server.wait()


ECHO_SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 2222))
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
"""
ECHO_CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 2222), timeout=10)
for number in range(200):
    typed = f"key {number}\\n".encode()
    connection.sendall(typed)
    received = b""
    while len(received) < len(typed):
        received += connection.recv(100)
    assert received == typed
print("200 answers")
"""


def test_down_leaves_nothing_behind(scene: Story) -> None:
    hosts = (scene.laptop, scene.home)
    for host in hosts:
        # The device of the test before may be on its way out still.
        gone = lambda: not any("quicether" in line for line in tables(host))  # noqa: B023, E731
        host.wait_until(gone, 5, "the device of before to go")
    before = {host: tables(host) for host in hosts}
    scene.up(scene.home)
    scene.up(scene.laptop)
    assert len(traces(scene.laptop)) > 4
    assert all(tables(host) != before[host] for host in hosts)
    for host in hosts:
        scene.down(host)
        host.wait_until(partial(is_clean, host), 5, "every trace to go")
    # A route over another device, as to a peer or a gateway, would be no trace of the tunnel.
    for host in hosts:
        host.wait_until(lambda: tables(host) == before[host], 5, "the tables as before")  # noqa: B023


def test_a_killed_service_takes_the_vpn_down_and_up_works_again(joined: Story) -> None:
    laptop = joined.laptop
    laptop.run(["systemctl", "kill", "--signal=KILL", "quicether.service"])
    laptop.wait_until(lambda: not is_active(laptop), 5, "NetworkManager to show the VPN as down")
    assert not [trace for trace in traces(laptop) if "nm-quicether" not in trace]
    joined.up(laptop)
    laptop.wait_until(lambda: answers(laptop, NAS[0]), 5, "the nas to answer again")


def test_a_killed_service_on_the_other_side_is_noticed_and_found_again(joined: Story) -> None:
    joined.home.run(["systemctl", "kill", "--signal=KILL", "quicether.service"])
    joined.home.wait_until(lambda: not is_active(joined.home), 5, "home to be down")
    joined.up(joined.home)
    joined.laptop.wait_until(lambda: answers(joined.laptop, NAS[0]), 10, "the nas to answer")


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("network=home, peerz=home@198.51.100.1", ["'peerz'", "'peers'"]),
        ("network=home, advertise-subnets=192.168.77.1/24", ["192.168.77.1/24", "192.168.77.0/24"]),
        ("network=home, listen-port=99999", ["listen-port", "99999"]),
        ("network=nowhere", ["nowhere"]),
    ],
    ids=["wrong-key", "wrong-prefix", "wrong-port", "wrong-network"],
)
def test_a_wrong_profile_fails_with_a_sentence_that_names_it(
    scene: Story, data: str, names: list[str]
) -> None:
    laptop = scene.laptop
    add = ["nmcli", "connection", "add", "type", "vpn", "con-name", "wrong"]
    laptop.run([*add, "vpn-type", "quicether", "vpn.data", data])
    try:
        with pytest.raises(CommandError):
            laptop.run(["nmcli", "connection", "up", "wrong"])
        journal = laptop.run(["journalctl", "-o", "cat", "--no-pager", "-n", "100"]).stdout
        status = laptop.run(["quicether", "status"], check=False)
        for name in names:
            assert name in journal
            assert name in status.stdout + status.stderr
        assert "Traceback" not in journal
    finally:
        laptop.run(["nmcli", "connection", "delete", "wrong"])

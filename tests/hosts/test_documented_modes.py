"""Full tunnel and namespace mode on whole hosts, with the commands of the README.

The internet of the story has a web server and a name server, neither of them in anybody's LAN.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.home import HOME, LAN, NAS, Story, story
from support.hosts import Host, WholeHost
from support.sniffer import Sniffer

PUBLIC, NAME_SERVER = "192.0.2.80", "192.0.2.53"
_WHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 80))
print("listening", flush=True)
while True:
    client, (who, *_) = server.accept()
    client.recv(4096)
    client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + who.encode())
    client.close()
"""
_NAMES = """
import socket, sys, dns.flags, dns.message, dns.rrset
address, name, answer = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind((address, 53))
print("listening", flush=True)
while True:
    data, asker = server.recvfrom(4096)
    question = dns.message.from_wire(data)
    reply = dns.message.make_response(question, recursion_available=True)
    asked = question.question[0]
    if asked.name.to_text() == name and asked.rdtype == 1:
        reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", answer))
    server.sendto(reply.to_wire(), asker)
"""


def serve(host: Host, program: str, *arguments: str) -> None:
    """Run a server until the host ends; it listens when this returns."""
    server = host.popen([sys.executable, "-c", program, *arguments])
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"


def seen_as(host: WholeHost) -> str:
    """As whom the public web server sees a host; empty where it does not answer."""
    return host.run(["curl", "-s", "-m", "3", f"http://{PUBLIC}/"], check=False).stdout


@pytest.fixture(scope="module")
def scene(installed: list[Path]) -> Iterator[Story]:
    """The story, with home as the exit of the README; the laptop has no profile yet."""
    with story(installed) as told:
        told.found_network()
        for address in (PUBLIC, NAME_SERVER):
            told.internet.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])
        serve(told.internet, _WHO, PUBLIC)
        serve(told.internet, _NAMES, NAME_SERVER, "gateway.example.", HOME[0])
        serve(told.nas, _NAMES, NAS[1], "printer.corp.example.", "192.168.77.20")
        told.laptop.run(["nmcli", "connection", "modify", "eth0", "ipv4.dns", NAME_SERVER])
        told.laptop.run(["nmcli", "connection", "up", "eth0"])
        home = told.home
        # An exit of IPv4, and the way to its LAN by IPv6: 0.0.0.0/0 covers no prefix beside it.
        covered = ["--prefix", "0.0.0.0/0", "--prefix", LAN[1]]
        home.run(["quicether", "network", "sign", "home", "--local", "--name", "home", *covered])
        start(home)
        chain = ["nft", "add", "chain", "inet", "quicether_nat", "post"]
        home.run(["nft", "add", "table", "inet", "quicether_nat"])
        home.run([*chain, "{ type nat hook postrouting priority srcnat; }"])
        rule = ["iifname", "quicether0", "oifname", "eth0", "masquerade"]
        home.run(["nft", "add", "rule", "inet", "quicether_nat", "post", *rule])
        yield told


def start(home: WholeHost) -> None:
    """Bring up the exit, which leads to the LAN behind it too."""
    role = ["--role", "gateway", "--forward-subnet", "0.0.0.0/0", "--advertise-subnet", LAN[1]]
    home.run(["quicether", "start", "--network", "home", *role])


def test_a_full_tunnel_of_a_profile_whose_gateway_is_known_by_name(scene: Story) -> None:
    """No name server is in the LAN: what asks for the gateway must not ask through the tunnel."""
    laptop = scene.laptop
    assert seen_as(laptop) == "203.0.113.2"
    scene.add_profile(laptop, "network=home, peers=home@gateway.example")
    modify = ["nmcli", "connection", "modify", "quicether", "+vpn.data"]
    laptop.run([*modify, "default-gateway=home"])
    scene.up(laptop)
    laptop.wait_until(lambda: seen_as(laptop) == HOME[0], 15, "the gateway's address is seen")
    with Sniffer(laptop, "eth0") as uplink:
        assert seen_as(laptop) == HOME[0]
        assert uplink.of_address(PUBLIC) == 0
    # The tunnel leads nowhere, and the service still finds out where to.
    scene.home.run(["quicether", "stop"])
    lookup = ["getent", "ahostsv4", "gateway.example"]
    assert HOME[0] in laptop.run(lookup, user="quicether").stdout
    start(scene.home)
    laptop.wait_until(lambda: seen_as(laptop) == HOME[0], 30, "the gateway is found again")
    scene.down(laptop)
    assert seen_as(laptop) == "203.0.113.2"
    # Names go where the profile says.
    laptop.run([*modify, f"dns={NAS[1]}"])
    scene.up(laptop)
    lookup = ["getent", "ahostsv4", "printer.corp.example"]
    laptop.wait_until(
        lambda: "192.168.77.20" in laptop.run(lookup, check=False).stdout, 15, "a name of the LAN's"
    )
    scene.down(laptop)


def test_a_namespace_for_the_device_and_nothing_else(scene: Story) -> None:
    laptop = scene.laptop
    # systemd does so where it runs on a machine; here it takes itself to be in a container.
    laptop.run(["mount", "--make-rshared", "/"])
    laptop.run(["systemctl", "restart", "quicether"])
    laptop.run(["ip", "netns", "add", "work"])
    up = ["quicether", "start", "--network", "home", "--peer", f"home@{HOME[0]}", "--netns", "work"]
    refused = laptop.run(up, check=False)
    assert "namespace mode needs CAP_SYS_ADMIN" in refused.stderr
    dropin = "/etc/systemd/system/quicether.service.d/netns.conf"
    laptop.run(["install", "-Dm644", "/usr/share/doc/quicether/netns.conf", dropin])
    laptop.run(["systemctl", "daemon-reload"])
    laptop.run(["systemctl", "restart", "quicether"])
    laptop.run(up)
    inside = ["ip", "netns", "exec", "work"]
    ping = ["ping", "-c", "1", "-W", "1", NAS[1]]
    reaches = partial(laptop.run, [*inside, *ping])
    laptop.wait_until(lambda: reaches(check=False).returncode == 0, 15, "the nas from inside")
    assert laptop.run(ping, check=False).returncode != 0
    assert "quicether0" not in laptop.run(["ip", "link"]).stdout
    sockets = ["ss", "-Hlun", "sport", "9000"]
    assert ":9000" in laptop.run(sockets).stdout
    assert not laptop.run([*inside, *sockets]).stdout
    laptop.run(["quicether", "stop"])
    assert "quicether0" not in laptop.run([*inside, "ip", "link"]).stdout

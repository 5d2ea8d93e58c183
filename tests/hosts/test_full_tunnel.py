"""Everything through one node: no loop, no leak, and what is to stay outside stays outside.

printer ┐
        ├ laptop ── internet ── exit (masquerades)
desk ───┘    └──(2nd uplink)─┤├─ public (a web server)
                             └── peers (nine nodes)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from quicether.host import exits
from support.cables import Cable, Switch
from support.commands import wait_until
from support.hosts import Host, LightHost, Router
from support.node import Network, Node, up
from support.sniffer import Sniffer
from support.stream import Stream

PUBLIC, PUBLIC6, PORTAL = "192.0.2.80", "2001:db8:80::80", "192.0.2.99"
EXIT, EXIT6 = "198.51.100.2", "2001:db8:100::2"
LAPTOP, LAPTOP6, SECOND = "203.0.113.2", "2001:db8:113::2", "198.18.0.2"
PRINTER, DESK, PEERS = "203.0.113.50", "203.0.113.3", "198.51.101.2"
NINE = range(9001, 9010)
RULES = ["ip", "rule", "show", "priority", str(exits.PRIORITY)]

MASQUERADE = """
table inet nat {
    chain out {
        type nat hook postrouting priority srcnat
        ip saddr 100.64.0.0/10 oifname "eth0" masquerade
        ip6 saddr fd00::/8 oifname "eth0" masquerade
    }
}
"""
_WHO = """
import socket, sys, threading
def serve(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 80), family=family)
    print("listening", flush=True)
    while True:
        client, (who, *_) = server.accept()
        client.recv(4096)
        client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + who.encode())
        client.close()
for address in sys.argv[1:]:
    threading.Thread(target=serve, args=(address,)).start()
"""


def who_am_i(host: Host, address: str) -> str:
    """As whom a web server at an address sees a host; empty where it does not answer."""
    where = f"[{address}]" if ":" in address else address
    return host.run(["curl", "-s", "-m", "3", f"http://{where}/"], check=False).stdout


@dataclass
class Lab:
    """The hosts, once everything is connected; the uplinks are those of the laptop."""

    laptop: Node
    exit: Node
    desk: Node
    public: LightHost
    uplinks: tuple[str, str]
    cafe: Switch


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with ExitStack() as stack:
        enter = stack.enter_context
        network = Network(tmp_path_factory.mktemp("full"))
        internet, exit_ = enter(Router("internet")), enter(Router("exit"))
        laptop, desk, printer, public, crowd = (
            enter(LightHost(name)) for name in ("laptop", "desk", "printer", "public", "crowd")
        )
        enter(network)
        cafe = enter(Switch("cafe"))
        gateway, first = cafe.plug(internet), cafe.plug(laptop)
        internet.configure_link(gateway.ifname, ["203.0.113.1/24", "2001:db8:113::1/64"])
        for port, address in (
            (first, LAPTOP),
            (cafe.plug(desk), DESK),
            (cafe.plug(printer), PRINTER),
        ):
            own6 = [f"{LAPTOP6}/64"] if address == LAPTOP else []
            gateways = ["203.0.113.1", *(["2001:db8:113::1"] if own6 else [])]
            port.host.configure_link(port.ifname, [f"{address}/24", *own6], gateway=gateways)
        second = enter(Cable(laptop, internet))
        internet.configure_link(second.b.ifname, ["198.18.0.1/24"])
        laptop.configure_link(second.a.ifname, [f"{SECOND}/24"])
        for host, net, net6, addresses in (
            (exit_, "198.51.100", "2001:db8:100:", [f"{EXIT}/24", f"{EXIT6}/64"]),
            (public, "192.0.2", "2001:db8:80:", [f"{PUBLIC}/24", f"{PORTAL}/24", f"{PUBLIC6}/64"]),
            (crowd, "198.51.101", "2001:db8:101:", [f"{PEERS}/24"]),
        ):
            line = enter(Cable(host, internet))
            internet.configure_link(line.b.ifname, [f"{net}.1/24", f"{net6}:1/64"])
            gateways = [f"{net}.1", f"{net6}:1"] if len(addresses) > 1 else [f"{net}.1"]
            host.configure_link(line.a.ifname, addresses, gateway=gateways)
        exit_.run(
            ["nft", "-f", "-"],
            input=MASQUERADE,
        )
        for host, address in (
            (public, PUBLIC),
            (public, PUBLIC6),
            (public, PORTAL),
            (printer, PRINTER),
        ):
            server = host.popen(["/usr/bin/python3", "-c", _WHO, address])
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
        exit_node = network.node(exit_, prefixes=["0.0.0.0/0", "::/0"])
        desk_node, laptop_node = network.node(desk), network.node(laptop)
        nine = [network.node(crowd, name=f"peer{port}") for port in NINE]
        up(
            (exit_node, {"role": "gateway", "forward-subnets": "0.0.0.0/0 ::/0"}),
            (desk_node, {"peers": f"exit@{EXIT}", "static-routes": "0.0.0.0/0=exit"}),
            *(
                (node, {"listen-port": str(port), "tun-name": f"quicether{port}"})
                for node, port in zip(nine, NINE, strict=True)
            ),
            (
                laptop_node,
                {
                    "peers": " ".join(
                        [f"exit@{EXIT}", *(f"peer{port}@{PEERS}:{port}" for port in NINE)]
                    ),
                    "default-gateway": "exit",
                    "bypass-subnets": "192.0.2.96/28",
                },
            ),
        )
        for name in ("exit", *(node.name for node in nine)):
            laptop_node.wait_for_peer(name)
        desk_node.wait_for_peer("exit")
        yield Lab(laptop_node, exit_node, desk_node, public, (first.ifname, second.a.ifname), cafe)


def test_everything_goes_through_the_exit_and_nothing_beside_it(lab: Lab) -> None:
    laptop = lab.laptop.host
    with Sniffer(laptop, lab.uplinks[0]) as uplink, Sniffer(laptop, "quicether0") as inside:
        wait_until(lambda: who_am_i(laptop, PUBLIC) == EXIT, 10, "the public server sees the exit")
        assert who_am_i(laptop, PUBLIC6) == EXIT6
        assert uplink.of_address(PUBLIC) == uplink.of_address(PUBLIC6) == 0
        assert inside.of_address(PUBLIC) > 0
        # A light host has nobody who could be told of names.
        refusals = lab.laptop.status()["refusals"]
        assert [each for each in refusals if not each.startswith("names:")] == []


def test_iptables_may_masquerade_instead_of_nftables(lab: Lab) -> None:
    """With the two lines of the routing chapter, which know only IPv4."""
    exit_, laptop = lab.exit.host, lab.laptop.host
    exit_.run(["nft", "delete", "table", "inet", "nat"])
    rule = "POSTROUTING -s 100.64.0.0/10 -o eth0 -j MASQUERADE"
    exit_.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    exit_.run(["sh", "-c", f"iptables -t nat -A {rule}"])
    try:
        wait_until(lambda: who_am_i(laptop, PUBLIC) == EXIT, 10, "the public server sees the exit")
        counted = exit_.run(["iptables", "-t", "nat", "-nvxL", "POSTROUTING"]).stdout
        packets = next(line for line in counted.splitlines() if "MASQUERADE" in line).split()[0]
        assert int(packets) > 0
    finally:
        exit_.run(["sh", "-c", f"iptables -t nat -D {rule}"])
        exit_.run(["nft", "-f", "-"], input=MASQUERADE)


def test_local_networks_and_what_bypasses_stay_outside(lab: Lab) -> None:
    laptop = lab.laptop.host
    assert who_am_i(laptop, PRINTER) == LAPTOP
    assert who_am_i(laptop, PORTAL) == LAPTOP


def test_a_split_tunnel_beside_it_keeps_the_internet_outside(lab: Lab) -> None:
    desk = lab.desk.host
    assert who_am_i(desk, PUBLIC) == DESK
    desk.run(["ping", "-c", "1", "-W", "5", lab.exit.address()])


@contextmanager
def led_by_hand(host: LightHost, uplink: str, gateways: Mapping[str, str]) -> Iterator[None]:
    """A host's default routes lead into the tunnel, as the routing chapter types it.

    gateways: next hop by family. What was there is behind it, as a network manager's route is.
    """
    for family, gateway in gateways.items():
        route = ["ip", family, "route"]
        there = ["default", "via", gateway, "dev", uplink]
        host.run([*route, "add", *there, "metric", "2000"])
        host.run([*route, "del", *there])
        host.run([*route, "add", "default", "dev", "quicether0"])
    host.run(["ip", "route", "add", f"{PORTAL}/32", "via", gateways["-4"], "dev", uplink])
    wait_until(lambda: host.run(RULES).stdout, 5, "the ways out")
    yield
    host.run(["ip", "route", "del", f"{PORTAL}/32"])
    for family, gateway in gateways.items():
        route = ["ip", family, "route"]
        there = ["default", "via", gateway, "dev", uplink]
        host.run([*route, "del", "default", "dev", "quicether0"])
        host.run([*route, "add", *there])
        host.run([*route, "del", *there, "metric", "2000"])
    wait_until(lambda: not host.run(RULES).stdout, 5, "the ways out are no longer needed")


@pytest.mark.parametrize("which", ["desk", "laptop"])
def test_a_default_route_by_hand_leads_to_the_exit_and_not_the_tunnel_into_itself(
    lab: Lab, which: str
) -> None:
    """Beside a full tunnel, and where a static route alone says who gets everything."""
    node: Node = getattr(lab, which)
    host, on_laptop = node.host, which == "laptop"
    gateways = {"-4": "203.0.113.1", **({"-6": "2001:db8:113::1"} if on_laptop else {})}
    with led_by_hand(host, lab.uplinks[0] if on_laptop else "eth0", gateways):
        with Sniffer(host, "quicether0") as inside:
            wait_until(lambda: who_am_i(host, PUBLIC) == EXIT, 10, "the server sees the exit")
            if on_laptop:
                assert who_am_i(host, PUBLIC6) == EXIT6
            assert who_am_i(host, PORTAL) == (LAPTOP if on_laptop else DESK)
            for name in node.peers():
                node.wait_for_peer(name)
            assert node.ping("exit")["rtt"] < 1
            assert inside.of_address(PUBLIC) > 0
            assert inside.of_address(EXIT) == inside.of_udp_port(9000) == 0
        put_back(host, RULES, "rule", "del", "priority")
        put_back(
            host, ["ip", "route", "show", "table", str(exits.TABLE)], "route", "flush", "table"
        )


def put_back(host: Host, look: Sequence[str], *away: str) -> None:
    """What somebody takes away, as systemd-networkd does with what it did not make, comes back.

    look: shows it; its last word is what `ip` is to take away.
    """

    def there() -> list[str]:
        return sorted(host.run(look).stdout.splitlines())

    before = there()
    host.run(["ip", *away, look[-1]])
    wait_until(lambda: there() == before, 2, f"all of {before} to be back")


def test_roaming_with_ten_peers_puts_no_packet_of_the_overlay_into_the_tunnel(lab: Lab) -> None:
    laptop = lab.laptop.host
    first, second = lab.uplinks
    with (
        Sniffer(laptop, "quicether0") as inside,
        Sniffer(laptop, second) as uplink,
        Stream(lab.public, laptop, PUBLIC) as stream,
    ):
        wait_until(stream.received, 5, "the transfer begins")
        laptop.run(["ip", "link", "set", first, "down"])
        laptop.run(["ip", "route", "replace", "default", "via", "198.18.0.1", "dev", second])
        before = stream.received()
        wait_until(lambda: stream.received() > before, 10, "the transfer goes on")
        for name in lab.laptop.peers():
            lab.laptop.wait_for_peer(name)
        assert lab.laptop.ping("peer9005")["rtt"] < 1
        print(f"stood still for {stream.stood_still():.1f} s")
        stream.finish()
        assert uplink.of_address(PUBLIC) == 0
        assert uplink.of_address(EXIT) > 0
        assert inside.of_address(PUBLIC) > 0
        assert [inside.of_address(address) for address in (EXIT, PEERS)] == [0, 0]
        assert [inside.of_udp_port(port) for port in (9000, *NINE)] == [0] * 10

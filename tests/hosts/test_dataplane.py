"""Real TUN devices and the real forwarder: what two hosts' kernels make of our packets.

                 one process, one loop
    dp-a ─ quicether0 ─ forwarder A ═ link ═ forwarder B ─ quicether0 ─ dp-b
                             ╚══════ forwarder G (gateway) ══════╝

The links are calls on the loop, so that everything but the transport is the real thing.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface, ip_network

import pytest

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.snapshot import Snapshot
from quicether.dataplane.tun import Tun
from quicether.host.desired import HostConfig
from quicether.host.netlink import NetlinkOwner
from quicether.model import DropReason, Member, NextHop, NodeId
from support import netns
from support.cables import Cable
from support.drains import Deaf
from support.fake_device import FakeDevice
from support.fake_overlay import member, snapshot
from support.hosts import LightHost

A = member("a", ["100.64.0.1", "fd00::1"], ["10.1.0.0/16"])
B = member("b", ["100.64.0.2", "fd00::2"], ["10.2.0.0/16", "fd00:2::/32"])
G = member("g", ["100.64.0.3", "fd00::3"], ["100.64.0.0/10", "fd00::/16"])
MTU = 1400


@dataclass
class Wire:
    """One direction of a link: hands packets to the forwarder at its far end, a turn later."""

    sender: NodeId
    max_packet: int = MTU
    far: Forwarder | None = None

    def send_packets(self, packets: Sequence[bytes]) -> None:
        assert self.far is not None
        asyncio.get_running_loop().call_soon(self.far.inbound, self.sender, list(packets))


@dataclass
class Node:
    """A host with its device, or the gateway without one."""

    me: Member
    counters: Counters = field(default_factory=Counters)
    host: LightHost | None = None
    owner: NetlinkOwner | None = None
    forwarder: Forwarder | None = None


class Lab:
    """Runs the loop in a thread inside a namespace of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.a, self.b = (stack.enter_context(LightHost(name)) for name in ("dp-a", "dp-b"))
        self._daemon = stack.enter_context(LightHost("dp-daemon"))
        self.nodes = {"a": Node(A, host=self.a), "b": Node(B, host=self.b), "g": Node(G)}
        self.wires: dict[str, Wire] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: netns.inside(self._daemon.netns, self._run), name="lab"
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    def __enter__(self) -> Lab:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._remove)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def call(self, act: Callable[[], object]) -> None:
        """Run a function or coroutine function on the loop and wait for it."""

        async def acting() -> None:
            result = act()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(acting(), self._loop).result(20)

    async def direct(self) -> None:
        """A and B have a link of their own."""
        a, b = self.nodes["a"], self.nodes["b"]
        ab, ba = Wire(A.node_id), Wire(B.node_id)
        self.wires = {"ab": ab, "ba": ba}
        via_b = dict.fromkeys(
            ("100.64.0.2/32", "fd00::2/128", "10.2.0.0/16", "fd00:2::/32"),
            NextHop.to_node(B.node_id),
        )
        via_a = dict.fromkeys(
            ("100.64.0.1/32", "fd00::1/128", "10.1.0.0/16"), NextHop.to_node(A.node_id)
        )
        await self._start(a, snapshot(A, via_b, {B: ab}))
        await self._start(b, snapshot(B, via_a, {A: ba}))
        ab.far, ba.far = b.forwarder, a.forwarder

    async def through_gateway(self) -> None:
        """A and B have a link to G alone, which has no device of its own."""
        a, b, g = (self.nodes[name] for name in "abg")
        ag, bg, ga, gb = (Wire(m.node_id) for m in (A, B, G, G))
        self.wires = {"ag": ag, "bg": bg, "ga": ga, "gb": gb}
        gateway = NextHop.via_gateway(G.node_id)
        # It offers to forward for the two themselves: a wide block would let it send as neither.
        to_a, to_b = ({str(prefix): gateway for prefix in one.host_prefixes} for one in (A, B))
        await self._start(a, snapshot(A, to_b, {G: ag}, others=[B]))
        await self._start(b, snapshot(B, to_a, {G: bg}, others=[A]))
        both = {
            "100.64.0.1/32": NextHop.to_node(A.node_id),
            "fd00::1/128": NextHop.to_node(A.node_id),
            "100.64.0.2/32": NextHop.to_node(B.node_id),
            "fd00::2/128": NextHop.to_node(B.node_id),
        }
        around = snapshot(replace(G, prefixes=()), both, {A: ga, B: gb}, forwards=True)
        g.forwarder = Forwarder(FakeDevice(), g.counters, around, self._loop.time, Deaf())
        ag.far = bg.far = g.forwarder
        ga.far, gb.far = a.forwarder, b.forwarder

    async def _start(self, node: Node, known: Snapshot) -> None:
        assert node.host is not None
        node.owner = NetlinkOwner()
        config = HostConfig(
            "quicether0",
            MTU,
            tuple(ip_interface(address) for address in node.me.addresses),
            (ip_network("100.64.0.0/10"), ip_network("fd00::/16"), ip_network("10.0.0.0/8")),
            netns=node.host.netns,
        )
        device: Tun = await node.owner.attach(config)
        node.forwarder = Forwarder(
            device,
            node.counters,
            known,
            self._loop.time,
            Deaf(),
        )
        device.start(node.forwarder.outbound)

    async def _remove(self) -> None:
        for node in self.nodes.values():
            if node.owner is not None:
                await node.owner.remove()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as stack, Lab(stack) as made:
        yield made


@contextmanager
def served(host: LightHost) -> Iterator[None]:
    """An iperf3 server on the host for one client."""
    server = host.popen(["iperf3", "--server", "--one-off", "--forceflush"])
    assert server.stdout is not None
    next(line for line in server.stdout if "listening" in line)
    yield
    server.wait(10)


def tcp(client: LightHost, server: LightHost, address: str, *options: str) -> float:
    """Send 10 MB over TCP and return Mbit/s as the receiver saw it."""
    with served(server):
        run = client.run(["iperf3", "--client", address, "--bytes", "10M", "--json", *options])
    return float(json.loads(run.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6


@pytest.mark.parametrize("address", ["100.64.0.2", "fd00::2"])
def test_ping_and_tcp_between_two_kernels(lab: Lab, address: str) -> None:
    lab.call(lab.direct)
    lab.a.run(["ping", "-c", "3", "-i", "0.05", "-W", "2", address])
    lab.a.run(["ping", "-c", "1", "-W", "2", "-s", "4000", address])
    speed = tcp(lab.a, lab.b, address)
    backwards = tcp(lab.a, lab.b, address, "--reverse")
    print(f"TCP through two TUN devices and forwarders: {speed:.0f} and {backwards:.0f} Mbit/s")
    for node in ("a", "b"):
        assert not lab.nodes[node].counters.drops
        assert lab.nodes[node].counters.sent_packets > 1000


def test_path_mtu_is_found_by_the_kernel(lab: Lab) -> None:
    """The device is wider than the path, as when a path's MTU goes down under way."""
    lab.call(lab.direct)
    lab.wires["ab"].max_packet = 1300
    lab.a.run(["ping", "-c", "1", "-W", "2", "-s", "1372", "-M", "do", "100.64.0.2"], check=False)
    assert "mtu 1300" in lab.a.run(["ip", "route", "get", "100.64.0.2"]).stdout
    assert tcp(lab.a, lab.b, "100.64.0.2") > 0
    lab.a.run(["ping", "-c", "1", "-W", "2", "-s", "1352", "-M", "do", "fd00::2"], check=False)
    assert "mtu 1300" in lab.a.run(["ip", "-6", "route", "get", "fd00::2"]).stdout
    assert tcp(lab.a, lab.b, "fd00::2") > 0


def test_packets_without_df_are_fragmented_and_arrive(lab: Lab) -> None:
    lab.call(lab.direct)
    lab.wires["ab"].max_packet = 1300
    lab.a.run(["ping", "-c", "1", "-W", "2", "-s", "1372", "-M", "dont", "100.64.0.2"])


@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_the_kernel_takes_our_icmp_errors(lab: Lab, rp_filter: str) -> None:
    """Also where it checks by reverse path what arrives: the error must not look like a martian."""
    lab.call(lab.direct)
    lab.a.sysctl(
        {"net.ipv4.conf.all.rp_filter": rp_filter, "net.ipv4.conf.quicether0.rp_filter": rp_filter}
    )
    said = lab.a.run(["ping", "-c", "1", "-W", "2", "10.77.0.1"], check=False).stdout
    assert "Destination Net Unreachable" in said
    said = lab.a.run(["ping", "-c", "1", "-W", "2", "fd00::77"], check=False).stdout
    assert "No route" in said
    assert lab.nodes["a"].counters.drops == {DropReason.NO_ROUTE: 2}


def test_through_a_gateway_with_traceroute(lab: Lab) -> None:
    lab.call(lab.through_gateway)
    for address in ("100.64.0.2", "fd00::2"):
        assert "ttl=63" in lab.a.run(["ping", "-c", "1", "-W", "2", address]).stdout
        assert tcp(lab.a, lab.b, address) > 0
    said = lab.a.run(["ping", "-c", "1", "-W", "2", "-t", "1", "100.64.0.2"], check=False).stdout
    assert "From 100.64.0.3" in said
    assert "Time to live exceeded" in said
    said = lab.a.run(["ping", "-c", "1", "-W", "2", "-t", "1", "fd00::2"], check=False).stdout
    assert "From fd00::3" in said
    assert "Time exceeded: Hop limit" in said
    assert lab.nodes["g"].counters.drops == {DropReason.TTL_EXPIRED: 2}


def test_a_narrower_link_behind_the_gateway_is_found(lab: Lab) -> None:
    lab.call(lab.through_gateway)
    lab.wires["gb"].max_packet = 1290
    assert tcp(lab.a, lab.b, "100.64.0.2") > 0
    assert "mtu 1290" in lab.a.run(["ip", "route", "get", "100.64.0.2"]).stdout
    assert tcp(lab.a, lab.b, "fd00::2") > 0
    assert "mtu 1290" in lab.a.run(["ip", "-6", "route", "get", "fd00::2"]).stdout


def test_a_spoofing_member_gets_nothing_through(lab: Lab) -> None:
    lab.call(lab.direct)
    lab.a.run(["ip", "address", "add", "10.99.0.1/32", "dev", "quicether0"])
    lab.a.run(["ping", "-c", "2", "-i", "0.05", "-W", "0.3", "-I", "10.99.0.1", "100.64.0.2"],
              check=False)  # fmt: skip
    assert lab.nodes["b"].counters.drops == {DropReason.SPOOFED_SOURCE: 2}
    assert lab.nodes["b"].counters.received_packets == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_to_a_lan_behind_a_node_is_cut_again_by_its_kernel(lab: Lab, version: int) -> None:
    """What the device joined has to leave the host as packets that fit the LAN."""
    lab.call(lab.direct)
    lab.b.sysctl({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})
    with LightHost("dp-lan") as lan, Cable(lab.b, lan, mtu=1400) as cable:
        lab.b.configure_link(cable.a.ifname, ["10.2.0.1/24", "fd00:2::1/64"])
        lan.configure_link(
            cable.b.ifname, ["10.2.0.9/24", "fd00:2::9/64"], ["10.2.0.1", "fd00:2::1"]
        )
        address = "10.2.0.9" if version == 4 else "fd00:2::9"
        assert tcp(lab.a, lan, address) > 0
        # A router joins multicast groups, and says so on every link.
        assert set(lab.nodes["b"].counters.drops) <= {DropReason.LINK_LOCAL}

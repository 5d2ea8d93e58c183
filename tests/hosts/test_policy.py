"""The policy and the audit trail on hosts: what leaves, what arrives, what is forwarded, who lies.

laptop ┐
rogue ─┼─ hub (gateway) ─ far (behind the hub alone)
       └─ office ─ server (10.1.0.50)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.cables import Cable, Switch
from support.commands import run_command, wait_until
from support.hosts import Host, LightHost, Router
from support.node import Network, Node, OrderError, up
from support.stream import Stream

LAN, SERVER = "10.1.0.0/16", "10.1.0.50"
ALLOW = {"id": "all", "action": "allow", "subject": "*", "object": "*"}

SMALL_DISK = "64k"
_REFUSED = """
import errno, socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), 5).close()
    except OSError as error:
        print(errno.errorcode.get(error.errno, str(error)))
    else:
        print("connected")
"""


def connect(host: Host, address: str, *ports: int) -> str:
    """What TCP connections come to, a line each: `connected`, or the name of the error."""
    command = ["/usr/bin/python3", "-c", _REFUSED, address, *map(str, ports)]
    return host.run(command).stdout.strip()


@dataclass
class Lab:
    """The hosts; folder holds each node's policy and audit trail under its name.

    disk: a small file system for the trail of `far` alone.
    """

    folder: Path
    disk: Path
    nodes: dict[str, Node]
    server: LightHost

    def rule(self, node: str, *rules: dict[str, Any]) -> None:
        """Put rules in force on a node, the first that matches wins."""
        self.write(node, "".join(["[groups.staff]\n", *map(_toml, rules)]))
        self.nodes[node].reload()

    def write(self, node: str, text: str) -> None:
        """Write a node's policy file."""
        (self.folder / f"{node}.toml").write_text(text)

    def audit(self, node: str, **fields: object) -> list[dict[str, Any]]:
        """A node's audit records with these fields, `event` among them."""
        lines = self.trail(node).read_text().splitlines()
        records = map(json.loads, lines)
        return [r for r in records if all(r.get(key) == value for key, value in fields.items())]

    def trail(self, node: str) -> Path:
        """Where a node writes its audit trail."""
        return (self.disk if node == "far" else self.folder) / f"{node}.audit"

    def wait_for_audit(self, node: str, **fields: object) -> list[dict[str, Any]]:
        """Wait until there are such records, and return them."""
        return wait_until(lambda: self.audit(node, **fields), 5, f"{node} writes {fields}")


def _toml(rule: dict[str, Any]) -> str:
    fields = "".join(f"{key} = {json.dumps(value)}\n" for key, value in rule.items())
    return f"[[rules]]\n{fields}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("policy")
    with ExitStack() as stack:
        enter = stack.enter_context
        disk = folder / "disk"
        disk.mkdir()
        run_command(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(disk)])
        stack.callback(run_command, ["umount", "--lazy", str(disk)])
        network = Network(folder)
        office, server = enter(Router("office")), enter(LightHost("server"))
        laptop, rogue, hub, far = (
            enter(LightHost(name)) for name in ("laptop", "rogue", "hub", "far")
        )
        enter(network)
        underlay, line = enter(Switch("underlay")), enter(Cable(hub, far))
        for number, host in enumerate((hub, office, laptop, rogue), 1):
            port = underlay.plug(host)
            host.configure_link(port.ifname, [f"192.0.2.{number}/24"])
        hub.configure_link(line.a.ifname, ["198.51.100.1/24"])
        far.configure_link(line.b.ifname, ["198.51.100.2/24"])
        lan = enter(Cable(office, server))
        office.configure_link(lan.a.ifname, ["10.1.0.1/16"])
        server.configure_link(lan.b.ifname, [f"{SERVER}/16"], gateway="10.1.0.1")
        hub_prefixes = ["100.64.0.0/10", "fd00::/8"]
        nodes = {
            "hub": network.node(hub, prefixes=hub_prefixes),
            "office": network.node(office, prefixes=[LAN]),
            "laptop": network.node(laptop, groups=["staff"]),
            "rogue": network.node(rogue),
            "far": network.node(far),
        }
        found = Lab(folder, disk, nodes, server)
        more = {
            "hub": {"role": "gateway", "forward-nodes": "*"},
            "office": {"peers": "hub@192.0.2.1", "advertise-subnets": LAN},
            "laptop": {"peers": "hub@192.0.2.1 office@192.0.2.2"},
            "rogue": {"peers": "hub@192.0.2.1 office@192.0.2.2"},
            "far": {"peers": "hub@198.51.100.1"},
        }
        for name in nodes:
            found.write(name, _toml(ALLOW))
            more[name] |= {
                "policy-file": str(folder / f"{name}.toml"),
                "audit-log": str(found.trail(name)),
            }
        up(*((node, more[name]) for name, node in nodes.items()))
        for name in ("laptop", "rogue"):
            nodes[name].wait_for_peer("office")
            nodes[name].wait_for_route(LAN)
        nodes["laptop"].wait_for_route(f"{nodes['far'].address()}/32")
        nodes["far"].wait_for_route(f"{nodes['laptop'].address()}/32")
        yield found


@pytest.fixture(autouse=True)
def everything_allowed(lab: Lab) -> Iterator[None]:
    yield
    for name in lab.nodes:
        lab.rule(name, ALLOW)


DENY_SSH = {
    "id": "no-ssh",
    "action": "deny",
    "subject": "group:staff",
    "object": LAN,
    "protocols": ["tcp"],
    "ports": [22],
}


@pytest.mark.parametrize("where", ["laptop", "office"])
def test_what_is_denied_where_it_leaves_or_arrives(lab: Lab, where: str) -> None:
    laptop = lab.nodes["laptop"]
    lab.rule(where, DENY_SSH, ALLOW)
    before = lab.nodes[where].drops().get("policy-denied", 0)
    # ICMP "prohibited" ends the attempt at once: a host that is silent would time out.
    assert connect(laptop.host, SERVER, 22) == "EHOSTUNREACH"
    assert connect(laptop.host, SERVER, 23) == "ECONNREFUSED"
    assert lab.nodes[where].drops()["policy-denied"] > before
    (record,) = lab.wait_for_audit(where, event="denied", rule_id="no-ssh")
    assert (record["src_name"], record["dest_ip"], record["dest_port"]) == ("laptop", SERVER, 22)
    assert record["dest_name"] == "office"
    verdict = lab.nodes[where].policy("laptop", SERVER, "tcp", 22)
    assert (verdict["allowed"], verdict["rule"]) == (False, "no-ssh")


@pytest.mark.parametrize("where", ["laptop", "office"])
def test_a_flood_of_denied_packets_is_prohibited_and_makes_one_record_and_its_count(
    lab: Lab, where: str
) -> None:
    """EHOSTUNREACH is what a missing host gives too; ping says which ICMP error it got."""
    laptop, office = lab.nodes["laptop"], lab.nodes["office"]
    no_ping = {
        "id": "no-ping",
        "action": "deny",
        "subject": "laptop",
        "object": "office",
        "protocols": ["icmp"],
    }
    lab.rule(where, no_ping, ALLOW)
    # Type 3 code 13, and ICMPv6 type 1 code 1.
    for address, words in (
        (SERVER, "Packet filtered"),
        (office.address(6), "Administratively prohibited"),
    ):
        ping = ["ping", "-c", "20", "-i", "0.01", "-W", "1", address]
        said = laptop.host.run(ping, check=False).stdout
        assert said.count(words) >= 15, said
        assert "100% packet loss" in said
    wait_until(lambda: lab.audit(where, event="denied", dest_ip=office.address(6)), 5, "a record")
    for address in (SERVER, office.address(6)):
        (record,) = lab.audit(where, event="denied", dest_ip=address, rule_id="no-ping")
        assert "left_out" not in record
    lab.rule(where, ALLOW)
    for address in (SERVER, office.address(6)):
        lab.wait_for_audit(where, event="denied", dest_ip=address, rule_id="no-ping", left_out=19)


def test_a_full_disk_stops_no_packet_and_the_trail_says_what_it_misses(lab: Lab) -> None:
    laptop, far = lab.nodes["laptop"].host, lab.nodes["far"].address()
    ports = range(1, 101)
    denied = {"id": "low", "action": "deny", "subject": "*", "object": "far", "ports": "1-200"}
    lab.rule("far", denied, ALLOW)
    lab.wait_for_audit("far", event="policy-loaded")
    filler = lab.disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    assert connect(laptop, far, *ports).split() == ["EHOSTUNREACH"] * len(ports)
    ping = ["ping", "-c", "20", "-i", "0.01", "-W", "1", far]
    assert " 0% packet loss" in laptop.run(ping).stdout
    kept = len(lab.audit("far", event="denied", rule_id="low"))
    assert kept < len(ports)
    filler.unlink()
    assert connect(laptop, far, 200) == "EHOSTUNREACH"
    lab.wait_for_audit("far", event="denied", dest_port=200)
    missed = sum(record["left_out"] for record in lab.audit("far", event="left-out"))
    assert kept + missed >= len(ports)


def test_what_is_denied_where_it_is_forwarded(lab: Lab) -> None:
    laptop, far = lab.nodes["laptop"], lab.nodes["far"]
    assert laptop.lookup(far.address())["next_hop"] == "gateway"
    assert connect(laptop.host, far.address(), 22) == "ECONNREFUSED"
    lab.rule("hub", {**DENY_SSH, "object": "far"}, ALLOW)
    assert connect(laptop.host, far.address(), 22) == "EHOSTUNREACH"
    assert connect(laptop.host, far.address(), 23) == "ECONNREFUSED"
    (record,) = lab.wait_for_audit("hub", event="denied", rule_id="no-ssh")
    assert (record["src_name"], record["dest_name"]) == ("laptop", "far")


def test_a_rule_is_about_whoever_is_behind_a_gateway(lab: Lab) -> None:
    """Far and laptop know each other from what the hub forwards, and look up the rest."""
    laptop, far = lab.nodes["laptop"], lab.nodes["far"]
    by_group = {**DENY_SSH, "object": "far"}
    for where in ("far", "laptop"):
        lab.rule(where, by_group, ALLOW)
        wait_until(
            lambda: connect(laptop.host, far.address(), 22) == "EHOSTUNREACH",
            10,
            f"{where} knows who is who",
        )
        assert connect(laptop.host, far.address(), 23) == "ECONNREFUSED"
        lab.rule(where, ALLOW)


def test_answers_need_no_rule_and_the_way_back_is_denied(lab: Lab) -> None:
    laptop, office = lab.nodes["laptop"], lab.nodes["office"]
    only = {"id": "out", "action": "allow", "subject": "laptop", "object": "office"}
    lab.rule("laptop", only)
    assert connect(laptop.host, SERVER, 80) == "ECONNREFUSED"
    laptop.host.run(["ping", "-c", "1", "-W", "5", office.address()])
    assert connect(lab.server, laptop.address(), 80) == "EHOSTUNREACH"
    assert lab.wait_for_audit("laptop", event="denied", rule_id="default")


def test_a_prefix_that_the_policy_lets_nothing_pass_to_is_no_route_and_said(lab: Lab) -> None:
    laptop = lab.nodes["laptop"]
    only = {"id": "far", "action": "allow", "subject": "laptop", "object": "far"}
    lab.rule("laptop", only)
    laptop.wait_for_route(LAN, 5, gone=True)
    useless = f"prefix {LAN}: the policy lets nothing pass between it and this node"
    assert useless in laptop.status()["refusals"]
    lab.rule("laptop", {**ALLOW, "object": SERVER, "protocols": ["udp"]})
    laptop.wait_for_route(LAN, 5)
    assert useless not in laptop.status()["refusals"]


def test_a_reload_keeps_the_flows_that_stay_allowed_and_a_bad_file_changes_nothing(
    lab: Lab,
) -> None:
    office = lab.nodes["office"]
    with Stream(lab.server, lab.nodes["laptop"].host, SERVER) as stream:
        wait_until(stream.received, 5, "the transfer begins")
        lab.rule("office", {**ALLOW, "id": "staff", "subject": "group:staff"})
        before = stream.received()
        wait_until(lambda: stream.received() > before + 500_000, 5, "the transfer goes on")
        assert connect(lab.nodes["rogue"].host, SERVER, 80) == "EHOSTUNREACH"
        lab.write("office", _toml({**ALLOW, "action": "alow"}))
        with pytest.raises(OrderError, match=r"office.toml: line 3, rule 'all': action: 'alow'"):
            office.reload()
        assert lab.wait_for_audit("office", event="policy-refused")
        before = stream.received()
        wait_until(lambda: stream.received() > before + 500_000, 5, "the transfer goes on")
        assert stream.stood_still() < 1
        lab.rule("office", {**ALLOW, "action": "deny", "id": "none"})
        before = stream.received()
        time.sleep(1)
        assert stream.received() <= before + 200_000


def test_a_member_that_sends_as_another_gets_nothing_through(lab: Lab) -> None:
    rogue, laptop = lab.nodes["rogue"], lab.nodes["laptop"]
    for stolen in ("10.9.9.9", laptop.address()):
        before = lab.nodes["office"].drops().get("spoofed-source", 0)
        rogue.host.run(["ip", "address", "add", f"{stolen}/32", "dev", "lo"])
        ping = ["ping", "-c", "3", "-i", "0.2", "-W", "1", "-I", stolen, SERVER]
        assert "100% packet loss" in rogue.host.run(ping, check=False).stdout
        assert lab.nodes["office"].drops()["spoofed-source"] == before + 3
        records = lab.wait_for_audit("office", event="spoofed-source", src_ip=stolen)
        assert {record["src_name"] for record in records} == {"rogue"}
        assert (
            lab.audit("office", event="flow", src_ip=stolen, protocol="icmp", dest_ip=SERVER) == []
        )

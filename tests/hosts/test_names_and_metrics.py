"""Names and metrics on real hosts: packets through the kernel, a scrape over the loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quicether.identity.addresses import names_addresses
from support.cables import Cable
from support.commands import CommandError, wait_until
from support.hosts import LightHost
from support.node import Network, Node, OrderError, up

ADDRESS = "127.0.0.1:9100"
RESOLVE = """
import sys, json, dns.message, dns.query, dns.rcode
name, kind, *servers = sys.argv[1:]
found = []
for server in servers:
    answer = dns.query.udp(dns.message.make_query(name, kind), server, timeout=5)
    records = sorted(item.to_text() for entry in answer.answer for item in entry)
    found.append([dns.rcode.to_text(answer.rcode()), records])
print(json.dumps(found))
"""
FETCH = """
import sys, json, urllib.request, urllib.error
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""


def python(host: LightHost, program: str, *arguments: str) -> Any:
    """Run a program on host and return the JSON that it prints."""
    done = host.run([sys.executable, "-c", program, *arguments])
    return json.loads(done.stdout)


@dataclass
class Pair:
    """Two nodes with a cable between them, not up yet."""

    network: Network
    home: Node
    cafe: Node

    @property
    def servers(self) -> tuple[str, ...]:
        return tuple(map(str, names_addresses(self.network.authority.network_id)))

    def resolve(self, name: str, kind: str) -> list[Any]:
        """Ask at both addresses on cafe; they have to agree."""
        ipv4, ipv6 = python(self.cafe.host, RESOLVE, name, kind, *self.servers)
        assert ipv4 == ipv6
        return ipv4  # type: ignore[no-any-return]


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    with LightHost("home") as home, LightHost("cafe") as cafe, Cable(home, cafe) as cable:
        home.configure_link(cable.a.ifname, ["192.0.2.1/24"])
        cafe.configure_link(cable.b.ifname, ["192.0.2.2/24"])
        with Network(folder) as network:
            yield Pair(network, network.node(home), network.node(cafe))


def test_a_host_asks_its_own_node_for_names_and_is_watched(tmp_path: Path) -> None:
    with pair(tmp_path) as hosts:
        home, cafe = hosts.home, hosts.cafe
        watched = {"metrics-addr": ADDRESS, "health-addr": ADDRESS}
        up((home, {}), (cafe, {"peers": "home@192.0.2.1", **watched}))
        cafe.wait_for_peer("home")
        # Names.
        assert hosts.resolve("home.home.quicether", "A") == ["NOERROR", [home.address(4)]]
        assert hosts.resolve("home.home.quicether", "AAAA") == ["NOERROR", [home.address(6)]]
        assert hosts.resolve("cafe.home.quicether", "A") == ["NOERROR", [cafe.address(4)]]
        assert hosts.resolve("nobody.home.quicether", "A") == ["NXDOMAIN", []]
        assert hosts.resolve("example.com", "A") == ["REFUSED", []]
        (refusal,) = (text for text in cafe.status()["refusals"] if text.startswith("names: "))
        assert hosts.servers[0] in refusal
        # Metrics and health.
        status, text = python(cafe.host, FETCH, f"http://{ADDRESS}/metrics")
        assert status == 200
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if set(sample.labels) <= {"tunnel", "network"}
        }
        counters = cafe.status()["counters"]
        assert samples["quicether_connections_active"] == 1
        assert samples["quicether_failed_handshakes_total"] == counters["failed_handshakes"] == 0
        assert samples["quicether_certificate_expiry_time_seconds"] > 0
        assert 'peer="home"' in text
        status, text = python(cafe.host, FETCH, f"http://{ADDRESS}/health")
        assert (status, json.loads(text)["peers_connected"]) == (200, 1)
        # Both go with the tunnel.
        cafe.down()
        with pytest.raises(CommandError, match="refused"):
            python(cafe.host, FETCH, f"http://{ADDRESS}/health")
        wait_until(
            lambda: not cafe.host.run(["ip", "route", "show", hosts.servers[0]]).stdout,
            5,
            "the route to the name service is gone",
        )


def test_names_can_be_switched_off(tmp_path: Path) -> None:
    with pair(tmp_path) as hosts:
        cafe = hosts.cafe
        cafe.up({"names": "off"})
        assert f"{hosts.servers[0]}/32" not in cafe.status()["prefixes"]
        assert not any(text.startswith("names: ") for text in cafe.status()["refusals"])
        cafe.down()
        cafe.up()
        assert f"{hosts.servers[0]}/32" in cafe.status()["prefixes"]


def test_a_tunnel_does_not_come_up_where_its_metrics_cannot_be_served(tmp_path: Path) -> None:
    with pair(tmp_path) as hosts:
        cafe = hosts.cafe
        listen = "import socket; s = socket.create_server(('127.0.0.1', 9100)); print(flush=True); "
        program = [sys.executable, "-c", f"{listen}import signal; signal.pause()"]
        with cafe.host.popen(program) as taken:
            assert taken.stdout is not None
            taken.stdout.readline()
            try:
                with pytest.raises(OrderError, match=rf"metrics-addr: {ADDRESS} is in use by"):
                    cafe.up({"metrics-addr": ADDRESS})
            finally:
                taken.terminate()
        links = cafe.host.run(["ip", "link"]).stdout
        assert "quicether0" not in links
        cafe.up({"metrics-addr": ADDRESS})

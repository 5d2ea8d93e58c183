"""The link owned by systemd-networkd, on booted hosts."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from quicether.host.desired import Dns, HostConfig
from support import device_state
from support.cables import Cable
from support.device_state import addresses, ip, links, routes
from support.hosts import LightHost, Manager, WholeHost
from support.route_watch import RouteWatch

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path)}
DRIVER = [sys.executable, "-m", "support.link_driver"]
CONFIG = replace(device_state.CONFIG, dns=Dns((ip_address("100.64.0.1"),), ("~home.quicether",)))
FULL = replace(device_state.FULL, port=9000)
FILES = {"05-quicether-0.netdev", "05-quicether-0.network"}


class Driven:
    """A `NetworkdOwner` in a process on the host."""

    def __init__(self, host: WholeHost) -> None:
        self.process = host.popen([*DRIVER, "networkd"], env=ENVIRONMENT, stdin=subprocess.PIPE)

    def do(self, step: str, config: HostConfig | None = None) -> dict[str, Any]:
        """Let the owner do a step and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        argument = base64.b64encode(pickle.dumps(config)).decode() if config else ""
        self.process.stdin.write(f"{step} {argument}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture(scope="module")
def booted(installed: list[Path]) -> Iterator[WholeHost]:
    with WholeHost("nd", "networkd", installed) as host:
        yield host


@pytest.fixture
def host(booted: WholeHost) -> Iterator[WholeHost]:
    """The booted host; every test must leave it as it found it."""
    yield booted
    assert links(booted) == {"lo"}
    assert files(booted) == set()


def files(host: WholeHost) -> set[str]:
    return set(host.run(["ls", "/run/quicether-networkd"]).stdout.split())


def test_networkd_makes_the_device_and_takes_it_away(host: WholeHost) -> None:
    owner = Driven(host)
    assert owner.do("attach", CONFIG) == {"ok": []}
    assert addresses(host) >= {"100.64.0.1/32"}, "there when attach returns"
    host.wait_until(lambda: addresses(host) == {"100.64.0.1/32", "fd00::1/128"}, 5, "all addresses")
    expected = {"10.0.0.0/8", "192.168.7.0/24", "fd01::/48"}
    host.wait_until(lambda: routes(host) == expected, 5, "all routes")
    assert files(host) == FILES
    assert ip(host, "link", "show", "dev", "quicether0")[0]["mtu"] == 1400
    host.wait_until(
        lambda: "configured" in host.run(["networkctl", "status", "quicether0"]).stdout,
        5,
        "networkd calls it configured",
    )
    assert owner.do("remove") == {"ok": []}
    assert owner.do("remove") == {"ok": []}


def test_what_stays_does_not_flap(host: WholeHost) -> None:
    owner = Driven(host)
    owner.do("attach", CONFIG)
    host.wait_until(lambda: "fd01::/48" in routes(host), 5, "all routes")
    changed = replace(
        CONFIG, mtu=1350, prefixes=(ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12"))
    )
    with RouteWatch(host.netns) as watch:
        owner.do("apply", changed)
        host.wait_until(
            lambda: (
                routes(host) == {"10.0.0.0/8", "172.16.0.0/12"}
                and ip(host, "link", "show", "dev", "quicether0")[0]["mtu"] == 1350
            ),
            5,
            "the new state",
        )
        assert set(watch.heard()) == {("gone", "192.168.7.0/24"), ("new", "172.16.0.0/12")}
    owner.do("remove")


def test_a_full_tunnel_by_networkds_own_rules(host: WholeHost) -> None:
    def rules() -> int:
        return host.run(["ip", "rule"]).stdout.count("\n5200:") + host.run(
            ["ip", "-6", "rule"]
        ).stdout.count("lookup 9000")

    owner = Driven(host)
    owner.do("attach", CONFIG)
    owner.do("apply", replace(CONFIG, full_tunnel=FULL))
    host.wait_until(lambda: rules() == 2, 5, "the rules")
    host.wait_until(lambda: routes(host, "9000") == {"default"}, 5, "the default routes")
    assert ip(host, "route", "get", "198.51.100.1")[0]["dev"] == "quicether0"
    marked = host.run(["ip", "route", "get", "198.51.100.1", "mark", "0x51"], check=False)
    assert marked.returncode != 0, "the underlay has no route here, and must not get this one"
    owner.do("apply", CONFIG)
    host.wait_until(lambda: rules() == 0, 5, "no rules")
    owner.do("remove")


def test_a_killed_daemon_is_adopted(host: WholeHost) -> None:
    first = Driven(host)
    first.do("attach", CONFIG)
    (before,) = ip(host, "link", "show", "dev", "quicether0")
    first.process.kill()
    first.process.wait()
    assert "quicether0" in links(host), "networkd keeps it"
    second = Driven(host)
    assert second.do("attach", replace(CONFIG, prefixes=CONFIG.prefixes[:1])) == {"ok": []}
    host.wait_until(lambda: routes(host) == {"10.0.0.0/8"}, 5, "the new state")
    assert ip(host, "link", "show", "dev", "quicether0")[0]["ifindex"] == before["ifindex"]
    second.do("remove")


def test_what_a_killed_daemon_left_is_cleaned(host: WholeHost) -> None:
    owner = Driven(host)
    owner.do("attach", replace(CONFIG, full_tunnel=FULL))
    host.wait_until(lambda: "lookup 9000" in host.run(["ip", "rule"]).stdout, 5, "the rules")
    owner.process.kill()
    owner.process.wait()
    host.run([*DRIVER, "clean"], env=ENVIRONMENT)
    host.wait_until(lambda: "9000" not in host.run(["ip", "rule"]).stdout, 5, "no rules")


def test_restarting_networkd_changes_nothing(host: WholeHost) -> None:
    owner = Driven(host)
    owner.do("attach", CONFIG)
    host.wait_until(lambda: "fd01::/48" in routes(host), 5, "all routes")
    host.run(["systemctl", "restart", "systemd-networkd"])
    assert routes(host) == {"10.0.0.0/8", "192.168.7.0/24", "fd01::/48"}
    assert owner.do("apply", replace(CONFIG, prefixes=CONFIG.prefixes[:1])) == {"ok": []}
    host.wait_until(lambda: routes(host) == {"10.0.0.0/8"}, 10, "the new state")
    owner.do("remove")


def test_a_namespace_is_refused_with_what_would_do(host: WholeHost) -> None:
    answer = Driven(host).do("attach", replace(CONFIG, netns="inside"))
    assert answer == {
        "error": "netns 'inside': systemd-networkd has no device there; use link = netlink"
    }


@pytest.mark.parametrize(
    ("manager", "found"),
    [("networkd", "networkd"), ("networkmanager", "networkmanager"), ("none", "netlink")],
)
def test_who_manages_the_machine(manager: Manager, found: str) -> None:
    with WholeHost("detect", manager) as host, LightHost("far") as far, Cable(host, far) as cable:
        host.configure_link(cable.a.ifname, ["192.0.2.2/24"], "192.0.2.1")
        said = json.loads(host.run([*DRIVER, "detect"], env=ENVIRONMENT).stdout)
        assert said[0] == found, said[1]

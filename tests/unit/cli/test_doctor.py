"""What the doctor finds, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quicether.bus.contract import LinkOwnerName, TunnelState
from quicether.bus.status import PeerStatus
from quicether.cli import doctor
from quicether.cli.doctor import Facts, Finding, Verdict
from quicether.cli.report import PeersReport, StatusReport, TunnelReport
from quicether.config.settings import Settings
from quicether.model import PeerState

TUNNEL = TunnelReport(
    name="home",
    state=TunnelState.RUNNING,
    ready=True,
    network="home",
    node_id="11" * 20,
    node_name="laptop",
    listen_port=9000,
    endpoints=(),
    link=LinkOwnerName.NETLINK,
    link_reason="link = netlink is configured",
    since=0.0,
    device="quicether0",
    mtu=1380,
    addresses=(),
    prefixes=(),
    dns_servers=(),
    dns_domains=(),
    full_tunnel=False,
    peer_count=0,
    route_count=0,
    counters={},
    offers=(),
    refusals=(),
)


def facts(tmp_path: Path, options: dict[str, str] | None = None, **sysctls: str) -> Facts:
    for name, value in sysctls.items():
        path = tmp_path / "proc/sys/net" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return Facts(root=tmp_path, settings={"home": Settings.from_options(options or {})})


def bad(findings: Any) -> list[Finding]:
    return [finding for finding in findings if finding.verdict is not Verdict.OK]


def test_a_router_whose_kernel_does_not_forward(tmp_path: Path) -> None:
    options = {"advertise-subnets": "192.168.1.0/24 fd00:1::/64"}
    found = facts(tmp_path, options, ipv4__ip_forward="0", ipv6__conf__all__forwarding="1")
    (finding,) = bad(doctor.check_forwarding(found))
    assert finding.text == ("home offers IPv4 prefixes to others, but net.ipv4.ip_forward is not 1")
    assert "net.ipv4.ip_forward=1" in finding.mend
    assert not bad(doctor.check_forwarding(facts(tmp_path)))


def test_a_full_tunnel_behind_a_strict_reverse_path_filter(tmp_path: Path) -> None:
    strict = facts(tmp_path, {"default-gateway": "exit"}, ipv4__conf__all__rp_filter="1")
    (finding,) = bad(doctor.check_reverse_path(strict))
    assert finding.mend == "sysctl net.ipv4.conf.all.src_valid_mark=1"
    marked = facts(tmp_path, {"default-gateway": "exit"}, ipv4__conf__all__src_valid_mark="1")
    assert not bad(doctor.check_reverse_path(marked))


def test_a_firewall_that_knows_nothing_of_us(tmp_path: Path) -> None:
    chain = {"family": "inet", "table": "filter", "policy": "drop"}
    ruleset: list[dict[str, Any]] = [
        {"chain": {**chain, "name": "in", "hook": "input"}},
        {"chain": {**chain, "name": "fwd", "hook": "forward"}},
    ]
    found = replace(facts(tmp_path, {"advertise-subnets": "10.0.0.0/8"}), firewall=ruleset)
    assert [finding.mend for finding in doctor.check_firewall(found)] == [
        "nft add rule inet filter in udp dport 9000 accept",
        "nft add rule inet filter fwd iifname quicether0 accept; "
        "nft add rule inet filter fwd oifname quicether0 accept",
    ]
    allowing = {"rule": {"table": "filter", "expr": [{"right": 9000}, {"right": "quicether0"}]}}
    assert not bad(doctor.check_firewall(replace(found, firewall=[*ruleset, allowing])))


def test_mtus_that_are_too_small(tmp_path: Path) -> None:
    narrow = PeerStatus("22" * 20, "attic", PeerState.CONNECTED, max_packet=1200)
    found = replace(
        facts(tmp_path),
        status=StatusReport("1", (TUNNEL,), {}),
        peers=(PeersReport("home", (narrow,)),),
        mtus={"quicether0": 9000},
    )
    texts = [finding.text for finding in bad(doctor.check_mtu(found))]
    assert texts == [
        "quicether0 has MTU 9000 instead of 1380",
        "the path to attic takes packets of 1200 bytes, too few for IPv6 (1280)",
    ]


@pytest.mark.parametrize(("capabilities", "verdict"), [(1 << 12, "bad"), (1 << 21, "ok")])
def test_a_namespace_that_the_service_may_not_enter(
    tmp_path: Path, capabilities: int, verdict: str
) -> None:
    found = replace(facts(tmp_path, {"netns": "blue"}), capabilities=capabilities)
    assert [finding.verdict for finding in doctor.check_namespace(found)] == [verdict]


def test_a_missing_device_file_and_a_failed_tunnel(tmp_path: Path) -> None:
    found = replace(facts(tmp_path), status=StatusReport("1", (), {"home": "it broke"}))
    assert [finding.text for finding in bad(doctor.check_service(found))] == ["home: it broke"]
    assert bad(doctor.check_device(found))[0].mend == "modprobe tun"
    (tmp_path / "dev/net").mkdir(parents=True)
    (tmp_path / "dev/net/tun").touch()
    assert not bad(doctor.check_device(found))

"""What the doctor finds, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from quicether.bus.contract import LinkOwnerName, TunnelState
from quicether.bus.status import PeerStatus
from quicether.cli import doctor
from quicether.cli.findings import Facts, Finding, Verdict
from quicether.cli.firewall import check_firewall
from quicether.cli.report import PeersReport, StatusReport, TunnelReport
from quicether.cli.router import check_forwarding, check_reverse_path, check_ways_back
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
    (finding,) = bad(check_forwarding(found))
    assert finding.text == ("home offers IPv4 prefixes to others, but net.ipv4.ip_forward is not 1")
    assert "net.ipv4.ip_forward=1" in finding.mend
    assert not bad(check_forwarding(facts(tmp_path)))


STRICT_LINK = {"ipv4__conf__all__rp_filter": "1", "ipv4__conf__eth0__rp_filter": "0"}


def test_a_full_tunnel_behind_a_strict_reverse_path_filter_works_by_its_ports_rule(
    tmp_path: Path,
) -> None:
    """It was called bad, and src_valid_mark the cure; test_netlink shows that it is neither."""
    options = {"default-gateway": "exit", "peers": "exit@192.0.2.1"}
    assert not bad(check_reverse_path(facts(tmp_path, options, **STRICT_LINK)))


def test_name_servers_may_be_out_of_reach_behind_a_strict_filter(tmp_path: Path) -> None:
    options = {"default-gateway": "exit", "peers": "exit@exit.example.org"}
    (finding,) = bad(check_reverse_path(facts(tmp_path, options, **STRICT_LINK)))
    assert "strict on eth0: " in finding.text
    assert "may not be heard" in finding.text
    assert finding.mend == "sysctl net.ipv4.conf.eth0.rp_filter=2"


@pytest.mark.parametrize(
    ("everywhere", "here", "is_bad"), [(2, 1, False), (1, 2, False), (0, 1, True), (1, 0, True)]
)
def test_the_larger_value_of_the_reverse_path_filter_counts(
    tmp_path: Path, everywhere: int, here: int, is_bad: bool
) -> None:
    found = facts(
        tmp_path,
        {"routes": "none"},
        ipv4__conf__all__rp_filter=str(everywhere),
        ipv4__conf__quicether0__rp_filter=str(here),
    )
    assert bool(bad(check_reverse_path(found))) is is_bad


def udp(port: int | dict[str, Any], verdict: str) -> list[dict[str, Any]]:
    left = {"payload": {"protocol": "udp", "field": "dport"}}
    return [{"match": {"op": "==", "left": left, "right": port}}, {verdict: None}]


def by(key: str, value: str, *verdict: dict[str, Any]) -> list[dict[str, Any]]:
    match = {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": value}}
    return [match, *(verdict or ({"accept": None},))]


ESTABLISHED: list[dict[str, Any]] = [
    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
    {"accept": None},
]
STATES = {
    "vmap": {
        "key": {"ct": {"key": "state"}},
        "data": {"set": [["established", {"accept": None}], ["invalid", {"drop": None}]]},
    }
}
REJECT: list[dict[str, Any]] = [{"counter": {}}, {"reject": {"type": "icmpx"}}]
WAY_IN = "nft insert rule inet filter in udp dport 9000 accept"
_BASE = {"family": "inet", "table": "filter"}


def ruleset(
    hook: str, policy: str, *rules: list[dict[str, Any]], **chains: list[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """A base chain `in` at a hook, and others to jump to."""
    base = {**_BASE, "name": "in", "hook": hook, "type": "filter", "policy": policy}
    found = [{"chain": base}, *({"chain": {**_BASE, "name": name}} for name in chains)]
    for name, content in {"in": list(rules), **chains}.items():
        found += [{"rule": {**_BASE, "chain": name, "expr": rule}} for rule in content]
    return found


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (ruleset("input", "accept"), ""),
        (ruleset("input", "drop"), "drops"),
        (ruleset("input", "drop", ESTABLISHED, by("iifname", "lo"), udp(9000, "accept")), ""),
        (ruleset("input", "drop", udp({"range": [8000, 9999]}, "accept")), ""),
        (ruleset("input", "drop", udp({"set": [53, 9000]}, "accept")), ""),
        (ruleset("input", "drop", udp(53, "accept")), "drops"),
        (ruleset("input", "drop", udp(9000, "drop")), "drops"),
        (ruleset("input", "accept", [STATES], REJECT), "drops"),
        (ruleset("input", "drop", [STATES], udp(9000, "accept")), ""),
        (ruleset("input", "accept", ESTABLISHED, by("iifname", "lo"), REJECT), "drops"),
        (ruleset("input", "accept", udp(9000, "accept"), REJECT), ""),
        (ruleset("input", "drop", by("iifname", "eth0")), "may drop"),
        (ruleset("input", "drop", [{"xt": None}]), "may drop"),
        (ruleset("input", "drop", [{"jump": {"target": "a"}}], a=[udp(9000, "accept")]), ""),
        (ruleset("input", "accept", [{"jump": {"target": "a"}}], a=[REJECT]), "drops"),
        (ruleset("input", "accept", [{"goto": {"target": "a"}}, REJECT[1]], a=[]), ""),
        (ruleset("input", "accept", [{"jump": {"target": "in"}}]), ""),
    ],
)
def test_a_firewall_is_judged_by_what_becomes_of_a_packet(
    tmp_path: Path, rules: list[dict[str, Any]], words: str
) -> None:
    """Not by its policy alone, and not by a port that is named somewhere in it."""
    found = bad(check_firewall(replace(facts(tmp_path), firewall=rules)))
    expected = f"chain inet filter in {words} what comes in for UDP port 9000 of home, and then "
    assert [finding.text[: len(expected)] for finding in found] == ([expected] if words else [])
    assert all(finding.mend == WAY_IN for finding in found)


def test_a_firewall_that_forwards_one_way_only(tmp_path: Path) -> None:
    offering = facts(tmp_path, {"advertise-subnets": "10.0.0.0/8"})
    for rules, mend in (
        (
            ruleset("forward", "drop"),
            "nft insert rule inet filter in iifname quicether0 accept; "
            "nft insert rule inet filter in oifname quicether0 accept",
        ),
        (
            ruleset("forward", "drop", by("iifname", "quicether*")),
            "nft insert rule inet filter in oifname quicether0 accept",
        ),
        (ruleset("forward", "drop", by("iifname", "quicether0"), by("oifname", "quicether0")), ""),
        (
            ruleset("forward", "accept", by("iifname", "quicether0", {"drop": None})),
            "nft insert rule inet filter in iifname quicether0 accept",
        ),
    ):
        found = bad(check_firewall(replace(offering, firewall=rules)))
        assert [finding.mend for finding in found] == ([mend] if mend else [])
    assert not bad(check_firewall(replace(facts(tmp_path), firewall=ruleset("forward", "drop"))))


def test_firewalld_is_mended_by_its_own_command(tmp_path: Path) -> None:
    firewalld = ruleset("input", "accept", REJECT)
    firewalld = [
        {kind: {**body, "table": "firewalld"}} for e in firewalld for kind, body in e.items()
    ]
    (finding,) = bad(check_firewall(replace(facts(tmp_path), firewall=firewalld)))
    assert finding.mend == "firewall-cmd --permanent --add-port=9000/udp; firewall-cmd --reload"


def test_a_tunnel_without_a_file_is_judged_by_what_it_offers_as_it_runs(tmp_path: Path) -> None:
    found = replace(
        facts(tmp_path, ipv4__ip_forward="0"),
        settings={},
        status=StatusReport("1", (replace(TUNNEL, offers=("192.168.1.0/24",)),), {}),
        firewall=ruleset("input", "drop"),
    )
    (finding,) = bad(check_forwarding(found))
    assert finding.text.startswith("home offers IPv4 prefixes")
    assert [each.mend for each in bad(check_firewall(found))] == [WAY_IN]


def lan_facts(tmp_path: Path, *, addresses: str = "", gateway: str = "") -> Facts:
    tunnel = replace(
        TUNNEL,
        offers=("192.168.1.0/24", "fd01::/64"),
        addresses=("100.64.0.1/32", "fd12:3456:789a:1::1/128"),
        prefixes=("10.1.0.0/16", "100.64.0.0/10", "100.64.0.9/32", "fd12:3456:789a::/48"),
    )
    return replace(
        facts(tmp_path),
        status=StatusReport("1", (tunnel,), {}),
        links=[("eth0", ip_interface(each)) for each in addresses.split()],
        gateways=[ip_address(each) for each in gateway.split()],
    )


def test_the_lans_own_router_has_to_lead_back(tmp_path: Path) -> None:
    found = lan_facts(
        tmp_path, addresses="192.168.1.10/24 fd01::10/64", gateway="192.168.1.1 fd01::1"
    )
    ipv4, ipv6 = bad(check_ways_back(found))
    assert ipv4.text == (
        "home: machines in 192.168.1.0/24 send their answers to 192.168.1.1, if that is their "
        "router too"
    )
    assert ipv4.mend == (
        "on 192.168.1.1: ip route add 100.64.0.0/10 via 192.168.1.10; "
        "ip route add 10.1.0.0/16 via 192.168.1.10"
    )
    assert ipv6.mend == "on fd01::1: ip route add fd12:3456:789a::/48 via fd01::10"


def test_a_host_that_may_be_the_lans_router_is_told_without_alarm(tmp_path: Path) -> None:
    found = lan_facts(
        tmp_path, addresses="192.168.1.1/24 fd01::1/64 203.0.113.9/24", gateway="203.0.113.1"
    )
    ipv4, _ = check_ways_back(found)
    assert ipv4.verdict is Verdict.OK
    assert "need 192.168.1.1 as their default router, or on the one" in ipv4.text
    assert "ip route add 10.1.0.0/16 via 192.168.1.1" in ipv4.text
    elsewhere, _ = bad(check_ways_back(lan_facts(tmp_path)))
    assert "this host has no address in 192.168.1.0/24" in elsewhere.text


def test_an_exit_without_nat(tmp_path: Path) -> None:
    exit_ = facts(tmp_path, {"role": "gateway", "forward-subnets": "0.0.0.0/0"})
    (finding,) = bad(check_ways_back(replace(exit_, firewall=[])))
    assert "nft add rule inet quicether_nat post iifname quicether0" in finding.mend
    masquerade = ruleset("postrouting", "accept", [{"masquerade": None}])
    assert not bad(check_ways_back(replace(exit_, firewall=masquerade)))
    assert not bad(check_ways_back(exit_))


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
    (finding,) = doctor.check_namespace(found)
    assert finding.verdict == verdict
    # Where `./bootstrap install` puts it.
    assert verdict == "ok" or "/usr/share/doc/quicether/netns.conf" in finding.mend


def test_a_missing_device_file_and_a_failed_tunnel(tmp_path: Path) -> None:
    found = replace(facts(tmp_path), status=StatusReport("1", (), {"home": "it broke"}))
    assert [finding.text for finding in bad(doctor.check_service(found))] == ["home: it broke"]
    assert bad(doctor.check_device(found))[0].mend == "modprobe tun"
    (tmp_path / "dev/net").mkdir(parents=True)
    (tmp_path / "dev/net/tun").touch()
    assert not bad(doctor.check_device(found))

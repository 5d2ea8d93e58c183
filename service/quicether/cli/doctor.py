"""`quicether doctor`: what on this machine is off, and how to mend it."""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quicether.cli import output
from quicether.errors import QuicEtherError
from quicether.model import MIN_IPV6_MTU

if TYPE_CHECKING:
    from quicether.cli.report import PeersReport, StatusReport
    from quicether.config.settings import Settings

ROOT: Final = Path("/")
_SYSCTL: Final = Path("proc/sys")
_NAMES: Final = {
    "names": "let systemd-resolved or dnsmasq resolve names here, or set names = off",
    "dns": "let systemd-resolved resolve names here, or put the servers into the resolver's own "
    "settings",
}
"""What to do where status says that nobody is told of name servers."""


class Verdict(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. mend: what to do, a command where there is one."""

    check: str
    verdict: Verdict
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks judge.

    root: where /proc and /dev are. firewall: nft's JSON ruleset, None where it cannot be read.
    mtus: device → MTU in bytes. status: None where the service does not answer; trouble says why.
    """

    root: Path = ROOT
    settings: dict[str, Settings] = field(default_factory=dict)
    status: StatusReport | None = None
    trouble: str = ""
    peers: tuple[PeersReport, ...] = ()
    firewall: list[dict[str, Any]] | None = None
    mtus: dict[str, int] = field(default_factory=dict)
    capabilities: int | None = None
    """Effective capabilities of the service as a bit mask, None where it does not run."""

    def sysctl(self, name: str) -> str:
        """Return a kernel setting, "" where there is none."""
        try:
            return (self.root / _SYSCTL / name.replace(".", "/")).read_text().strip()
        except OSError:
            return ""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `quicether`."""
    doctor = subparsers.add_parser(
        "doctor",
        help="say what is off on this machine, and how to mend it",
        description="Check settings, keys, the kernel's forwarding and reverse-path filter, the "
        "firewall and MTUs. Ends with 1 when something is bad. As root it sees more.",
    )
    doctor.set_defaults(func=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from quicether.cli.examine import examine

    facts, findings = examine()
    findings += [finding for check in CHECKS for finding in check(facts)]
    if arguments.json:
        output.print_json([asdict(finding) for finding in findings])
    else:
        styles = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.BAD: "bold red"}
        rows = [
            [
                (found.verdict.value, styles[found.verdict]),
                found.check,
                f"{found.text}\n→ {found.mend}" if found.mend else found.text,
            ]
            for found in findings
        ]
        output.emit(output.table(["", "CHECK", "FINDING"], rows))
        if os.geteuid() != 0:
            print("\nAs root (sudo quicether doctor) more can be checked.")
    return 1 if any(found.verdict is Verdict.BAD for found in findings) else 0


def check_service(facts: Facts) -> Iterator[Finding]:
    """The service answers, and no tunnel failed."""
    if facts.status is None:
        yield Finding("service", Verdict.NOTE, facts.trouble, "systemctl start quicether")
        return
    yield Finding("service", Verdict.OK, f"version {facts.status.version} answers")
    for name, sentence in facts.status.failures.items():
        yield Finding("tunnel", Verdict.BAD, f"{name}: {sentence}")
    for tunnel in facts.status.tunnels:
        for refusal in tunnel.refusals:
            about, _, rest = refusal.partition(": ")
            if about in _NAMES:
                yield Finding(about, Verdict.NOTE, f"{tunnel.name}: {rest}", _NAMES[about])
            else:
                yield Finding("routes", Verdict.NOTE, f"{tunnel.name}: {refusal}")


def check_device(facts: Facts) -> Iterator[Finding]:
    """The kernel offers TUN devices."""
    if (facts.root / "dev/net/tun").exists():
        yield Finding("tun", Verdict.OK, "/dev/net/tun is there")
    else:
        yield Finding("tun", Verdict.BAD, "/dev/net/tun is missing", "modprobe tun")


def check_forwarding(facts: Facts) -> Iterator[Finding]:
    """The kernel forwards where this node does so for others."""
    for name, settings in facts.settings.items():
        routed = (
            *settings.network.advertise_subnets,
            *settings.overlay.forward_subnets,
        )
        for version, key in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
            if not any(prefix.version == version for prefix in routed):
                continue
            if facts.sysctl(key) == "1":
                yield Finding("forwarding", Verdict.OK, f"{key} is 1")
            else:
                yield Finding(
                    "forwarding",
                    Verdict.BAD,
                    f"{name} offers IPv{version} prefixes to others, but {key} is not 1",
                    f"echo {key}=1 >/etc/sysctl.d/90-quicether.conf && sysctl --system",
                )


def check_reverse_path(facts: Facts) -> Iterator[Finding]:
    """The reverse-path filter lets overlay packets and marked underlay packets pass."""
    strict = facts.sysctl("net.ipv4.conf.all.rp_filter") == "1"
    for name, settings in facts.settings.items():
        device = settings.network.tun_name
        strict_here = strict or facts.sysctl(f"net.ipv4.conf.{device}.rp_filter") == "1"
        marked = facts.sysctl("net.ipv4.conf.all.src_valid_mark") == "1"
        if strict_here and settings.full_tunnel and not marked:
            yield Finding(
                "rp_filter",
                Verdict.BAD,
                f"{name} is a full tunnel and rp_filter is strict, so answers to the tunnel's own "
                "packets are dropped",
                "sysctl net.ipv4.conf.all.src_valid_mark=1",
            )
        elif strict_here and settings.discovery.routes == "none":
            yield Finding(
                "rp_filter",
                Verdict.NOTE,
                f"rp_filter is strict and {name} takes no routes, so packets from prefixes "
                "without a route of your own are dropped",
                f"sysctl net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{device}.rp_filter=2",
            )
        else:
            yield Finding("rp_filter", Verdict.OK, f"{name}: does not stand in the way")


def check_firewall(facts: Facts) -> Iterator[Finding]:
    """nftables lets the UDP port in, and lets through what is forwarded."""
    if facts.firewall is None:
        return
    rules = [entry["rule"] for entry in facts.firewall if "rule" in entry]
    for chain in (entry["chain"] for entry in facts.firewall if "chain" in entry):
        if chain.get("policy") != "drop" or chain.get("hook") not in ("input", "forward"):
            continue
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        text = str([r for r in rules if r["table"] == chain["table"]])
        for name, settings in facts.settings.items():
            port, device = settings.discovery.dht_port, settings.network.tun_name
            if chain["hook"] == "input" and port and str(port) not in text:
                yield Finding(
                    "firewall",
                    Verdict.NOTE,
                    f"chain {where} drops by default and names no port {port} of {name}, so "
                    "others cannot begin a connection",
                    f"nft add rule {where} udp dport {port} accept",
                )
            offers = settings.network.advertise_subnets or settings.overlay.forward_subnets
            if chain["hook"] == "forward" and offers and device not in text:
                yield Finding(
                    "firewall",
                    Verdict.NOTE,
                    f"chain {where} drops by default and does not name {device} of {name}",
                    f"nft add rule {where} iifname {device} accept; "
                    f"nft add rule {where} oifname {device} accept",
                )


def check_mtu(facts: Facts) -> Iterator[Finding]:
    """Packets of the smallest IPv6 MTU fit, on every path."""
    for tunnel in facts.status.tunnels if facts.status is not None else ():
        actual = facts.mtus.get(tunnel.device or "")
        if actual is not None and tunnel.mtu is not None and actual != tunnel.mtu:
            yield Finding(
                "mtu",
                Verdict.NOTE,
                f"{tunnel.device} has MTU {actual} instead of {tunnel.mtu}",
                f"ip link set {tunnel.device} mtu {tunnel.mtu}",
            )
        elif tunnel.mtu is not None:
            yield Finding("mtu", Verdict.OK, f"{tunnel.device}: {tunnel.mtu}")
    for report in facts.peers:
        for peer in report.peers:
            if peer.max_packet is not None and peer.max_packet < MIN_IPV6_MTU:
                yield Finding(
                    "mtu",
                    Verdict.NOTE,
                    f"the path to {peer.name} takes packets of {peer.max_packet} bytes, too "
                    f"few for IPv6 ({MIN_IPV6_MTU})",
                    "look for a link with a small MTU on the way",
                )


def check_namespace(facts: Facts) -> Iterator[Finding]:
    """The service may enter network namespaces where a tunnel wants one."""
    sys_admin = 1 << 21
    for name, settings in facts.settings.items():
        if settings.network.netns is None or facts.capabilities is None:
            continue
        if facts.capabilities & sys_admin:
            yield Finding("netns", Verdict.OK, f"the service may enter {settings.network.netns}")
        else:
            yield Finding(
                "netns",
                Verdict.BAD,
                f"{name} wants namespace {settings.network.netns}, which the service may not enter",
                "install systemd/netns.conf in /etc/systemd/system/quicether.service.d",
            )


CHECKS: Final = (
    check_service,
    check_device,
    check_forwarding,
    check_reverse_path,
    check_firewall,
    check_mtu,
    check_namespace,
)


def of_error(check: str, error: QuicEtherError, mend: str = "") -> Finding:
    """Return the finding that an error is."""
    return Finding(check, Verdict.BAD, str(error), mend)

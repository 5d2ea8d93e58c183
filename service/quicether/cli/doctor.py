"""`quicether doctor`: what on this machine is off, and how to mend it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from quicether.cli import output
from quicether.cli.findings import Facts, Finding, Verdict
from quicether.cli.firewall import check_firewall
from quicether.cli.router import check_forwarding, check_reverse_path, check_ways_back
from quicether.model import MIN_IPV6_MTU

_NAMES: Final = {
    "names": "let systemd-resolved or dnsmasq resolve names here, or set names = off",
    "dns": "let systemd-resolved resolve names here, or put the servers into the resolver's own "
    "settings",
}
"""What to do where status says that nobody is told of name servers."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `quicether`."""
    doctor = subparsers.add_parser(
        "doctor",
        help="say what is off on this machine, and how to mend it",
        description="Check settings, keys, the kernel's forwarding and reverse-path filter, the "
        "firewall, routes back from LANs and MTUs. Ends with 1 when something is bad. As root it "
        "sees more.",
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
    for subject in facts.subjects:
        if subject.netns is None or facts.capabilities is None:
            continue
        if facts.capabilities & sys_admin:
            yield Finding("netns", Verdict.OK, f"the service may enter {subject.netns}")
        else:
            yield Finding(
                "netns",
                Verdict.BAD,
                f"{subject.name} wants namespace {subject.netns}, which the service may not enter",
                "install -Dm644 /usr/share/doc/quicether/netns.conf "
                "/etc/systemd/system/quicether.service.d/netns.conf && systemctl daemon-reload && "
                "systemctl restart quicether",
            )


CHECKS: Final = (
    check_service,
    check_device,
    check_forwarding,
    check_reverse_path,
    check_firewall,
    check_ways_back,
    check_mtu,
    check_namespace,
)

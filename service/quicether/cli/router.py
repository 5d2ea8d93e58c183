"""What a host lacks that leads packets from the overlay on, or into it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, ip_interface, ip_network
from typing import Final

from quicether.cli.findings import Facts, Finding, Subject, Verdict
from quicether.model import Address, Prefix

_SHARED: Final = IPv4Network("100.64.0.0/10")
_STRICT: Final = "1"
_LOOSE: Final = "2"
_LISTED: Final = 8
"""Routes that one finding names."""


def check_forwarding(facts: Facts) -> Iterator[Finding]:
    """The kernel forwards where this node does so for others."""
    for subject in facts.subjects:
        for version, key in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
            if not any(prefix.version == version for prefix in subject.offers):
                continue
            if facts.sysctl(key.replace(".", "/")) == "1":
                yield Finding("forwarding", Verdict.OK, f"{key} is 1")
            else:
                yield Finding(
                    "forwarding",
                    Verdict.BAD,
                    f"{subject.name} offers IPv{version} prefixes to others, but {key} is not 1",
                    f"echo {key}=1 >/etc/sysctl.d/90-quicether.conf && sysctl --system",
                )


def check_reverse_path(facts: Facts) -> Iterator[Finding]:
    """The reverse-path filter lets packets from the overlay, and answers to ours, pass.

    What a full tunnel sends from its port has a rule of its own and needs nothing more.
    """
    strict = [device for device in facts.devices() if _is_strict(facts, device)]
    for subject in facts.subjects:
        if subject.netns is not None:
            continue
        others = [device for device in strict if device != subject.device]
        problem = ""
        loose = others
        if _is_strict(facts, subject.device) and subject.by_hand:
            problem = (
                f"{subject.name} takes no routes, so packets from prefixes without a route of your "
                f"own to {subject.device} are dropped"
            )
            loose = [subject.device]
        elif subject.full_tunnel and subject.by_name and others:
            problem = (
                f"{subject.name} is a full tunnel whose peers have names, and a name server that "
                "is not in the LAN may not be heard any more once it is up"
            )
        if problem:
            yield Finding(
                "rp_filter",
                Verdict.NOTE,
                f"rp_filter is strict on {', '.join(loose)}: {problem}",
                "sysctl " + " ".join(f"net.ipv4.conf.{each}.rp_filter={_LOOSE}" for each in loose),
            )
        else:
            yield Finding("rp_filter", Verdict.OK, f"{subject.name}: does not stand in the way")


def check_ways_back(facts: Facts) -> Iterator[Finding]:
    """Machines in a LAN that is offered to others send their answers here."""
    for subject in facts.subjects:
        for lan in subject.offers:
            if lan.prefixlen == 0:
                yield from _of_an_exit(facts, subject, lan)
            else:
                yield from _of_a_lan(facts, subject, lan)


def _of_a_lan(facts: Facts, subject: Subject, lan: Prefix) -> Iterator[Finding]:
    inside = [each.ip for _, each in facts.links if each.version == lan.version and each.ip in lan]
    routers = [each for each in facts.gateways if each.version == lan.version and each in lan]
    routes = _overlay_routes(subject, lan)
    if not inside:
        text = f"this host has no address in {lan}, so its routers have to lead back to this host"
        yield Finding("lan", Verdict.NOTE, f"{subject.name}: {text}", _commands(routes, None))
    elif routers:
        text = f"machines in {lan} send their answers to {routers[0]}, if that is their router too"
        yield Finding(
            "lan",
            Verdict.NOTE,
            f"{subject.name}: {text}",
            f"on {routers[0]}: {_commands(routes, inside[0])}",
        )
    else:
        text = (
            f"machines in {lan} need {inside[0]} as their default router, or on the one that they "
            f"have: {_commands(routes, inside[0])}"
        )
        yield Finding("lan", Verdict.OK, f"{subject.name}: {text}")


def _of_an_exit(facts: Facts, subject: Subject, everything: Prefix) -> Iterator[Finding]:
    if facts.firewall is None:
        return
    family = "ip" if everything.version == 4 else "ip6"
    statements = [
        key
        for entry in facts.firewall
        if "rule" in entry and entry["rule"]["family"] in ("inet", family)
        for statement in entry["rule"]["expr"]
        for key in statement
    ]
    if not {"masquerade", "snat", "xt"} & set(statements):
        yield Finding(
            "nat",
            Verdict.NOTE,
            f"{subject.name} leads to {everything}, but no rule translates addresses, so packets "
            "may leave with addresses of the overlay, to which nobody answers",
            "nft add table inet quicether_nat; nft add chain inet quicether_nat post "
            "'{ type nat hook postrouting priority srcnat; }'; "
            f"nft add rule inet quicether_nat post iifname {subject.device} oifname UPLINK "
            "masquerade",
        )


def _overlay_routes(subject: Subject, lan: Prefix) -> list[Prefix]:
    """Return what a router of a LAN has to lead to this host: all that the overlay reaches."""
    found: dict[Prefix, None] = {_SHARED: None} if lan.version == 4 else {}
    for address in map(ip_interface, subject.addresses):
        if address.version == lan.version == 6:
            found[ip_network((address.ip, 48), strict=False)] = None
    for prefix in subject.routes or ():
        if prefix.version == lan.version and not any(_lies_in(prefix, each) for each in found):
            found[prefix] = None
    return list(found)


def _lies_in(prefix: Prefix, other: Prefix) -> bool:
    return other.prefixlen <= prefix.prefixlen and prefix.network_address in other


def _commands(routes: list[Prefix], via: Address | None) -> str:
    commands = [f"ip route add {prefix} via {via or 'THIS HOST'}" for prefix in routes[:_LISTED]]
    more = len(routes) - _LISTED
    return "; ".join([*commands, *([f"and {more} prefixes more"] if more > 0 else [])])


def _is_strict(facts: Facts, device: str) -> bool:
    """Tell what the kernel does on a device: the larger one of its value and that of all."""
    values = (facts.sysctl(f"net/ipv4/conf/{each}/rp_filter") for each in ("all", device))
    return max(values) == _STRICT

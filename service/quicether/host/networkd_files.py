"""The two files that tell systemd-networkd what a tunnel's device is to have. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from quicether.errors import HostError
from quicether.host.desired import Dns, HostConfig
from quicether.host.kernel_state import METRIC, PROTOCOL, KernelRoute, KernelRule, KernelState

SLOTS = range(8)
"""Numbers of the pairs of files of ours; systemd/quicether.tmpfiles makes links to them."""

_Section = tuple[str, list[tuple[str, object]]]


def file_names(slot: int) -> tuple[str, str]:
    """Return the names of the .netdev and the .network file of a slot."""
    return f"05-quicether-{slot}.netdev", f"05-quicether-{slot}.network"


def device_of(text: str) -> str:
    """Return the device that a .netdev file of ours makes, "" where it names none."""
    names = [line.removeprefix("Name=") for line in text.splitlines() if line.startswith("Name=")]
    return names[0] if names else ""


def netdev(device: str, user: str | None) -> str:
    """Return the file that makes the TUN device. user: who may attach to it beside root."""
    tun: list[tuple[str, object]] = [
        ("PacketInfo", "no"),
        ("VNetHeader", "yes"),
        ("MultiQueue", "no"),
    ]
    if user is not None:
        tun.append(("User", user))
    return _text([("NetDev", [("Name", device), ("Kind", "tun")]), ("Tun", tun)])


def network(config: HostConfig, state: KernelState) -> str:
    """Return the file for everything on the device. state: what of config is to be had."""
    sections: list[_Section] = [
        ("Match", [("Name", config.device)]),
        ("Link", [("MTUBytes", config.mtu), ("RequiredForOnline", "no")]),
        (
            "Network",
            [
                ("Description", "QuicEther tunnel"),
                # Without carrier between two runs of the daemon; nothing on it may flap then.
                ("ConfigureWithoutCarrier", "yes"),
                ("IgnoreCarrierLoss", "yes"),
                ("KeepConfiguration", "static"),
                ("LinkLocalAddressing", "no"),
                ("IPv6AcceptRA", "no"),
                *_dns(config.dns),
            ],
        ),
    ]
    addresses = sorted(state.addresses, key=lambda one: (one.version, one.ip.packed))
    sections += (
        ("Address", [("Address", address), ("DuplicateAddressDetection", "none")])
        for address in addresses
    )
    sections += (_route(route) for route in sorted(state.routes, key=_route_order))
    sections += (_rule(rule) for rule in sorted(state.rules, key=_rule_order))
    return _text(sections)


def _dns(dns: Dns) -> list[tuple[str, object]]:
    if not dns.servers:
        return []
    entries: list[tuple[str, object]] = [("DNS", server) for server in dns.servers]
    # "~" makes a domain that only says where to ask, and is not appended to short names.
    domains = [*dns.domains, *(["~."] if dns.default_route else [])]
    if domains:
        entries.append(("Domains", " ".join(domains)))
    return [*entries, ("DNSDefaultRoute", "yes" if dns.default_route else "no")]


def _route(route: KernelRoute) -> _Section:
    entries: list[tuple[str, object]] = [
        ("Destination", route.prefix),
        ("Table", route.table),
        ("Metric", METRIC),
        ("Protocol", PROTOCOL),
    ]
    if route.unreachable:
        entries.append(("Type", "unreachable"))
    elif route.prefix.version == 4:
        entries.append(("Scope", "link"))
    return "Route", entries


def _rule(rule: KernelRule) -> _Section:
    entries: list[tuple[str, object]] = [
        ("Family", "ipv4" if rule.version == 4 else "ipv6"),
        ("Priority", rule.priority),
        ("Table", rule.table),
    ]
    if rule.mark is not None:
        entries += [("FirewallMark", rule.mark), ("InvertRule", "yes")]
    if rule.suppress is not None:
        entries.append(("SuppressPrefixLength", rule.suppress))
    if rule.destination is not None:
        entries.append(("To", rule.destination))
    if rule.source_port is not None:
        entries += [("IPProtocol", "udp"), ("SourcePort", rule.source_port)]
    if rule.uid is not None:
        entries.append(("User", rule.uid))
    return "RoutingPolicyRule", entries


def _text(sections: Iterable[_Section]) -> str:
    lines = ["# Written by quicether.service; it goes when the tunnel goes down."]
    for name, entries in sections:
        lines += ["", f"[{name}]"]
        for key, value in entries:
            written = str(value)
            if not written.isprintable():
                raise HostError(f"{key} of the device: {written!r} cannot stand in a file")
            lines.append(f"{key}={written}")
    return "\n".join(lines) + "\n"


def _route_order(route: KernelRoute) -> tuple[int, int, bytes, int]:
    prefix = route.prefix
    return prefix.version, route.table, prefix.network_address.packed, prefix.prefixlen


def _rule_order(rule: KernelRule) -> tuple[int, int, str, int]:
    return rule.version, rule.priority, str(rule.destination or ""), rule.uid or 0

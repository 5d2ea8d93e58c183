"""How rtnetlink tells of policy routing rules, and is told of ours."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from typing import Any, Final

from quicether.host.kernel_state import PROTOCOL, KernelRule
from quicether.model import Prefix

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_INVERT: Final = 2
_NONE_IF_UNSET: Final = 0xFFFFFFFF


def rule_of(message: Any, version: int) -> KernelRule:
    """Return the rule that a message tells of."""
    suppress, mark = message.get_attr("FRA_SUPPRESS_PREFIXLEN"), message.get_attr("FRA_FWMARK")
    inverted = bool(message["flags"] & _INVERT)
    return KernelRule(
        version,
        message.get_attr("FRA_PRIORITY") or 0,
        message.get_attr("FRA_TABLE"),
        mark if inverted else None,
        None if suppress == _NONE_IF_UNSET else suppress,
        _port_of(message),
        _destination_of(message),
        _uid_of(message),
        None if inverted else mark,
    )


def rule_fields(rule: KernelRule) -> dict[str, Any]:
    """Return what pyroute2 is to send for a rule of ours."""
    fields: dict[str, Any] = {
        "family": FAMILIES[rule.version],
        "priority": rule.priority,
        "table": rule.table,
        "protocol": PROTOCOL,
    }
    if rule.mark is not None:
        fields |= {"fwmark": rule.mark, "flags": _INVERT}
    if rule.bearing is not None:
        fields["fwmark"] = rule.bearing
    if rule.suppress is not None:
        fields["suppress_prefixlen"] = rule.suppress
    if rule.destination is not None:
        fields["dst"] = str(rule.destination)
    if rule.source_port is not None:
        fields |= {
            "ip_proto": socket.IPPROTO_UDP,
            "sport_range": f"{rule.source_port}:{rule.source_port}",
        }
    if rule.uid is not None:
        fields["uid_range"] = f"{rule.uid}:{rule.uid}"
    return fields


def _port_of(rule: Any) -> int | None:
    ports = rule.get_attr("FRA_SPORT_RANGE")
    return None if ports is None else int(ports.partition(":")[0])


def _uid_of(rule: Any) -> int | None:
    # The kernel tells a range for every rule; that of ours that has none is all users.
    first, _, last = (rule.get_attr("FRA_UID_RANGE") or "0:-").partition(":")
    return int(first) if first == last else None


def _destination_of(rule: Any) -> Prefix | None:
    found = rule.get_attr("FRA_DST")
    return None if found is None else ip_network((found, rule["dst_len"]))

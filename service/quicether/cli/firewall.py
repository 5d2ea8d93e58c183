"""Whether an nftables ruleset lets a packet pass, as far as that can be told. Pure.

The ruleset is walked for one kind of packet of which little is known, so that a match holds, does
not hold, or may hold. What comes out is every end that such a packet may find.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from quicether.cli.findings import Facts, Finding, Subject, Verdict

_DEPTH: Final = 16
"""Jumps that the kernel allows (NFT_JUMP_STACK_SIZE)."""
_UDP: Final = ("udp", 17)


class End(enum.Enum):
    """How a chain may end for a packet. UNKNOWN: by something that is not understood here."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that begins a flow. port: of UDP, None for any protocol.

    arrives, leaves: the device, None for some device that is neither lo nor the other one.
    """

    port: int | None = None
    arrives: str | None = None
    leaves: str | None = None


class Ruleset:
    """The chains and rules of nft's JSON."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self.chains = [entry["chain"] for entry in entries if "chain" in entry]
        self._rules: dict[tuple[str, str, str], list[list[Any]]] = {}
        for entry in entries:
            if "rule" in entry:
                rule = entry["rule"]
                key = (rule.get("family", ""), rule["table"], rule.get("chain", ""))
                self._rules.setdefault(key, []).append(rule["expr"])

    def ends(self, chain: Mapping[str, Any], packet: Packet) -> set[End]:
        """Return how a base chain may end."""
        found = self._walk(chain["family"], chain["table"], chain["name"], packet, _DEPTH)
        if End.RETURN in found:
            found.remove(End.RETURN)
            found.add(End.DROP if chain.get("policy") == "drop" else End.ACCEPT)
        return found

    def _walk(self, family: str, table: str, chain: str, packet: Packet, depth: int) -> set[End]:
        found: set[End] = set()
        for rule in self._rules.get((family, table, chain), ()):
            holds: bool | None = True
            for statement in rule:
                ((kind, body),) = _chosen(statement).items()
                if kind == "match":
                    holds = _and(holds, _match(body, packet))
                elif kind in ("limit", "quota", "ct count"):
                    holds = _and(holds, None)
                elif kind in ("xt", "vmap"):
                    # A match or a target of iptables, or a choice by something not known here.
                    holds = _and(holds, None)
                    found |= {End.UNKNOWN} if holds is None else set()
                if holds is False:
                    break
                ends = self._ends_of(kind, body, family, table, packet, depth)
                found |= ends - {End.RETURN} if kind == "jump" else ends
                if holds and ends and not (kind == "jump" and End.RETURN in ends):
                    return found
        return found | {End.RETURN}

    def _ends_of(
        self, kind: str, body: Any, family: str, table: str, packet: Packet, depth: int
    ) -> set[End]:
        match kind:
            case "accept":
                return {End.ACCEPT}
            case "drop" | "reject":
                return {End.DROP}
            case "return":
                return {End.RETURN}
            case "queue" | "tproxy" | "synproxy":
                return {End.UNKNOWN}
            case "jump" | "goto" if depth:
                return self._walk(family, table, body["target"], packet, depth - 1)
        return set()


def check_firewall(facts: Facts) -> Iterator[Finding]:
    """nftables lets the UDP port in, and lets through what is forwarded."""
    if facts.firewall is None:
        return
    ruleset, subjects = Ruleset(facts.firewall), list(facts.subjects)
    for chain in ruleset.chains:
        hook, filters = chain.get("hook"), chain.get("type") in (None, "filter")
        for subject in subjects if filters else ():
            if hook == "input" and subject.port:
                yield from _input(ruleset, chain, subject)
            elif hook == "forward" and subject.offers and subject.netns is None:
                yield from _forward(ruleset, chain, subject)


def _input(ruleset: Ruleset, chain: Mapping[str, Any], subject: Subject) -> Iterator[Finding]:
    ends = ruleset.ends(chain, Packet(port=subject.port))
    if End.DROP not in ends:
        return
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    drops = "drops" if ends == {End.DROP} else "may drop"
    yield Finding(
        "firewall",
        Verdict.NOTE,
        f"chain {where} {drops} what comes in for UDP port {subject.port} of {subject.name}, and "
        "then others cannot begin a connection",
        f"firewall-cmd --permanent --add-port={subject.port}/udp; firewall-cmd --reload"
        if chain["table"] == "firewalld"
        else f"nft insert rule {where} udp dport {subject.port} accept",
    )


def _forward(ruleset: Ruleset, chain: Mapping[str, Any], subject: Subject) -> Iterator[Finding]:
    device = subject.device
    ways = [
        ("iifname", "from", ruleset.ends(chain, Packet(arrives=device))),
        ("oifname", "to", ruleset.ends(chain, Packet(leaves=device))),
    ]
    dropped = [way for way in ways if End.DROP in way[2]]
    if not dropped:
        return
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    drops = "drops" if all(ends == {End.DROP} for _, _, ends in dropped) else "may drop"
    yield Finding(
        "firewall",
        Verdict.NOTE,
        f"chain {where} {drops} what is forwarded "
        f"{' and '.join(word for _, word, _ in dropped)} {device} of {subject.name}",
        f"firewall-cmd --permanent --zone=trusted --add-interface={device}; firewall-cmd --reload"
        if chain["table"] == "firewalld"
        else "; ".join(f"nft insert rule {where} {key} {device} accept" for key, _, _ in dropped),
    )


def _chosen(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the verdict that a map of connection states has for a new flow, else statement."""
    match statement:
        case {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": list(pairs)}}}:
            none = {"match": {"op": "==", "left": {"ct": {"key": "status"}}, "right": "new"}}
            return next((verdict for state, verdict in pairs if state == "new"), none)
    return statement


def _and(first: bool | None, second: bool | None) -> bool | None:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def _match(body: Mapping[str, Any], packet: Packet) -> bool | None:
    """Tell whether a match holds; None: it may."""
    if body.get("op") not in ("==", "in", "!="):
        return None
    holds = _holds(body["left"], _values(body["right"]), packet)
    return holds if body["op"] != "!=" or holds is None else not holds


def _holds(left: Any, values: list[Any] | None, packet: Packet) -> bool | None:
    match left:
        case _ if values is None:
            return None
        case {"meta": {"key": "iifname" | "iif"}}:
            return _is_device(values, packet.arrives, packet.leaves)
        case {"meta": {"key": "oifname" | "oif"}}:
            return _is_device(values, packet.leaves, packet.arrives)
        case {"meta": {"key": "l4proto"}} | {"payload": {"field": "protocol" | "nexthdr"}}:
            return None if packet.port is None else any(value in _UDP for value in values)
        case {"payload": {"protocol": "udp", "field": "dport"}}:
            return None if packet.port is None else _contains(values, packet.port)
        case {"payload": {"protocol": "tcp" | "icmp" | "icmpv6" | "sctp" | "dccp"}}:
            return None if packet.port is None else False
        case {"payload": {"protocol": "th", "field": "dport"}}:
            return None if packet.port is None else _contains(values, packet.port)
        case {"ct": {"key": "state"}}:
            return "new" in values
        case {"ct": {"key": "status"}}:
            return False
    return None


def _is_device(values: list[Any], device: str | None, other: str | None) -> bool | None:
    if device is not None:
        return any(fnmatchcase(device, str(value)) for value in values)
    impossible = ("lo", other or "lo")
    return False if all(value in impossible for value in values) else None


def _contains(values: list[Any], port: int) -> bool | None:
    holds: bool | None = False
    for value in values:
        match value:
            case {"range": [int(first), int(last)]} if first <= port <= last:
                return True
            case int() if value == port:
                return True
            case {"range": _} | int():
                continue
        holds = None  # a name, or an element with something to it
    return holds


def _values(right: Any) -> list[Any] | None:
    """Return what a match compares with, None where it is not written there (a named set)."""
    match right:
        case {"set": list(values)}:
            return values
        case list():
            return right
        case str() if right.startswith("@"):
            return None
        case {"range": _} | str() | int():
            return [right]
    return None

"""Members, rules and packets for the tests of the policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from quicether.dataplane.packet import PacketView, view
from quicether.model import Member, NodeId
from quicether.policy.load import parse_policy
from quicether.policy.ruleset import RuleSet
from support.packets import ACK, icmp, ip, tcp, udp


def member(name: str, *groups: str) -> Member:
    """A member whose NodeId follows from its name."""
    return Member(node_id(name), name, bytes(32), (), (), frozenset(groups))


def node_id(name: str) -> NodeId:
    return NodeId(hashlib.sha256(name.encode()).digest()[:20])


LAPTOP, HOME, PHONE = member("laptop"), member("home"), member("phone")
LAPTOP_IP, HOME_IP, PHONE_IP = "100.64.0.1", "100.64.0.2", "100.64.0.3"


def rules(*lines: str, groups: str = "") -> RuleSet:
    """Rules, each written `action subject object [protocols [ports]]`, with ids r1, r2, …"""
    text = groups
    for number, line in enumerate(lines, 1):
        action, subject, target, *rest = line.split()
        text += (
            f'\n[[rules]]\nid = "r{number}"\naction = "{action}"\n'
            f'subject = "{subject}"\nobject = "{target}"\n'
        )
        if rest and rest[0] != "*":
            text += f"protocols = {_listed(rest[0].split(','))}\n"
        if len(rest) > 1:
            text += f"ports = {_listed(rest[1].split(','))}\n"
    return RuleSet(parse_policy(text))


def _listed(words: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def tcp_packet(
    source: str, destination: str, source_port: int, port: int, flags: int = ACK
) -> PacketView:
    return view(ip(source, destination, tcp(source_port, port, flags=flags), protocol=6))


def udp_packet(source: str, destination: str, source_port: int, port: int) -> PacketView:
    return view(ip(source, destination, udp(source_port, port), protocol=17))


def echo(source: str, destination: str, *, request: bool, identifier: int = 7) -> PacketView:
    return view(echo_bytes(source, destination, request=request, identifier=identifier))


def echo_bytes(source: str, destination: str, *, request: bool, identifier: int = 7) -> bytes:
    kinds, protocol = ((128, 129), 58) if ":" in source else ((8, 0), 1)
    kind = kinds[0] if request else kinds[1]
    rest = identifier.to_bytes(2) + bytes(2)
    return ip(source, destination, icmp(kind, rest=rest), protocol=protocol)


def icmp_error(source: str, destination: str, quoted: bytes, kind: int | None = None) -> PacketView:
    """Destination unreachable, or another ICMP message that quotes a packet."""
    default, protocol = (1, 58) if ":" in source else (3, 1)
    message = icmp(default if kind is None else kind, body=quoted)
    return view(ip(source, destination, message, protocol=protocol))

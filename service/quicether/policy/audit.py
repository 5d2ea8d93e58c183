"""The audit trail: what happened, as flat records, so many of a kind and never a payload. Pure.

Every record has `ts` (UTC, RFC 3339) and `event`; the other fields stand where they are known:
src_node, src_name, dest_node, dest_name, src_ip, dest_ip, src_port, dest_port, protocol,
bytes_sent, bytes_recv, packets_sent, packets_recv, duration_ms, action, rule_id, remote, reason,
prefixes, kind, left_out. Writing records down is the business of `audit_writer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, Protocol

from quicether.dataplane.packet import PORT_PROTOCOLS, PacketView
from quicether.errors import QuicEtherError
from quicether.model import Member, NodeId, Prefix, UnderlayAddress
from quicether.policy.flows import Flow, FlowKey
from quicether.token_bucket import TokenBucket

PROTOCOL_LABELS: Final[Mapping[int, str]] = {
    1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 58: "icmpv6",
    132: "sctp", 136: "udplite",
}  # fmt: skip
MAX_TEXT: Final = 500
"""Characters of a reason, which may quote what a stranger sent."""
MAX_LISTED: Final = 16
"""Prefixes that one record names."""
LEFT_OUT_INTERVAL: Final = 10.0
"""Seconds between two records of what was left out."""

Value = str | int | list[str]
AuditRecord = Mapping[str, Value]


class AuditKind(StrEnum):
    """What a record is about, its field `event`."""

    CONNECTED = "connection-opened"
    DISCONNECTED = "connection-closed"
    REFUSED = "connection-refused"
    """Failed authentication: a peer without a certificate that counts."""
    FLOW = "flow"
    DENIED = "denied"
    SPOOFED = "spoofed-source"
    UNCOVERED = "prefix-refused"
    """A peer announced what its certificate does not cover."""
    RECORD_REFUSED = "record-refused"
    """A record of the DHT with a bad signature, time or coverage."""
    POLICY_LOADED = "policy-loaded"
    POLICY_REFUSED = "policy-refused"
    LEFT_OUT = "left-out"
    """So many records of a kind were not written."""


RATES: Final[Mapping[AuditKind, tuple[float, float]]] = {
    AuditKind.CONNECTED: (10.0, 100.0),
    AuditKind.DISCONNECTED: (10.0, 100.0),
    AuditKind.REFUSED: (5.0, 50.0),
    AuditKind.FLOW: (200.0, 2000.0),
    AuditKind.DENIED: (20.0, 200.0),
    AuditKind.SPOOFED: (5.0, 50.0),
    AuditKind.UNCOVERED: (5.0, 50.0),
    AuditKind.RECORD_REFUSED: (5.0, 50.0),
    AuditKind.POLICY_LOADED: (1.0, 10.0),
    AuditKind.POLICY_REFUSED: (1.0, 10.0),
}
"""Records of a kind a second in the long run, and at once."""


class AuditSink(Protocol):
    """Where records go."""

    def write(self, record: AuditRecord) -> None:
        """Take one record. Never blocks and never raises: what cannot be kept is counted."""


class Audit:
    """Builds records, holds back what is too much of a kind, and counts it.

    Implements `overlay.neighbours.AuditEvents`.
    """

    def __init__(
        self,
        sink: AuditSink,
        clock: Callable[[], float],
        wall: Callable[[], float],
        rates: Mapping[AuditKind, tuple[float, float]] = RATES,
    ) -> None:
        """clock: monotonic seconds. wall: seconds since 1970."""
        self._sink = sink
        self._clock = clock
        self._wall = wall
        self._buckets = {kind: TokenBucket(rate, burst) for kind, (rate, burst) in rates.items()}
        self._left_out: dict[AuditKind, int] = {}
        self._told = clock()
        self.left_out = 0
        """Events that were not written down because there were too many of their kind."""

    def connected(self, member: Member, remote: UnderlayAddress) -> None:
        """A peer proved who it is."""
        self._record(AuditKind.CONNECTED, {**_side("src", member), "remote": str(remote)})

    def disconnected(
        self,
        member: Member,
        remote: UnderlayAddress,
        reason: str,
        duration: float,
        carried: tuple[int, int],
    ) -> None:
        """A peer's connections ended after duration seconds.

        carried: bytes of IP packets that the last one sent, and received.
        """
        fields = {
            **_side("src", member),
            "remote": str(remote),
            "reason": _clean(reason),
            "duration_ms": round(duration * 1000),
            "bytes_sent": carried[0],
            "bytes_recv": carried[1],
        }
        self._record(AuditKind.DISCONNECTED, fields)

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        """A peer was turned away."""
        self._record(AuditKind.REFUSED, {"remote": str(remote), "reason": _clean(str(error))})

    def spoofed(self, member: Member | None, packet: PacketView) -> None:
        """A peer sent from an address that is not its own. src_node: the peer, not the owner."""
        self._record(
            AuditKind.SPOOFED,
            {
                **_side("src", member),
                "src_ip": str(ip_address(packet.source)),
                "dest_ip": str(ip_address(packet.destination)),
                "protocol": protocol_label(packet.protocol),
                "action": "deny",
            },
        )

    def uncovered(self, member: Member, prefixes: Sequence[Prefix]) -> None:
        """A peer announced prefixes that its certificate does not cover."""
        listed = [str(prefix) for prefix in prefixes[:MAX_LISTED]]
        self._record(AuditKind.UNCOVERED, {**_side("src", member), "prefixes": listed})

    def record_refused(self, sender: Member | NodeId | None, reason: str) -> None:
        """A node handed over a record that does not count."""
        who: dict[str, Value] = (
            {"src_node": str(sender)} if isinstance(sender, NodeId) else _side("src", sender)
        )
        self._record(AuditKind.RECORD_REFUSED, {**who, "reason": _clean(reason)})

    def denied(
        self,
        key: FlowKey,
        source: Member | None,
        destination: Member | None,
        rule_id: str,
        repeats: int = 0,
    ) -> None:
        """A rule denied a packet.

        repeats: the record is not about one packet but about so many equal ones, which were
        denied since the last record of them.
        """
        fields = {
            **_side("src", source),
            **_side("dest", destination),
            **_addresses(key),
            "action": "deny",
            "rule_id": rule_id,
        }
        if repeats:
            fields["left_out"] = repeats
        self._record(AuditKind.DENIED, fields, repeats or 1)

    def flow(self, flow: Flow, now: float) -> None:
        """Report what passed in a flow since it was reported last. now: monotonic seconds."""
        there, back = flow.forward, flow.reply
        self._record(
            AuditKind.FLOW,
            {
                **_side("src", there.source),
                **_side("dest", there.destination),
                **_addresses(there.key),
                "packets_sent": there.packets,
                "packets_recv": 0 if back is None else back.packets,
                "bytes_sent": there.bytes,
                "bytes_recv": 0 if back is None else back.bytes,
                "duration_ms": round(max(0.0, min(flow.last, now) - flow.since) * 1000),
                "action": "allow",
                "rule_id": flow.rule_id,
            },
        )

    def policy_loaded(self, name: str, rules: int) -> None:
        """Another policy is in force."""
        self._record(AuditKind.POLICY_LOADED, {"reason": f"{_clean(name)}: {rules} rules"})

    def policy_refused(self, error: QuicEtherError) -> None:
        """A policy file has mistakes, and the policy before it stays."""
        self._record(AuditKind.POLICY_REFUSED, {"reason": _clean(str(error))})

    def tell_left_out(self, *, at_once: bool = False) -> None:
        """Write how many events of each kind were left out. To be called about once a second."""
        now = self._clock()
        if not self._left_out or (now - self._told < LEFT_OUT_INTERVAL and not at_once):
            return
        self._told = now
        for kind, count in self._left_out.items():
            self._sink.write(left_out(kind, count, self._wall()))
        self._left_out.clear()

    def _record(self, kind: AuditKind, fields: Mapping[str, Value], stands_for: int = 1) -> None:
        if self._buckets[kind].take(self._clock()):
            self._sink.write({"ts": timestamp(self._wall()), "event": str(kind), **fields})
        else:
            self._left_out[kind] = self._left_out.get(kind, 0) + stands_for
            self.left_out += stands_for


def left_out(kind: str, count: int, wall: float) -> AuditRecord:
    """Return the record that says how many of a kind are missing from the trail."""
    return {
        "ts": timestamp(wall),
        "event": str(AuditKind.LEFT_OUT),
        "kind": str(kind),
        "left_out": count,
    }


def timestamp(wall: float) -> str:
    """Return seconds since 1970 as RFC 3339 text in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")


def protocol_label(protocol: int) -> str:
    """Return the common name of an IP protocol, or its number as text."""
    return PROTOCOL_LABELS.get(protocol, str(protocol))


def _side(side: str, member: Member | None) -> dict[str, Value]:
    if member is None:
        return {}
    return {f"{side}_node": str(member.node_id), f"{side}_name": member.name}


def _addresses(key: FlowKey) -> dict[str, Value]:
    protocol, source, destination, source_port, destination_port = key
    fields: dict[str, Value] = {
        "src_ip": str(ip_address(source)),
        "dest_ip": str(ip_address(destination)),
        "protocol": protocol_label(protocol),
    }
    if protocol in PORT_PROTOCOLS and source_port is not None and destination_port is not None:
        fields |= {"src_port": source_port, "dest_port": destination_port}
    return fields


def _clean(text: str) -> str:
    """Return text on one line, printable and bounded."""
    shown = "".join(_printable(text[: MAX_TEXT + 1]))
    return shown if len(text) <= MAX_TEXT else shown[:MAX_TEXT] + "…"


def _printable(text: str) -> Iterable[str]:
    return (character if character.isprintable() else "�" for character in text)

"""What a certificate says of a node, for people and for scripts."""

from __future__ import annotations

from typing import Any

from quicether.cli import offline
from quicether.identity import certificates
from quicether.model import Member


def answer(member: Member) -> dict[str, Any]:
    """Return what JSON answers say of a member."""
    return {
        "name": member.name,
        "node_id": str(member.node_id),
        "addresses": [str(address) for address in member.addresses],
        "prefixes": [str(prefix) for prefix in member.prefixes],
        "groups": sorted(member.groups),
        "not_after": offline.moment(member.not_after) if member.not_after else None,
    }


def text(member: Member) -> str:
    """Return a sentence for people."""
    parts = [f"Node {member.name} ({member.node_id.short}…)"]
    parts.append("has " + ", ".join(str(address) for address in member.addresses))
    if member.prefixes:
        parts.append("and may advertise " + ", ".join(str(prefix) for prefix in member.prefixes))
    if member.not_after:
        parts.append(f"until {certificates.when(member.not_after)}")
    return " ".join(parts)

"""What records say of other members: which prefixes lead to whom. Pure.

Records come in two ways. Those of the followed index keys are kept up to date by the DHT machine,
which says when one is gone. Those that a lookup brought count until they end, and no longer than
`ASKED_FOR`, because nobody tells us when they are withdrawn. An owner renews its records, so the
two ways may bring one of another age: what was issued last counts, a withdrawal like any other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from quicether.dht.contents import (
    Content,
    GatewayContent,
    GatewaySubnetContent,
    NodeContent,
    SubnetContent,
)
from quicether.dht.records import Record
from quicether.model import Member, NextHop, NodeId, Prefix, UnderlayAddress

ASKED_FOR: Final = 300.0
"""Seconds for which the answer of a lookup counts."""
MAX_ASKED: Final = 4096
MAX_WITHDRAWN: Final = 4096
"""Withdrawals that are remembered, so that an answer from before does not bring a record back."""


class Findings:
    """The live records of other members that are in use here."""

    def __init__(self) -> None:
        self._followed: dict[NodeId, dict[bytes, Record]] = {}
        self._asked: OrderedDict[bytes, tuple[float, Record]] = OrderedDict()
        self._asked_of: dict[NodeId, dict[bytes, Record]] = {}
        self._withdrawn: OrderedDict[bytes, int] = OrderedDict()

    def follow(self, record: Record) -> None:
        """Take a record that the DHT machine keeps up to date."""
        self._followed.setdefault(record.owner, {})[record.slot] = record

    def unfollow(self, record: Record) -> None:
        """Drop a record that the DHT machine no longer keeps up to date."""
        _remove(self._followed, record)

    def withdrawn(self, withdrawal: Record) -> None:
        """Believe nothing that an owner said of a slot before it took it back.

        Of what is followed the DHT machine tells the end itself.
        """
        slot = withdrawal.slot
        self._withdrawn[slot] = max(withdrawal.issued, self._withdrawn.pop(slot, 0))
        if len(self._withdrawn) > MAX_WITHDRAWN:
            self._withdrawn.popitem(last=False)
        asked = self._asked.get(slot)
        if asked is not None and asked[1].issued <= withdrawal.issued:
            self._drop_asked(slot)

    def asked(self, record: Record, wall: float) -> set[NodeId]:
        """Take a record that a lookup brought, unless a later one is known. Return whose changed.

        wall: seconds since 1970.
        """
        slot = record.slot
        known = self._asked.get(slot)
        if known is not None and known[1].issued > record.issued:
            return set()
        if self._withdrawn.get(slot, -1) >= record.issued:
            return set()
        if known is not None:
            self._drop_asked(slot)
        self._asked[slot] = (min(record.end, wall + ASKED_FOR), record)
        self._asked_of.setdefault(record.owner, {})[slot] = record
        changed = {record.owner}
        if len(self._asked) > MAX_ASKED:
            changed.add(self._drop_asked(next(iter(self._asked))).owner)
        return changed

    def expire(self, wall: float) -> set[NodeId]:
        """Drop answers whose time is over; return whose they were."""
        over = [slot for slot, (end, _) in self._asked.items() if end <= wall]
        return {self._drop_asked(slot).owner for slot in over}

    def forget(self, node: NodeId) -> None:
        """Drop everything of a node."""
        self._followed.pop(node, None)
        for slot in self._asked_of.pop(node, {}):
            del self._asked[slot]

    def member(self, node: NodeId) -> Member | None:
        """Return what the newest record's certificate says of a node."""
        newest = max(self._records(node), key=lambda record: record.issued, default=None)
        return None if newest is None else newest.member

    def routes(self, node: NodeId) -> dict[NextHop, tuple[Prefix, ...]]:
        """Return the prefixes that lead to a node as their owner, and over it as a gateway."""
        owned: dict[Prefix, None] = {}
        forwarded: dict[Prefix, None] = {}
        for content in self._contents(node):
            # A GW_SUBNET is a SUBNET to Python, not to us.
            if isinstance(content, GatewaySubnetContent):
                forwarded[content.prefix] = None
            elif isinstance(content, SubnetContent):
                owned[content.prefix] = None
            elif isinstance(content, GatewayContent):
                forwarded |= dict.fromkeys(content.prefixes)
        return {
            NextHop.to_node(node): tuple(owned),
            NextHop.via_gateway(node): tuple(forwarded),
        }

    def prefixes(self, node: NodeId) -> list[Prefix]:
        """Return every prefix that leads to a node, in either way."""
        return [prefix for prefixes in self.routes(node).values() for prefix in prefixes]

    def addresses(self, node: NodeId) -> tuple[UnderlayAddress, ...]:
        """Return where a node says it can be reached, best first."""
        for content in self._contents(node):
            if isinstance(content, NodeContent):
                return content.addresses
        return ()

    def _contents(self, node: NodeId) -> Iterable[Content]:
        return (record.content for record in self._records(node))

    def _records(self, node: NodeId) -> list[Record]:
        found = dict(self._followed.get(node, {}))
        for slot, record in self._asked_of.get(node, {}).items():
            if slot not in found or found[slot].issued < record.issued:
                found[slot] = record
        return list(found.values())

    def _drop_asked(self, slot: bytes) -> Record:
        _, record = self._asked.pop(slot)
        _remove(self._asked_of, record)
        return record


def _remove(kept: dict[NodeId, dict[bytes, Record]], record: Record) -> None:
    records = kept.get(record.owner)
    if records is not None:
        records.pop(record.slot, None)
        if not records:
            del kept[record.owner]

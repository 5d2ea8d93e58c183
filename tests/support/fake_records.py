"""A fake signer and verifier of DHT records: right in form, size, age and coverage, without keys.

The simulator seals hundreds of thousands of records. What these fakes leave out is the arithmetic
of Ed25519 and X.509; a record that was not sealed by a `FakeSigner` of the same `FakeSeals` is
refused like one with a bad signature.
"""

from __future__ import annotations

from dataclasses import dataclass

from quicether import cbor
from quicether.dht.contents import Content, RecordRefused, encode_content, slot_of
from quicether.dht.records import RECORD_VERSION, Record, check_age, check_coverage
from quicether.model import DropReason, Member, NodeId

CERTIFICATE_BYTES = 560
"""About what a certificate with two addresses and one prefix has."""


class FakeSeals:
    """What was sealed, and so counts as signed. Also the verifier for it.

    latest: the last record of each slot that its owner sealed. revoked: whose records do not count.
    """

    def __init__(self, network_id: bytes) -> None:
        self.network_id = network_id
        self.latest: dict[bytes, Record] = {}
        self._records: dict[bytes, Record] = {}
        self._uncovered: set[bytes] = set()
        self.revoked: set[NodeId] = set()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        self._records[record.wire] = record
        if not all(map(record.member.covers, record.content.claims())):
            self._uncovered.add(record.wire)
        self.latest[record.slot] = record

    def verify(self, wire: bytes, wall: float) -> Record:
        record = self._records.get(wire)
        if record is None:
            raise RecordRefused(DropReason.RECORD_SIGNATURE, "a record that nobody sealed")
        if record.owner in self.revoked:
            raise RecordRefused(DropReason.REVOKED, "a record of a revoked node")
        if wire in self._uncovered:
            check_coverage(record.content, record.member)
        check_age(record.content, record.issued, record.ttl, wall)
        return record

    def forget(self, owner: NodeId) -> None:
        """Nothing is remembered of certificates."""

    def prune(self, wall: float) -> None:
        """Forget what has ended, so that a long simulation does not grow."""
        for wire in [wire for wire, record in self._records.items() if record.end <= wall]:
            del self._records[wire]
            self._uncovered.discard(wire)
        for slot in [slot for slot, record in self.latest.items() if record.end <= wall]:
            del self.latest[slot]


@dataclass(frozen=True, slots=True)
class FakeSigner:
    """Seals in the name of one member."""

    seals: FakeSeals
    member: Member

    def seal(self, content: Content, issued: int, ttl: int) -> bytes:
        owner = self.member.node_id
        body = encode_content(owner, content, issued, ttl)
        certificate = owner.value * (CERTIFICATE_BYTES // 20)
        wire = cbor.encode([RECORD_VERSION, body, bytes(64), certificate])
        keys = content.keys(self.seals.network_id, owner)
        slot = slot_of(owner, content)
        self.seals.add(Record(content, self.member, issued, ttl, wire, keys, slot))
        return wire

"""Signed records: what nodes say about themselves in the DHT, checkable without asking anyone.

On the wire a record is the CBOR array `[1, content, signature, certificate]`. `content` is itself
CBOR, a map in deterministic order; `signature` is Ed25519 (RFC 8032) over a domain separator, the
network id and the content; `certificate` is the owner's, DER. A sender who knows that the receiver
has the certificate already leaves it empty (`without_certificate`), which saves three quarters of
the bytes; the receiver puts it back (`with_certificate`) before anything is checked.

Of two records for the same slot (owner, kind, subject) the one issued later counts. TTL 0
withdraws: such a record is kept and passed on as long as an older one could still be alive.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quicether import cbor
from quicether.dht.contents import (
    Content,
    RecordRefused,
    decode_content,
    encode_content,
    malformed,
    slot_of,
)
from quicether.errors import ProtocolError, TrustError
from quicether.identity.trust import Trust
from quicether.model import DropReason, Member, NodeId

RECORD_VERSION: Final = 1
MAX_RECORD: Final = 4096
"""Largest record, its certificate included, in bytes."""
CLOCK_SKEW: Final = 300.0
"""By how much the clocks of two nodes may differ, in seconds."""
_SIGNATURE_DOMAIN: Final = b"quicether record 1\0"
_ENVELOPE_DEPTH: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A record that was checked. Compared by identity; `wire` is what is passed on.

    member: the owner, as its certificate says. issued: milliseconds since 1970, the owner's clock.
    ttl: seconds; 0 withdraws. keys: where the record may be kept. slot: see `slot_of`.
    end: when it has to be forgotten, in seconds since 1970. One that withdraws stays until no older
    one can be alive anywhere. None outlives the certificate that it came with: nobody would take it
    from us any more.
    """

    content: Content
    member: Member
    issued: int
    ttl: int
    wire: bytes
    keys: tuple[int, ...]
    slot: bytes
    end: float = field(init=False)

    def __post_init__(self) -> None:
        """Reckon its end once: it is asked for at every look at the record."""
        end = self.issued / 1000 + (self.ttl or self.content.max_ttl + 2 * CLOCK_SKEW)
        if self.member.not_after is not None:
            end = min(end, self.member.not_after.timestamp())
        object.__setattr__(self, "end", end)

    @property
    def owner(self) -> NodeId:
        """Who says it."""
        return self.member.node_id

    @property
    def withdraws(self) -> bool:
        """Whether the record takes back what its owner said before."""
        return self.ttl == 0


class Verifier(Protocol):
    """Turns bytes into records that can be relied on."""

    def verify(self, wire: bytes, wall: float) -> Record:
        """Return the record. wall: seconds since 1970. Raises RecordRefused."""

    def forget(self, owner: NodeId) -> None:
        """Judge everything of an owner anew: it was revoked, or its certificate replaced."""


def verify(wire: bytes, trust: Trust, wall: float) -> Record:
    """Check a record offline: form, certificate, signature, content, coverage and age.

    wall: seconds since 1970. Raises RecordRefused: the sentence and the reason say what is wrong.
    """
    content, signature, certificate = _open(wire)
    return _check(wire, content, signature, _judge(certificate, trust, wall), trust, wall)


class RecordVerifier:
    """Verifies records, remembering what it found, because checking a signature costs 100 µs.

    Age is checked at every call; a certificate is judged again after a minute. Bounded: the least
    recently used of `limit` records and certificates goes.
    """

    __slots__ = ("_limit", "_members", "_records", "_trust")

    REJUDGE: ClassVar[float] = 60.0

    def __init__(self, trust: Trust, limit: int = 4096) -> None:
        self._trust = trust
        self._limit = limit
        self._records: OrderedDict[bytes, Record] = OrderedDict()
        self._members: OrderedDict[bytes, tuple[float, Member]] = OrderedDict()

    def verify(self, wire: bytes, wall: float) -> Record:
        """Return the record. Raises RecordRefused: as `verify`."""
        content, signature, certificate = _open(wire)
        member = self._member(certificate, wall)
        digest = hashlib.sha256(wire).digest()
        record = self._records.get(digest)
        if record is not None and record.member is member:
            self._records.move_to_end(digest)
            check_age(record.content, record.issued, record.ttl, wall)
            return record
        record = _check(wire, content, signature, member, self._trust, wall)
        self._records[digest] = record
        if len(self._records) > self._limit:
            self._records.popitem(last=False)
        return record

    def forget(self, owner: NodeId) -> None:
        """Drop what is remembered of an owner, so that its certificate is judged again."""
        for digest in [d for d, (_, m) in self._members.items() if m.node_id == owner]:
            del self._members[digest]

    def _member(self, certificate: bytes, wall: float) -> Member:
        digest = hashlib.sha256(certificate).digest()
        known = self._members.get(digest)
        if known is not None and 0 <= wall - known[0] < self.REJUDGE:
            return known[1]
        try:
            member = _judge(certificate, self._trust, wall)
        except RecordRefused:
            self._members.pop(digest, None)
            raise
        if known is not None and known[1] == member:
            member = known[1]
        self._members[digest] = (wall, member)
        self._members.move_to_end(digest)
        if len(self._members) > self._limit:
            self._members.popitem(last=False)
        return member


class Signer(Protocol):
    """Makes records in the name of this node."""

    def seal(self, content: Content, issued: int, ttl: int) -> bytes:
        """Return a signed record. issued: milliseconds since 1970. ttl: seconds, 0 withdraws."""


@dataclass(frozen=True, slots=True)
class RecordSigner:
    """Signs records with a node's key.

    sign: Ed25519 over the bytes it is given, 64 bytes. certificate: the node's own, DER.
    """

    network_id: bytes
    owner: NodeId
    certificate: bytes
    sign: Callable[[bytes], bytes]

    def seal(self, content: Content, issued: int, ttl: int) -> bytes:
        """Return a signed record with the certificate in it."""
        body = encode_content(self.owner, content, issued, ttl)
        signature = self.sign(_SIGNATURE_DOMAIN + self.network_id + body)
        return cbor.encode([RECORD_VERSION, body, signature, self.certificate])


def without_certificate(wire: bytes) -> bytes:
    """Return a good record for a receiver that has its owner's certificate already."""
    content, signature, _ = _open(wire)
    return cbor.encode([RECORD_VERSION, content, signature, b""])


def with_certificate(wire: bytes, certificate: bytes) -> bytes:
    """Return a record with a certificate put in. Raises RecordRefused: it is no record."""
    content, signature, _ = _open(wire)
    return cbor.encode([RECORD_VERSION, content, signature, certificate])


def certificate_of(wire: bytes) -> bytes:
    """Return the certificate in a record, empty if none. Raises RecordRefused: no record."""
    return _open(wire)[2]


def is_record(wire: bytes) -> bool:
    """Tell whether bytes have the form of a record."""
    try:
        _open(wire)
    except RecordRefused:
        return False
    return True


def claimed_owner(wire: bytes) -> NodeId:
    """Return whose a record says it is, unchecked. Raises RecordRefused: it is no record."""
    return decode_content(_open(wire)[0])[0]


def claimed_slot(wire: bytes) -> bytes:
    """Return the slot that a record says it has, unchecked. Raises RecordRefused: no record."""
    owner, content, _, _ = decode_content(_open(wire)[0])
    return slot_of(owner, content)


def _open(wire: bytes) -> tuple[bytes, bytes, bytes]:
    if len(wire) > MAX_RECORD:
        raise malformed(f"it has {len(wire)} bytes, at most {MAX_RECORD} are allowed")
    try:
        envelope = cbor.decode(wire, _ENVELOPE_DEPTH)
    except ProtocolError as error:
        raise malformed(str(error)) from None
    match envelope:
        case [int(version), bytes(content), bytes(signature), bytes(certificate), *_]:
            if version != RECORD_VERSION:
                raise malformed(f"version {version}; this program knows {RECORD_VERSION}")
            return content, signature, certificate
    raise malformed("it is not an array of version, content, signature and certificate")


def _judge(certificate: bytes, trust: Trust, wall: float) -> Member:
    if not certificate:
        raise malformed("its certificate was left out and is not known here")
    try:
        return trust.judge(certificate, datetime.fromtimestamp(wall, UTC))
    except TrustError as error:
        raise RecordRefused(DropReason.RECORD_SIGNATURE, f"record refused: {error}") from None


def _check(
    wire: bytes, body: bytes, signature: bytes, member: Member, trust: Trust, wall: float
) -> Record:
    try:
        Ed25519PublicKey.from_public_bytes(member.public_key).verify(
            signature, _SIGNATURE_DOMAIN + trust.network_id + body
        )
    except InvalidSignature:
        raise RecordRefused(
            DropReason.RECORD_SIGNATURE,
            f"record with a signature that is not of {member.name} ({member.node_id.short}…)",
        ) from None
    owner, content, issued, ttl = decode_content(body)
    if owner != member.node_id:
        raise RecordRefused(
            DropReason.RECORD_SIGNATURE,
            f"record of {owner.short}… with the certificate of {member.node_id.short}…",
        )
    check_coverage(content, member)
    check_age(content, issued, ttl, wall)
    keys = content.keys(trust.network_id, owner)
    return Record(content, member, issued, ttl, wire, keys, slot_of(owner, content))


def check_coverage(content: Content, member: Member) -> None:
    """Check that a member may say this. Raises RecordRefused: its certificate does not cover it."""
    for prefix in content.claims():
        if not member.covers(prefix):
            raise RecordRefused(
                DropReason.RECORD_NOT_COVERED,
                f"{content.kind} record for {prefix}, which the certificate of {member.name} "
                f"({member.node_id.short}…) does not cover",
            )


def check_age(content: Content, issued: int, ttl: int, wall: float) -> None:
    """Check that a record is neither of the future nor past. Raises RecordRefused: it is."""
    life = ttl or content.max_ttl + 2 * CLOCK_SKEW
    age = wall - issued / 1000
    if age < -CLOCK_SKEW or age >= life:
        when = f"{-age:.0f} s in the future" if age < 0 else f"{age:.0f} s ago"
        raise RecordRefused(
            DropReason.RECORD_TIME,
            f"{content.kind} record issued {when}; at most {CLOCK_SKEW:.0f} s ahead and {life:.0f} "
            "s old are allowed",
        )

"""Answers the requests of other nodes: PING, FIND_NODE, FIND_VALUE, STORE, NOTIFY. Pure."""

from __future__ import annotations

from typing import Final

from quicether.dht import messages
from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.contents import RecordRefused
from quicether.dht.core import Core
from quicether.dht.directory import Directory
from quicether.dht.messages import (
    Cursor,
    FindNode,
    FindValue,
    Nodes,
    Notify,
    Pong,
    Refusal,
    Refused,
    Request,
    Response,
    Store,
    Stored,
    StoreResult,
    Values,
)
from quicether.dht.records import (
    Record,
    certificate_of,
    claimed_owner,
    claimed_slot,
    with_certificate,
    without_certificate,
)
from quicether.dht.store import Outcome, Value
from quicether.dht.watchers import Watchers
from quicether.errors import ProtocolError
from quicether.model import DropReason
from quicether.token_bucket import TokenBuckets

RECORDS_PER_TOKEN: Final = 16
"""A message with so many records costs its sender as much as one more request."""
_RESULTS: Final = {
    Outcome.NEW: StoreResult.KEPT,
    Outcome.RENEWED: StoreResult.KEPT,
    Outcome.SAME: StoreResult.KEPT,
    Outcome.STALE: StoreResult.FRESHER_KNOWN,
    Outcome.FULL: StoreResult.FULL,
}


class Responder:
    """Serves authenticated peers within their rate."""

    __slots__ = ("_core", "_directory", "_epoch", "_limiter", "_watchers")

    def __init__(self, core: Core, directory: Directory, watchers: Watchers) -> None:
        config = core.config
        self._core = core
        self._directory = directory
        self._watchers = watchers
        self._limiter = TokenBuckets(config.rate, config.burst, config.limited_peers)
        self._epoch = core.random.getrandbits(48)

    def handle(self, peer: Contact, body: bytes, now: float) -> bytes:
        """Return the answer to one request. Raises ProtocolError: the request is malformed."""
        # Before it is looked at: what cannot be read costs time as well.
        if not self._limiter.take(peer.key, now):
            return self._refused()
        try:
            request = messages.decode_request(body)
        except ProtocolError:
            self._core.counters.drop(DropReason.MALFORMED)
            raise
        if not self._limiter.take(peer.key, now, _further_cost(request)):
            return self._refused()
        self._core.seen(peer, now)
        return messages.encode(self._answer(peer, request, now))

    def keep(self, key: int, record: Record, now: float) -> Outcome:
        """Store a checked record, and tell those who want to know."""
        evicted = self._core.store.evicted
        outcome = self._core.store.offer(key, record)
        if outcome is Outcome.FULL or self._core.store.evicted != evicted:
            self._core.counters.drop(DropReason.RECORD_LIMIT)
        if outcome in (Outcome.NEW, Outcome.RENEWED):
            self._directory.offer(key, record, now)
            if outcome is Outcome.NEW:
                self._watchers.changed(key, now)
        return outcome

    def _refused(self) -> bytes:
        self._core.counters.drop(DropReason.RPC_LIMITED)
        return messages.encode(Refused(Refusal.RATE_LIMITED))

    def _answer(self, peer: Contact, request: Request, now: float) -> Response:
        match request:
            case FindNode(target, count):
                return Nodes(tuple(self._core.table.closest(target, count, peer.key)))
            case FindValue():
                return self._values(peer, request, now)
            case Store(key, records, known):
                results = tuple(self._store(key, wire, now) for wire in records)
                missing = self._missing(peer, key, known)
                return Stored(results, missing, self._fresher(peer, request, results))
            case Notify(key, records):
                self._directory.told(peer, key, records, now)
        return Pong()

    def _values(self, peer: Contact, request: FindValue, now: float) -> Values:
        core = self._core
        since = base = 0
        cursor = request.cursor
        if cursor is not None and cursor.epoch == self._epoch:
            since = cursor.revision
            base = since if cursor.base is None else cursor.base
        found = core.store.changes(request.key, since, core.wall(now), request.quiet)
        wires: list[bytes] = []
        size = 0
        reached = core.store.revision
        more = False
        for value in found:
            # Who has read all up to the last change of content has the certificate already.
            known = value.change <= base
            wire = without_certificate(value.record.wire) if known else value.record.wire
            if wires and (
                size + len(wire) > messages.RECORDS_SIZE or len(wires) == messages.MAX_RECORDS
            ):
                more = True
                break
            wires.append(wire)
            size += len(wire)
            reached = _position(value, request.quiet)
        return Values(
            tuple(wires),
            tuple(core.table.closest(request.key, request.count, peer.key)),
            Cursor(self._epoch, reached, base)
            if more
            else Cursor(self._epoch, core.store.revision),
            more,
            int(self._watchers.add(request.key, peer, now)) if request.watch else 0,
        )

    def _missing(self, peer: Contact, key: int, known: bytes) -> tuple[Contact, ...]:
        if not known:
            return ()
        size = messages.KNOWN_BYTES
        starts = {known[at : at + size] for at in range(0, len(known), size)}
        # We are one of the k holders ourselves, so k - 1 others are of interest.
        closest = self._core.table.closest(key, K - 1, peer.key)
        return tuple(contact for contact in closest if contact.wire[:size] not in starts)

    def _fresher(
        self, peer: Contact, request: Store, results: tuple[StoreResult, ...]
    ) -> tuple[bytes, ...]:
        """Return what the peer itself said later than what it says now: its clock was set back."""
        fresher: list[bytes] = []
        for wire, result in zip(request.records, results, strict=True):
            if result is StoreResult.FRESHER_KNOWN:
                kept = self._core.store.get(request.key, claimed_slot(wire))
                if kept is not None and kept.owner.value == peer.wire[:20]:
                    fresher.append(without_certificate(kept.wire))
        return next(iter(messages.batches(fresher)), ())

    def _store(self, key: int, wire: bytes, now: float) -> StoreResult:
        core = self._core
        try:
            if not certificate_of(wire):
                certificate = core.store.certificate(claimed_owner(wire))
                if certificate is None:
                    return StoreResult.CERTIFICATE_NEEDED
                wire = with_certificate(wire, certificate)
        except RecordRefused as refusal:
            core.counters.drop(refusal.reason)
            return StoreResult.REFUSED
        record = core.check(key, wire, now)
        if record is None:
            return StoreResult.REFUSED
        return _RESULTS[self.keep(key, record, now)]


def _further_cost(request: Request) -> float:
    if isinstance(request, Store | Notify):
        return len(request.records) / RECORDS_PER_TOKEN
    return 0.0


def _position(value: Value, quiet: bool) -> int:
    return value.change if quiet else value.revision

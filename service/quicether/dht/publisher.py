"""What this node says about itself, kept alive in the DHT. Pure.

Each content is signed and stored under each of its keys at the k nodes closest to it, and again
at half its TTL. The holders of the last time are told directly and without the certificate, which
they have. Each names nodes that should be holders too, so the k closest are followed without a
lookup; that is repeated when a quarter of the holders failed and when the network changed
(`republish`). In between, holders hand values on to newcomers.

Withdrawing stores a record with TTL 0 with the same holders at once, and a fresh lookup finds those
that were not among them. It is repeated until all of them answered, or nothing is left to withdraw.

In a small network every key has the same holders, so a node with many prefixes would soon be over
what a peer allows: keys are published a few at a time, and no faster than peers take them. Those
with the most to say come first, which is the index that others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.contents import MAX_CONTENTS, NODE_TTL, Content, slot_of
from quicether.dht.core import Core
from quicether.dht.events import Published
from quicether.dht.lookup import Lookup
from quicether.dht.messages import KNOWN_BYTES, Store, Stored, StoreResult, batches
from quicether.dht.outbox import Outbox
from quicether.dht.place import EARLY, RETRY_FIRST, Place
from quicether.dht.records import (
    Record,
    Signer,
    certificate_of,
    is_record,
    with_certificate,
    without_certificate,
)
from quicether.dht.search import Search
from quicether.errors import ConfigError
from quicether.model import NodeId
from quicether.token_bucket import TokenBucket

SETTLE: Final = 0.1
"""Seconds in which changes of one key gather before they are stored."""
MAX_NAMED: Final = 8
"""So many holders that others named are tried in one round."""
RETRY_AFTER: Final = 30.0
"""Seconds until a fresh lookup after many holders were found by others."""
RETRY_LONGEST: Final = 300.0
"""Seconds up to which `place.RETRY_FIRST` is doubled."""
KEYS_AT_ONCE: Final = 12
"""Keys that are published at one time, each with at most three questions of a lookup."""
SHARE: Final = 4.0
"""For each key a peer is asked up to so many times: what it allows is divided by it."""
REUSE: Final = 5.0
"""A signature younger than this, in seconds, serves for all keys of a content."""


class Publisher:
    """Publishes, renews and withdraws this node's records.

    keep: stores a record of our own here too, as the one holder that never fails us.
    """

    __slots__ = (
        "_core",
        "_floors",
        "_id",
        "_keep",
        "_line",
        "_outbox",
        "_pace",
        "_places",
        "_resuming",
        "_running",
        "_signed",
        "_signer",
        "_slots",
    )

    def __init__(
        self,
        core: Core,
        node_id: NodeId,
        signer: Signer,
        keep: Callable[[int, Record, float], object],
    ) -> None:
        self._core = core
        self._id = node_id
        self._signer = signer
        self._keep = keep
        self._places: dict[int, Place] = {}
        self._slots: dict[bytes, Content] = {}
        self._signed: dict[bytes, tuple[Content, int, int, bytes]] = {}
        self._floors: dict[bytes, int] = {}
        self._outbox = Outbox(core)
        self._pace = TokenBucket(core.config.rate / SHARE, core.config.burst / SHARE)
        self._line: dict[int, Place] = {}
        self._running = 0
        self._resuming = False

    @property
    def contents(self) -> tuple[Content, ...]:
        """What is published now."""
        return tuple(self._slots.values())

    def publish(self, content: Content, now: float) -> None:
        """Publish a content, in place of one of the same kind and subject.

        Raises ConfigError: the node publishes too much already.
        """
        slot = slot_of(self._id, content)
        if slot not in self._slots and len(self._slots) >= MAX_CONTENTS:
            raise ConfigError(
                f"{content.kind} record number {MAX_CONTENTS + 1}: one node can publish "
                f"{MAX_CONTENTS} records"
            )
        self._slots[slot] = content
        for key in content.keys(self._core.network_id, self._id):
            place = self._places.setdefault(key, Place())
            place.contents[slot] = content
            place.leaving.pop(slot, None)
            self._soon(key, place, now + SETTLE)

    def withdraw(self, content: Content, now: float) -> None:
        """Take a content back. What is not published is left alone."""
        slot = slot_of(self._id, content)
        if self._slots.pop(slot, None) is None:
            return
        for key in content.keys(self._core.network_id, self._id):
            place = self._places[key]
            del place.contents[slot]
            place.leaving[slot] = (content, now + content.max_ttl)
            self._soon(key, place, now)

    def republish(self, now: float) -> None:
        """Find the holders anew and store everything with them within a few seconds."""
        for key, place in self._places.items():
            place.fresh = True
            place.early = EARLY
            self._soon(key, place, now + 5.0 * self._core.random.random())

    def renew_signatures(self, now: float) -> None:
        """Sign and store everything anew, because our certificate was replaced."""
        self._signed = {
            slot: (content, issued, -1, wire)
            for slot, (content, issued, _, wire) in self._signed.items()
        }
        for place in self._places.values():
            place.holders = dict.fromkeys(place.holders, False)
        self.republish(now)

    def _soon(self, key: int, place: Place, when: float) -> None:
        if place.due > when:
            place.due = when
            self._core.schedule(when, self._run, key, place)

    def _run(self, key: int, place: Place, now: float) -> None:
        if place.due > now or self._places.get(key) is not place:
            return
        place.due = float("inf")
        if place.open:
            place.again = True
            return
        self._line[key] = place
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Publish under the keys in line, as many as may be."""
        while self._line and self._running < KEYS_AT_ONCE:
            if not self._pace.take(now):
                if not self._resuming:
                    self._resuming = True
                    self._core.schedule(now + SHARE / self._core.config.rate, self._resume)
                return
            key = max(self._line, key=lambda key: self._line[key].weight)
            self._round(key, self._line.pop(key), now)

    def _resume(self, now: float) -> None:
        self._resuming = False
        self._begin(now)

    def _round(self, key: int, place: Place, now: float) -> None:
        place.leaving = {s: left for s, left in place.leaving.items() if left[1] > now}
        if not place.weight:
            self._places.pop(key, None)
            return
        wires = self._wires(key, place, now)
        fresh = place.fresh or not place.holders or bool(place.leaving)
        # In order, unlike a set: the same seed is to play the same run in the simulator.
        told = dict.fromkeys(place.holders) if place.leaving or not fresh else {}
        place.fresh = False
        self._running += 1
        self._store_all(key, place, told, wires, now)
        if fresh:
            place.open += 1

            def found(lookup: Lookup, at: float) -> None:
                self._found(key, place, wires, told, lookup, at)

            Search(self._core, key, found, seeds=place.holders).start(now)
        life = min((self._ttl(c) for c in place.contents.values()), default=None)
        if life is not None:
            self._soon(key, place, now + self._core.spread(min(life / 2, place.early)))
            place.early = min(4 * place.early, NODE_TTL)

    def _found(
        self,
        key: int,
        place: Place,
        wires: list[bytes],
        told: Collection[Contact],
        lookup: Lookup,
        now: float,
    ) -> None:
        closest = lookup.closest(K)
        missing = [contact for contact in closest if contact not in told]
        place.holders = {contact: place.holders.get(contact, False) for contact in closest}
        self._store_all(key, place, missing, wires, now)
        self._close(key, place, now)

    def _store_all(
        self, key: int, place: Place, holders: Iterable[Contact], wires: list[bytes], now: float
    ) -> None:
        for contact in list(holders):
            self._store(key, place, contact, wires, now)

    def _store(
        self,
        key: int,
        place: Place,
        contact: Contact,
        wires: list[bytes],
        now: float,
        named: bool = False,
    ) -> None:
        """Store records with one holder. named: by another, so it may be long gone."""
        has_certificate = place.holders.get(contact, False)
        sent = [without_certificate(wire) for wire in wires] if has_certificate else wires
        place.told += not named

        def failed(at: float) -> None:
            if place.holders.pop(contact, None) is not None:
                place.lost += not named
            self._close(key, place, at)

        known = b"".join(holder.wire[:KNOWN_BYTES] for holder in place.holders)

        def stored(answer: Stored, at: float) -> None:
            for named in answer.contacts:
                self._named(key, place, named, wires, at)
            self._outdone(key, place, wires, answer.fresher, at)
            if all(result is StoreResult.FULL for result in answer.results):
                # It keeps nothing of ours, so another is welcome in its place.
                place.holders.pop(contact, None)
            needy = StoreResult.CERTIFICATE_NEEDED in answer.results
            if contact in place.holders:
                place.holders[contact] = not needy
            if needy and has_certificate:
                self._store(key, place, contact, wires, at)
            self._close(key, place, at)

        for batch in batches(sent):
            place.open += 1
            self._outbox.ask(contact, Store(key, batch, known), now, stored, failed)

    def _named(
        self, key: int, place: Place, named: Contact, wires: list[bytes], now: float
    ) -> None:
        holders = place.holders
        if named.key == self._core.me.key or any(h.key == named.key for h in holders):
            return
        if place.named >= MAX_NAMED:
            return
        if len(holders) >= K:
            farthest = max(holders, key=lambda holder: holder.key ^ key)
            if farthest.key ^ key < named.key ^ key:
                return
            # It keeps what it has until that ends, and is simply not told any more.
            del holders[farthest]
        place.named += 1
        if place.named == K // 4:
            place.fresh = True
            self._soon(key, place, now + self._core.spread(RETRY_AFTER))
        holders[named] = False
        self._store(key, place, named, wires, now, named=True)

    def _outdone(
        self,
        key: int,
        place: Place,
        wires: list[bytes],
        fresher: tuple[bytes, ...],
        now: float,
    ) -> None:
        """Take note of our own later records: we ran before, and our clock was ahead of this.

        What we said in this round is said again, as issued after those.
        """
        if not fresher or not wires:
            return
        certificate = certificate_of(wires[0])
        whole = [with_certificate(wire, certificate) for wire in fresher if is_record(wire)]
        for record in self._core.checked(key, whole, now):
            sent = place.sent.get(record.slot)
            if record.owner == self._id and sent is not None and record.issued > sent:
                self._floors[record.slot] = max(record.issued, self._floors.get(record.slot, 0))
                self._soon(key, place, now + SETTLE)

    def _close(self, key: int, place: Place, now: float) -> None:
        place.open -= 1
        if place.open:
            return
        self._running -= 1
        self._core.events.append(Published(key, len(place.holders) if place.contents else 0))
        if place.holders and not place.lost:
            for slot, left in place.withdrawn.items():
                if place.leaving.get(slot) is left:
                    del place.leaving[slot]
        if not place.holders or 4 * place.lost >= max(1, place.told) or place.leaving:
            place.fresh = True
            self._soon(key, place, now + self._core.spread(place.retry))
            place.retry = min(2 * place.retry, RETRY_LONGEST)
        else:
            place.retry = RETRY_FIRST
        if place.again:
            place.again = False
            self._soon(key, place, now)
        elif not place.weight:
            self._places.pop(key, None)
        self._begin(now)

    def _wires(self, key: int, place: Place, now: float) -> list[bytes]:
        wires = [self._seal(slot, c, self._ttl(c), now) for slot, c in place.contents.items()]
        wires += [self._seal(slot, c, 0, now) for slot, (c, _) in place.leaving.items()]
        records = self._core.checked(key, wires, now)
        place.begin_round({record.slot: record.issued for record in records})
        for record in records:
            self._keep(key, record, now)
        return wires

    def _ttl(self, content: Content) -> int:
        return min(content.max_ttl, self._core.config.longest_ttl)

    def _seal(self, slot: bytes, content: Content, ttl: int, now: float) -> bytes:
        issued = int(self._core.wall(now) * 1000)
        last = self._signed.get(slot)
        if last is not None:
            same = last[0] == content and last[2] == ttl
            young = 0 <= issued - last[1] < REUSE * 1000
            if same and young and last[1] > self._floors.get(slot, -1):
                return last[3]
            # A clock that was set back must not make us look older than our own last record.
            issued = max(issued, last[1] + 1)
        issued = max(issued, self._floors.get(slot, -1) + 1)
        wire = self._signer.seal(content, issued, ttl)
        self._signed[slot] = (content, issued, ttl, wire)
        if len(self._signed) > 2 * MAX_CONTENTS:
            for old in [s for s in self._signed if s not in self._slots and s != slot]:
                del self._signed[old]
                self._floors.pop(old, None)
        return wire

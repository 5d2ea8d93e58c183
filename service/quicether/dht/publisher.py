"""What this node says about itself, kept alive in the DHT. Pure.

Each content is signed and stored under each of its keys at the k nodes closest to it, and again
at half its TTL. The holders of the last time are told directly and without the certificate, which
they have. Each names nodes that should be holders too, so the k closest are followed without a
lookup; that is repeated when a quarter of the holders failed and when the network changed
(`republish`). In between, holders hand values on to newcomers.

Withdrawing stores a record with TTL 0 with the same holders at once, and a fresh lookup finds those
that were not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.contents import MAX_CONTENTS, NODE_TTL, Content, slot_of
from quicether.dht.core import Core
from quicether.dht.events import Published
from quicether.dht.lookup import Lookup
from quicether.dht.messages import KNOWN_BYTES, Store, Stored, StoreResult, batches
from quicether.dht.records import Record, Signer, without_certificate
from quicether.dht.search import Search
from quicether.errors import ConfigError
from quicether.model import NodeId

SETTLE: Final = 0.1
"""Seconds in which changes of one key gather before they are stored."""
MAX_NAMED: Final = 8
"""So many holders that others named are tried in one round."""
RETRY_AFTER: Final = 30.0
"""Seconds until a fresh lookup after too many holders failed, or were found by others."""
EARLY: Final = 120.0
"""Seconds from the first publication to the second. From then on four times as long, up to half
the TTL: a network that just came to be grows while it is published in."""
REUSE: Final = 5.0
"""A signature younger than this, in seconds, serves for all keys of a content."""


class _Place:
    """One key under which we publish.

    contents: by slot. leaving: what the next round withdraws.
    holders: who keeps our records, and whether they have our certificate. due: next publication.
    fresh: it begins with a lookup. lost, named: holders that failed and were found, this round.
    open: answers to wait for. early: seconds to the next round while the place is new.
    """

    __slots__ = (
        "again",
        "contents",
        "due",
        "early",
        "fresh",
        "holders",
        "leaving",
        "lost",
        "named",
        "open",
    )

    def __init__(self) -> None:
        self.contents: dict[bytes, Content] = {}
        self.leaving: dict[bytes, Content] = {}
        self.holders: dict[Contact, bool] = {}
        self.fresh = True
        self.early = EARLY
        self.lost = 0
        self.named = 0
        self.open = 0
        self.due = float("inf")
        self.again = False


class Publisher:
    """Publishes, renews and withdraws this node's records.

    keep: stores a record of our own here too, as the one holder that never fails us.
    """

    __slots__ = ("_core", "_id", "_keep", "_places", "_signed", "_signer", "_slots")

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
        self._places: dict[int, _Place] = {}
        self._slots: dict[bytes, Content] = {}
        self._signed: dict[bytes, tuple[Content, int, int, bytes]] = {}

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
            place = self._places.setdefault(key, _Place())
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
            place.leaving[slot] = content
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

    def _soon(self, key: int, place: _Place, when: float) -> None:
        if place.due > when:
            place.due = when
            self._core.schedule(when, self._run, key, place)

    def _run(self, key: int, place: _Place, now: float) -> None:
        if place.due > now or self._places.get(key) is not place:
            return
        place.due = float("inf")
        if place.open:
            place.again = True
            return
        # What is withdrawn while this round runs has to wait for the next.
        leaving, place.leaving = place.leaving, {}
        wires = self._wires(key, place, leaving, now)
        fresh = place.fresh or not place.holders or bool(leaving)
        place.fresh = False
        place.lost = place.named = 0
        told = set(place.holders) if leaving or not fresh else set()
        if told:
            self._store_all(key, place, place.holders, wires, now)
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
        place: _Place,
        wires: list[bytes],
        told: set[Contact],
        lookup: Lookup,
        now: float,
    ) -> None:
        closest = lookup.closest(K)
        missing = [contact for contact in closest if contact not in told]
        place.holders = {contact: place.holders.get(contact, False) for contact in closest}
        self._store_all(key, place, missing, wires, now)
        self._close(key, place, now)

    def _store_all(
        self, key: int, place: _Place, holders: Iterable[Contact], wires: list[bytes], now: float
    ) -> None:
        for contact in list(holders):
            self._store(key, place, contact, wires, now)

    def _store(
        self, key: int, place: _Place, contact: Contact, wires: list[bytes], now: float
    ) -> None:
        has_certificate = place.holders.get(contact, False)
        sent = [without_certificate(wire) for wire in wires] if has_certificate else wires

        def failed(at: float) -> None:
            # Only who kept our records before is a loss; others may be named that are long gone.
            place.lost += place.holders.pop(contact, False)
            if place.lost == K // 4:
                place.fresh = True
                self._soon(key, place, at + self._core.spread(RETRY_AFTER))
            self._close(key, place, at)

        known = b"".join(holder.wire[:KNOWN_BYTES] for holder in place.holders)

        def stored(answer: Stored, at: float) -> None:
            for named in answer.contacts:
                self._named(key, place, named, wires, at)
            needy = StoreResult.CERTIFICATE_NEEDED in answer.results
            if contact in place.holders:
                place.holders[contact] = not needy
            if needy and has_certificate:
                self._store(key, place, contact, wires, at)
            self._close(key, place, at)

        for batch in batches(sent):
            place.open += 1
            self._core.ask(contact, Store(key, batch, known), now, stored, failed)

    def _named(
        self, key: int, place: _Place, named: Contact, wires: list[bytes], now: float
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
        self._store(key, place, named, wires, now)

    def _close(self, key: int, place: _Place, now: float) -> None:
        place.open -= 1
        if place.open:
            return
        self._core.events.append(Published(key, len(place.holders) if place.contents else 0))
        if place.again:
            place.again = False
            self._soon(key, place, now)
        elif not place.contents and not place.leaving:
            self._places.pop(key, None)

    def _wires(
        self, key: int, place: _Place, leaving: dict[bytes, Content], now: float
    ) -> list[bytes]:
        wires = [self._seal(slot, c, self._ttl(c), now) for slot, c in place.contents.items()]
        wires += [self._seal(slot, c, 0, now) for slot, c in leaving.items()]
        for record in self._core.checked(key, wires, now):
            self._keep(key, record, now)
        return wires

    def _ttl(self, content: Content) -> int:
        return min(content.max_ttl, self._core.config.longest_ttl)

    def _seal(self, slot: bytes, content: Content, ttl: int, now: float) -> bytes:
        issued = int(self._core.wall(now) * 1000)
        last = self._signed.get(slot)
        if last is not None:
            same = last[0] == content and last[2] == ttl
            if same and 0 <= issued - last[1] < REUSE * 1000:
                return last[3]
            # A clock that was set back must not make us look older than our own last record.
            issued = max(issued, last[1] + 1)
        wire = self._signer.seal(content, issued, ttl)
        self._signed[slot] = (content, issued, ttl, wire)
        if len(self._signed) > 2 * MAX_CONTENTS:
            for old in [s for s in self._signed if s not in self._slots and s != slot]:
                del self._signed[old]
        return wire

"""All prefixes that the network advertises, kept up to date. Pure.

A node with `routes = auto` watches a few index keys (`keyspace.directory_keys`). How it learns of a
change within seconds while an idle network stays silent:

- It asks three holders of each key, with a cursor, and each remembers it for a lease of an hour and
  pushes what is new, changed or withdrawn (`watchers`). Three, so that one that died or lies (a
  fifth of all may) does not hide a change; the records are signed, so pushing makes nothing up. The
  watch is renewed at half the lease, which costs some hundred bytes.
- Which three differs from node to node, so that the watchers of a key spread over its holders. One
  that has no room grants no lease, and the next is asked.
- Renewed records are not pushed. They come with the next poll, from the first of the three alone.
- Polls come sooner when records are about to end (gateways live ten minutes). A record that is
  about to end all the same is looked up at several nodes before it is given up: then its owner is
  gone, and so is the prefix, at the latest when the record ends.
- Where no holder grants a lease, because very many watch, they are polled instead, after a minute
  at first, ever more rarely as nothing changes, every 15 minutes at last.
- Where the node is itself a holder, as in a small network, its own store tells it at once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from heapq import heapify, heappop, heappush
from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.contents import MAX_CONTENTS, RecordRefused
from quicether.dht.core import Core
from quicether.dht.events import GoneReason, RecordFound, RecordGone
from quicether.dht.lookup import Lookup
from quicether.dht.messages import Cursor, FindValue, Values
from quicether.dht.records import Record, certificate_of, claimed_slot, with_certificate
from quicether.dht.search import MAX_PAGES, Search
from quicether.model import DropReason, NodeId

HOLDERS: Final = 3
"""So many holders of a key are watched."""
CHOICE: Final = 16
"""They are chosen among so many closest nodes: fewer than the k that keep a value, because no two
nodes know quite the same k."""
SEARCH_WIDTH: Final = 5
"""So many closest nodes must answer a search for holders."""
SEARCH_EVERY: Final = 3600.0
"""Seconds after which the holders are looked for anew."""
MAX_ASKED: Final = 2 * CHOICE
SEARCH_RETRY: Final = 5.0
"""Seconds until holders are looked for when too few are left."""
DISMISSED: Final = 3.0
"""Seconds in which the watchers of a holder that is none any more look for another."""
SHORTEST_POLL: Final = 60.0
LONGEST_POLL: Final = 900.0
RESCUE: Final = 0.1
"""Share of its TTL that a record has left when it is looked up once more."""
RESCUE_EVERY: Final = 60.0
MAX_DIRECTORY: Final = 32_768
MAX_TOMBSTONES: Final = 4096
SLACK: Final = 64
"""So many outdated endings are kept beside as many as there are records."""


class _Holder:
    """A node that keeps a watched key. lease_end: until when it pushes, monotonic seconds."""

    __slots__ = ("asking", "contact", "cursor", "lease_end", "was_quiet")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.cursor: Cursor | None = None
        self.lease_end = 0.0
        self.was_quiet = False
        self.asking = False


class _Watch:
    """One watched key.

    holders: the first of them is asked for renewals too. others: who is asked in place of one that
    fails or grants no lease, in this order. asked: until when those who were asked may push, also
    those whose answer came too late. idle_poll: seconds between polls without any lease.
    """

    __slots__ = "asked", "due", "holders", "idle_poll", "others", "rescued", "searched", "searching"

    def __init__(self) -> None:
        self.holders: dict[int, _Holder] = {}
        self.others: deque[Contact] = deque()
        self.asked: OrderedDict[int, float] = OrderedDict()
        self.searching = False
        self.searched = -SEARCH_EVERY
        self.rescued = -RESCUE_EVERY
        self.idle_poll = SHORTEST_POLL
        self.due = float("inf")


class Directory:
    """The records under all watched keys. Tells `RecordFound` and `RecordGone`."""

    __slots__ = (
        "_core",
        "_ending_timer",
        "_endings",
        "_owned",
        "_records",
        "_tombstones",
        "_watches",
    )

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watches: dict[int, _Watch] = {}
        self._records: dict[bytes, Record] = {}
        self._owned: dict[bytes, int] = {}
        self._tombstones: OrderedDict[bytes, int] = OrderedDict()
        self._endings: list[tuple[float, bytes]] = []
        self._ending_timer = float("inf")

    @property
    def records(self) -> tuple[Record, ...]:
        """All live records of other nodes."""
        return tuple(self._records.values())

    def watch(self, key: int, now: float) -> None:
        """Begin to follow a key."""
        if key not in self._watches:
            watch = self._watches[key] = _Watch()
            for record in self._core.store.records(key, self._core.wall(now)):
                self.offer(key, record, now)
            self._poll_at(key, watch, now)

    def unwatch(self, key: int) -> None:
        """Follow a key no longer, and tell that its records are gone."""
        if self._watches.pop(key, None) is None:
            return
        for slot, record in list(self._records.items()):
            if not any(other in self._watches for other in record.keys):
                self._remove(slot)
                self._core.events.append(RecordGone(record, GoneReason.UNWATCHED))

    def refresh(self, now: float) -> None:
        """Look for the holders of all keys anew, because the network changed."""
        for key, watch in self._watches.items():
            watch.searched = -SEARCH_EVERY
            self._poll_at(key, watch, now + self._core.random.random())

    def offer(self, key: int, record: Record, now: float) -> None:
        """Take a checked record from wherever it came; what is not watched is passed over."""
        if key not in self._watches or record.owner.value == self._core.me.wire[:20]:
            return
        slot = record.slot
        known = self._records.get(slot)
        if known is not None and known.issued >= record.issued:
            return
        if record.withdraws:
            self._tombstones[slot] = max(record.issued, self._tombstones.get(slot, 0))
            if len(self._tombstones) > MAX_TOMBSTONES:
                self._tombstones.popitem(last=False)
            if known is not None:
                self._remove(slot)
                self._core.events.append(RecordGone(known, GoneReason.WITHDRAWN, record))
                self._watches[key].idle_poll = SHORTEST_POLL
            return
        if self._tombstones.get(slot, -1) >= record.issued:
            return
        owner = record.owner.value
        owned = self._owned.get(owner, 0)
        if known is None:
            if len(self._records) >= MAX_DIRECTORY or owned >= MAX_CONTENTS:
                self._core.counters.drop(DropReason.RECORD_LIMIT)
                return
            self._owned[owner] = owned + 1
        self._records[slot] = record
        if known is None or record.end < known.end:
            self._end_at(self._last_chance(record), slot)
        if known is None or known.content != record.content or known.member != record.member:
            self._core.events.append(RecordFound(record))
            self._watches[key].idle_poll = SHORTEST_POLL

    def told(self, peer: Contact, key: int, wires: tuple[bytes, ...], now: float) -> None:
        """Take what a holder pushes. From whom we asked for nothing, nothing is taken."""
        watch = self._watches.get(key)
        if watch is None or watch.asked.get(peer.key, now) <= now:
            self._core.counters.drop(DropReason.UNKNOWN_MESSAGE)
            return
        self.offer_wires(key, wires, now)
        if not wires and peer.key in watch.holders:
            # It is no holder any more: closer nodes joined. All its watchers hear that at once.
            del watch.holders[peer.key]
            watch.searched = -SEARCH_EVERY
            self._poll_at(key, watch, now + DISMISSED * self._core.random.random())

    def offer_wires(self, key: int, wires: tuple[bytes, ...], now: float) -> bool:
        """Check and take records from a holder; tell whether every certificate was at hand."""
        complete = True
        for wire in wires:
            whole = self._whole(wire)
            if whole is None:
                complete = False
                continue
            record = self._core.check(key, whole, now)
            if record is not None:
                self.offer(key, record, now)
        return complete

    def forget_owner(self, owner: NodeId) -> None:
        """Drop everything of a node that is no longer trusted."""
        for slot, record in list(self._records.items()):
            if record.owner == owner:
                self._remove(slot)
                self._core.events.append(RecordGone(record, GoneReason.DISTRUSTED))

    # -- polling ---------------------------------------------------------------------------

    def _poll_at(self, key: int, watch: _Watch, when: float) -> None:
        if watch.due > when:
            watch.due = when
            self._core.schedule(when, self._poll, key, watch)

    def _poll(self, key: int, watch: _Watch, now: float) -> None:
        if watch.due > now or self._watches.get(key) is not watch:
            return
        watch.due = float("inf")
        if now - watch.searched >= SEARCH_EVERY or len(watch.holders) < HOLDERS:
            self._search(key, watch, now)
        for rank, holder in enumerate(list(watch.holders.values())):
            # The wait is at most half the lease, so what has more than this left lasts till then.
            if rank == 0 or holder.lease_end - now < 0.6 * self._core.config.lease:
                self._ask(key, watch, holder, 0, now)
        self._poll_at(key, watch, now + self._core.spread(self._wait(key, watch, now)))

    def _wait(self, key: int, watch: _Watch, now: float) -> float:
        leases = [h.lease_end - now for h in watch.holders.values() if h.lease_end > now]
        if leases:
            wait = self._core.config.lease / 2
        else:
            wait = watch.idle_poll
            watch.idle_poll = min(LONGEST_POLL, 1.5 * wait)
        wall = self._core.wall(now)
        for record in self._records.values():
            if key in record.keys:
                wait = min(wait, (record.end - record.ttl * RESCUE - wall) / 2)
        return max(SHORTEST_POLL, wait)

    def _search(self, key: int, watch: _Watch, now: float) -> None:
        if watch.searching:
            return
        watch.searching = True
        seeds = [holder.contact for holder in watch.holders.values()]

        def found(lookup: Lookup, at: float) -> None:
            self._found(key, watch, lookup, at)

        Search(self._core, key, found, width=SEARCH_WIDTH, seeds=seeds).start(now)

    def _found(self, key: int, watch: _Watch, lookup: Lookup, now: float) -> None:
        watch.searching = False
        if self._watches.get(key) is not watch:
            return
        watch.searched = now
        near = {contact.key: contact for contact in lookup.nearest(CHOICE)}
        watch.holders = {key: holder for key, holder in watch.holders.items() if key in near}
        order = sorted(near.values(), key=self._lot)
        watch.others = deque(c for c in order if c.key not in watch.holders)
        self._fill(key, watch, now)

    def _fill(self, key: int, watch: _Watch, now: float) -> None:
        """Ask further nodes until there are enough holders or nobody is left."""
        while watch.others and len(watch.holders) < HOLDERS:
            holder = _Holder(watch.others.popleft())
            watch.holders[holder.contact.key] = holder
            self._ask(key, watch, holder, 0, now)

    def _lot(self, holder: Contact) -> bytes:
        """Return by what a holder is chosen: chance, but the same in every search."""
        return hashlib.sha256(self._core.me.wire[:20] + holder.wire[:20]).digest()

    def _ask(self, key: int, watch: _Watch, holder: _Holder, page: int, now: float) -> None:
        if holder.asking:
            return
        holder.asking = True
        first = next(iter(watch.holders))
        quiet = holder.contact.key != first and holder.cursor is not None
        if holder.was_quiet and not quiet:
            # It takes the first's place: renewals that it was not asked for are missing.
            holder.cursor = None
        holder.was_quiet = quiet
        question = FindValue(key, 0, holder.cursor, watch=True, quiet=quiet)
        watch.asked[holder.contact.key] = now + self._core.config.lease
        watch.asked.move_to_end(holder.contact.key)
        if len(watch.asked) > MAX_ASKED:
            watch.asked.popitem(last=False)

        def failed(at: float) -> None:
            holder.asking = False
            if watch.holders.get(holder.contact.key) is holder:
                self._replace(key, watch, holder, at)

        def answered(answer: Values, at: float) -> None:
            holder.asking = False
            self._answered(key, watch, holder, answer, page, at)

        self._core.ask(holder.contact, question, now, answered, failed)

    def _answered(
        self, key: int, watch: _Watch, holder: _Holder, answer: Values, page: int, now: float
    ) -> None:
        if self._watches.get(key) is not watch:
            return
        complete = self.offer_wires(key, answer.records, now)
        holder.cursor = answer.cursor if complete else None
        holder.lease_end = now + answer.lease if answer.lease else 0.0
        if (answer.more or not complete) and page < MAX_PAGES:
            self._ask(key, watch, holder, page + 1, now)
        elif not answer.lease and watch.others and watch.holders.get(holder.contact.key) is holder:
            self._replace(key, watch, holder, now)

    def _replace(self, key: int, watch: _Watch, holder: _Holder, now: float) -> None:
        """Watch another holder in place of one that failed or has no room."""
        del watch.holders[holder.contact.key]
        self._fill(key, watch, now)
        if len(watch.holders) < HOLDERS:
            self._poll_at(key, watch, now + SEARCH_RETRY)

    def _whole(self, wire: bytes) -> bytes | None:
        try:
            if certificate_of(wire):
                return wire
            known = self._records.get(claimed_slot(wire))
        except RecordRefused as refusal:
            self._core.counters.drop(refusal.reason)
            return wire
        return None if known is None else with_certificate(wire, certificate_of(known.wire))

    def _remove(self, slot: bytes) -> None:
        owner = self._records.pop(slot).owner.value
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]

    # -- ending ----------------------------------------------------------------------------

    def _last_chance(self, record: Record) -> float:
        return record.end - record.ttl * RESCUE - self._core.clock_offset

    def _end_at(self, when: float, slot: bytes) -> None:
        heappush(self._endings, (when, slot))
        if len(self._endings) > 2 * len(self._records) + SLACK:
            # What came and went left its entries behind.
            self._endings = [(self._last_chance(r), slot) for slot, r in self._records.items()]
            heapify(self._endings)
        if when < self._ending_timer:
            self._ending_timer = when
            self._core.schedule(when, self._end)

    def _end(self, now: float) -> None:
        if now < self._ending_timer:
            return
        self._ending_timer = float("inf")
        wall = self._core.wall(now)
        while self._endings and self._endings[0][0] <= now:
            _, slot = heappop(self._endings)
            record = self._records.get(slot)
            if record is None:
                continue
            last_chance = self._last_chance(record)
            if record.end <= wall:
                self._remove(slot)
                self._core.events.append(RecordGone(record, GoneReason.EXPIRED))
            elif last_chance <= now:
                self._rescue(record, now)
                heappush(self._endings, (record.end - self._core.clock_offset, slot))
            else:
                heappush(self._endings, (last_chance, slot))
        if self._endings:
            # At least a millisecond on: the clock that records go by may have been set back.
            when = max(self._endings[0][0], now + 0.001)
            self._ending_timer = when
            self._core.schedule(when, self._end)

    def _rescue(self, record: Record, now: float) -> None:
        for key in record.keys:
            watch = self._watches.get(key)
            if watch is None or now - watch.rescued < RESCUE_EVERY:
                continue
            watch.rescued = now

            def found(lookup: Lookup, at: float, key: int = key) -> None:
                for fresh in lookup.records.values():
                    self.offer(key, fresh, at)

            quorum = self._core.config.quorum
            Search(self._core, key, found, quorum=quorum).start(now)

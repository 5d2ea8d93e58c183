"""All prefixes that the network advertises, kept up to date. Pure.

A node with `routes = auto` watches a few index keys (`keyspace.directory_keys`). How it learns of a
change within seconds while an idle network stays silent:

- It asks the three holders closest to each key, with a cursor, and each remembers it for a lease of
  30 minutes and pushes what is new, changed or withdrawn (`watchers`). Three, so that one that died
  or lies (a fifth of all may) does not hide a change; the records are signed, so pushing makes
  nothing up. The watch is renewed at half the lease, which costs some hundred bytes.
- Renewed records are not pushed. They come with the next poll, from the first of the three alone.
- Polls come sooner when records are about to end (gateways live ten minutes). A record that is
  about to end all the same is looked up at several nodes before it is given up: then its owner is
  gone, and so is the prefix, at the latest when the record ends.
- A holder of a key that very many watch grants no lease. It is polled instead, after a minute at
  first, ever more rarely as nothing changes, every 15 minutes at last.
- Where the node is itself a holder, as in a small network, its own store tells it at once.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.contents import RecordRefused
from quicether.dht.core import Core
from quicether.dht.events import GoneReason, RecordFound, RecordGone
from quicether.dht.lookup import Lookup
from quicether.dht.messages import Cursor, FindValue, Values
from quicether.dht.records import Record, certificate_of, claimed_slot, with_certificate
from quicether.dht.search import MAX_PAGES, Search
from quicether.model import DropReason, NodeId

HOLDERS: Final = 3
"""So many holders of a key are watched."""
SEARCH_WIDTH: Final = 5
"""So many closest nodes must answer a search for holders."""
SEARCH_EVERY: Final = 3600.0
"""Seconds after which the holders are looked for anew."""
SEARCH_RETRY: Final = 5.0
"""Seconds until a missing holder is replaced."""
SHORTEST_POLL: Final = 60.0
LONGEST_POLL: Final = 900.0
RESCUE: Final = 0.1
"""Share of its TTL that a record has left when it is looked up once more."""
RESCUE_EVERY: Final = 60.0
MAX_DIRECTORY: Final = 32_768
MAX_TOMBSTONES: Final = 4096


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
    """One watched key. idle_poll: seconds between polls where no holder grants a lease."""

    __slots__ = ("due", "holders", "idle_poll", "rescued", "searched", "searching")

    def __init__(self) -> None:
        self.holders: dict[int, _Holder] = {}
        self.searching = False
        self.searched = -SEARCH_EVERY
        self.rescued = -RESCUE_EVERY
        self.idle_poll = SHORTEST_POLL
        self.due = float("inf")


class Directory:
    """The records under all watched keys. Tells `RecordFound` and `RecordGone`."""

    __slots__ = ("_core", "_ending_timer", "_endings", "_records", "_tombstones", "_watches")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watches: dict[int, _Watch] = {}
        self._records: dict[bytes, Record] = {}
        self._tombstones: OrderedDict[bytes, int] = OrderedDict()
        self._endings: list[tuple[float, bytes]] = []
        self._ending_timer = float("inf")

    @property
    def records(self) -> tuple[Record, ...]:
        """All live records of other nodes."""
        return tuple(self._records.values())

    def watches(self, key: int) -> bool:
        """Tell whether key is watched."""
        return key in self._watches

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
                del self._records[slot]
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
                del self._records[slot]
                self._core.events.append(RecordGone(known, GoneReason.WITHDRAWN, record))
                self._watches[key].idle_poll = SHORTEST_POLL
            return
        if self._tombstones.get(slot, -1) >= record.issued:
            return
        if known is None and len(self._records) >= MAX_DIRECTORY:
            self._core.counters.drop(DropReason.RECORD_LIMIT)
            return
        self._records[slot] = record
        if known is None:
            self._end_at(record.end - record.ttl * RESCUE - self._core.clock_offset, slot)
        if known is None or known.content != record.content or known.member != record.member:
            self._core.events.append(RecordFound(record))
            self._watches[key].idle_poll = SHORTEST_POLL

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
                del self._records[slot]
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
        for holder in list(watch.holders.values()):
            self._ask(key, watch, holder, 0, now)
        self._poll_at(key, watch, now + self._core.spread(self._wait(key, watch, now)))

    def _wait(self, key: int, watch: _Watch, now: float) -> float:
        leases = [h.lease_end - now for h in watch.holders.values() if h.lease_end > now]
        if leases:
            wait = min(LONGEST_POLL, self._core.config.lease / 2)
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
        closest = lookup.closest(HOLDERS)
        old = watch.holders
        watch.holders = {c.key: old.get(c.key) or _Holder(c) for c in closest}
        for holder in watch.holders.values():
            if holder.contact.key not in old:
                self._ask(key, watch, holder, 0, now)

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

        def failed(at: float) -> None:
            holder.asking = False
            if watch.holders.pop(holder.contact.key, None) is not None:
                self._poll_at(key, watch, at + SEARCH_RETRY)

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

    def _whole(self, wire: bytes) -> bytes | None:
        try:
            if certificate_of(wire):
                return wire
            known = self._records.get(claimed_slot(wire))
        except RecordRefused as refusal:
            self._core.counters.drop(refusal.reason)
            return wire
        return None if known is None else with_certificate(wire, certificate_of(known.wire))

    # -- ending ----------------------------------------------------------------------------

    def _end_at(self, when: float, slot: bytes) -> None:
        heappush(self._endings, (when, slot))
        if when < self._ending_timer:
            self._ending_timer = when
            self._core.schedule(when, self._end)

    def _end(self, now: float) -> None:
        self._ending_timer = float("inf")
        wall = self._core.wall(now)
        while self._endings and self._endings[0][0] <= now:
            _, slot = heappop(self._endings)
            record = self._records.get(slot)
            if record is None:
                continue
            last_chance = record.end - record.ttl * RESCUE
            if record.end <= wall:
                del self._records[slot]
                self._core.events.append(RecordGone(record, GoneReason.EXPIRED))
            elif last_chance <= wall:
                self._rescue(record, now)
                heappush(self._endings, (record.end - self._core.clock_offset, slot))
            else:
                heappush(self._endings, (last_chance - self._core.clock_offset, slot))
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

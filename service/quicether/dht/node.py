"""The DHT machine of one node. Pure: bytes and the time in, bytes, timers and events out.

The driver owns the connections and the clock:

    node = DhtNode(me, network_id, verifier, signer, counters, random, clock_offset)
    answer = node.handle_request(peer, body, now)     when a peer asks
    node.response(call, body, now)                    when an answer to a SendRequest arrives
    node.failed(call, now)                            when none will
    node.handle_timers(now)                           when node.next_timer() is reached
    for event in node.poll(): ...                     after every one of these calls

`now` is always monotonic seconds. `now + clock_offset` is the time in seconds since 1970 that
records go by; after the host's clock was set the driver changes `node.clock_offset`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from quicether.counters import Counters
from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.contents import Content
from quicether.dht.core import Core, DhtConfig
from quicether.dht.directory import Directory
from quicether.dht.entropy import Entropy
from quicether.dht.events import BootstrapWanted, Event, Joined, LookupDone
from quicether.dht.handover import Handover
from quicether.dht.keyspace import bucket_index
from quicether.dht.lookup import Lookup
from quicether.dht.messages import FindNode, Nodes
from quicether.dht.publisher import Publisher
from quicether.dht.records import Record, Signer, Verifier
from quicether.dht.responder import Responder
from quicether.dht.search import Search
from quicether.dht.watchers import Watchers
from quicether.errors import UnreachableError
from quicether.model import NodeId

MAX_LOOKUPS: Final = 128
"""Lookups for the driver that run at once; the data path asks for more only by misfortune."""
JOIN_RETRY: Final = 2.0
"""Seconds until a join that reached nobody is tried again; doubled up to a minute."""
JOIN_RETRY_MAX: Final = 60.0
REJOIN_PAUSE: Final = 30.0
"""At most one rejoin in so many seconds."""
EXPIRE_EVERY: Final = 60.0
_NEAR_WIDTH: Final = 4


class DhtNode:
    """One node of the DHT."""

    __slots__ = (
        "_core",
        "_directory",
        "_handover",
        "_join_wait",
        "_joined",
        "_joining",
        "_last_join",
        "_lookup_count",
        "_lookups",
        "_publisher",
        "_refreshing",
        "_responder",
    )

    def __init__(
        self,
        me: Contact,
        network_id: bytes,
        verifier: Verifier,
        signer: Signer,
        counters: Counters,
        random: Entropy,
        clock_offset: float,
        config: DhtConfig | None = None,
    ) -> None:
        """Make a node that knows nobody yet.

        me: our own NodeId; its endpoints are told to nobody, peers see where we come from.
        random: `random.SystemRandom()`, or seeded in the simulator. clock_offset: see the module.
        """
        core = Core(me, network_id, verifier, config or DhtConfig(), random, counters, clock_offset)
        self._core = core
        self._directory = Directory(core)
        watchers = Watchers(core)
        self._handover = Handover(core, watchers)
        self._responder = Responder(core, self._directory, watchers)
        self._publisher = Publisher(core, me.node_id, signer, self._responder.keep)
        self._joined = False
        self._joining = False
        self._join_wait = JOIN_RETRY
        self._last_join = -REJOIN_PAUSE
        self._lookup_count = 0
        self._lookups: set[int] = set()
        self._refreshing: set[int] = set()
        core.on_newcomer = self._newcomer
        core.on_return = self._returned

    # -- what the driver calls -------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin: ask for bootstrap contacts and set the regular timers."""
        core = self._core
        core.schedule(now, self._want_bootstrap)
        core.schedule(now + core.spread(EXPIRE_EVERY), self._expire)

    def handle_request(self, peer: Contact, body: bytes, now: float) -> bytes:
        """Return the answer to the request of an authenticated peer.

        peer: the NodeId that its certificate proves, and where it is.
        Raises ProtocolError: the request is malformed; the stream should be reset.
        """
        return self._responder.handle(peer, body, now)

    def response(self, call: int, body: bytes, now: float) -> None:
        """Take the answer to a SendRequest. A late one, after `failed`, is passed over."""
        self._core.response(call, body, now)

    def failed(self, call: int, now: float) -> None:
        """Take note that a SendRequest was not answered in time, or cannot be sent."""
        self._core.failed(call, now)

    def add_contact(self, contact: Contact, now: float) -> None:
        """Take note of a connected peer: a bootstrap node, one of the last run, any member."""
        self._core.seen(contact, now)

    def next_timer(self) -> float | None:
        """Return when `handle_timers` is due, monotonic seconds; None when never."""
        return self._core.next_timer

    def handle_timers(self, now: float) -> None:
        """Do what is due."""
        self._core.run_timers(now)

    def poll(self) -> list[Event]:
        """Return what happened and what is to be done, in order, once."""
        events = self._core.events
        if events:
            self._core.events = []
        return events

    @property
    def clock_offset(self) -> float:
        """Seconds since 1970 less monotonic seconds."""
        return self._core.clock_offset

    @clock_offset.setter
    def clock_offset(self, seconds: float) -> None:
        self._core.clock_offset = seconds

    # -- what this node says ---------------------------------------------------------------

    def publish(self, content: Content, now: float) -> None:
        """Publish a content and keep it alive. Raises ConfigError: too many."""
        self._publisher.publish(content, now)

    def withdraw(self, content: Content, now: float) -> None:
        """Take a published content back, everywhere, at once."""
        self._publisher.withdraw(content, now)

    def renew_signatures(self, now: float) -> None:
        """Publish everything anew after our certificate was replaced."""
        self._publisher.renew_signatures(now)

    @property
    def published(self) -> tuple[Content, ...]:
        """What this node publishes now."""
        return self._publisher.contents

    # -- what this node asks ---------------------------------------------------------------

    def find(self, key: int, now: float) -> int:
        """Look for the values under a key; LookupDone with the returned number follows.

        Raises UnreachableError: too many lookups run already.
        """
        if len(self._lookups) >= MAX_LOOKUPS:
            raise UnreachableError(f"{MAX_LOOKUPS} DHT lookups run already; this one has to wait")
        self._lookup_count += 1
        number = self._lookup_count
        self._lookups.add(number)

        def found(lookup: Lookup, at: float) -> None:
            self._lookups.discard(number)
            wall = self._core.wall(at)
            # Judged again: an owner may have been revoked while its record was collected.
            wires = (record.wire for record in lookup.records.values())
            records = self._core.checked(key, wires, at)
            for record in records:
                for place in record.keys:
                    # A lookup may know better than the holders that are watched.
                    self._directory.offer(place, record, at)
            self._core.events.append(
                LookupDone(
                    number,
                    key,
                    tuple(_live(records, wall)),
                    tuple(record for record in records if record.withdraws),
                    tuple(lookup.closest(K)),
                    lookup.hops,
                    lookup.asked,
                    lookup.failed_count,
                )
            )

        Search(self._core, key, found, quorum=self._core.config.quorum).start(now)
        return number

    def watch(self, key: int, now: float) -> None:
        """Follow all records under an index key: RecordFound, RecordGone."""
        self._directory.watch(key, now)

    def unwatch(self, key: int) -> None:
        """Follow a key no longer; RecordGone follows for its records."""
        self._directory.unwatch(key)

    @property
    def directory(self) -> tuple[Record, ...]:
        """All live records under the watched keys."""
        return self._directory.records

    # -- trust -----------------------------------------------------------------------------

    def forget_node(self, node_id: NodeId, now: float) -> None:
        """Drop a revoked node: its records, its place in the buckets, what it stored here."""
        core = self._core
        core.verifier.forget(node_id)
        core.store.forget_owner(node_id)
        self._directory.forget_owner(node_id)
        core.forget_contact(int.from_bytes(node_id.value))

    # -- for status and the cache of peers ---------------------------------------------------

    def contacts(self) -> list[Contact]:
        """Return the live contacts, most recently seen first: what to cache on disk."""
        entries = sorted(self._core.table, key=lambda entry: -entry.seen)
        return [entry.contact for entry in entries if not entry.failures]

    @property
    def stored_values(self) -> int:
        """How many values are kept here."""
        return len(self._core.store)

    @property
    def joined(self) -> bool:
        """Whether the network has been found."""
        return self._joined

    # -- joining ---------------------------------------------------------------------------

    def _want_bootstrap(self, now: float) -> None:
        core = self._core
        alive = core.has_live_contact()
        core.events.append(BootstrapWanted(urgent=not alive))
        if alive:
            wait = core.config.refresh
            self._join_wait = JOIN_RETRY
        else:
            wait = self._join_wait
            self._join_wait = min(JOIN_RETRY_MAX, 2 * wait)
        core.schedule(now + core.spread(wait), self._want_bootstrap)

    def _newcomer(self, contact: Contact, now: float) -> None:
        core = self._core
        index = bucket_index(contact.key, core.me.key)
        if index not in self._refreshing:
            self._refreshing.add(index)
            core.schedule(now + core.spread(core.config.refresh), self._refresh, index)
        if not self._joined:
            self._join(now)
        self._handover.add(contact, now)

    def _returned(self, contact: Contact, now: float) -> None:
        """Join again, because we were cut off, alone or with a part of the network."""
        if now - self._last_join >= REJOIN_PAUSE:
            self._join(now, contact)

    def _join(self, now: float, *through: Contact) -> None:
        if self._joining:
            return
        self._joining = True
        self._last_join = now
        Search(self._core, self._core.me.key, self._found_ourselves, seeds=through).start(now)

    def _found_ourselves(self, lookup: Lookup, now: float) -> None:
        self._joining = False
        core = self._core
        nearest = lookup.closest(1)
        if not nearest:
            if not self._joined and len(core.table):
                # Whoever we asked may only have been slow, and is no newcomer a second time.
                core.schedule(now + core.spread(JOIN_RETRY), self._join)
            return
        # Buckets farther away than the closest neighbour (Kademlia, section 2.3); nearer ones
        # can hold nobody whom this lookup has not met.
        first = bucket_index(nearest[0].key, core.me.key)
        for index in range(first + 1, self._farthest() + 1):
            target = core.random_key_in_bucket(index)
            Search(core, target, _ignore, width=_NEAR_WIDTH).start(now)
        if not self._joined:
            self._joined = True
            core.events.append(Joined(len(core.table)))
        self._publisher.republish(now)
        self._directory.refresh(now)

    def _farthest(self) -> int:
        return max(self._core.table.buckets, default=0)

    # -- upkeep ----------------------------------------------------------------------------

    def _refresh(self, index: int, now: float) -> None:
        core = self._core
        core.schedule(now + core.spread(core.config.refresh), self._refresh, index)
        bucket = core.table.buckets.get(index)
        live = [e for e in bucket.entries.values() if not e.failures] if bucket else []
        if bucket is None or not live:
            return
        # The least recently seen is asked, which shows whether it is alive, and so is the next.
        if len(live) > 1 and now - live[1].seen > core.config.refresh / 2:
            core.ping(live[1].contact, now)
        missing = K - len(bucket.entries)
        if not missing:
            core.ping(live[0].contact, now)
            return

        def named(answer: Nodes, at: float) -> None:
            self._meet(index, answer, missing, at)

        question = FindNode(core.random_key_in_bucket(index))
        core.ask(live[0].contact, question, now, named, _no_failure)

    def _meet(self, index: int, answer: Nodes, missing: int, now: float) -> None:
        core = self._core
        for contact in answer.contacts:
            if missing <= 0:
                break
            if (
                bucket_index(contact.key, core.me.key) == index
                and core.table.get(contact.key) is None
            ):
                missing -= 1
                core.ping(contact, now)

    def _expire(self, now: float) -> None:
        core = self._core
        core.store.expire(core.wall(now))
        core.schedule(now + core.spread(EXPIRE_EVERY), self._expire)


def _live(records: Iterable[Record], wall: float) -> Iterable[Record]:
    return (record for record in records if not record.withdraws and record.end > wall)


def _ignore(_lookup: Lookup, _now: float) -> None:
    """The routing table took note of all who answered."""


def _no_failure(_now: float) -> None:
    """The routing table took note already."""

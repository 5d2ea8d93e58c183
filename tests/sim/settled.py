"""How lookups grow with the network: real routing tables and lookups, for sizes beyond churn.

A network of 100,000 machines takes hours to grow one join at a time. Once it has settled, what a
node's buckets hold is known without that: of every distance as many of the nodes there are as the
bucket takes, and all of the nearest. So the tables are filled from the list of all nodes, when one
is first asked, and lookups walk over them with the code that the daemon uses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from quicether.dht.buckets import K, RoutingTable
from quicether.dht.contact import Contact
from quicether.dht.core import DhtConfig
from quicether.dht.keyspace import KEY_BITS
from quicether.dht.lookup import Lookup
from quicether.model import NODE_ID_BYTES
from sim.report import percentile


def contacts_of(key: int, keys: Sequence[int], random: Random) -> Iterator[int]:
    """Yield the nodes that are in a settled node's buckets. keys: all nodes there are, sorted."""
    first, last = 0, len(keys)
    for index in reversed(range(KEY_BITS)):
        if last - first <= 1:
            break
        # All of [first, last) agree with key above this bit; half of them do not in it.
        middle = bisect_left(keys, (key >> index | 1) << index, first, last)
        if key >> index & 1:
            others, first = range(first, middle), middle
        else:
            others, last = range(middle, last), middle
        for at in random.sample(others, min(K, len(others))):
            yield keys[at]


@dataclass(slots=True)
class Growth:
    """What the lookups of one network took. hops: to the first value, sorted. nodes: its size."""

    nodes: int
    hops: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    missed: int = 0

    def figures(self) -> dict[str, Any]:
        """Return the figures that count, for a table or JSON."""
        return {
            "nodes": self.nodes,
            "lookups": len(self.hops) + self.missed,
            "missed": self.missed,
            "hops median": percentile(self.hops, 50),
            "hops p99": percentile(self.hops, 99),
            "asked median": percentile(self.asked, 50),
            "asked p99": percentile(self.asked, 99),
        }


class SettledNetwork:
    """Nodes that have known each other for long. gone: share of contacts that are no more.

    Their holes are still in the buckets of others, which no bucket refresh has found yet.
    """

    def __init__(self, nodes: int, seed: int = 1, gone: float = 0.0) -> None:
        self._random = Random(seed)
        self._keys = sorted(self._random.getrandbits(KEY_BITS) for _ in range(nodes))
        self._gone = {key for key in self._keys if self._random.random() < gone}
        self._tables: dict[int, RoutingTable] = {}

    def measure(self, lookups: int, progress: Callable[[float], None] | None = None) -> Growth:
        """Look random values up, each from a random node. progress: told the share that is done."""
        growth = Growth(len(self._keys))
        alive = [key for key in self._keys if key not in self._gone]
        for number in range(lookups):
            found = self._look_up(self._random.choice(alive), self._random.getrandbits(KEY_BITS))
            growth.asked.append(found.asked)
            if found.givers:
                growth.hops.append(found.hops)
            else:
                growth.missed += 1
            if progress is not None:
                progress((number + 1) / lookups)
        growth.hops.sort()
        growth.asked.sort()
        return growth

    def _look_up(self, asker: int, target: int) -> Lookup:
        """Play one lookup for values; what is asked is answered in turn."""
        holders = self._closest(target)
        holders.discard(asker)
        seeds = self._table(asker).closest(target)
        lookup = Lookup(target, asker, seeds, K, DhtConfig().quorum)
        asked: deque[Contact] = deque()
        while True:
            asked.extend(lookup.next_questions(0.0))
            if not asked:
                return lookup
            contact = asked.popleft()
            if contact.key in self._gone:
                lookup.failed(contact)
                continue
            lookup.answered(contact, self._table(contact.key).closest(target, exclude=asker))
            if contact.key in holders:
                lookup.gave(contact, ())

    def _table(self, key: int) -> RoutingTable:
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = RoutingTable(key)
            for known in contacts_of(key, self._keys, self._random):
                table.seen(Contact(known.to_bytes(NODE_ID_BYTES)), 0.0)
        return table

    def _closest(self, target: int) -> set[int]:
        """Return the k nodes closest to a target: those that hold its values."""
        length = KEY_BITS
        while len(self._block(target, length)) >= 2 * K:
            length -= 1
        # That is too narrow to hold them all; the next wider block does, and nobody outside of it
        # is closer.
        return set(sorted(self._block(target, length + 1), key=lambda key: key ^ target)[:K])

    def _block(self, target: int, length: int) -> list[int]:
        """Return all nodes that differ from a target in the last bits alone, length of them."""
        low = target >> length << length
        first = bisect_left(self._keys, low)
        return self._keys[first : bisect_left(self._keys, low + (1 << length), first)]

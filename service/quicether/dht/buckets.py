"""The routing table of the DHT: k-buckets with least-recently-seen eviction. Pure.

A node enters a bucket only after it proved itself: it answered, or it asked over an authenticated
connection. The oldest contacts stay as long as they answer, because who has been up for long is
likely to stay. A full bucket keeps the newcomer in a small replacement cache instead and has its
least recently seen contact pinged; five failed pings in a row evict, and the newest of the cache
moves in. A contact that failed once is no longer told to others until it answers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from quicether.dht.contact import Contact

K: Final = 20
"""Contacts in a bucket, holders of a value, contacts in an answer."""
MAX_FAILURES: Final = 5
"""So many failed pings in a row evict a contact."""
REPLACEMENTS: Final = 8
"""Newcomers that a full bucket remembers."""


class Entry:
    """A contact in a bucket.

    seen: when it last proved to be alive, monotonic seconds. failures: pings without an answer
    since then. failed: when the last of them was given up, monotonic seconds. retrying: whether a
    ping after a failure is due already.
    """

    __slots__ = ("contact", "failed", "failures", "retrying", "seen")

    def __init__(self, contact: Contact, seen: float) -> None:
        self.contact = contact
        self.seen = seen
        self.failures = 0
        self.failed = float("-inf")
        self.retrying = False


class Bucket:
    """The contacts whose highest bit of difference from us is the same.

    entries: least recently seen first, at most k. touched: when it was last refreshed.
    """

    __slots__ = ("entries", "replacements", "touched")

    def __init__(self, now: float) -> None:
        self.entries: dict[int, Entry] = {}
        self.replacements: dict[int, Contact] | None = None
        self.touched = now

    def oldest(self) -> Entry:
        """Return the entry that was seen least recently."""
        return next(iter(self.entries.values()))


class RoutingTable:
    """All buckets of one node. Bounded: 160 buckets of k contacts and 8 replacements."""

    __slots__ = ("_buckets", "me")

    def __init__(self, me: int) -> None:
        self.me = me
        self._buckets: dict[int, Bucket] = {}

    def __len__(self) -> int:
        return sum(len(bucket.entries) for bucket in self._buckets.values())

    def __iter__(self) -> Iterator[Entry]:
        for bucket in self._buckets.values():
            yield from bucket.entries.values()

    @property
    def buckets(self) -> dict[int, Bucket]:
        """The buckets that were ever used, by the highest bit of difference."""
        return self._buckets

    def get(self, key: int) -> Entry | None:
        """Return the entry of a node, None when it is in no bucket."""
        bucket = self._buckets.get((key ^ self.me).bit_length() - 1)
        return None if bucket is None else bucket.entries.get(key)

    def seen(self, contact: Contact, now: float) -> tuple[bool, Entry | None]:
        """Take note that a node is alive.

        Returns whether it is new in its bucket, and, when the bucket was too full to take it, the
        entry that should be pinged to make room.
        """
        key = contact.key
        index = (key ^ self.me).bit_length() - 1
        if index < 0:
            return False, None
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = Bucket(now)
        entry = bucket.entries.pop(key, None)
        if entry is not None:
            entry.contact = entry.contact.merged(contact)
            entry.seen = now
            entry.failures = 0
            bucket.entries[key] = entry
            return False, None
        if len(bucket.entries) < K:
            self._enter(bucket, contact, now)
            return True, None
        if bucket.replacements is None:
            bucket.replacements = {}
        bucket.replacements.pop(key, None)
        bucket.replacements[key] = contact
        if len(bucket.replacements) > REPLACEMENTS:
            del bucket.replacements[next(iter(bucket.replacements))]
        return False, bucket.oldest()

    def failed(self, key: int, asked: float, now: float) -> Contact | None:
        """Count a ping that was not answered; return the contact if that evicts it.

        asked: when it was sent. Of several that were under way at one time only the first counts:
        together they prove no more than that the node did not answer then.
        In a bucket with a replacement at hand the fifth failure evicts as in any other.
        """
        bucket = self._buckets.get((key ^ self.me).bit_length() - 1)
        entry = None if bucket is None else bucket.entries.get(key)
        if bucket is None or entry is None:
            if bucket is not None and bucket.replacements:
                bucket.replacements.pop(key, None)
            return None
        if asked < entry.failed:
            return None
        entry.failures += 1
        entry.failed = now
        if entry.failures < MAX_FAILURES:
            return None
        del bucket.entries[key]
        if bucket.replacements:
            _, newest = bucket.replacements.popitem()
            self._enter(bucket, newest, now)
        return entry.contact

    def forget(self, key: int) -> None:
        """Take a node out at once, because it is no longer trusted."""
        bucket = self._buckets.get((key ^ self.me).bit_length() - 1)
        if bucket is not None:
            bucket.entries.pop(key, None)
            if bucket.replacements:
                bucket.replacements.pop(key, None)

    def closest(self, target: int, count: int = K, exclude: int = -1) -> list[Contact]:
        """Return the live contacts closest to target, closest first, at most count.

        Contacts whose last ping failed are left out. exclude: the asker's own key.
        """
        found: list[Contact] = []
        index = (target ^ self.me).bit_length() - 1
        # Seen from target, distances fall into three bands: the bucket that shares target's
        # highest differing bit, then all lower buckets together, then the higher ones in turn.
        if index >= 0 and index in self._buckets:
            self._take(found, [index], target, count, exclude)
        if len(found) < count:
            lower = [i for i in self._buckets if i < index]
            self._take(found, lower, target, count, exclude)
        if len(found) < count:
            for higher in sorted(i for i in self._buckets if i > index):
                self._take(found, [higher], target, count, exclude)
                if len(found) >= count:
                    break
        return found

    def closer_than_us(self, target: int, count: int = K) -> list[Contact]:
        """Return live contacts that are closer to target than we are, in no order, at most count.

        A contact differs from us first in the bit that names its bucket. It is closer than us
        exactly when target differs from us in that bit too.
        """
        found: list[Contact] = []
        distance = target ^ self.me
        for index, bucket in self._buckets.items():
            if distance >> index & 1:
                for entry in bucket.entries.values():
                    if not entry.failures:
                        found.append(entry.contact)
                        if len(found) == count:
                            return found
        return found

    def _take(
        self, found: list[Contact], indices: list[int], target: int, count: int, exclude: int
    ) -> None:
        live = [
            (key ^ target, entry.contact)
            for index in indices
            for key, entry in self._buckets[index].entries.items()
            if not entry.failures and key != exclude
        ]
        wanted = count - len(found)
        live.sort(key=_distance)
        found += [contact for _, contact in live[:wanted]]

    def _enter(self, bucket: Bucket, contact: Contact, now: float) -> None:
        if bucket.replacements:
            bucket.replacements.pop(contact.key, None)
        bucket.entries[contact.key] = Entry(contact, now)


def _distance(pair: tuple[int, Contact]) -> int:
    return pair[0]

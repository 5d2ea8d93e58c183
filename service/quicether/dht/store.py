"""The values that a node keeps for others: records by key and slot, bounded, expiring. Pure.

Where a key is full, its owners share it fairly: who has less under it than another takes the place
of one of the other's.

A record replaces an older one of the same slot and is replaced by a later one only. One that
withdraws is kept like any other until no older copy can be alive, so that a holder that was away
cannot bring the old one back.

Each change gets a revision, so that a watcher is told what it has not seen yet.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from quicether.dht.contents import MAX_CONTENTS, MAX_KEYS
from quicether.dht.records import Record, certificate_of
from quicether.model import NodeId


class Outcome(enum.Enum):
    """What became of a record that was offered."""

    NEW = "new"
    """Nothing was kept in its slot, or content or certificate differ: watchers want to know."""
    RENEWED = "renewed"
    SAME = "same"
    STALE = "stale"
    """A later record of the slot is kept."""
    FULL = "full"


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Most values kept of one owner, under one key, and in all; most bytes in all.

    In a small network a node keeps all that each other publishes, under every key, and as many
    withdrawals again.
    """

    per_owner: int = 2 * MAX_CONTENTS * MAX_KEYS
    per_key: int = 2048
    total: int = 32_768
    bytes: int = 32 * 2**20


DEFAULT_LIMITS: Final = StoreLimits()


class Value:
    """One kept record. revision: of its last renewal; change: of its last change of content."""

    __slots__ = ("change", "record", "revision")

    def __init__(self, record: Record, revision: int, change: int) -> None:
        self.record = record
        self.revision = revision
        self.change = change


class _Owned:
    __slots__ = ("count", "record")

    def __init__(self, record: Record) -> None:
        self.count = 0
        self.record = record


class ValueStore:
    """Records by key. wall is always the time in seconds since 1970."""

    __slots__ = (
        "_bytes",
        "_count",
        "_keys",
        "_limits",
        "_next_end",
        "_owners",
        "evicted",
        "revision",
    )

    def __init__(self, limits: StoreLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._keys: dict[int, dict[bytes, Value]] = {}
        self._owners: dict[bytes, _Owned] = {}
        self._count = 0
        self._bytes = 0
        self._next_end = float("inf")
        self.revision = 0
        self.evicted = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Iterate over the keys that hold a value."""
        return iter(self._keys)

    def offer(self, key: int, record: Record) -> Outcome:
        """Keep a checked record under one of its keys, if it is the latest and there is room."""
        slots = self._keys.get(key)
        value = None if slots is None else slots.get(record.slot)
        if value is not None:
            return self._replace(value, record)
        limits = self._limits
        owner = record.owner.value
        owned = self._owners.get(owner)
        if (
            self._count >= limits.total
            or self._bytes + len(record.wire) > limits.bytes
            or (owned is not None and owned.count >= limits.per_owner)
            or (slots and len(slots) >= limits.per_key and not self._make_room(slots, owner))
        ):
            return Outcome.FULL
        if slots is None:
            slots = self._keys[key] = {}
        if owned is None:
            owned = self._owners[owner] = _Owned(record)
        owned.count += 1
        owned.record = record
        self.revision += 1
        slots[record.slot] = Value(record, self.revision, self.revision)
        self._count += 1
        self._bytes += len(record.wire)
        self._next_end = min(self._next_end, record.end)
        return Outcome.NEW

    def records(self, key: int, wall: float) -> list[Record]:
        """Return what is kept under key and not expired, records that withdraw included."""
        return [v.record for v in self._keys.get(key, {}).values() if v.record.end > wall]

    def get(self, key: int, slot: bytes) -> Record | None:
        """Return what is kept in one slot of a key."""
        value = self._keys.get(key, {}).get(slot)
        return None if value is None else value.record

    def changes(self, key: int, since: int, wall: float, quiet: bool) -> list[Value]:
        """Return the values that changed after a revision, in the order of their revisions.

        quiet: a renewal is no change.
        """
        found = [
            value
            for value in self._keys.get(key, {}).values()
            if (value.change if quiet else value.revision) > since and value.record.end > wall
        ]
        found.sort(key=_change if quiet else _revision)
        return found

    def certificate(self, owner: NodeId) -> bytes | None:
        """Return the owner's certificate as one of its kept records carries it."""
        owned = self._owners.get(owner.value)
        return None if owned is None else certificate_of(owned.record.wire)

    def expire(self, wall: float) -> list[Record]:
        """Forget what has ended, and return it."""
        if wall < self._next_end:
            return []
        return self._remove(lambda record: record.end <= wall)

    def forget_owner(self, owner: NodeId) -> list[Record]:
        """Forget all records of an owner that is no longer trusted, and return them."""
        return self._remove(lambda record: record.owner == owner)

    def _replace(self, value: Value, record: Record) -> Outcome:
        old = value.record
        if record.issued <= old.issued:
            return Outcome.SAME if record.issued == old.issued else Outcome.STALE
        if self._bytes + len(record.wire) - len(old.wire) > self._limits.bytes:
            return Outcome.FULL
        self._bytes += len(record.wire) - len(old.wire)
        self._owners[record.owner.value].record = record
        self._next_end = min(self._next_end, record.end)
        self.revision += 1
        value.record = record
        value.revision = self.revision
        if (
            record.withdraws is old.withdraws
            and record.content == old.content
            and record.member == old.member
        ):
            return Outcome.RENEWED
        value.change = self.revision
        return Outcome.NEW

    def _make_room(self, slots: dict[bytes, Value], owner: bytes) -> bool:
        """Give up a record of who has most under a key, if owner has less even with one more."""
        shares = Counter(value.record.owner.value for value in slots.values())
        largest, share = shares.most_common(1)[0]
        if shares[owner] + 1 >= share:
            return False
        theirs = (v.record for v in slots.values() if v.record.owner.value == largest)
        record = min(theirs, key=lambda record: record.end)
        del slots[record.slot]
        self._forget(record)
        self.evicted += 1
        return True

    def _forget(self, record: Record) -> None:
        self._count -= 1
        self._bytes -= len(record.wire)
        owned = self._owners[record.owner.value]
        owned.count -= 1
        if not owned.count:
            del self._owners[record.owner.value]

    def _remove(self, doomed: Callable[[Record], bool]) -> list[Record]:
        removed: list[Record] = []
        self._next_end = float("inf")
        for key in list(self._keys):
            slots = self._keys[key]
            ended = [slot for slot, value in slots.items() if doomed(value.record)]
            removed += [slots.pop(slot).record for slot in ended]
            if not slots:
                del self._keys[key]
            for value in slots.values():
                self._next_end = min(self._next_end, value.record.end)
        for record in removed:
            self._forget(record)
        return removed


def _revision(value: Value) -> int:
    return value.revision


def _change(value: Value) -> int:
    return value.change

"""Packets that wait for a route or a connection. Pure and bounded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class _Item(NamedTuple):
    deadline: float
    destination: bytes
    packet: bytes


@dataclass(slots=True)
class Held:
    """A queue of packets by destination, oldest first.

    per_destination, total: most packets kept. lifetime: seconds that a packet may wait.
    """

    per_destination: int = 16
    total: int = 256
    lifetime: float = 3.0
    _items: deque[_Item] = field(init=False, default_factory=deque)
    _counts: Counter[bytes] = field(init=False, default_factory=Counter)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, destination: bytes) -> bool:
        return destination in self._counts

    def put(self, destination: bytes, packet: bytes, now: float) -> int:
        """Keep packet until now + lifetime. Return how many older ones had to go for it."""
        if self._counts[destination] >= self.per_destination:
            oldest = next(item for item in self._items if item.destination == destination)
            self._items.remove(oldest)
            self._forget(oldest)
            pushed_out = 1
        elif len(self._items) >= self.total:
            self._forget(self._items.popleft())
            pushed_out = 1
        else:
            pushed_out = 0
        self._items.append(_Item(now + self.lifetime, destination, packet))
        self._counts[destination] += 1
        return pushed_out

    def take(self, ready: Callable[[bytes], bool]) -> list[bytes]:
        """Remove and return all packets whose packed destination is ready, in order."""
        chosen = {destination for destination in self._counts if ready(destination)}
        if not chosen:
            return []
        taken = [item for item in self._items if item.destination in chosen]
        self._items = deque(item for item in self._items if item.destination not in chosen)
        for destination in chosen:
            del self._counts[destination]
        return [item.packet for item in taken]

    def expire(self, now: float) -> list[bytes]:
        """Remove and return the packets that waited too long. now: monotonic seconds."""
        expired: list[bytes] = []
        while self._items and self._items[0].deadline <= now:
            item = self._items.popleft()
            self._forget(item)
            expired.append(item.packet)
        return expired

    def _forget(self, item: _Item) -> None:
        self._counts[item.destination] -= 1
        if not self._counts[item.destination]:
            del self._counts[item.destination]

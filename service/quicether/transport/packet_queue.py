"""The bounded queue of IP packets that wait for the socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

MAX_PACKETS: Final = 1024
MAX_BYTES: Final = 1 << 20


class PacketQueue:
    """First in, first out; when it is full the oldest goes, as a TUN device's own queue would.

    max_packets, max_bytes: the bounds; a packet larger than max_bytes never fits.
    """

    __slots__ = ("_max_bytes", "_max_packets", "_packets", "size")

    def __init__(self, max_packets: int = MAX_PACKETS, max_bytes: int = MAX_BYTES) -> None:
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._packets: deque[bytes] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._packets)

    def extend(self, packets: Iterable[bytes]) -> int:
        """Add packets at the end and return how many of the oldest had to go for them."""
        queue = self._packets
        size = self.size
        for packet in packets:
            queue.append(packet)
            size += len(packet)
        dropped = 0
        while len(queue) > self._max_packets or size > self._max_bytes:
            size -= len(queue.popleft())
            dropped += 1
        self.size = size
        return dropped

    def take(self, count: int) -> list[bytes]:
        """Remove and return at most count packets, oldest first."""
        queue = self._packets
        if count >= len(queue):
            taken = list(queue)
            queue.clear()
            self.size = 0
            return taken
        taken = [queue.popleft() for _ in range(count)]
        self.size -= sum(map(len, taken))
        return taken

    def clear(self) -> int:
        """Forget every packet and return how many there were."""
        count = len(self._packets)
        self._packets.clear()
        self.size = 0
        return count

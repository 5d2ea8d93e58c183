"""A link to a peer in memory: what is sent is kept, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence


class FakeLink:
    """Implements the data path's `Link`. max_packet: bytes, may be changed at any time."""

    def __init__(self, max_packet: int = 1400) -> None:
        self.max_packet = max_packet
        self.batches: list[list[bytes]] = []

    @property
    def sent(self) -> list[bytes]:
        """All packets of all batches, in order."""
        return [packet for batch in self.batches for packet in batch]

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Keep a batch."""
        self.batches.append(list(packets))

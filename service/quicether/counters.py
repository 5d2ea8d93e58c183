"""What was passed and what was dropped, by reason. One per tunnel, shown by `quicether status`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from quicether.model import DropReason


@dataclass(slots=True)
class Counters:
    """Running totals since the tunnel came up.

    sent: packets and bytes handed to peers; received: written to the device or passed onward.
    failed_handshakes: connections, of either side, that ended because of what a certificate or the
    protocol said; a peer that does not answer is none. faults: connections that a fault of our own
    ended; the journal has each. Bounded: `drops` has one entry a DropReason.
    """

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    forwarded_packets: int = 0
    forwarded_bytes: int = 0
    failed_handshakes: int = 0
    faults: int = 0
    drops: Counter[DropReason] = field(default_factory=Counter)

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count `count` packets, messages or records that were not passed on."""
        self.drops[reason] += count

"""Where it is written down when somebody tries what they may not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from quicether.dataplane.icmp import TokenBucket
from quicether.dataplane.packet import PacketView
from quicether.errors import QuicEtherError
from quicether.model import Member, Prefix, UnderlayAddress

log = logging.getLogger(__name__)

RATE: Final = 1.0
"""Lines a second in the long run."""
BURST: Final = 20.0


class SecurityLog:
    """Implements `overlay.mesh.SecurityEvents` on the journal, rate-limited.

    left_out: events that were not written because there were too many.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds."""
        self.left_out = 0
        self._clock = clock
        self._bucket = TokenBucket(RATE, BURST)

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        """A peer was turned away."""
        self._write("refused %s: %s", remote, error)

    def spoofed(self, member: Member | None, packet: PacketView) -> None:
        """A peer sent from an address that is not its own."""
        who = "an unknown peer" if member is None else f"{member.name} ({member.node_id})"
        self._write("dropped a packet of %s from %s, not its own", who, packet.source.hex())

    def uncovered(self, member: Member, prefixes: Sequence[Prefix]) -> None:
        """A peer announced prefixes that its certificate does not cover."""
        names = ", ".join(map(str, prefixes[:8]))
        self._write("%s (%s) announced %s, not covered by it", member.name, member.node_id, names)

    def _write(self, text: str, *arguments: object) -> None:
        if self._bucket.take(self._clock()):
            log.warning(text, *arguments)
        else:
            self.left_out += 1

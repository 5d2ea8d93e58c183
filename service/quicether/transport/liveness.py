"""Whether a peer is still there. Pure.

An idle connection costs one PING and its acknowledgement, about 120 bytes on the wire, every
`KEEPALIVE` seconds: 0.1 kbit/s. Where only the UDP mappings of home routers need it (RFC 4787 asks
for two minutes, many keep 30 seconds) it is every `KEEPALIVE_MAPPED` seconds. A peer that does not
answer what has to be acknowledged is asked every second and given up after `PATIENCE`. A connection
that rests costs nothing; whether its peer is still there is found out when it is used again.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from quicether.transport.endpoint import KeepAlive

KEEPALIVE: Final = 10.0
"""Seconds of silence after which the side that opened the connection asks."""
KEEPALIVE_ACCEPTED: Final = 14.0
"""The same for the other side: later, so that one question serves both."""
KEEPALIVE_MAPPED: Final = 25.0
"""The same where it is for a NAT's mapping alone."""
PATIENCE: Final = 4.0
"""Seconds without any answer after which a peer is gone."""
PATIENCE_AFTER_CHANGE: Final = 1.5
"""The same once the host's own network has changed."""
ASK_EVERY: Final = 1.0
"""Seconds between questions to a silent peer."""
_PROBE_TIMEOUTS: Final = 6
"""Slow paths get at least so many probe timeouts (RFC 9002 section 6.2)."""


class Liveness(enum.Enum):
    """What a `PeerWatch` has to say."""

    FINE = enum.auto()
    ASK = enum.auto()
    """Send something that has to be acknowledged."""
    GONE = enum.auto()


class PeerWatch:
    """Watches one peer. Told what happens, it says when to ask and when to give up.

    deadline: when `due` has something to say.
    """

    def __init__(self, *, initiated: bool, now: float) -> None:
        self._silences = {
            KeepAlive.AWAKE: KEEPALIVE if initiated else KEEPALIVE_ACCEPTED,
            KeepAlive.MAPPED: KEEPALIVE_MAPPED,
            KeepAlive.RESTING: math.inf,
        }
        self._keepalive = self._silences[KeepAlive.AWAKE]
        self._patience = PATIENCE
        self._waiting_since: float | None = None
        self._waiting_for: int | None = None
        self.deadline = now + self._keepalive

    def unanswered(self, now: float) -> float:
        """Return for how many seconds an answer has been due; 0 while none is."""
        return 0.0 if self._waiting_since is None else max(now - self._waiting_since, 0.0)

    def heard(self, acknowledged: int, now: float) -> None:
        """A packet of the peer arrived that could be opened.

        acknowledged: the highest number of a packet of ours that it has. A peer that does not
        hear us may go on to send; that is no answer.
        """
        if self._waiting_for is not None and acknowledged < self._waiting_for:
            return
        self._waiting_since = self._waiting_for = None
        self._patience = PATIENCE
        self.deadline = now + self._keepalive

    def awaits(self, number: int, now: float) -> None:
        """Packets from that number on went out, of which the peer has to acknowledge some."""
        if self._waiting_since is None:
            self._waiting_since = now
            self.deadline = now + self._interval
        if self._waiting_for is None:
            self._waiting_for = number

    def keep_alive(self, how: KeepAlive, now: float) -> None:
        """Ask after shorter or longer silence, or after none; an answer that is due stays due."""
        keepalive = self._silences[how]
        if keepalive == self._keepalive:
            return
        self._keepalive = keepalive
        if self._waiting_since is None:
            self.deadline = now + keepalive

    def network_changed(self, now: float) -> None:
        """The host's own network changed: ask now, and be less patient."""
        self._patience = PATIENCE_AFTER_CHANGE
        self._waiting_since = self._waiting_for = None
        self.deadline = now

    def due(self, now: float, probe_timeout: float) -> Liveness:
        """Say what to do at now. probe_timeout: seconds, of the connection as it is now."""
        if now < self.deadline:
            return Liveness.FINE
        patience = max(self._patience, _PROBE_TIMEOUTS * probe_timeout)
        if self._waiting_since is not None and now - self._waiting_since >= patience:
            return Liveness.GONE
        if self._waiting_since is None:
            self._waiting_since = now
        self.deadline = min(now + self._interval, self._waiting_since + patience)
        return Liveness.ASK

    @property
    def _interval(self) -> float:
        return min(ASK_EVERY, self._patience / 3)

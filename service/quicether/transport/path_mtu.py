"""How large a UDP payload a path carries: packetization-layer path MTU discovery (RFC 8899). Pure.

Packets made only to be acknowledged, in sizes between a floor that every path for QUIC carries and
the local interface's, find the size; none of them carries anything that could be lost. ICMP is not
listened to. While large packets are in use the present size is confirmed again and again, so that a
path that begins to swallow them (a black hole) is noticed within seconds.
"""

from __future__ import annotations

from typing import Final

FLOOR: Final = 1200
"""UDP payload that every path for QUIC carries (RFC 9000 section 14)."""
STEP: Final = 4
"""Bytes to within which the size is found."""
MAX_TRIES: Final = 3
"""Probes of one size that may be lost before the path is held not to carry it (MAX_PROBES)."""
RAISE_AFTER: Final = 600.0
"""Seconds after which a larger size is tried again (PMTU_RAISE_TIMER)."""
CONFIRM_AFTER: Final = 1.0
"""Seconds of use of large packets after which the present size is confirmed once more."""


class PathMtu:
    """The search on one path.

    size: the UDP payload, in bytes, to use now.
    deadline: when `probe` wants to be called; None while there is nothing to wait for.
    """

    def __init__(self, base: int, ceiling: int, now: float) -> None:
        """Begin with base bytes, see whether they pass, and look for more, up to ceiling."""
        self.size = max(FLOOR, min(base, ceiling))
        self.deadline: float | None = None
        self._base = self.size
        self._ceiling = max(ceiling, self.size)
        self._candidate: int | None = None
        self._tries = 0
        self._confirming = False
        self._confirmed_at = now
        self._raise_at: float | None = None
        self._low, self._high = self.size, self._ceiling
        self._begin(now)

    def recheck(self, ceiling: int, now: float) -> None:
        """See whether the present size still passes, then look for more, up to a new ceiling."""
        self._ceiling = max(FLOOR, ceiling)
        self._base = min(self._base, self._ceiling)
        self.size = min(self.size, self._ceiling)
        self._low, self._high = self.size, self._ceiling
        self._begin(now)

    def probe(self, now: float, timeout: float, *, alive: bool) -> int | None:
        """Return the size of a probe to send now, if one is due.

        timeout: seconds to wait for its acknowledgement. alive: whether anything was heard from
        the peer since the last probe; without that a lost one says nothing about its size.
        """
        if self.deadline is None or now < self.deadline:
            return None
        if self._candidate is None:
            self._low, self._high = self.size, self._ceiling
            self._next_candidate(self._ceiling, now)
            if self._candidate is None:
                return None
        elif self._tries >= MAX_TRIES:
            self._too_large(self._candidate, now)
            if self._candidate is None:
                return None
        if alive or self._tries == 0:
            self._tries += 1
        self.deadline = now + timeout
        return self._candidate

    def acknowledged(self, size: int, now: float) -> None:
        """A probe of size bytes arrived."""
        self._confirmed_at = now
        if size < self.size or size > self._ceiling:
            return
        if self._confirming and size == self.size:
            self._confirming = False
            self._candidate, self.deadline = None, self._raise_at
            return
        untried = self._high == self._ceiling
        self.size = size
        self._low = size
        self._high = max(self._high, size)
        if self._candidate is not None and size >= self._candidate:
            # Most paths carry what the interface does, so that is tried before any middle.
            middle = (size + self._high + 1) // 2
            self._next_candidate(self._ceiling if untried else middle, now)

    def refused(self, size: int, now: float) -> None:
        """The local interface does not take size bytes."""
        self._ceiling = max(FLOOR, min(self._ceiling, size - 1))
        if size > self.size or self.size > FLOOR:
            self._too_large(size, now)

    def used(self, largest: int, now: float) -> bool:
        """Payloads of up to largest bytes were just sent: see now and then that such arrive.

        Returns whether a probe is due because of it.
        """
        if not (
            largest > FLOOR
            and self._candidate is None
            and now - self._confirmed_at >= CONFIRM_AFTER
        ):
            return False
        self._confirming = True
        self._candidate, self._tries, self.deadline = self.size, 0, now
        return True

    def _too_large(self, size: int, now: float) -> None:
        if size <= self.size:
            # A black hole: go back to what every path carries, and search from there.
            self.size = self._low = self._base if size > self._base else FLOOR
            self._high = max(self._low, size - 1)
            self._begin(now)
        else:
            self._high = max(self._low, min(self._high, size - 1))
            self._next_candidate((self._low + self._high + 1) // 2, now)

    def _begin(self, now: float) -> None:
        """Look for the size from a new beginning, which has to pass first unless all paths do."""
        if self.size > FLOOR:
            self._candidate, self._tries, self.deadline = self.size, 0, now
            self._confirming = False
        else:
            self._next_candidate(self._high, now)

    def _next_candidate(self, size: int, now: float) -> None:
        self._tries = 0
        self._confirming = False
        if self._high - self._low < STEP or size <= self._low:
            self._candidate = None
            self._confirmed_at = now
            self._raise_at = now + RAISE_AFTER if self.size < self._ceiling else None
            self.deadline = self._raise_at
        else:
            self._candidate = size
            self.deadline = now

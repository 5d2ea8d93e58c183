"""Rate limits per peer: token buckets, bounded in number. Pure."""

from __future__ import annotations

from collections import OrderedDict


class RateLimiter:
    """Lets each peer have `rate` requests a second, and `burst` at once.

    Remembers at most `peers`, the least recently seen goes; it starts again with a full burst,
    which costs no more than a new connection does.
    """

    __slots__ = ("_buckets", "_burst", "_peers", "_rate")

    def __init__(self, rate: float, burst: float, peers: int) -> None:
        self._rate = rate
        self._burst = burst
        self._peers = peers
        self._buckets: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def allows(self, peer: int, now: float, cost: float = 1.0) -> bool:
        """Tell whether a request of a peer may be served now, and take its cost if so.

        now: monotonic seconds. cost: 1 for a plain request.
        """
        tokens, then = self._buckets.get(peer, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - then) * self._rate)
        allowed = tokens >= cost
        self._buckets[peer] = (tokens - cost if allowed else tokens, now)
        self._buckets.move_to_end(peer)
        if len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)
        return allowed

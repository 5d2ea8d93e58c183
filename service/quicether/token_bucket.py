"""How often something may happen: token buckets, alone or one for each of many. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class TokenBucket:
    """Lets `burst` through at once and `rate` a second in the long run."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated: float | None = None

    def take(self, now: float) -> bool:
        """Tell whether one more may pass, and count it if so. now: monotonic seconds."""
        if self._updated is None:
            self._updated = now
        elif now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
            self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class TokenBuckets:
    """A token bucket for each key, of whom or of what there are many.

    most: buckets kept; the one unused for longest goes. Its key begins anew with a full burst,
    so whoever can be as many keys as it likes needs a bound for all of them, too.
    """

    __slots__ = ("_buckets", "_burst", "_most", "_rate")

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """Tell whether key may have what costs so many tokens, and take them if so.

        now: monotonic seconds.
        """
        tokens, updated = self._buckets.get(key, (self._burst, now))
        if now > updated:
            tokens = min(self._burst, tokens + (now - updated) * self._rate)
            updated = now
        passes = tokens >= cost
        self._buckets[key] = (tokens - cost if passes else tokens, updated)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return passes

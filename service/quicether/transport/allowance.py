"""How often each of many may ask. Pure: time comes in as monotonic seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from quicether.model import UnderlayAddress

MAX_ASKERS: Final = 1024
"""Askers whose questions are counted at one time; the one silent for the longest is forgotten."""


class Allowance:
    """Token buckets, one for each asker.

    at_once: questions in a burst. every: seconds in which one more is earned.
    """

    def __init__(self, at_once: int, every: float) -> None:
        self._at_once = float(at_once)
        self._every = every
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, asker: Hashable, now: float) -> bool:
        """Count a question; False: the asker has to wait."""
        tokens, since = self._buckets.pop(asker, (self._at_once, now))
        tokens = min(self._at_once, tokens + (now - since) / self._every)
        allowed = tokens >= 1
        self._buckets[asker] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > MAX_ASKERS:
            self._buckets.popitem(last=False)
        return allowed


def whereabouts(remote: UnderlayAddress) -> Hashable:
    """Return what one remote host cannot change: its IPv4 address, or its IPv6 /64."""
    if isinstance(remote.ip, IPv6Address):
        return IPv6Network((remote.ip.packed, 64), strict=False)
    return remote.ip

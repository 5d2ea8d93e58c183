"""Who owns an address: the lookups that a packet starts, what they bring, and what is not there."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, Protocol

from quicether.dht import keyspace
from quicether.dht.events import LookupDone
from quicether.errors import UnreachableError
from quicether.model import Prefix

NOTHING_FOR: Final = 10.0
"""Seconds for which it is remembered that nobody owns an address."""
MAX_NOTHING: Final = 1024


class Find(Protocol):
    """Starts a lookup. Raises UnreachableError: too many run already."""

    def __call__(self, key: int, done: Callable[[LookupDone], None], /) -> None:
        """Look for the records under key; done follows, never before this returns."""


class Questions:
    """The addresses that are looked up now, and those that nobody has.

    found: takes each outcome, None after the last; tells whether the owner is known now.
    That nobody has an address is remembered only where every lookup ran and somebody answered it.
    Bounded by the lookups that the DHT machine runs at once.
    """

    def __init__(
        self,
        network_id: bytes,
        find: Find,
        found: Callable[[bytes, LookupDone | None], bool],
        clock: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds."""
        self._network_id = network_id
        self._find = find
        self._found = found
        self._clock = clock
        self._open: dict[bytes, int] = {}
        self._unsure: set[bytes] = set()
        self._waiting: dict[bytes, list[asyncio.Event]] = {}
        self._nothing: OrderedDict[bytes, float] = OrderedDict()

    def begin(self, destination: bytes, known: set[int]) -> bool:
        """Begin to look for a packed address unless that is under way; False: it is in vain.

        known: keys whose records are followed anyway.
        """
        if destination in self._open:
            return True
        address = ip_address(destination)
        if self._nothing.get(destination, 0.0) > self._clock() or not _can_be_owned(destination):
            return False
        own, *blocks = keyspace.address_keys(self._network_id, address)
        for key in (own, *(key for key in blocks if key not in known)):
            try:
                self._find(key, lambda done: self._answered(destination, done))
            except UnreachableError:
                if destination in self._open:
                    self._unsure.add(destination)
                break
            self._open[destination] = self._open.get(destination, 0) + 1
        return destination in self._open

    def forget(self, destination: bytes) -> None:
        """Look again also where nothing was found a moment ago."""
        self._nothing.pop(destination, None)

    async def wait(self, destination: bytes, patience: float) -> None:
        """Wait until all answers for an address have come, at most patience seconds."""
        if destination not in self._open:
            return
        done = asyncio.Event()
        self._waiting.setdefault(destination, []).append(done)
        try:
            async with asyncio.timeout(patience):
                await done.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Let everybody go who waits."""
        for destination in list(self._waiting):
            self._release(destination)

    def _answered(self, destination: bytes, done: LookupDone) -> None:
        is_owned = self._found(destination, done)
        if not done.closest and not done.records:
            self._unsure.add(destination)
        self._open[destination] -= 1
        if self._open[destination]:
            return
        del self._open[destination]
        unsure = destination in self._unsure
        self._unsure.discard(destination)
        if not is_owned and not self._found(destination, None) and not unsure:
            self._nothing[destination] = self._clock() + NOTHING_FOR
            self._nothing.move_to_end(destination)
            if len(self._nothing) > MAX_NOTHING:
                self._nothing.popitem(last=False)
        self._release(destination)

    def _release(self, destination: bytes) -> None:
        for done in self._waiting.pop(destination, ()):
            done.set()


def followed_keys(network_id: bytes, routes: str | tuple[Prefix, ...]) -> set[int]:
    """Return the keys to follow for `auto`, `none` or a list of prefixes. Pure."""
    everything = set(keyspace.directory_keys(network_id))
    if isinstance(routes, str):
        return everything if routes == "auto" else set()
    found: set[int] = set()
    for prefix in routes:
        if prefix.prefixlen == prefix.max_prefixlen:
            found.add(keyspace.subnet_key(network_id, prefix))
            continue
        nearest = keyspace.index_keys(network_id, prefix)[0]
        # What is wider than a block has more than one block inside it.
        found |= everything if nearest == keyspace.any_key(network_id) else {nearest}
    return found


def _can_be_owned(destination: bytes) -> bool:
    address = ip_address(destination)
    return not (
        address.is_multicast
        or address.is_link_local
        or address.is_loopback
        or address.is_unspecified
    )

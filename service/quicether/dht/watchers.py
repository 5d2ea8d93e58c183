"""Who is told when a value that we keep changes: watches with a lease, bounded. Pure.

A node that wants all prefixes of the network asks holders of a few index keys, and would have to
ask often to learn of changes within seconds. Instead a holder remembers who asked, for a lease,
and pushes what is new, changed or withdrawn. What is pushed is a signed record like any other.

Of each watcher is known up to which revision of the store it was told. So one that did not answer
is told everything that it missed when it is tried again, and what changes while it is being told
comes next. A holder that is no longer among the k closest to a key, because the network grew, will
not hear of changes itself: it dismisses its watchers with an empty push, so that they look for
another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.core import Core
from quicether.dht.messages import Notify, batches
from quicether.dht.outbox import Outbox
from quicether.dht.store import Value

MAX_PER_KEY: Final = 256
"""Watchers of one key. With three holders to each watcher and its choice among sixteen, a key can
have some 1,300."""
MAX_WATCHES: Final = 1024
MAX_PER_PEER: Final = 32
COALESCE: Final = 0.1
"""Seconds in which changes gather before they are pushed."""
RETRY: Final = (5.0, 15.0, 40.0)
"""Seconds after which a watcher that does not answer is tried again; then its watch ends."""


class _Watcher:
    """One watch. end: of its lease, monotonic seconds. told: a revision of our store.

    busy: a push is under way, or waits to be repeated. failures: pushes in vain since the last
    that was answered.
    """

    __slots__ = ("busy", "contact", "end", "failures", "told")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.end = 0.0
        self.told = 0
        self.busy = False
        self.failures = 0


class Watchers:
    """The watches that others hold on our values, and the pushes that are due to them."""

    __slots__ = ("_changed", "_core", "_outbox", "_per_peer", "_total", "_watches")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._outbox = Outbox(core)
        self._watches: dict[int, dict[int, _Watcher]] = {}
        self._per_peer: dict[int, int] = {}
        self._total = 0
        self._changed: dict[int, None] = {}

    def __len__(self) -> int:
        return self._total

    def add(self, key: int, peer: Contact, now: float) -> float:
        """Begin or renew a watch; return its lease in seconds, 0 when there is none.

        To be called after the peer was told all that is kept under key, or how to read on.
        """
        watching = self._watches.get(key, {})
        watcher = watching.get(peer.key)
        if watcher is None:
            if self._total >= MAX_WATCHES or len(watching) >= MAX_PER_KEY:
                self._sweep(now)
            if (
                self._total >= MAX_WATCHES
                or len(self._watches.get(key, ())) >= MAX_PER_KEY
                or self._per_peer.get(peer.key, 0) >= MAX_PER_PEER
                or self._displaced(key)
            ):
                return 0.0
            watcher = self._watches.setdefault(key, {})[peer.key] = _Watcher(peer)
            self._total += 1
            self._per_peer[peer.key] = self._per_peer.get(peer.key, 0) + 1
        watcher.contact = peer
        watcher.end = now + self._core.config.lease
        watcher.told = self._core.store.revision
        return self._core.config.lease

    def changed(self, key: int, now: float) -> None:
        """Have the watchers of key told, a moment later so that changes gather."""
        if key not in self._watches:
            return
        if not self._changed:
            self._core.schedule(now + COALESCE, self._push)
        self._changed[key] = None

    def dismiss(self, now: float) -> None:
        """End the watches of the keys that others are closer to now."""
        for key in [key for key in self._watches if self._displaced(key)]:
            for watcher in list(self._watches[key].values()):
                self._remove(key, watcher)
                self._outbox.ask(watcher.contact, Notify(key, ()), now, _told, _unheard)

    def _displaced(self, key: int) -> bool:
        return len(self._core.table.closer_than_us(key, K)) == K

    def _push(self, now: float) -> None:
        changed, self._changed = self._changed, {}
        for key in changed:
            for watcher in list(self._watches.get(key, {}).values()):
                self._tell(key, watcher, now)

    def _tell(self, key: int, watcher: _Watcher, now: float) -> None:
        """Tell a watcher the next of what it has not been told yet."""
        if watcher.busy or self._watches.get(key, {}).get(watcher.contact.key) is not watcher:
            return
        if watcher.end <= now:
            self._remove(key, watcher)
            return
        store = self._core.store
        news = store.changes(key, watcher.told, self._core.wall(now), quiet=True)
        batch, reached, more = _first_batch(news, watcher.contact)
        if not batch:
            watcher.told = store.revision
            return
        watcher.busy = True

        def answered(_answer: object, at: float) -> None:
            watcher.busy = False
            watcher.failures = 0
            watcher.told = max(watcher.told, reached)
            if more or store.revision > reached:
                self._tell(key, watcher, at)

        def failed(at: float) -> None:
            if watcher.failures == len(RETRY):
                self._remove(key, watcher)
                return
            wait = self._core.spread(RETRY[watcher.failures])
            watcher.failures += 1
            self._core.schedule(at + wait, self._tell_again, key, watcher)

        self._outbox.ask(watcher.contact, Notify(key, batch), now, answered, failed)

    def _tell_again(self, key: int, watcher: _Watcher, now: float) -> None:
        watcher.busy = False
        self._tell(key, watcher, now)

    def _sweep(self, now: float) -> None:
        for key in list(self._watches):
            for watcher in [w for w in self._watches[key].values() if w.end <= now]:
                self._remove(key, watcher)

    def _remove(self, key: int, watcher: _Watcher) -> None:
        watching = self._watches.get(key, {})
        peer = watcher.contact.key
        if watching.get(peer) is not watcher:
            return
        del watching[peer]
        if not watching:
            del self._watches[key]
        self._total -= 1
        left = self._per_peer[peer] - 1
        if left:
            self._per_peer[peer] = left
        else:
            del self._per_peer[peer]


def _first_batch(news: Iterable[Value], peer: Contact) -> tuple[tuple[bytes, ...], int, bool]:
    """Return what fits into one message, up to which revision that is, and whether more is left.

    What the peer says itself is not told to it.
    """
    owner = peer.wire[:20]
    values = [value for value in news if value.record.owner.value != owner]
    cut = batches([value.record.wire for value in values])
    if not cut:
        return (), 0, False
    return cut[0], values[len(cut[0]) - 1].change, len(cut) > 1


def _told(_answer: object, _now: float) -> None:
    """The watcher knows now."""


def _unheard(_now: float) -> None:
    """Its lease ends by itself."""

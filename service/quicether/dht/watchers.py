"""Who is told when a value that we keep changes: watches with a lease, bounded. Pure.

A node that wants all prefixes of the network asks the holders of a few index keys, and would have
to ask often to learn of changes within seconds. Instead a holder remembers who asked, for a lease,
and pushes what is new, changed or withdrawn. What is pushed is a signed record like any other.
"""

from __future__ import annotations

from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.core import Core
from quicether.dht.messages import Notify, batches
from quicether.dht.records import Record

MAX_PER_KEY: Final = 64
MAX_WATCHES: Final = 512
MAX_PER_PEER: Final = 32
COALESCE: Final = 0.1
"""Seconds in which changes gather before they are pushed."""
MAX_GATHERED: Final = 1024


class Watchers:
    """The watches that others hold on our values, and the pushes that are due to them."""

    __slots__ = ("_core", "_gathered", "_leases", "_per_peer", "_total")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._leases: dict[int, dict[int, tuple[Contact, float]]] = {}
        self._per_peer: dict[int, int] = {}
        self._total = 0
        self._gathered: dict[int, dict[bytes, Record]] = {}

    def __len__(self) -> int:
        return self._total

    def add(self, key: int, peer: Contact, now: float) -> float:
        """Begin or renew a watch; return its lease in seconds, 0 when there is no room."""
        lease = self._core.config.lease
        watching = self._leases.setdefault(key, {})
        if peer.key not in watching:
            if self._total >= MAX_WATCHES or len(watching) >= MAX_PER_KEY:
                self._sweep(now)
                watching = self._leases.setdefault(key, {})
            if (
                self._total >= MAX_WATCHES
                or len(watching) >= MAX_PER_KEY
                or self._per_peer.get(peer.key, 0) >= MAX_PER_PEER
            ):
                if not watching:
                    del self._leases[key]
                return 0.0
            self._total += 1
            self._per_peer[peer.key] = self._per_peer.get(peer.key, 0) + 1
        watching[peer.key] = (peer, now + lease)
        return lease

    def changed(self, key: int, record: Record, now: float) -> None:
        """Have the watchers of key told, a moment later so that changes gather."""
        if key not in self._leases:
            return
        if not self._gathered:
            self._core.schedule(now + COALESCE, self._push)
        gathered = self._gathered.setdefault(key, {})
        if len(gathered) < MAX_GATHERED:
            gathered[record.slot] = record

    def _push(self, now: float) -> None:
        gathered, self._gathered = self._gathered, {}
        for key, records in gathered.items():
            for peer, end in list(self._leases.get(key, {}).values()):
                if end <= now:
                    self._remove(key, peer.key)
                    continue
                wires = [r.wire for r in records.values() if r.owner.value != peer.wire[:20]]
                for batch in batches(wires):
                    self._tell(key, peer, batch, now)

    def _tell(self, key: int, peer: Contact, batch: tuple[bytes, ...], now: float) -> None:
        def failed(_at: float) -> None:
            self._remove(key, peer.key)

        self._core.ask(peer, Notify(key, batch), now, _told, failed)

    def _sweep(self, now: float) -> None:
        for key in list(self._leases):
            for peer in [p for p, (_, end) in self._leases[key].items() if end <= now]:
                self._remove(key, peer)

    def _remove(self, key: int, peer: int) -> None:
        watching = self._leases.get(key)
        if watching is None or watching.pop(peer, None) is None:
            return
        if not watching:
            del self._leases[key]
        self._total -= 1
        left = self._per_peer[peer] - 1
        if left:
            self._per_peer[peer] = left
        else:
            del self._per_peer[peer]


def _told(_answer: object, _now: float) -> None:
    """The watcher knows now."""

"""Newcomers: handing them the values that they are close enough to keep. Pure.

A value is wherever its publisher last put it. Who joins afterwards may be closer to its key than
those who keep it, is asked for it, and would have nothing until it is published again.
"""

from __future__ import annotations

from typing import Final

from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.core import Core
from quicether.dht.keyspace import bucket_index
from quicether.dht.messages import Store, batches
from quicether.dht.outbox import Outbox
from quicether.dht.watchers import Watchers

AFTER: Final = 1.0
"""Seconds in which newcomers gather before values are handed to them."""
AGAIN: Final = 20.0
"""Seconds until they get what was handed to us just as they came."""
MAX_NEWCOMERS: Final = 64
REACH: Final = 2
"""Newcomers are considered up to so many buckets beyond our k closest neighbours."""


class Handover:
    """Gathers newcomers, hands them values, and dismisses the watchers who should turn to them."""

    __slots__ = ("_core", "_newcomers", "_outbox", "_watchers")

    def __init__(self, core: Core, watchers: Watchers) -> None:
        self._core = core
        self._watchers = watchers
        self._outbox = Outbox(core)
        self._newcomers: dict[int, Contact] = {}

    def add(self, newcomer: Contact, now: float) -> None:
        """Take note of a node that was not known before."""
        if not self._newcomers:
            self._core.schedule(now + AFTER, self._gathered)
        if len(self._newcomers) < MAX_NEWCOMERS:
            self._newcomers[newcomer.key] = newcomer

    def _gathered(self, now: float) -> None:
        newcomers, self._newcomers = self._newcomers, {}
        self._watchers.dismiss(now)
        core = self._core
        neighbours = core.table.closest(core.me.key)
        if len(neighbours) == K:
            # Far from us is far from the keys that we are the closest holder of.
            reach = bucket_index(neighbours[-1].key, core.me.key) + REACH
            if all(bucket_index(key, core.me.key) > reach for key in newcomers):
                return
        core.schedule(now + AGAIN, self._hand_over, newcomers, core.store.revision)
        self._hand_over(newcomers, 0, now)

    def _hand_over(self, newcomers: dict[int, Contact], since: int, now: float) -> None:
        """Give newcomers the values that they should keep, if nobody older is closer than us.

        However many newcomers are closer: they do not have the values yet. since: only what was
        stored here after this revision; by then they have, so the closest alone go on.
        """
        core = self._core
        wall = core.wall(now)
        for key in core.store:
            closer = core.table.closer_than_us(key, K)
            if any(contact.key not in newcomers for contact in closer):
                continue
            if since and len(closer) > 1:
                continue
            receivers = [c for c in core.table.closest(key) if c.key in newcomers]
            if not receivers:
                continue
            changes = core.store.changes(key, since, wall, quiet=True)
            wires = [value.record.wire for value in changes]
            for newcomer in receivers:
                for batch in batches(wires):
                    self._outbox.ask(newcomer, Store(key, batch), now, _no_answer, _no_failure)


def _no_answer(_answer: object, _now: float) -> None:
    """The newcomer keeps it, or has its reasons."""


def _no_failure(_now: float) -> None:
    """The routing table took note already."""

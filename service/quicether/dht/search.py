"""Runs one lookup: sends its questions, watches for slow answers, checks values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from quicether.dht import messages
from quicether.dht.buckets import K
from quicether.dht.contact import Contact
from quicether.dht.core import Core
from quicether.dht.lookup import Lookup
from quicether.dht.messages import Cursor, FindNode, FindValue, Nodes, Values

MAX_PAGES: Final = 32
"""So many times one holder is asked for more of the same key."""


class Search:
    """One running lookup. `on_done(lookup, now)` is called once, never from `start`."""

    __slots__ = ("_core", "_finished", "_on_done", "_timer_at", "lookup")

    def __init__(
        self,
        core: Core,
        target: int,
        on_done: Callable[[Lookup, float], None],
        *,
        width: int = K,
        quorum: int = 0,
        seeds: Iterable[Contact] = (),
    ) -> None:
        known = core.table.closest(target)
        if not known:
            # Nobody answered lately. Better to ask those than to give up.
            known = [entry.contact for entry in core.table][:K]
        self.lookup = Lookup(target, core.me.key, known, width, quorum, seeds)
        self._core = core
        self._on_done = on_done
        self._finished = False
        self._timer_at = float("inf")

    def start(self, now: float) -> None:
        """Begin. A lookup for values counts our own store as one that gave."""
        if self.lookup.quorum:
            own = self._core.store.records(self.lookup.target, self._core.wall(now))
            if own:
                self.lookup.gave(self._core.me, own)
        self._core.schedule(now, self._advance)

    def _advance(self, now: float) -> None:
        if self._finished:
            return
        lookup = self.lookup
        for contact in lookup.next_questions(now):
            self._ask(contact, None, 0, now)
        if lookup.done:
            self._finished = True
            self._on_done(lookup, now)
            return
        oldest = lookup.oldest_waiting
        if oldest is not None:
            due = oldest + self._core.config.slow_after
            if due < self._timer_at:
                self._timer_at = due
                self._core.schedule(due, self._check_slow)

    def _check_slow(self, now: float) -> None:
        self._timer_at = float("inf")
        if not self._finished:
            # A hair more than the time itself: the sum of two floats may fall short of it.
            self.lookup.mark_slow(now - self._core.config.slow_after + 1e-6)
            self._advance(now)

    def _ask(self, contact: Contact, cursor: Cursor | None, page: int, now: float) -> None:
        target = self.lookup.target

        def failed(at: float) -> None:
            self.lookup.failed(contact)
            self._advance(at)

        def nodes(answer: Nodes, at: float) -> None:
            self.lookup.answered(contact, answer.contacts)
            self._advance(at)

        def values(answer: Values, at: float) -> None:
            self._values(contact, answer, page, at)

        if not self.lookup.quorum:
            self._core.ask(contact, FindNode(target), now, nodes, failed)
        else:
            count = messages.MAX_CONTACTS if cursor is None else 0
            question = FindValue(target, count, cursor)
            self._core.ask(contact, question, now, values, failed)

    def _values(self, contact: Contact, answer: Values, page: int, now: float) -> None:
        good = self._core.checked(self.lookup.target, answer.records, now)
        if answer.records and not good:
            # Not one of its records was good: nothing else that it says is believed either.
            self.lookup.failed(contact)
            self._advance(now)
            return
        if page == 0:
            self.lookup.answered(contact, answer.contacts)
        if answer.more and page < MAX_PAGES and not self._finished:
            self.lookup.reading(contact, good, now)
            self._ask(contact, answer.cursor, page + 1, now)
        elif good or page:
            self.lookup.gave(contact, good)
        self._advance(now)

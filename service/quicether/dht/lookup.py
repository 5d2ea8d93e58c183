"""One iterative lookup: who is closest to a target, and what is kept there. Pure.

At most three questions are in flight. One not answered within `slow_after` seconds no longer
counts as such, so the lookup goes on with the next contact and takes the late answer if it comes.
Who keeps more than fits into an answer is asked for the rest, and waited for as long as it gives.

Liars. Answers come over authenticated connections, so a liar cannot speak for another node; but
it can name contacts that do not exist, close to the target. Those cost one attempt each, so every
contact remembers who named it: after three of a source's contacts stayed silent, those that only
it named are passed over. It can name other liars, enough of them and close enough to fill the
window: so a lookup does not end before several contacts of our own answered, and it cannot hide
the real closest nodes, because honest nodes name them too. It cannot make up or alter a value,
because values are signed. It can withhold one or serve an old one: hence a lookup for values goes
on until several nodes gave some, and the freshest of each owner counts.
"""

from __future__ import annotations

import enum
from bisect import insort
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.records import Record

ALPHA: Final = 3
"""Questions in flight."""
MAX_ASKED: Final = 160
"""So many contacts are asked at most in one lookup."""
MAX_CANDIDATES: Final = 80
OWN: Final = 6
"""So many contacts of our own have to answer, where there are.

Three are asked in any case; with a fifth of liars those are all liars in one lookup of a hundred,
and six in one of fifteen thousand.
"""
MAX_BLAME: Final = 3
"""So many silent contacts make a source's others suspect."""


class State(enum.Enum):
    """Where a candidate stands."""

    NEW = enum.auto()
    WAITING = enum.auto()
    SLOW = enum.auto()
    """Asked, late, not given up."""
    READING = enum.auto()
    """Answered, and more of what it keeps is on its way."""
    ANSWERED = enum.auto()
    FAILED = enum.auto()
    SUSPECT = enum.auto()
    """Named by one source alone, whose contacts stay silent. Not asked."""


_IN_WINDOW: Final = (State.NEW, State.WAITING, State.READING, State.ANSWERED)
_AWAITED: Final = (State.WAITING, State.READING)
_OPEN: Final = (State.NEW, *_AWAITED)


class Candidate:
    """A contact that may be asked. depth: hops from us. source: key of who alone named it."""

    __slots__ = ("asked_at", "contact", "depth", "source", "state")

    def __init__(self, contact: Contact, depth: int, source: int | None) -> None:
        self.contact = contact
        self.depth = depth
        self.source = source
        self.state = State.NEW
        self.asked_at = 0.0


class Lookup:
    """The state of one lookup. The caller sends the questions that `next_questions` names.

    target: a key. own: contacts of our own routing table. width: so many closest nodes must have
    answered before it ends. quorum: a lookup for values ends when so many nodes gave some; 0 makes
    it one for nodes alone. hints: others that are asked, too; they may all have come from a liar.
    """

    __slots__ = (
        "_blame",
        "_by_key",
        "_me",
        "_order",
        "_own",
        "_own_heard",
        "asked",
        "failed_count",
        "givers",
        "hops",
        "quorum",
        "records",
        "target",
        "width",
    )

    def __init__(
        self,
        target: int,
        me: int,
        own: Sequence[Contact],
        width: int,
        quorum: int = 0,
        hints: Iterable[Contact] = (),
    ) -> None:
        self.target = target
        self.width = width
        self.quorum = quorum
        self.asked = 0
        self.failed_count = 0
        self.givers = 0
        self.hops = 0
        self.records: dict[bytes, Record] = {}
        self._me = me
        self._by_key: dict[int, Candidate] = {}
        self._order: list[tuple[int, Candidate]] = []
        self._blame: dict[int, int] = {}
        self._own = {contact.key for contact in own}
        self._own_heard = 0
        for contact in (*own, *hints):
            self._add(contact, 1, None)

    def next_questions(self, now: float) -> list[Contact]:
        """Return the contacts to ask now, and count them as asked. now: monotonic seconds."""
        if self.done:
            return []
        window = self._window()
        if not any(candidate.state in _OPEN for candidate in window):
            window = self._own_due()
        busy = sum(candidate.state is State.WAITING for _, candidate in self._order)
        chosen: list[Contact] = []
        for candidate in window:
            if busy >= ALPHA or self.asked >= MAX_ASKED:
                break
            if candidate.state is State.NEW:
                candidate.state = State.WAITING
                candidate.asked_at = now
                self.asked += 1
                busy += 1
                chosen.append(candidate.contact)
        return chosen

    def answered(self, contact: Contact, named: Iterable[Contact]) -> None:
        """Take an answer: the contact is alive and named others."""
        candidate = self._by_key.get(contact.key)
        if candidate is None or candidate.state in (State.READING, State.ANSWERED):
            return
        if candidate.state is State.SLOW and candidate.source is not None:
            self._blame[candidate.source] -= 1
        candidate.state = State.ANSWERED
        self._own_heard += contact.key in self._own
        if not self.quorum:
            self.hops = max(self.hops, candidate.depth)
        for other in named:
            self._add(other, candidate.depth + 1, contact.key)

    def reading(self, contact: Contact, records: Iterable[Record], now: float) -> None:
        """Take checked records of a contact that answered and is asked for more of them.

        now: monotonic seconds.
        """
        self.keep(records)
        candidate = self._by_key.get(contact.key)
        if candidate is not None and candidate.state in (State.READING, State.ANSWERED):
            candidate.state = State.READING
            candidate.asked_at = now

    def keep(self, records: Iterable[Record]) -> None:
        """Take checked records; the freshest of each slot counts."""
        for record in records:
            known = self.records.get(record.slot)
            if known is None or known.issued < record.issued:
                self.records[record.slot] = record

    def gave(self, contact: Contact, records: Iterable[Record]) -> None:
        """Take the last of the checked records that a contact has; it counts as a giver."""
        self.keep(records)
        candidate = self._by_key.get(contact.key)
        if candidate is not None and candidate.state is State.READING:
            candidate.state = State.ANSWERED
        if not self.givers:
            self.hops = 0 if candidate is None else candidate.depth
        self.givers += 1

    def failed(self, contact: Contact) -> None:
        """Take note that a contact did not answer, or answered with what cannot be true."""
        candidate = self._by_key.get(contact.key)
        if candidate is None:
            return
        if candidate.state is not State.SLOW:
            self._suspect(candidate)
        candidate.state = State.FAILED
        self.failed_count += 1

    def mark_slow(self, before: float) -> None:
        """No longer wait for questions asked at `before` (monotonic seconds) or earlier."""
        for _, candidate in self._order:
            if candidate.asked_at > before:
                continue
            if candidate.state is State.READING:
                candidate.state = State.ANSWERED
            elif candidate.state is State.WAITING:
                candidate.state = State.SLOW
                self._suspect(candidate)

    @property
    def oldest_waiting(self) -> float | None:
        """When the oldest question that is waited for was asked; None without one."""
        return min(
            (c.asked_at for _, c in self._order if c.state in _AWAITED),
            default=None,
        )

    @property
    def done(self) -> bool:
        """Whether there is nothing left to ask or to wait for."""
        if self.quorum and self.givers >= self.quorum:
            return True
        window = self._window()
        for candidate in (*window, *self._own_due()):
            if candidate.state in _AWAITED:
                return False
            if candidate.state is State.NEW and self.asked < MAX_ASKED:
                return False
        if len(window) >= self.width or self.givers:
            return True
        return not any(candidate.state is State.SLOW for _, candidate in self._order)

    def closest(self, count: int) -> list[Contact]:
        """Return the closest contacts that answered, closest first."""
        found: list[Contact] = []
        for _, candidate in self._order:
            if candidate.state in (State.READING, State.ANSWERED):
                found.append(candidate.contact)
                if len(found) == count:
                    break
        return found

    def nearest(self, count: int) -> list[Contact]:
        """Return the closest contacts that answered or may do so, closest first."""
        near = (c.contact for _, c in self._order if c.state in _IN_WINDOW)
        return list(islice(near, count))

    def _window(self) -> list[Candidate]:
        window: list[Candidate] = []
        for _, candidate in self._order:
            if candidate.state in _IN_WINDOW:
                window.append(candidate)
                if len(window) == self.width:
                    break
        return window

    def _own_due(self) -> list[Candidate]:
        """Return those of our own contacts of which some have to answer yet, closest first."""
        if self._own_heard >= min(OWN, self.width):
            return []
        return [c for _, c in self._order if c.state in _OPEN and c.contact.key in self._own]

    def _add(self, contact: Contact, depth: int, source: int | None) -> None:
        key = contact.key
        known = self._by_key.get(key)
        if known is not None:
            if known.source != source:
                known.source = None
                if known.state is State.SUSPECT:
                    known.state = State.NEW
            return
        if key == self._me:
            return
        candidate = Candidate(contact, depth, source)
        if source is not None and self._blame.get(source, 0) >= MAX_BLAME:
            candidate.state = State.SUSPECT
        if len(self._order) >= MAX_CANDIDATES and not self._make_room(key ^ self.target):
            return
        self._by_key[key] = candidate
        insort(self._order, (key ^ self.target, candidate), key=_distance)

    def _make_room(self, distance: int) -> bool:
        for index in range(len(self._order) - 1, -1, -1):
            far, candidate = self._order[index]
            is_own = candidate.contact.key in self._own
            if not is_own and candidate.state not in (*_AWAITED, State.SLOW):
                if far < distance:
                    return False
                del self._order[index]
                del self._by_key[candidate.contact.key]
                return True
        return False

    def _suspect(self, silent: Candidate) -> None:
        source = silent.source
        if source is None:
            return
        blame = self._blame[source] = self._blame.get(source, 0) + 1
        if blame < MAX_BLAME:
            return
        for _, candidate in self._order:
            if candidate.source == source and candidate.state is State.NEW:
                candidate.state = State.SUSPECT


def _distance(pair: tuple[int, Candidate]) -> int:
    return pair[0]

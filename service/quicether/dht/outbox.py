"""Requests that can wait: few at a time, the others in line. Pure.

A publication goes to twenty nodes for each key, a push to hundreds of watchers. All at once they
would use up what a peer allows, and every one may cost a handshake. `Core.ask` is for what cannot
wait.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.core import Core, OnAnswer, OnFailure
from quicether.dht.messages import Request
from quicether.model import DropReason

AT_ONCE: Final = 24
"""Requests of one outbox that are under way. Three outboxes and a few lookups stay below the
nodes that can be connected to at one time (`overlay.pool.MAX_DIALLED`)."""
MAX_LINE: Final = 4096

_Waiting = tuple[Contact, Request, OnAnswer, OnFailure]


class Outbox:
    """Sends requests in the order in which they came, `at_once` at a time."""

    __slots__ = ("_at_once", "_core", "_line", "_under_way")

    def __init__(self, core: Core, at_once: int = AT_ONCE) -> None:
        self._core = core
        self._at_once = at_once
        self._under_way = 0
        self._line: deque[_Waiting] = deque()

    def ask(
        self,
        contact: Contact,
        request: Request,
        now: float,
        on_answer: OnAnswer,
        on_failure: OnFailure,
    ) -> None:
        """Send a request now or when it is its turn; one of the two callbacks follows.

        Never before this returns. A request that finds the line full fails at once.
        """
        if self._under_way < self._at_once:
            self._send((contact, request, on_answer, on_failure), now)
        elif len(self._line) < MAX_LINE:
            self._line.append((contact, request, on_answer, on_failure))
        else:
            self._core.counters.drop(DropReason.QUEUE_FULL)
            self._core.schedule(now, on_failure)

    def _send(self, waiting: _Waiting, now: float) -> None:
        contact, request, on_answer, on_failure = waiting
        self._under_way += 1

        def answered(answer: object, at: float) -> None:
            self._done(at)
            on_answer(answer, at)

        def failed(at: float) -> None:
            self._done(at)
            on_failure(at)

        self._core.ask(contact, request, now, answered, failed)

    def _done(self, now: float) -> None:
        self._under_way -= 1
        if self._line:
            self._send(self._line.popleft(), now)

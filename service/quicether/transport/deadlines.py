"""One timer of the event loop for the deadlines of all connections."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Final, Protocol

_GRANULARITY: Final = 0.001
"""Deadlines closer together than this, in seconds, are served in one go."""


class Timed(Protocol):
    """Something with a deadline.

    deadline: when it is to be called, on the event loop's clock; None for never.
    scheduled: kept by `Deadlines`: the heap entry that stands for this object, or None.
    """

    deadline: float | None
    scheduled: float | None

    def on_deadline(self, now: float) -> None:
        """Do what is due, and arm the next deadline. Raises nothing: others wait behind it."""


class Deadlines:
    """A heap of deadlines. One that moves later, as most do, costs nothing until it is due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Timed]] = []
        self._order = itertools.count()
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, timed: Timed, deadline: float | None) -> None:
        """Call `timed.on_deadline` at deadline, and no more at the one it had before."""
        timed.deadline = deadline
        if deadline is not None and (timed.scheduled is None or deadline < timed.scheduled):
            self._push(timed, deadline)
            self._set_timer()

    def close(self) -> None:
        """Forget every deadline."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._heap.clear()

    def _push(self, timed: Timed, deadline: float) -> None:
        timed.scheduled = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), timed))

    def _set_timer(self) -> None:
        when = self._heap[0][0]
        if self._handle is not None:
            if self._handle.when() <= when:
                return
            self._handle.cancel()
        self._handle = self._loop.call_at(when, self._run)

    def _run(self) -> None:
        self._handle = None
        now = self._loop.time()
        horizon = now + _GRANULARITY
        due: list[tuple[float, Timed]] = []
        while self._heap and self._heap[0][0] <= horizon:
            when, _, timed = heapq.heappop(self._heap)
            if timed.scheduled != when:
                continue  # an earlier entry took the place of this one
            timed.scheduled = None
            if timed.deadline is not None and timed.deadline <= horizon:
                due.append((timed.deadline, timed))
                timed.deadline = None
            elif timed.deadline is not None:
                self._push(timed, timed.deadline)
        # Each is called once, so that one whose deadline is due again at once starves nobody.
        for deadline, timed in due:
            timed.on_deadline(max(now, deadline))
        if self._heap:
            self._set_timer()

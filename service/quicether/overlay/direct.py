"""Whether the direct way to a node counts, or a gateway stands in for it. Pure.

Direct is sacred: a connection counts from its first moment. After it failed it counts again only
when it has held for a while and a question that was asked after that has been answered, which
proves both directions. The while doubles with each failure of the last minute, so that a link
that fails every few seconds does not drag the traffic to and fro.

A way is doubted before the transport gives it up: when an answer is overdue, or when the node's
packets arrive by a gateway although we think that it is reached directly. The other side may see
what we do not, as one direction alone can be dead. Such a doubt costs nothing but a question.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from quicether.model import NodeId

OVERDUE: Final = 1.5
"""Seconds without an answer after which a direct way is doubted."""
_OVERDUE_ROUND_TRIPS: Final = 6
"""A slow way gets at least so many round-trip times."""
FIRST_HOLD: Final = 2.0
"""Seconds that a connection has to hold after its first failure."""
LONGEST_HOLD: Final = 30.0
FORGIVEN_AFTER: Final = 60.0
"""Seconds after which a failure is forgotten."""
DETOUR_AGAIN: Final = 10.0
"""Seconds after an answer within which packets that came by a gateway raise no new doubt."""
_MAX_FAILURES: Final = 6


@dataclass(slots=True)
class _Way:
    """The direct way to one node.

    up: there is a connection. silent: an answer is overdue now. counts: packets go there.
    earliest: when a question has to be asked at the earliest, so that its answer proves the way.
    proven: when the last answer came.
    """

    up: bool = False
    silent: bool = False
    counts: bool = False
    earliest: float = 0.0
    proven: float | None = None
    failures: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_FAILURES))


class DirectWays:
    """The direct ways to all nodes. Times are monotonic seconds.

    A node that is not connected is forgotten when its last failure is, so this is bounded by the
    connections of a minute.
    """

    def __init__(self) -> None:
        self._ways: dict[NodeId, _Way] = {}

    def counts(self, node: NodeId) -> bool:
        """Tell whether packets to node are to go directly."""
        way = self._ways.get(node)
        return way is not None and way.counts

    def answers(self, node: NodeId) -> bool:
        """Tell whether node is connected and no answer of it overdue, however short that held."""
        way = self._ways.get(node)
        return way is not None and way.up and not way.silent

    def unproven(self) -> list[NodeId]:
        """Return the connected nodes whose way does not count: each is to be asked."""
        return [node for node, way in self._ways.items() if way.up and not way.counts]

    def up(self, node: NodeId, now: float) -> None:
        """A connection to node came up, or another one did."""
        way = self._ways.setdefault(node, _Way())
        if way.up:
            return
        hold = _hold(way, now)
        way.up, way.silent = True, False
        way.earliest = now + hold
        way.counts = hold == 0

    def down(self, node: NodeId, now: float) -> None:
        """The last connection to node is gone."""
        way = self._ways.get(node)
        if way is None or not way.up:
            return
        self._fail(way, now)
        way.up = False

    def overdue(self, node: NodeId, unanswered: float, rtt: float | None, now: float) -> None:
        """Look at how long an answer of node has been due. rtt: seconds, None if unknown."""
        way = self._ways.get(node)
        if way is None or not way.up:
            return
        way.silent = unanswered >= max(OVERDUE, _OVERDUE_ROUND_TRIPS * (rtt or 0.0))
        if way.silent:
            self._fail(way, now)

    def detoured(self, node: NodeId, now: float) -> bool:
        """Note that packets of node came by a gateway; tell whether its way is doubted now."""
        way = self._ways.get(node)
        if way is None or not way.counts:
            return False
        if way.proven is not None and now - way.proven < DETOUR_AGAIN:
            return False
        way.counts = False
        way.earliest = now
        return True

    def answered(self, node: NodeId, asked: float, now: float) -> None:
        """Take the answer to a question that was asked at that time."""
        way = self._ways.get(node)
        if way is None or not way.up:
            return
        way.proven = now
        if asked >= way.earliest:
            way.counts = True

    def expire(self, now: float) -> None:
        """Forget nodes that are not connected and whose failures are forgiven."""
        for node in [node for node, way in self._ways.items() if not way.up]:
            if not _failures(self._ways[node], now):
                del self._ways[node]

    def _fail(self, way: _Way, now: float) -> None:
        if way.counts:
            way.failures.append(now)
        way.counts = False
        way.earliest = now + _hold(way, now)


def _hold(way: _Way, now: float) -> float:
    """Return how long a way has to hold before it counts, in seconds."""
    failures = _failures(way, now)
    return min(FIRST_HOLD * 2 ** (failures - 1), LONGEST_HOLD) if failures else 0.0


def _failures(way: _Way, now: float) -> int:
    return sum(now - failure < FORGIVEN_AFTER for failure in way.failures)

"""What all parts of the DHT machine share: timers, calls, the routing table and the store. Pure.

Time is monotonic seconds everywhere; `wall` turns it into seconds since 1970 for records.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, ClassVar, Final

from quicether.counters import Counters
from quicether.dht import messages
from quicether.dht.buckets import Entry, RoutingTable
from quicether.dht.contact import Contact
from quicether.dht.contents import NODE_TTL, RecordRefused
from quicether.dht.entropy import Entropy
from quicether.dht.events import Event, SendRequest
from quicether.dht.messages import Request, Response
from quicether.dht.records import Record, Verifier
from quicether.dht.store import DEFAULT_LIMITS, StoreLimits, ValueStore
from quicether.errors import ProtocolError
from quicether.model import DropReason

MAX_CALLS: Final = 1024
"""Requests without an answer yet; more fail at once."""
LATER: Final = (1.0, 2.0, 4.0)
"""Seconds after which a peer that refused a request because of its rate is asked again."""
MAX_LOST: Final = 32
"""Evicted contacts that are tried again now and then."""
RETURNS: Final = 3
"""So many of them that return mean that the network was in two, not that one node was away."""
WITNESSES: Final = 3
"""So many others are asked when the silence of one may be our own."""
ALONE_AFTER: Final = 60.0
"""Who heard nobody for so many seconds does not blame the silence on the others."""


@dataclass(frozen=True, slots=True)
class DhtConfig:
    """Constants of a network's DHT; times in seconds.

    refresh: how often each bucket is refreshed. doubted: for how long a contact was not heard of
    that is asked whether it should make room in a full bucket. rpc_timeout: of a request.
    slow_after: when a lookup goes on without an answer. retry_lost: how often an evicted contact
    is tried again. lost_for: how long. rate, burst: requests a second, and at once, that a peer
    may send. lease: for how long a watcher is told of changes. quorum: nodes that must give
    values. longest_ttl: of what is published, beside the bound of its kind.
    """

    refresh: float = 900.0
    doubted: float = 7200.0
    rpc_timeout: float = 3.0
    slow_after: float = 0.6
    retry_lost: float = 120.0
    lost_for: float = 86_400.0
    rate: float = 50.0
    burst: float = 200.0
    limited_peers: int = 1024
    lease: float = 3600.0
    quorum: int = 3
    longest_ttl: int = NODE_TTL
    store: StoreLimits = field(default_factory=lambda: DEFAULT_LIMITS)


ANSWERS: Final[dict[type[Request], type[Response]]] = {
    messages.Ping: messages.Pong,
    messages.FindNode: messages.Nodes,
    messages.FindValue: messages.Values,
    messages.Store: messages.Stored,
    messages.Notify: messages.Pong,
}

OnAnswer = Callable[[Any, float], None]
OnFailure = Callable[[float], None]


class Call:
    """A request that was sent. Its answer is of the type that belongs to it.

    tries: how often the peer had no time for it.
    """

    __slots__ = ("contact", "on_answer", "on_failure", "request", "sent", "tries")

    def __init__(
        self,
        contact: Contact,
        request: Request,
        sent: float,
        on_answer: OnAnswer,
        on_failure: OnFailure,
    ) -> None:
        self.contact = contact
        self.request = request
        self.tries = 0
        self.sent = sent
        self.on_answer = on_answer
        self.on_failure = on_failure


class Core:
    """Timers, calls, routing table and store of one node."""

    __slots__ = (
        "_alone",
        "_call_count",
        "_calls",
        "_heard",
        "_lost",
        "_lost_swept",
        "_returned",
        "_timer_count",
        "_timers",
        "_witnesses",
        "clock_offset",
        "config",
        "counters",
        "events",
        "me",
        "network_id",
        "on_newcomer",
        "on_return",
        "random",
        "store",
        "table",
        "verifier",
    )

    RETRY: ClassVar[tuple[float, ...]] = (15.0, 30.0, 60.0, 120.0)
    """Seconds until the next ping after one, two, three, four failed ones."""

    def __init__(
        self,
        me: Contact,
        network_id: bytes,
        verifier: Verifier,
        config: DhtConfig,
        random: Entropy,
        counters: Counters,
        clock_offset: float,
    ) -> None:
        self.me = me
        self.network_id = network_id
        self.verifier = verifier
        self.config = config
        self.random = random
        self.counters = counters
        self.clock_offset = clock_offset
        self.table = RoutingTable(me.key)
        self.store = ValueStore(config.store)
        self.events: list[Event] = []
        self.on_newcomer: Callable[[Contact, float], None] = _ignore
        self.on_return: Callable[[Contact, float], None] = _ignore
        self._timers: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._timer_count = 0
        self._calls: dict[int, Call] = {}
        self._call_count = 0
        self._heard = 0.0
        self._alone = False
        self._lost: OrderedDict[int, tuple[Contact, float]] | None = None
        self._lost_swept = 0.0
        self._returned = 0
        self._witnesses = 0

    # -- time ------------------------------------------------------------------------------

    def wall(self, now: float) -> float:
        """Return seconds since 1970 at a monotonic time."""
        return now + self.clock_offset

    def schedule(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Have action(*args, now) called at a monotonic time."""
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, action, args))

    @property
    def next_timer(self) -> float | None:
        """When `run_timers` is due, monotonic seconds; None when never."""
        return self._timers[0][0] if self._timers else None

    def run_timers(self, now: float) -> None:
        """Call what is due."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, _, action, args = heappop(timers)
            action(*args, now)

    def spread(self, seconds: float) -> float:
        """Return 80 to 100 % of a time, so that nodes do not act in step."""
        return seconds * (0.8 + 0.2 * self.random.random())

    # -- calls -----------------------------------------------------------------------------

    def ask(
        self,
        contact: Contact,
        request: Request,
        now: float,
        on_answer: OnAnswer,
        on_failure: OnFailure,
    ) -> None:
        """Send a request; one of the two callbacks follows, never before this returns."""
        if len(self._calls) >= MAX_CALLS:
            self.counters.drop(DropReason.QUEUE_FULL)
            self.schedule(now, on_failure)
            return
        self._send(Call(contact, request, now, on_answer, on_failure), now)

    def _send(self, call: Call, now: float) -> None:
        call.sent = now
        self._call_count += 1
        self._calls[self._call_count] = call
        body = messages.encode(call.request)
        timeout = self.config.rpc_timeout
        self.events.append(SendRequest(self._call_count, call.contact, body, timeout))

    def response(self, number: int, body: bytes, now: float) -> None:
        """Take the answer to a request."""
        call = self._calls.pop(number, None)
        if call is None:
            return
        try:
            answer = messages.decode_response(body)
        except ProtocolError:
            self.counters.drop(DropReason.MALFORMED)
            self._call_failed(call, now)
            return
        self.seen(call.contact, now)
        if isinstance(answer, ANSWERS[type(call.request)]):
            call.on_answer(answer, now)
        elif isinstance(answer, messages.Refused) and call.tries < len(LATER):
            # It is there and has no time for us: asked again later, which is no failure.
            self.schedule(now + self.spread(LATER[call.tries]), self._send, call)
            call.tries += 1
        else:
            call.on_failure(now)

    def failed(self, number: int, now: float) -> None:
        """Take note that a request will not be answered."""
        call = self._calls.pop(number, None)
        if call is not None:
            self._call_failed(call, now)

    def _call_failed(self, call: Call, now: float) -> None:
        self._silent(call.contact.key, call.sent, now)
        call.on_failure(now)

    # -- routing table ---------------------------------------------------------------------

    def seen(self, contact: Contact, now: float) -> None:
        """Take note that a node is alive, and notice when the network was in two."""
        self._heard = now
        if self._alone:
            self._alone = False
            self.on_return(contact, now)
        if self._lost and self._lost.pop(contact.key, None) is not None:
            self._lost_returned(contact, now)
        is_new, to_ping = self.table.seen(contact, now)
        if is_new:
            self.on_newcomer(contact, now)
        elif to_ping is not None and now - to_ping.seen > self.config.doubted:
            self.ping(to_ping.contact, now)

    def ping(self, contact: Contact, now: float) -> None:
        """Ask a contact whether it is alive; the routing table takes note of either."""
        self.ask(contact, messages.Ping(), now, _no_answer, _no_failure)

    def _silent(self, key: int, since: float, now: float) -> None:
        entry = self.table.get(key)
        if entry is not None and self._heard < since - ALONE_AFTER:
            # It may be our own uplink. Mark it, keep asking, evict nobody.
            entry.failures = max(1, entry.failures)
            self._retry_in(self.RETRY[-1 if self._alone else 0], entry, now)
            self._doubt(now)
            return
        evicted = self.table.failed(key, since, now)
        if evicted is not None:
            self._lose(evicted, now)
        elif entry is not None:
            self._retry_in(self.RETRY[min(entry.failures, len(self.RETRY)) - 1], entry, now)

    def _doubt(self, now: float) -> None:
        """Ask those who were heard last whether it is us who are cut off."""
        if self._alone or self._witnesses:
            return
        live = sorted((e for e in self.table if not e.failures), key=lambda entry: -entry.seen)
        self._alone = not live
        for entry in live[:WITNESSES]:
            self._witnesses += 1
            self.ask(entry.contact, messages.Ping(), now, self._vouched, self._unvouched)

    def _vouched(self, _answer: object, _now: float) -> None:
        self._witnesses -= 1

    def _unvouched(self, now: float) -> None:
        self._witnesses -= 1
        if not self._witnesses and self._heard < now - ALONE_AFTER:
            self._alone = True

    def _lose(self, contact: Contact, now: float) -> None:
        if self._lost is None:
            self._lost = OrderedDict()
        if not self._lost:
            self.schedule(now + self.spread(self.config.retry_lost), self._try_lost)
        self._lost[contact.key] = (contact, now)
        if len(self._lost) > MAX_LOST:
            self._lost.popitem(last=False)

    def _lost_returned(self, contact: Contact, now: float) -> None:
        self._returned += 1
        if not self._lost or self._returned >= RETURNS:
            self._returned = 0
            self.on_return(contact, now)
        elif now - self._lost_swept >= self.config.retry_lost:
            self._lost_swept = now
            for other, _ in list(self._lost.values()):
                self.ping(other, now)

    def _retry_in(self, seconds: float, entry: Entry, now: float) -> None:
        if not entry.retrying:
            entry.retrying = True
            self.schedule(now + self.spread(seconds), self._retry, entry)

    def _retry(self, entry: Entry, now: float) -> None:
        entry.retrying = False
        if entry.failures and self.table.get(entry.contact.key) is entry:
            self.ping(entry.contact, now)

    def _try_lost(self, now: float) -> None:
        if not self._lost:
            return
        key, (contact, since) = next(iter(self._lost.items()))
        if now - since > self.config.lost_for:
            del self._lost[key]
        else:
            self._lost.move_to_end(key)
            self.ping(contact, now)
        if self._lost:
            self.schedule(now + self.spread(self.config.retry_lost), self._try_lost)

    def forget_contact(self, key: int) -> None:
        """Neither ask nor name a node any more."""
        self.table.forget(key)
        if self._lost:
            self._lost.pop(key, None)

    def has_live_contact(self) -> bool:
        """Tell whether any contact answered when it was last asked."""
        return any(not entry.failures for entry in self.table)

    def random_key_in_bucket(self, index: int) -> int:
        """Return a random key whose highest differing bit from ours is index."""
        low = self.random.getrandbits(index) if index else 0
        return self.me.key ^ (1 << index) ^ low

    # -- records ---------------------------------------------------------------------------

    def checked(self, key: int, wires: Iterable[bytes], now: float) -> list[Record]:
        """Return the good records among wires that belong under key; count the others."""
        good: list[Record] = []
        for wire in wires:
            record = self.check(key, wire, now)
            if record is not None:
                good.append(record)
        return good

    def check(self, key: int, wire: bytes, now: float) -> Record | None:
        """Return the record if it is good and belongs under key; else count it."""
        try:
            record = self.verifier.verify(wire, self.wall(now))
        except RecordRefused as refusal:
            self.counters.drop(refusal.reason)
            return None
        if key not in record.keys:
            self.counters.drop(DropReason.RECORD_NOT_COVERED)
            return None
        return record


def _ignore(_contact: Contact, _now: float) -> None:
    """Before the node has put itself together there is nobody to tell."""


def _no_answer(_answer: object, _now: float) -> None:
    """The routing table took note already."""


def _no_failure(_now: float) -> None:
    """The routing table took note already."""

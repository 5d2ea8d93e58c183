"""Whom this node wants to be connected to, and which of several connections counts. Pure.

Time comes in as monotonic seconds and jitter from a `random.Random`; attempts and connections to
close come out. Two questions are settled here:

**When to try.** A target is tried at once, then again after a delay that doubles from
`FIRST_DELAY` to the target's own ceiling, with jitter so that a network that comes back is not
hit by everybody at the same instant.

**Which connection counts.** Both sides may connect at once, and a peer may come back before its
old connection is known to be dead. Each run of a node has a random instance number in its Hello.
A new instance ends every connection of the older one. Among connections of one instance those
that the lower NodeId opened are preferred, and only the side that opened a connection closes it
as a duplicate, so the two sides can never close both.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from quicether.config.values import HostPort, PeerAddress
from quicether.errors import ConfigError, QuicEtherError, TrustError
from quicether.model import NodeId, PeerState, UnderlayAddress
from quicether.transport.endpoint import CloseCode, Connection

FIRST_DELAY: Final = 0.5
"""Seconds before the second attempt."""
CEILING: Final = 5.0
"""Longest delay, in seconds, between two attempts. A gateway may stand in meanwhile."""
RETURNING_CEILING: Final = 1.5
RETURNING_FOR: Final = 600.0
"""Seconds after the loss of a connection during which the delay stays below RETURNING_CEILING.

A gateway may stand in for that time, and direct is sacred.
"""
MAX_TARGETS: Final = 4096
MAX_CONNECTIONS_PER_NODE: Final = 4
MAX_ADDRESSES: Final = 8
"""Addresses of one target that are tried side by side."""


class TargetKind(enum.Enum):
    """Why a node is wanted; decides how long it is tried."""

    CONFIGURED = "configured"
    DISCOVERED = "discovered"
    """Given up after `GIVE_UP_AFTER` attempts; wanted again when a packet asks for it."""
    BOOTSTRAP = "bootstrap"
    """An address where any member helps; tried until somebody is found, there or elsewhere."""
    CONTACT = "contact"
    """Wanted for a question of the DHT; tried once."""


GIVE_UP_AFTER: Final = 6
_AWAITED: Final = (TargetKind.CONFIGURED, TargetKind.BOOTSTRAP)
"""What a tunnel that comes up waits for, and does not tire of."""
_TO_PACKETS: Final = (TargetKind.CONFIGURED, TargetKind.DISCOVERED)
"""What is wanted for its packets, so that its return matters at once."""
_ATTEMPTS: Final = {TargetKind.DISCOVERED: GIVE_UP_AFTER, TargetKind.CONTACT: 1}


@dataclass(slots=True)
class Target:
    """A peer that is wanted.

    key: how its owner calls it, unique. expect: the only node accepted there, if known.
    reference: name, or beginning of the id, of the only member accepted there.
    node: who was found there, once connected. lost: when a connection to it was lost last.
    """

    key: str
    locations: tuple[HostPort, ...]
    kind: TargetKind
    expect: NodeId | None = None
    reference: str | None = None
    node: NodeId | None = None
    attempts: int = 0
    outcomes: int = 0
    next_try: float | None = 0.0
    trying: set[UnderlayAddress] = field(default_factory=set)
    error: QuicEtherError | None = None
    lost: float | None = None

    def returns(self, now: float) -> bool:
        """Tell whether the node was connected a short while ago."""
        return self.lost is not None and now - self.lost < RETURNING_FOR

    def ceiling(self, now: float) -> float:
        """Longest delay between two attempts, in seconds."""
        return RETURNING_CEILING if self.returns(now) else CEILING


@dataclass(frozen=True, slots=True)
class Closing:
    """A connection that is to be closed, and what to say."""

    connection: Connection
    code: CloseCode
    reason: str


@dataclass(slots=True)
class _Live:
    connection: Connection
    instance: bytes
    since: float


class PeerTable:
    """All targets and all live connections of one tunnel.

    Bounded: at most MAX_TARGETS targets and MAX_CONNECTIONS_PER_NODE connections a node.
    """

    def __init__(self, me: NodeId, entropy: Random) -> None:
        self._me = me
        self._entropy = entropy
        self._targets: dict[str, Target] = {}
        self._live: dict[NodeId, list[_Live]] = {}

    # -- targets -----------------------------------------------------------------------------

    def want(
        self,
        key: str,
        locations: Iterable[HostPort],
        kind: TargetKind,
        now: float,
        *,
        expect: NodeId | None = None,
        reference: str | None = None,
        more: bool = False,
    ) -> Target:
        """Add a target, or give a known one new locations; it is tried at once when idle.

        more: the locations come behind those that are known, instead of in their place.
        Raises ConfigError: there are MAX_TARGETS of them already.
        """
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= MAX_TARGETS:
                raise ConfigError(f"peer {key}: at most {MAX_TARGETS} peers are kept")
            target = Target(key, (), kind, expect, reference)
            self._targets[key] = target
        if target.kind is TargetKind.CONTACT:
            target.kind = kind
        known = target.locations if more else ()
        fresh = tuple(dict.fromkeys((*known, *locations)))[:MAX_ADDRESSES]
        moved = fresh != target.locations
        target.locations = fresh
        idle = not target.trying and self._connection_of(target) is None
        if idle and (moved or target.next_try is None):
            target.attempts = 0
            target.next_try = now
        return target

    def want_configured(self, peers: Iterable[PeerAddress], now: float) -> None:
        """Make peers all that the configuration names, in place of what it named before.

        Raises ConfigError: there are MAX_TARGETS targets already.
        """
        wanted = {str(peer): peer for peer in peers}
        for target in self.targets():
            if target.kind is TargetKind.CONFIGURED and target.key not in wanted:
                self.forget(target.key)
        for key, peer in wanted.items():
            expect, reference = _whom(peer.node)
            kind = TargetKind.CONFIGURED
            self.want(key, [peer.endpoint], kind, now, expect=expect, reference=reference)

    def forget(self, key: str) -> None:
        """Drop a target; its live connections stay until someone closes them."""
        self._targets.pop(key, None)

    def forget_spent(self, *, found_somebody: bool) -> None:
        """Drop the targets that are neither connected nor tried any more.

        found_somebody: then bootstrap addresses that did not answer are dropped too.
        """
        for key, target in list(self._targets.items()):
            if target.kind is TargetKind.CONFIGURED or target.trying:
                continue
            if target.kind is TargetKind.BOOTSTRAP:
                spent = found_somebody and target.outcomes > 0
            else:
                spent = target.next_try is None and target.outcomes > 0
            if spent and self._connection_of(target) is None:
                del self._targets[key]

    def is_pursued(self, key: str) -> bool:
        """Tell whether a target is being tried or will be by itself."""
        target = self._targets.get(key)
        return target is not None and (bool(target.trying) or target.next_try is not None)

    def configured(self) -> set[NodeId]:
        """Return the nodes that a user named as peers, as far as they are known."""
        return {
            node
            for target in self._targets.values()
            if target.kind is TargetKind.CONFIGURED
            for node in (target.expect, target.node)
            if node is not None
        }

    def targets(self) -> tuple[Target, ...]:
        """Return every target, in the order they were added."""
        return tuple(self._targets.values())

    def due(self, now: float) -> list[Target]:
        """Return the targets to be tried now; each waits for `tried` and its outcome."""
        ready = []
        for target in self._targets.values():
            if target.next_try is not None and target.next_try <= now and target.locations:
                target.next_try = None
                if self._connection_of(target) is None:
                    target.attempts += 1
                    ready.append(target)
        return ready

    def next_due(self) -> float | None:
        """Return when `due` has something next; None when nothing waits."""
        times = [
            target.next_try
            for target in self._targets.values()
            if target.next_try is not None and target.locations
        ]
        return min(times, default=None)

    def tried(self, target: Target, addresses: Iterable[UnderlayAddress]) -> None:
        """Note the addresses an attempt was started at."""
        target.trying = set(addresses)

    def attempt_failed(
        self, target: Target, address: UnderlayAddress | None, error: QuicEtherError, now: float
    ) -> None:
        """Note that one address (None: all) came to nothing; the last one sets the next try."""
        if address is None:
            target.trying.clear()
        else:
            target.trying.discard(address)
        # Being refused says more than silence from another address of the same peer.
        if not isinstance(target.error, TrustError) or isinstance(error, TrustError):
            target.error = error
        if target.trying or self._connection_of(target) is not None:
            return
        target.outcomes += 1
        self._back_off(target, now)

    def trying(self, address: UnderlayAddress) -> list[Target]:
        """Return the targets with an attempt under way at address."""
        return [target for target in self._targets.values() if address in target.trying]

    def is_me(self, address: UnderlayAddress) -> None:
        """Drop the bootstrap targets at address, which turned out to be this node's own."""
        for target in self.trying(address):
            if target.kind is TargetKind.BOOTSTRAP:
                self.forget(target.key)

    def kick(self, now: float) -> None:
        """Try everything that waits at once: the host's network changed."""
        for target in self._targets.values():
            if not target.trying and self._connection_of(target) is None:
                target.attempts = 0
                target.next_try = now

    def settled(self) -> bool:
        """Tell whether each configured or bootstrap target has been found or has failed once."""
        return all(
            target.outcomes > 0 for target in self._targets.values() if target.kind in _AWAITED
        )

    def _back_off(self, target: Target, now: float) -> None:
        hopeless = target.attempts >= _ATTEMPTS.get(target.kind, target.attempts + 1)
        if hopeless and not target.returns(now):
            target.next_try = None
            return
        delay = min(FIRST_DELAY * 2 ** max(target.attempts - 1, 0), target.ceiling(now))
        target.next_try = now + delay * self._entropy.uniform(0.75, 1.25)

    # -- connections -------------------------------------------------------------------------

    def connected(self, connection: Connection, instance: bytes, now: float) -> list[Closing]:
        """Take in an authenticated connection and return those that it makes superfluous."""
        member, node = connection.member, connection.member.node_id
        for target in self.trying(connection.remote):
            if connection.initiated and target.expect in (None, node):
                if target.reference is not None and not member.is_called(target.reference):
                    error = TrustError(
                        f"peer {target.key}: {connection.remote} is {member.name!r} "
                        f"({node}), not {target.reference!r}"
                    )
                    self.attempt_failed(target, connection.remote, error, now)
                    return [Closing(connection, CloseCode.REFUSED, str(error))]
                target.node = node
        lives = self._live.setdefault(node, [])
        closing = [
            Closing(live.connection, CloseCode.DONE, "the peer was restarted")
            for live in lives
            if live.instance != instance
        ]
        lives[:] = [live for live in lives if live.instance == instance]
        lives.append(_Live(connection, instance, now))
        closing += self._superfluous(node)
        for target in self._targets.values():
            by_name = target.reference is not None and member.is_called(target.reference)
            if by_name or self._is(target, node):
                target.node = node
                target.trying.clear()
                target.attempts = 0
                target.outcomes += 1
                target.next_try = None
                target.error = None
        return closing

    def _superfluous(self, node: NodeId) -> list[Closing]:
        """Return, and no longer count, the connections this side opened once too often."""
        lives = self._live[node]
        mine = [live for live in lives if live.connection.initiated]
        theirs = [live for live in lives if not live.connection.initiated]
        extra = mine if theirs and node < self._me else mine[1:]
        # A peer that opens without ever closing is bounded by ending its oldest.
        extra = extra + theirs[:-MAX_CONNECTIONS_PER_NODE]
        lives[:] = [live for live in lives if live not in extra]
        return [Closing(live.connection, CloseCode.DUPLICATE, "duplicate") for live in extra]

    def disconnected(self, connection: Connection, error: QuicEtherError, now: float) -> bool:
        """Note that a connection ended; tell whether the node has none left.

        A connection that was superfluous before has no say.
        """
        node = connection.member.node_id
        lives = self._live.get(node, [])
        if not any(live.connection is connection for live in lives):
            return False
        lives[:] = [live for live in lives if live.connection is not connection]
        if lives:
            return False
        del self._live[node]
        for target in self._targets.values():
            if self._is(target, node):
                target.error = error
                target.lost = now if target.kind in _TO_PACKETS else None
                self._back_off(target, now)
        return True

    def active(self, node: NodeId) -> Connection | None:
        """Return the connection that counts for node, None without one."""
        lives = self._live.get(node)
        if not lives:
            return None
        by_lower = [
            live for live in lives if live.connection.initiated == (self._me < node)
        ] or lives
        return by_lower[-1].connection

    def connections(self) -> dict[NodeId, Connection]:
        """Return the connection that counts for every connected node."""
        return {node: live for node in self._live if (live := self.active(node)) is not None}

    def every_connection(self) -> list[Connection]:
        """Return all live connections, those that do not count included."""
        return [live.connection for lives in self._live.values() for live in lives]

    def since(self, node: NodeId) -> float | None:
        """Return when the oldest live connection to node came up, None without one."""
        return min((live.since for live in self._live.get(node, [])), default=None)

    def state(self, target: Target) -> PeerState:
        """Return what a user is told of a target."""
        if self._connection_of(target) is not None:
            return PeerState.CONNECTED
        if isinstance(target.error, TrustError):
            return PeerState.REFUSED
        return PeerState.UNREACHABLE if target.outcomes else PeerState.CONNECTING

    @staticmethod
    def _is(target: Target, node: NodeId) -> bool:
        return node in (target.expect, target.node)

    def _connection_of(self, target: Target) -> Connection | None:
        node = target.expect or target.node
        return None if node is None else self.active(node)


def _whom(reference: str | None) -> tuple[NodeId | None, str | None]:
    """Return the one id, or the name or beginning of an id, that a peer has to have."""
    if reference is None:
        return None, None
    try:
        return NodeId.parse(reference), None
    except ConfigError:
        return None, reference

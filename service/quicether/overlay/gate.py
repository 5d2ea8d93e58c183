"""The node with the authority's key as others see it: where machines join and members renew.

Only carries questions to the registrar, which is another process, and answers back. What it
guards is the registrar's time: each remote and each member may ask now and then, not more.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Protocol

from quicether.counters import Counters
from quicether.errors import HostError, IdentityError, ProtocolError, TrustError
from quicether.identity import renewal
from quicether.model import DropReason, UnderlayAddress
from quicether.transport.endpoint import Connection

log = logging.getLogger(__name__)

MAX_ASKERS: Final = 1024
"""Askers whose questions are counted at one time; the one silent for the longest is forgotten."""


class Registrar(Protocol):
    """Answers for the authority; see `identity.registrar.Registrar.answer`."""

    async def answer(self, body: bytes) -> bytes:
        """Return the answer to a question to join or to renew. Raises a QuicEtherError."""


class Allowance:
    """Token buckets, one for each asker. Pure: time comes in as monotonic seconds.

    at_once: questions in a burst. every: seconds in which one more is earned.
    """

    def __init__(self, at_once: int, every: float) -> None:
        self._at_once = float(at_once)
        self._every = every
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, asker: Hashable, now: float) -> bool:
        """Count a question; False: the asker has to wait."""
        tokens, since = self._buckets.pop(asker, (self._at_once, now))
        tokens = min(self._at_once, tokens + (now - since) / self._every)
        allowed = tokens >= 1
        self._buckets[asker] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > MAX_ASKERS:
            self._buckets.popitem(last=False)
        return allowed


class Gate:
    """Implements `transport.EnrolHandler` for strangers and `neighbours.RpcService` for members."""

    def __init__(
        self, registrar: Registrar, counters: Counters, clock: Callable[[], float]
    ) -> None:
        """clock: monotonic seconds."""
        self._registrar = registrar
        self._counters = counters
        self._clock = clock
        self._strangers = Allowance(at_once=5, every=10.0)
        self._members = Allowance(at_once=3, every=60.0)

    async def enrol(self, remote: UnderlayAddress, body: bytes) -> bytes:
        """Answer a machine that asks to join.

        Raises TrustError: not invited, or too many questions from there; ProtocolError,
        IdentityError, HostError: see `Registrar`.
        """
        if not self._strangers.take(_whereabouts(remote), self._clock()):
            self._counters.drop(DropReason.RPC_LIMITED)
            raise TrustError(f"{remote.host} asks to join too often")
        if renewal.kind_of(body) != "enrol":
            raise ProtocolError(f"{remote} is no member, so it cannot renew")
        answer = await self._ask(body)
        log.info("a machine at %s was answered by the registrar", remote)
        return answer

    async def answer(self, connection: Connection, body: bytes) -> bytes:
        """Answer a member that asks for its next certificate, or passes such a question on.

        Raises as `enrol`.
        """
        member = connection.member
        if not self._members.take(member.node_id, self._clock()):
            self._counters.drop(DropReason.RPC_LIMITED)
            raise TrustError(f"node {member.name} asks for certificates too often")
        if renewal.kind_of(body) != "renew":
            raise ProtocolError(f"node {member.name} is a member already, so it cannot join")
        answer = await self._ask(body)
        log.info("the certificate that node %s asked for is renewed", member.name)
        return answer

    async def _ask(self, body: bytes) -> bytes:
        try:
            return await self._registrar.answer(body)
        except (IdentityError, HostError) as error:
            # Who asked is told nothing of it, and cannot mend it.
            log.error("nobody can join or renew: %s", error)  # noqa: TRY400 - a sentence
            raise


def _whereabouts(remote: UnderlayAddress) -> Hashable:
    """Return what one remote host cannot change: its IPv4 address, or its IPv6 /64."""
    if isinstance(remote.ip, IPv6Address):
        return IPv6Network((remote.ip.packed, 64), strict=False)
    return remote.ip

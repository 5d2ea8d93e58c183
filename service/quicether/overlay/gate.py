"""The node with the authority's key as others see it: where machines join and members renew.

Only carries questions to the registrar, which is another process, and answers back. What it
guards is the registrar's time: each member may ask now and then, not more. How often strangers
may is the transport's matter (`EnrolmentDesk`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from quicether.counters import Counters
from quicether.errors import ConfigError, HostError, IdentityError, ProtocolError, TrustError
from quicether.identity import renewal
from quicether.model import DropReason, UnderlayAddress
from quicether.token_bucket import TokenBuckets
from quicether.transport.endpoint import Connection

log = logging.getLogger(__name__)

RATE: Final = 1 / 60
BURST: Final = 3
"""Questions of one member a second in the long run, and at once."""
MAX_MEMBERS: Final = 1024
"""Members whose questions are counted; the one silent for longest begins anew."""


class Registrar(Protocol):
    """Answers for the authority; see `identity.registrar.Registrar.answer`."""

    async def answer(self, body: bytes) -> bytes:
        """Return the answer to a question to join or to renew. Raises a QuicEtherError."""


class Gate:
    """Implements `transport.EnrolHandler` for strangers and `neighbours.RpcService` for members."""

    def __init__(
        self, registrar: Registrar, counters: Counters, clock: Callable[[], float]
    ) -> None:
        """clock: monotonic seconds."""
        self._registrar = registrar
        self._counters = counters
        self._clock = clock
        self._members = TokenBuckets(RATE, BURST, MAX_MEMBERS)

    async def enrol(self, remote: UnderlayAddress, body: bytes) -> bytes:
        """Answer a machine that asks to join; the transport bounds how often.

        Raises TrustError: not invited; ProtocolError, IdentityError, HostError: see `Registrar`.
        """
        if renewal.kind_of(body) != "enrol":
            raise ProtocolError(f"{remote} is no member, so it cannot renew")
        answer = await self._ask(body)
        log.info("a machine at %s was answered by the registrar", remote)
        return answer

    async def answer(self, connection: Connection, body: bytes) -> bytes:
        """Answer a member that asks for its next certificate, or passes such a question on.

        Raises as `enrol`, and TrustError: too many questions of that member.
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
        except (ConfigError, IdentityError, HostError) as error:
            # Who asked is told nothing of it, and cannot mend it.
            log.error("nobody can join or renew: %s", error)  # noqa: TRY400 - a sentence
            raise

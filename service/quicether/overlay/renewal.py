"""How a node gets its next certificate before the present one ends.

The question goes to the registrar on this machine, or to connected peers that say in their Hello
that they have the authority. It is signed, and its answer is of use to this node alone, so a peer
that only pretends can do no more than not answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.errors import ConfigError, QuicEtherError, TrustError, UnreachableError
from quicether.identity import renewal
from quicether.identity.keys import NodeKey
from quicether.identity.trust import AuthorityTrust
from quicether.model import Member
from quicether.overlay.gate import Registrar
from quicether.transport.endpoint import Connection
from quicether.transport.messages import RpcKind

log = logging.getLogger(__name__)

CAPABILITY: Final = "authority"
"""What a node says in its Hello when it answers questions for certificates."""
PATIENCE: Final = 15.0
"""Seconds that a peer has to answer; the registrar may have to start."""
LONGEST_WAIT: Final = 3600.0
"""Seconds between two looks at the clock, which may be set meanwhile."""
SHORTEST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 600.0
_DUE: Final = 2 / 3
"""Share of a certificate's life after which `renewal.is_due` says so."""


class Renewal:
    """Keeps one node's certificate from ending.

    authorities: returns the peers to ask. registrar: this machine's own, if it is the authority.
    renewed: puts a new certificate in force. now: the time, UTC.
    """

    def __init__(
        self,
        key: NodeKey,
        trust: AuthorityTrust,
        certificate: x509.Certificate,
        *,
        authorities: Callable[[], Iterable[Connection]],
        registrar: Registrar | None,
        renewed: Callable[[x509.Certificate, Member], None],
        now: Callable[[], datetime],
    ) -> None:
        self.certificate = certificate
        self._key = key
        self._trust = trust
        self._authorities = authorities
        self._registrar = registrar
        self._renewed = renewed
        self._now = now
        self._one_at_a_time = asyncio.Lock()
        self._news = asyncio.Event()

    def look_again(self) -> None:
        """Ask at once if a renewal is due: an authority came into reach."""
        self._news.set()

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled."""
        while True:
            self._news.clear()
            if renewal.is_due(self.certificate, self._now()):
                try:
                    await self.renew()
                except QuicEtherError as error:
                    log.warning("the certificate is not renewed yet: %s", error)
            try:
                async with asyncio.timeout(self._wait()):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def renew(self) -> Member:
        """Get the next certificate now and return what it says of this node.

        Raises ConfigError: it is too early; UnreachableError: no authority answered;
        TrustError: an answer was refused; and what the registrar on this machine raises.
        """
        async with self._one_at_a_time:
            self._refuse_haste()
            der = self.certificate.public_bytes(Encoding.DER)
            question = renewal.ask(self._key, der, self._trust.network_id, self._now())
            certificate = renewal.read_answer(await self._ask(question))
            member = self._check(certificate)
            self.certificate = certificate
            self._renewed(certificate, member)
            return member

    async def _ask(self, question: bytes) -> bytes:
        if self._registrar is not None:
            return await self._registrar.answer(question)
        error: QuicEtherError = UnreachableError(
            "no node that has the network's authority is connected"
        )
        for connection in self._authorities():
            try:
                return await connection.request(bytes([RpcKind.AUTHORITY]) + question, PATIENCE)
            except QuicEtherError as problem:
                error = UnreachableError(f"node {connection.member.name}: {problem}")
        raise error

    def _check(self, certificate: x509.Certificate) -> Member:
        """Return what a new certificate says. Raises TrustError: it is no renewal of ours."""
        member = self._trust.judge(certificate.public_bytes(Encoding.DER), self._now())
        if member.public_key != self._key.public_raw:
            raise TrustError(f"the renewed certificate is node {member.name}'s, not ours")
        if certificate.not_valid_after_utc <= self.certificate.not_valid_after_utc:
            raise TrustError("the renewed certificate is valid no longer than the present one")
        return member

    def _refuse_haste(self) -> None:
        begin, length = self._life()
        half = begin + length / 2
        if self._now() < half:
            raise ConfigError(
                f"the certificate is valid until {begin + length:%Y-%m-%d %H:%M} UTC and can be "
                f"renewed from {half:%Y-%m-%d %H:%M} UTC on"
            )

    def _life(self) -> tuple[datetime, timedelta]:
        begin = self.certificate.not_valid_before_utc
        return begin, self.certificate.not_valid_after_utc - begin

    def _wait(self) -> float:
        """Return the seconds until the next look: when it is due, or the next attempt."""
        begin, length = self._life()
        left = (begin + _DUE * length - self._now()).total_seconds()
        if left > 0:
            return min(left, LONGEST_WAIT)
        rest = (begin + length - self._now()).total_seconds()
        return min(max(rest / 20, SHORTEST_RETRY), LONGEST_RETRY)

"""Signs of life over the control channel: questions under way, and their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Final

from quicether.errors import UnreachableError
from quicether.transport.endpoint import Connection
from quicether.transport.messages import Ping

log = logging.getLogger(__name__)

MAX_PINGS: Final = 64
"""Pings that may be under way at once."""


class Pings:
    """Asks peers for a sign of life. clock: monotonic seconds."""

    def __init__(self, entropy: Random, clock: Callable[[], float]) -> None:
        self._entropy = entropy
        self._clock = clock
        self._waiting: dict[bytes, tuple[Connection, asyncio.Future[float]]] = {}
        self._begun: set[asyncio.Task[None]] = set()

    async def ask(self, connection: Connection, patience: float) -> float:
        """Return the seconds that a message to the peer and its answer take.

        patience: longest wait in seconds. Raises UnreachableError.
        """
        member = connection.member
        if len(self._waiting) >= MAX_PINGS:
            raise UnreachableError(f"{MAX_PINGS} pings are under way already")
        token = self._entropy.randbytes(8)
        answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[token] = connection, answered
        sent = self._clock()
        try:
            connection.send_message(Ping(token=token))
            async with asyncio.timeout(patience):
                return await answered - sent
        except TimeoutError:
            raise UnreachableError(
                f"node {member.node_id.short} did not answer within {patience:g} s"
            ) from None
        finally:
            del self._waiting[token]

    def begin(
        self, connection: Connection, patience: float, answered: Callable[[float], None]
    ) -> None:
        """Ask in the background; answered is called with the time of asking if an answer comes."""

        async def ask() -> None:
            asked = self._clock()
            try:
                await self.ask(connection, patience)
                answered(asked)
            except UnreachableError as error:
                log.debug("%s: %s", connection.member.name, error)
            except Exception:
                log.exception("a fault of our own while %s was asked", connection.member.name)

        task = asyncio.get_running_loop().create_task(ask())
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    def answered(self, connection: Connection, token: bytes) -> None:
        """Take an answer; one that nobody waits for, or of another peer, has no effect."""
        asked, waiting = self._waiting.get(token, (None, None))
        if asked is connection and waiting is not None and not waiting.done():
            waiting.set_result(self._clock())

    def close(self) -> None:
        """Wait no longer."""
        for task in self._begun:
            task.cancel()
        for _, waiting in self._waiting.values():
            waiting.cancel()

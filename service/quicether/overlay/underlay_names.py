"""Addresses of peers that are configured by name, as the host's own resolver knows them.

A name server may become unreachable just when a peer is to be found again: it is behind the tunnel
that is down, or the uplink is a new one. What a name had last serves until it resolves again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from quicether.config.values import HostPort
from quicether.errors import HostError
from quicether.model import UnderlayAddress

log = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 256
"""Names whose last addresses are kept; the oldest goes."""

MAX_QUESTIONS: Final = 16
"""Names that are asked for at one time, each by a thread of its own; others wait for their turn."""

PATIENCE: Final = 1.5
"""Seconds that a full tunnel waits for names before it takes every packet."""


class UnderlayNames:
    """Resolves, and remembers the last answers."""

    def __init__(self) -> None:
        self._last: OrderedDict[HostPort, tuple[UnderlayAddress, ...]] = OrderedDict()
        self._turns = asyncio.Semaphore(MAX_QUESTIONS)

    async def learn(self, locations: Iterable[HostPort]) -> None:
        """Resolve names ahead of need, as far as that takes no longer than PATIENCE."""
        named = [location for location in locations if location.ip is None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*map(self._try, named))

    async def addresses(self, location: HostPort) -> tuple[UnderlayAddress, ...]:
        """Return the addresses of location. Raises HostError: its name never resolved."""
        try:
            found = await self._resolve(location)
        except OSError as problem:
            if location in self._last:
                log.info("peer %s: %s; its last addresses serve", location, problem.strerror)
                return self._last[location]
            raise HostError(
                f"peer {location}: its name does not resolve: {problem.strerror}"
            ) from problem
        if location.ip is None:
            self._last[location] = found
            self._last.move_to_end(location)
            if len(self._last) > MAX_REMEMBERED:
                self._last.popitem(last=False)
        return found

    def known(self, location: HostPort) -> tuple[UnderlayAddress, ...]:
        """Return the last addresses of location; none where it did not resolve yet."""
        return self._last.get(location, ())

    async def _try(self, location: HostPort) -> None:
        try:
            await self.addresses(location)
        except HostError as problem:
            log.info("%s", problem)

    async def _resolve(self, location: HostPort) -> tuple[UnderlayAddress, ...]:
        """Raises OSError: the name does not resolve."""
        if location.ip is not None:
            return (UnderlayAddress.of_socket((str(location.ip), location.port)),)
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[tuple[UnderlayAddress, ...]] = loop.create_future()

        def tell(found: tuple[UnderlayAddress, ...], problem: Exception | None) -> None:
            # Not before: a question that nobody waits for any more still has its thread.
            self._turns.release()
            if asked.done():
                return
            if problem is None:
                asked.set_result(found)
            else:
                asked.set_exception(problem)

        def ask() -> None:
            found: tuple[UnderlayAddress, ...] = ()
            problem: Exception | None = None
            try:
                found = _look_up(location)
            except Exception as refusal:  # noqa: BLE001 - raised where the answer is awaited
                problem = refusal
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, found, problem)

        # Not the loop's executor: at its end it waits for every thread, and the system's resolver
        # takes tens of seconds to give up name servers that do not answer.
        threading.Thread(target=ask, name=f"resolve {location.host}", daemon=True).start()
        return await asked


def _look_up(location: HostPort) -> tuple[UnderlayAddress, ...]:
    infos = socket.getaddrinfo(location.host, location.port, type=socket.SOCK_DGRAM)
    return tuple(UnderlayAddress.of_socket((str(name[0]), int(name[1]))) for *_, name in infos)

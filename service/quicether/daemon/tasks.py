"""What runs in the background of one tunnel, none of which may end unseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from quicether.errors import QuicEtherError

log = logging.getLogger(__name__)


class Tasks:
    """The background work of a tunnel, cancelled together.

    A fault of our own in any of it is the tunnel's failure: half of a tunnel that is shown as
    running is worse than none.
    """

    def __init__(self, tunnel: str, failed: Callable[[Exception], None]) -> None:
        """failed: told of the fault; it takes the tunnel down."""
        self._tunnel = tunnel
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Awaitable[None]) -> None:
        """Run work that ends by itself. What it is refused is logged."""
        self._add(self._guard(work))

    def keep(self, work: Awaitable[None]) -> None:
        """Run work that the tunnel needs as long as it is up: any error ends the tunnel."""
        self._add(self._guard(work, needed=True))

    async def close(self) -> None:
        """Cancel all of it."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _add(self, guarded: Awaitable[None]) -> None:
        task = asyncio.ensure_future(guarded)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guard(self, work: Awaitable[None], *, needed: bool = False) -> None:
        try:
            await work
        except QuicEtherError as error:
            log.error("tunnel %s: %s", self._tunnel, error)  # noqa: TRY400 - a sentence
            if needed:
                self._failed(error)
        except Exception as fault:
            log.exception("tunnel %s: a fault of QuicEther's own", self._tunnel)
            self._failed(fault)

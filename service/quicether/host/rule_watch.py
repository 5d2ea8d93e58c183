"""Notices when somebody takes policy routing rules of ours away.

systemd-networkd removes rules that it did not make whenever it configures a link anew
(ManageForeignRoutingPolicyRules=, on by default). Without its rules a full tunnel leaks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pyroute2.netlink import rtnl

from quicether.errors import HostError
from quicether.host.kernel_events import RULES, Listener
from quicether.host.kernel_state import PROTOCOL

log = logging.getLogger(__name__)


class RuleWatch:
    """Calls restore after rules that bear our protocol were deleted, by whomever.

    restore: puts back what is missing; may raise HostError. Called again only once it has ended.
    """

    def __init__(self, restore: Callable[[], Awaitable[None]]) -> None:
        self._restore = restore
        self._deleted = asyncio.Event()
        # Where events were dropped, deletions may have been among them.
        self._listener = Listener(RULES, self._heard, self._deleted.set)
        self._restoring: asyncio.Task[None] | None = None
        self._closing = False

    def open(self) -> None:
        """Begin to watch. Raises HostError."""
        self._listener.open()
        self._restoring = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop to watch, and return when what is being restored is. Idempotent."""
        self._listener.close()
        if self._restoring is not None:
            self._closing = True
            self._deleted.set()
            await asyncio.wait([self._restoring])

    async def _run(self) -> None:
        while True:
            await self._deleted.wait()
            self._deleted.clear()
            if self._closing:
                return
            try:
                await self._restore()
            except HostError as refusal:
                log.error("routing rules were taken away: %s", refusal)  # noqa: TRY400
            except Exception:
                log.exception("a fault of our own while routing rules were put back")

    def _heard(self, message: Any) -> None:
        if (
            message["header"]["type"] == rtnl.RTM_DELRULE
            and message.get_attr("FRA_PROTOCOL") == PROTOCOL
        ):
            self._deleted.set()

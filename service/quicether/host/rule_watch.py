"""Notices when somebody takes policy routing rules of ours away.

systemd-networkd removes rules that it did not make whenever it configures a link anew
(ManageForeignRoutingPolicyRules=, on by default). Without its rules a full tunnel leaks.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from quicether.errors import HostError
from quicether.host.kernel_events import BUFFER, RULES, listen
from quicether.host.kernel_state import PROTOCOL

log = logging.getLogger(__name__)

_READS: Final = 64


class RuleWatch:
    """Calls restore after rules that bear our protocol were deleted, by whomever.

    restore: puts back what is missing; may raise HostError. Called again only once it has ended.
    """

    def __init__(self, restore: Callable[[], Awaitable[None]]) -> None:
        self._restore = restore
        self._deleted = asyncio.Event()
        self._socket: socket.socket | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._closing = False
        self._marshal = MarshalRtnl()

    def open(self) -> None:
        """Begin to watch. Raises HostError."""
        watching = self._socket = listen(RULES)
        loop = asyncio.get_running_loop()
        loop.add_reader(watching.fileno(), self._read, watching)
        self._restoring = loop.create_task(self._run())

    async def close(self) -> None:
        """Stop to watch, and return when what is being restored is. Idempotent."""
        watching, self._socket = self._socket, None
        if watching is not None:
            asyncio.get_running_loop().remove_reader(watching.fileno())
            watching.close()
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

    def _read(self, watching: socket.socket) -> None:
        for _ in range(_READS):
            try:
                data = watching.recv(BUFFER)
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno != errno.ENOBUFS:
                    raise
                self._deleted.set()  # events were dropped because we were slow
                return
            for message in self._marshal.parse(data):
                if (
                    message["header"]["type"] == rtnl.RTM_DELRULE
                    and message.get_attr("FRA_PROTOCOL") == PROTOCOL
                ):
                    self._deleted.set()

"""Notices when the host's own network changes: another uplink, address or route."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pyroute2.netlink import rtnl

from quicether.errors import HostError
from quicether.host.exits import BROAD, TABLE
from quicether.host.kernel_events import NETWORK, RULES, Listener
from quicether.host.kernel_state import PROTOCOL
from quicether.host.underlay import Underlay, read_underlay

log = logging.getLogger(__name__)

SETTLE: Final = 0.3
"""Seconds from the first event to the report: an uplink that changes sends a dozen events."""


class UnderlayMonitor:
    """Watches rtnetlink and reports a change once it has settled.

    The overlay's own devices and routes do not count, but for a default route into the overlay. A
    link or address event counts only where addresses, gateways or MTUs differ afterwards (a
    wireless link talks all the time); a route event always does, because any route may be a
    peer's. That a rule of ours or a way out was deleted is no change, but a reason to look.
    """

    def __init__(
        self,
        changed: Callable[[Underlay], None],
        own: Callable[[str], bool],
        *,
        mark: int = 0,
        settle: float = SETTLE,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Report to changed. own, mark: as for `read_underlay`. settle: seconds.

        before: done before each reading, for what decides where packets of ours leave; it puts
        back what somebody has taken away of that.
        """
        self._changed = changed
        self._own = own
        self._mark = mark
        self._settle = settle
        self._before = before
        self._listener = Listener(NETWORK | RULES, self._take, self._missed)
        self._own_indexes: set[int] = set()
        self._rerouted = False
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        self.underlay = Underlay()

    async def start(self) -> Underlay:
        """Begin to watch and return what is there now. Raises HostError."""
        self._listener.open()
        self._own_indexes = {i for i, name in socket.if_nameindex() if self._own(name)}
        try:
            self.underlay = await self._look()
        except HostError:
            self.close()
            raise
        return self.underlay

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        self._timer = self._reading = None
        self._listener.close()

    def _take(self, message: Any) -> None:
        kind = message["header"]["type"]
        if kind in (rtnl.RTM_NEWRULE, rtnl.RTM_DELRULE):
            if kind == rtnl.RTM_NEWRULE or message.get_attr("FRA_PROTOCOL") != PROTOCOL:
                return
        elif kind == rtnl.RTM_DELROUTE and message.get_attr("RTA_TABLE") == TABLE:
            pass
        elif kind in (rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE):
            own = message.get_attr("RTA_OIF") in self._own_indexes
            if message["proto"] == PROTOCOL or (own and message["dst_len"] > BROAD):
                return
            self._rerouted = True
        elif kind in (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK):
            if self._own(message.get_attr("IFLA_IFNAME")):
                change = self._own_indexes.add if kind == rtnl.RTM_NEWLINK else self._forget
                change(message["index"])
                return
        elif message["index"] in self._own_indexes:
            return
        self._schedule()

    def _missed(self) -> None:
        self._rerouted = True
        self._schedule()

    async def _look(self) -> Underlay:
        if self._before is not None:
            await self._before()
        return await read_underlay(self._own, self._mark)

    def _forget(self, index: int) -> None:
        self._own_indexes.discard(index)

    def _schedule(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settle, self._begin_report)

    def _begin_report(self) -> None:
        self._timer = None
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._report())
        else:
            self._schedule()

    async def _report(self) -> None:
        rerouted, self._rerouted = self._rerouted, False
        try:
            now = await self._look()
            if rerouted or now != self.underlay:
                self.underlay = now
                self._changed(now)
        except HostError as failure:
            log.warning("the host's network changed, but cannot be read: %s", failure)
        except Exception:
            log.exception("a fault of our own in what follows a change of the host's network")

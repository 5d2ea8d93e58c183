"""Carries out the attempts that the peer table asks for: names, addresses, connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from quicether.config.values import HostPort
from quicether.errors import OWN_FAULT, HostError, QuicEtherError, UnreachableError
from quicether.model import UnderlayAddress
from quicether.overlay.outside import Outside
from quicether.overlay.peers import MAX_ADDRESSES, PeerTable, Target
from quicether.overlay.underlay_names import UnderlayNames
from quicether.transport.endpoint import ConnectFailed, Endpoint

log = logging.getLogger(__name__)


class Dialer:
    """Turns targets that are due into connection attempts. One timer for all of them."""

    def __init__(
        self,
        peers: PeerTable,
        endpoint: Endpoint,
        clock: Callable[[], float],
        changed: Callable[[], None],
        outside: Outside,
    ) -> None:
        """clock: monotonic seconds. changed: called when the outcome of a target changed.

        outside: tells which addresses can be connected to.
        """
        self.names = UnderlayNames()
        self._outside = outside
        self._peers = peers
        self._endpoint = endpoint
        self._clock = clock
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._attempts: set[asyncio.Task[None]] = set()
        self._closed = False

    def wake(self) -> None:
        """Start what is due and set the timer for what comes next. Call after every change."""
        if self._closed:
            return
        for target in self._peers.due(self._clock()):
            task = asyncio.get_running_loop().create_task(self._attempt(target))
            self._attempts.add(task)
            task.add_done_callback(self._attempts.discard)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._peers.next_due()
        if due is not None:
            delay = max(due - self._clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def failed(self, failure: ConnectFailed) -> None:
        """Take in the outcome of an attempt that came to nothing."""
        for target in self._peers.trying(failure.address):
            if failure.expect == target.expect:
                self._fail(target, failure.address, failure.error)
        self.wake()

    async def close(self) -> None:
        """Stop trying."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._attempts):
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)

    async def _attempt(self, target: Target) -> None:
        try:
            await self._try(target)
        except Exception:
            log.exception("peer %s cannot be tried by a fault of our own", target.key)
            # Else it would count as being tried for ever.
            self._fail(target, None, UnreachableError(f"peer {target.key}: {OWN_FAULT}"))
            self.wake()

    async def _try(self, target: Target) -> None:
        addresses, error = await self._resolve(target.locations)
        if not addresses:
            self._fail(target, None, error or UnreachableError(f"peer {target.key}: no address"))
            self.wake()
            return
        self._peers.tried(target, addresses)
        for address in addresses:
            self._endpoint.connect(address, target.expect)

    def _fail(self, target: Target, address: UnderlayAddress | None, error: QuicEtherError) -> None:
        log.info("peer %s: %s", target.key, error)
        self._peers.attempt_failed(target, address, error, self._clock())
        self._changed()

    async def _resolve(
        self, locations: tuple[HostPort, ...]
    ) -> tuple[list[UnderlayAddress], QuicEtherError | None]:
        """Return the addresses of all locations, and the last error of a name without any."""
        found: dict[UnderlayAddress, None] = {}
        error: QuicEtherError | None = None
        for location in locations:
            try:
                addresses = await self.names.addresses(location)
            except HostError as problem:
                error = problem
                continue
            for address in addresses:
                if self._outside.holds(address.ip):
                    found[address] = None
                else:
                    error = UnreachableError(f"peer {location}: {address} is inside the overlay")
        return list(found)[:MAX_ADDRESSES], error

"""Tunnels that live no longer than the bus connection of whoever brought them up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from quicether.bus.controller import AlreadyUpError, Controller, TunnelView, UpRequest
from quicether.errors import QuicEtherError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Hold:
    """holder: unique name of the connection. rising: ends with the tunnel once it is up."""

    holder: str
    rising: asyncio.Task[TunnelView]


class Bindings:
    """Knows which connection holds which tunnel, and takes down what nobody holds any more."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._holds: dict[str, _Hold] = {}
        self._releases: set[asyncio.Task[None]] = set()

    async def up(
        self, holder: str, name: str, options: Mapping[str, str], request: UpRequest
    ) -> TunnelView:
        """Bring a tunnel up that goes down when holder, a unique name, leaves the bus.

        Raises AlreadyUpError: another connection holds it; and whatever `Controller.up` raises.
        """
        held = self._holds.get(name)
        if held is not None and (not held.rising.done() or self._is_up(name, held)):
            raise AlreadyUpError(f"tunnel {name} is up already, held by another program")
        rising = asyncio.ensure_future(self._controller.up(name, options, request))
        hold = self._holds[name] = _Hold(holder, rising)
        try:
            return await rising
        except BaseException:
            if self._holds.get(name) is hold:
                del self._holds[name]
            raise

    def _is_up(self, name: str, hold: _Hold) -> bool:
        """Tell whether the tunnel of that name is still the one that the hold is about."""
        return self._controller.tunnels.get(name) is hold.rising.result()

    def forget(self, name: str) -> None:
        """The tunnel is gone, so nobody holds it."""
        if name in self._holds and self._holds[name].rising.done():
            del self._holds[name]

    def vanished(self, holder: str) -> None:
        """Begin to take down what a connection held that left the bus."""
        for name, hold in list(self._holds.items()):
            if hold.holder == holder:
                del self._holds[name]
                release = asyncio.ensure_future(self._release(name, hold))
                self._releases.add(release)
                release.add_done_callback(self._releases.discard)

    async def _release(self, name: str, hold: _Hold) -> None:
        hold.rising.cancel()
        await asyncio.wait([hold.rising])
        if hold.rising.cancelled() or hold.rising.exception() or not self._is_up(name, hold):
            return
        log.info("tunnel %s goes down: the program that brought it up is gone", name)
        try:
            await self._controller.down(name)
        except QuicEtherError as error:
            log.error("tunnel %s could not be taken down: %s", name, error)  # noqa: TRY400

    async def close(self) -> None:
        """Return when all that was begun has ended."""
        await asyncio.gather(*self._releases)

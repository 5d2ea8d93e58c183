"""Tunnels that live no longer than the bus connection of whoever brought them up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from quicether.bus.controller import AlreadyUpError, Controller, TunnelView, UpRequest
from quicether.errors import QuicEtherError

log = logging.getLogger(__name__)


class Bindings:
    """Knows which connection holds which tunnel, and takes down what nobody holds any more."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._holders: dict[str, str] = {}
        self._rising: dict[str, asyncio.Task[TunnelView]] = {}
        self._releases: set[asyncio.Task[None]] = set()

    async def up(
        self, holder: str, name: str, options: Mapping[str, str], request: UpRequest
    ) -> TunnelView:
        """Bring a tunnel up that goes down when holder, a unique name, leaves the bus.

        Raises AlreadyUpError: another connection holds it; and whatever `Controller.up` raises.
        """
        if name in self._holders:
            raise AlreadyUpError(f"tunnel {name} is up already, held by another program")
        rising = asyncio.ensure_future(self._controller.up(name, options, request))
        self._holders[name] = holder
        self._rising[name] = rising
        try:
            return await rising
        except BaseException:
            self._holders.pop(name, None)
            raise
        finally:
            del self._rising[name]

    def forget(self, name: str) -> None:
        """The tunnel is gone, so nobody holds it."""
        if name not in self._rising:
            self._holders.pop(name, None)

    def vanished(self, holder: str) -> None:
        """Begin to take down what a connection held that left the bus."""
        for name in [name for name, found in self._holders.items() if found == holder]:
            del self._holders[name]
            release = asyncio.ensure_future(self._release(name, self._rising.get(name)))
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)

    async def _release(self, name: str, rising: asyncio.Task[TunnelView] | None) -> None:
        if rising is not None:
            rising.cancel()
            await asyncio.wait([rising])
            if rising.cancelled() or rising.exception() is not None:
                return
        if name in self._controller.tunnels:
            log.info("tunnel %s goes down: the program that brought it up is gone", name)
            try:
                await self._controller.down(name)
            except QuicEtherError as error:
                log.error("tunnel %s could not be taken down: %s", name, error)  # noqa: TRY400

    async def close(self) -> None:
        """Return when all that was begun has ended."""
        await asyncio.gather(*self._releases)

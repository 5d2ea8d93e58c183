"""Keeps the OS at a tunnel's desired state, and tries again what it refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from quicether.dataplane.device import Device
from quicether.errors import HostError
from quicether.host.desired import HostConfig
from quicether.host.link import LinkOwner

log = logging.getLogger(__name__)

AGAIN_AFTER: Final = 5.0
"""Seconds until a state that the OS refused is tried again; doubled up to AGAIN_LONGEST."""
AGAIN_LONGEST: Final = 60.0


class Upkeep:
    """What one tunnel's link owner is told, one state at a time.

    config: what the OS has, but for what it refused. trouble: why it refused, a sentence or none.
    """

    def __init__(self, tunnel: str, owner: LinkOwner, clock: Callable[[], float]) -> None:
        """tunnel: its name, for the log. clock: monotonic seconds."""
        self.config: HostConfig | None = None
        self.trouble: tuple[str, ...] = ()
        self._tunnel = tunnel
        self._owner = owner
        self._clock = clock
        self._wait = AGAIN_AFTER
        self._again_at: float | None = None

    @property
    def again_in(self) -> float | None:
        """Seconds until `bring` is due for what was refused; None while the OS has it all."""
        return None if self._again_at is None else max(0.0, self._again_at - self._clock())

    async def attach(self, config: HostConfig) -> Device:
        """Let the owner make the device. Raises HostError."""
        self.config = config
        return await self._owner.attach(config)

    async def complete(self) -> None:
        """Put on the device all that belongs there. Raises HostError."""
        if self.config is not None:
            await self._owner.apply(self.config)

    async def bring(self, config: HostConfig) -> None:
        """Bring the OS to config; once it refused, also to the same config when that is due."""
        due = self._again_at is not None and self._clock() >= self._again_at
        if config == self.config and not due:
            return
        self.config = config
        try:
            await self._owner.apply(config)
        except HostError as error:
            trouble = (str(error),)
            if trouble != self.trouble:
                log.error("tunnel %s: %s", self._tunnel, error)  # noqa: TRY400 - a sentence
            self.trouble = trouble
            self._again_at = self._clock() + self._wait
            self._wait = min(2 * self._wait, AGAIN_LONGEST)
        else:
            self.trouble = ()
            self._again_at = None
            self._wait = AGAIN_AFTER

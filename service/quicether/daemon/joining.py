"""Joining in the service's name: a program of root's does it, because it writes root's files."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

from quicether.bus.status import JoinResult
from quicether.errors import HostError
from quicether.identity.invite_code import InviteCode
from quicether.registry.client import ask
from quicether.registry.messages import Joined, JoinQuestion, decode

log = logging.getLogger(__name__)

PROGRAM: Final = "quicether-join"
SOCKET: Final = Path("/run/quicether-join")
"""Where systemd listens for it; in a folder that only root can change."""
PATIENCE: Final = 180.0
"""Seconds from connecting to the answer: an inviter that is asked in vain, and NetworkManager."""


class Joining:
    """Joins one network at a time."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._busy = asyncio.Lock()

    async def join(self, code: InviteCode) -> JoinResult:
        """See `bus.controller.Controller.join`."""
        if self._busy.locked():
            raise HostError("this machine joins a network just now; try again when that has ended")
        async with self._busy:
            body = await ask(PROGRAM, JoinQuestion(code=str(code)), self._path, PATIENCE)
        joined = decode(body, Joined)
        log.info("this machine has joined network %s as %s", joined.network, joined.name)
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in joined.model_dump().items()
        }
        return JoinResult(**fields)

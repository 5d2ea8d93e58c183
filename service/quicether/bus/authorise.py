"""May this caller do that? polkit answers; where there is no polkit, only root may."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Final, Protocol

from dbus_next.signature import Variant

from quicether.bus.connection import BusConnection, RemoteError
from quicether.bus.contract import Action
from quicether.errors import HostError, QuicEtherError

log = logging.getLogger(__name__)

POLKIT: Final = "org.freedesktop.PolicyKit1"
AUTHORITY_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
AUTHORITY_INTERFACE: Final = "org.freedesktop.PolicyKit1.Authority"
ALLOW_INTERACTION: Final = 1
PROMPT_TIMEOUT: Final = 120.0
"""Seconds that a person has to answer a password prompt."""

_ABSENT: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}"
    for name in (
        "ServiceUnknown",
        "NameHasNoOwner",
        "Spawn.ServiceNotFound",
        "Spawn.ExecFailed",
        "Spawn.Failed",
        "Spawn.ChildExited",
    )
)
_DOING: Final = {
    Action.STATUS: "read the status",
    Action.CONNECT: "bring tunnels up or down",
    Action.CONFIGURE: "change how tunnels are configured",
    Action.TRUST: "change who is trusted",
}


class NotAuthorizedError(QuicEtherError):
    """The caller may not do that; the sentence says why and how they might."""


class Authority(Protocol):
    """Decides who may do what."""

    async def check(self, sender: str, action: Action, interactive: bool) -> None:
        """Return if the caller with that unique name may do action.

        interactive: the person behind the caller may be asked for a password.
        Raises NotAuthorizedError; HostError: the authority does not answer.
        """


class PolkitAuthority:
    """Asks polkit. A caller that leaves while a person is asked makes the prompt go away."""

    def __init__(self, connection: BusConnection) -> None:
        self._connection = connection
        self._serial = itertools.count(1)
        self._said_absent = False

    async def check(self, sender: str, action: Action, interactive: bool) -> None:
        """See `Authority.check`."""
        cancellation = f"quicether-{next(self._serial)}"
        try:
            answer = await self._connection.call(
                POLKIT,
                AUTHORITY_PATH,
                AUTHORITY_INTERFACE,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [
                    ["system-bus-name", {"name": Variant("s", sender)}],
                    action.value,
                    {},
                    ALLOW_INTERACTION if interactive else 0,
                    cancellation,
                ],
                timeout=PROMPT_TIMEOUT,
            )
        except RemoteError as error:
            if error.name not in _ABSENT:
                raise HostError(f"polkit cannot decide about {action}: {error}") from None
            await self._check_root(sender, action)
            return
        except asyncio.CancelledError:
            self._connection.post(
                POLKIT,
                AUTHORITY_PATH,
                AUTHORITY_INTERFACE,
                "CancelCheckAuthorization",
                "s",
                [cancellation],
            )
            raise
        authorized, challenge, details = answer[0]
        if authorized:
            return
        if details.get("polkit.dismissed"):
            reason = "the question for a password was dismissed"
        elif challenge and not interactive:
            reason = f"polkit asks for an administrator's password for {action}; use sudo"
        else:
            reason = f"polkit refuses {action}"
        raise NotAuthorizedError(f"you may not {_DOING[action]}: {reason}")

    async def _check_root(self, sender: str, action: Action) -> None:
        if not self._said_absent:
            self._said_absent = True
            log.warning("polkit is not running: only root may use the service")
        try:
            uid = await self._connection.user_of(sender)
        except RemoteError as error:
            raise NotAuthorizedError(f"the caller cannot be told: {error}") from None
        if uid != 0:
            raise NotAuthorizedError(
                f"you may not {_DOING[action]}: polkit is not running, so only root may"
            )

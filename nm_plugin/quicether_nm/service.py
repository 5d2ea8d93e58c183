"""The plugin's view of org.quicether1: one tunnel, up, its changes, down."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether.bus.contract import ErrorName, How, LinkOwnerName, TunnelState
from quicether.errors import (
    ConfigError,
    HostError,
    IdentityError,
    TrustError,
    UnreachableError,
)
from quicether_nm.busclient import PROPERTIES, CallError, add_match, call, plain, watch_name
from quicether_nm.profile import Profile

log = logging.getLogger(__name__)

OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
FOLLOWED: Final = frozenset({"State", "Ready", "HostConfig"})
"""Properties of a tunnel that matter here; the lists of peers and routes do not."""
DOWN_TIMEOUT: Final = 5.0
"""Seconds that the service may take to bring a tunnel down; it promises less than two."""
START_PATIENCE: Final = 10.0
"""Seconds that a service may take from where systemd starts it to where it can be used."""
UNIT: Final = "quicether.service"
SYSTEMD: Final = "org.freedesktop.systemd1"
SYSTEMD_PATH: Final = "/org/freedesktop/systemd1"
LEAVE_PATIENCE: Final = 1.0
"""Seconds from the end of a tunnel that nobody here asked for to the end of the service itself."""


class ServiceLeftError(UnreachableError):
    """The service has taken the tunnel down in good order and left the bus: it was stopped.

    It may be back in a moment; `Service.wait_return` tells.
    """


class Service:
    """A client of the service that holds at most one tunnel up.

    The tunnel is bound to this connection to the bus, so it goes down whatever way this process
    ends.
    """

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._name = ""
        self._path = ""
        self._owner = ""
        self._up: asyncio.Task[None] | None = None
        self._since: object = None
        self._properties: dict[str, Any] = {}
        self._stale = False
        self._removal_told = False
        self._vanished = False
        self._news = asyncio.Event()
        self._removed = asyncio.Event()
        self._gone = asyncio.Event()
        self._returned = asyncio.Event()

    async def watch(self) -> None:
        """Subscribe to all that the service says. To be called once, before `up`.

        Raises HostError: the bus does not let us.
        """
        self._bus.add_message_handler(self._on_message)
        for interface, member in (
            (PROPERTIES, "PropertiesChanged"),
            (OBJECT_MANAGER, "InterfacesAdded"),
            (OBJECT_MANAGER, "InterfacesRemoved"),
        ):
            await add_match(
                self._bus,
                f"type='signal',sender='{contract.BUS_NAME}',interface='{interface}',"
                f"member='{member}',path_namespace='{contract.ROOT_PATH}'",
            )
        await watch_name(self._bus, contract.BUS_NAME, self._on_vanished, self._returned.set)

    @property
    def host_config(self) -> dict[str, Any]:
        """What the OS is to have for the tunnel now; empty while the service does not know."""
        value = self._properties.get("HostConfig", {})
        return value if isinstance(value, dict) else {}

    async def up(self, profile: Profile) -> None:
        """Bring the profile's tunnel up, starting the service over D-Bus where it does not run.

        Raises ConfigError: the service refuses the options. IdentityError: this node's key or
        certificate is no good. TrustError: the service refuses us, or somebody refuses this node.
        UnreachableError: it went away. HostError: it cannot be started, or it failed. The sentence
        is the service's own where it gave one.
        """
        self._name = profile.tunnel
        self._path = contract.tunnel_path(profile.tunnel)
        self._properties = {}
        self._vanished = self._stale = self._removal_told = False
        self._gone.clear()
        # In a task of its own, because whoever stops waiting for it must still take down what it
        # brings up.
        self._up = asyncio.create_task(self._bring_up(profile))
        await asyncio.shield(self._up)
        await self._fetch()
        self._since = self._properties.get("Since")

    async def wait_ready(self, patience: float) -> bool:
        """Wait at most patience seconds until packets can flow to a peer; tell whether they can.

        Raises as `wait_change`.
        """
        try:
            async with asyncio.timeout(patience):
                while not self._properties.get("Ready"):
                    await self.wait_change()
        except TimeoutError:
            return False
        return True

    async def wait_change(self) -> None:
        """Wait until properties of the tunnel have changed.

        Raises ServiceLeftError: the service was stopped. UnreachableError: it is gone otherwise.
        HostError: the tunnel failed, or somebody took it down.
        """
        await self._news.wait()
        self._news.clear()
        if self._vanished:
            raise self._left()
        if self._stale:
            try:
                await self._fetch()
            except CallError as error:
                raise await self._ended(error) from None
            if self._properties.get("Since") != self._since:
                self._up = None  # it is not ours to take down
                raise HostError(f"tunnel {self._name} was taken down, and brought up by another")
        if self._properties.get("State") == TunnelState.FAILED:
            raise HostError(await self._failure())

    async def wait_return(self, patience: float) -> bool:
        """Wait at most patience seconds for a service that left; tell whether it is back.

        Nothing is asked of it meanwhile: that would start one that was stopped for good. One that
        systemd is just starting has START_PATIENCE beside.
        """
        for more in (patience, START_PATIENCE):
            try:
                await asyncio.wait_for(self._returned.wait(), more)
            except TimeoutError:
                if more == START_PATIENCE or not await self._is_starting():
                    return False
            else:
                return True
        return False

    async def _is_starting(self) -> bool:
        """Tell whether systemd starts the service at this moment."""
        try:
            unit = await self._ask_systemd("GetUnit", f"{SYSTEMD}.Manager", SYSTEMD_PATH, UNIT)
            where = (f"{SYSTEMD}.Unit", "ActiveState")
            state = await self._ask_systemd("Get", PROPERTIES, str(unit), *where)
        except CallError as error:
            log.debug("systemd does not say how %s is: %s", UNIT, error)
            return False
        return bool(state == "activating")

    async def _ask_systemd(self, member: str, interface: str, path: str, *words: str) -> object:
        signature, body = "s" * len(words), [*words]
        message = Message(SYSTEMD, path, interface, member, signature=signature, body=body)
        message.flags = MessageFlag.NO_AUTOSTART
        return plain((await call(self._bus, message)).body[0])

    async def _ended(self, error: CallError) -> HostError | UnreachableError:
        """Return why a tunnel is no more that we did not take down.

        error: what came of reading its properties.
        """
        sentence = taken_down = f"tunnel {self._name} was taken down"
        if error.by_peer:
            self._up = None  # whoever brings one of that name up now is somebody else
        if not self._vanished:
            try:
                sentence = await self._failure()
            except CallError:
                log.debug("the service is just leaving")
        if sentence != taken_down:
            return HostError(sentence)
        # A service that stops takes its tunnels down first, and says so; one that was killed
        # over our question did not answer it.
        self._removal_told |= error.by_peer
        try:
            await asyncio.wait_for(self._gone.wait(), LEAVE_PATIENCE)
        except TimeoutError:
            return HostError(sentence)
        return self._left()

    def _left(self) -> UnreachableError:
        sentence = f"{contract.BUS_NAME} left the bus: the service has stopped"
        if self._removal_told or self._properties.get("State") == TunnelState.STOPPING:
            return ServiceLeftError(sentence)
        return UnreachableError(sentence)

    async def down(self) -> None:
        """Take the tunnel down; nothing happens where it never came up or the service is gone.

        Raises HostError: the service did not do it.
        """
        up, self._up = self._up, None
        if up is None:
            return
        if not up.done():
            await self._ask_down()
            await asyncio.wait([up], timeout=DOWN_TIMEOUT)
            if not up.done():
                raise HostError(f"the service is still bringing tunnel {self._name} up")
        if not self._vanished and up.exception() is None:
            await self._ask_down()

    async def _ask_down(self) -> None:
        try:
            await self._call_manager("Down", "s", [self._name], DOWN_TIMEOUT)
        except CallError as error:
            if error.name != ErrorName.NOT_FOUND:
                raise

    async def _bring_up(self, profile: Profile) -> None:
        how = {
            How.OWNER.value: Variant("s", LinkOwnerName.NETWORKMANAGER.value),
            How.BOUND.value: Variant("b", True),
            How.PRIVATE.value: Variant("b", profile.private),
        }
        body = [profile.tunnel, dict(profile.options), how]
        # The answer has to come before NetworkManager loses its patience, or its sentence is lost.
        timeout = max(profile.timeout - 2, profile.timeout / 2)
        self._removed.clear()
        try:
            try:
                reply = await self._call_manager("Up", "sa{ss}a{sv}", body, timeout)
            except CallError as error:
                if error.name != ErrorName.ALREADY_UP or not await self._wait_removed():
                    raise
                reply = await self._call_manager("Up", "sa{ss}a{sv}", body, timeout)
        except CallError as error:
            raise _kind_of(error) from None
        self._path = reply.body[0]

    async def _wait_removed(self) -> bool:
        """Wait for the end of an earlier activation of the tunnel that is just going down.

        NetworkManager does not wait for it, so `down` with `up` right behind it comes here.
        """
        try:
            await self._fetch()
        except CallError:
            return True
        if self._properties.get("State") != TunnelState.STOPPING:
            return False
        try:
            await asyncio.wait_for(self._removed.wait(), DOWN_TIMEOUT)
        except TimeoutError:
            log.warning("tunnel %s is still stopping after %g s", self._name, DOWN_TIMEOUT)
        return True

    async def _fetch(self) -> None:
        """Read all properties of the tunnel. Raises HostError."""
        self._stale = False
        message = Message(
            contract.BUS_NAME,
            self._path,
            PROPERTIES,
            "GetAll",
            signature="s",
            body=[contract.TUNNEL_INTERFACE],
            flags=MessageFlag.NO_AUTOSTART,
        )
        reply = await call(self._bus, message)
        self._owner = reply.sender
        self._properties = plain(reply.body[0])
        self._removal_told = False
        self._news.set()

    async def _failure(self) -> str:
        """Return the service's sentence on why the tunnel ended. Raises HostError."""
        message = Message(
            contract.BUS_NAME,
            contract.ROOT_PATH,
            PROPERTIES,
            "Get",
            signature="ss",
            body=[contract.MANAGER_INTERFACE, "Failures"],
            flags=MessageFlag.NO_AUTOSTART,
        )
        failures = plain((await call(self._bus, message)).body[0])
        return str(failures.get(self._name, f"tunnel {self._name} was taken down"))

    async def _call_manager(
        self, member: str, signature: str, body: list[Any], timeout: float
    ) -> Message:
        message = Message(
            contract.BUS_NAME,
            contract.ROOT_PATH,
            contract.MANAGER_INTERFACE,
            member,
            signature=signature,
            body=body,
        )
        return await call(self._bus, message, timeout)

    def _on_message(self, message: Message) -> None:
        # Match rules do not stop a signal that is sent to us alone, and any user may send one: only
        # what comes from the owner of the service's name counts.
        if message.message_type is not MessageType.SIGNAL or message.sender != self._owner:
            return
        if message.interface == OBJECT_MANAGER:
            if message.signature.startswith("o") and message.body[0] == self._path:
                # Told with a delay, changes up to then included; what is removed may be the object
                # of an activation before ours. The service knows how things are now.
                self._stale = True
                self._news.set()
                if message.member == "InterfacesRemoved":
                    self._removal_told = True
                    self._removed.set()
        elif (
            message.member == "PropertiesChanged"
            and message.signature == "sa{sv}as"
            and message.path == self._path
            and message.body[0] == contract.TUNNEL_INTERFACE
        ):
            self._properties.update(plain(message.body[1]))
            self._stale = self._stale or not FOLLOWED.isdisjoint(message.body[2])
            self._news.set()

    def _on_vanished(self) -> None:
        self._vanished = True
        self._gone.set()
        self._returned.clear()
        self._removed.set()
        self._news.set()


def _kind_of(error: CallError) -> ConfigError | IdentityError | TrustError | HostError:
    """Return the error of `Up` as the kind that says whose fault it is."""
    if error.name == ErrorName.INVALID:
        return ConfigError(str(error))
    if error.name == ErrorName.IDENTITY:
        return IdentityError(str(error))
    if error.name in (ErrorName.NOT_AUTHORIZED, ErrorName.NOT_TRUSTED):
        return TrustError(str(error))
    if error.name.startswith(("org.freedesktop.DBus.Error.", "org.freedesktop.systemd1.")):
        return HostError(
            f"{contract.BUS_NAME} cannot be used: {error}; see systemctl status quicether.service"
        )
    return error

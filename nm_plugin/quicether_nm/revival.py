"""Brings a connection back that a restart of NetworkManager has ended.

NetworkManager forgets its VPN connections when it stops, and no VPN profile is started again by
itself unless it is a secondary of the link's own connection. Whoever restarts NetworkManager, or
finds it crashed and started again by systemd, wants the tunnel that was up before.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.errors import AuthError
from dbus_next.message import Message

from quicether_nm.busclient import (
    DAEMON,
    DAEMON_PATH,
    PROPERTIES,
    BusEndedError,
    CallError,
    add_match,
    call,
    plain,
    watch_name,
)

log = logging.getLogger(__name__)

NETWORK_MANAGER: Final = "org.freedesktop.NetworkManager"
PATH: Final = "/org/freedesktop/NetworkManager"
PATIENCE: Final = 30.0
"""Seconds until NetworkManager has to be back with a connection that a VPN can ride on.

What stays away longer was stopped on purpose, or has no network to be started on.
"""
RETRY: Final = 0.2
"""Seconds between two tries to reach a bus that is restarted; nothing tells when it is back."""
NOTHING: Final = "/"
"""The object path that stands for no object."""


async def revive(uuid: str) -> bool:
    """Activate the profile of that uuid once NetworkManager is back; tell whether we had to.

    False: NetworkManager stays away, or has brought it up itself. Raises HostError: it refuses.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await _revive_on(await _connect(), uuid)
                except BusEndedError as error:
                    log.debug("the bus is restarted, too: %s", error)
    except TimeoutError:
        return False


async def _connect() -> MessageBus:
    """Return a connection to the bus, which may just be restarted, too."""
    while True:
        try:
            return await MessageBus(bus_type=BusType.SYSTEM).connect()
        except (OSError, EOFError, AuthError):
            await asyncio.sleep(RETRY)


async def _revive_on(bus: MessageBus, uuid: str) -> bool:
    """Do it on one connection to the bus. Raises BusEndedError, HostError."""
    reviving = asyncio.ensure_future(_revive(bus, uuid))
    ended = asyncio.ensure_future(bus.wait_for_disconnect())
    try:
        await asyncio.wait([reviving, ended], return_when=asyncio.FIRST_COMPLETED)
        if reviving.done():
            return reviving.result()
        raise BusEndedError(f"the connection to D-Bus ended: {ended.exception()!r}")
    finally:
        reviving.cancel()
        if bus.connected:
            bus.disconnect()
        await asyncio.gather(reviving, ended, return_exceptions=True)


async def _revive(bus: MessageBus, uuid: str) -> bool:
    there, news = asyncio.Event(), asyncio.Event()
    await watch_name(bus, NETWORK_MANAGER, there.clear, there.set)
    bus.add_message_handler(lambda message: _note(message, news))
    await add_match(
        bus,
        f"type='signal',sender='{NETWORK_MANAGER}',interface='{PROPERTIES}',path='{PATH}',"
        "member='PropertiesChanged'",
    )
    if await _ask(bus, DAEMON, DAEMON_PATH, DAEMON, "NameHasOwner", "s", NETWORK_MANAGER):
        there.set()
    await there.wait()
    while not await _has_settled(bus):
        await news.wait()
        news.clear()
    if await _is_active(bus, uuid):
        return False
    settings = f"{NETWORK_MANAGER}.Settings"
    profile = await _ask(
        bus, NETWORK_MANAGER, f"{PATH}/Settings", settings, "GetConnectionByUuid", "s", uuid
    )
    arguments = (profile, NOTHING, NOTHING)
    await _ask(bus, NETWORK_MANAGER, PATH, NETWORK_MANAGER, "ActivateConnection", "ooo", *arguments)
    return True


def _note(message: Message, news: asyncio.Event) -> None:
    if message.message_type is MessageType.SIGNAL and message.path == PATH:
        news.set()


async def _has_settled(bus: MessageBus) -> bool:
    """Tell whether NetworkManager has started what it starts itself, and a VPN has a way out."""
    try:
        starting = await _property(bus, PATH, NETWORK_MANAGER, "Startup")
        primary = await _property(bus, PATH, NETWORK_MANAGER, "PrimaryConnection")
    except CallError as error:
        # It takes its name before it has an object there; more is told by a signal.
        log.debug("NetworkManager is not ready: %s", error)
        return False
    return not starting and primary != NOTHING


async def _is_active(bus: MessageBus, uuid: str) -> bool:
    for path in await _property(bus, PATH, NETWORK_MANAGER, "ActiveConnections"):
        try:
            found = await _property(bus, path, f"{NETWORK_MANAGER}.Connection.Active", "Uuid")
        except CallError:
            continue  # it is gone by now
        if found == uuid:
            return True
    return False


async def _property(bus: MessageBus, path: str, interface: str, name: str) -> Any:
    return await _ask(bus, NETWORK_MANAGER, path, PROPERTIES, "Get", "ss", interface, name)


async def _ask(
    bus: MessageBus,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str,
    *arguments: str,
) -> Any:
    """Call a method and return its one result. Raises HostError."""
    message = Message(
        destination,
        path,
        interface,
        member,
        signature=signature,
        body=[*arguments],
        flags=MessageFlag.NO_AUTOSTART,
    )
    reply = await call(bus, message)
    return plain(reply.body[0])

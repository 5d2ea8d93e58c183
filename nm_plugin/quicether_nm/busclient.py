"""What both sides of the plugin need of a bus: calls with sentences for errors, watched names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.errors import HostError

DAEMON: Final = "org.freedesktop.DBus"
DAEMON_PATH: Final = "/org/freedesktop/DBus"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
CALL_TIMEOUT: Final = 10.0
"""Seconds that a call may take where nothing else is said."""


class CallError(HostError):
    """A D-Bus call was answered with an error.

    name: the error's D-Bus name. by_peer: whoever was called answered, not the bus in its place,
    which does when there is nobody or when the one who was called goes away over it.
    """

    def __init__(self, name: str, sentence: str, *, by_peer: bool) -> None:
        super().__init__(sentence)
        self.name = name
        self.by_peer = by_peer


class BusEndedError(HostError):
    """The connection to the bus has ended, and with it all that could be done on it."""


async def send(bus: MessageBus, message: Message) -> None:
    """Send a message that has no answer, and wait until the kernel has it.

    dbus-next ends the connection when messages are queued faster than the socket takes them.
    Raises BusEndedError.
    """
    try:
        await bus.send(message)
    except OSError as error:
        raise BusEndedError(f"the connection to D-Bus ended: {error}") from error


async def call(bus: MessageBus, message: Message, timeout: float = CALL_TIMEOUT) -> Message:
    """Send a method call and return its reply.

    Raises CallError: it was answered with an error. HostError: no answer in timeout seconds.
    BusEndedError.
    """
    what = f"{message.interface}.{message.member}"
    try:
        reply = await asyncio.wait_for(bus.call(message), timeout)
    except TimeoutError:
        raise HostError(f"{what} was not answered within {timeout:g} s") from None
    except (OSError, EOFError) as error:
        raise BusEndedError(f"{what}: the connection to D-Bus ended ({error})") from error
    if reply is None:
        raise BusEndedError(f"{what}: the connection to D-Bus ended")
    if reply.message_type is MessageType.ERROR:
        sentence = str(reply.body[0]) if reply.body else reply.error_name
        raise CallError(reply.error_name, sentence, by_peer=reply.sender != DAEMON)
    return reply


async def add_match(bus: MessageBus, rule: str) -> None:
    """Ask the bus for the signals that rule describes. Raises HostError."""
    message = Message(DAEMON, DAEMON_PATH, DAEMON, "AddMatch", signature="s", body=[rule])
    await call(bus, message)


async def watch_name(
    bus: MessageBus,
    name: str,
    vanished: Callable[[], None],
    appeared: Callable[[], None] = lambda: None,
) -> None:
    """Call vanished whenever the owner of name leaves the bus or gives the name up.

    appeared: called whenever name has a new owner, after vanished where there was another.

    Raises HostError: the bus does not let us watch.
    """

    def on_message(message: Message) -> None:
        # Any user may send us a signal of this name; the daemon alone sends as its own name.
        if (
            message.sender == DAEMON
            and message.message_type is MessageType.SIGNAL
            and message.member == "NameOwnerChanged"
            and message.signature == "sss"
            and message.body[0] == name
        ):
            if message.body[1]:
                vanished()
            if message.body[2]:
                appeared()

    bus.add_message_handler(on_message)
    await add_match(
        bus,
        f"type='signal',sender='{DAEMON}',interface='{DAEMON}',"
        f"member='NameOwnerChanged',arg0='{name}'",
    )


def plain(value: Any) -> Any:
    """Return a D-Bus value with every variant in it opened."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value

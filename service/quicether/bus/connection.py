"""The service's connection to the bus: dbus-next, made safe for a service.

Sends one message at a time, because dbus-next ends the connection when the socket is full while
another message waits (facts: a burst of large signals); reads a few messages a turn of the loop,
through the guard, so that a flood cannot starve the data path.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Set
from typing import Any, Final, TypeAlias

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import (
    BusType,
    MessageFlag,
    MessageType,
    NameFlag,
    RequestNameReply,
)
from dbus_next.message import Message

from quicether.bus.guard import BUS_DRIVER, Call, Discarded, GuardedUnmarshaller
from quicether.errors import HostError

CALL_TIMEOUT: Final = 10.0
"""Seconds until a call of ours to another service counts as failed."""
MAX_OUTGOING: Final = 1024
"""Most replies that wait to be sent; more are dropped, their callers time out."""
READS_A_TURN: Final = 8

CallHandler: TypeAlias = Callable[[Call], None]


class RemoteError(HostError):
    """Another service answered with an error. name: the D-Bus name of the error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class _GuardedBus(MessageBus):
    def __init__(self, address: str | None, accepts: Set[str]) -> None:
        self._accepts = accepts
        self._outgoing: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self._sending = False
        self.dropped = 0
        super().__init__(bus_address=address, bus_type=BusType.SYSTEM)  # type: ignore[arg-type]

    def send(self, msg: Message) -> asyncio.Future[None]:  # type: ignore[override]
        """Queue a message; the future is done when the kernel has it."""
        if not msg.serial:
            msg.serial = self.next_serial()
        done: asyncio.Future[None] = self._loop.create_future()
        reply = msg.message_type in (MessageType.METHOD_RETURN, MessageType.ERROR)
        if reply and len(self._outgoing) >= MAX_OUTGOING:
            self.dropped += 1
            done.set_result(None)
            return done
        self._outgoing.append((msg, done))
        self._send_next()
        return done

    def _send_next(self) -> None:
        while self._outgoing and not self._sending:
            message, done = self._outgoing.popleft()
            try:
                sent = super().send(message)
            except Exception as error:  # noqa: BLE001  its awaiter gets it
                if not done.done():
                    done.set_exception(error)
                continue
            self._sending = True
            sent.add_done_callback(lambda sent, done=done: self._sent(sent, done))

    def _sent(self, sent: asyncio.Future[None], done: asyncio.Future[None]) -> None:
        self._sending = False
        error = sent.exception() if not sent.cancelled() else None
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        self._send_next()

    def _create_unmarshaller(self) -> GuardedUnmarshaller:
        return GuardedUnmarshaller(self._stream, self._accepts)

    def _message_reader(self) -> None:
        try:
            for _ in range(READS_A_TURN):
                if (message := self._unmarshaller.unmarshall()) is None:
                    return
                self._unmarshaller = self._create_unmarshaller()
                if not isinstance(message, Discarded):
                    self._on_message(message)
        except Exception as error:  # noqa: BLE001  the connection is unusable, whatever it is
            self._finalize(error)
        else:
            # What is left is buffered in user space, where the selector does not see it.
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._disconnected:
            self._message_reader()

    def _finalize(self, err: Exception | None = None) -> None:
        if self._disconnected:
            return
        super()._finalize(err)
        self._stream.close()  # dbus-next leaves both to the garbage collector
        self._sock.close()
        while self._outgoing:
            _, done = self._outgoing.popleft()
            if not done.done():
                done.set_result(None)


class BusConnection:
    """A connection to the system bus, or to the bus at address.

    accepts: signatures of method calls whose arguments are read at all.
    """

    def __init__(self, accepts: Set[str], address: str | None = None) -> None:
        self._accepts = accepts
        self._address = address
        self._bus: _GuardedBus | None = None
        self._ended: asyncio.Future[None] | None = None
        self._on_call: CallHandler | None = None
        self._on_vanished: Callable[[str], None] | None = None

    async def open(self, on_call: CallHandler, on_vanished: Callable[[str], None]) -> None:
        """Connect. on_call gets every method call, on_vanished every name that left the bus.

        Raises HostError: there is no bus, or it refuses us.
        """
        self._on_call, self._on_vanished = on_call, on_vanished
        try:
            self._bus = _GuardedBus(self._address, self._accepts)
            await self._bus.connect()
        except Exception as error:
            raise HostError(f"cannot connect to the system bus: {error}") from error
        # Shielded from those who wait: dbus-next lets a waiter that is cancelled cancel its future.
        self._ended = asyncio.ensure_future(self._bus.wait_for_disconnect())
        self._bus.add_message_handler(self._receive)
        await self.call(
            BUS_DRIVER,
            "/org/freedesktop/DBus",
            BUS_DRIVER,
            "AddMatch",
            "s",
            [f"type='signal',sender='{BUS_DRIVER}',member='NameOwnerChanged',arg2=''"],
        )

    def _receive(self, message: Message) -> bool:
        if isinstance(message, Call):
            if message.interface == "org.freedesktop.DBus.Peer" and message.refusal is None:
                return False
            if self._on_call is not None:
                self._on_call(message)
            return True
        if message.member == "NameOwnerChanged" and message.message_type is MessageType.SIGNAL:
            name, _, new_owner = message.body
            if not new_owner and self._on_vanished is not None:
                self._on_vanished(name)
        return False

    async def request_name(self, name: str) -> None:
        """Own name on the bus. Raises HostError: another process has it, or we may not."""
        try:
            reply = await self.bus.request_name(name, NameFlag.DO_NOT_QUEUE)
        except Exception as error:
            raise HostError(f"cannot own {name} on the bus: {error}") from error
        if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
            raise HostError(f"cannot own {name} on the bus: another process has it")

    @property
    def bus(self) -> _GuardedBus:
        """The open connection. Raises HostError: it is not open."""
        if self._bus is None or self._bus._disconnected:
            raise HostError("not connected to the system bus")
        return self._bus

    @property
    def dropped(self) -> int:
        """How many replies were dropped because their callers flooded the service."""
        return self._bus.dropped if self._bus is not None else 0

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout: float = CALL_TIMEOUT,
    ) -> list[Any]:
        """Call a method of another service and return what it gives.

        timeout: seconds. Raises RemoteError: it answered with an error; HostError: no answer.
        """
        request = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
        )
        try:
            reply = await asyncio.wait_for(self.bus.call(request), timeout)
        except TimeoutError:
            raise HostError(f"{destination} did not answer within {timeout:g} s") from None
        except (OSError, EOFError) as error:
            raise HostError(f"{destination} did not answer: the bus went away") from error
        if reply is None:
            raise HostError(f"{destination} did not answer: the bus is gone")
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else str(reply.error_name)
            raise RemoteError(str(reply.error_name), text)
        return list(reply.body)

    async def user_of(self, name: str) -> int:
        """Return the number of the user whose connection has a unique name. Raises HostError."""
        (uid,) = await self.call(
            BUS_DRIVER, "/org/freedesktop/DBus", BUS_DRIVER, "GetConnectionUnixUser", "s", [name]
        )
        return int(uid)

    def post(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: list[Any],
    ) -> None:
        """Call a method of another service without waiting for an answer."""
        self._send(
            Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
                flags=MessageFlag.NO_REPLY_EXPECTED,
            )
        )

    async def signal(
        self, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> None:
        """Broadcast a signal and return when it is out. Raises HostError: the bus is gone."""
        try:
            await self.bus.send(Message.new_signal(path, interface, member, signature, body))
        except OSError as error:
            raise HostError(f"the bus is gone: {error}") from error

    def reply(self, call: Call, signature: str, body: list[Any]) -> None:
        """Answer a call, unless the caller wants no answer."""
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._send(Message.new_method_return(call, signature, body))

    def reply_error(self, call: Call, name: str, text: str) -> None:
        """Answer a call with an error, unless the caller wants no answer."""
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._send(Message.new_error(call, name, text))

    def _send(self, message: Message) -> None:
        if self._bus is not None and not self._bus._disconnected:
            # A failure ends the connection, which `wait_closed` reports.
            self._bus.send(message).add_done_callback(lambda done: done.exception())

    async def wait_closed(self) -> None:
        """Return when the connection was closed by us. Raises HostError: the bus went away."""
        if self._ended is None:
            return
        try:
            await asyncio.shield(self._ended)
        except Exception as error:
            raise HostError(f"the system bus went away: {error}") from error

    async def close(self) -> None:
        """Leave the bus and return when the socket is closed. Idempotent."""
        if self._bus is None or self._ended is None:
            return
        if not self._bus._disconnected:
            self._bus.disconnect()
        await asyncio.wait([self._ended])
        self._ended.exception()

"""A plain D-Bus client for tests of the service: calls with variants opened, signals collected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether.bus import contract
from support.private_bus import connection

PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"


class Refused(Exception):
    """A call was answered with an error. name: its D-Bus name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class BusClient:
    """One connection. signals: (member, path, body) of all signals of the service, in order."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.signals: list[tuple[str, str, list[Any]]] = []
        self._news = asyncio.Event()
        bus.add_message_handler(self._collect)

    def _collect(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.sender != "org.freedesktop.DBus":
            self.signals.append((message.member, message.path, plain(message.body)))
            self._news.set()

    async def watch(self) -> None:
        """Get the service's signals from now on."""
        rule = f"type='signal',path_namespace='{contract.ROOT_PATH}'"
        await self.call(
            "org.freedesktop.DBus", "AddMatch", "s", rule,
            path="/org/freedesktop/DBus", destination="org.freedesktop.DBus",
        )  # fmt: skip

    async def until(
        self, found: Callable[[list[tuple[str, str, list[Any]]]], bool], deadline: float = 5.0
    ) -> None:
        """Wait until the signals so far are as asked for."""
        try:
            async with asyncio.timeout(deadline):
                while not found(self.signals):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"after {deadline} s only {self.signals}") from None

    async def call(
        self,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        path: str = contract.ROOT_PATH,
        destination: str = contract.BUS_NAME,
        interactive: bool = False,
    ) -> Any:
        """Call a method; return its result, or the list of results where there are several.

        Raises Refused.
        """
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        reply = await asyncio.wait_for(
            self.bus.call(
                Message(
                    destination,
                    path,
                    interface,
                    member,
                    flags=flags,
                    signature=signature,
                    body=[*body],
                )
            ),
            30,
        )
        assert reply is not None, "the bus is gone"
        if reply.message_type is MessageType.ERROR:
            raise Refused(reply.error_name, reply.body[0])
        found = plain(reply.body)
        return found[0] if len(found) == 1 else found

    async def up(
        self,
        name: str,
        options: Mapping[str, str] | None = None,
        how: Mapping[str, Variant] | None = None,
        *,
        interactive: bool = False,
    ) -> Any:
        """Call Manager.Up."""
        return await self.call(
            contract.MANAGER_INTERFACE, "Up", "sa{ss}a{sv}", name, options or {}, how or {},
            interactive=interactive,
        )  # fmt: skip

    async def down(self, name: str) -> None:
        """Call Manager.Down."""
        await self.call(contract.MANAGER_INTERFACE, "Down", "s", name)

    async def join(self, code: str) -> Any:
        """Call Manager.Join."""
        return await self.call(contract.MANAGER_INTERFACE, "Join", "s", code)

    async def tunnel(self, name: str, member: str, signature: str = "", *body: Any) -> Any:
        """Call a method of a tunnel."""
        path = contract.tunnel_path(name)
        return await self.call(contract.TUNNEL_INTERFACE, member, signature, *body, path=path)

    async def until_gone(self, name: str) -> None:
        """Wait until the bus has told everybody that name is gone."""
        driver = "org.freedesktop.DBus"
        async with asyncio.timeout(5):
            while await self.call(
                driver, "NameHasOwner", "s", name, path="/org/freedesktop/DBus", destination=driver
            ):
                pass

    async def get(self, interface: str, name: str, path: str = contract.ROOT_PATH) -> Any:
        """Return a property."""
        return await self.call(PROPERTIES, "Get", "ss", interface, name, path=path)


@asynccontextmanager
async def client(address: str) -> AsyncIterator[BusClient]:
    """Be a client on the bus at address."""
    async with connection(address) as bus:
        yield BusClient(bus)


def plain(value: Any) -> Any:
    """Return a D-Bus value with every variant in it opened."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value

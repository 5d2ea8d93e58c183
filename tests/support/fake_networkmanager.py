"""A fake of NetworkManager towards a VPN plugin: it calls, and writes down what comes in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from quicether_nm.busclient import add_match, plain
from quicether_nm.interface import INTERFACE, PATH

NAME: Final = "org.freedesktop.NetworkManager"
REPLY: Final = "reply"
ERROR: Final = "error"
Entry = tuple[str, Any]


def profile(data: dict[str, str] | None = None, **vpn: Variant) -> dict[str, dict[str, Variant]]:
    """Return a connection as NetworkManager sends it for a fresh profile."""
    return {
        "connection": {
            "id": Variant("s", "quicether"),
            "uuid": Variant("s", "5f9c3a52-6f7e-4a58-9d0e-0b6f4a6a3c11"),
            "type": Variant("s", "vpn"),
            "permissions": Variant("as", []),
        },
        "vpn": {
            "service-type": Variant("s", "org.freedesktop.NetworkManager.quicether"),
            "data": Variant("a{ss}", data if data is not None else {"network": "home"}),
            **vpn,
        },
        "ipv4": {"method": Variant("s", "auto")},
        "ipv6": {"method": Variant("s", "auto")},
    }


class FakeNetworkManager:
    """Calls one plugin. entries: its signals and answers, in the order in which they came."""

    def __init__(self, bus: MessageBus, plugin: str) -> None:
        self.bus = bus
        self.entries: list[Entry] = []
        self._plugin = plugin
        self._serials: dict[int, str] = {}
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Be NetworkManager on the bus."""
        self.bus.add_message_handler(self._on_message)
        await add_match(self.bus, f"type='signal',interface='{INTERFACE}'")
        await add_match(self.bus, "type='signal',member='NameOwnerChanged'")
        await self.bus.request_name(NAME)

    async def call(self, member: str, signature: str = "", *body: Any) -> Entry:
        """Call a method of the plugin and return (REPLY or ERROR, value or name and sentence)."""
        message = Message(self._plugin, PATH, INTERFACE, member, signature=signature, body=[*body])
        message.serial = self.bus.next_serial()
        self._serials[message.serial] = member
        reply = await asyncio.wait_for(self.bus.call(message), 10)
        assert reply is not None
        return _answer(reply)

    async def connect(self, connection: dict[str, dict[str, Variant]]) -> Entry:
        """Activate a connection the way plain nmcli makes NetworkManager do it."""
        return await self.call("ConnectInteractive", "a{sa{sv}}a{sv}", connection, {})

    async def until(self, done: Callable[[list[Entry]], bool], deadline: float = 5.0) -> None:
        """Wait until what was written down is enough."""
        try:
            async with asyncio.timeout(deadline):
                while not done(self.entries):
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            raise AssertionError(f"after {deadline} s only {self.entries}") from None

    async def until_state(self, state: int, deadline: float = 5.0) -> None:
        """Wait until the plugin says that it is in state."""
        await self.until(lambda entries: ("StateChanged", state) in entries, deadline)

    async def until_gone(self, deadline: float = 5.0) -> None:
        """Wait until the plugin has left the bus."""
        await self.until(lambda entries: ("gone", self._plugin) in entries, deadline)

    def _on_message(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            if message.interface == INTERFACE:
                self.entries.append((message.member, plain(message.body[0])))
            elif message.member == "NameOwnerChanged":
                self.entries.append(("owned" if message.body[2] else "gone", message.body[0]))
        elif message.reply_serial in self._serials:
            self.entries.append(
                (f"{self._serials[message.reply_serial]} {_answer(message)[0]}", "")
            )
        self._news.set()


def _answer(reply: Message) -> Entry:
    if reply.message_type is MessageType.ERROR:
        return ERROR, (reply.error_name, str(reply.body[0]))
    return REPLY, plain(reply.body[0]) if reply.body else None

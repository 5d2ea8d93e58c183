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
ROOT: Final = "/org/freedesktop/NetworkManager"
PROFILE: Final = f"{ROOT}/Settings/7"
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
    """Calls one plugin. entries: its signals and answers, in the order in which they came.

    properties: what it says of itself to whoever asks. active: uuids of its connections.
    """

    def __init__(self, bus: MessageBus, plugin: str) -> None:
        self.bus = bus
        self.entries: list[Entry] = []
        self.properties: dict[str, Variant] = {}
        self.active: list[str] = []
        self._plugin = plugin
        self._serials: dict[int, str] = {}
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Be NetworkManager on the bus."""
        self.bus.add_message_handler(self._on_message)
        await add_match(self.bus, f"type='signal',interface='{INTERFACE}'")
        await add_match(self.bus, "type='signal',member='NameOwnerChanged'")
        await self.bus.request_name(NAME)

    async def settle(self) -> None:
        """Be done with the start, with a connection to the internet."""
        self.properties |= {
            "Startup": Variant("b", False),
            "PrimaryConnection": Variant("o", f"{ROOT}/ActiveConnection/1"),
        }
        signal = Message.new_signal(
            ROOT,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            "sa{sv}as",
            [NAME, self.properties, []],
        )
        await self.bus.send(signal)

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

    @property
    def activated(self) -> list[Any]:
        """The arguments of each call of ActivateConnection."""
        return [body for member, body in self.entries if member == "ActivateConnection"]

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

    def _on_message(self, message: Message) -> Message | None:
        if message.message_type is MessageType.METHOD_CALL:
            return self._answer_to(message)
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
        return None

    def _answer_to(self, call: Message) -> Message | None:
        match call.member:
            case "Get" if call.path == ROOT:
                name = call.body[1]
                paths = [
                    f"{ROOT}/ActiveConnection/{uuid.replace('-', '_')}" for uuid in self.active
                ]
                known = {**self.properties, "ActiveConnections": Variant("ao", paths)}
                if name not in known:
                    absent = "org.freedesktop.DBus.Error.UnknownMethod"
                    return Message.new_error(call, absent, f"Object does not exist at path {ROOT}")
                return Message.new_method_return(call, "v", [known[name]])
            case "Get":
                uuid = call.path.rpartition("/")[2].replace("_", "-")
                return Message.new_method_return(call, "v", [Variant("s", uuid)])
            case "GetConnectionByUuid":
                return Message.new_method_return(call, "o", [PROFILE])
            case "ActivateConnection":
                self.entries.append((call.member, call.body))
                self._news.set()
                return Message.new_method_return(call, "o", [f"{ROOT}/ActiveConnection/2"])
        return None


def _answer(reply: Message) -> Entry:
    if reply.message_type is MessageType.ERROR:
        return ERROR, (reply.error_name, str(reply.body[0]))
    return REPLY, plain(reply.body[0]) if reply.body else None

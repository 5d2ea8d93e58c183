"""The plugin's D-Bus face: org.freedesktop.NetworkManager.VPN.Plugin, names and signatures.

Messages are answered here and not by dbus-next's ServiceInterface, because that logs a traceback
for each call which is answered with an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dbus_next import introspection as xml
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import ArgDirection, MessageFlag, MessageType, PropertyAccess
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from quicether.errors import ConfigError, QuicEtherError
from quicether_nm.busclient import PROPERTIES, BusEndedError, plain, send
from quicether_nm.ipconfig import Typed
from quicether_nm.states import IllegalTransitionError, Signal, State, VpnError

log = logging.getLogger(__name__)

BUS_NAME: Final = "org.freedesktop.NetworkManager.quicether"
PATH: Final = "/org/freedesktop/NetworkManager/VPN/Plugin"
INTERFACE: Final = "org.freedesktop.NetworkManager.VPN.Plugin"
INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"

SIGNALS: Final[Mapping[Signal, str]] = {
    Signal.STATE_CHANGED: "u",
    Signal.CONFIG: "a{sv}",
    Signal.IP4_CONFIG: "a{sv}",
    Signal.IP6_CONFIG: "a{sv}",
    Signal.FAILURE: "u",
}
"""Signal → signature of its one argument."""


class Calls(Protocol):
    """What NetworkManager's calls come to."""

    @property
    def state(self) -> State:
        """The connection's state."""

    async def connect(self, connection: Mapping[str, Mapping[str, object]]) -> None:
        """Begin to connect and return at once. Raises QuicEtherError."""

    async def disconnect(self) -> None:
        """Begin to disconnect and return at once. Raises QuicEtherError."""


class CallRefusedError(QuicEtherError):
    """A call that is answered with the D-Bus error called name."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.name = name


@dataclass(frozen=True, slots=True)
class _Method:
    """takes, gives: signatures of the arguments and of the answer."""

    takes: str
    gives: str
    run: Callable[[Calls, Sequence[Any]], Awaitable[list[Any]]]


async def _connect(calls: Calls, body: Sequence[Any]) -> list[Any]:
    """Connect. Interactively or not is the same, because there is nothing to ask a user."""
    await calls.connect(plain(body[0]))
    return []


async def _need_secrets(_calls: Calls, _body: Sequence[Any]) -> list[Any]:
    """No setting needs secrets: a node's key never leaves its host."""
    return [""]


async def _new_secrets(_calls: Calls, _body: Sequence[Any]) -> list[Any]:
    raise CallRefusedError(VpnError.WRONG_STATE, "QuicEther has not asked for secrets")


async def _disconnect(calls: Calls, _body: Sequence[Any]) -> list[Any]:
    await calls.disconnect()
    return []


async def _set(_calls: Calls, _body: Sequence[Any]) -> list[Any]:
    """Meant for helper programs of a plugin; NetworkManager never calls it."""
    raise CallRefusedError(VpnError.FAILED, "configuration comes from org.quicether1 alone")


async def _introspect(_calls: Calls, _body: Sequence[Any]) -> list[Any]:
    return [introspection()]


async def _get(calls: Calls, body: Sequence[Any]) -> list[Any]:
    values = _properties(calls, body[0])
    if body[1] not in values:
        raise CallRefusedError(
            "org.freedesktop.DBus.Error.UnknownProperty", f"{body[0]} has no property {body[1]}"
        )
    return [values[body[1]]]


async def _get_all(calls: Calls, body: Sequence[Any]) -> list[Any]:
    return [_properties(calls, body[0])]


def _properties(calls: Calls, interface: str) -> dict[str, Variant]:
    return {"State": Variant("u", calls.state.value)} if interface == INTERFACE else {}


_PLUGIN_METHODS: Final[Mapping[str, _Method]] = {
    "Connect": _Method("a{sa{sv}}", "", _connect),
    "ConnectInteractive": _Method("a{sa{sv}}a{sv}", "", _connect),
    "NeedSecrets": _Method("a{sa{sv}}", "s", _need_secrets),
    "NewSecrets": _Method("a{sa{sv}}", "", _new_secrets),
    "Disconnect": _Method("", "", _disconnect),
    "SetConfig": _Method("a{sv}", "", _set),
    "SetIp4Config": _Method("a{sv}", "", _set),
    "SetIp6Config": _Method("a{sv}", "", _set),
    "SetFailure": _Method("s", "", _set),
}
_METHODS: Final[Mapping[tuple[str, str], _Method]] = {
    **{(INTERFACE, name): method for name, method in _PLUGIN_METHODS.items()},
    (INTROSPECTABLE, "Introspect"): _Method("", "s", _introspect),
    (PROPERTIES, "Get"): _Method("ss", "v", _get),
    (PROPERTIES, "GetAll"): _Method("s", "a{sv}", _get_all),
}


class PluginInterface:
    """Answers the calls to the plugin's object on a bus, with what `calls` makes of them."""

    def __init__(self, bus: MessageBus, calls: Calls) -> None:
        self._bus = bus
        self._calls = calls
        self._running: set[asyncio.Task[None]] = set()
        bus.add_message_handler(self._on_message)

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL or message.path != PATH:
            return False
        method = _METHODS.get((message.interface, message.member))
        if method is None:
            return False
        # Bounded by NetworkManager: it alone may call, and each call ends at once.
        task = asyncio.create_task(self._answer(message, method))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _answer(self, message: Message, method: _Method) -> None:
        reply = await self._reply(message, method)
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            return
        try:
            await send(self._bus, reply)
        except BusEndedError as error:
            log.debug("no answer to %s: %s", message.member, error)

    async def _reply(self, message: Message, method: _Method) -> Message:
        """Run a method; whatever it raises becomes an error that NetworkManager knows."""
        if message.signature != method.takes:
            sentence = f"{message.member} takes {method.takes!r}, not {message.signature!r}"
            return Message.new_error(message, VpnError.BAD_ARGUMENTS.value, sentence)
        try:
            body = await method.run(self._calls, message.body)
        except (IllegalTransitionError, CallRefusedError) as error:
            return Message.new_error(message, str(error.name), str(error))
        except ConfigError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence for a person
            return Message.new_error(message, VpnError.BAD_ARGUMENTS.value, str(error))
        except Exception:
            log.exception("a call of NetworkManager's found a fault in the plugin")
            sentence = "a fault in the plugin; the journal has it"
            return Message.new_error(message, VpnError.FAILED.value, sentence)
        return Message.new_method_return(message, method.gives, body)


async def send_signal(bus: MessageBus, signal: Signal, argument: int | Mapping[str, Typed]) -> None:
    """Send a signal and wait until the kernel has it. Raises BusEndedError."""
    body: Any = argument
    if isinstance(argument, Mapping):
        body = {key: Variant(typed.signature, typed.value) for key, typed in argument.items()}
    await send(bus, Message.new_signal(PATH, INTERFACE, signal.value, SIGNALS[signal], [body]))


def introspection() -> str:
    """Return the description of the plugin's object as D-Bus introspection XML."""
    methods = [
        xml.Method(
            name,
            _arguments(method.takes, ArgDirection.IN),
            _arguments(method.gives, ArgDirection.OUT),
        )
        for name, method in _PLUGIN_METHODS.items()
    ]
    signals = [xml.Signal(name.value, [xml.Arg(takes)]) for name, takes in SIGNALS.items()]
    state = xml.Property("State", "u", PropertyAccess.READ)
    node: xml.Node = xml.Node.default(PATH)
    node.interfaces.append(xml.Interface(INTERFACE, methods, signals, [state]))
    return str(node.tostring())


def _arguments(signature: str, direction: Any) -> list[xml.Arg]:
    """Return one argument a complete type; direction is Any as dbus-next mistypes it as a list."""
    return [xml.Arg(each.signature, direction) for each in SignatureTree(signature).types]

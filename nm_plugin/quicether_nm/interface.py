"""The plugin's D-Bus face: org.freedesktop.NetworkManager.VPN.Plugin, names and signatures.

dbus-next takes the annotations of a method for its D-Bus signature, which no type checker knows.
"""
# ruff: noqa: ANN201, F722, F821, UP037
# mypy: disable-error-code="name-defined, no-untyped-def, syntax, untyped-decorator, valid-type"

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import PropertyAccess
from dbus_next.errors import DBusError
from dbus_next.introspection import Arg, Interface
from dbus_next.introspection import Signal as SignalElement
from dbus_next.message import Message
from dbus_next.service import ServiceInterface, dbus_property, method
from dbus_next.signature import Variant

from quicether.errors import ConfigError, QuicEtherError
from quicether_nm.busclient import plain
from quicether_nm.ipconfig import Typed
from quicether_nm.states import IllegalTransitionError, Signal, State, VpnError

log = logging.getLogger(__name__)

BUS_NAME: Final = "org.freedesktop.NetworkManager.quicether"
PATH: Final = "/org/freedesktop/NetworkManager/VPN/Plugin"
INTERFACE: Final = "org.freedesktop.NetworkManager.VPN.Plugin"

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


class PluginInterface(ServiceInterface):
    """Hands NetworkManager's calls to `calls`, and turns every exception into a D-Bus error."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(INTERFACE)
        self._calls = calls

    @method()
    async def Connect(self, connection: "a{sa{sv}}"):
        """Connect; the answer comes at once, the outcome as signals."""
        with _answering():
            await self._calls.connect(plain(connection))

    @method()
    async def ConnectInteractive(self, connection: "a{sa{sv}}", details: "a{sv}"):
        """Connect; there is nothing to ask a user, so it is the same as Connect."""
        with _answering():
            await self._calls.connect(plain(connection))

    @method()
    def NeedSecrets(self, settings: "a{sa{sv}}") -> "s":
        """Tell which setting lacks secrets: none, a node's key never leaves its host."""
        return ""

    @method()
    def NewSecrets(self, connection: "a{sa{sv}}"):
        """Refuse secrets that were never asked for."""
        raise DBusError(VpnError.WRONG_STATE, "QuicEther has not asked for secrets")

    @method()
    async def Disconnect(self):
        """Disconnect; the answer comes at once, the end as StateChanged."""
        with _answering():
            await self._calls.disconnect()

    @method()
    def SetConfig(self, config: "a{sv}"):
        """Refuse: meant for helper programs, and this plugin has none."""
        raise _no_helpers()

    @method()
    def SetIp4Config(self, config: "a{sv}"):
        """Refuse: meant for helper programs, and this plugin has none."""
        raise _no_helpers()

    @method()
    def SetIp6Config(self, config: "a{sv}"):
        """Refuse: meant for helper programs, and this plugin has none."""
        raise _no_helpers()

    @method()
    def SetFailure(self, reason: "s"):
        """Refuse: meant for helper programs, and this plugin has none."""
        raise _no_helpers()

    @dbus_property(access=PropertyAccess.READ)
    def State(self) -> "u":
        """The connection's state."""
        return self._calls.state.value

    def introspect(self) -> Interface:
        """Describe the interface; signals come from the table, as `send` knows them."""
        interface = super().introspect()
        interface.signals = [
            SignalElement(name.value, [Arg(signature)]) for name, signature in SIGNALS.items()
        ]
        return interface


async def send(bus: MessageBus, signal: Signal, argument: int | Mapping[str, Typed]) -> None:
    """Send a signal and wait until the kernel has it.

    dbus-next ends the connection when messages are queued faster than the socket takes them.
    """
    body: Any = argument
    if isinstance(argument, Mapping):
        body = {key: Variant(typed.signature, typed.value) for key, typed in argument.items()}
    await bus.send(Message.new_signal(PATH, INTERFACE, signal.value, SIGNALS[signal], [body]))


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what a call raises into a D-Bus error with a name that NetworkManager knows."""
    try:
        yield
    except IllegalTransitionError as error:
        raise DBusError(error.name, str(error)) from None
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence, the traceback says nothing more
        raise DBusError(VpnError.BAD_ARGUMENTS, str(error)) from None
    except QuicEtherError as error:
        log.error("%s", error)  # noqa: TRY400
        raise DBusError(VpnError.FAILED, str(error)) from None
    except Exception:
        log.exception("a call of NetworkManager's found a fault in the plugin")
        raise DBusError(VpnError.FAILED, "a fault in the plugin; the journal has it") from None


def _no_helpers() -> DBusError:
    return DBusError(VpnError.FAILED, "configuration comes from org.quicether1 alone")

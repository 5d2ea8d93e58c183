"""The command line's way to the service: blocking D-Bus calls through jeepney."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from jeepney import DBusAddress, MessageFlag, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from quicether.bus.contract import (
    BUS_NAME,
    LIST_LIMIT,
    MANAGER_INTERFACE,
    ROOT_PATH,
    TUNNEL_INTERFACE,
    ErrorName,
)
from quicether.cli.exits import NoDaemonError, NotPermittedError
from quicether.errors import ConfigError, HostError, QuicEtherError

QUESTION_TIMEOUT: Final = 30.0
"""Seconds that the service has to answer a question."""
ACTION_TIMEOUT: Final = 150.0
"""Seconds for what changes something, a prompt for a password included."""
READY_PATIENCE: Final = 5.0
"""Seconds that a tunnel has to be ready; it gives peers that do not answer half of that."""
MAX_LISTED: Final = 100_000
"""Most peers or routes that are fetched; a service that gives more is not believed."""

_ABSENT: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}" for name in ("ServiceUnknown", "NameHasNoOwner")
)
_START_FAILURES: Final = ("org.freedesktop.DBus.Error.Spawn.", "org.freedesktop.systemd1.")
"""How the bus says that the service's program or unit could not be started."""
_DENIED: Final = frozenset({ErrorName.NOT_AUTHORIZED, "org.freedesktop.DBus.Error.AccessDenied"})


class RefusedArgumentError(ConfigError):
    """The service says that an argument is wrong, or that what it names does not exist."""


class Daemon:
    """A connection to the service."""

    def __init__(self, connection: DBusConnection) -> None:
        self._connection = connection

    def up(self, tunnel: str, options: dict[str, str], how: dict[str, tuple[str, Any]]) -> None:
        """Bring a tunnel up and return when packets can flow, or have had READY_PATIENCE to.

        The service is started where it does not run. Raises HostError.
        """
        (path,) = self._act("Up", "sa{ss}a{sv}", (tunnel, options, how), start=True)
        self._await_ready(path)

    def _await_ready(self, path: str) -> None:
        from jeepney import MatchRule, message_bus
        from jeepney.io.blocking import Proxy

        rule = MatchRule(
            type="signal",
            sender=BUS_NAME,
            interface="org.freedesktop.DBus.Properties",
            member="PropertiesChanged",
            path=path,
        )
        end = time.monotonic() + READY_PATIENCE
        # The filter looks at who sent a signal by unique name, which the rule does not know.
        heard = MatchRule(type="signal", member="PropertiesChanged", path=path)
        with self._connection.filter(heard) as news:
            Proxy(message_bus, self._connection).AddMatch(rule)
            while not self._get_all(path, TUNNEL_INTERFACE)["Ready"][1]:
                try:
                    left = max(end - time.monotonic(), 0)
                    self._connection.recv_until_filtered(news, timeout=left)
                except TimeoutError:
                    return

    def down(self, tunnel: str) -> None:
        """Take a tunnel down."""
        self._act("Down", "s", (tunnel,))

    def reload(self, tunnel: str) -> None:
        """Have a tunnel's configuration read again."""
        self._act("Reload", "s", (tunnel,))

    def renew(self, tunnel: str) -> float:
        """Have a tunnel's certificate renewed; return its end, in Unix time."""
        (end,) = self._act("Renew", "s", (tunnel,))
        return float(end)

    def manager(self) -> dict[str, Any]:
        """Return the manager's properties."""
        found: dict[str, Any] = self._get_all(ROOT_PATH, MANAGER_INTERFACE)
        return found

    def tunnels(self) -> dict[str, dict[str, Any]]:
        """Return object path → properties of every tunnel, variants as (signature, value)."""
        (objects,) = self._call(
            ROOT_PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"
        )
        return {path: interfaces[TUNNEL_INTERFACE] for path, interfaces in objects.items()}

    def listed(self, path: str, member: str) -> Iterator[dict[str, Any]]:
        """Yield all entries of a tunnel's ListPeers or ListRoutes."""
        for start in range(0, MAX_LISTED, LIST_LIMIT):
            (part,) = self._call(path, TUNNEL_INTERFACE, member, "uu", (start, LIST_LIMIT))
            yield from part
            if len(part) < LIST_LIMIT:
                return

    def ask(self, path: str, member: str, signature: str, *body: Any) -> dict[str, Any]:
        """Return the answer of a tunnel's Lookup, Ping or PolicyTest."""
        (answer,) = self._call(path, TUNNEL_INTERFACE, member, signature, body)
        found: dict[str, Any] = answer
        return found

    def _get_all(self, path: str, interface: str) -> dict[str, Any]:
        (found,) = self._call(path, "org.freedesktop.DBus.Properties", "GetAll", "s", (interface,))
        opened: dict[str, Any] = found
        return opened

    def _act(
        self, member: str, signature: str, body: tuple[Any, ...], *, start: bool = False
    ) -> tuple[Any, ...]:
        return self._call(
            ROOT_PATH,
            MANAGER_INTERFACE,
            member,
            signature,
            body,
            start=start,
            interactive=sys.stdin.isatty(),
            timeout=ACTION_TIMEOUT,
        )

    def _call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        start: bool = False,
        interactive: bool = False,
        timeout: float = QUESTION_TIMEOUT,
    ) -> tuple[Any, ...]:
        address = DBusAddress(path, BUS_NAME, interface)
        call = new_method_call(address, member, signature or None, body)
        if not start:
            call.header.flags |= MessageFlag.no_auto_start
        if interactive:
            call.header.flags |= MessageFlag.allow_interactive_authorization
        try:
            reply = self._connection.send_and_get_reply(call, timeout=timeout)
        except TimeoutError:
            raise HostError(f"the service did not answer {member} within {timeout:g} s") from None
        except OSError as error:
            raise HostError(f"the connection to the system bus broke: {error}") from None
        if reply.header.message_type is MessageType.error:
            raise _error(reply)
        return tuple(reply.body)


def _error(reply: Any) -> QuicEtherError:
    from jeepney import HeaderFields

    name = str(reply.header.fields.get(HeaderFields.error_name, ""))
    text = str(reply.body[0]) if reply.body else name
    if name in _ABSENT or name.startswith(_START_FAILURES):
        return NoDaemonError(
            "the service is not running; `quicether up` or `systemctl start quicether` starts it"
            if name in _ABSENT
            else f"the service cannot be started: {text}"
        )
    if name in _DENIED:
        return NotPermittedError(text)
    if name in (ErrorName.INVALID, ErrorName.NOT_FOUND, ErrorName.ALREADY_UP):
        return RefusedArgumentError(text)
    return QuicEtherError(text)


@contextmanager
def daemon() -> Iterator[Daemon]:
    """Be connected to the system bus, where the service is. Raises NoDaemonError: no bus."""
    try:
        connection = open_dbus_connection("SYSTEM")
    except OSError as error:
        raise NoDaemonError(f"there is no system bus to reach the service on: {error}") from None
    except (EOFError, RuntimeError, ValueError) as error:
        address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "its usual place")
        raise NoDaemonError(
            f"there is no system bus to reach the service on: none at {address!r} ({error})"
        ) from None
    try:
        yield Daemon(connection)
    finally:
        connection.close()

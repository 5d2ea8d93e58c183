"""Fakes of systemd-resolved and of NetworkManager's DnsManager on a private bus."""
# ruff: noqa: ANN201, F821, UP037
# mypy: disable-error-code="name-defined, no-untyped-def, syntax, untyped-decorator, valid-type"

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import PropertyAccess
from dbus_next.errors import DBusError
from dbus_next.service import ServiceInterface, dbus_property, method

RESOLVED: Final = "org.freedesktop.resolve1"
NETWORKMANAGER: Final = "org.freedesktop.NetworkManager"


class FakeResolved(ServiceInterface):
    """Keeps what it is told of each link. refusal: the error that every call gets, if any."""

    def __init__(self) -> None:
        super().__init__(f"{RESOLVED}.Manager")
        self.servers: dict[int, list[str]] = {}
        self.domains: dict[int, list[tuple[str, bool]]] = {}
        self.default: dict[int, bool] = {}
        self.calls = 0
        self.refusal: str | None = None

    async def start(self, bus: MessageBus) -> None:
        """Take systemd-resolved's name."""
        bus.export("/org/freedesktop/resolve1", self)
        await bus.request_name(RESOLVED)

    def _called(self) -> None:
        self.calls += 1
        if self.refusal is not None:
            raise DBusError(f"{RESOLVED}.LinkBusy", self.refusal)

    @method()
    def SetLinkDNS(self, index: "i", servers: "a(iay)"):
        self._called()
        self.servers[index] = [str(ip_address(bytes(packed))) for _, packed in servers]
        assert [family for family, _ in servers] == [{4: 2, 16: 10}[len(p)] for _, p in servers]

    @method()
    def SetLinkDomains(self, index: "i", domains: "a(sb)"):
        self._called()
        self.domains[index] = [(name, routing) for name, routing in domains]

    @method()
    def SetLinkDefaultRoute(self, index: "i", enable: "b"):
        self._called()
        self.default[index] = enable


class FakeDnsManager(ServiceInterface):
    """Says which DNS plugin NetworkManager uses."""

    def __init__(self, mode: str) -> None:
        super().__init__(f"{NETWORKMANAGER}.DnsManager")
        self._mode = mode

    async def start(self, bus: MessageBus) -> None:
        """Take NetworkManager's name."""
        bus.export("/org/freedesktop/NetworkManager/DnsManager", self)
        await bus.request_name(NETWORKMANAGER)

    @dbus_property(access=PropertyAccess.READ)
    def Mode(self) -> "s":
        return self._mode

"""Who manages this machine's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from quicether.errors import HostError
from quicether.host.system_bus import SystemBus

Manager = Literal["networkmanager", "networkd", "netlink"]

_NETWORKMANAGER: Final = "org.freedesktop.NetworkManager"
_SYSTEMD: Final = "org.freedesktop.systemd1"
NETWORKD: Final = "org.freedesktop.network1"


@dataclass(frozen=True, slots=True)
class Detected:
    """The manager to hand the link to, and a sentence that says why."""

    manager: Manager
    reason: str


async def detect(bus: SystemBus) -> Detected:
    """Find out who manages the machine: the one that runs its uplink, where both are there.

    Raises HostError: the bus itself does not answer.
    """
    networkmanager = await has_owner(bus, _NETWORKMANAGER)
    on_bus = await has_owner(bus, NETWORKD)
    networkd = on_bus or await _is_active(bus, "systemd-networkd.service")
    if networkmanager and networkd:
        if await _networkmanager_has_uplink(bus):
            return Detected("networkmanager", "NetworkManager runs this machine's uplink")
        if await _networkd_has_links(bus):
            return Detected("networkd", "systemd-networkd runs this machine's links")
        return Detected("networkmanager", "NetworkManager runs, and systemd-networkd has no link")
    if networkmanager:
        return Detected("networkmanager", "NetworkManager runs on this machine")
    if networkd:
        # It stays off a bus that was restarted, and goes on to manage its links.
        silent = "" if on_bus else ", although it is not on the bus"
        return Detected("networkd", f"systemd-networkd runs on this machine{silent}")
    return Detected("netlink", "neither NetworkManager nor systemd-networkd runs on this machine")


async def has_owner(bus: SystemBus, name: str) -> bool:
    """Tell whether a name has an owner, without starting the service.

    Raises HostError: the bus itself does not answer.
    """
    driver = "org.freedesktop.DBus"
    (owned,) = await bus.call(driver, "/org/freedesktop/DBus", driver, "NameHasOwner", "s", [name])
    return bool(owned)


async def _is_active(bus: SystemBus, unit: str) -> bool:
    try:
        (path,) = await bus.call(
            _SYSTEMD, "/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager", "GetUnit", "s", [unit]
        )
    except HostError:
        return False  # there is no systemd, or it does not know the unit
    state: str | None = await _property(bus, _SYSTEMD, path, f"{_SYSTEMD}.Unit", "ActiveState")
    return state == "active"


async def _networkmanager_has_uplink(bus: SystemBus) -> bool:
    path = "/org/freedesktop/NetworkManager"
    primary = await _property(bus, _NETWORKMANAGER, path, _NETWORKMANAGER, "PrimaryConnection")
    return primary not in (None, "/")


async def _networkd_has_links(bus: SystemBus) -> bool:
    try:
        (links,) = await bus.call(
            NETWORKD, "/org/freedesktop/network1", f"{NETWORKD}.Manager", "ListLinks"
        )
    except HostError:
        return False
    for _, name, path in links:
        state = await _property(bus, NETWORKD, path, f"{NETWORKD}.Link", "AdministrativeState")
        if name != "lo" and state in ("configuring", "configured"):
            return True
    return False


async def _property(bus: SystemBus, service: str, path: str, interface: str, name: str) -> Any:
    """Return a property, None where the service does not give it (it may be going away)."""
    properties = "org.freedesktop.DBus.Properties"
    try:
        (variant,) = await bus.call(service, path, properties, "Get", "ss", [interface, name])
    except HostError:
        return None
    return variant.value

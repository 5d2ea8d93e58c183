"""What asks name servers on this machine, and whether it can be told of one for a few domains.

A server that knows the overlay's names alone must never be asked for all others: where the host
has nothing but a list of servers in /etc/resolv.conf, it is not told at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quicether.errors import HostError
from quicether.host.system_bus import SystemBus

RESOLVED: Final = "org.freedesktop.resolve1"
_NETWORKMANAGER: Final = "org.freedesktop.NetworkManager"
_SPLITTING_MODES: Final = ("systemd-resolved", "dnsmasq")
"""Of NetworkManager's DNS plugins those that ask each server for the domains of its link alone."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """splits: it asks different servers for different domains. text: what it is, a clause."""

    splits: bool
    text: str


NO_BUS: Final = Resolver(splits=False, text="there is no D-Bus to ask for systemd-resolved")


async def find_resolver(bus: SystemBus | None, *, networkmanager: bool) -> Resolver:
    """Return what asks name servers on this machine.

    networkmanager: name servers of the link are NetworkManager's to tell.
    """
    if bus is None:
        return NO_BUS
    try:
        if networkmanager:
            return await _of_networkmanager(bus)
        if await _runs(bus, RESOLVED):
            return Resolver(splits=True, text="systemd-resolved runs on this machine")
    except HostError as error:
        return Resolver(splits=False, text=str(error))
    return Resolver(splits=False, text="systemd-resolved does not run on this machine")


async def _of_networkmanager(bus: SystemBus) -> Resolver:
    (mode,) = await bus.call(
        _NETWORKMANAGER,
        "/org/freedesktop/NetworkManager/DnsManager",
        "org.freedesktop.DBus.Properties",
        "Get",
        "ss",
        [f"{_NETWORKMANAGER}.DnsManager", "Mode"],
    )
    return Resolver(
        splits=mode.value in _SPLITTING_MODES,
        text=f"NetworkManager's DNS mode is {mode.value!r}",
    )


async def _runs(bus: SystemBus, name: str) -> bool:
    """Tell whether a name has an owner, without starting the service."""
    driver = "org.freedesktop.DBus"
    (owned,) = await bus.call(driver, "/org/freedesktop/DBus", driver, "NameHasOwner", "s", [name])
    return bool(owned)

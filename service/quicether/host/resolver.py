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

_LEFT_ALONE: Final = "none"
"""NetworkManager's mode in which it tells nobody."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """splits: it asks different servers for different domains. text: what it is, a clause.

    told: it is told of a tunnel's name servers at all, and asks them.
    """

    splits: bool
    text: str
    told: bool = True


NO_BUS: Final = Resolver(False, "there is no D-Bus to ask for systemd-resolved", told=False)


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
        return Resolver(splits=False, text=str(error), told=False)
    return Resolver(False, "systemd-resolved does not run on this machine", told=False)


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
        told=mode.value != _LEFT_ALONE,
    )


async def _runs(bus: SystemBus, name: str) -> bool:
    """Tell whether a name has an owner, without starting the service."""
    driver = "org.freedesktop.DBus"
    (owned,) = await bus.call(driver, "/org/freedesktop/DBus", driver, "NameHasOwner", "s", [name])
    return bool(owned)

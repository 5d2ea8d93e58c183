"""Who manages a machine's network, also where more than one manager runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbus_next.signature import Variant

from quicether.errors import HostError
from quicether.host.detect import detect

NETWORKMANAGER = "org.freedesktop.NetworkManager"
NETWORKD = "org.freedesktop.network1"


class Bus:
    """Implements `SystemBus` for a machine: who is on the bus, and what they say of themselves.

    links: name → AdministrativeState at networkd. active: units of systemd that run.
    """

    def __init__(
        self,
        *names: str,
        primary: str = "/",
        links: dict[str, str] | None = None,
        active: tuple[str, ...] = (),
    ) -> None:
        self.names = names
        self.primary = primary
        self.links = links or {}
        self.active = active

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
    ) -> list[Any]:
        asked = body or []
        match member, *asked:
            case "NameHasOwner", name:
                return [name in self.names]
            case "GetUnit", unit if unit in self.active:
                return [f"/unit/{unit}"]
            case "Get", _, "ActiveState":
                return [Variant("s", "active")]
            case "Get", _, "PrimaryConnection":
                return [Variant("o", self.primary)]
            case ("ListLinks",):
                return [[[number, name, name] for number, name in enumerate(self.links, 1)]]
            case "Get", _, "AdministrativeState":
                return [Variant("s", self.links[path])]
        raise HostError(f"{destination} has no {interface}.{member}")


@pytest.mark.parametrize(
    ("bus", "manager", "reason"),
    [
        (Bus(), "netlink", "neither"),
        (Bus(NETWORKMANAGER), "networkmanager", "NetworkManager runs on"),
        (Bus(NETWORKD), "networkd", "systemd-networkd runs on this machine"),
        (Bus(active=("systemd-networkd.service",)), "networkd", "it is not on the bus"),
        (
            Bus(NETWORKMANAGER, NETWORKD, primary="/1", links={"eth1": "configured"}),
            "networkmanager",
            "runs this machine's uplink",
        ),
        (
            Bus(NETWORKMANAGER, NETWORKD, links={"lo": "configured", "eth0": "configured"}),
            "networkd",
            "runs this machine's links",
        ),
        (
            Bus(NETWORKMANAGER, NETWORKD, links={"lo": "configured", "eth0": "unmanaged"}),
            "networkmanager",
            "has no link",
        ),
    ],
)
def test_who_manages_the_machine(bus: Bus, manager: str, reason: str) -> None:
    found = asyncio.run(detect(bus))
    assert found.manager == manager
    assert reason in found.reason

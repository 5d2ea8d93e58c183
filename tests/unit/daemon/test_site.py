"""The MTU of the device, by what the settings name and what the host's own network has room for."""

from __future__ import annotations

import asyncio

import pytest

from quicether.config.settings import Settings
from quicether.daemon import site
from quicether.errors import UnreachableError
from quicether.host.underlay import ANYWHERE, UnderlayPath
from quicether.model import Address

ROUTES = {"192.0.2.7": 1500, "192.0.2.8": 1340, "2001:db8::8": 1400, "10.0.0.9": 9000}
"""Address → MTU of the way to it; nothing else has a way but what is behind a default route."""


@pytest.mark.parametrize(
    ("peers", "default", "mtu"),
    [
        # Named by address: the default route does not matter.
        ("192.0.2.7", {4: 1300}, 1420),
        ("192.0.2.7 192.0.2.8", {4: 1500}, 1280),
        ("2001:db8::8", {4: 1500}, 1320),
        ("10.0.0.9", {}, 1420),
        ("198.51.100.1", {}, 1420),
        # By a name, or found by the DHT: behind a default route.
        ("", {4: 1400}, 1340),
        ("", {4: 1500, 6: 1400}, 1320),
        ("", {}, 1420),
        ("vpn.example.org", {4: 1400}, 1340),
        ("vpn.example.org 192.0.2.8", {4: 1400}, 1280),
        ("vpn.example.org 192.0.2.7", {4: 1400}, 1340),
    ],
)
def test_the_devices_mtu_is_what_the_ways_to_its_peers_have_room_for(
    monkeypatch: pytest.MonkeyPatch, peers: str, default: dict[int, int], mtu: int
) -> None:
    async def path_to(destination: Address, mark: int) -> UnderlayPath:
        behind = default.get(destination.version) if destination in ANYWHERE else None
        found = ROUTES.get(str(destination), behind)
        if found is None:
            raise UnreachableError(f"this host has no route to {destination}")
        return UnderlayPath("eth0", destination, None, found)

    monkeypatch.setattr(site, "path_to", path_to)
    assert asyncio.run(site.path_mtu(Settings.from_options({"peers": peers}))) == mtu

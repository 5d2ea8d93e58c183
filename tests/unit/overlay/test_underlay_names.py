"""Peers' names, and what serves while they do not resolve."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quicether.config.values import HostPort
from quicether.errors import HostError
from quicether.model import UnderlayAddress
from quicether.overlay import underlay_names
from quicether.overlay.underlay_names import UnderlayNames

HOME = HostPort("home.example.org", 9000)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the host's resolver knows: name → address."""
    known: dict[str, str] = {}

    def getaddrinfo(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (known[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def test_a_name_that_no_longer_resolves_keeps_its_last_addresses(zone: dict[str, str]) -> None:
    async def scenario() -> None:
        names = UnderlayNames()
        with pytest.raises(HostError, match=r"home\.example\.org:9000: its name does not resolve"):
            await names.addresses(HOME)
        zone[HOME.host] = "198.51.100.1"
        assert await names.addresses(HOME) == (UnderlayAddress("198.51.100.1", 9000),)
        zone[HOME.host] = "198.51.100.2"
        assert await names.addresses(HOME) == (UnderlayAddress("198.51.100.2", 9000),)
        zone.clear()
        assert await names.addresses(HOME) == (UnderlayAddress("198.51.100.2", 9000),)

    asyncio.run(scenario())


def test_names_are_learned_ahead_as_far_as_they_resolve(zone: dict[str, str]) -> None:
    async def scenario() -> None:
        names = UnderlayNames()
        zone[HOME.host] = "198.51.100.1"
        await names.learn((HostPort("nowhere.example.org", 1), HOME, HostPort("192.0.2.1", 1)))
        zone.clear()
        assert await names.addresses(HOME) == (UnderlayAddress("198.51.100.1", 9000),)

    asyncio.run(scenario())


def test_what_is_remembered_is_bounded(
    zone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(underlay_names, "MAX_REMEMBERED", 2)

    async def scenario() -> None:
        names = UnderlayNames()
        places = [HostPort(f"n{number}.example.org", 9000) for number in range(3)]
        for place in places:
            zone[place.host] = "198.51.100.1"
            await names.addresses(place)
        zone.clear()
        for place in places[1:]:
            await names.addresses(place)
        with pytest.raises(HostError):
            await names.addresses(places[0])

    asyncio.run(scenario())

"""Peers' names, and what serves while they do not resolve."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from quicether.config.values import HostPort
from quicether.errors import HostError
from quicether.model import UnderlayAddress
from quicether.overlay import underlay_names
from quicether.overlay.underlay_names import MAX_QUESTIONS, UnderlayNames

HOME = HostPort("home.example.org", 9000)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the host's resolver knows: name → address."""
    known: dict[str, str] = {}

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
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


def test_a_fault_in_a_question_ends_it_and_frees_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waited for without end, and its turn was lost."""

    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario() -> None:
        names = UnderlayNames()
        async with asyncio.timeout(5):
            for _ in range(MAX_QUESTIONS + 1):
                with pytest.raises(UnicodeError):
                    await names.addresses(HOME)

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


def test_a_resolver_that_does_not_answer_holds_neither_the_end_nor_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service took as long to stop as the system's resolver to give up its name servers."""
    release, asked = threading.Event(), []

    def getaddrinfo(host: str, _port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        release.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def scenario() -> None:
        names = UnderlayNames()
        wanted = [HostPort(f"n{n}.example.org", 9000) for n in range(MAX_QUESTIONS + 5)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.gather(*map(names.addresses, wanted))
        assert len(asked) == MAX_QUESTIONS
        # An address needs no resolver, and so no turn.
        literal = UnderlayAddress("192.0.2.1", 9000)
        assert await names.addresses(HostPort("192.0.2.1", 9000)) == (literal,)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    start = time.monotonic()
    try:
        asyncio.run(scenario())
        assert time.monotonic() - start < 5
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith("resolve "):
                thread.join(10)

"""The HTTP side, over loopback: pages, bounds, and addresses that cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from quicether.config.values import HostPort
from quicether.counters import Counters
from quicether.errors import HostError
from quicether.monitoring import http
from quicether.monitoring.metrics import Observation
from quicether.monitoring.monitor import FRESHNESS, Monitor

SEEN = Observation(
    tunnel="home",
    network="home",
    node="cafe",
    node_id="33" * 20,
    link="netlink",
    version="1",
    ready=True,
    since=1.0,
    counters=Counters(sent_packets=5),
)


class Watched:
    """A monitor with what it observes and its clock in hand."""

    def __init__(self, *, together: bool = True) -> None:
        self.seen, self.now, self.looks = SEEN, 100.0, 0
        self.port, other = free_ports(2)
        self.health_port = self.port if together else other
        self.monitor = Monitor(
            self._observe,
            lambda: self.now,
            HostPort("127.0.0.1", self.port),
            HostPort("127.0.0.1", self.health_port),
        )

    def _observe(self) -> Observation:
        self.looks += 1
        return self.seen


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run(watched: Watched, act: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await watched.monitor.open()
        try:
            async with asyncio.timeout(20):
                await act()
        finally:
            await watched.monitor.close()

    asyncio.run(whole())


async def ask(port: int, request: str) -> tuple[int, dict[str, str], str]:
    """Send one request; return status, headers and body once the server has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert not body or int(headers["Content-Length"]) == len(body)
    return int(first.split()[1]), headers, body


def get(path: str, method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"


def test_both_pages_are_served_at_one_address() -> None:
    watched = Watched()

    async def act() -> None:
        status, headers, body = await ask(watched.port, get("/metrics?x=1"))
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'quicether_sent_packets_total{network="home",tunnel="home"} 5.0' in body
        assert "process_resident_memory_bytes" in body
        status, headers, body = await ask(watched.port, get("/health"))
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body)["status"] == "ready"

    run(watched, act)


def test_each_page_is_only_where_it_was_asked_for() -> None:
    watched = Watched(together=False)

    async def act() -> None:
        assert (await ask(watched.port, get("/health")))[0] == 404
        assert (await ask(watched.health_port, get("/metrics")))[0] == 404
        assert (await ask(watched.health_port, get("/health")))[0] == 200

    run(watched, act)


def test_health_says_at_once_when_no_packet_can_flow() -> None:
    watched = Watched()

    async def act() -> None:
        assert (await ask(watched.port, get("/health")))[0] == 200
        watched.seen = replace(SEEN, ready=False)
        status, _, body = await ask(watched.port, get("/health"))
        assert (status, json.loads(body)["status"]) == (503, "not ready")

    run(watched, act)


def test_scraping_often_observes_seldom() -> None:
    watched = Watched()

    async def act() -> None:
        for _ in range(20):
            await ask(watched.port, get("/metrics"))
        assert watched.looks == 1
        watched.now += FRESHNESS
        watched.seen = replace(SEEN, counters=Counters(sent_packets=6))
        assert "} 6.0" in (await ask(watched.port, get("/metrics")))[2]

    run(watched, act)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (get("/"), 404),
        (get("/metrics/"), 404),
        (get("/metrics", "POST"), 405),
        ("GET /metrics\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET /metrics SPDY/3\r\n\r\n", 400),
        ("\r\n\r\n", 400),
    ],
)
def test_other_requests_are_refused(request_text: str, status: int) -> None:
    watched = Watched()

    async def act() -> None:
        assert (await ask(watched.port, request_text))[0] == status

    run(watched, act)


def test_head_gives_the_headers_alone() -> None:
    watched = Watched()

    async def act() -> None:
        status, headers, body = await ask(watched.port, get("/health", "HEAD"))
        assert (status, body) == (200, "")
        assert int(headers["Content-Length"]) > 0

    run(watched, act)


def test_a_request_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE", 0.2)
    watched = Watched()

    async def act() -> None:
        for request in ("GET /metrics HTTP/1.1\r\n" + "x" * http.MAX_REQUEST * 3, "GET /met"):
            reader, writer = await asyncio.open_connection("127.0.0.1", watched.port)
            writer.write(request.encode())
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert (await ask(watched.port, get("/health")))[0] == 200

    run(watched, act)


def test_a_crowd_is_turned_away_and_whoever_comes_later_is_served() -> None:
    watched = Watched()

    async def act() -> None:
        crowd = [
            await asyncio.open_connection("127.0.0.1", watched.port)
            for _ in range(http.MAX_CLIENTS + 4)
        ]
        turned_away = 0
        for reader, _ in crowd[http.MAX_CLIENTS :]:
            try:
                turned_away += await reader.read() == b""
            except ConnectionError:
                turned_away += 1
        assert turned_away == 4
        for _, writer in crowd:
            writer.close()
        while True:
            try:
                status, _, _ = await ask(watched.port, get("/health"))
            except (ConnectionError, IndexError):
                continue  # the crowd has not quite gone
            assert status == 200
            return

    run(watched, act)


def test_closing_drops_whoever_is_served_and_frees_the_address() -> None:
    watched = Watched()

    async def twice() -> None:
        await watched.monitor.open()
        reader, writer = await asyncio.open_connection("127.0.0.1", watched.port)
        writer.write(b"GET ")
        await writer.drain()
        await watched.monitor.close()
        await watched.monitor.close()
        with pytest.raises(OSError):
            assert await reader.read() == b""
            writer.close()
            await asyncio.open_connection("127.0.0.1", watched.port)
        await watched.monitor.open()
        assert (await ask(watched.port, get("/health")))[0] == 200
        await watched.monitor.close()

    asyncio.run(twice())


def test_an_address_that_is_taken_is_said_and_none_is_served() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, free = taken.getsockname()[1], free_ports(1)[0]
        metrics, health = HostPort("127.0.0.1", free), HostPort("127.0.0.1", port)
        monitor = Monitor(lambda: SEEN, lambda: 0.0, metrics, health)

        async def act() -> None:
            sentence = rf"^health-addr: 127\.0\.0\.1:{port} is in use by another"
            with pytest.raises(HostError, match=sentence):
                await monitor.open()
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", free)

        asyncio.run(act())


def test_an_address_of_another_host_is_said() -> None:
    monitor = Monitor(lambda: SEEN, lambda: 0.0, HostPort("192.0.2.1", 9100), None)
    with pytest.raises(HostError, match=r"metrics-addr: 192\.0\.2\.1:9100 is not an address of"):
        asyncio.run(monitor.open())

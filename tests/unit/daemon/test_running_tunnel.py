"""While a tunnel runs, packets go on, and what a reload or the machine brings is taken up."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quicether.daemon import guard, site, tunnel, upkeep
from quicether.daemon.controller import Tunnels
from quicether.daemon.host_config import Wanted
from quicether.errors import HostError
from quicether.identity.authority import Authority
from quicether.identity.certificates import to_pem
from quicether.identity.keys import NodeKey
from quicether.identity.store import NetworkStore
from quicether.journal import LEVELS
from quicether.model import DropReason
from quicether.policy.rules import PolicyFile
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.endpoint import ALPN
from quicether.transport.engine import Engine
from quicether.transport.tls import configuration
from support.fake_link_owner import FakeLinks
from support.tunnels import LOOPBACK, become_member, run, up


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become_member(tmp_path, monkeypatch)


def test_no_more_connections_than_the_settings_say_are_let_in() -> None:
    async def main(_links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        view = await up(tunnels, port, max_connections="2")
        client = configuration(is_client=True, protocols=[ALPN], certificate=None, key=None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(3):
                engine = Engine(configuration=client)
                engine.connect((LOOPBACK, port), 0.0)
                ((first, _),) = engine.datagrams_to_send(0.0)
                sock.sendto(first, (LOOPBACK, port))
            async with asyncio.timeout(5):
                while not view.counters.drops[DropReason.CONNECTION_LIMIT]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert view.counters.drops[DropReason.CONNECTION_LIMIT] == 1
        await tunnels.down("kin")

    run(main)


def test_packets_go_on_while_a_large_policy_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a tunnel came up with 10,000 rules, all others stood still for 2.3 s."""
    policy, goes_on = tmp_path / "policy.toml", threading.Event()
    policy.write_text("")
    read = guard.read_policy

    def slowly(path: Path) -> PolicyFile:
        assert goes_on.wait(5)
        return read(path)

    monkeypatch.setattr(guard, "read_policy", slowly)

    async def main(_: FakeLinks, tunnels: Tunnels, port: int) -> None:
        rising = asyncio.create_task(up(tunnels, port, policy_file=str(policy)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not rising.done()
        goes_on.set()
        await rising
        await tunnels.down("kin")

    run(main)


def test_packets_go_on_while_there_is_always_another_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one came after the other, to think over which the OS gets took all time."""
    thought: list[float] = []
    desired = tunnel.host_config

    def slowly(*known: Any) -> Wanted:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        thought.append(time.monotonic())
        return desired(*known)

    async def main(_: FakeLinks, tunnels: Tunnels, port: int) -> None:
        view = await up(tunnels, port)
        assert isinstance(view, tunnel.Tunnel)
        monkeypatch.setattr(tunnel, "host_config", slowly)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            await view.reload(view.settings)
        await tunnels.down("kin")

    run(main)
    assert 1 <= len(thought) <= 4, "of 12"


def test_what_the_machine_refused_comes_when_it_no_longer_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "AGAIN_AFTER", 0.01)

    async def main(links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        view = await up(tunnels, port)
        owner = links.owner
        owner.refusal = HostError("not now")
        owner.applied.clear()
        monkeypatch.setattr(site, "path_mtu", lambda _: asyncio.sleep(0, 1300))
        async with asyncio.timeout(5):
            await tunnels.reload("kin")
            while "not now" not in view.refusals:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            owner.refusal = None
            while not owner.applied:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert owner.applied == [view.host_config]
        await tunnels.down("kin")

    run(main)


def test_a_reload_reads_the_certificate_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read the one at the usual place, or failed where there was none."""
    shown = []
    monkeypatch.setattr(AioquicEndpoint, "update_identity", lambda _, new: shown.append(new))
    usual = NetworkStore.of_system("kin")
    key, certificate = tmp_path / "my.key", tmp_path / "my.crt"
    usual.key_path.rename(key)
    usual.certificate_path.rename(certificate)

    async def main(_: FakeLinks, tunnels: Tunnels, port: int) -> None:
        await up(tunnels, port, key_file=str(key), certificate_file=str(certificate))
        await tunnels.reload("kin")
        assert shown == []
        now = datetime.now(UTC)
        authority = Authority.load(tmp_path / "authority", now)
        public = NodeKey.load(key).public_raw
        newer = authority.sign(public, "cafe", now=now, validity=timedelta(days=2))
        certificate.write_bytes(to_pem(newer))
        await tunnels.reload("kin")
        assert shown == [newer]
        assert not usual.key_path.exists()
        await tunnels.down("kin")

    run(main)


def test_a_tunnel_that_is_up_logs_from_the_level_of_its_settings_on() -> None:
    def passes(level: int) -> bool:
        return LEVELS.filter(logging.LogRecord("x", level, "x.py", 1, "said", None, None))

    async def main(_links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        await up(tunnels, port, log_level="error")
        # What follows runs in the context of whoever brought the tunnel up, as its tasks do.
        assert passes(logging.ERROR)
        assert not passes(logging.WARNING)
        await tunnels.down("kin")
        assert passes(logging.WARNING)

    run(main)

"""The daemon's tunnels on a machine whose links are fakes, and what they leave behind on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quicether.bus.controller import TunnelView, UpRequest
from quicether.daemon import site, tunnel
from quicether.daemon.controller import Tunnels
from quicether.identity.authority import Authority
from quicether.identity.store import NetworkStore
from support.fake_link_owner import FakeLinks

LOOPBACK = "127.0.0.1"


def become_member(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine, in a folder, a member of network kin. Its user needs no privilege."""
    etc, var, now = folder / "etc", folder / "var", datetime.now(UTC)
    monkeypatch.setenv("QUICETHER_ETC", str(etc))
    monkeypatch.setenv("QUICETHER_VAR", str(var))
    for module in (tunnel, site):
        monkeypatch.setattr(module, "UNDERLAY_MARK", None)
    authority = Authority.create(folder / "authority", "kin", now)
    store = NetworkStore(etc, var, "kin")
    key = store.node_key().public_raw
    certificate = authority.sign(key, "cafe", now=now, validity=timedelta(days=1))
    store.install(certificate, authority.certificate, now)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


async def up(tunnels: Tunnels, port: int, **others: str) -> TunnelView:
    """Bring up tunnel kin; others: settings beyond network and port, with _ for -."""
    options = {"network": "kin", "listen-address": LOOPBACK, "listen-port": str(port)}
    options |= {key.replace("_", "-"): value for key, value in others.items()}
    found = await tunnels.up("kin", options, UpRequest(transient=True))
    await asyncio.sleep(0)  # its tasks begin
    return found


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run(main: Callable[[FakeLinks, Tunnels, int], Coroutine[Any, Any, None]]) -> None:
    """Run main and check that it leaves neither task, nor descriptor, nor port behind."""

    async def checked() -> None:
        links, port = FakeLinks(), free_port()
        # The loop's own thread of the resolver and the like are there before anything is counted.
        await asyncio.to_thread(lambda: None)
        before = files()
        await main(links, Tunnels(links), port)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert files() == before
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, port))

    asyncio.run(checked())

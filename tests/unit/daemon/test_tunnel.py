"""A tunnel comes up whole or not at all, and goes down whole whatever fails on the way."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quicether.bus.controller import UpRequest
from quicether.daemon import site, tunnel
from quicether.daemon.controller import Tunnels
from quicether.daemon.guard import Guard
from quicether.daemon.watch import Watch
from quicether.dht import messages
from quicether.errors import OWN_FAULT, HostError
from quicether.host.desired import HostConfig
from quicether.host.monitor import UnderlayMonitor
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.identity.trust import AuthorityTrust
from quicether.model import UnderlayAddress
from quicether.overlay import discovery
from quicether.overlay.discovery import Discovery
from quicether.overlay.membership import Membership
from quicether.overlay.mesh import Mesh
from quicether.overlay.renewal import Renewal
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.messages import RpcKind
from support.certificates import Identity
from support.endpoints import RecordedEndpoint
from support.fake_device import FakeDevice
from support.fake_link_owner import FakeLinkOwner, FakeLinks
from support.tunnels import LOOPBACK, become_member, run, up

START = [
    (AioquicEndpoint, "bind"),
    (Watch, "open"),
    (UnderlayMonitor, "start"),
    (site, "path_mtu"),
    (FakeLinkOwner, "attach"),
    (AioquicEndpoint, "open"),
    (Mesh, "start"),
    (Membership, "start"),
    (Discovery, "start"),
    (FakeDevice, "start"),
    (FakeLinkOwner, "apply"),
]
"""The steps of `Tunnel.start`, in order."""
STOP = [
    (Watch, "close"),
    (Membership, "close"),
    (Discovery, "close"),
    (Mesh, "close"),
    (AioquicEndpoint, "close"),
    (FakeDevice, "close"),
    (UnderlayMonitor, "close"),
    (Guard, "close"),
    (FakeLinkOwner, "remove"),
]
"""The steps of `Tunnel.stop`, in order."""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become_member(tmp_path, monkeypatch)


def named(step: tuple[Any, str]) -> str:
    return f"{getattr(step[0], '__name__', '?').rpartition('.')[2]}.{step[1]}"


def fail(
    monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], error: Exception, *, late: bool
) -> list[str]:
    """Let a step raise error; late: when its work is done. What is returned fills when it does."""
    owner, name = step
    original = getattr(owner, name)
    raised: list[str] = []

    @functools.wraps(original)
    async def failing_later(*args: Any, **named: Any) -> None:
        if late:
            await original(*args, **named)
        raised.append(name)
        raise error

    @functools.wraps(original)
    def failing(*args: Any, **named: Any) -> None:
        if late:
            original(*args, **named)
        raised.append(name)
        raise error

    asynchronous = inspect.iscoroutinefunction(original)
    monkeypatch.setattr(owner, name, failing_later if asynchronous else failing)
    return raised


def test_a_tunnel_comes_up_and_goes_down() -> None:
    async def main(links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        view = await up(tunnels, port)
        assert view.listen_port == port
        assert links.owner.applied
        await tunnels.down("kin")
        assert not tunnels.tunnels
        assert not tunnels.failures
        assert links.owner.removed

    run(main)


@pytest.mark.parametrize("late", [False, True], ids=["at-once", "late"])
@pytest.mark.parametrize("step", START, ids=named)
def test_a_step_that_fails_leaves_a_sentence_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], late: bool
) -> None:
    async def main(links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        raised = fail(monkeypatch, step, HostError("the machine says no"), late=late)
        with pytest.raises(HostError, match=r"^the machine says no$"):
            await up(tunnels, port)
        assert raised
        assert dict(tunnels.failures) == {"kin": "the machine says no"}
        assert not tunnels.tunnels
        assert links.owner.removed
        device = links.owner.device
        assert device is None or device.closed or step == (FakeLinkOwner, "attach")
        monkeypatch.undo()

    run(main)


def test_a_fault_of_our_own_is_shown_as_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(_links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        fail(monkeypatch, (Discovery, "start"), AttributeError("no such thing"), late=True)
        with pytest.raises(AttributeError, match="no such thing"):
            await up(tunnels, port)
        assert dict(tunnels.failures) == {"kin": OWN_FAULT}
        assert not tunnels.tunnels

    run(main)


def test_a_port_in_use_is_one_sentence() -> None:
    """It used to end in an AttributeError of the endpoint's that was never opened."""

    async def main(_links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, port))
            with pytest.raises(HostError, match=f"cannot listen on UDP {LOOPBACK}:{port}"):
                await up(tunnels, port)
        assert "Address already in use" in tunnels.failures["kin"]

    run(main)


@pytest.mark.parametrize("error", [HostError("no"), KeyError("no")], ids=["expected", "fault"])
@pytest.mark.parametrize("step", STOP, ids=named)
def test_each_step_of_the_end_is_taken_whatever_became_of_the_others(
    monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], error: Exception
) -> None:
    async def main(links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        await up(tunnels, port)
        raised = fail(monkeypatch, step, error, late=True)
        await tunnels.down("kin")
        assert raised
        assert not tunnels.tunnels
        assert links.owner.removed
        assert links.owner.device is not None
        assert links.owner.device.closed

    run(main)


@pytest.mark.parametrize(
    "work", [(Guard, "expire"), (Discovery, "_keep_house"), (Renewal, "run")], ids=named
)
def test_a_fault_while_the_tunnel_runs_takes_it_down_and_is_its_failure(
    monkeypatch: pytest.MonkeyPatch, work: tuple[Any, str]
) -> None:
    """What worked in the background ended unseen, and the tunnel was shown as running."""

    async def main(links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        gone = asyncio.Event()
        tunnels.subscribe(lambda: tunnels.tunnels or gone.set())
        for module in (tunnel, discovery):
            monkeypatch.setattr(module, "HOUSEKEEPING", 0.0)
        fail(monkeypatch, work, KeyError("no"), late=False)
        await up(tunnels, port)
        async with asyncio.timeout(5):
            await gone.wait()
        assert dict(tunnels.failures) == {"kin": OWN_FAULT}
        assert links.owner.removed

    run(main)


def test_a_peer_that_comes_while_the_tunnel_comes_up_is_served_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its questions were refused, nobody learned of it, and it was deaf to the network after."""
    now, key = datetime.now(UTC), NodeKey.generate()
    authority = Authority.load(tmp_path / "authority", now)
    peer = Identity("desk", key, authority.sign(key.public_raw, "desk", now=now))
    attach = FakeLinkOwner.attach

    async def main(_links: FakeLinks, tunnels: Tunnels, port: int) -> None:
        async with RecordedEndpoint(peer, AuthorityTrust(authority.certificate, now)) as desk:

            async def slowly(owner: FakeLinkOwner, config: HostConfig) -> FakeDevice:
                desk.connect(UnderlayAddress(LOOPBACK, port))
                with pytest.raises(TimeoutError):
                    await desk.events.until(lambda: desk.events.connections, 0.2)
                return await attach(owner, config)

            monkeypatch.setattr(FakeLinkOwner, "attach", slowly)
            view = await up(tunnels, port)
            (connection,) = await desk.events.until(lambda: desk.events.connections)
            question = bytes([RpcKind.DHT]) + messages.encode(messages.FindNode(0))
            assert await connection.request(question, 5)
            assert view.peer_count == 1
            await tunnels.down("kin")

    run(main)


def test_a_device_is_of_one_tunnel_even_where_two_come_up_at_once() -> None:
    async def main(_: FakeLinks, tunnels: Tunnels, port: int) -> None:
        options = {"network": "kin", "listen-address": LOOPBACK, "listen-port": str(port)}
        both = (tunnels.up(name, options, UpRequest(transient=True)) for name in ("one", "two"))
        _, refused = await asyncio.gather(*both, return_exceptions=True)
        assert "tun-name: quicether0 is the device of tunnel one" in str(refused)
        await tunnels.down("one")

    run(main)

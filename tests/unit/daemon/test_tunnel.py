"""A tunnel comes up whole or not at all, and goes down whole whatever fails on the way."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quicether.bus.controller import TunnelView, UpRequest
from quicether.daemon import guard, site, tunnel, upkeep
from quicether.daemon.controller import Tunnels
from quicether.daemon.guard import Guard
from quicether.daemon.host_config import Wanted
from quicether.daemon.watch import Watch
from quicether.dht import messages
from quicether.errors import OWN_FAULT, HostError
from quicether.host.desired import HostConfig
from quicether.host.monitor import UnderlayMonitor
from quicether.identity.authority import Authority
from quicether.identity.certificates import to_pem
from quicether.identity.keys import NodeKey
from quicether.identity.store import NetworkStore
from quicether.identity.trust import AuthorityTrust
from quicether.journal import LEVELS
from quicether.model import DropReason, UnderlayAddress
from quicether.overlay import discovery
from quicether.overlay.discovery import Discovery
from quicether.overlay.membership import Membership
from quicether.overlay.mesh import Mesh
from quicether.overlay.renewal import Renewal
from quicether.policy.rules import PolicyFile
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.endpoint import ALPN
from quicether.transport.engine import Engine
from quicether.transport.messages import RpcKind
from quicether.transport.tls import configuration
from support.certificates import Identity
from support.endpoints import RecordedEndpoint
from support.fake_device import FakeDevice
from support.fake_link_owner import FakeLinkOwner, FakeLinks

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
LOOPBACK = "127.0.0.1"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is a member of network kin. Its user needs no privilege."""
    etc, var, now = tmp_path / "etc", tmp_path / "var", datetime.now(UTC)
    monkeypatch.setenv("QUICETHER_ETC", str(etc))
    monkeypatch.setenv("QUICETHER_VAR", str(var))
    for module in (tunnel, site):
        monkeypatch.setattr(module, "UNDERLAY_MARK", None)
    authority = Authority.create(tmp_path / "authority", "kin", now)
    store = NetworkStore(etc, var, "kin")
    key = store.node_key().public_raw
    certificate = authority.sign(key, "cafe", now=now, validity=timedelta(days=1))
    store.install(certificate, authority.certificate, now)


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


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


async def up(tunnels: Tunnels, port: int, **others: str) -> TunnelView:
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


def test_a_device_is_of_one_tunnel_even_where_two_come_up_at_once() -> None:
    async def main(_: FakeLinks, tunnels: Tunnels, port: int) -> None:
        options = {"network": "kin", "listen-address": LOOPBACK, "listen-port": str(port)}
        both = (tunnels.up(name, options, UpRequest(transient=True)) for name in ("one", "two"))
        _, refused = await asyncio.gather(*both, return_exceptions=True)
        assert "tun-name: quicether0 is the device of tunnel one" in str(refused)
        await tunnels.down("one")

    run(main)


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

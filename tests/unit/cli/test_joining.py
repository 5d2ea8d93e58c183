"""Joining over QUIC on loopback: what a code brings, and what anybody in between gets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quicether import cbor
from quicether.cli import enrol, join_service, joining
from quicether.config.values import HostPort
from quicether.counters import Counters
from quicether.daemon.joining import Joining
from quicether.errors import (
    ConfigError,
    HostError,
    ProtocolError,
    QuicEtherError,
    TrustError,
    UnreachableError,
)
from quicether.identity import certificates, enrolment
from quicether.identity.authority import Authority
from quicether.identity.invitations import MAX_ATTEMPTS
from quicether.identity.invite_code import InviteCode
from quicether.identity.keys import NodeKey
from quicether.identity.registrar import Registrar
from quicether.identity.store import MAX_NETWORKS, NetworkStore
from quicether.model import DropReason, UnderlayAddress
from quicether.overlay.gate import Gate
from quicether.registry import server
from quicether.registry.messages import JoinQuestion
from quicether.transport import enrolment as enrolment_desk
from quicether.transport.enrolment import enrol as ask
from support.certificates import Identity, Network
from support.endpoints import RecordedEndpoint
from support.fake_programs import FakePrograms

SECRET = bytes(range(16))
KEY = NodeKey.generate()


class Inviter:
    """A machine with an authority, and its node, which listens on loopback."""

    def __init__(self, root: Path) -> None:
        self.now = datetime.now(UTC)
        self.store = NetworkStore(root / "etc", root / "var", "home")
        self.authority = Authority.create(self.store.directory, "home", self.now)
        key = self.store.node_key()
        certificate = self.authority.sign(key.public_raw, "home", now=self.now)
        self.store.install(certificate, self.authority.certificate, self.now)
        self.identity = Identity("home", key, certificate)
        self.asked = 0

    async def answer(self, body: bytes) -> bytes:
        self.asked += 1
        return Registrar(self.store).answer(body, self.identity.key.public_raw, datetime.now(UTC))

    def invite(self, port: int, **options: Any) -> InviteCode:
        return Registrar(self.store).invite(
            "laptop",
            inviter=self.identity.node_id,
            endpoints=(("127.0.0.1", port),),
            **{"now": self.now, "entropy": SECRET, **options},
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[RecordedEndpoint]:
        endpoint = RecordedEndpoint(self.identity, self.store.trust(self.now))
        async with endpoint:
            clock = asyncio.get_running_loop().time
            endpoint.accept_enrolment(Gate(self, Counters(), clock))
            yield endpoint


async def join(code: InviteCode, key: NodeKey = KEY) -> enrol.Joined:
    """Join in a thread, as a command does that has no event loop of its own."""
    return await asyncio.to_thread(enrol.ask_inviter, code, key)


def test_a_machine_joins_no_more_networks_than_it_can_have_tunnels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may ask root's program to join as often as it likes; each left files."""
    etc, var = tmp_path / "etc", tmp_path / "var"
    monkeypatch.setenv("QUICETHER_ETC", str(etc))
    monkeypatch.setenv("QUICETHER_VAR", str(var))
    code = Inviter(tmp_path / "inviter").invite(9000)
    for number in range(MAX_NETWORKS):
        (var / f"other{number}").mkdir(parents=True)
    (etc / "networks" / "other0").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"network home: .* files of 64 networks, and may have"):
        joining.join(code)
    assert not (var / "home").exists()
    store = NetworkStore(etc, var, "other0")
    store.check_room()


def test_a_code_brings_a_certificate_and_says_who_answered(tmp_path: Path) -> None:
    async def main() -> None:
        inviter = Inviter(tmp_path)
        async with inviter.listening() as endpoint:
            code = inviter.invite(endpoint.local_address.port)
            joined = await join(InviteCode.parse(str(code).lower()))
            assert joined.where == HostPort("127.0.0.1", endpoint.local_address.port)
            assert not endpoint.events.refusals
        trust = inviter.store.trust(inviter.now)
        assert trust.judge(joined.inviter, inviter.now).name == "home"
        assert joined.admission.authority == inviter.authority.certificate
        certified = certificates.parse(joined.admission.certificate)
        assert (certified.name, certified.public_key) == ("laptop", KEY.public_raw)

    asyncio.run(main())


def test_the_same_machine_may_ask_again_and_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        inviter = Inviter(tmp_path)
        async with inviter.listening() as endpoint:
            code = inviter.invite(endpoint.local_address.port)
            first, second = await join(code), await join(code)
            assert first.admission.authority == second.admission.authority
            with pytest.raises(TrustError, match="another machine has joined with this"):
                await join(code, NodeKey.generate())

    asyncio.run(main())


def test_an_expired_code_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        inviter = Inviter(tmp_path)
        async with inviter.listening() as endpoint:
            code = inviter.invite(
                endpoint.local_address.port, now=inviter.now - timedelta(minutes=2),
                expires=timedelta(minutes=1),
            )  # fmt: skip
            with pytest.raises(TrustError, match="has expired; ask for a new one"):
                await join(code)

    asyncio.run(main())


def test_a_wrong_secret_gets_one_sentence_and_is_written_down(tmp_path: Path) -> None:
    async def main() -> None:
        inviter = Inviter(tmp_path)
        async with inviter.listening() as endpoint:
            code = inviter.invite(endpoint.local_address.port)
            with pytest.raises(TrustError, match="the inviter refuses this code"):
                await join(replace(code, secret=bytes(16)))
            await endpoint.events.until(lambda: endpoint.events.refusals)
            # The true code is no worse for it.
            assert (await join(code)).admission.certificate

    asyncio.run(main())


def test_a_busy_inviter_is_asked_again_and_never_said_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrol, "PAUSES", (0.1, 0.1))
    monkeypatch.setattr(enrolment_desk, "BURST_FROM_ONE", 1)

    async def main() -> None:
        inviter = Inviter(tmp_path)
        monkeypatch.setattr(enrolment_desk, "RATE_FROM_ONE", 1e-6)
        async with inviter.listening() as endpoint:
            code = inviter.invite(endpoint.local_address.port)
            assert (await join(code)).admission.certificate
            with pytest.raises(enrolment_desk.BusyError, match="the code is still good"):
                await join(code)
            assert endpoint.counters.drops[DropReason.RPC_LIMITED] == 3
        monkeypatch.setattr(enrolment_desk, "RATE_FROM_ONE", 1 / 0.15)
        async with inviter.listening() as endpoint:
            code = replace(code, endpoints=(("127.0.0.1", endpoint.local_address.port),))
            for _ in range(2):
                assert (await join(code)).admission.certificate
        assert inviter.asked == 3

    asyncio.run(main())


def test_guessing_ends_a_code(tmp_path: Path) -> None:
    """Beside the gate's limits: who knows an invitation's id alone can only use it up."""
    inviter = Inviter(tmp_path)
    code = inviter.invite(9000)
    server = inviter.identity.key.public_raw
    registrar = Registrar(inviter.store)
    question = enrolment.ask(code, KEY, server, bytes(16))
    forged = enrolment.read_question(question).model_copy(update={"proof": bytes(32)})
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(TrustError, match="not proven"):
            registrar.answer(cbor.encode(forged.model_dump()), server, inviter.now)
    with pytest.raises(TrustError, match="too often"):
        registrar.answer(question, server, inviter.now)


class Middleman:
    """Takes machines in, keeps what they say, and passes it on to the true inviter."""

    def __init__(self, inviter: RecordedEndpoint) -> None:
        self.heard: list[bytes] = []
        self._inviter = inviter

    async def enrol(self, remote: UnderlayAddress, body: bytes) -> bytes:
        self.heard.append(body)
        return await ask(self._inviter.local_address, lambda certificate: body, 5)


def test_who_sits_in_the_middle_hears_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        inviter = Inviter(tmp_path)
        thief = Network().member("home")
        async with (
            inviter.listening() as endpoint,
            RecordedEndpoint(thief, Network().trust()) as middle,
        ):
            man = Middleman(endpoint)
            middle.accept_enrolment(man)
            code = inviter.invite(middle.local_address.port)
            with pytest.raises(TrustError, match="answered, but another one wrote the invitation"):
                await join(code)
            assert man.heard == []
            assert inviter.asked == 0

    asyncio.run(main())


def test_a_middleman_with_a_key_that_looks_the_same_gets_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had found a key whose NodeId begins with the 40 bits in the code."""
    monkeypatch.setattr(InviteCode, "check_inviter", lambda self, server_key: None)

    async def main() -> None:
        inviter = Inviter(tmp_path)
        thief = Network().member("home")
        async with (
            inviter.listening() as endpoint,
            RecordedEndpoint(thief, Network().trust()) as middle,
        ):
            man = Middleman(endpoint)
            middle.accept_enrolment(man)
            code = inviter.invite(middle.local_address.port)
            with pytest.raises(TrustError):
                await join(code)
            assert len(man.heard) == 1
            assert SECRET not in man.heard[0]
            assert inviter.asked == 1  # and refused: the question names the thief's key
            # What was overheard is worth nothing to whoever comes with it directly.
            with pytest.raises(TrustError, match="refused"):
                await ask(endpoint.local_address, lambda certificate: man.heard[0], 5)
            assert "laptop" not in {n.name for n in inviter.authority.book().nodes.values()}

    asyncio.run(main())


def test_an_overheard_question_brings_only_what_everybody_may_know(tmp_path: Path) -> None:
    """A replay to the true inviter: a certificate for the first machine's key, and no other."""

    async def main() -> None:
        inviter = Inviter(tmp_path)
        async with inviter.listening() as endpoint:
            code = inviter.invite(endpoint.local_address.port)
            heard = enrolment.ask(code, KEY, inviter.identity.key.public_raw, bytes(16))
            for _ in range(2):
                answer = await ask(endpoint.local_address, lambda certificate: heard, 5)
                got = enrolment.read_answer(
                    answer, code, KEY, inviter.identity.key.public_raw, bytes(16)
                )
                key = got.certificate.public_key()
                assert key.public_bytes_raw() == KEY.public_raw  # type: ignore[union-attr]
            with pytest.raises(QuicEtherError):
                enrolment.read_answer(
                    answer, code, NodeKey.generate(), inviter.identity.key.public_raw, bytes(16)
                )

    asyncio.run(main())


def test_the_next_endpoint_of_a_code_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrol, "PATIENCE", 0.3)

    async def main() -> None:
        inviter = Inviter(tmp_path)
        async with (
            inviter.listening() as endpoint,
            RecordedEndpoint(Network().member("other"), Network().trust()) as stranger,
        ):
            code = inviter.invite(endpoint.local_address.port)
            unused = ("127.0.0.1", 1)
            other = ("127.0.0.1", stranger.local_address.port)
            everything = replace(code, endpoints=(unused, other, *code.endpoints))
            assert (await join(everything)).where.port == endpoint.local_address.port
            with pytest.raises(ProtocolError, match="takes no machines in"):
                await join(replace(code, endpoints=(unused, other)))
        with pytest.raises(UnreachableError, match="its tunnel has to be up"):
            await join(replace(code, endpoints=(unused, ("nowhere.invalid", 9000))))

    asyncio.run(main())


@contextmanager
def program_of_root(path: Path) -> Iterator[None]:
    """Serve as quicether-join does on a socket at path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        arguments = (listener, JoinQuestion, join_service.answer, 0.3)
        thread = threading.Thread(target=server.serve, args=arguments)
        thread.start()
        try:
            yield
        finally:
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """A machine of its own, with NetworkManager, without a service."""
    programs = FakePrograms(tmp_path / "bin")
    for name, value in (
        ("QUICETHER_ETC", tmp_path / "laptop/etc"),
        ("QUICETHER_VAR", tmp_path / "laptop/var"),
        ("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nobus"),
        ("PATH", programs.path),
    ):
        monkeypatch.setenv(name, str(value))
    return programs


def test_the_service_joins_through_a_program_of_root(
    tmp_path: Path,
    machine: FakePrograms,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(enrol, "PATIENCE", 1.0)

    async def main() -> None:
        inviter = Inviter(tmp_path)
        service = Joining(tmp_path / "socket")
        with program_of_root(tmp_path / "socket"):
            async with inviter.listening() as endpoint:
                code = inviter.invite(endpoint.local_address.port)
                joining = asyncio.create_task(service.join(code))
                await asyncio.sleep(0)
                with pytest.raises(HostError, match="joins a network just now"):
                    await service.join(code)
                joined = await joining
                withdrawn = replace(code, secret=bytes(16))
                with pytest.raises(TrustError, match="the inviter refuses this code"):
                    await service.join(withdrawn)
            with pytest.raises(UnreachableError, match="the inviter does not answer"):
                await service.join(code)
        store = NetworkStore.of_system("home")
        assert joined.node_id == str(store.node_key().node_id)
        assert (joined.name, joined.inviter) == ("laptop", "home")
        assert joined.valid_until == certificates.parse(store.certificate()).not_after.timestamp()
        assert joined.next == "nmcli connection up quicether"
        settings = tmp_path / "laptop/etc/home.toml"
        assert joined.settings_file == str(settings)
        assert joined.peer in settings.read_text()
        assert machine.changes() == [
            "nmcli connection add type vpn vpn-type quicether con-name quicether "
            "vpn.data network=home"
        ]
        for said in (str(code), str(withdrawn), SECRET.hex()):
            assert said not in caplog.text

    asyncio.run(main())


def test_an_inviter_with_endless_addresses_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(enrol, "PATIENCE_IN_ALL", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        code = InviteCode(SECRET, bytes(5), "home", (silent.getsockname(),))
        with pytest.raises(UnreachableError, match="did not answer within 0"):
            enrol.ask_inviter(code, KEY)

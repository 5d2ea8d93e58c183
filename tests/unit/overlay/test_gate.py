"""Who may take the registrar's time, and how often."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from quicether import cbor
from quicether.counters import Counters
from quicether.errors import HostError, ProtocolError, TrustError
from quicether.identity import renewal
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.model import UnderlayAddress
from quicether.overlay.gate import Gate
from support.fake_endpoint import FakeConnection, FakeEndpoint, FakeUnderlay
from support.fake_overlay import member

JOIN = cbor.encode({"version": 1, "kind": "enrol"})
RENEW = cbor.encode({"version": 1, "kind": "renew"})
HERE = UnderlayAddress("192.0.2.1", 9000)


class Counting:
    """A registrar that answers everything and counts."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def answer(self, body: bytes) -> bytes:
        self.bodies.append(body)
        return b"signed"


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A gate whose registrar only counts."""

    def __init__(self) -> None:
        self.registrar, self.counters, self.clock = Counting(), Counters(), Clock()
        self.gate = Gate(self.registrar, self.counters, self.clock)

    def enrol(self, host: str, body: bytes = JOIN) -> bytes:
        return asyncio.run(self.gate.enrol(UnderlayAddress(host, 4711), body))

    def ask(self, name: str, body: bytes = RENEW) -> bytes:
        who = member(name, ["100.64.0.1"])
        endpoint = FakeEndpoint(FakeUnderlay(), HERE, who)
        connection = FakeConnection(endpoint, who, HERE, initiated=False)
        return asyncio.run(self.gate.answer(connection, body))


def test_a_member_asks_now_and_then() -> None:
    scene = Scene()
    for _ in range(3):
        assert scene.ask("laptop") == b"signed"
    with pytest.raises(TrustError, match="node laptop asks for certificates too often"):
        scene.ask("laptop")
    assert scene.ask("phone") == b"signed"


def test_strangers_join_and_members_renew_and_nothing_else_reaches_the_registrar() -> None:
    scene = Scene()
    with pytest.raises(ProtocolError, match="cannot renew"):
        scene.enrol("192.0.2.7", RENEW)
    with pytest.raises(ProtocolError, match="cannot join"):
        scene.ask("laptop", JOIN)
    for rubbish in (b"", b"\xff", cbor.encode({"kind": "other"}), cbor.encode(7)):
        with pytest.raises(ProtocolError):
            scene.enrol("192.0.2.9", rubbish)
    assert scene.registrar.bodies == []


def test_what_the_registrar_cannot_do_is_in_the_journal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        async def answer(self, body: bytes) -> bytes:
            raise HostError("the registrar cannot be reached")

    gate = Gate(Broken(), Counters(), Clock())
    with pytest.raises(HostError):
        asyncio.run(gate.enrol(HERE, JOIN))
    assert "nobody can join or renew: the registrar cannot be reached" in caplog.text


def test_a_real_question_to_renew_is_taken_for_one(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority, key = Authority.create(tmp_path / "home", "home", now), NodeKey.generate()
    certificate = authority.sign(key.public_raw, "laptop", now=now).public_bytes(Encoding.DER)
    scene = Scene()
    assert scene.ask("laptop", renewal.ask(key, certificate, authority.network_id, now))

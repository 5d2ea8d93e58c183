"""The daemon's side and root's side of the registrar's socket, with real files and sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.errors import ConfigError, HostError, IdentityError, ProtocolError, TrustError
from quicether.identity import enrolment
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.identity.registrar import Registrar
from quicether.identity.store import NetworkStore
from quicether.registry import client, server
from quicether.registry.client import RegistrarClient
from quicether.registry.messages import MAX_MESSAGE, Answer, Question, decode, encode

SERVER_KEY = bytes(range(32))
Answering = Callable[[Question], bytes]


@contextmanager
def serving(path: Path, answer: Answering) -> Iterator[Path]:
    """Serve on a socket at path until the block ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=server.serve, args=(listener, Question, answer, 0.3))
        thread.start()
        try:
            yield path
        finally:
            thread.join(timeout=5)
            assert not thread.is_alive()


def ask(path: Path, body: bytes, network: str = "home") -> bytes:
    return asyncio.run(RegistrarClient(network, SERVER_KEY, path).answer(body))


def test_a_question_goes_to_the_registrar_as_it_is(tmp_path: Path) -> None:
    seen: list[Question] = []

    def answer(question: Question) -> bytes:
        seen.append(question)
        return question.body[::-1]

    with serving(tmp_path / "socket", answer) as path:
        large = bytes(range(256)) * 60
        assert ask(path, large) == large[::-1]
        assert ask(path, b"ab") == b"ba"
    assert seen[1] == Question(network="home", server_key=SERVER_KEY, body=b"ab")


@pytest.mark.parametrize("kind", [TrustError, ProtocolError, IdentityError])
def test_an_error_keeps_its_kind_and_its_sentence(tmp_path: Path, kind: type[Exception]) -> None:
    def answer(question: Question) -> bytes:
        raise kind("the invitation for laptop was asked for too often")

    with serving(tmp_path / "socket", answer) as path, pytest.raises(kind, match="for laptop"):
        ask(path, b"ab")


def test_a_fault_ends_one_question_and_not_the_registrar(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(question: Question) -> bytes:
        if question.body == b"bad":
            raise RuntimeError("a secret of the implementation")
        return b"good"

    with serving(tmp_path / "socket", answer) as path:
        with pytest.raises(HostError, match="journalctl -u quicether-registrar") as caught:
            ask(path, b"bad")
        assert "secret" not in str(caught.value)
        assert ask(path, b"fine") == b"good"
    assert "a secret of the implementation" in caplog.text


def test_who_says_nothing_or_rubbish_does_not_keep_others_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.05)
    with serving(tmp_path / "socket", lambda question: b"good") as path:
        for said in (None, b"", b"rubbish", bytes(MAX_MESSAGE + 1)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
                rude.connect(str(path))
                if said:
                    rude.send(said)
                assert ask(path, b"ab") == b"good"


def test_without_a_registrar_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostError, match=r"systemctl start quicether-registrar\.socket"):
        ask(tmp_path / "nothing", b"ab")
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        with pytest.raises(HostError, match="did not answer within"):
            ask(tmp_path / "deaf", b"ab")


def test_it_certifies_from_files_what_was_invited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / "var"))
    now, store = datetime.now(UTC), NetworkStore.of_system("home")
    Authority.create(store.directory, "home", now)
    inviter, laptop = NodeKey.generate(), NodeKey.generate()
    code = Registrar(store).invite(
        "laptop",
        inviter=inviter.node_id,
        endpoints=(("192.0.2.1", 9000),),
        now=now,
        entropy=bytes(16),
    )
    body = enrolment.ask(code, laptop, inviter.public_raw, bytes(16))
    with serving(tmp_path / "socket", server.answer_from_files) as path:
        answer = asyncio.run(RegistrarClient("home", inviter.public_raw, path).answer(body))
        with pytest.raises(TrustError, match="not proven"):
            ask(path, body)  # it names another server
        with pytest.raises(IdentityError, match="not the authority of network office"):
            ask(path, body, network="office")
        with pytest.raises(ConfigError, match="network name"):
            ask(path, body, network="../home")
    admission = enrolment.read_answer(body=answer, code=code, key=laptop,
                                      server_key=inviter.public_raw, nonce=bytes(16))  # fmt: skip
    assert admission.certificate.public_key().public_bytes_raw() == laptop.public_raw  # type: ignore[union-attr]


def test_started_by_hand_it_says_who_starts_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quicether.registry.server"],
        env={**os.environ, "PYTHONPATH": "service", "LISTEN_PID": "1", "LISTEN_FDS": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "is started by systemd" in done.stderr
    assert "Traceback" not in done.stderr


@given(st.binary(max_size=200))
def test_rubbish_is_no_message(data: bytes) -> None:
    for kind in (Question, Answer):
        try:
            message = decode(data, kind)
        except ProtocolError:
            continue
        assert decode(encode(message), kind) == message

"""Log records on their way to journald."""

from __future__ import annotations

import contextvars
import logging
import os
import socket
from pathlib import Path

import pytest

from quicether.journal import (
    ABOUT,
    TUNNEL,
    JournalHandler,
    TunnelLevels,
    encode_field,
    leads_to_journal,
)


def test_a_field_of_one_line_and_one_of_several() -> None:
    assert encode_field("MESSAGE", "a=b") == b"MESSAGE=a=b\n"
    assert encode_field("MESSAGE", "a\nb") == b"MESSAGE\n\3\0\0\0\0\0\0\0a\nb\n"


def test_a_sentence_cannot_forge_a_field() -> None:
    data = encode_field("MESSAGE", "x\nPRIORITY=0")
    assert data == b"MESSAGE\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\n"


def test_a_record_is_marked_with_the_profile_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(path))
        journald.settimeout(5)
        handler = JournalHandler("nm-quicether-service", path)
        handler.handle(_record(logging.WARNING, "no peer is reached yet"))
        handler.fields["NM_CONNECTION"] = "5f9c3a52"
        handler.handle(_record(logging.ERROR, "the port %d is taken", 9000))
        handler.close()
        first, second = (journald.recv(65536).decode().splitlines() for _ in range(2))
    assert "MESSAGE=no peer is reached yet" in first
    assert "PRIORITY=4" in first
    assert not any(line.startswith("NM_CONNECTION") for line in first)
    assert "MESSAGE=the port 9000 is taken" in second
    assert "PRIORITY=3" in second
    assert "NM_CONNECTION=5f9c3a52" in second
    assert "SYSLOG_IDENTIFIER=nm-quicether-service" in second


def test_a_record_says_what_its_context_is_about(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(path))
        journald.settimeout(5)
        handler = JournalHandler("quicetherd", path)

        def speak() -> None:
            ABOUT.set({"QUICETHER_TUNNEL": "home"})
            handler.handle(_record(logging.INFO, "up"))

        contextvars.copy_context().run(speak)
        handler.handle(_record(logging.INFO, "elsewhere"))
        handler.close()
        first, second = (journald.recv(65536).decode().splitlines() for _ in range(2))
    assert "QUICETHER_TUNNEL=home" in first
    assert not any(line.startswith("QUICETHER_TUNNEL") for line in second)


def test_without_journald_there_is_no_handler(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JournalHandler("test", tmp_path / "socket")


def test_only_the_stream_that_systemd_named_leads_to_the_journal() -> None:
    with Path(os.devnull).open("w") as stream:
        status = os.fstat(stream.fileno())
        assert leads_to_journal(stream.fileno(), f"{status.st_dev}:{status.st_ino}")
        assert not leads_to_journal(stream.fileno(), "1:2")
        assert not leads_to_journal(stream.fileno(), None)


def _record(level: int, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("quicether_nm", level, __file__, 1, message, args, None)


def test_a_tunnel_may_say_more_or_less_than_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    levels = TunnelLevels()

    def heard(tunnel: str) -> list[str]:
        ABOUT.set({TUNNEL: tunnel} if tunnel else {})
        every = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        return [logging.getLevelName(each) for each in every if levels.filter(_record(each, "x"))]

    def listen(tunnel: str = "") -> list[str]:
        return contextvars.copy_context().run(heard, tunnel)

    levels.start(logging.INFO)
    assert root.level == logging.INFO
    levels.set("loud", logging.DEBUG)
    levels.set("quiet", logging.ERROR)
    assert root.level == logging.DEBUG
    assert listen("loud") == ["DEBUG", "INFO", "WARNING", "ERROR"]
    assert listen("quiet") == ["ERROR"]
    assert listen("other") == listen() == ["INFO", "WARNING", "ERROR"]
    levels.set("loud", None)
    assert listen("loud") == ["INFO", "WARNING", "ERROR"]
    assert root.level == logging.INFO

"""Writing the audit trail down: rotation, the journal, and disks and journals that refuse."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from quicether.errors import HostError
from quicether.policy import audit_writer
from quicether.policy.audit_writer import AuditWriter, Journal, RotatingFile, open_audit

DEADLINE = 10.0


class FakeTarget:
    """Keeps lines while `opened` is set, refuses while `is_full`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Semaphore(0)
        self.is_full = False
        self.is_closed = False

    def write(self, lines: Sequence[bytes]) -> int:
        self.entered.release()
        assert self.opened.wait(DEADLINE)
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines += lines
        return len(lines)

    def close(self) -> None:
        self.is_closed = True

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def writer(target: FakeTarget) -> Iterator[AuditWriter]:
    writer = AuditWriter(target, queue_length=4)
    yield writer
    target.opened.set()
    writer.close()


def test_records_become_json_lines_in_their_order(target: FakeTarget, writer: AuditWriter) -> None:
    for number in range(3):
        writer.write({"event": "flow", "n": number})
    writer.close()
    assert [record["n"] for record in target.records] == [0, 1, 2]
    assert target.is_closed


def test_a_full_queue_blocks_nothing_and_counts(target: FakeTarget, writer: AuditWriter) -> None:
    target.opened.clear()
    writer.write({"n": 0})
    assert target.entered.acquire(timeout=DEADLINE)
    for number in range(1, 10):
        writer.write({"n": number})
    assert writer.lost == 5
    target.opened.set()
    writer.close()
    assert [record.get("n") for record in target.records if "n" in record] == [0, 1, 2, 3, 4]
    (missing,) = [record for record in target.records if record.get("event") == "left-out"]
    assert missing["left_out"] == 5


def test_a_full_disk_stops_nothing_and_is_counted(target: FakeTarget, writer: AuditWriter) -> None:
    target.is_full = True
    writer.write({"n": 0})
    assert target.entered.acquire(timeout=DEADLINE)
    writer.write({"n": 1})
    assert target.entered.acquire(timeout=DEADLINE)
    writer.close()
    assert writer.lost == 2
    assert target.lines == []


def test_the_trail_says_what_it_misses_once_the_disk_has_room(
    target: FakeTarget, writer: AuditWriter
) -> None:
    target.is_full = True
    writer.write({"n": 0})
    assert target.entered.acquire(timeout=DEADLINE)
    target.opened.clear()
    writer.write({"n": 1})
    assert target.entered.acquire(timeout=DEADLINE)
    target.is_full = False
    target.opened.set()
    writer.close()
    assert target.records[0]["event"] == "left-out"
    assert target.records[0]["left_out"] == 1
    assert writer.lost == 1


def test_a_closed_writer_counts_what_comes_later(target: FakeTarget, writer: AuditWriter) -> None:
    writer.close()
    writer.close()
    writer.write({"n": 1})
    assert writer.lost == 1


def test_a_target_that_hangs_does_not_hold_up_the_end(
    target: FakeTarget, writer: AuditWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_writer, "CLOSE_PATIENCE", 0.05)
    target.opened.clear()
    writer.write({"n": 0})
    writer.close()
    assert not target.is_closed


# -- file --------------------------------------------------------------------------------------


def test_the_file_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for line in (b"one", b"two"):
        file = RotatingFile(path)
        assert file.write([line]) == 1
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0


def test_the_file_rotates_at_its_size_and_drops_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = RotatingFile(path, size=12, kept=2)
    for number in range(8):
        file.write([b"line%d" % number])
    file.close()
    assert path.read_bytes() == b"line6\nline7\n"
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"line4\nline5\n"
    assert (tmp_path / "audit.jsonl.2").read_bytes() == b"line2\nline3\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_is_too_large_already_rotates_first(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"old\n" * 10)
    file = RotatingFile(path, size=12)
    file.write([b"new"])
    file.close()
    assert path.read_bytes() == b"new\n"


def test_a_line_larger_than_the_size_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = RotatingFile(path, size=4)
    file.write([b"a long line"])
    file.close()
    assert path.read_bytes() == b"a long line\n"


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"torn')
    file = RotatingFile(path)
    file.write([b"{}"])
    file.close()
    assert path.read_bytes() == b'{"torn\n{}\n'


def test_a_disk_that_fills_within_a_line_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    file = RotatingFile(path)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:3]))
    with pytest.raises(OSError, match="only 3 of 6"):
        file.write([b"first", b"second"])
    monkeypatch.setattr(os, "write", whole)
    assert file.write([b"third"]) == 1
    file.close()
    assert path.read_bytes() == b"third\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_no_file(tmp_path: Path) -> None:
    link = tmp_path / "audit.jsonl"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="symbolic links"):
        RotatingFile(link).write([b"x"])
    with pytest.raises(OSError, match="not a regular file"):
        RotatingFile(Path("/dev/full")).write([b"x"])


def test_a_fifo_without_a_reader_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        RotatingFile(path).write([b"x"])


def test_a_folder_that_comes_back_is_written_to_again(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    file = RotatingFile(folder / "audit.jsonl")
    with pytest.raises(FileNotFoundError):
        file.write([b"lost"])
    folder.mkdir()
    assert file.write([b"kept"]) == 1
    file.close()


# -- journal -----------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    """A socket where the journal's would be."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(DEADLINE)
        yield server, path


def test_the_journal_gets_each_record_as_a_message(journal: tuple[socket.socket, Path]) -> None:
    server, path = journal
    target = Journal(path)
    assert target.write([b'{"event":"denied"}', b'{"event":"flow"}']) == 2
    target.close()
    assert server.recv(4096) == (
        b'MESSAGE={"event":"denied"}\nPRIORITY=5\nSYSLOG_IDENTIFIER=quicether-audit\n'
    )
    assert server.recv(4096).startswith(b'MESSAGE={"event":"flow"}\n')


def test_text_with_line_ends_stays_one_field(journal: tuple[socket.socket, Path]) -> None:
    server, path = journal
    writer = AuditWriter(Journal(path))
    writer.write({"reason": "a\nPRIORITY=0\n"})
    writer.close()
    assert server.recv(4096).count(b"\n") == 3


def test_a_journal_that_restarts_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    target = Journal(path)
    with pytest.raises(FileNotFoundError):
        target.write([b"{}"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        assert target.write([b"{}"]) == 1
        target.close()


# -- opening -----------------------------------------------------------------------------------


def test_a_file_is_opened_at_once(tmp_path: Path) -> None:
    writer = open_audit(tmp_path / "audit.jsonl")
    writer.write({"event": "flow"})
    writer.close()
    assert (tmp_path / "audit.jsonl").read_text() == '{"event":"flow"}\n'


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"audit-log .*/nowhere/a: No such file or directory"):
        open_audit(tmp_path / "nowhere" / "a")


def test_a_missing_journal_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_writer, "SOCKET", tmp_path / "socket")
    with pytest.raises(HostError, match="audit-log journal: there is no"):
        open_audit("journal")

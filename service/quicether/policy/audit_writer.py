"""Writes the audit trail as JSON lines, to a rotating file or the journal, off the packet's way.

One thread takes records from a bounded queue. A full disk, a missing folder or a journal that is
away lose records and count them; they stop no packet, and the trail says how many it misses.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from quicether.errors import HostError
from quicether.journal import SOCKET, encode_field
from quicether.policy.audit import AuditRecord, left_out

QUEUE_LENGTH: Final = 8192
"""Records that may wait for the disk."""
BATCH: Final = 256
FILE_BYTES: Final = 10 * 1024 * 1024
FILES_KEPT: Final = 5
FILE_MODE: Final = 0o640
CLOSE_PATIENCE: Final = 1.0
"""Seconds that `close` waits at most for the last records to be written."""
_JOURNAL_PATIENCE: Final = 1.0
_NOTICE: Final = 5
"""Priority of every record in the journal (RFC 5424)."""


class AuditTarget(Protocol):
    """Something that keeps lines. Used by one thread."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Keep lines without a line end, in order; return how many. OSError: none of the rest."""

    def close(self) -> None:
        """Free what is held open. Idempotent."""


def _write_each(
    lines: Sequence[bytes], write: Callable[[bytes], None], close: Callable[[], None]
) -> int:
    """Write line by line and return how many were. OSError: not even the first."""
    for number, line in enumerate(lines):
        try:
            write(line)
        except OSError:
            close()
            if number == 0:
                raise
            return number
    return len(lines)


class RotatingFile:
    """Lines in one file; at a size it becomes `NAME.1`, that becomes `NAME.2`, and so on.

    Opened at the first line, created with mode 0640, never through a symbolic link.
    """

    def __init__(self, path: Path, size: int = FILE_BYTES, kept: int = FILES_KEPT) -> None:
        """size: bytes after which the file is put aside. kept: files put aside, at least 1."""
        self._path = path
        self._size = size
        self._kept = kept
        self._descriptor: int | None = None
        self._written = 0
        self._is_torn = False

    def write(self, lines: Sequence[bytes]) -> int:
        """Append lines, each whole or, when the disk is full, not counted."""
        return _write_each([line + b"\n" for line in lines], self._append, self.close)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def open(self) -> int:
        """Return the open file's descriptor. Raises OSError: it cannot be opened."""
        if self._descriptor is None:
            self._descriptor = self._opened()
        return self._descriptor

    def _append(self, line: bytes) -> None:
        self.open()
        if self._written and self._written + len(line) > self._size:
            self._rotate()
        descriptor = self.open()
        # A line that a crash cut off must not swallow the one after it.
        text = b"\n" + line if self._is_torn else line
        done = os.write(descriptor, text)
        if done < len(text):
            # The disk is full. Who reads the trail is to find whole lines alone.
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - done)
            raise OSError(f"only {done} of {len(text)} bytes were written")
        self._written += done
        self._is_torn = False

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        # O_NONBLOCK: a FIFO under that name must not hang the thread before it is refused.
        descriptor = os.open(self._path, flags | os.O_NONBLOCK, FILE_MODE)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError(f"{self._path} is not a regular file")
        self._written = status.st_size
        self._is_torn = status.st_size > 0 and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
        return descriptor

    def _rotate(self) -> None:
        self.close()
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._aside(number).replace(self._aside(number + 1))
        self._path.replace(self._aside(1))

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class Journal:
    """Lines as messages of systemd's journal, by its native protocol.

    Found with `journalctl SYSLOG_IDENTIFIER=quicether-audit -o cat`.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> int:
        """Send each line as one message."""
        return _write_each(lines, self._send, self.close)

    def close(self) -> None:
        """Close the socket; the next line opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, line: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_JOURNAL_PATIENCE)
            self._socket.connect(str(self._path))
        fields = {
            "MESSAGE": line.decode(),
            "PRIORITY": str(_NOTICE),
            "SYSLOG_IDENTIFIER": "quicether-audit",
        }
        self._socket.send(b"".join(encode_field(*field) for field in fields.items()))


class AuditWriter:
    """An `AuditSink` that writes records down in a thread of its own.

    lost: records that were not kept, because the queue was full or the target refused them.
    """

    def __init__(self, target: AuditTarget, queue_length: int = QUEUE_LENGTH) -> None:
        self._target = target
        self._queue: queue.Queue[AuditRecord | None] = queue.Queue(queue_length)
        self._lock = threading.Lock()
        self._lost = 0
        self._untold = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="quicether-audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that were not kept since the start."""
        with self._lock:
            return self._lost

    def write(self, record: AuditRecord) -> None:
        """Queue one record. Never blocks; a full queue counts it as lost."""
        if self._is_closed:
            self._lose(1)
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._lose(1)

    def close(self) -> None:
        """Write what is queued, for CLOSE_PATIENCE seconds at most, and end. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        deadline = time.monotonic() + CLOSE_PATIENCE
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_PATIENCE)
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _lose(self, count: int) -> None:
        with self._lock:
            self._lost += count
            self._untold += count

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH:
                    batch.append(self._queue.get_nowait())
            is_open = None not in batch
            self._write([record for record in batch if record is not None])
        self._target.close()

    def _write(self, records: Sequence[AuditRecord]) -> None:
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold:
            records = [left_out("any", untold, time.time()), *records]
        lines = [json.dumps(record, separators=(",", ":")).encode() for record in records]
        try:
            kept = self._target.write(lines) if lines else 0
        except OSError:
            kept = 0
        with self._lock:
            if untold and not kept:
                self._untold += untold
            missing = len(lines) - max(kept, 1 if untold else 0)
            self._lost += missing
            self._untold += missing


def open_audit(where: Path | str) -> AuditWriter:
    """Return a writer to `journal` or to the file at a path.

    Raises HostError: the file's folder is not there or not writable, or there is no journal.
    """
    if where == "journal":
        if not SOCKET.exists():
            raise HostError(f"audit-log journal: there is no {SOCKET}; name a file instead")
        return AuditWriter(Journal())
    path = Path(where)
    target = RotatingFile(path)
    try:
        target.open()
    except OSError as error:
        raise HostError(f"audit-log {path}: {error.strerror or error}") from None
    return AuditWriter(target)

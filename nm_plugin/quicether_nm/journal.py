"""Log records for the journal, marked with the profile they belong to.

When an activation fails, nmcli tells the user to run `journalctl -xe NM_CONNECTION=UUID`. A line
on stderr has no such field, so where stderr leads to the journal, records go to journald's own
socket instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "nm-quicether-service"
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Lowest level of logging → syslog priority (RFC 5424 section 6.2.1)."""


class JournalHandler(logging.Handler):
    """Sends each record to journald in its native protocol.

    connection: uuid of the profile that records are about from now on, "" for none.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__()
        self.connection = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; journald gone for a moment costs the record, as stderr would."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(
                next(number for least, number in _PRIORITIES if record.levelno >= least)
            ),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        if self.connection:
            fields["NM_CONNECTION"] = self.connection
        try:
            self._socket.send(b"".join(encode_field(*field) for field in fields.items()))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def encode_field(name: str, value: str) -> bytes:
    """Return one field of journald's native protocol (JOURNAL_NATIVE_PROTOCOL)."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def leads_to_journal(fd: int, stream: str | None) -> bool:
    """Tell whether file descriptor fd is the journal stream that systemd gave this process.

    stream: environment variable JOURNAL_STREAM, DEVICE:INODE (systemd.exec(5)).
    """
    status = os.fstat(fd)
    return stream == f"{status.st_dev}:{status.st_ino}"


def start_logging(*, debug: bool) -> JournalHandler | None:
    """Send all records to the journal, or to stderr where that leads elsewhere (return None)."""
    journal = None
    if leads_to_journal(sys.stderr.fileno(), os.environ.get("JOURNAL_STREAM")):
        # Without the socket stderr still gets there, only unmarked.
        with contextlib.suppress(OSError):
            journal = JournalHandler()
    handler = journal or logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(message)s" if journal else f"{IDENTIFIER}: %(levelname)s: %(message)s")
    )
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    return journal

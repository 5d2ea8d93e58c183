"""Log records for the journal, with fields that say what they are about.

When an activation fails, nmcli tells the user to run `journalctl -xe NM_CONNECTION=UUID`; an
operator wants `journalctl QUICETHER_TUNNEL=home`. A line on stderr has no such fields, so where
stderr leads to the journal, records go to journald's own socket instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
ABOUT: Final[ContextVar[Mapping[str, str]]] = ContextVar("ABOUT", default=MappingProxyType({}))
"""Fields of every record that is written in this context: a task and what it calls."""
TUNNEL: Final = "QUICETHER_TUNNEL"
"""Field of `ABOUT` that names the tunnel."""
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Lowest level of logging → syslog priority (RFC 5424 section 6.2.1)."""


class TunnelLevels(logging.Filter):
    """Lets the records of a tunnel pass from a level of its own on; others from the program's."""

    def __init__(self) -> None:
        super().__init__()
        self._level: int | None = None
        self._levels: dict[str, int] = {}

    def start(self, level: int) -> None:
        """Let level be the program's from now on."""
        self._level = level
        self._apply()

    def set(self, tunnel: str, level: int | None) -> None:
        """Let level be a tunnel's from now on; None makes it the program's again."""
        if level is None:
            self._levels.pop(tunnel, None)
        else:
            self._levels[tunnel] = level
        self._apply()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record written in this context is important enough."""
        least = self._levels.get(ABOUT.get().get(TUNNEL, ""), self._level)
        return least is None or record.levelno >= least

    def _apply(self) -> None:
        if self._level is not None:
            logging.getLogger().setLevel(min([self._level, *self._levels.values()]))


LEVELS: Final = TunnelLevels()
"""The levels of this process."""


class JournalHandler(logging.Handler):
    """Sends each record to journald in its native protocol.

    fields: of every record from now on, beside those of `ABOUT`; upper case with underscores.
    """

    def __init__(self, identifier: str, path: Path = SOCKET) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._identifier = identifier
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
            "SYSLOG_IDENTIFIER": self._identifier,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            **self.fields,
            **ABOUT.get(),
        }
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


def start_logging(identifier: str, level: int) -> JournalHandler | None:
    """Send all records to the journal, or to stderr where that leads elsewhere (return None)."""
    journal = None
    if leads_to_journal(sys.stderr.fileno(), os.environ.get("JOURNAL_STREAM")):
        # Without the socket stderr still gets there, only unmarked.
        with contextlib.suppress(OSError):
            journal = JournalHandler(identifier)
    handler = journal or logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(message)s" if journal else f"{identifier}: %(levelname)s: %(message)s")
    )
    handler.addFilter(LEVELS)
    logging.basicConfig(handlers=[handler])
    LEVELS.start(level)
    return journal

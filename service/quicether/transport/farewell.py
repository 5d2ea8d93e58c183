"""The end of a connection, told again to who did not hear it (RFC 9000 section 10.2.1). Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Farewell:
    """What was sent when a session ended, said again ever more rarely."""

    def __init__(self) -> None:
        self._datagrams: Sequence[bytes] = ()
        self._late = 0
        self._due = 1

    def said(self, datagrams: Sequence[bytes]) -> None:
        """Note UDP payloads that were sent after the end; the first of them are the farewell."""
        self._datagrams = self._datagrams or datagrams

    def repeat(self, count: int) -> Sequence[bytes]:
        """Return what to send now that so many more UDP payloads came, often nothing."""
        self._late += count
        if not self._datagrams or self._late < self._due:
            return ()
        self._due *= 2
        return self._datagrams

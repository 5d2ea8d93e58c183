"""Which packet numbers have come already: each counts once (RFC 9000 section 12.3). Pure."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 2048
"""How far behind the newest packet one may come and still count. At 20,000 packets a second that
is 100 ms of reordering; aioquic's own window of 128 is 6 ms."""

_MASK: Final = (1 << WINDOW) - 1


class ReplayWindow:
    """The newest number and one bit for each of the `WINDOW` numbers up to it.

    Takes the place of aioquic's `QuicPacketNumberWindow`.
    """

    __slots__ = ("_bits", "_newest")

    def __init__(self) -> None:
        self._newest = -1
        self._bits = 0

    def __contains__(self, number: int) -> bool:
        """Tell whether number was received, or is so old that it has to count as received."""
        behind = self._newest - number
        return behind >= 0 and (behind >= WINDOW or bool(self._bits >> behind & 1))

    def add(self, number: int) -> None:
        """Note that number was received."""
        behind = self._newest - number
        if behind < 0:
            ahead = min(-behind, WINDOW)
            self._bits = (self._bits << ahead | 1) & _MASK
            self._newest = number
        elif behind < WINDOW:
            self._bits |= 1 << behind

"""The TUN device as the forwarder sees it: batches of IP packets in, batches out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from quicether.counters import Counters


class Device(Protocol):
    """An open layer-3 device. One IP packet per item, no packet information header."""

    @property
    def name(self) -> str:
        """The interface's name."""

    def start(self, receive: Callable[[list[bytes]], None]) -> None:
        """Call receive with each batch that the kernel routes to the device."""

    def pause(self, paused: bool) -> None:
        """Stop or resume reading: back-pressure, the kernel's own queue then drops."""

    def write(self, packets: Sequence[bytes], counters: Counters) -> None:
        """Give packets to the kernel. What it refuses is counted as DropReason.DEVICE."""

    def close(self) -> None:
        """Stop reading and free the descriptor. Idempotent."""

"""The TUN device as the forwarder sees it: batches of IP packets in, batches out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from quicether.counters import Counters
from quicether.errors import HostError


class Device(Protocol):
    """An open layer-3 device. One IP packet per item, no packet information header."""

    @property
    def name(self) -> str:
        """The interface's name."""

    def start(
        self,
        receive: Callable[[list[bytes]], None],
        lost: Callable[[HostError], None] | None = None,
    ) -> None:
        """Call receive with each batch that the kernel routes to the device.

        lost: called once if the device is taken away under us; nothing is received afterwards.
        """

    def pause(self, paused: bool) -> None:
        """Stop or resume reading: back-pressure, the kernel's own queue then drops."""

    def write(self, packets: Sequence[bytes], counters: Counters) -> None:
        """Give packets to the kernel. What it refuses is counted as DropReason.DEVICE."""

    def close(self) -> None:
        """Stop reading and free the descriptor. Idempotent."""

"""A TUN device in memory: what the forwarder writes is kept, what a test feeds is received."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quicether.counters import Counters
from quicether.errors import HostError


class FakeDevice:
    """Implements `Device`. Nothing is refused."""

    def __init__(self, name: str = "quicether0") -> None:
        self._name = name
        self._receive: Callable[[list[bytes]], None] | None = None
        self.written: list[bytes] = []
        self.batches = 0
        self.paused = False
        self.closed = False

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._name

    def start(
        self,
        receive: Callable[[list[bytes]], None],
        lost: Callable[[HostError], None] | None = None,
    ) -> None:
        """Remember whom to call. It is never lost."""
        del lost
        self._receive = receive

    def pause(self, paused: bool) -> None:
        """Remember it."""
        self.paused = paused

    def write(self, packets: Sequence[bytes], counters: Counters) -> None:
        """Keep packets."""
        del counters
        self.batches += 1
        self.written.extend(packets)

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def feed(self, *packets: bytes) -> None:
        """Let the kernel route packets to the device, as one batch."""
        assert self._receive is not None, "the device was not started"
        self._receive(list(packets))

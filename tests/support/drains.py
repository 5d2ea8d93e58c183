"""What stands around a forwarder and forgets everything: only its own cost is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quicether.counters import Counters
from quicether.dataplane.packet import PacketView
from quicether.errors import HostError
from quicether.model import NodeId


class Drain:
    """A device and a link that forget what they are given. Implements `Device` and `Link`."""

    name = "drain"
    max_packet = 1400

    def start(
        self,
        receive: Callable[[list[bytes]], None],
        lost: Callable[[HostError], None] | None = None,
    ) -> None:
        """Nothing comes from here."""

    def pause(self, paused: bool) -> None:
        """Nothing is read here."""

    def write(self, packets: Sequence[bytes], counters: Counters) -> None:
        """Forget packets."""

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Forget packets."""

    def close(self) -> None:
        """Nothing is open."""


class Deaf:
    """An overlay that looks nobody up and connects to nobody. Implements `ForwarderEvents`."""

    def unknown_destination(self, destination: bytes) -> bool:
        """There is no such prefix."""
        return False

    def wanted(self, node: NodeId) -> bool:
        """It is not connected to."""
        return False

    def detoured(self, node: NodeId) -> None:
        """Forget it."""

    def stood_in_for(self, node: NodeId) -> None:
        """Forget it."""

    def spoofed(self, node: NodeId, packet: PacketView) -> None:
        """Forget it."""

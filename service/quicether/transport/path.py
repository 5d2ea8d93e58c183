"""The way to a peer: its address, how to answer it, and how large a datagram may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aioquic.quic.packet_builder import QuicDeliveryState

from quicether.counters import Counters
from quicether.model import DropReason
from quicether.transport.engine import DATAGRAM_OVERHEAD, Engine
from quicether.transport.path_mtu import FLOOR, PathMtu
from quicether.transport.udp_socket import SocketAddress, Source, UdpSocket, ip_headers

_LINK: Final = 1280
"""MTU, in bytes, that every IPv6 link has; where the search for the path's own begins."""
_SHORTEST_WAIT: Final = 0.15
"""Shortest wait, in seconds, for the acknowledgement of a probe."""


class Path:
    """The path of one session.

    remote: the peer's address. source: what to send with, so that answers leave from where the
    peer reached us; None lets the kernel choose, as it has to when this side opened the session
    and may roam. changed: called when `max_packet` is another.
    """

    def __init__(
        self,
        engine: Engine,
        socket: UdpSocket,
        counters: Counters,
        remote: SocketAddress,
        max_link_mtu: int,
        changed: Callable[[], None],
    ) -> None:
        self.remote = remote
        self.source: Source | None = None
        self._engine = engine
        self._socket = socket
        self._counters = counters
        self._max_link_mtu = max_link_mtu
        self._changed = changed
        self._mtu: PathMtu | None = None
        self._heard_since_probe = True
        self._reported = self.size

    @property
    def size(self) -> int:
        """Largest UDP payload, in bytes, to send now."""
        return self._mtu.size if self._mtu is not None else self._base

    @property
    def max_packet(self) -> int:
        """Largest IP packet, in bytes, that one UDP payload carries."""
        return self.size - DATAGRAM_OVERHEAD

    @property
    def deadline(self) -> float | None:
        """When `probe` wants to be called; never while the address is not validated yet."""
        if self._mtu is None or self._engine.sendable() is not None:
            return None
        return self._mtu.deadline

    def search(self, now: float) -> None:
        """Look for the size from the beginning: the path is new."""
        self._mtu = PathMtu(self._base, self._ceiling, now)
        self._heard_since_probe = True
        self._report()

    def recheck(self, now: float) -> None:
        """See whether the path still carries what it did, or more: it may be another."""
        if self._mtu is None:
            self.search(now)
            return
        self._mtu.recheck(self._ceiling, now)
        self._heard_since_probe = True
        self._report()

    def move(self, remote: SocketAddress, now: float) -> None:
        """The peer is at another address; a mere change of port is a NAT that forgot it."""
        same_host = remote[0] == self.remote[0]
        self.remote = remote
        if self._mtu is not None:
            if same_host:
                self.recheck(now)
            else:
                self.search(now)

    def heard(self) -> None:
        """The peer is alive, so a lost probe says something about its size."""
        self._heard_since_probe = True

    def send(self, datagrams: Sequence[bytes]) -> None:
        """Send datagrams of the handshake or of streams, which fit every path."""
        self._socket.send(datagrams, self.remote, self.source)

    def send_sealed(self, datagrams: Sequence[bytes], now: float) -> bool:
        """Send datagrams of at most `size` bytes; returns whether a probe is due because of it."""
        largest = max(map(len, datagrams))
        lost = self._socket.send(datagrams, self.remote, self.source)
        if self._mtu is None:
            return False
        if lost:
            self._counters.drop(DropReason.TOO_BIG, lost)
            self._mtu.refused(largest, now)
            self._report()
        return self._mtu.used(largest, now)

    def probe(self, now: float) -> bool:
        """Send the probe that is due, if one is; return whether that was so."""
        deadline = self.deadline
        if self._mtu is None or deadline is None or now < deadline:
            return False
        wait = max(_SHORTEST_WAIT, 2 * self._engine.probe_timeout)
        size = self._mtu.probe(now, wait, alive=self._heard_since_probe)
        while size is not None:
            self._heard_since_probe = False
            datagram = self._engine.seal_probe(size, self._outcome, now)
            if not self._socket.send([datagram], self.remote, self.source):
                break
            self._mtu.refused(size, now)
            size = self._mtu.probe(now, wait, alive=True)
        self._report()
        return True

    @property
    def _base(self) -> int:
        return max(FLOOR, _LINK - ip_headers(self.remote))

    @property
    def _ceiling(self) -> int:
        limit = self._max_link_mtu - ip_headers(self.remote)
        return min(limit, self._socket.largest_payload(self.remote) or limit)

    def _outcome(self, state: QuicDeliveryState, size: int, now: float) -> None:
        if state is QuicDeliveryState.ACKED and self._mtu is not None:
            self._mtu.acknowledged(size, now)
            self._report()

    def _report(self) -> None:
        if self.size != self._reported:
            self._reported = self.size
            self._changed()

"""What carries sessions: one socket, one timer, and the table of connection ids.

Everything that a wakeup brings is fed to the sessions first, and each session that was touched
then sends once: that is worth three times the rate of a send after every packet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from quicether.counters import Counters
from quicether.model import DropReason, UnderlayAddress
from quicether.transport.deadlines import Deadlines
from quicether.transport.endpoint import CloseCode
from quicether.transport.session import Session
from quicether.transport.tls import CONNECTION_ID_BYTES
from quicether.transport.udp_socket import Arrival, SocketAddress, Source, UdpSocket

log = logging.getLogger(__name__)

LINK_MTU: Final = 1500
"""Largest IP packet, in bytes, that is tried on the underlay."""

_LONG_HEADER: Final = 0x80
_CID_LENGTH_AT: Final = 5
_CID_AT: Final = 6
_SHORT_CID_END: Final = 1 + CONNECTION_ID_BYTES

Stranger = Callable[[bytes, SocketAddress, Source | None, float], None]
"""Called with a datagram of no session, where it came from and how to answer, and the time."""


class UdpCarrier:
    """Implements `session.Carrier` on one UDP socket of the running event loop."""

    def __init__(
        self,
        bind: UnderlayAddress,
        *,
        counters: Counters,
        mark: int | None,
        max_link_mtu: int = LINK_MTU,
        stranger: Stranger | None = None,
        accepted: Callable[[Session], None] | None = None,
    ) -> None:
        """Bind the socket. Raises HostError: the address or port cannot be had.

        stranger: takes datagrams of no session; without it they are dropped and counted.
        accepted: told once of each session whose peer was accepted, or that is gone.
        """
        self.counters = counters
        self.max_link_mtu = max_link_mtu
        self._stranger = stranger
        self._settled = accepted
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)
        self._by_id: dict[bytes, Session] = {}
        self._ids: dict[Session, set[bytes]] = {}
        self._to_flush: dict[Session, None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self.socket = UdpSocket(
            bind,
            counters=counters,
            mark=mark,
            on_arrivals=self._arrived,
            on_writable=self._writable,
        )

    def __len__(self) -> int:
        return len(self._ids)

    def listen(self) -> None:
        """Begin to take in what arrives, and what has arrived since the socket was bound."""
        self.socket.listen()

    def sessions(self) -> list[Session]:
        """Return all sessions, those that are closing included."""
        return list(self._ids)

    def add(self, session: Session, connection_ids: list[bytes]) -> None:
        """Carry session, which its peer addresses by connection_ids."""
        self._ids[session] = set(connection_ids)
        self._by_id.update(dict.fromkeys(connection_ids, session))
        self.flush_soon(session)

    def close(self, reason: str) -> None:
        """End every session, send what that takes, and free the socket."""
        now = self.now()
        for session in self.sessions():
            session.close(CloseCode.DONE, reason, now)
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        self._deadlines.close()
        self.socket.close()
        self._by_id.clear()
        self._ids.clear()

    # -- session.Carrier ---------------------------------------------------------------------

    def now(self) -> float:
        """The event loop's clock, in seconds."""
        return self._loop.time()

    def arm(self, session: Session, deadline: float | None) -> None:
        """Call `session.on_deadline` then."""
        self._deadlines.arm(session, deadline)

    def flush_soon(self, session: Session) -> None:
        """Call `session.flush` at the end of this turn of the event loop."""
        self._to_flush[session] = None
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def issued(self, session: Session, connection_id: bytes) -> None:
        """The peer may address the session by connection_id from now on."""
        if session in self._ids:
            self._ids[session].add(connection_id)
            self._by_id[connection_id] = session

    def retired(self, session: Session, connection_id: bytes) -> None:
        """The peer no longer addresses the session by connection_id."""
        if session in self._ids:
            self._ids[session].discard(connection_id)
            self._by_id.pop(connection_id, None)

    def accepted(self, session: Session) -> None:
        """The peer's certificate was accepted."""
        if self._settled is not None:
            self._settled(session)

    def gone(self, session: Session) -> None:
        """Nothing is left of the session."""
        self.accepted(session)
        for connection_id in self._ids.pop(session, ()):
            self._by_id.pop(connection_id, None)
        self._to_flush.pop(session, None)

    # -- the socket --------------------------------------------------------------------------

    def _arrived(self, arrivals: list[Arrival]) -> None:
        now = self._loop.time()
        for arrival in arrivals:
            datagrams = arrival.datagrams
            first = _connection_id(datagrams[0])
            if len(datagrams) == 1 or len({d[1:_SHORT_CID_END] for d in datagrams}) == 1:
                self._dispatch(first, datagrams, arrival.remote, arrival.source, now)
                continue
            for datagram in datagrams:
                name = _connection_id(datagram)
                self._dispatch(name, [datagram], arrival.remote, arrival.source, now)
        self._flush()

    def _dispatch(
        self,
        connection_id: bytes,
        datagrams: list[bytes],
        remote: SocketAddress,
        source: Source | None,
        now: float,
    ) -> None:
        session = self._by_id.get(connection_id)
        if session is not None:
            session.feed(datagrams, remote, source, now)
            self._to_flush[session] = None
            return
        if self._stranger is None:
            self.counters.drop(DropReason.UNKNOWN_CONNECTION, len(datagrams))
            return
        try:
            for datagram in datagrams:
                self._stranger(datagram, remote, source, now)
        except Exception:
            # What a stranger sends must not cost others what arrived with it.
            log.exception("a fault of our own on a packet from %s", remote[0])
            self.counters.faults += 1

    def _writable(self) -> None:
        for session in self._ids:
            self._to_flush[session] = None
        self._flush()

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        now = self._loop.time()
        while self._to_flush:
            session = next(iter(self._to_flush))
            del self._to_flush[session]
            session.flush(now)


def _connection_id(datagram: bytes) -> bytes:
    """Return the destination connection id of a packet; too short a one when it has none."""
    if datagram[0] & _LONG_HEADER:
        if len(datagram) < _CID_AT:
            return b""
        return datagram[_CID_AT : _CID_AT + datagram[_CID_LENGTH_AT]]
    return datagram[1:_SHORT_CID_END]

"""Who stands around a session: the role it plays, and the carrier of its datagrams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from quicether.counters import Counters
from quicether.transport.udp_socket import UdpSocket

if TYPE_CHECKING:
    from quicether.transport.session import Session


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ended.

    code: application error code (`CloseCode`) if application, else QUIC's own (RFC 9000 section
    20.1). by_peer: the peer closed, not this side.
    """

    code: int
    application: bool
    by_peer: bool
    reason: str


class Role(Protocol):
    """What a session is used for.

    deadline: when `on_deadline` is to be called, on the event loop's clock; None for never.
    """

    deadline: float | None

    def established(self, protocol: str | None) -> None:
        """The handshake completed; nothing of the peer has been handed over yet."""

    def stream_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """The next bytes of a stream; end: there are no more."""

    def stream_reset(self, stream_id: int) -> None:
        """The peer gave a stream up, in either direction."""

    def packets(self, packets: list[bytes]) -> bool:
        """Take IP packets; False: not yet, the session keeps them within a bound."""

    def path_changed(self) -> None:
        """The peer's address, or what its path carries, is another."""

    def on_deadline(self, now: float) -> None:
        """The role's deadline has come."""

    def ended(self, ending: Ending) -> None:
        """The session is over; called once."""


class Carrier(Protocol):
    """What carries sessions: the endpoint."""

    counters: Counters
    socket: UdpSocket
    max_link_mtu: int
    """Largest IP packet, in bytes, that is ever tried on the underlay."""

    def now(self) -> float:
        """The event loop's clock, in seconds."""

    def arm(self, session: Session, deadline: float | None) -> None:
        """Call `session.on_deadline` then."""

    def flush_soon(self, session: Session) -> None:
        """Call `session.flush` at the end of this turn of the event loop."""

    def issued(self, session: Session, connection_id: bytes) -> None:
        """The peer may address the session by connection_id from now on."""

    def retired(self, session: Session, connection_id: bytes) -> None:
        """The peer no longer addresses the session by connection_id."""

    def accepted(self, session: Session) -> None:
        """The peer's certificate was accepted."""

    def gone(self, session: Session) -> None:
        """Nothing is left of the session."""

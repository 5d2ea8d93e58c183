"""What an accepted session is until its handshake says what it is for."""

from __future__ import annotations

from collections.abc import Callable

from quicether.errors import ProtocolError, TrustError
from quicether.transport.connection import HANDSHAKE_TIMEOUT, Node, error_of
from quicether.transport.endpoint import CloseCode
from quicether.transport.roles import Ending, Role
from quicether.transport.session import Session


class Reception:
    """The role of an accepted session during its handshake.

    choose: returns the role for the protocol that was agreed on (ALPN), which then takes over.
    """

    def __init__(
        self, session: Session, node: Node, choose: Callable[[Session, str | None], Role]
    ) -> None:
        self.deadline: float | None = node.clock() + HANDSHAKE_TIMEOUT
        self._session = session
        self._node = node
        self._choose = choose

    def established(self, protocol: str | None) -> None:
        """Hand over to the role that the peer came for."""
        role = self._choose(self._session, protocol)
        self._session.role = role
        role.established(protocol)

    def stream_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Cannot come before the handshake is complete (RFC 9001 section 5.7)."""

    def stream_reset(self, stream_id: int) -> None:
        """Cannot come before the handshake is complete."""

    def packets(self, packets: list[bytes]) -> bool:
        """Cannot come before the handshake is complete."""
        return False

    def path_changed(self) -> None:
        """Nothing depends on it."""

    def on_deadline(self, now: float) -> None:
        """The handshake took too long."""
        self._session.close(CloseCode.DONE, "the handshake took too long", now)

    def ended(self, ending: Ending) -> None:
        """Tell the audit log of a peer that could not even agree on TLS."""
        error = error_of(ending, self._session.remote)
        if isinstance(error, TrustError | ProtocolError):
            self._node.counters.failed_handshakes += 1
            self._node.events.refused(self._session.remote, error)

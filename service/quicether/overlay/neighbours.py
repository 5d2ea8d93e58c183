"""Whom a mesh talks to beside the endpoint and the forwarder: the seams of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quicether.dataplane.packet import PacketView
from quicether.errors import QuicEtherError
from quicether.model import Member, NodeId, Prefix, UnderlayAddress
from quicether.overlay.gateways import Offers
from quicether.transport.endpoint import Connection


class AuditEvents(Protocol):
    """Who writes down connections, and attempts at what is not allowed."""

    def connected(self, member: Member, remote: UnderlayAddress) -> None:
        """A peer proved who it is."""

    def disconnected(
        self,
        member: Member,
        remote: UnderlayAddress,
        reason: str,
        duration: float,
        carried: tuple[int, int],
    ) -> None:
        """A peer that had connected has no connection left, after duration seconds.

        carried: bytes of IP packets that its last connection sent, and received.
        """

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        """A peer was turned away."""

    def spoofed(self, member: Member | None, packet: PacketView) -> None:
        """A peer sent from an address that is not its own."""

    def uncovered(self, member: Member, prefixes: Sequence[Prefix]) -> None:
        """A peer announced prefixes that its certificate does not cover."""

    def record_refused(self, sender: Member | NodeId | None, reason: str) -> None:
        """A node handed over a record that does not count."""


class RpcService(Protocol):
    """Answers the requests of one RpcKind."""

    async def answer(self, connection: Connection, body: bytes) -> bytes:
        """Answer one request; body without its first byte. A QuicEtherError resets it."""


class Discovery(Protocol):
    """Finds who owns what, where the peers at hand do not say so."""

    def look_up(self, destination: bytes) -> bool:
        """Begin to look for the prefix of a packed address; False: known to have none."""

    def locate(self, node: NodeId) -> bool:
        """Begin to look for where a node is; False: there is nobody to ask."""

    def seek(self, node: NodeId) -> None:
        """Try a node again where it was found, as often as asked; look for it anew at times."""

    def advertise(self, owned: Sequence[Prefix], offers: Offers) -> None:
        """Let everybody find what this node owns and forwards for, in place of earlier."""

    def observed(self, peer: NodeId, address: UnderlayAddress) -> None:
        """A peer says where it sees this node."""

    def forget(self, node: NodeId) -> None:
        """Believe nothing of a node any more: it was revoked."""

    def renewed(self, certificate: bytes) -> None:
        """Sign everything anew with another certificate, DER, for the same key."""

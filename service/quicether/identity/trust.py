"""Who is a member: the one question that authorities and pinned peers both answer."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from quicether.model import Member


class Trust(Protocol):
    """Judges certificates for one network."""

    @property
    def network_id(self) -> bytes:
        """What sets this network apart from every other, 32 bytes. Same on all its members."""

    def judge(self, certificate: bytes, now: datetime) -> Member:
        """Return the member that a DER certificate proves.

        The TLS stack has already checked that the peer holds the certificate's key.
        Raises TrustError: unknown signer, damaged, not yet or no longer valid, revoked, or a
        content that its kind does not allow; the sentence says which.
        """

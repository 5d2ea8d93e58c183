"""What becomes of a packet that belongs to no connection: a new one, an answer, or nothing.

A client's first packet costs the server a handshake's computing and memory, and its source address
may be forged. While many handshakes are under way the client first has to prove its address
(Retry, RFC 9000 section 8.1.2), and beyond a bound nobody new is let in.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic.packet import (
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from quicether.counters import Counters
from quicether.model import DropReason
from quicether.transport.tls import CONNECTION_ID_BYTES, HANDSHAKE_PAYLOAD
from quicether.transport.udp_socket import SocketAddress

RETRY_ABOVE: Final = 32
"""Accepted handshakes under way above which clients have to prove their address."""
MAX_HALF_OPEN: Final = 256
"""Accepted handshakes under way at one time."""
MAX_HALF_OPEN_PER_HOST: Final = 128
"""The same from one IP address."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client's first packet that opens a connection.

    original: the connection id the client made up. retried: the one that a Retry gave it.
    """

    original: bytes
    retried: bytes | None


class Admission:
    """Judges packets of unknown connections.

    versions: the QUIC versions that are spoken.
    """

    def __init__(self, versions: list[int], counters: Counters) -> None:
        self._versions = versions
        self._counters = counters
        self._retry = QuicRetryTokenHandler()

    def judge(
        self,
        datagram: bytes,
        remote: SocketAddress,
        *,
        half_open: int,
        half_open_there: int,
        full: bool,
        now: float,
    ) -> Admitted | bytes | None:
        """Return what to open, or a datagram to answer with, or None to pass it over.

        half_open: accepted handshakes under way; half_open_there: of them, from remote's host.
        full: whether the endpoint has all the connections it may have.
        """
        try:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            self._counters.drop(DropReason.MALFORMED)
            return None
        if len(datagram) < HANDSHAKE_PAYLOAD or header.version is None:
            self._counters.drop(DropReason.UNKNOWN_CONNECTION)
            return None
        if header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            self._counters.drop(DropReason.UNKNOWN_CONNECTION)
            return None
        if header.version not in self._versions:
            return encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self._versions,
            )
        if (
            header.packet_type is not QuicPacketType.INITIAL
            or len(header.destination_cid) < CONNECTION_ID_BYTES
        ):
            self._counters.drop(DropReason.UNKNOWN_CONNECTION)
            return None
        if full or half_open >= MAX_HALF_OPEN or half_open_there >= MAX_HALF_OPEN_PER_HOST:
            self._counters.drop(DropReason.CONNECTION_LIMIT)
            return None
        if header.token:
            try:
                original = self._retry.validate_token(
                    address=remote,
                    destination_cid=header.destination_cid,
                    token=header.token,
                    now=now,
                )
            except ValueError:
                self._counters.drop(DropReason.MALFORMED)
                return None
            return Admitted(original, retried=header.destination_cid)
        if half_open < RETRY_ABOVE:
            return Admitted(header.destination_cid, retried=None)
        source_cid = secrets.token_bytes(CONNECTION_ID_BYTES)
        return encode_quic_retry(
            version=header.version,
            source_cid=source_cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=self._retry.create_token(
                address=remote,
                original_destination_connection_id=header.destination_cid,
                retry_source_connection_id=source_cid,
                now=now,
            ),
        )

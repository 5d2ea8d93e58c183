"""TLS 1.3 between nodes: both sides show a certificate, and our own trust judges it.

aioquic does the handshake and checks that the peer holds the key of the certificate that it shows
(CertificateVerify). It neither demands a certificate from a client nor judges a chain in our way,
and it has no public name for either. This file is the only one that touches those private
attributes; the minor version of aioquic is pinned for it, and tests fail when a peer gets through
without a certificate.

No session tickets are handed out and none are kept: a resumed session would skip certificates, and
there is no 0-RTT without one.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from typing import Final

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.errors import TrustError
from quicether.identity.trust import Trust
from quicether.model import Member, NodeId
from quicether.transport.messages import MAX_RPC

CONNECTION_ID_BYTES: Final = 8
HANDSHAKE_PAYLOAD: Final = 1200
"""UDP payload, in bytes, that any path for QUIC carries (RFC 9000 section 14)."""
IDLE_TIMEOUT: Final = 12_000.0
"""Seconds without a packet after which a connection is gone (RFC 9000 section 10.1).

Long, for connections that rest (`liveness`); of the others a silent peer is noticed in seconds.
"""
MAX_DATAGRAM_FRAME: Final = 65_535

_INITIAL_RTT: Final = 0.2
_MAX_CHAIN: Final = 3
_CIPHER_SUITES: Final = [
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
]


def configuration(
    *,
    is_client: bool,
    protocols: list[str],
    certificate: x509.Certificate | None,
    key: Ed25519PrivateKey | None,
) -> QuicConfiguration:
    """Return what a QUIC connection of ours needs to know.

    protocols: the ALPN names that this side offers or takes. certificate and key: None on a
    client that has none yet and comes to be enrolled.
    """
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=protocols,
        certificate=certificate,
        private_key=key,
        cipher_suites=_CIPHER_SUITES,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_TIMEOUT,
        initial_rtt=_INITIAL_RTT,
        # One byte more than the largest body, so that one that is too large shows as such.
        max_data=16 * MAX_RPC,
        max_stream_data=MAX_RPC + 1,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME,
        max_datagram_size=HANDSHAKE_PAYLOAD,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        # Certificates are judged by `judge_peer`, not by the web's authorities.
        verify_mode=ssl.CERT_NONE,
    )


def restrict(context: tls.Context, *, is_client: bool) -> None:
    """Make a TLS context ask for a certificate and know Ed25519 and X25519 alone.

    One key share in place of four also saves three quarters of a handshake's computing time.
    """
    context._request_client_certificate = not is_client
    context._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
    context._supported_groups = [tls.Group.X25519]


def peer_certificate(context: tls.Context) -> x509.Certificate | None:
    """Return the certificate whose key the peer has proven to hold; None: it showed none."""
    if context.session_resumed or len(context._peer_certificate_chain) > _MAX_CHAIN:
        return None
    return context._peer_certificate


def judge_peer(context: tls.Context, trust: Trust, expect: NodeId | None, now: datetime) -> Member:
    """Return the member at the other end of a handshake that has just completed.

    expect: the only node that will do; None takes any member.
    Raises TrustError: no certificate, one that trust does not accept, or another node's.
    """
    certificate = peer_certificate(context)
    if certificate is None:
        raise TrustError("the peer showed no certificate")
    member = trust.judge(certificate.public_bytes(Encoding.DER), now)
    if expect is not None and member.node_id != expect:
        raise TrustError(
            f"the peer is node {member.node_id} ({member.name}), but {expect} was expected"
        )
    return member

"""How a node gets its next certificate: it signs for it with the key that the present one is of.

A question is good for a few minutes, and only in the second half of a certificate's life; so a
copied one gives nobody anything, since the answer is a public certificate of the same key. The
authority certifies what its book says by now, not what the old certificate said.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from cryptography import x509
from pydantic import Field

from quicether import cbor
from quicether.errors import TrustError
from quicether.identity import certificates
from quicether.identity.enrolment import Body, CertificateDer, Signature, read_body
from quicether.identity.keys import NodeKey, verify
from quicether.identity.trust import Trust
from quicether.model import Member

CLOCK_SKEW: Final = timedelta(minutes=5)


class RenewalQuestion(Body):
    """What a node sends. certificate: its present one. time: Unix seconds at the node."""

    kind: Literal["renew"] = "renew"
    certificate: CertificateDer
    time: Annotated[int, Field(ge=0, lt=1 << 40)]
    signature: Signature


class _RenewalAnswer(Body):
    certificate: CertificateDer


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Tell whether a node should ask: the last third of its certificate's life has begun."""
    return _left(certificate, now) < 1 / 3


def ask(key: NodeKey, certificate: bytes, network_id: bytes, now: datetime) -> bytes:
    """Return the body that asks for the certificate after this one (DER)."""
    time = int(now.timestamp())
    question = RenewalQuestion(
        certificate=certificate,
        time=time,
        signature=key.sign(_signed(network_id, certificate, time)),
    )
    return cbor.encode(question.model_dump())


def check(body: bytes, trust: Trust, now: datetime) -> tuple[Member, timedelta]:
    """Return who asks, and how long its present certificate is valid in all.

    Raises ProtocolError: malformed; TrustError: no member's certificate (or an expired or
    revoked one), not signed by its key, asked at another time, or too early in its life.
    """
    question = read_body(body, RenewalQuestion)
    member = trust.judge(question.certificate, now)
    verify(
        member.public_key,
        question.signature,
        _signed(trust.network_id, question.certificate, question.time),
    )
    if abs(datetime.fromtimestamp(question.time, UTC) - now) > CLOCK_SKEW:
        raise TrustError(f"node {member.name} asks for renewal by a clock over 5 minutes off")
    certificate = certificates.load_der(question.certificate)
    if _left(certificate, now) > 1 / 2:
        raise TrustError(f"the certificate of node {member.name} is in the first half of its life")
    return member, certificate.not_valid_after_utc - certificate.not_valid_before_utc


def answer(certificate: bytes) -> bytes:
    """Return the body that hands over a new certificate (DER)."""
    return cbor.encode(_RenewalAnswer(certificate=certificate).model_dump())


def read_answer(body: bytes) -> x509.Certificate:
    """Return the new certificate, which `NetworkStore.install` checks and keeps.

    Raises ProtocolError: malformed; TrustError: the certificate is damaged.
    """
    return certificates.load_der(read_body(body, _RenewalAnswer).certificate)


def kind_of(body: bytes) -> str:
    """Return what a body asks for: `enrol` or `renew`. Raises ProtocolError: neither."""
    return read_body(body, _Kind).kind


class _Kind(Body):
    kind: Literal["enrol", "renew"]


def _left(certificate: x509.Certificate, now: datetime) -> float:
    """Return the share of the certificate's life that is still to come."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (end - now) / (end - begin)


def _signed(network_id: bytes, certificate: bytes, time: int) -> bytes:
    return cbor.encode(["quicether renew question 1", network_id, certificate, time])

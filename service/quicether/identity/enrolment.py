"""How a new machine gets its certificate: one question and one answer, proven both ways. Pure.

The inviter gave the new machine an `InviteCode` over a channel of people's own (read out, a
picture, a message). The machine makes its key, connects to the inviter with `ENROL_ALPN`, and

1. refuses any server whose TLS key is not the inviter's: the code has 40 bits of its NodeId.
   This only spares the rest of the talk; the proofs below do not lean on it;
2. asks: the invitation's id, its own public key and a nonce, with an HMAC under the secret and a
   signature of its own key, both over all of that and the server's TLS public key;
3. is answered: node certificate and authority certificate, with an HMAC under the secret over
   both, the server's key and the whole question.

So someone in the middle, who must show a TLS key of its own, has nothing that the true inviter
would take (the question names the wrong server), and nothing that the machine would take (it
cannot make the answer's HMAC). The secret has 128 bits and crosses the wire in no form, so there
is nothing to guess offline. A code is bound to the first public key that proves it: the same
machine may ask again when an answer was lost, any other is refused, and a code that is found
after its use is worth nothing. Freshness comes from the machine's nonce on one side, from the
one use on the other. Codes end by time, and after `invitations.MAX_ATTEMPTS` questions.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quicether import cbor
from quicether.errors import ProtocolError, TrustError
from quicether.identity import certificates
from quicether.identity.invite_code import ID_BYTES, InviteCode
from quicether.identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, NodeKey, verify

MAX_BODY: Final = 2 * certificates.MAX_CERTIFICATE + 1024
"""Largest question or answer, in bytes."""
NONCE_BYTES: Final = 16
_PROOF_BYTES: Final = 32
_MAX_DEPTH: Final = 2

Nonce = Annotated[bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Proof = Annotated[bytes, Field(min_length=_PROOF_BYTES, max_length=_PROOF_BYTES)]
PublicKey = Annotated[bytes, Field(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
Signature = Annotated[bytes, Field(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
CertificateDer = Annotated[bytes, Field(min_length=1, max_length=certificates.MAX_CERTIFICATE)]


class Refusal(enum.StrEnum):
    """Why an invitation that was proven is not honoured. Told only to who proved it."""

    EXPIRED = "expired"
    USED = "used"
    """Another machine has joined with it."""
    FAILED = "failed"
    """The authority cannot certify the node as it was invited; its journal says why."""


_SENTENCES: Final = {
    Refusal.EXPIRED: "the invitation has expired; ask for a new one",
    Refusal.USED: "another machine has joined with this invitation already; if that was not you, "
    "tell the inviter to revoke that node",
    Refusal.FAILED: "the inviter could not certify this machine; its journal says why",
}


class Body(BaseModel):
    """What all bodies have in common. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: Literal[1] = 1


B = TypeVar("B", bound=Body)


class Question(Body):
    """What the new machine sends. invitation: its id. public_key: raw, the machine's own."""

    kind: Literal["enrol"] = "enrol"
    invitation: Annotated[bytes, Field(min_length=ID_BYTES, max_length=ID_BYTES)]
    public_key: PublicKey
    nonce: Nonce
    proof: Proof
    signature: Signature

    def check(self, secret: bytes, server_key: bytes) -> None:
        """Check that whoever asks knows the secret, means this server, and has the key.

        server_key: this side's raw public key, as its TLS handshake showed it.
        Raises TrustError: it does not.
        """
        asked = _asked(server_key, self.invitation, self.public_key, self.nonce)
        if not hmac.compare_digest(self.proof, hmac.digest(secret, asked, "sha256")):
            raise TrustError("an enrolment was not proven by the invitation's secret")
        verify(self.public_key, self.signature, asked)


class _Answer(Body):
    certificate: CertificateDer | None = None
    authority: CertificateDer | None = None
    refusal: Refusal | None = Field(default=None, strict=False)
    proof: Proof


@dataclass(frozen=True, slots=True)
class Admission:
    """What the new machine gets; `NetworkStore.install` checks and keeps it."""

    certificate: x509.Certificate
    authority: x509.Certificate


def ask(code: InviteCode, key: NodeKey, server_key: bytes, nonce: bytes) -> bytes:
    """Return the body that asks for a certificate of key.

    server_key: raw public key that the server proved in its TLS handshake. nonce: 16 random
    bytes, wanted again by `read_answer`.
    Raises TrustError: the server is not the inviter.
    """
    code.check_inviter(server_key)
    asked = _asked(server_key, code.invitation_id, key.public_raw, nonce)
    question = Question(
        invitation=code.invitation_id,
        public_key=key.public_raw,
        nonce=nonce,
        proof=hmac.digest(code.secret, asked, "sha256"),
        signature=key.sign(asked),
    )
    return cbor.encode(question.model_dump())


def read_question(body: bytes) -> Question:
    """Return the question in body, its proofs unchecked. Raises ProtocolError: malformed."""
    return read_body(body, Question)


def admit(
    question: Question, secret: bytes, server_key: bytes, certificate: bytes, authority: bytes
) -> bytes:
    """Return the body that answers a question whose proofs were checked.

    certificate, authority: the node's and the authority's, DER.
    """
    return _answer(question, secret, server_key, certificate, authority, None)


def refuse(question: Question, secret: bytes, server_key: bytes, reason: Refusal) -> bytes:
    """Return the body that refuses a question whose proofs were checked."""
    return _answer(question, secret, server_key, None, None, reason)


def read_answer(
    body: bytes, code: InviteCode, key: NodeKey, server_key: bytes, nonce: bytes
) -> Admission:
    """Return what the inviter answered to the question that `ask` made of the same arguments.

    Raises ProtocolError: malformed; TrustError: not proven by the inviter, or refused, with a
    sentence for the person who typed the code.
    """
    answer = read_body(body, _Answer)
    asked = _asked(server_key, code.invitation_id, key.public_raw, nonce)
    answered = _answered(asked, answer.certificate, answer.authority, answer.refusal)
    if not hmac.compare_digest(answer.proof, hmac.digest(code.secret, answered, "sha256")):
        raise TrustError("the answer was not proven by the invitation's secret")
    if answer.refusal is not None:
        raise TrustError(_SENTENCES[answer.refusal])
    if answer.certificate is None or answer.authority is None:
        raise ProtocolError("the answer to an enrolment holds no certificate")
    return Admission(
        certificates.load_der(answer.certificate), certificates.load_der(answer.authority)
    )


def read_body(body: bytes, kind: type[B]) -> B:
    """Return body as a model. Raises ProtocolError: too large, no CBOR, or other fields."""
    if len(body) > MAX_BODY:
        raise ProtocolError(f"an enrolment body has {len(body)} bytes, more than {MAX_BODY}")
    value = cbor.decode(body, _MAX_DEPTH)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "body"
        raise ProtocolError(f"an enrolment body is malformed: {where}: {first['msg']}") from None


def _answer(
    question: Question,
    secret: bytes,
    server_key: bytes,
    certificate: bytes | None,
    authority: bytes | None,
    refusal: Refusal | None,
) -> bytes:
    asked = _asked(server_key, question.invitation, question.public_key, question.nonce)
    answered = _answered(asked, certificate, authority, refusal)
    answer = _Answer(
        certificate=certificate,
        authority=authority,
        refusal=refusal,
        proof=hmac.digest(secret, answered, "sha256"),
    )
    return cbor.encode(answer.model_dump())


def _asked(server_key: bytes, invitation: bytes, public_key: bytes, nonce: bytes) -> bytes:
    """What the question's proof and signature are over. CBOR keeps the parts apart."""
    return cbor.encode(["quicether enrol question 1", server_key, invitation, public_key, nonce])


def _answered(
    asked: bytes, certificate: bytes | None, authority: bytes | None, refusal: Refusal | None
) -> bytes:
    return cbor.encode(
        [
            "quicether enrol answer 1",
            hashlib.sha256(asked).digest(),
            certificate,
            authority,
            None if refusal is None else str(refusal),
        ]
    )

"""What the daemon and the registrar say to each other: one question, one answer. Pure.

Each is one CBOR map in one message of a SOCK_SEQPACKET socket, so there is nothing to frame. The
registrar believes nothing of a question: what it signs depends on the proofs in its body alone.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from quicether import cbor
from quicether.errors import IdentityError, ProtocolError, QuicEtherError, TrustError
from quicether.identity.enrolment import MAX_BODY
from quicether.identity.keys import PUBLIC_KEY_BYTES

MAX_MESSAGE: Final = MAX_BODY + 1024
"""Largest message in bytes."""
MAX_SENTENCE: Final = 500
_MAX_DEPTH: Final = 2

M = TypeVar("M", bound="_Message")


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Question(_Message):
    """What the daemon passes on.

    network: whose authority is meant. server_key: raw public key of this machine's node, as its
    TLS handshake showed it. body: the question of a machine (`identity.enrolment`, `renewal`).
    """

    network: Annotated[str, StringConstraints(max_length=32)]
    server_key: Annotated[bytes, Field(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    body: Annotated[bytes, Field(max_length=MAX_BODY)]


class Kind(enum.StrEnum):
    """Whose fault an error is."""

    TRUST = "trust"
    PROTOCOL = "protocol"
    IDENTITY = "identity"


_KINDS: Final[dict[Kind, type[QuicEtherError]]] = {
    Kind.TRUST: TrustError,
    Kind.PROTOCOL: ProtocolError,
    Kind.IDENTITY: IdentityError,
}


class Answer(_Message):
    """What the registrar answers: a body for the machine, or an error for the daemon."""

    body: Annotated[bytes, Field(max_length=MAX_BODY)] | None = None
    error: Kind | None = Field(default=None, strict=False)
    sentence: Annotated[str, StringConstraints(max_length=MAX_SENTENCE)] = ""

    @classmethod
    def of_error(cls, error: QuicEtherError) -> Answer:
        """Return the answer that tells the daemon of an error."""
        kind = next((k for k, t in _KINDS.items() if isinstance(error, t)), Kind.IDENTITY)
        return cls(error=kind, sentence=str(error)[:MAX_SENTENCE])

    def result(self) -> bytes:
        """Return the body. Raises the error that the registrar told."""
        if self.error is not None:
            raise _KINDS[self.error](self.sentence)
        if self.body is None:
            raise ProtocolError("the registrar's answer is empty")
        return self.body


def encode(message: _Message) -> bytes:
    """Return a message as bytes."""
    return cbor.encode(message.model_dump(exclude_defaults=True))


def decode(data: bytes, kind: type[M]) -> M:
    """Return the message in data. Raises ProtocolError: it is none of that kind."""
    value = cbor.decode(data, _MAX_DEPTH)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "message"
        raise ProtocolError(
            f"a malformed message at the registrar: {where}: {first['msg']}"
        ) from None

"""What the daemon and root's programs say to each other: one question, one answer. Pure.

Each is one CBOR map in one message of a SOCK_SEQPACKET socket, so there is nothing to frame. The
registrar believes nothing of a question: what it signs depends on the proofs in its body alone.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from quicether import cbor
from quicether.errors import (
    ConfigError,
    HostError,
    IdentityError,
    ProtocolError,
    QuicEtherError,
    TrustError,
    UnreachableError,
)
from quicether.identity.enrolment import MAX_BODY
from quicether.identity.invite_code import MAX_TEXT
from quicether.identity.keys import PUBLIC_KEY_BYTES

MAX_MESSAGE: Final = MAX_BODY + 1024
"""Largest message in bytes."""
MAX_SENTENCE: Final = 500
_MAX_DEPTH: Final = 2

M = TypeVar("M", bound="Message")


class Message(BaseModel):
    """A question or an answer."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Question(Message):
    """What the daemon passes on.

    network: whose authority is meant. server_key: raw public key of this machine's node, as its
    TLS handshake showed it. body: the question of a machine (`identity.enrolment`, `renewal`).
    """

    network: Annotated[str, StringConstraints(max_length=32)]
    server_key: Annotated[bytes, Field(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    body: Annotated[bytes, Field(max_length=MAX_BODY)]


class JoinQuestion(Message):
    """A code that the daemon was given by somebody who may change trust."""

    code: Annotated[str, StringConstraints(max_length=MAX_TEXT)] = Field(repr=False)


class Joined(Message):
    """What a machine got by joining, the body of an answer to `JoinQuestion`.

    valid_until: Unix time of the certificate's end. inviter: its name. peer: NODE@HOST:PORT.
    settings_current: whether the settings file is as joining writes it, and names that peer.
    next: the command that brings the tunnel up.
    """

    network: str
    name: str
    node_id: str
    addresses: list[str]
    prefixes: list[str]
    groups: list[str]
    valid_until: float | None = None
    inviter: str
    peer: str
    settings_file: str
    settings_current: bool
    next: str


class Kind(enum.StrEnum):
    """Whose fault an error is."""

    TRUST = "trust"
    PROTOCOL = "protocol"
    IDENTITY = "identity"
    CONFIG = "config"
    UNREACHABLE = "unreachable"
    HOST = "host"


_KINDS: Final[dict[Kind, type[QuicEtherError]]] = {
    Kind.TRUST: TrustError,
    Kind.PROTOCOL: ProtocolError,
    Kind.IDENTITY: IdentityError,
    Kind.CONFIG: ConfigError,
    Kind.UNREACHABLE: UnreachableError,
    Kind.HOST: HostError,
}


class Answer(Message):
    """What is answered: a body, or an error for the daemon."""

    body: Annotated[bytes, Field(max_length=MAX_BODY)] | None = None
    error: Kind | None = Field(default=None, strict=False)
    sentence: Annotated[str, StringConstraints(max_length=MAX_SENTENCE)] = ""

    @classmethod
    def of_error(cls, error: QuicEtherError) -> Answer:
        """Return the answer that tells the daemon of an error."""
        kind = next((k for k, t in _KINDS.items() if isinstance(error, t)), Kind.HOST)
        return cls(error=kind, sentence=str(error)[:MAX_SENTENCE])

    def result(self) -> bytes:
        """Return the body. Raises the error that was told."""
        if self.error is not None:
            raise _KINDS[self.error](self.sentence)
        if self.body is None:
            raise ProtocolError("the answer is empty")
        return self.body


def encode(message: Message) -> bytes:
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
            f"a malformed message between the service and root: {where}: {first['msg']}"
        ) from None

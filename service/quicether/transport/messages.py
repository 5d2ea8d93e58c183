"""Control messages between peers: versioned CBOR, bounded, unknown fields ignored.

On the control stream each message is a 16-bit length followed by one CBOR map (RFC 8949), whose
"kind" says which of the models below holds the rest. A kind or a field that this version does not
know is passed over, so that a newer peer can say more; a field that it does know has to be right.

A request stream carries no CBOR of ours: the first byte of its body is an `RpcKind`, and what
follows belongs to that service.
"""

from __future__ import annotations

import enum
import struct
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from quicether import cbor
from quicether.errors import ProtocolError
from quicether.model import UnderlayAddress
from quicether.wire import AsTuple, Capability, WireNodeId, WirePrefix

PROTOCOL_VERSION: Final = 1
"""Newest version of these messages that this program speaks."""
OLDEST_VERSION: Final = 1
"""Oldest version of these messages that this program still understands."""

MAX_RPC: Final = 65_536
"""Largest body of a request or of its answer, in bytes."""
MAX_PREFIXES: Final = 1024
"""Most prefixes in one list of a message."""
MAX_MESSAGE: Final = 40_960
"""Largest control message, in bytes, its length prefix not counted.

Two full lists of IPv6 prefixes, of 18 bytes each, and all else that a Hello can say.
"""
MAX_DEPTH: Final = 4
"""Deepest nesting of CBOR containers in a message."""

_LENGTH: Final = struct.Struct("!H")


class RpcKind(enum.IntEnum):
    """The service that a request is for: the first byte of its body."""

    DHT = 1
    AUTHORITY = 2
    REVOCATION = 3


_Prefixes = Annotated[tuple[WirePrefix, ...], AsTuple, Field(max_length=MAX_PREFIXES)]
_Capabilities = Annotated[tuple[Capability, ...], AsTuple, Field(max_length=32)]
_Token = Annotated[bytes, Field(min_length=1, max_length=16)]


class Message(BaseModel):
    """One control message. Immutable; its fields are checked when it is made or decoded."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
    kind: ClassVar[str]


class Hello(Message):
    """Who speaks, and what it can do: the first message of both sides.

    version, oldest: the newest and the oldest protocol version that the sender understands.
    node_id: the sender; has to be the one that its certificate proves.
    name: what the sender calls itself, for people; the certificate's name is what counts.
    capabilities: optional features, lower case with dashes.
    mtu: largest IP packet that the sender's device takes, in bytes.
    prefixes: what the sender owns and serves now; forwards: what it reaches as a gateway.
    listen_port: UDP port at which the sender can be connected to.
    instance: random bytes of this run of the sender, so that a restart is told from a second
    connection.
    """

    kind: ClassVar[str] = "hello"

    node_id: WireNodeId
    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    version: Annotated[int, Field(ge=1, le=65_535)] = PROTOCOL_VERSION
    oldest: Annotated[int, Field(ge=1, le=65_535)] = OLDEST_VERSION
    capabilities: _Capabilities = ()
    mtu: Annotated[int, Field(ge=576, le=65_535)] = 1280
    prefixes: _Prefixes = ()
    forwards: _Prefixes = ()
    listen_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    instance: Annotated[bytes, Field(max_length=16)] = b""

    @property
    def speaks_our_version(self) -> bool:
        """Whether there is a protocol version that both sides understand."""
        return self.oldest <= PROTOCOL_VERSION and self.version >= OLDEST_VERSION


class Announce(Message):
    """The prefixes that the sender serves from now on, in place of what it said before."""

    kind: ClassVar[str] = "announce"

    prefixes: _Prefixes = ()
    forwards: _Prefixes = ()


class Ping(Message):
    """Asks for a Pong with the same token."""

    kind: ClassVar[str] = "ping"

    token: _Token


class Pong(Message):
    """Answers a Ping."""

    kind: ClassVar[str] = "pong"

    token: _Token


class Observed(Message):
    """Where the sender sees the receiver: IP address and UDP port, as its packets arrive."""

    kind: ClassVar[str] = "observed"

    host: Annotated[bytes, Field(min_length=4, max_length=16)]
    port: Annotated[int, Field(ge=1, le=65_535)]

    @classmethod
    def of(cls, remote: UnderlayAddress) -> Self:
        """Return the message for a receiver at remote."""
        return cls(host=remote.ip.packed, port=remote.port)

    @property
    def address(self) -> UnderlayAddress | None:
        """The address; None where it has neither 4 nor 16 bytes."""
        if len(self.host) not in (4, 16):
            return None
        return UnderlayAddress.of_socket((str(ip_address(self.host)), self.port))


class Bye(Message):
    """The sender is about to leave on purpose; reason is for people."""

    kind: ClassVar[str] = "bye"

    reason: Annotated[str, StringConstraints(max_length=256)] = ""


MESSAGES: Final[dict[str, type[Message]]] = {
    model.kind: model for model in (Hello, Announce, Ping, Pong, Observed, Bye)
}


def encode(message: Message) -> bytes:
    """Return a message as it stands on the control stream, length prefix included.

    Raises ProtocolError: it is larger than `MAX_MESSAGE` bytes.
    """
    body = cbor.encode({"kind": message.kind, **message.model_dump(exclude_defaults=True)})
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(f"a {message.kind} message of {len(body)} bytes; at most {MAX_MESSAGE}")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message | None:
    """Return the message in one CBOR map, or None when its kind is not known to this version.

    Raises ProtocolError: not CBOR, not a map, nested too deep, or a field that is wrong.
    """
    content = _decode_map(body)
    kind = content.get("kind")
    if not isinstance(kind, str):
        raise ProtocolError(f"a control message with kind {kind!r:.60}; it must be a text")
    model = MESSAGES.get(kind)
    if model is None:
        return None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise ProtocolError(f"a {kind} message whose {where} is wrong: {first['msg']}") from None


def _decode_map(body: bytes) -> dict[str, Any]:
    content = cbor.decode(body, MAX_DEPTH)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ProtocolError("a control message that is not a map with text keys")
    return content


class MessageReader:
    """Cuts the bytes of a control stream into messages. Holds at most one message in part.

    unknown: how many messages of an unknown kind were passed over.
    """

    __slots__ = ("_buffer", "unknown")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.unknown = 0

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes of the stream and return the messages that are now complete.

        Raises ProtocolError: what arrived is no message; nothing can be read after that.
        """
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_MESSAGE:
                raise ProtocolError(f"a control message of {length} bytes; at most {MAX_MESSAGE}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            message = decode(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
            if message is None:
                self.unknown += 1
            else:
                messages.append(message)
        del self._buffer[:start]
        return messages

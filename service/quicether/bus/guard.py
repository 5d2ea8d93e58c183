"""Reads messages off the bus so that no client can hurt the service.

The bus daemon has checked that every message is well formed; this is about what well-formed
messages cost.

dbus-next parses whatever arrives. Measured against 0.2.3: a message of an unknown type ends the
connection, every new signature stays in a cache for ever, and a dictionary of 36 MB keeps the
event loop busy for four seconds. So the header is read first, and a body only where it is small
and of a signature that the API knows. This is the one place that uses dbus-next's private parts;
pyproject.toml pins its minor version.
"""

from __future__ import annotations

import struct
from collections.abc import Set
from typing import Any, Final, Protocol

from dbus_next._private.constants import LITTLE_ENDIAN, HeaderField
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

MAX_BODY: Final = 32 * 1024
"""Largest body of a call that is parsed, in bytes; takes about 8 ms."""
BUS_DRIVER: Final = "org.freedesktop.DBus"

_FIXED: Final = 16
_KNOWN_FLAGS: Final = sum(MessageFlag)
_HEADER_TREE: Final = SignatureTree("a(yv)")


class Call(Message):
    """A method call. refusal: why its body was not read, a sentence; None when it was."""

    refusal: str | None = None


class Reader(Protocol):
    """A buffered, non-blocking stream."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most size bytes, None when there are none yet, b"" at the end."""


class Discarded:
    """Stands for a message that nobody asked for and that was skipped."""


class GuardedUnmarshaller(Unmarshaller):
    """Reads one message. accepts: signatures of calls whose bodies are parsed."""

    def __init__(self, stream: Reader, accepts: Set[str]) -> None:
        super().__init__(stream)
        self._accepts = accepts

    def _unmarshall(self) -> None:
        self.offset = 0
        self.read(_FIXED, prefetch=True)
        self.endian = self.buf[0]
        order = "<" if self.endian == LITTLE_ENDIAN else ">"
        kind, flags = self.buf[1], self.buf[2]
        body_bytes, serial, header_bytes = struct.unpack_from(f"{order}III", self.buf, 4)
        header_end = _FIXED + header_bytes + self._padding(header_bytes, 8)
        self.read(header_end + body_bytes, prefetch=True)
        if kind not in {known.value for known in MessageType}:
            self.message = Discarded()
            return
        self.offset = _FIXED - 4
        fields = self._header_fields()
        self.offset = header_end
        self.message = self._message(MessageType(kind), flags, serial, fields, body_bytes)

    def _header_fields(self) -> dict[str, Any]:
        known = {field.value: field.name for field in HeaderField}
        return {
            known[code]: variant.value
            for code, variant in self.read_argument(_HEADER_TREE.types[0])
            if code in known
        }

    def _message(
        self,
        kind: MessageType,
        flags: int,
        serial: int,
        fields: dict[str, Any],
        body_bytes: int,
    ) -> Message | Discarded:
        signature: str = fields.get("SIGNATURE", "")
        refusal = None
        if kind is MessageType.METHOD_CALL:
            if body_bytes > MAX_BODY:
                refusal = f"the arguments have {body_bytes} bytes; at most {MAX_BODY} are taken"
            elif signature not in self._accepts:
                refusal = f"no method takes arguments of signature {signature!r}"
        elif kind is MessageType.SIGNAL and fields.get("SENDER") != BUS_DRIVER:
            return Discarded()
        tree = SignatureTree("" if refusal else signature)
        body = [self.read_argument(part) for part in tree.types] if body_bytes else []
        content: dict[str, Any] = {
            argument: fields.get(argument.upper())
            for argument in (
                "destination",
                "path",
                "interface",
                "member",
                "error_name",
                "reply_serial",
                "sender",
            )
        }
        content |= {
            "message_type": kind,
            "flags": MessageFlag(flags & _KNOWN_FLAGS),
            "signature": tree,
            "body": body,
            "serial": serial,
        }
        message = (Call if kind is MessageType.METHOD_CALL else Message)(**content)
        if isinstance(message, Call):
            message.refusal = refusal
        return message

    def read_variant(self, _: object = None) -> Variant:
        """Return a variant whose signature is not kept in dbus-next's endless cache."""
        tree = SignatureTree(self.read_signature())
        return Variant(tree, self.read_argument(tree.types[0]))
